"""The integer machine that packs and C sources run on: its operators, and what an operator may be as large as.

docs/pack-format.md says what each operator computes.
"""

from enum import IntEnum

MAX_RANK = 8
MAX_ELEMENTS = 2**26
"""Elements of an activation, of a padded image, and of the patches of a layer."""
MAX_COLUMNS = 2**17 - 1
"""128 * 128 * columns stays below 2**31: no int32 accumulator can overflow before its bias."""
MAX_MATMUL_DEPTH = 33025
"""255 * 255 * depth stays below 2**31."""
MAX_SOFTMAX = 511


class Opcode(IntEnum):
    """Operators of the integer machine."""

    CONV = 1
    DEPTHWISE = 2
    DENSE = 3
    MATMUL = 4
    ADD = 5
    SUB = 6
    SQUARED_DIFFERENCE = 7
    MUL = 8
    MAXIMUM = 9
    MINIMUM = 10
    PRELU = 11
    TABLE = 12
    SOFTMAX = 13
    AVERAGE_POOL = 14
    MAX_POOL = 15
    MEAN = 16
    REDUCE_MAX = 17
    PAD = 18
    RESHAPE = 19
    TRANSPOSE = 20
    CONCAT = 21
    SLICE = 22
    SPLIT = 23
    REQUANTIZE = 24
    QUANTIZE = 25
    DEQUANTIZE = 26


LAYER_OPCODES = (Opcode.CONV, Opcode.DEPTHWISE, Opcode.DENSE)
