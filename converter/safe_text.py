"""Text that models provide, made harmless where people read it."""

from __future__ import annotations


def printable(text: str, limit: int | None = None) -> str:
    r"""Returns `text` without control or direction characters, and cut in the middle to `limit` characters.

    Names come from untrusted files: escape sequences could rewrite the terminal they are printed on.

    >>> printable("dense\x1b[2J\u202e")
    'dense\\x1b[2J\\u202e'
    >>> printable("abcdefghij", limit=7)
    'abc…hij'
    """
    clean = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    if limit is None or len(clean) <= limit:
        return clean
    return f"{clean[: limit // 2]}…{clean[len(clean) - (limit - 1) // 2 :]}"
