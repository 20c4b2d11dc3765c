"""The operators kwsq reads, and why others are refused.

One allow-list for the front door: an operator outside it is refused before anything is computed of it, and what else
is refused is looked for in the model without it (`refusals`). Being listed means that some later step knows the
operator; that step may still refuse a particular use of it.
"""

from __future__ import annotations

QONNX_DOMAINS = frozenset({"qonnx.custom_op.general", "onnx.brevitas", "finn.custom_op.general"})
"""One dialect under three names: current, written by old Brevitas, written by old FINN."""

MICROSOFT_DOMAIN = "com.microsoft"

OPSET_LOW, OPSET_HIGH = 7, 25
"""Default-domain versions whose operator semantics the readers follow."""

REAL_OPS = frozenset(
    """
    Abs Add AveragePool BatchNormalization Cast Clip Concat Conv Div Dropout Flatten Gather Gemm GlobalAveragePool
    GlobalMaxPool HardSigmoid HardSwish Identity LayerNormalization LeakyRelu LogSoftmax MatMul Max MaxPool Min Mul
    Neg PRelu Pad Pow Reciprocal ReduceMax ReduceMean ReduceSum Relu Reshape Sigmoid Slice Softmax Split Sqrt Squeeze
    Sub Sum Tanh Transpose Unsqueeze
    """.split()
)
"""Operators that may remain on activations."""

FOLDED_OPS = frozenset(
    """
    And CastLike Ceil Constant ConstantOfShape Equal Exp Expand Floor Greater GreaterOrEqual Less
    LessOrEqual Log Not Or Range ReduceMin ReduceL1 ReduceProd Round Shape Sign Size Tile Where
    """.split()
)
"""Operators that must disappear: computed from constants, or part of a quantizer."""

QUANTIZER_OPS = frozenset({"QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul"})

QONNX_OPS = frozenset({"Quant", "IntQuant", "BipolarQuant", "Trunc"})

MICROSOFT_OPS = frozenset(
    """
    QuantizeLinear DequantizeLinear QLinearAdd QLinearMul QGemm QLinearReduceMean QLinearGlobalAveragePool
    QLinearAveragePool QLinearSigmoid QLinearLeakyRelu QLinearSoftmax QLinearConcat
    """.split()
)

_SUPPORTED = (
    {("", op) for op in REAL_OPS | FOLDED_OPS | QUANTIZER_OPS}
    | {(domain, op) for domain in QONNX_DOMAINS for op in QONNX_OPS}
    | {(MICROSOFT_DOMAIN, op) for op in MICROSOFT_OPS}
)

_RECURRENT = ("a recurrent operator", "export an unrolled or explicit-state model built from MatMul and Conv")
_CONTROL = ("control flow with a subgraph", "trace the model so that the loop or branch is unrolled")
_DYNAMIC = (
    "a quantizer whose scale depends on the data",
    "use static quantization, so that every scale is a constant",
)
_REFUSED: dict[str, tuple[str, str]] = {
    "If": _CONTROL,
    "Loop": _CONTROL,
    "Scan": _CONTROL,
    "LSTM": _RECURRENT,
    "GRU": _RECURRENT,
    "RNN": _RECURRENT,
    "DynamicQuantizeLinear": _DYNAMIC,
    "DynamicQuantizeMatMul": _DYNAMIC,
    "DynamicQuantizeLSTM": _DYNAMIC,
    "MatMulIntegerToFloat": _DYNAMIC,
    "ConvInteger": (
        "an integer convolution without an output scale",
        "export with static Q/DQ nodes or QLinearConv",
    ),
    "MatMulInteger": (
        "an integer product without an output scale",
        "export with static Q/DQ nodes or QLinearMatMul",
    ),
    "FloatQuant": ("a minifloat quantizer", "train with integer quantizers (Quant or BipolarQuant)"),
    "MultiThreshold": (
        "thresholds in place of quantizers, as FINN leaves them",
        "convert the model from before FINN's streamlining, with its Quant nodes",
    ),
    "MatMulNBits": ("block-wise quantized weights", "quantize weights per tensor or per output channel"),
    "FakeQuantize": ("an OpenVINO quantizer", "export with standard QuantizeLinear/DequantizeLinear nodes"),
    "ATen": ("a PyTorch operator without ONNX meaning", "export with operator_export_type=ONNX"),
}
_FUSED_CONV = (
    "an operator fused by ONNX Runtime's optimizer",
    "convert the model from before ONNX Runtime's optimizer",
)


def is_known(domain: str, op: str) -> bool:
    """Returns whether some step of kwsq reads the operator.

    >>> is_known("", "Conv"), is_known("onnx.brevitas", "Quant"), is_known("", "LSTM")
    (True, True, False)
    """
    return (canonical_domain(domain), op) in _SUPPORTED


def canonical_domain(domain: str) -> str:
    """Returns the domain with ONNX's two spellings of the default one made equal."""
    return "" if domain == "ai.onnx" else domain


def refusal(domain: str, op: str) -> tuple[str, str]:
    """Returns what an operator outside the allow-list is, and the remedy."""
    if op.startswith("TRT_"):
        return "a TensorRT quantizer", "export with standard QuantizeLinear/DequantizeLinear nodes"
    if op in _REFUSED:
        return _REFUSED[op]
    if domain == MICROSOFT_DOMAIN:
        return _FUSED_CONV
    if canonical_domain(domain) == "":
        return (
            "an operator kwsq has no integer form for",
            "express it with the operators listed by `kwsq ops`",
        )
    return "an operator of an unknown domain", "export with standard operators only"
