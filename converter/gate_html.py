"""A gate's report as one page without network or scripts: verdict, checks, DET plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any

from kwsq.converter.gate.report import amount
from kwsq.converter.html import page, section
from kwsq.converter.html_tables import notes_list, table
from kwsq.converter.plots import text

Json = Mapping[str, Any]
TICKS = (0.001, 0.01, 0.05, 0.1, 0.2, 0.4)
FLOOR, CEILING = 1e-4, 0.6
"""Rates outside are drawn at the edge: probits of 0 and 1 are infinite."""
_SIDE = 100.0
_CLASSES = {"PASS": "pass", "FAIL": "fail", "INCONCLUSIVE": "open"}


def gate_page(report: Json) -> str:
    """Returns the page for a gate's report."""
    result = report["result"]
    verdict, sources = result["verdict"], result["sources"]
    title = f"kwsq gate: {verdict['status']}, {sources['candidate']['file']} against {sources['reference']['file']}"
    return page(title, _header(result) + gate_sections(result) + _footer(report))


def gate_sections(result: Json) -> str:
    """Returns checks, DET plot and notes of a gate's result."""
    return _checks(result) + _budget(result) + _det(result) + _notes(result)


def _header(result: Json) -> str:
    verdict, sources, trials = result["verdict"], result["sources"], result["trials"]
    size = f"{trials['positives']:,} keyword trials, {trials['negatives']:,} others, {trials['negative_hours']:,.2f} h"
    reasons = "".join(f"<li>{text(reason)}</li>" for reason in verdict["reasons"])
    return (
        f"<header><h1>{text(sources['candidate']['file'])}</h1>"
        f'<p class="soft">against {text(sources["reference"]["file"])}; {text(size)}</p>'
        f"{verdict_badge(verdict['status'])}"
        f"{f'<ul>{reasons}</ul>' if reasons else ''}</header>\n"
    )


def verdict_badge(status: str) -> str:
    """Returns a verdict as the page shows it."""
    return f'<p class="verdict {_CLASSES[status]}">{text(status)}</p>'


def _checks(result: Json) -> str:
    rows = []
    for check in result["checks"]:
        measured = check["point"] is not None
        bounds = [amount(check[key], check["unit"]) if measured else "" for key in ("point", "lower", "upper")]
        margin = amount(check["margin"], check["unit"]) if check["unit"] else ""
        found = check["method"] if measured else check["reason"]
        rows.append((check["id"], check["status"], check["question"], *bounds, margin, found))
    confidence = f"{100 * result['settings']['confidence']:g} %"
    headers = ("check", "", "worse in", "measured", f"lower {confidence}", f"upper {confidence}", "margin", "method")
    lead = "Positive is worse. PASS: the upper bound is below the margin. Bounds are one-sided."
    return section("Checks", table(headers, rows, frozenset({3, 4, 5, 6})), lead)


def _budget(result: Json) -> str:
    lines = result.get("budget", {}).get("lines", ())
    keys = ("measured", "limit", "baseline")
    rows = [
        (line["metric"], *("" if line[key] is None else f"{line[key]:,g}" for key in keys), line["status"])
        for line in lines
    ]
    return section("Budget", table(("metric", *keys, ""), rows, frozenset({1, 2, 3}))) if rows else ""


def _det(result: Json) -> str:
    point, curves = result["operating_point"], result["det_curves"]
    drawn = "".join(_curve(curves[name], name) for name in ("reference", "candidate"))
    plot = (
        f'<figure class="det"><svg viewBox="0 0 {_SIDE:g} {_SIDE:g}" role="img" aria-label="DET curves of both models">'
        f"{_grid()}{drawn}{_interval(result)}</svg>"
        '<ul class="legend"><li><i class="det-reference"></i>reference</li>'
        '<li><i class="det-candidate"></i>candidate, with the bounds of P1 at the operating point</li></ul></figure>'
    )
    rows = []
    for name in ("reference", "candidate"):
        counts = point[name]["matched"]
        rates = ["" if counts[key] is None else f"{counts[key]:.4g}" for key in _RATES]
        numbers = [f"{counts[key]:,.1f}" for key in ("false_rejects", "true_accepts", "false_accepts")]
        rows.append((name, f"{point[name]['threshold']:.6g}", *numbers, *rates))
    headers = ("at matched FRR", "threshold", "FR", "TA", "FA", "FRR", "FAR", "FA/h", "FDR")
    lead = "False reject rate (up) against false accept rate (right), both on normal-deviate scales."
    return section("Detection error trade-off", plot + table(headers, rows, frozenset(range(1, 9))), lead)


