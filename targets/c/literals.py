"""C99 literals, definitions of arrays, and identifiers: what is written is exactly what was meant."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

WIDTH = 120
LONGEST = 48
"""Letters of a name that an identifier keeps."""
_KEYWORDS = frozenset(
    "auto break case char const continue default do double else enum extern float for goto if inline int long main "
    "register restrict return short signed sizeof static struct switch typedef union unsigned void volatile while "
    "arena bool class delete new private public this virtual".split()
)
_TYPES = {"int8": "int8_t", "uint8": "uint8_t", "int32": "int32_t", "float32": "float", "float64": "double"}
_LOWEST_INT32 = -(2**31)


def identifiers(names: Iterable[str], prefix: str) -> dict[str, str]:
    """Returns an identifier for each name: its letters and digits, made unlike the others and unlike C's own words.

    They differ in capitals too.

    Args:
        names: any strings.
        prefix: for names that leave nothing to begin with.
    """
    found: dict[str, str] = {}
    for name in dict.fromkeys(names):
        word = re.sub(r"[^0-9A-Za-z]+", "_", name).strip("_")[:LONGEST]
        if not word or not word[0].isalpha() or word.lower() in _KEYWORDS or word.lower().startswith("kwsq"):
            word = f"{prefix}_{word}".rstrip("_")
        candidate, number = word, 2
        while candidate.upper() in map(str.upper, found.values()):
            candidate, number = f"{word}_{number}", number + 1
        found[name] = candidate
    return found


def comment(text: str) -> str:
    """Returns a comment that the text cannot end, on one line."""
    printable = "".join(char if char.isprintable() and char.isascii() else "?" for char in text)
    return f"/* {printable.replace('*/', '* /').replace('/*', '/ *').replace('??', '? ?')} */"


def number(value: float | np.generic, dtype: str) -> str:
    """Returns the literal of a number of a NumPy type; floats in hexadecimal, so that none is rounded."""
    if dtype == "float32":
        return f"{float(value).hex()}f"
    if dtype == "float64":
        return float(value).hex()
    whole = int(value)
    return "(-2147483647 - 1)" if whole == _LOWEST_INT32 else str(whole)


def array(name: str, values: npt.NDArray[np.generic]) -> str:
    """Returns the definition of a constant array in its flat order.

    Args:
        name: identifier.
        values: at least one, of a type C has.
    """
    dtype = str(values.dtype)
    words = [number(value, dtype) for value in values.reshape(-1)]
    return f"static const {_TYPES[dtype]} {name}[{len(words)}] = {{\n{wrapped(words)}}};\n"


def wrapped(words: Sequence[str]) -> str:
    """Returns words with commas between them, in lines of at most WIDTH characters."""
    lines, line = [], "   "
    for word in words:
        if len(line) + len(word) + 2 > WIDTH:
            lines.append(line + "\n")
            line = "   "
        line += f" {word},"
    return "".join(lines) + line + "\n"
