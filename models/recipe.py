"""Training recipes: TOML read into frozen records, with every unknown or missing key refused."""

import re
import tomllib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from kwsq.ir.errors import Problem, UsageError
from kwsq.models.data.augmentation import Augmentation
from kwsq.models.schemes import ActivationRanges, NormClips, WeightScheme, choice, weight_scheme


@dataclass(frozen=True, slots=True)
class Phase:
    """One stretch of training with Adam, cosine decay to zero and decoupled weight decay."""

    epochs: int
    learning_rate: float
    weight_decay: float


@dataclass(frozen=True, slots=True)
class Distillation:
    """How much the float model's logits are followed, and how far they are softened; weight 0 is not at all.

    Source: equation (1) of `kwsq.models.training.fitting`.
    """

    weight: float
    temperature: float

    def __post_init__(self) -> None:
        """Refuse values without meaning."""
        if not (0.0 <= self.weight <= 1.0 and self.temperature > 0.0):
            expected = "weight from 0 to 1, temperature above 0"
            raise UsageError(Problem("recipe: distillation", str(self), expected, "correct the recipe"))


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
        """Refuse keywords that are no words or stand there twice, and names that cannot be those of files."""
        problems = [*self._wrong_keywords(), *self._wrong_names()]
        if problems:
            raise UsageError(problems)

    def _wrong_keywords(self) -> Iterator[Problem]:
        named = [word for word in self.keywords if isinstance(word, str) and word and not word.startswith("_")]
        if not isinstance(self.keywords, tuple) or len(set(named)) != len(self.keywords):
            expected = 'a list of different words, such as ["yes"]'
            yield Problem("recipe: keywords", repr(self.keywords), expected, "correct the recipe")

    def _wrong_names(self) -> Iterator[Problem]:
        names = [variant.name for variant in self.variants]
        remedy = "rename the variant"
        for name in dict.fromkeys(names):
            if not (isinstance(name, str) and _FILE_STEM.fullmatch(name)):
                expected = "part of a file name: letters, digits, '_', '-' and '.', which is not the first"
                yield Problem("recipe: variant.name", repr(name), expected, remedy)
            if name == FLOAT:
                yield Problem("recipe: variant.name", repr(name), "another name than the float model's", remedy)
            if names.count(name) > 1:
                yield Problem("recipe: variant.name", f"{name!r} {names.count(name)} times", "different names", remedy)

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
        return _recipe(tomllib.loads(path.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, TypeError, KeyError) as error:
        remedy = "compare with models/kws_ff/recipe.toml"
        raise UsageError(Problem(str(path), str(error), "the keys of a recipe", remedy)) from error


def _recipe(table: dict[str, Any]) -> Recipe:
    variants = tuple(_variant(dict(entry)) for entry in table.pop("variant"))
    float_phase = Phase(**table.pop("float"))
    augmentation = _augmentation(table.pop("augmentation"))
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
    scheme = weight_scheme(weights, entry.pop("bits"), **options)
    layers = tuple(
        (name, weight_scheme(weights, bits, **options)) for name, bits in entry.pop("layer_bits", {}).items()
    )
    return Variant(scheme=scheme, layers=layers, **pop_schedule(entry, "recipe: variant"), **entry)


def pop_schedule(entry: dict[str, Any], where: str) -> dict[str, Any]:
    """Take out of a table, and return parsed, what recipes and protocols say alike of how a model is trained.

    Args:
        entry: table of one model; stages are needed, all else is taken where it stands.
        where: the table, as an error names it.
    """
    schedule: dict[str, Any] = {stage: Phase(**entry.pop(stage)) for stage in ("stage1", "stage2")}
    for key, kind in (("activation_ranges", ActivationRanges), ("norm_clips", NormClips)):
        if key in entry:
            schedule[key] = choice(kind, f"{where}.{key}", entry.pop(key))
    if "distillation" in entry:
        schedule["distillation"] = Distillation(**entry.pop("distillation"))
    return schedule
