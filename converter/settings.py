"""kwsq.toml, or [tool.kwsq] of pyproject.toml: settings by section, every key known or refused with a suggestion."""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from kwsq.converter.gate.config import GateConfig, check_config
from kwsq.converter.input_file import read_file
from kwsq.ir.errors import Problem, UsageError

SECTIONS = ("gate", "budget")
FILE_NAME = "kwsq.toml"


def read_settings(path: Path | None) -> Mapping[str, Mapping[str, Any]]:
    """Returns the sections of a settings file.

    Args:
        path: the file; None looks for kwsq.toml and then [tool.kwsq] of pyproject.toml in the working directory.

    Raises:
        UsageError: not TOML, or an unknown section.
    """
    if path is None:
        path = next((p for p in (Path(FILE_NAME), Path("pyproject.toml")) if p.is_file()), None)
        if path is None:
            return {}
    where = f"settings {str(path)!r}"
    try:
        document = tomllib.loads(read_file(path, "settings").decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(Problem(where, str(error), "TOML", "correct the file")) from error
    tables: Any = document
    for key in ("tool", "kwsq") if path.name == "pyproject.toml" else ():
        tables = tables.get(key, {})
        if not isinstance(tables, dict):
            raise UsageError(Problem(f"{where}, {key}", repr(tables), "a table", "correct the file"))
    check_keys(tables, SECTIONS, where)
    wrong = [name for name, table in tables.items() if not isinstance(table, dict)]
    if wrong:
        raise UsageError(Problem(f"{where}, {wrong[0]}", "a value", f"a table [{wrong[0]}]", "correct the file"))
    return dict(tables)


def gate_config(sections: Mapping[str, Mapping[str, Any]], flags: Mapping[str, Any]) -> GateConfig:
    """Returns the gate's settings: flags first, then the file, then defaults.

    Args:
        sections: of `read_settings`.
        flags: settings given on the command line; None means not given.

    Raises:
        UsageError: an unknown key, a value of another type or out of range.
    """
    table = sections.get("gate", {})
    check_keys(table, [field.name for field in fields(GateConfig)], "settings, [gate]")
    hints = get_type_hints(GateConfig)
    values = {name: _typed(name, value, hints[name]) for name, value in table.items()}
    values |= {name: value for name, value in flags.items() if value is not None}
    return check_config(GateConfig(**values))


def check_keys(table: Mapping[str, Any], known: Collection[str], where: str) -> None:
    """Checks that a table holds known keys only.

    Raises:
        UsageError: listing every unknown key with the nearest known one.
    """
    problems = []
    for name in table:
        if name not in known:
            near = get_close_matches(name, known, 1)
            remedy = f"did you mean {near[0]}?" if near else "remove it"
            problems.append(Problem(where, f"unknown key {name!r}", ", ".join(known), remedy))
    if problems:
        raise UsageError(problems)


def _typed(name: str, value: Any, hint: Any) -> Any:
    if get_origin(hint) is tuple:
        return _classes(name, value)
    options = get_args(hint) or (hint,)
    if get_origin(hint) is not None and all(isinstance(option, str) for option in options):
        good = value in options
    else:
        # TOML's 1 is a good 1.0, and true is no number.
        kinds = tuple(o for o in options if isinstance(o, type)) + ((int,) if float in options else ())
        good = isinstance(value, kinds) and not isinstance(value, bool) and not _is_huge(value)
    if not good:
        expected = " or ".join(
            str(getattr(option, "__name__", option)) for option in options if option is not type(None)
        )
        raise UsageError(Problem(f"settings, [gate] {name}", repr(value), expected, "correct the value"))
    return float(value) if float in options and isinstance(value, int) else value


def _is_huge(value: Any) -> bool:
    """Whether a whole number is none of 64 bits, which TOML gives a parser to refuse and Python's reads."""
    return isinstance(value, int) and not -(2**63) <= value < 2**64


def _classes(name: str, value: Any) -> tuple[int, ...]:
    if not (isinstance(value, list) and all(isinstance(v, int) and not isinstance(v, bool) for v in value)):
        expected = "a list of classes, such as [1, 2]"
        raise UsageError(Problem(f"settings, [gate] {name}", repr(value), expected, "correct the value"))
    return tuple(value)
