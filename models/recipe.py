"""Training recipes: TOML read into frozen records, with every unknown or missing key refused."""

import math
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kwsq.ir.errors import Problem, UsageError
from kwsq.models.allowed import (
    KEYWORD,
    SHA256,
    TEXT,
    checked_table,
    is_file_part,
    long_names,
    named,
    noted,
    number,
    record_of,
    refused,
    refused_fields,
    require_none,
    shown,
    whole,
    within,
)
from kwsq.models.data.augmentation import Augmentation
from kwsq.models.data.clips import FRONT_ENDS, class_names
from kwsq.models.data.text_files import read_text
from kwsq.models.schemes import (
    ActivationRanges,
    FixedPoint,
    NormClips,
    WeightScheme,
    choice,
    parameter_bits,
    weight_scheme,
)


@dataclass(frozen=True, slots=True)
class Phase:
    """One stretch of training with Adam, cosine decay to zero and decoupled weight decay."""

    epochs: int
    learning_rate: float
    weight_decay: float

    def __post_init__(self) -> None:
        """Refuse values without meaning; an infinite rate is one that diverges."""
        limits = {"epochs": whole(0, 10**6), "learning_rate": number(0, math.inf), "weight_decay": number(0, 100)}
        require_none(refused_fields(self, limits))


@dataclass(frozen=True, slots=True)
class Distillation:
    """How much the float model's logits are followed, and how far they are softened; weight 0 is not at all.

    Source: equation (1) of `kwsq.models.training.fitting`.
    """

    weight: float
    temperature: float

    def __post_init__(self) -> None:
        """Refuse values without meaning."""
        require_none(refused_fields(self, {"weight": number(0, 1), "temperature": number(0.01, 100)}))


@dataclass(frozen=True, slots=True)
class Start:
    """The published float model that a recipe starts from; its file is no part of the project.

    Args:
        model: what the file is called where it was published.
        sha256: of the file, 64 hexadecimal digits.
    """

    model: str
    sha256: str

    def __post_init__(self) -> None:
        """Refuse what is no text, or no hash."""
        require_none(refused_fields(self, {"model": TEXT, "sha256": SHA256}))


NO_DISTILLATION = Distillation(weight=0.0, temperature=1.0)
FLOAT = "float"
"""Name of the model that every variant starts from; its file lies beside theirs."""
_FILE_STEM = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")
_PLAIN = {
    "architecture": TEXT,
    "dataset": TEXT,
    "train_split": TEXT,
    "report_split": TEXT,
    "batch_size": whole(1, 10**6),
    "calibration_clips": whole(1),
    "features": named(*FRONT_ENDS),
}
# What a file states: of some tables that is what the record holds, and every field must be there.
_TABLES = {"float": ("float_phase", Phase), "augmentation": ("augmentation", Augmentation)}
_OTHER_TABLES = {"distillation": ("distillation", Distillation), "start": ("start", Start)}
RECIPE_KEYS = (*(key for key in _PLAIN if key != "features"), *_TABLES, "variant")
OTHER_RECIPE_KEYS = ("features", "keywords", *_OTHER_TABLES)
STAGES = ("stage1", "stage2")
VARIANT_KEYS = ("name", "weights", "bits", "activation_percentile", *STAGES)
OTHER_VARIANT_KEYS = ("options", "layer_bits", "activation_ranges", "distillation", "norm_clips")


