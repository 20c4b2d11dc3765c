"""docs/training.md states every key of recipes and every option of weight schemes, with the values they may have."""

import re
from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields
from functools import partial
from itertools import takewhile
from typing import Any, get_args

import pytest
from checkout import ROOT

from kwsq.ir.errors import UsageError
from kwsq.models.architectures import ARCHITECTURES
from kwsq.models.data.augmentation import Augmentation
from kwsq.models.data.clips import FRONT_ENDS
from kwsq.models.recipe import (
    OTHER_RECIPE_KEYS,
    OTHER_VARIANT_KEYS,
    RECIPE_KEYS,
    VARIANT_KEYS,
    Distillation,
    Phase,
    Recipe,
    Start,
    Variant,
)
from kwsq.models.schemes import ActivationRanges, NormClips, QuantizedScheme, TwoStage, weight_scheme

PAGE = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
PHASE = Phase(1, 1e-3, 0.0)
GOOD: dict[type[Any], dict[str, Any]] = {
    Phase: {"epochs": 1, "learning_rate": 1e-3, "weight_decay": 0.0},
    Augmentation: {},
    Distillation: {"weight": 0.5, "temperature": 2.0},
    Start: {"model": "m", "sha256": "0"},
    Variant: {"name": "w4", "scheme": TwoStage(4), "activation_percentile": 100.0, "stage1": PHASE, "stage2": PHASE},
    Recipe: {
        "architecture": "kws_ff", "dataset": "d", "train_split": "t", "report_split": "r", "batch_size": 1,
        "calibration_clips": 1, "float_phase": PHASE, "augmentation": Augmentation(), "variants": (),
    },
}  # fmt: skip


def table(page: str, *heads: str) -> list[dict[str, str]]:
    """The rows of the table with these heads that stands after a place of the page."""
    lines = page[page.index(f"| {' | '.join(heads)} |") :].splitlines()
    rows = takewhile(lambda line: line.startswith("|"), lines[2:])
    cells = ([cell.strip() for cell in row.strip("|").split("|")] for row in rows)
    return [dict(zip(heads, each, strict=True)) for each in cells]


def keys_after(page: str, place: str) -> dict[str, str]:
    """Key to values of the table that follows a place."""
    rows = table(page[page.index(f"\n{place}") :], "key", "values", "meaning")
    return {row["key"].strip("`"): row["values"] for row in rows}


PLACES: list[tuple[str, type[Any], Sequence[str]]] = [
    ("The file itself:", Recipe, (*RECIPE_KEYS, *OTHER_RECIPE_KEYS)),
    ("`[float]`, and", Phase, [field.name for field in fields(Phase)]),
    ("`[augmentation]`,", Augmentation, [field.name for field in fields(Augmentation)]),
    ("`[distillation]`,", Distillation, [field.name for field in fields(Distillation)]),
    ("`[start]`,", Start, [field.name for field in fields(Start)]),
    ("`[[variant]]`:", Variant, (*VARIANT_KEYS, *OTHER_VARIANT_KEYS)),
]


def wrong_keys(page: str) -> list[str]:
    """Keys of recipes that are missing, are none, or have other values than the page says."""
    wrong = []
    for place, kind, keys in PLACES:
        stated = keys_after(page, place)
        wrong += sorted(stated.keys() ^ set(keys))
        for key in {field.name for field in fields(kind)} & stated.keys() & set(keys):
            allowed = allowed_values(key, partial(kind, **{k: v for k, v in GOOD[kind].items() if k != key}))
            wrong += [key] if allowed not in (stated[key], None) else []
    return wrong


def allowed_values(name: str, make: Callable[..., Any]) -> str | None:
    """What the refusal of a list, which nothing may be, says is allowed; None of tables, which the reader checks."""
    try:
        make(**{name: [None]})
    except UsageError as error:
        (found,) = (problem.expected for problem in error.problems if problem.where.split(".")[-1] == name)
        return found.removeprefix("a ")
    except AttributeError:
        return None
    return None


def test_every_key_of_recipes_stands_there_with_its_values() -> None:
    assert wrong_keys(PAGE) == []


