"""report.html: the report as one page without network, scripts or other files.

Everything a model provides is escaped (`plots.text`); the page is rendered from the report alone, so that the same
report gives the same page.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from typing import Any

from kwsq.converter.budget_summary import HEADERS as BUDGET_HEADERS
from kwsq.converter.budget_summary import budget_rows
from kwsq.converter.estimates import HEADERS, estimate_rows
from kwsq.converter.footprint_summaries import PURPOSES, memory_facts
from kwsq.converter.html_tables import (
    activations_table,
    containers_table,
    layers_table,
    notes_list,
    options_table,
    parity_tables,
    projection_table,
    ptq_table,
    runtimes_table,
    table,
    weights_table,
)
from kwsq.converter.plots import Bar, Part, bar_chart, legend, text, timeline
from kwsq.converter.terminal import number

Json = Mapping[str, Any]
CHARTED_LAYERS = 40
_STYLES = {
    "weights_bytes": "weights",
    "codebooks_bytes": "codebooks",
    "biases_bytes": "biases",
    "requant_tables_bytes": "requant",
    "other_constants_bytes": "constants",
    "names_bytes": "names",
    "metadata_bytes": "metadata",
    "graph_tables_bytes": "tables",
    "padding_bytes": "padding",
}


def render_html(report: Json) -> str:
    """Returns the page for a conversion report."""
    result = report["result"]
    title = f"kwsq: {result['verdict']['headline']}"
    body = "".join(part(result) for part in _SECTIONS) + _footer(report)
    return page(title, body)


def page(title: str, body: str) -> str:
    """Returns a whole page; `body` is HTML, the title is escaped."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="generator" content="kwsq"><title>{text(title)}</title><style>{_css()}</style></head>'
        f"<body>\n{body}</body></html>\n"
    )


def _css() -> str:
    return files("kwsq.converter").joinpath("report.css").read_text(encoding="utf-8")


def section(title: str, body: str, lead: str = "") -> str:
    """Returns a part of a page under a heading; `body` is HTML, the rest is escaped."""
    intro = f'<p class="soft">{text(lead)}</p>' if lead else ""
    return f"<section><h2>{text(title)}</h2>{intro}{body}</section>\n"


def _header(result: Json) -> str:
    verdict, model = result["verdict"], result["model"]
    state = "pass" if verdict["passed"] else "fail"
    badge = _BADGES[verdict["status"]]
    reasons = "".join(f"<li>{text(reason)}</li>" for reason in verdict["reasons"])
    how = "quantized after training (PTQ)" if model["quantization"] == "ptq" else "quantized during training (QAT)"
    dialects = ", ".join(model["dialects"])
    target = f"{result['options']['target']} target, {model['weight_bits']}-bit weights"
    facts = (
        f"{target}, {how}{f', dialects {dialects}' if dialects else ''}, container {result['artefact']['container']}"
    )
    return (
        f"<header><h1>{text(result['options']['model'])}</h1>"
        f'<p class="soft">{text(facts)}</p>'
        f'<p class="verdict {state}">{badge}</p>'
        f"{f'<ul class=fail>{reasons}</ul>' if reasons else ''}{_cards(result)}</header>\n"
    )


_BADGES = {
    "pass": "Parity proven",
    "fail": "Failed: no artefact was kept",
    "inconclusive": "Gate inconclusive: no artefact was kept",
}


def _gate(result: Json) -> str:
    """Returns the gate on --data, its verdict first."""
    gate = result["gate"]
    if gate is None:
        return ""
    from kwsq.converter.gate_html import gate_sections, verdict_badge

    counts = "" if gate["enforced"] else " For information only: the settings have no [gate]."
    reasons = "".join(f"<li>{text(reason)}</li>" for reason in gate["verdict"]["reasons"])
    lead = f"The source against the artefact on the labelled data.{counts}"
    listed = f"<ul>{reasons}</ul>" if reasons else ""
    return section("Gate", verdict_badge(gate["verdict"]["status"]) + listed, lead) + gate_sections(gate)


def _budget(result: Json) -> str:
    lines = result["budget"]
    rows = [(*row, line["status"]) for row, line in zip(budget_rows(lines), lines, strict=True)]
    return section("Budget", table((*BUDGET_HEADERS, ""), rows, frozenset({1, 2, 3, 4}))) if rows else ""


