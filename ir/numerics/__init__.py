"""Integer arithmetic of quantized inference, bit-exact with LiteRT's reference kernels.

Pure array functions on NumPy alone. Each operator comes in two steps, so that code generators can use the
first without the second: ``derive_<op>(scales, zero points) -> <Op>Params`` and ``<op>(arrays, params)``.
Equations are numbered in docs/quantization.md.
"""

from kwsq.ir.numerics.activation import (
    PreluParams,
    abs_table,
    derive_prelu,
    hard_swish_table,
    leaky_relu_table,
    negate,
    prelu,
    relu_table,
)
from kwsq.ir.numerics.affine import (
    Grid,
    RequantizeParams,
    activation_range,
    dequantize,
    derive_requantize,
    float32_scale,
    quantize,
    requantize,
    requantize_table,
)
from kwsq.ir.numerics.convolution import (
    conv2d,
    depthwise_conv2d,
)
from kwsq.ir.numerics.dense import (
    batch_matmul,
    fully_connected,
)
from kwsq.ir.numerics.elementwise import (
    MulParams,
    Operand,
    SumParams,
    add,
    derive_add,
    derive_mul,
    derive_squared_difference,
    derive_sub,
    maximum,
    minimum,
    mul,
    squared_difference,
    sub,
)
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
from kwsq.ir.numerics.lookup import (
    LOGISTIC_OUTPUT,
    TANH_OUTPUT,
    exp_table,
    gelu_table,
    log_table,
    logistic_table,
    look_up,
    tanh_table,
)
from kwsq.ir.numerics.movement import (
    concatenate,
    pad,
)
from kwsq.ir.numerics.pooling import (
    average_pool2d,
    max_pool2d,
)
from kwsq.ir.numerics.reciprocal_root import (
    RsqrtParams,
    derive_rsqrt,
    rsqrt,
)
from kwsq.ir.numerics.reduction import (
    MeanParams,
    derive_mean,
    mean,
    reduce_max,
    reduce_min,
)
from kwsq.ir.numerics.softmax import (
    SoftmaxParams,
    derive_softmax,
    exp_difference_table,
    softmax,
)
from kwsq.ir.numerics.window import (
    Window,
    same_padding,
    valid_size,
)

__all__ = [
    "LOGISTIC_OUTPUT",
    "TANH_OUTPUT",
    "FixedPointParams",
    "Grid",
    "MeanParams",
    "MulParams",
    "Operand",
    "PreluParams",
    "RealParams",
    "RequantizeParams",
    "RsqrtParams",
    "SoftmaxParams",
    "SumParams",
    "Window",
    "abs_table",
    "activation_range",
    "add",
    "average_pool2d",
    "batch_matmul",
    "concatenate",
    "conv2d",
    "depthwise_conv2d",
    "dequantize",
    "derive_add",
    "derive_fixed_point",
    "derive_mean",
    "derive_mul",
    "derive_prelu",
    "derive_requantize",
    "derive_rsqrt",
    "derive_softmax",
    "derive_squared_difference",
    "derive_sub",
    "effective_scale_conv",
    "effective_scale_matmul",
    "exp_difference_table",
    "exp_table",
    "float32_scale",
    "fully_connected",
    "gelu_table",
    "hard_swish_table",
    "leaky_relu_table",
    "log_table",
    "logistic_table",
    "look_up",
    "max_pool2d",
    "maximum",
    "mean",
    "minimum",
    "mul",
    "multiply_by_quantized_multiplier",
    "negate",
    "pad",
    "prelu",
    "quantize",
    "quantize_multiplier",
    "quantize_multipliers",
    "reduce_max",
    "reduce_min",
    "relu_table",
    "requantize",
    "requantize_table",
    "round_half_away",
    "round_half_even",
    "rounding_divide_by_pot",
    "rsqrt",
    "same_padding",
    "saturate",
    "saturating_rounding_doubling_high_mul",
    "softmax",
    "squared_difference",
    "sub",
    "tanh_table",
    "valid_size",
]
