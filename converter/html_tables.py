"""The tables of report.html."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kwsq.converter.plots import text
from kwsq.converter.terminal import number

Json = Mapping[str, Any]
Row = Sequence[object]
NAME_CHARACTERS = 72
"""Names longer than this lose their middle; the tooltip keeps it."""
LONG_CHARACTERS = 60
"""Cells longer than this are sentences, which get a column wide enough to read."""


def table(headers: Sequence[str], rows: Iterable[Row], numeric: frozenset[int] = frozenset()) -> str:
    """Returns a table that scrolls by itself when it is wider than the page.

    Args:
        headers: column titles.
        rows: cells; a `Markup` is inserted as it is, everything else is escaped.
        numeric: columns aligned right.
    """
    head = "".join(f"<th{' class=n' if i in numeric else ''}>{text(h)}</th>" for i, h in enumerate(headers))
    body = "".join(f"<tr>{''.join(_cell(cell, i, i in numeric) for i, cell in enumerate(row))}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


class Markup(str):
    """HTML made here, not by a model."""

    __slots__ = ()


def _cell(cell: object, column: int, numeric: bool) -> str:
    long = isinstance(cell, str) and not isinstance(cell, Markup) and len(cell) > LONG_CHARACTERS
    style = " class=n" if numeric else " class=name" if column == 0 else " class=long" if long else ""
    if isinstance(cell, Markup):
        return f"<td{style}>{cell}</td>"
    if column == 0 and isinstance(cell, str) and len(cell) > NAME_CHARACTERS:
        return f'<td{style} title="{text(cell)}">{text(cell, NAME_CHARACTERS)}</td>'
    return f"<td{style}>{text(cell)}</td>"


def _mark(passed: bool | None) -> Markup:
    if passed is None:
        return Markup("<span class=soft>not tried</span>")
    return Markup("<b class=pass>pass</b>" if passed else "<b class=fail>fail</b>")


def parity_tables(parity: Json, float_distance: Json | None) -> str:
    """Returns the checks, what first broke them, and the distances of the outputs."""
    checks = table(
        ("check", "", "question"), [(c["name"], _mark(c["passed"]), c["question"]) for c in parity["checks"]]
    )
    return checks + _mismatches(parity["checks"]) + _distances(parity["checks"], float_distance)


def _mismatches(checks: Sequence[Json]) -> str:
    rows = [
        (m["tensor"], check["name"], m["what"], "" if m["index"] is None else m["index"], m["expected"], m["found"])
        for check in checks
        for m in check["mismatches"][:20]
    ]
    headers = ("tensor", "check", "what", "index", "expected", "found")
    return f"<h3>First differences</h3>{table(headers, rows)}" if rows else ""


def _distances(checks: Sequence[Json], float_distance: Json | None) -> str:
    sources = [(c["name"], c["figures"]) for c in checks if "outputs" in c["figures"]]
    if float_distance is not None:
        sources.append(("float source (reported, not judged)", float_distance))
    rows = [
        (
            output,
            f"{name}, {figures['runtime']}" if "runtime" in figures else name,
            number(figures_of["max_lsb"]) if "max_lsb" in figures_of else number(figures_of.get("max")),
            number(figures_of["mean_lsb"]) if "mean_lsb" in figures_of else "",
            f"{figures_of['differing']:.2%}" if "differing" in figures_of else "",
            f"{figures_of['sqnr_db']:.1f}" if "sqnr_db" in figures_of else "",
            f"{figures_of['top1_agreement']:.1%}" if figures_of.get("top1_agreement") is not None else "",
        )
        for name, figures in sources
        for output, figures_of in figures["outputs"].items()
    ]
    headers = ("output", "compared with", "max LSB", "mean LSB", "differing", "SQNR dB", "top-1 equal")
    return f"<h3>Distance of the outputs</h3>{table(headers, rows, frozenset(range(2, 7)))}" if rows else ""


def containers_table(containers: Sequence[Json]) -> str:
    """Returns the sizes of the model in every container."""
    rows = [
        (
            f"{c['container']}{' (written)' if c['written'] else ''}",
            number(c["file_bytes"]) if c["available"] else "",
            number(c["weight_bytes"]) if c["available"] else "",
            number(c["arena_bytes"]) if c["arena_bytes"] is not None else "",
            c["reason"],
        )
        for c in containers
    ]
    return table(("container", "file bytes", "weight bytes", "Micro arena bytes", ""), rows, frozenset({1, 2, 3}))


def runtimes_table(runtimes: Sequence[Json]) -> str:
    """Returns which runtimes ran the artefact."""
    return table(("runtime", "", "detail"), [(r["name"], _mark(r["accepted"]), r["detail"]) for r in runtimes])


def weights_table(weights: Sequence[Json]) -> str:
    """Returns width, container and scales of every weight tensor."""
    rows = [
        (
            w["tensor"],
            _bits(w),
            f"{w['container']}{': ' + w['why_kept_int8'] if w['why_kept_int8'] else ''}",
            number(w["elements"]),
            number(w["distinct_codes"]),
            _scales(w["annotated_scale"]),
            _scales(w["emitted_scale"]) if w["gain_folded"] or not w["annotated_scale"] else "same bits",
        )
        for w in weights
    ]
    headers = ("tensor", "bits", "container", "weights", "codes used", "scale annotated", "scale emitted")
    return table(headers, rows, frozenset({3, 4}))


def _bits(weight: Json) -> str:
    bound = "" if weight["bits_declared"] else "≥ "
    wider = ", wider than asked" if weight["wider_than_requested"] else ""
    codebook = f", codebook of {len(weight['levels'])} levels" if weight["levels"] else ""
    return f"{bound}{weight['bits']}{codebook}{wider}"


def _scales(scales: Sequence[float] | None) -> str:
    if scales is None:
        return "none"
    if len(scales) == 1:
        return f"{scales[0]:.8g}"
    return f"{len(scales)} channels, {min(scales):.4g} to {max(scales):.4g}"


def projection_table(rows: Sequence[Json]) -> str:
    """Returns what the network takes at other weight widths."""
    keys = ("projected_bytes", "packed_bytes", "padding_bytes", "codebooks_bytes", "scales_bytes", "file_bytes")
    cells = [
        (
            "this pack" if row["bits"] is None else f"{row['bits']} bits",
            *(number(row[key]) for key in keys),
            f"{row['reduction']:.2f}",
        )
        for row in rows
    ]
    headers = ("weights at", "P*b/8", "packed", "of it padding", "codebooks", "scales", "file", "float32 / file")
    return table(headers, cells, frozenset(range(1, 8)))


def layers_table(layers: Sequence[Json]) -> str:
    """Returns the cost of every operator."""
    rows = [
        (
            layer["name"],
            layer["operator"],
            number(layer["macs"]),
            number(layer["parameters"]),
            number(layer["flash"]["weights_bytes"]),
            number(layer["flash"]["total_bytes"]),
            number(layer["output_bytes"]),
            number(layer["live_activation_bytes"]),
        )
        for layer in layers
    ]
    headers = ("operator", "type", "MACs", "parameters", "weights B", "flash B", "output B", "live B")
    return table(headers, rows, frozenset(range(2, 8)))


def ptq_table(records: Sequence[Json]) -> str:
    """Returns range and scheme chosen per tensor."""
    rows = [
        (
            r["tensor"],
            r["kind"],
            f"{r['range_low']:.5g} to {r['range_high']:.5g}",
            r["scheme"],
            number(r["bits"]),
            r["method"],
            "" if r["output_loss"] is None else f"{r['output_loss']:.4g}",
        )
        for r in records
    ]
    return table(("tensor", "kind", "range", "scheme", "bits", "method", "output loss"), rows, frozenset({4, 6}))


def activations_table(activations: Sequence[Json]) -> str:
    """Returns the grid of every computed tensor."""
    rows = [
        (
            a["name"],
            a["dtype"],
            a["shape"],
            f"{a['scale']:.9g}" if a["scale"] is not None else "",
            "" if a["zero_point"] is None else number(a["zero_point"]),
            "" if None in (a["real_low"], a["real_high"]) else f"{a['real_low']:.5g} to {a['real_high']:.5g}",
        )
        for a in activations
    ]
    return table(("tensor", "type", "shape", "scale", "zero point", "real values"), rows, frozenset({3, 4}))


def notes_list(notes: Sequence[Json]) -> str:
    """Returns what the passes remarked."""
    items = (
        f"<li{' class=warning' if n['level'] == 'warning' else ''}>{_place(n['where'])}{text(n['text'])} "
        f"<span class=soft>({text(n['source'])})</span></li>"
        for n in notes
    )
    return f"<ul>{''.join(items)}</ul>" if notes else ""


def _place(where: str) -> str:
    return f"{text(where, 80)}: " if where else ""


def options_table(options: Json) -> str:
    """Returns the options of the conversion."""
    return table(("option", "value"), [(k, "" if v is None else v) for k, v in options.items()])
