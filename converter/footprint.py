"""What a model costs: flash by purpose, activation memory, multiply-accumulates, beside the float model.

packed weights = rows * ceil(K * bits / 8), rows = output channels, K = weights per row     (M4)
effective bits per weight = 8 * stored weight bytes / weights                               (M5)
traffic per inference = constants read + activations read + activations written             (M6)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Protocol

import numpy as np
import numpy.typing as npt

from kwsq.converter.runtimes.tflm import Arena
from kwsq.targets.planner import ALIGNMENT_BYTES, MemoryPlan

FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True)
class Flash:
    """Bytes of a model file by purpose; the fields of a whole file add up to its size.

    Args:
        weights_bytes: weight codes.
        codebooks_bytes: levels of codebooks stored apart from the codes.
        biases_bytes: biases.
        requant_tables_bytes: scales, zero points and ranges.
        other_constants_bytes: shapes, axes, paddings and buffers nobody uses.
        names_bytes: names of tensors, graphs and signatures.
        metadata_bytes: metadata entries and the description.
        graph_tables_bytes: the tables that describe tensors and operators.
        padding_bytes: alignment and bytes nothing refers to.
    """

    weights_bytes: int = 0
    codebooks_bytes: int = 0
    biases_bytes: int = 0
    requant_tables_bytes: int = 0
    other_constants_bytes: int = 0
    names_bytes: int = 0
    metadata_bytes: int = 0
    graph_tables_bytes: int = 0
    padding_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        """Sum of all purposes."""
        return sum(getattr(self, field.name) for field in fields(self))

    @classmethod
    def sum(cls, parts: Iterable[Flash]) -> Flash:
        """Returns the purpose-wise sum."""
        items = tuple(parts)
        return cls(*(sum(getattr(part, field.name) for part in items) for field in fields(cls)))

    def to_json(self) -> dict[str, int]:
        """Returns the fields and their total."""
        return {**asdict(self), "total_bytes": self.total_bytes}


def distinct_codes(codes: npt.NDArray[np.generic]) -> int:
    """Returns how many different integer codes occur.

    >>> distinct_codes(np.array([[-1, 3], [3, -1]], np.int8))
    2
    """
    if codes.dtype.itemsize == 1:
        # np.unique would do, but its first call imports numpy.ma, which takes as long as emitting a file.
        return int(np.count_nonzero(np.bincount(codes.reshape(-1).view(np.uint8), minlength=256)))
    return int(np.unique(codes).size)


@dataclass(frozen=True, slots=True)
class WeightTensor:
    """The weights of one layer.

    Args:
        name: tensor name.
        shape: shape as stored.
        rows: output channels.
        container_bits: bits per weight as stored.
        declared_bits: width the model was trained for; None when the file does not say.
        needed_bits: smallest two's complement width that holds the codes; None for float weights.
        distinct: number of different codes; None for float weights.
        scales: number of scales.
        codebook: whether the codes are levels of a codebook.
    """

    name: str
    shape: tuple[int, ...]
    rows: int
    container_bits: int
    declared_bits: int | None
    needed_bits: int | None
    distinct: int | None
    scales: int
    codebook: bool = False

    @property
    def size(self) -> int:
        """Number of weights."""
        size = 1
        for dimension in self.shape:
            size *= dimension
        return size

    @property
    def bits(self) -> int:
        """Declared width, else the width the codes need, else the container's."""
        known = (self.declared_bits, self.needed_bits, self.container_bits)
        return next(bits for bits in known if bits is not None)

    @property
    def fits_int4(self) -> bool:
        """Whether the int4 container can hold the codes: a uniform grid within [-8, 7]."""
        return self.needed_bits is not None and self.needed_bits <= 4 and not self.codebook

    @property
    def packed_bytes(self) -> int:
        """Bytes at the width of `bits`, equation (M4)."""
        return self.rows * -(-(self.size // self.rows) * self.bits // 8) if self.rows else 0

    def to_json(self) -> dict[str, object]:
        """Returns the fields and what follows from them."""
        derived = {"elements": self.size, "packed_bytes": self.packed_bytes, "fits_int4": self.fits_int4}
        return {**asdict(self), "shape": list(self.shape), **derived}


@dataclass(frozen=True, slots=True)
class LayerFootprint:
    """One operator.

    Args:
        name: name of its first output.
        operator: operator type.
        macs: multiply-accumulates per inference.
        parameters: weights and biases.
        weights: its weight tensors.
        flash: bytes of the file that belong to it alone or to it first.
        output_bytes: bytes of its outputs.
        live_bytes: activation bytes alive while it runs.
        input_bytes: bytes of the activations it reads.
    """

    name: str
    operator: str
    macs: int
    parameters: int
    weights: tuple[WeightTensor, ...]
    flash: Flash
    output_bytes: int
    live_bytes: int
    input_bytes: int = 0

    def to_json(self) -> dict[str, object]:
        """Returns the fields."""
        return {
            "name": self.name,
            "operator": self.operator,
            "macs": self.macs,
            "parameters": self.parameters,
            "weights": [weight.to_json() for weight in self.weights],
            "flash": self.flash.to_json(),
            "input_bytes": self.input_bytes,
            "output_bytes": self.output_bytes,
            "live_activation_bytes": self.live_bytes,
        }


@dataclass(frozen=True, slots=True)
class FloatModel:
    """What the same network costs in float32."""

    parameter_bytes: int
    activation_bytes: int


class Row(Protocol):
    """A row of a table that goes into the report."""

    def to_json(self) -> dict[str, object]:
        """Returns the row's fields."""
        ...


@dataclass(frozen=True, slots=True)
class MemoryReport:
    """The footprint of one model.

    Args:
        format: "tflite", "onnx" or "kwsq".
        file_bytes: size of the file.
        layers: operators in order.
        outside_layers: bytes of the file that belong to no operator.
        plan: arena of the activations; None when the shapes are not known.
        state_bytes: tensors that keep their contents between invocations.
        float_model: the same network in float32.
        notes: what could not be measured or told.
        hop_ms: time between two inferences in use.
        recorded: arena of TensorFlow Lite Micro's own interpreter, where it ran the file.
        projection: the same network at other weight widths, for a pack; each has `to_json`.
    """

    format: str
    file_bytes: int
    layers: tuple[LayerFootprint, ...]
    outside_layers: Flash
    plan: MemoryPlan | None
    state_bytes: int
    float_model: FloatModel
    notes: tuple[str, ...] = ()
    recorded: Arena | None = None
    hop_ms: float | None = None
    projection: tuple[Row, ...] = ()

    @property
    def flash(self) -> Flash:
        """Bytes of the whole file by purpose."""
        return Flash.sum([*(layer.flash for layer in self.layers), self.outside_layers])

    @property
    def macs(self) -> int:
        """Multiply-accumulates per inference."""
        return sum(layer.macs for layer in self.layers)

    @property
    def parameters(self) -> int:
        """Weights and biases."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def weights(self) -> tuple[WeightTensor, ...]:
        """Weight tensors of all layers."""
        return tuple(weight for layer in self.layers for weight in layer.weights)

    def weight_bits(self) -> dict[str, float | None]:
        """Returns mean bits per weight: declared (or needed by the codes) and as stored, equation (M5)."""
        count = sum(weight.size for weight in self.weights)
        if not count:
            return {"declared_bits_per_weight": None, "stored_bits_per_weight": None}
        declared = sum(weight.size * weight.bits for weight in self.weights) / count
        stored = 8 * sum(-(-weight.size * weight.container_bits // 8) for weight in self.weights) / count
        return {"declared_bits_per_weight": round(declared, 4), "stored_bits_per_weight": round(stored, 4)}

    def containers(self) -> dict[str, int]:
        """Returns the weight bytes in each container, whatever this file uses."""
        int4 = (-(-w.size // 2) if w.fits_int4 else -(-w.size * max(8, w.bits) // 8) for w in self.weights)
        return {
            "int8_weight_bytes": sum(-(-w.size * max(8, w.bits) // 8) for w in self.weights),
            "int4_weight_bytes": sum(int4),
            "packed_weight_bytes": sum(w.packed_bytes for w in self.weights),
            "float32_weight_bytes": sum(w.size * FLOAT_BYTES for w in self.weights),
        }

    def totals(self) -> dict[str, int | None]:
        """Returns the six columns in which embedded tools compare models; None is "not measured"."""
        flash, ram = self.flash, self.plan.high_water_bytes + self.state_bytes if self.plan else None
        runtime = None if self.recorded is None else self.recorded.tail_bytes
        return {
            "activation_ram_bytes": ram,
            "runtime_ram_bytes": runtime,
            "weights_flash_bytes": flash.weights_bytes + flash.codebooks_bytes + flash.biases_bytes,
            "code_flash_bytes": None,
            "total_ram_bytes": None if ram is None else ram + (runtime or 0),
            "total_flash_bytes": self.file_bytes,
        }

    def traffic(self) -> dict[str, float | None] | None:
        """Returns the bytes one inference moves, equation (M6), and per second where the hop is known.

        Every operator reads its constants and activations once and writes its outputs once: the least that a core
        without a cache moves. Kernels that read an operand several times move more. None where shapes or the bytes of
        the constants in use are not known.
        """
        if self.plan is None or self.format == "onnx":
            return None
        flash = self.flash
        weights = flash.weights_bytes + flash.codebooks_bytes + flash.biases_bytes
        read = sum(layer.input_bytes for layer in self.layers)
        written = sum(layer.output_bytes for layer in self.layers)
        total = weights + read + written
        rate = None if self.hop_ms is None else 1000 / self.hop_ms
        return {
            "constants_read_bytes": weights,
            "activations_read_bytes": read,
            "activations_written_bytes": written,
            "total_bytes": total,
            "hop_ms": self.hop_ms,
            "bytes_per_second": None if rate is None else total * rate,
            "macs_per_second": None if rate is None else self.macs * rate,
        }

    def to_json(self) -> dict[str, object]:
        """Returns the report as JSON-ready data."""
        return {
            "format": self.format,
            "file_bytes": self.file_bytes,
            "totals": self.totals(),
            "flash": self.flash.to_json(),
            "macs": self.macs,
            "parameters": self.parameters,
            **self.weight_bits(),
            "containers": self.containers(),
            "float_model": asdict(self.float_model),
            "activations": None if self.plan is None else self._activations(self.plan),
            "recorded_arena": None if self.recorded is None else self.recorded.to_json(),
            "traffic": self.traffic(),
            "layers": [layer.to_json() for layer in self.layers],
            "outside_layers": self.outside_layers.to_json(),
            "notes": list(self.notes),
            **({"projection": [row.to_json() for row in self.projection]} if self.projection else {}),
        }

    def _activations(self, plan: MemoryPlan) -> dict[str, object]:
        return {
            "high_water_bytes": plan.high_water_bytes,
            "lower_bound_bytes": plan.lower_bound_bytes,
            "alignment_bytes": ALIGNMENT_BYTES,
            "state_bytes": self.state_bytes,
            "live_bytes_per_step": list(plan.live_bytes),
            "placements": [
                {
                    "name": placement.lifetime.name,
                    "offset_bytes": placement.offset_bytes,
                    "size_bytes": placement.lifetime.size_bytes,
                    "first_step": placement.lifetime.first,
                    "last_step": placement.lifetime.last,
                }
                for placement in plan.placements
            ],
        }