def _cards(result: Json) -> str:
    footprint, accuracy = result["footprint"], result["accuracy"]
    floats = footprint["float_model"]
    scored = f"{accuracy['artefact_top1']:.2%}" if accuracy["assessed"] else "not assessed"
    against = f"top-1 (source {accuracy['source_top1']:.2%})" if accuracy["assessed"] else "accuracy (add --data)"
    cards = [
        (number(result["artefact"]["bytes"], "B"), f"flash, float weights {number(floats['parameter_bytes'], 'B')}"),
        (
            number(footprint["totals"]["activation_ram_bytes"], "B"),
            f"activation RAM, float {number(floats['activation_bytes'], 'B')}",
        ),
        (number(footprint["macs"]), "MACs per inference"),
        (number(footprint["declared_bits_per_weight"]), "bits per weight as trained"),
        (scored, against),
    ]
    items = "".join(f"<li><b>{text(value)}</b>{text(label)}</li>" for value, label in cards)
    return f'<ul class="cards">{items}</ul>'


def _parity(result: Json) -> str:
    lead = f"{number(result['parity']['vectors'])} input vectors. LSB is one step of the output's grid."
    return section("Parity", parity_tables(result["parity"], result["float_distance"]), lead)


def _flash(result: Json) -> str:
    footprint = result["footprint"]
    flash = footprint["flash"]
    whole = [Part(flash[key], style, f"{PURPOSES[key]} {number(flash[key], 'B')}") for key, style in _STYLES.items()]
    present = [part for part in whole if part.value]
    layers = [layer for layer in footprint["layers"] if layer["flash"]["total_bytes"]]
    shown = sorted(layers, key=lambda layer: -layer["flash"]["total_bytes"])[:CHARTED_LAYERS]
    bars = [_flash_bar(layer["name"], layer["flash"]) for layer in shown]
    bars.append(_flash_bar("(outside operators)", footprint["outside_layers"]))
    total = bar_chart([Bar("whole file", tuple(whole), number(flash["total_bytes"], "B"))])
    return section(
        "Flash",
        f"<figure>{total}{legend(present)}</figure>"
        f"<h3>By operator, largest first</h3><figure>{bar_chart(bars)}</figure>",
        "Every byte of the file has one purpose; the lines add up to its size.",
    )


def _flash_bar(name: str, flash: Json) -> Bar:
    parts = tuple(
        Part(flash[key], style, f"{PURPOSES[key]} {number(flash[key], 'B')}") for key, style in _STYLES.items()
    )
    return Bar(name, parts, number(flash["total_bytes"], "B"))


def _memory(result: Json) -> str:
    footprint = result["footprint"]
    plan = footprint["activations"]
    if plan is None:
        return ""
    names = ["inputs", *(layer["name"] for layer in footprint["layers"])]
    live = plan["live_bytes_per_step"]
    titles = [f"{name}: {number(value, 'B')}" for name, value in zip(names, live, strict=True)]
    lead = (
        f"Arena {number(plan['high_water_bytes'], 'B')} by TensorFlow Lite Micro's greedy planner (dashed), "
        f"lower bound {number(plan['lower_bound_bytes'], 'B')}. One column per operator: bytes alive while it runs."
    )
    ends = f'<div class="ends soft"><span>inputs</span><span>{text(names[-1], 40)}</span></div>'
    chart = timeline(live, plan["high_water_bytes"], titles)
    facts = "".join(f"<li>{text(fact)}</li>" for fact in memory_facts(footprint))
    listed = f"<ul>{facts}</ul>" if facts else ""
    return section("Activation memory", f"<figure>{chart}{ends}</figure>{listed}", lead)


def _noise(result: Json) -> str:
    rows = result["layer_noise"]
    if not rows:
        return ""
    bars = [
        Bar(
            row["tensor"],
            (Part(max(0.0, row["sqnr_db"]), "weights", f"{row['operator']}, {row['rmse_steps']:.3f} steps rmse"),),
            f"{row['sqnr_db']:.1f} dB",
        )
        for row in rows
    ]
    lead = (
        "Integer reference against the quantized source, error accumulated up to each layer, in order; 120 dB is "
        "equal. Rounding alone is 0.29 steps of root-mean-square error."
    )
    return section("SQNR by layer", f"<figure>{bar_chart(bars)}</figure>", lead)