_RATES = ("false_reject_rate", "false_accept_rate", "false_accepts_per_hour", "false_discovery_rate")


def deviate(rate: float) -> float:
    """Returns the position of a rate on an axis of 0 to 100.

    >>> deviate(0.0), deviate(1.0)
    (0.0, 100.0)
    """
    normal = NormalDist()
    low, high = normal.inv_cdf(FLOOR), normal.inv_cdf(CEILING)
    return _SIDE * (normal.inv_cdf(min(max(rate, FLOOR), CEILING)) - low) / (high - low)


def _grid() -> str:
    lines = []
    for rate in TICKS:
        at = deviate(rate)
        lines.append(f'<line class="det-grid" x1="{at:.2f}" x2="{at:.2f}" y1="0" y2="{_SIDE:g}"/>')
        lines.append(f'<line class="det-grid" y1="{_SIDE - at:.2f}" y2="{_SIDE - at:.2f}" x1="0" x2="{_SIDE:g}"/>')
        lines.append(f'<text x="{at + 0.6:.2f}" y="{_SIDE - 1:g}">{100 * rate:g} %</text>')
        lines.append(f'<text x="0.6" y="{_SIDE - at - 0.6:.2f}">{100 * rate:g} %</text>')
    return "".join(lines)


def _curve(curve: Json, name: str) -> str:
    pairs = zip(curve["false_accept_rate"], curve["false_reject_rate"], strict=True)
    points = " ".join(f"{deviate(x):.2f},{_SIDE - deviate(y):.2f}" for x, y in pairs)
    return f'<polyline class="det-{name}" points="{points}"/>'


def _interval(result: Json) -> str:
    """Returns the operating points, and the reference's false accept rate times P1's bounds."""
    point = result["operating_point"]
    y = _SIDE - deviate(point["target_frr"])
    rates = [point[name]["matched"]["false_accept_rate"] for name in ("reference", "candidate")]
    dots = [
        f'<circle class="det-{name}" cx="{deviate(rate):.2f}" cy="{y:.2f}" r="0.8"/>'
        for name, rate in zip(("reference", "candidate"), rates, strict=True)
        if rate is not None
    ]
    ratio = next((check for check in result["checks"] if check["id"] == "P1.fa_ratio"), None)
    if ratio is None or ratio["lower"] is None or rates[0] is None:
        return "".join(dots)
    low = deviate(rates[0] * (1.0 + ratio["lower"]))
    high = _SIDE if ratio["upper"] is None else deviate(rates[0] * (1.0 + ratio["upper"]))
    ends: Sequence[float] = (low, high)
    caps = "".join(
        f'<line class="det-bound" x1="{x:.2f}" x2="{x:.2f}" y1="{y - 2:.2f}" y2="{y + 2:.2f}"/>' for x in ends
    )
    bar = f'<line class="det-bound" x1="{low:.2f}" x2="{high:.2f}" y1="{y:.2f}" y2="{y:.2f}"/>'
    return bar + caps + "".join(dots)


def _notes(result: Json) -> str:
    notes = [{"source": "gate", "where": "", "text": note, "level": "info"} for note in result["notes"]]
    return section("Notes", notes_list(notes)) if notes else ""


def _footer(report: Json) -> str:
    run, sources = report["run"], report["result"]["sources"]
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    hashes = "".join(f"<br>{name} SHA-256 <code>{text(source['sha256'])}</code>" for name, source in sources.items())
    return f"<footer><p>{text(versions)}, Python {text(run['python'])}{hashes}</p></footer>\n"