@dataclass(frozen=True, slots=True)
class Variant:
    """One quantized model made from the float model: stage 1 weights, stage 2 activations too.

    Args:
        name: of the exported file.
        scheme: representation of every weight that `layers` does not name.
        activation_percentile: share in percent of the calibration values kept at each end; below 100, ranges stay so.
        stage1: weights quantized.
        stage2: activations too.
        layers: name of a layer -> its own scheme, such as one of another width.
        activation_ranges: how the scales of activations come about.
        distillation: of its own; None for the recipe's.
        norm_clips: whose statistics batch norms take at the end; a file is for quiet and noisy rooms, hence both.
    """

    name: str
    scheme: WeightScheme
    activation_percentile: float
    stage1: Phase
    stage2: Phase
    layers: tuple[tuple[str, WeightScheme], ...] = ()
    activation_ranges: ActivationRanges = ActivationRanges.MOVING
    distillation: Distillation | None = None
    norm_clips: NormClips = NormClips.MIXED

    def __post_init__(self) -> None:
        """Refuse a percentile that leaves no range, and what has no effect where one format holds every layer."""
        problems = refused_fields(self, {"activation_percentile": number(50, 100, above=True)})
        if self.layers and isinstance(self.scheme, FixedPoint):
            found = ", ".join(name for name, _ in self.layers)
            problems.append(Problem("layer_bits", found, "none with fxp, which is one format", "leave it out"))
        elif not problems and isinstance(self.scheme, FixedPoint) and self.activation_percentile < 100:
            found, expected = f"{self.activation_percentile:g}", "100 with fxp, whose activations have one grid"
            problems.append(Problem("activation_percentile", found, expected, "state 100"))
        require_none(problems)


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides a training run except data folder, output folder and seed.

    `keywords` are the words to detect against everything else; without any, the task is the twelve classes.
    """

    architecture: str
    dataset: str
    train_split: str
    report_split: str
    batch_size: int
    calibration_clips: int
    float_phase: Phase
    augmentation: Augmentation
    variants: tuple[Variant, ...]
    distillation: Distillation = NO_DISTILLATION
    features: str = "lfbe"
    start: Start | None = None
    keywords: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse values without meaning, alone or together, and names that cannot be those of files."""
        wrong = [*refused_fields(self, _PLAIN), *self._wrong_augmentation()]
        names = [*_wrong_keywords(self.keywords), *self._wrong_names()]
        require_none([*wrong, *names] or [*self._long_names()])

    def _wrong_augmentation(self) -> Iterator[Problem]:
        if self.features == "mfcc" and self.augmentation.changes_energy:
            found = f"max_gain_db {self.augmentation.max_gain_db:g}, noise_share {self.augmentation.noise_share:g}"
            expected = "0 for both with mfcc, because they act on log energies"
            yield Problem("augmentation", found, expected, "set both to 0, or take lfbe where the architecture does")

    def _wrong_names(self) -> Iterator[Problem]:
        names = [variant.name for variant in self.variants]
        remedy = "rename the variant"
        for name in {repr(name): name for name in names}.values():
            if not (isinstance(name, str) and _FILE_STEM.fullmatch(name)):
                expected = "part of a file name: letters, digits, '_', '-' and '.', which is not the first"
                yield Problem("variant.name", shown(name), expected, remedy)
            if name == FLOAT:
                yield Problem("variant.name", repr(name), "another name than the float model's", remedy)
            if names.count(name) > 1:
                yield Problem("variant.name", f"{name!r} {names.count(name)} times", "different names", remedy)

    def _long_names(self) -> Iterator[Problem]:
        """Names of score files, the longest that are made: `kwsq.models.scoring.score_shards`."""
        word = max(class_names(self.keywords), key=lambda name: len(name.encode()))
        shortest = long_names("keywords", [f"{self.name}_{FLOAT}.onnx.{word}.csv"], "name fewer or shorter words")
        files = [f"{self.name}_{variant.name}.onnx.{word}.csv" for variant in self.variants]
        yield from shortest or long_names("variant.name", files, "shorten the name")

    @property
    def name(self) -> str:
        """What its files are called: the architecture and the keywords."""
        return "_".join((self.architecture, *self.keywords))


def _wrong_keywords(keywords: Any) -> Iterator[Problem]:
    """Give what is wrong with the words of a task; they become parts of the names of its files."""
    remedy = "correct the recipe"
    if not isinstance(keywords, tuple):
        yield Problem("keywords", shown(keywords), 'a list of different words, such as ["yes"]', remedy)
        return
    for word in keywords:
        if not KEYWORD.allows(word):
            yield Problem("keywords", shown(word), KEYWORD.expected, remedy)
    words = [word for word in keywords if isinstance(word, str)]
    for word in dict.fromkeys(words):
        if words.count(word) > 1:
            yield Problem("keywords", f"{shown(word)} {words.count(word)} times", "different words", remedy)


# ---- the file ----


def read_recipe(path: Path) -> Recipe:
    """Read a recipe file.

    Raises:
        UsageError: no such file, not TOML, keys missing or unknown, or values that are not allowed; all of it at once.
    """
    if not path.is_file():
        raise UsageError(Problem(str(path), "no such file", "a recipe", "name a recipe.toml"))
    table = _parsed(path)
    try:
        with within("recipe: "):
            return _recipe(table)
    except UsageError as error:
        raise UsageError(error.problems, summary=f"{error.headline} in {path}") from error


def _parsed(path: Path) -> dict[str, Any]:
    """Return what a TOML file states.

    Raises:
        UsageError: it cannot be read, is no TOML, or holds numbers that TOML does not have.
    """
    text, expected, remedy = read_text(path), "TOML", "compare with models/kws_ff/recipe.toml"
    try:
        table = tomllib.loads(text)
        large = list(_large_numbers("", table))
    except RecursionError as error:
        raise UsageError(Problem(str(path), "tables or lists nested too deeply", expected, remedy)) from error
    except ValueError as error:  # also of numbers of thousands of digits
        raise UsageError(Problem(str(path), str(error), expected, remedy)) from error
    require_none([Problem(f"{path}: {where}", "more than 64 bits", "a 64-bit number", "correct it") for where in large])
    return table


def _large_numbers(where: str, value: Any) -> Iterator[str]:
    """Give the places of whole numbers that do not fit 64 bits."""
    if isinstance(value, dict | list):
        entries = value.items() if isinstance(value, dict) else enumerate(value, start=1)
        for key, entry in entries:
            yield from _large_numbers(f"{where}.{key}" if where else str(key), entry)
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        yield where


