"""A validator for the part of JSON Schema 2020-12 that kwsq's own schemas use; another keyword is an error."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

_ANNOTATIONS = {"$schema", "$id", "$defs", "title", "description"}
_TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "number": (int, float),
    "integer": int,
    "boolean": bool,
    "null": type(None),
}


def violations(value: Any, schema: dict[str, Any], root: dict[str, Any] | None = None, path: str = "$") -> list[str]:
    """Returns every place where `value` breaks the schema.

    Args:
        value: parsed JSON.
        schema: the schema, or a part of `root`.
        root: schema that `$ref` refers to; `schema` itself by default.
        path: of `value` in the document.
    """
    return list(_violations(value, schema, root or schema, path))


def _violations(value: Any, schema: dict[str, Any], root: dict[str, Any], path: str) -> Iterator[str]:
    for keyword, wanted in schema.items():
        if keyword in _ANNOTATIONS:
            continue
        if keyword == "$ref":
            yield from _violations(value, root["$defs"][wanted.removeprefix("#/$defs/")], root, path)
        elif keyword == "anyOf":
            if all(violations(value, option, root, path) for option in wanted):
                yield f"{path}: fits none of {len(wanted)} alternatives"
        elif keyword in ("properties", "additionalProperties", "items"):
            yield from _children(keyword, value, schema, root, path)
        elif not _CHECKS[keyword](value, wanted):
            yield f"{path}: {keyword} {wanted!r} broken by {value!r}"


def _children(keyword: str, value: Any, schema: dict[str, Any], root: dict[str, Any], path: str) -> Iterator[str]:
    if keyword == "items" and isinstance(value, list):
        for i, item in enumerate(value):
            yield from _violations(item, schema["items"], root, f"{path}[{i}]")
    elif keyword == "properties" and isinstance(value, dict):
        for name, subschema in schema["properties"].items():
            if name in value:
                yield from _violations(value[name], subschema, root, f"{path}.{name}")
    elif keyword == "additionalProperties" and isinstance(value, dict):
        rest = schema["additionalProperties"]
        for name in value.keys() - schema.get("properties", {}).keys():
            if rest is False:
                yield f"{path}: unexpected {name!r}"
            elif isinstance(rest, dict):
                yield from _violations(value[name], rest, root, f"{path}.{name}")


def _has_type(value: Any, wanted: str | list[str]) -> bool:
    names = [wanted] if isinstance(wanted, str) else wanted
    # JSON's true is no number, Python's is.
    return any(isinstance(value, _TYPES[n]) and (n == "boolean" or not isinstance(value, bool)) for n in names)


_CHECKS: dict[str, Callable[[Any, Any], bool]] = {
    "type": _has_type,
    "enum": lambda value, wanted: value in wanted,
    "const": lambda value, wanted: value == wanted and type(value) is type(wanted),
    "required": lambda value, wanted: not isinstance(value, dict) or all(name in value for name in wanted),
    "minimum": lambda value, wanted: not isinstance(value, int | float) or value >= wanted,
    "maximum": lambda value, wanted: not isinstance(value, int | float) or value <= wanted,
    "minItems": lambda value, wanted: not isinstance(value, list) or len(value) >= wanted,
    "pattern": lambda value, wanted: not isinstance(value, str) or re.search(wanted, value) is not None,
}
