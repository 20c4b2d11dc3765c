"""What decides a stage, by name, so that a state of another run can say in what it differs."""

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from kwsq.models.recipe import Recipe


def run_facts(plan: Recipe, seed: int, clips: str, stage: str) -> dict[str, str]:
    """Return what decides a stage, as text by the names that recipes have for it.

    Args:
        plan: recipe, its variants only those that decide.
        seed: of the run.
        clips: digest of the training clips.
        stage: its name.
    """
    facts = {"stage": stage, "seed": str(seed), "training clips": clips}
    for field in fields(plan):
        value = getattr(plan, field.name)
        if field.name == "variants":
            named = [(f"variant {variant.name}", variant) for variant in value]
        else:
            named = [("float" if field.name == "float_phase" else field.name, value)]
        for name, part in named:
            facts |= _flat(name, part)
    return facts


def _flat(name: str, value: Any) -> Iterator[tuple[str, str]]:
    yield name, type(value).__name__ if is_dataclass(value) else str(value)
    if is_dataclass(value):
        for field in fields(value):
            yield from _flat(f"{name}.{field.name}", getattr(value, field.name))


def differences(found: Mapping[str, str], expected: Mapping[str, str]) -> tuple[str, str]:
    """Return what differs, as found and as expected; both are empty where nothing does.

    Of a part that only one of them has, the part alone is named.
    """
    other_names = [name for name in {**expected, **found} if found.get(name) != expected.get(name)]
    names = [
        name
        for name in other_names
        if (name in found and name in expected) or name.rpartition(".")[0] not in other_names
    ]
    one, other = (", ".join(f"{name} {facts.get(name, 'unstated')}" for name in names) for facts in (found, expected))
    return one, other