def _bisection(result: Json) -> str:
    found = result["bisection"]
    if found is None:
        return ""
    from kwsq.converter.bisect_command import bisection_facts, bisection_table

    headers, rows = bisection_table(found)
    facts = "".join(f"<li>{text(fact)}</li>" for fact in bisection_facts(found))
    lead = "SQNR of the output with each layer quantized alone, and with every layer but it; costliest alone first."
    return section("Cost of each layer's quantization", f"<ul>{facts}</ul>{table(headers, rows)}", lead)


def _bits(result: Json) -> str:
    bars = [
        Bar(
            row["tensor"],
            (
                Part(row["bits"], "weights", f"{row['bits']} bits as trained"),
                Part(max(0, 8 - row["bits"]), "padding", ""),
            ),
            f"{'' if row['bits_declared'] else '≥ '}{row['bits']} bits",
        )
        for row in result["weights"]
    ]
    lead = "Width each weight tensor was trained for, of the 8 bits of a byte."
    return section("Weights", f"<figure>{bar_chart(bars)}</figure>{weights_table(result['weights'])}", lead)


def _details(title: str, body: str) -> str:
    return f"<details><summary>{text(title)}</summary>{body}</details>"


def _sizes(result: Json) -> str:
    rows = [(f["file"], number(f["bytes"]), f["what"]) for f in result["artefact"]["beside"]]
    beside = table(("file beside the artefact", "bytes", ""), rows, frozenset({1})) if rows else ""
    body = containers_table(result["containers"]) + beside + runtimes_table(result["runtimes"])
    return section("Containers and runtimes", body)


def _estimates(result: Json) -> str:
    if result["artefact"]["estimates"] is None:
        return ""
    found = result["artefact"]["estimates"]
    lead = f"{found['compiler']}, {found['accelerator']}, {found['system_config']}, {found['memory_mode']}."
    body = table(HEADERS, estimate_rows(result["artefact"], result["footprint"]), frozenset({1, 2}))
    return section("Vela's estimates", body, lead)


def _projection(result: Json) -> str:
    rows = result["footprint"].get("projection", ())
    lead = "Projected: weights times bits. Packed: rows as aligned in a pack; everything else in the file stays."
    return section("Other weight widths", projection_table(rows), lead) if rows else ""


def _operators(result: Json) -> str:
    return section("Operators", layers_table(result["footprint"]["layers"]))


def _boundary(result: Json) -> str:
    rows = result["boundary_transposes"]
    if not rows:
        return ""
    items = "".join(
        f"<li>{text(row['node'])}: axes {text(row['permutation'])}, {number(row['bytes'], 'B')}, "
        f"{'at the boundary' if row['at_boundary'] else 'inside the model'}</li>"
        for row in rows
    )
    return section("Transposes", f"<ul>{items}</ul>", "They keep the source's dimension order at inputs and outputs.")


def _choices(result: Json) -> str:
    return section("Post-training choices", ptq_table(result["ptq"])) if result["ptq"] else ""


def _notes(result: Json) -> str:
    warnings = [note for note in result["notes"] if note["level"] == "warning"]
    others = [note for note in result["notes"] if note["level"] != "warning"]
    body = notes_list(warnings)
    if others:
        body += _details(f"{len(others)} notes of the passes", notes_list(others))
    return section("Warnings and notes", body or "<p>None.</p>")


def _grids(result: Json) -> str:
    table = activations_table(result["activations"])
    return section("Activation grids", _details(f"{len(result['activations'])} tensors", table))


def _footer(report: Json) -> str:
    run, result = report["run"], report["result"]
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    return (
        f"<footer>{_details('Options', options_table(result['options']))}"
        f"<p>Source SHA-256 <code>{text(result['model']['source_sha256'])}</code><br>"
        f"Artefact SHA-256 <code>{text(result['artefact']['sha256'])}</code><br>"
        f"{text(versions)}, Python {text(run['python'])}, {text(run['machine'])}</p></footer>\n"
    )


_SECTIONS: Sequence[Callable[[Json], str]] = (
    _header,
    _gate,
    _budget,
    _parity,
    _notes,
    _flash,
    _memory,
    _noise,
    _bisection,
    _bits,
    _sizes,
    _estimates,
    _projection,
    _operators,
    _choices,
    _boundary,
    _grids,
)
