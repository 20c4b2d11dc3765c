"""The protocol of the table: which rows there are, and what identifies each.

A row is one model: a method at one width, trained with one seed on all folds but one and scored on that one. Its
digest covers everything that decides the model, so that a row of another setting is never taken for this one.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from itertools import chain
from typing import Any

from kwsq.models.recipe import Distillation, Phase, Recipe, Variant
from kwsq.models.schemes import (
    ActivationRanges,
    FloatWeights,
    NormClips,
    WeightScheme,
    all_parameters_are_quantized,
    weight_scheme,
)

FLOAT, CONTROL = "float", "control"
FLOAT_BITS = 32


@dataclass(frozen=True, slots=True)
class Method:
    """One line of the table: how weights are trained, at which widths.

    Args:
        name: identifies the method in rows.
        weights: weight scheme; "float" for the float model and its control.
        bits: widths that run with every seed, one table cell each.
        stage1: weights quantized.
        stage2: activations too.
        distillation: of stages 1 and 2, from the float model.
        activation_percentile: share in percent of the calibration values kept at each end; below 100, ranges stay so.
        options: of the weight scheme, such as the weight of a penalty.
        activation_ranges: how the scales of activations come about.
        one_seed_bits: further widths, which run with the first seed only.
        two_seed_bits: and with the first two.
        own_seeds: of widths that run with other seeds than the protocol's, (width, seeds).
        norm_clips: whose statistics batch norms take at the end; rows are scored on clean clips, hence those.
    """

    name: str
    weights: str
    bits: tuple[int, ...]
    stage1: Phase
    stage2: Phase
    distillation: Distillation
    activation_percentile: float = 100.0
    options: tuple[tuple[str, float], ...] = ()
    activation_ranges: ActivationRanges = ActivationRanges.MOVING
    one_seed_bits: tuple[int, ...] = ()
    norm_clips: NormClips = NormClips.CLEAN
    two_seed_bits: tuple[int, ...] = ()
    own_seeds: tuple[tuple[int, tuple[int, ...]], ...] = ()

    @property
    def widths(self) -> tuple[int, ...]:
        """All widths in the order of rows."""
        return self.bits + self.two_seed_bits + self.one_seed_bits

    @property
    def quantizes_everything(self) -> bool:
        """Whether biases, gains and batch norms are trained on few bits too."""
        return self.weights != "float" and all_parameters_are_quantized(self.scheme(self.widths[0]))

    @property
    def training(self) -> "Method":
        """What methods have in common that differ in the statistics their batch norms take at the end, and no more."""
        plain = replace(self, name="", bits=(), one_seed_bits=(), two_seed_bits=(), own_seeds=())
        return replace(plain, norm_clips=NormClips.AS_TRAINED)

    def scheme(self, bits: int) -> WeightScheme:
        """Return the representation of the weights at a width."""
        return FloatWeights() if self.weights == "float" else weight_scheme(self.weights, bits, **dict(self.options))

    def variant(self, bits: int) -> Variant:
        """Return what is trained at a width.

        Args:
            bits: width.

        Raises:
            UsageError: one the scheme does not have.
        """
        return Variant(
            self.name,
            self.scheme(bits),
            self.activation_percentile,
            self.stage1,
            self.stage2,
            activation_ranges=self.activation_ranges,
            norm_clips=self.norm_clips,
        )


@dataclass(frozen=True, slots=True)
class Goal:
    """What is asked of one cell of the table; percent of clips, as everywhere on the page.

    Args:
        method: name.
        bits: width.
        most_loss: against its control, mean over seeds, in points.
        most_upper: 95 % upper bound of that loss, in points.
        least_accuracy: mean over seeds.
        seen_seeds: whose rows were seen before its method was named, where these are not the protocol's.
    """

    method: str
    bits: int
    most_loss: float | None = None
    most_upper: float | None = None
    least_accuracy: float | None = None
    seen_seeds: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Paper:
    """A paper, and the methods of the table in its manner.

    Args:
        title: as the page names it.
        methods: names.
    """

    title: str
    methods: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Protocol:
    """Everything that decides the table except the data.

    Args:
        recipe: architecture, float phase, batch and augmentation of every row.
        folds: number of speaker-disjoint folds.
        fold_seed: decides them.
        seeds: of every width; those in a method's `one_seed_bits` and `two_seed_bits` run with the first ones only,
            those in its `own_seeds` with others.
        baselines: plain methods that every other method is compared with at the same width.
        control: method -> the float row with the same epochs, data and teacher.
        methods: the float model first, then in the order of the file.
        goals: what is asked of the table; they decide no row.
        seen_seeds: seeds of which rows were seen before the methods of the goals were fixed.
        changes: what was changed after which rows, as the page tells it.
        papers: whose methods a table of their own holds against the plain ones.
    """

    recipe: Recipe
    folds: int
    fold_seed: int
    seeds: tuple[int, ...]
    baselines: tuple[str, ...]
    control: dict[str, str]
    methods: tuple[Method, ...]
    goals: tuple[Goal, ...] = ()
    seen_seeds: tuple[int, ...] = ()
    changes: str = ""
    papers: tuple[Paper, ...] = ()

    def method(self, name: str) -> Method:
        """Return a method by name."""
        return next(method for method in self.methods if method.name == name)

    def seen_of(self, goal: Goal) -> tuple[int, ...]:
        """Return the seeds whose rows were seen before the method of a goal was named."""
        return self.seen_seeds if goal.seen_seeds is None else goal.seen_seeds

    def control_of(self, name: str) -> str:
        """Return the float control with the method's epochs, data and teacher."""
        return self.control[name]

    def clean_control_of(self, name: str) -> Method | None:
        """Return the float row trained like a method's control whose batch norms take the statistics of clean clips."""
        own = self.method(self.control_of(name))
        alike = (other for other in self.methods if other.name != FLOAT and other.training == own.training)
        return next((other for other in alike if other.norm_clips is NormClips.CLEAN), None)

    @property
    def all_seeds(self) -> tuple[int, ...]:
        """The protocol's seeds and those that widths of its methods have of their own, ascending."""
        own = (seeds for method in self.methods for _, seeds in method.own_seeds)
        return tuple(sorted({*self.seeds, *chain.from_iterable(own)}))

    def seeds_of(self, method: Method, bits: int) -> tuple[int, ...]:
        """Return the seeds a method is trained with at one of its widths; the float model has those of all."""
        if method.name == FLOAT:
            return self.all_seeds
        if bits in dict(method.own_seeds):
            return dict(method.own_seeds)[bits]
        if bits in method.bits:
            return self.seeds
        return self.seeds[: 1 if bits in method.one_seed_bits else 2]

    def rows(self) -> Iterator["Row"]:
        """Yield every row, seed by seed: all methods at their first width, each over all folds, then at the next."""
        for seed in self.all_seeds:
            for rank in range(max(len(method.widths) for method in self.methods)):
                for method in self.methods:
                    yield from self._folds(method, seed, rank)

    def _folds(self, method: Method, seed: int, rank: int) -> Iterator["Row"]:
        for bits in method.widths[rank : rank + 1]:
            for fold in range(self.folds if seed in self.seeds_of(method, bits) else 0):
                yield Row(method.name, bits, seed, fold, self._digest(method, bits, seed, fold))

    def float_row(self, row: "Row") -> "Row":
        """Return the row of the float model that a row starts from."""
        digest = self._digest(self.method(FLOAT), FLOAT_BITS, row.seed, row.fold)
        return Row(FLOAT, FLOAT_BITS, row.seed, row.fold, digest)

    def training_key(self, row: "Row") -> str:
        """Return what a row has in common with those of the same `Method.training`."""
        return self._digest(self.method(row.method).training, row.bits, row.seed, row.fold)

    def takes_over(self, method: Method) -> bool:
        """Return whether a control's training is that of one before it."""
        before = [other for other in self.methods[: self.methods.index(method)] if other.name != FLOAT]
        return method.weights == "float" and method.training in [other.training for other in before]

    def plan(self, method: Method) -> Recipe:
        """Return the recipe with the method's distillation."""
        return replace(self.recipe, distillation=method.distillation)

    def _digest(self, method: Method, bits: int, seed: int, fold: int) -> str:
        # A field at its default is left out, so that one added later leaves the digests of finished rows alone.
        default = {field.name: field.default for field in fields(Recipe)}
        stated = {key for key in default if getattr(self.recipe, key) != default[key]} - _NOT_DECIDING
        base = {key: value for key, value in asdict(self.recipe).items() if key in stated}
        own = None if method.name == FLOAT else _deciding(method) | {"scheme": repr(method.scheme(bits))}
        facts = [base, self.folds, self.fold_seed, own, seed, fold]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]


def _deciding(method: Method) -> dict[str, Any]:
    """Everything of a method that decides its rows; the scheme's own defaults enter by its repr."""
    return {
        key: value
        for key, value in asdict(method).items()
        if key not in _NOT_DECIDING_OF_METHODS and (key, value) not in _LATER_DEFAULTS
    }


# Left out of digests where they are at their default, see `Protocol._digest`.
_LATER_DEFAULTS = (("activation_ranges", ActivationRanges.MOVING), ("norm_clips", NormClips.CLEAN))


_NOT_DECIDING_OF_METHODS = {"bits", "one_seed_bits", "two_seed_bits", "own_seeds"}
_NOT_DECIDING = {"variants", "train_split", "report_split", "distillation"}


@dataclass(frozen=True, slots=True)
class Row:
    """What identifies one row of the table."""

    method: str
    bits: int
    seed: int
    fold: int
    digest: str

    @property
    def name(self) -> str:
        """Text that may stand in a file name."""
        return f"{self.method}-w{self.bits}-s{self.seed}-f{self.fold}-{self.digest}"
