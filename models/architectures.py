"""The architectures that recipes name, each a folder of its own with a `build`."""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

from kwsq.ir.errors import Problem, UsageError
from kwsq.models.data.clips import LABELS
from kwsq.models.schemes import WeightScheme

Build = Callable[[WeightScheme], Any]

ARCHITECTURES = {name: f"kwsq.models.{name}.model" for name in ("kws_ff", "kws_cnn", "ds_cnn")}


def architecture(name: str, classes: int = len(LABELS)) -> Build:
    """Return the builder of a named architecture with so many outputs.

    Raises:
        UsageError: no such architecture.
    """
    if name not in ARCHITECTURES:
        expected = f"one of {', '.join(ARCHITECTURES)}"
        raise UsageError(Problem("recipe: architecture", repr(name), expected, "correct the recipe"))
    return partial(import_module(ARCHITECTURES[name]).build, classes=classes)
