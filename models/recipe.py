"""Training recipes: TOML read into frozen records, with every unknown or missing key refused."""

import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from kwsq.ir.errors import Problem, UsageError
from kwsq.models.augmentation import Augmentation
from kwsq.models.schemes import WeightScheme, weight_scheme


@dataclass(frozen=True, slots=True)
class Phase:
    """One stretch of training with Adam, cosine decay to zero and decoupled weight decay."""

    epochs: int
    learning_rate: float
    weight_decay: float


@dataclass(frozen=True, slots=True)
class Variant:
    """One quantized model made from the float model: stage 1 weights, stage 2 activations too."""

    name: str
    scheme: WeightScheme
    activation_percentile: float
    stage1: Phase
    stage2: Phase


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides a training run except data folder, output folder and seed."""

    architecture: str
    dataset: str
    train_split: str
    report_split: str
    batch_size: int
    calibration_clips: int
    float_phase: Phase
    augmentation: Augmentation
    variants: tuple[Variant, ...]
    features: str = "lfbe"


def read_recipe(path: Path) -> Recipe:
    """Read a recipe file.

    Raises:
        UsageError: no such file, not TOML, or keys missing or unknown.
    """
    if not path.is_file():
        raise UsageError(Problem(str(path), "no such file", "a recipe", "name a recipe.toml"))
    try:
        return _recipe(tomllib.loads(path.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, TypeError, KeyError) as error:
        remedy = "compare with models/kws_ff/recipe.toml"
        raise UsageError(Problem(str(path), str(error), "the keys of a recipe", remedy)) from error


def _recipe(table: dict[str, Any]) -> Recipe:
    variants = tuple(_variant(dict(entry)) for entry in table.pop("variant"))
    float_phase = Phase(**table.pop("float"))
    augmentation = _augmentation(table.pop("augmentation"))
    return Recipe(float_phase=float_phase, augmentation=augmentation, variants=variants, **table)


def _augmentation(table: dict[str, Any]) -> Augmentation:
    missing = {field.name for field in fields(Augmentation)} - table.keys()
    if missing:
        raise KeyError(f"augmentation.{min(missing)}")
    return Augmentation(**table)


def _variant(entry: dict[str, Any]) -> Variant:
    scheme = weight_scheme(entry.pop("weights"), entry.pop("bits"))
    stage1, stage2 = Phase(**entry.pop("stage1")), Phase(**entry.pop("stage2"))
    return Variant(scheme=scheme, stage1=stage1, stage2=stage2, **entry)