def test_choices_and_architectures_are_those_there_are() -> None:
    variant, recipe = keys_after(PAGE, "`[[variant]]`:"), keys_after(PAGE, "The file itself:")
    assert variant["activation_ranges"] == f"one of {', '.join(ActivationRanges)}"
    assert variant["norm_clips"] == f"one of {', '.join(NormClips)}"
    assert recipe["features"] == f"one of {', '.join(FRONT_ENDS)}"
    assert all(f"`{name}`" in PAGE for name in ARCHITECTURES)
    defaults = {field.name: field.default for kind in (Variant, Recipe) for field in fields(kind)}
    for key in ("activation_ranges", "norm_clips", "features"):
        (line,) = (line for line in PAGE.splitlines() if line.startswith(f"| `{key}` |"))
        assert f"`{defaults[key]}` where it is not stated" in line


def schemes(page: str) -> dict[str, tuple[range, dict[str, str]]]:
    """Name to widths, and options with their defaults."""
    found = {}
    for row in table(page, "scheme", "bits", "options (default)", "what it is"):
        low, high = map(int, row["bits"].split(".."))
        options = dict(re.findall(r"`(\w+)` \(([^)]*)\)", row["options (default)"]))
        found[row["scheme"].strip("`")] = range(low, high + 1), options
    return found


def wrong_schemes(page: str) -> list[str]:
    """Schemes that are missing, or have other widths or options than the page says."""
    wrong, kinds = [], []
    for name, (widths, options) in schemes(page).items():
        kind = type(weight_scheme(name, widths.start))
        defaults = {field.name: str(field.default).lower() for field in fields(kind) if field.default is not MISSING}
        taken = [bits for bits in range(10) if allowed_bits(name, bits)]
        wrong += [name] if (list(widths), options) != (taken, defaults) else []
        kinds.append(kind)
    return [*wrong, *(kind.__name__ for kind in get_args(QuantizedScheme) if kind not in kinds)]


def allowed_bits(name: str, bits: int) -> bool:
    try:
        weight_scheme(name, bits)
    except UsageError:
        return False
    return True


def wrong_options(page: str) -> list[str]:
    """Options that are missing, are none, or have other values than the page says."""
    rows = {row["option"].strip("`"): row["values"] for row in table(page, "option", "values", "meaning")}
    owner = {option: (name, widths[-1]) for name, (widths, options) in schemes(page).items() for option in options}
    both = rows.keys() & owner.keys()
    other = [
        option for option in both if allowed_values(option, partial(weight_scheme, *owner[option])) != rows[option]
    ]
    return [*sorted(rows.keys() ^ owner.keys()), *sorted(other)]


def test_every_scheme_and_option_stands_there_with_its_values() -> None:
    assert wrong_schemes(PAGE) == []
    assert wrong_options(PAGE) == []


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("| `masks` | whole", "| `mask` | whole", (["mask", "masks"], [], [])),
        ("| `weight_decay` | number from 0 to 100 |", "| `weight_decay` | number from 0 |", (["weight_decay"], [], [])),
        ("| `norm_clips` | one", "| `norm_clip` | one", (["norm_clip", "norm_clips"], [], [])),
        ("| `dorefa` | 1..7 |", "| `dorefa` | 1..6 |", ([], ["dorefa"], [])),
        ("`group` (32)", "`group` (16)", ([], ["fxp"], [])),
        ("| `lloyd_max` | 1..7 | | a codebook, straight-through gradients |\n", "", ([], ["LloydMax"], [])),
        ("| `group` | whole number from 1", "| `group` | whole number from 0", ([], [], ["group"])),
        ("`snap_steps` (100)", "", ([], ["s8bqat"], ["snap_steps"])),
    ],
)
def test_a_page_that_says_otherwise_is_noticed(old: str, new: str, found: tuple[list[str], ...]) -> None:
    assert PAGE.count(old) == 1
    page = PAGE.replace(old, new)
    assert (wrong_keys(page), wrong_schemes(page), wrong_options(page)) == found
