"""Training recipes: TOML read into frozen records, with every unknown or missing key refused."""

import math
import re
import tomllib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from kwsq.ir.errors import Problem, UsageError
from kwsq.models.allowed import number, refused_fields, require_none, whole, within
from kwsq.models.data.augmentation import Augmentation
from kwsq.models.schemes import ActivationRanges, FixedPoint, NormClips, WeightScheme, choice, weight_scheme


@dataclass(frozen=True, slots=True)
class Phase:
    """One stretch of training with Adam, cosine decay to zero and decoupled weight decay."""

    epochs: int
    learning_rate: float
    weight_decay: float

    def __post_init__(self) -> None:
        """Refuse values without meaning; an infinite rate is one that diverges."""
        limits = {"epochs": whole(0), "learning_rate": number(0, math.inf), "weight_decay": number(0)}
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
        require_none(refused_fields(self, {"weight": number(0, 1), "temperature": number(0, above=True)}))


@dataclass(frozen=True, slots=True)
class Start:
    """The published float model that a recipe starts from; its file is no part of the project.

    Args:
        model: what the file is called where it was published.
        sha256: of the file, 64 hexadecimal digits.
    """

    model: str
    sha256: str


NO_DISTILLATION = Distillation(weight=0.0, temperature=1.0)
FLOAT = "float"
"""Name of the model that every variant starts from; its file lies beside theirs."""
_FILE_STEM = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")


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
        """Refuse a percentile that leaves no range, and widths of single layers where one format holds them all."""
        problems = refused_fields(self, {"activation_percentile": number(50, 100, above=True)})
        if self.layers and isinstance(self.scheme, FixedPoint):
            found = ", ".join(name for name, _ in self.layers)
            problems.append(Problem("layer_bits", found, "none with fxp, which is one format", "leave it out"))
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
        numbers = refused_fields(self, {"batch_size": whole(1), "calibration_clips": whole(1)})
        require_none([*numbers, *self._wrong_augmentation(), *self._wrong_keywords(), *self._wrong_names()])

    def _wrong_augmentation(self) -> Iterator[Problem]:
        if self.features == "mfcc" and self.augmentation.changes_energy:
            found = f"max_gain_db {self.augmentation.max_gain_db:g}, noise_share {self.augmentation.noise_share:g}"
            expected = "0 for both with mfcc, because they act on log energies"
            yield Problem("augmentation", found, expected, "set both to 0, or take lfbe where the architecture does")

    def _wrong_keywords(self) -> Iterator[Problem]:
        named = [word for word in self.keywords if isinstance(word, str) and word and not word.startswith("_")]
        if not isinstance(self.keywords, tuple) or len(set(named)) != len(self.keywords):
            expected = 'a list of different words, such as ["yes"]'
            yield Problem("keywords", repr(self.keywords), expected, "correct the recipe")

    def _wrong_names(self) -> Iterator[Problem]:
        names = [variant.name for variant in self.variants]
        remedy = "rename the variant"
        for name in dict.fromkeys(names):
            if not (isinstance(name, str) and _FILE_STEM.fullmatch(name)):
                expected = "part of a file name: letters, digits, '_', '-' and '.', which is not the first"
                yield Problem("variant.name", repr(name), expected, remedy)
            if name == FLOAT:
                yield Problem("variant.name", repr(name), "another name than the float model's", remedy)
            if names.count(name) > 1:
                yield Problem("variant.name", f"{name!r} {names.count(name)} times", "different names", remedy)

    @property
    def name(self) -> str:
        """What its files are called: the architecture and the keywords."""
        return "_".join((self.architecture, *self.keywords))


def read_recipe(path: Path) -> Recipe:
    """Read a recipe file.

    Raises:
        UsageError: no such file, not TOML, or keys missing or unknown.
    """
    if not path.is_file():
        raise UsageError(Problem(str(path), "no such file", "a recipe", "name a recipe.toml"))
    try:
        with within("recipe: "):
            return _recipe(tomllib.loads(path.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, TypeError, KeyError) as error:
        remedy = "compare with models/kws_ff/recipe.toml"
        raise UsageError(Problem(str(path), str(error), "the keys of a recipe", remedy)) from error


def _recipe(table: dict[str, Any]) -> Recipe:
    variants = tuple(_variant(dict(entry)) for entry in table.pop("variant"))
    with within("float."):
        float_phase = Phase(**table.pop("float"))
    with within("augmentation."):
        augmentation = _augmentation(table.pop("augmentation"))
    with within("distillation."):
        distillation = Distillation(**table.pop("distillation", asdict(NO_DISTILLATION)))
    start = Start(**table.pop("start")) if "start" in table else None
    keywords = table.pop("keywords", ())
    return Recipe(
        float_phase=float_phase,
        augmentation=augmentation,
        distillation=distillation,
        variants=variants,
        start=start,
        keywords=tuple(keywords) if isinstance(keywords, list) else keywords,
        **table,
    )


def _augmentation(table: dict[str, Any]) -> Augmentation:
    missing = {field.name for field in fields(Augmentation)} - table.keys()
    if missing:
        raise KeyError(f"augmentation.{min(missing)}")
    return Augmentation(**table)


def _variant(entry: dict[str, Any]) -> Variant:
    weights, options = entry.pop("weights"), entry.pop("options", {})
    with within(f"variant {entry.get('name', '')}."):
        scheme = weight_scheme(weights, entry.pop("bits"), **options)
        layers = []
        for name, bits in entry.pop("layer_bits", {}).items():
            with within(f"layer_bits.{name}."):
                layers.append((name, weight_scheme(weights, bits, **options)))
        return Variant(scheme=scheme, layers=tuple(layers), **pop_schedule(entry), **entry)


def pop_schedule(entry: dict[str, Any]) -> dict[str, Any]:
    """Take out of a table, and return parsed, what recipes and protocols say alike of how a model is trained.

    Args:
        entry: table of one model; stages are needed, all else is taken where it stands.
    """
    schedule: dict[str, Any] = {}
    for key in ("stage1", "stage2"):
        with within(f"{key}."):
            schedule[key] = Phase(**entry.pop(key))
    for key, kind in (("activation_ranges", ActivationRanges), ("norm_clips", NormClips)):
        if key in entry:
            schedule[key] = choice(kind, key, entry.pop(key))
    if "distillation" in entry:
        with within("distillation."):
            schedule["distillation"] = Distillation(**entry.pop("distillation"))
    return schedule