def _recipe(file: dict[str, Any]) -> Recipe:
    problems: list[Problem] = []
    with noted(problems):
        checked_table("", file, RECIPE_KEYS, OTHER_RECIPE_KEYS)
    plain = {key: file[key] for key in _PLAIN if key in file}
    problems += refused(plain, _PLAIN)
    records: dict[str, Any] = {}
    for key, (field, kind) in (_TABLES | _OTHER_TABLES).items():
        with noted(problems):
            if key in file:
                records[field] = record_of(kind, key, file[key])
    keywords = file.get("keywords", [])
    keywords = tuple(keywords) if isinstance(keywords, list) else keywords
    problems += _wrong_keywords(keywords)
    with noted(problems):
        variants = _variants(file.get("variant", []))
    require_none(problems)
    return Recipe(variants=variants, keywords=keywords, **records, **plain)


def _variants(entries: Any) -> tuple[Variant, ...]:
    if not isinstance(entries, list):
        raise UsageError(Problem("variant", shown(entries), "tables [[variant]], in two brackets", "add the brackets"))
    problems: list[Problem] = []
    variants = []
    for position, entry in enumerate(entries, start=1):
        name = entry.get("name") if isinstance(entry, dict) else None
        with noted(problems):
            variants.append(_variant(f"variant {name if is_file_part(name) else f'number {position}'}", entry))
    require_none(problems)
    return tuple(variants)


def _variant(where: str, entry: Any) -> Variant:
    table = checked_table(where, entry, VARIANT_KEYS, OTHER_VARIANT_KEYS)
    problems: list[Problem] = []
    with noted(problems, f"{where}."):
        weights, bits, options = (table.pop(key, {}) for key in ("weights", "bits", "options"))
        scheme = _scheme(weights, bits, options)
        layers = []
        for name, width in _layer_bits(table.pop("layer_bits", {})):
            with noted(problems, f"{where}.layer_bits.{name}."):
                layers.append((name, _scheme(weights, width, options)))
        require_none(_without_effect(scheme, table))
    with noted(problems, f"{where}."):
        schedule = pop_schedule(table)
    require_none(problems)
    with within(f"{where}."):
        return Variant(scheme=scheme, layers=tuple(layers), **schedule, **table)


def _without_effect(scheme: WeightScheme, table: Mapping[str, Any]) -> list[Problem]:
    """Return a problem for every key that a scheme leaves nothing to decide: another would ship than asked for."""
    expected: dict[str, str] = {}
    if isinstance(scheme, FixedPoint):
        without = "none with fxp, which has one grid and no batch norms"
        expected = {"activation_ranges": without, "norm_clips": without}
    elif parameter_bits(scheme):
        expected = {"norm_clips": "none with parameter_bits, which quantize batch norms before the end"}
    return [Problem(key, shown(table[key]), expected[key], "take it out") for key in expected if key in table]


def _scheme(weights: Any, bits: Any, options: Any) -> WeightScheme:
    if not isinstance(weights, str):
        raise UsageError(Problem("weights", shown(weights), "the name of a scheme, as text", "correct it"))
    if not isinstance(options, dict):
        expected = "a table, such as { cosine = 1e-4 }"
        raise UsageError(Problem("options", shown(options), expected, "correct it"))
    arguments = ("name", "bits")  # of the function: no scheme has options of these names
    require_none(
        [
            Problem(f"options.{key}", "an unknown key", f"options of {weights}", "take it out")
            for key in arguments
            if key in options
        ]
    )
    return weight_scheme(weights, bits, **options)


def _layer_bits(table: Any) -> list[tuple[str, Any]]:
    if not isinstance(table, dict):
        expected = "a table of widths by layer, such as { classifier = 8 }"
        raise UsageError(Problem("layer_bits", shown(table), expected, "correct it"))
    return list(table.items())


def pop_schedule(entry: dict[str, Any]) -> dict[str, Any]:
    """Take out of a table, and return parsed, what recipes and protocols say alike of how a model is trained.

    Args:
        entry: table of one model; stages are needed, all else is taken where it stands.

    Raises:
        UsageError: values are not allowed, or keys of these tables missing or unknown; all of it at once.
    """
    schedule: dict[str, Any] = {}
    problems: list[Problem] = []
    for key in STAGES:
        with noted(problems):
            schedule[key] = record_of(Phase, key, entry.pop(key))
    for key, kind in (("activation_ranges", ActivationRanges), ("norm_clips", NormClips)):
        with noted(problems):
            if key in entry:
                schedule[key] = choice(kind, key, entry.pop(key))
    with noted(problems):
        if "distillation" in entry:
            schedule["distillation"] = record_of(Distillation, "distillation", entry.pop("distillation"))
    require_none(problems)
    return schedule
