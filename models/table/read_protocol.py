"""Reading a protocol file, `models/kws_ff/table.toml` or one like it, and refusing what could not be trained.

Source: our choice.
"""

import tomllib
from pathlib import Path
from typing import Any

from kwsq.ir.errors import Problem, UsageError
from kwsq.models.allowed import is_file_part, within
from kwsq.models.recipe import NO_DISTILLATION, Phase, pop_schedule, read_recipe
from kwsq.models.table.protocol import CONTROL, FLOAT, FLOAT_BITS, Goal, Method, Paper, Protocol


def read_protocol(path: Path) -> Protocol:
    """Read a protocol file; the recipe it names lies beside it.

    Raises:
        UsageError: no such file, not TOML, keys missing or unknown, a recipe of keywords, a name twice, a control that
            is no method, a width that is missing, stands there twice or is none of the scheme's, seeds that are no
            numbers or not a control's, or a goal for a row or a paper's method there is not.
    """
    if not path.is_file():
        raise UsageError(Problem(str(path), "no such file", "a protocol", "name a table.toml"))
    try:
        return _protocol(tomllib.loads(path.read_text(encoding="utf-8")), path)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        remedy = "compare with models/kws_ff/table.toml"
        raise UsageError(Problem(str(path), str(error), "the keys of a protocol", remedy)) from error


def _protocol(table: dict[str, Any], path: Path) -> Protocol:
    recipe = read_recipe(path.parent / table.pop("recipe"))
    _check_numbers(table, path)
    if recipe.keywords:
        expected, remedy = "a recipe of the twelve classes", "take the keywords out of the recipe"
        raise UsageError(Problem(str(path), f"a recipe with keywords {recipe.keywords}", expected, remedy))
    entries = [dict(entry) for entry in table.pop("method")]
    control = {FLOAT: FLOAT} | {entry["name"]: entry.pop("control", CONTROL) for entry in entries}
    plain = Phase(0, 0.0, 0.0)
    methods = (Method(FLOAT, "float", (FLOAT_BITS,), plain, plain, NO_DISTILLATION), *map(_method, entries))
    names = {method.name for method in methods}
    if strange := [name for name in names if not is_file_part(name)]:
        expected = "text that can stand in a file name"
        raise UsageError(Problem(str(path), f"method {strange[0]!r}", expected, "correct the protocol"))
    missing = sorted(set(control.values()) - names)
    if missing or len(names) != len(methods):
        found = f"control {missing[0]!r}" if missing else "a method named twice"
        raise UsageError(Problem(str(path), found, "methods with names of their own", "correct the protocol"))
    goals = tuple(map(_goal, table.pop("goal", ())))
    unknown = [goal for goal in goals if goal.bits not in _widths(methods, goal.method)]
    if unknown:
        found = f"a goal for {unknown[0].method!r} at {unknown[0].bits} bits"
        raise UsageError(Problem(str(path), found, "a method and one of its widths", "correct the protocol"))
    papers = tuple(Paper(**entry | {"methods": tuple(entry["methods"])}) for entry in table.pop("paper", ()))
    strange = [name for paper in papers for name in paper.methods if name not in names]
    if strange:
        remedy = "correct the protocol"
        raise UsageError(Problem(str(path), f"{strange[0]!r} as a paper's method", "a method's name", remedy))
    protocol = Protocol(
        recipe=recipe,
        goals=goals,
        papers=papers,
        seen_seeds=tuple(table.pop("seen_seeds", ())),
        seeds=tuple(table.pop("seeds")),
        baselines=tuple(table.pop("baselines")),
        control=control,
        methods=methods,
        **table,
    )
    _check_controls(protocol, path)
    return protocol


def _check_numbers(table: dict[str, Any], path: Path) -> None:
    """Refuse folds that are no number, and seeds that are none or stand there twice: cells that would never be full."""
    remedy = "correct the protocol"
    for key, least in (("folds", 2), ("fold_seed", 0)):
        if type(table[key]) is not int or table[key] < least:
            found = f"{key} {table[key]!r}"
            raise UsageError(Problem(str(path), found, f"a whole number from {least}", remedy))
    if not _are_seeds(table["seeds"]):
        raise UsageError(Problem(str(path), f"seeds {table['seeds']!r}", "whole numbers from 0, each once", remedy))


def _are_seeds(seeds: Any) -> bool:
    numbers = isinstance(seeds, list) and all(type(seed) is int and seed >= 0 for seed in seeds)
    return numbers and len(set(seeds)) == len(seeds) > 0


def _check_controls(protocol: Protocol, path: Path) -> None:
    """Refuse a width with a seed its control has not: a loss would silently be one of fewer seeds."""
    for method in protocol.methods:
        control = protocol.method(protocol.control_of(method.name))
        there = set(protocol.seeds_of(control, FLOAT_BITS))
        for bits in method.widths:
            for seed in sorted(set(protocol.seeds_of(method, bits)) - there)[:1]:
                found = f"seed {seed} of {method.name!r} at {bits} bits, not of its control {control.name!r}"
                remedy = "state it in the control's own_seeds"
                raise UsageError(Problem(str(path), found, "the seeds of a control", remedy))


def _goal(entry: dict[str, Any]) -> Goal:
    seen = entry.get("seen_seeds")
    return Goal(**entry | {"seen_seeds": None if seen is None else tuple(seen)})


def _widths(methods: tuple[Method, ...], name: str) -> tuple[int, ...]:
    return next((method.widths for method in methods if method.name == name), ())


def _method(entry: dict[str, Any]) -> Method:
    widths: dict[str, Any] = {key: tuple(entry.pop(key, ())) for key in ("bits", "two_seed_bits", "one_seed_bits")}
    options = tuple(sorted(entry.pop("options", {}).items()))
    own_seeds = _own_seeds(entry.pop("own_seeds", {}), entry["name"])
    with within(f"protocol: {entry['name']}."):
        schedule = {"distillation": NO_DISTILLATION} | pop_schedule(entry)
        method = Method(**widths, options=options, own_seeds=own_seeds, **schedule, **entry)
        for width in method.widths:
            method.variant(width)  # what no scheme or variant may be is better refused before a night's run
    if not method.widths or len(set(method.widths)) < len(method.widths):
        expected = "widths, each once, in bits, two_seed_bits or one_seed_bits"
        raise UsageError(Problem(f"protocol: {method.name}", str(method.widths), expected, "correct the protocol"))
    strange = sorted(set(dict(own_seeds)).difference(method.bits))
    if strange:
        found = f"own_seeds of {strange[0]} bits"
        raise UsageError(Problem(f"protocol: {method.name}", found, "a width in bits", "correct the protocol"))
    return method


def _own_seeds(stated: Any, name: str) -> tuple[tuple[int, tuple[int, ...]], ...]:
    """Read a table from widths to lists of seeds; TOML's keys are text."""
    for width, seeds in stated.items() if isinstance(stated, dict) else [("", stated)]:
        if not (width.isdecimal() and _are_seeds(seeds)):
            expected = "a table from widths to whole numbers, each once, such as { 8 = [0, 1] }"
            raise UsageError(Problem(f"protocol: {name}", f"own_seeds {stated}", expected, "correct the protocol"))
    return tuple((int(width), tuple(seeds)) for width, seeds in stated.items())
