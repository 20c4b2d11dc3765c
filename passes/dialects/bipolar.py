"""Weights of two values: +scale and -scale, stored as a one-bit codebook of levels -1 and +1."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from kwsq.ir.quant import Codebook, FloatArray, Granularity
from kwsq.passes.dialects.canonical import DialectContext

LEVELS = np.array([-1, 1], np.int8)


def bipolar_weight(
    context: DialectContext, node: gs.Node, x: gs.Tensor, scale: FloatArray, granularity: Granularity, dialect: str
) -> None:
    """Replaces a quantizer y = scale * (x >= 0 ? +1 : -1) of a constant; zero becomes +1, unlike ONNX Sign.

    Raises:
        Refused: x is an activation.
    """
    latent = context.value(x)
    if latent is None:
        found = "a bipolar (1-bit) activation"
        remedy = "quantize activations to 8 bits; only weights may be 1-bit"
        raise context.refuse(node, found, "activations of 2 bits or more", remedy)
    codes = np.where(latent >= 0, np.int8(1), np.int8(-1))
    spec = Codebook(LEVELS, scale, bits=1, granularity=granularity)
    context.codes(node, node.outputs[0], codes, spec, dialect)
