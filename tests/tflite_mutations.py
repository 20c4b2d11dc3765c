"""Single defects in the bytes of a `.tflite` file, made through the generated schema."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

Edit = Callable[[Any], None]


def mutated(data: bytes, edit: Edit) -> bytes:
    """Return the file after `edit` changed its object form (schema.ModelT)."""
    model = schema.ModelT.InitFromPackedBuf(data)
    edit(model)
    builder = flatbuffers.Builder(len(data))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def tensor(model: Any, name: str) -> Any:
    return next(t for t in model.subgraphs[0].tensors if t.name == name.encode())


def operator(model: Any, output: str) -> Any:
    graph = model.subgraphs[0]
    return next(op for op in graph.operators if graph.tensors[op.outputs[0]].name == output.encode())


def flip_byte(name: str, position: int, mask: int = 1) -> Edit:
    """Change one weight code, or one byte of a bias."""

    def edit(model: Any) -> None:
        buffer = model.buffers[tensor(model, name).buffer]
        contents = np.array(buffer.data, np.uint8)
        contents[position] ^= mask
        buffer.data = contents

    return edit


def next_scale(name: str, channel: int = 0) -> Edit:
    """Move one scale to the next float32."""

    def edit(model: Any) -> None:
        grid = tensor(model, name).quantization
        scale = np.array(grid.scale, np.float32)
        scale[channel] = np.nextafter(scale[channel], np.float32(np.inf))
        grid.scale = scale

    return edit


def shift_zero_point(name: str) -> Edit:
    def edit(model: Any) -> None:
        grid = tensor(model, name).quantization
        grid.zeroPoint = np.array(grid.zeroPoint, np.int64) + 1

    return edit


def set_axis(name: str, axis: int) -> Edit:
    def edit(model: Any) -> None:
        tensor(model, name).quantization.quantizedDimension = axis

    return edit


def set_option(output: str, option: str, value: Any) -> Edit:
    def edit(model: Any) -> None:
        setattr(operator(model, output).builtinOptions, option, value)

    return edit
