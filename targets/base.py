"""What a target is: it reshapes an integer graph until its runtime can express it, then writes the files.

Adding a target: one folder, one class with the members of `Target`, one row in `TARGETS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import ClassVar, Protocol

from kwsq.ir.errors import Problem, UsageError
from kwsq.ir.lowered import LoweredGraph, LoweredNode

Constraint = Callable[[LoweredGraph, LoweredNode], str | None]
"""A rule a node must keep. Its docstring states the rule, for the error message and the list of supported
operators; the call returns what was found instead, or None where the rule holds."""


@dataclass(frozen=True, slots=True)
class TargetOptions:
    """What the user may choose about an artefact.

    Args:
        container: how weight codes are stored, one of the target's names, e.g. "int8".
        runtime: interpreter the artefact must run in: "litert" or "tflm".
        row_align_bits: where rows of packed weights begin; 0 leaves it to the target.
        accelerator: configuration a compiled target is for, e.g. "ethos-u55-128".
        strip_names: leave out the names of inner tensors.
        offline_memory_plan: write where activations lie in the arena.
        c_sources: write the network as C99 sources too.
        name: what the functions of C sources begin with; "" for the graph's name.
        version: version of kwsq, written into the artefact.
        source_sha256: hash of the source model, written into the artefact.
        remarks: further facts for the artefact's metadata, JSON-ready, e.g. {"dropped": ["Softmax"]}.
    """

    container: str = "int8"
    runtime: str = "litert"
    row_align_bits: int = 0
    accelerator: str = ""
    strip_names: bool = False
    offline_memory_plan: bool = False
    c_sources: bool = False
    name: str = ""
    version: str = ""
    source_sha256: str = ""
    remarks: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Artefact:
    """What a target wrote.

    Args:
        target: name of the target.
        files: file name -> contents, the artefact first, then what goes beside it.
        header: facts about the files for the report, JSON-ready.
        beside: name of each further file -> what it is.
        proven: name of the file that can be run and is proven; "" for the artefact itself.
    """

    target: str
    files: Mapping[str, bytes]
    header: Mapping[str, object]
    beside: Mapping[str, str] = field(default_factory=dict)
    proven: str = ""

    @property
    def name(self) -> str:
        """Name of the artefact's file."""
        return next(iter(self.files))

    @property
    def proven_name(self) -> str:
        """Name of the file that parity is about."""
        return self.proven or self.name

    @property
    def proven_bytes(self) -> bytes:
        """The file that parity is about."""
        return self.files[self.proven_name]


class Target(Protocol):
    """A way out of kwsq."""

    name: ClassVar[str]

    def legalize(self, graph: LoweredGraph, options: TargetOptions) -> LoweredGraph:
        """Returns an equal graph made of what the target can express.

        Raises:
            UnsupportedModelError: naming every node that has no such form.
        """
        ...

    def emit(self, graph: LoweredGraph, options: TargetOptions) -> Artefact:
        """Returns the files of a legalised graph."""
        ...


TARGETS: Mapping[str, str] = {
    "neon": "kwsq.targets.neon.target:NeonTarget",
    "accel": "kwsq.targets.accel.target:AccelTarget",
    "ethos-u": "kwsq.targets.neon.ethos_u:EthosUTarget",
}
"""Target name -> "module:Class"; resolved on demand so that a target's imports cost only its users."""


def load_target(name: str) -> Target:
    """Returns the target called `name`.

    Raises:
        UsageError: there is none.
    """
    if name not in TARGETS:
        raise UsageError(
            Problem("--target", repr(name), f"one of {', '.join(TARGETS)}", "choose a target from the list")
        )
    module, attribute = TARGETS[name].split(":")
    target: Target = getattr(import_module(module), attribute)()
    return target
