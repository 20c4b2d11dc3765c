"""Integer arithmetic of quantized inference, bit-exact with LiteRT's reference kernels.

Pure array functions on NumPy alone. Each operator comes in two steps, so that code generators can use the
first without the second: ``derive_<op>(scales, zero points) -> <Op>Params`` and ``<op>(arrays, params)``.
Equations are numbered in docs/quantization.md.
"""

from kwsq.ir.numerics.affine import (
    RequantizeParams,
    activation_range,
    dequantize,
    derive_requantize,
    float32_scale,
    quantize,
    requantize,
    requantize_table,
)
from kwsq.ir.numerics.convolution import conv2d, depthwise_conv2d
from kwsq.ir.numerics.dense import batch_matmul, fully_connected
from kwsq.ir.numerics.fixed_point import (
    multiply_by_quantized_multiplier,
    quantize_multiplier,
    quantize_multipliers,
    round_half_away,
    round_half_even,
    rounding_divide_by_pot,
    saturate,
    saturating_rounding_doubling_high_mul,
)
from kwsq.ir.numerics.linear import (
    FixedPointParams,
    RealParams,
    derive_fixed_point,
    effective_scale_conv,
    effective_scale_matmul,
)
from kwsq.ir.numerics.window import Window, same_padding, valid_size

__all__ = [
    "FixedPointParams",
    "RealParams",
    "RequantizeParams",
    "Window",
    "activation_range",
    "batch_matmul",
    "conv2d",
    "depthwise_conv2d",
    "dequantize",
    "derive_fixed_point",
    "derive_requantize",
    "effective_scale_conv",
    "effective_scale_matmul",
    "float32_scale",
    "fully_connected",
    "multiply_by_quantized_multiplier",
    "quantize",
    "quantize_multiplier",
    "quantize_multipliers",
    "requantize",
    "requantize_table",
    "round_half_away",
    "round_half_even",
    "rounding_divide_by_pot",
    "same_padding",
    "saturate",
    "saturating_rounding_doubling_high_mul",
    "valid_size",
]
