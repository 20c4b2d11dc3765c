"""`kwsq report` on both kinds of report: every format, hostile names, and files that are no report of this kwsq."""

from __future__ import annotations

import copy
import json
import random
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_runs import kwsq, kwsq_convert, quantized_dense

from kwsq.converter.gate_render import Format, render
from kwsq.converter.json_schema import violations
from kwsq.converter.markdown import MARKDOWN_MAX_BYTES, capped
from kwsq.converter.report_render import render_conversion
from kwsq.converter.saved_report import CONVERSION_SCHEMA, GATE_SCHEMA, read_saved, schema
from kwsq.ir.errors import UsageError

FORMATS: tuple[Format, ...] = ("text", "md", "junit", "html")
HOSTILE = "n\x00\x1b[2J]]></failure><script>|`@x\ud800\ufffe\n</details>"
Json = dict[str, Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reports")


@pytest.fixture(scope="module")
def conversion(folder: Path) -> Json:
    settings = folder / "kwsq.toml"
    settings.write_text('[budget]\nflash_total = { max = "1MiB" }\n', encoding="utf-8")
    out = folder / "out"
    outcome = kwsq_convert(quantized_dense(folder), "--target", "neon", "--config", settings, "-o", out, "-q")
    assert outcome.code == 0, outcome.stderr
    found: Json = json.loads((out / "report.json").read_text("utf-8"))
    return found


@pytest.fixture(scope="module")
def gate(folder: Path) -> Json:
    rng = np.random.default_rng(0)
    label = np.repeat([1, 0], [200, 2000])
    score = rng.normal(4.6 * label, 1.0)
    for name, scores in (("ref.csv", score), ("cand.csv", score + rng.normal(0, 0.1, label.size))):
        rows = (f"{i},{y},{s!r}" for i, (y, s) in enumerate(zip(label.tolist(), scores.tolist(), strict=True)))
        (folder / name).write_text("\n".join(["trial_id,label,score", *rows]), encoding="utf-8")
    pair = ("--reference", folder / "ref.csv", "--candidate", folder / "cand.csv")
    assert kwsq("gate", *pair, "-o", folder / "gate.json", "-q").code in (0, 1, 3)
    found: Json = json.loads((folder / "gate.json").read_text("utf-8"))
    return found


def saved(folder: Path, document: object) -> Path:
    path = folder / "r.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


# ---- both kinds, every format ----


@pytest.mark.parametrize("kind", ["conversion", "gate"])
def test_every_format_says_the_verdict(kind: str, tmp_path: Path, conversion: Json, gate: Json) -> None:
    document = {"conversion": conversion, "gate": gate}[kind]
    path = saved(tmp_path, document)
    verdict = document["result"]["verdict"]["status"]
    for to in FORMATS:
        outcome = kwsq("report", path, "--to", to)
        assert outcome.code == 0, outcome.stderr
        said = "Parity proven" if kind == "conversion" and to != "text" else verdict
        assert said.lower() in outcome.stdout.lower()
        assert kwsq("report", path, "--to", to).stdout == outcome.stdout


def test_both_schemas_are_shipped_and_kept(conversion: Json, gate: Json) -> None:
    assert violations(conversion, schema(CONVERSION_SCHEMA)) == []
    assert violations(gate, schema(GATE_SCHEMA)) == []
    assert violations(gate, schema(CONVERSION_SCHEMA))
    assert violations(conversion, schema(GATE_SCHEMA))


def test_the_result_of_a_gate_is_reproducible(folder: Path, gate: Json) -> None:
    pair = ("--reference", folder / "ref.csv", "--candidate", folder / "cand.csv")
    assert json.loads(kwsq("gate", *pair, "--json").stdout) == gate


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["result"].update(time="now"),
        lambda d: d["result"]["checks"][0].update(point="0"),
        lambda d: d["result"]["checks"][0].update(unit="furlong"),
        lambda d: d["result"]["operating_point"]["candidate"]["matched"].update(false_accept_rate=1.5),
        lambda d: d["result"]["det_curves"]["reference"].pop("threshold"),
        lambda d: d["result"]["sources"]["candidate"].update(sha256="0"),
        lambda d: d["result"]["verdict"].update(exit_code=2),
        lambda d: d.pop("run"),
    ],
)
def test_the_gate_schema_notices(gate: Json, change: Callable[[Json], object]) -> None:
    damaged = copy.deepcopy(gate)
    change(damaged)
    assert violations(damaged, schema(GATE_SCHEMA))


# ---- JUnit and Markdown ----


def cases_of(text: str) -> list[ET.Element]:
    return list(ET.fromstring(text.encode("utf-8")).iter("testcase"))


def hostile(document: Json) -> Json:
    """The report with every name a model or a user provides replaced."""
    found = copy.deepcopy(document)
    result = found["result"]
    if "checks" in result:
        result["sources"]["candidate"]["file"] = HOSTILE
        result["notes"] = [HOSTILE]
        for check in result["checks"]:
            check["id"] = check["question"] = check["reason"] = HOSTILE
        return found
    result["model"]["name"] = result["verdict"]["headline"] = result["options"]["model"] = HOSTILE
    result["verdict"]["reasons"] = [HOSTILE]
    result["notes"] = [{"source": HOSTILE, "where": HOSTILE, "text": HOSTILE, "level": "warning"}]
    for row in (*result["weights"], *result["activations"], *result["footprint"]["layers"], *result["runtimes"]):
        row.update({key: HOSTILE for key in ("tensor", "name", "layer", "detail") if key in row})
    for check in result["parity"]["checks"]:
        check["name"] = check["question"] = HOSTILE
    return found


@pytest.mark.parametrize("kind", ["conversion", "gate"])
def test_hostile_names_stay_text_in_every_format(kind: str, tmp_path: Path, conversion: Json, gate: Json) -> None:
    path = saved(tmp_path, hostile({"conversion": conversion, "gate": gate}[kind]))
    for to in FORMATS:
        outcome = kwsq("report", path, "--to", to)
        assert outcome.code == 0, outcome.stderr
        for raw in ("\x00", "\x1b", "\ud800", "\ufffe"):
            assert raw not in outcome.stdout
        if to == "junit":
            cases = cases_of(outcome.stdout)
            assert any("]]></failure><script>" in (case.get("name") or "") for case in cases)
        elif to in ("md", "html"):
            assert "<script" not in outcome.stdout
        if to == "md":
            assert "@x" not in outcome.stdout.replace("\\@x", "")
            assert all(line.count(" | ") == 6 for line in outcome.stdout.splitlines() if line.startswith("| \\n"))


def test_markdown_is_cut_at_its_size_with_nothing_left_open(conversion: Json) -> None:
    long = copy.deepcopy(conversion)
    long["result"]["notes"] = [
        {"source": "s", "where": f"w{i}", "text": "t" * 200, "level": "warning"} for i in range(2000)
    ]
    long["result"]["verdict"]["reasons"] = ["r" * 250] * 400
    text = render_conversion(long, "md", "")
    assert MARKDOWN_MAX_BYTES - 1000 < len(text.encode()) <= MARKDOWN_MAX_BYTES + 100
    assert "(cut: the report is longer)" in text
    assert text.count("<details>") == text.count("</details>")
    inside = capped(["<details><summary>x</summary>", *["y" * 1000] * 70])
    assert inside.count("</details>") == 1
    assert capped(["a", "b"]) == "a\nb\n"


# ---- what is no report ----


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "whole JSON"),
        ('{"generator": "kwsq", "result": {', "whole JSON"),
        ("[" * 100_000, "whole JSON"),
        ('{"a": ' * 60 + "1" + "}" * 60, "nested deeper"),
        ('{"generator": "kwsq", "result": NaN}', "NaN"),
        ('{"generator": "kwsq", "result": 1e999}', "beyond"),
        (f'{{"generator": "kwsq", "result": {"9" * 5000}}}', "digits"),
        ("[]", "another document"),
        ('{"generator": "other", "result": {}}', "another document"),
        ('{"generator": "kwsq", "kind": "plan", "result": {}}', "another document"),
        ('{"generator": "kwsq", "schema_version": 2, "result": {}}', "newer than this kwsq"),
        ('{"generator": "kwsq", "schema_version": 0, "result": {}}', "older than this kwsq"),
        ('{"generator": "kwsq", "kind": "gate", "schema_version": 7, "result": {}}', "newer than this kwsq"),
        ('{"generator": "kwsq", "schema_version": true, "result": {}}', "schema version 'True'"),
        ('{"generator": "kwsq", "schema_version": 1, "result": {}}', "damaged report"),
    ],
)
def test_other_files_end_with_2_and_say_why(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text(text, encoding="utf-8")
    outcome = kwsq("report", path)
    assert (outcome.code, outcome.stdout) == (2, "")
    assert message in outcome.stderr
    assert len(outcome.stderr) < 3000
    assert "Traceback" not in outcome.stderr


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_report_ends_with_2(share: float, conversion: Json, tmp_path: Path) -> None:
    path = saved(tmp_path, conversion)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    assert kwsq("report", path, "--to", "html").code == 2


def test_lists_that_disagree_are_refused(conversion: Json, gate: Json, tmp_path: Path) -> None:
    short = copy.deepcopy(conversion)
    short["result"]["footprint"]["activations"]["live_bytes_per_step"].pop()
    curve = copy.deepcopy(gate)
    curve["result"]["det_curves"]["reference"]["threshold"].pop()
    for document in (short, curve):
        outcome = kwsq("report", saved(tmp_path, document), "--to", "html")
        assert (outcome.code, "damaged report" in outcome.stderr) == (2, True)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield (*path, key)
        yield from places(child, (*path, key))


VALUES: tuple[Any, ...] = (None, True, -1, 0, 10**19, 1e308, -1e308, 0.5, "", HOSTILE, [], {}, [[1]], {"a": None})


@pytest.mark.parametrize("kind", ["conversion", "gate"])
def test_whatever_is_changed_a_report_is_rendered_or_refused(
    kind: str, tmp_path: Path, conversion: Json, gate: Json
) -> None:
    document = {"conversion": conversion, "gate": gate}[kind]
    draw = random.Random(7)
    everywhere, refused, rendered = list(places(document)), 0, 0
    for _ in range(400):
        damaged = copy.deepcopy(document)
        *parents, last = draw.choice(everywhere)
        place = damaged
        for key in parents:
            place = place[key]
        if draw.random() < 0.2:
            del place[last]
        else:
            place[last] = copy.deepcopy(draw.choice(VALUES))
        try:
            checked = read_saved(saved(tmp_path, damaged))
        except UsageError:
            refused += 1
            continue
        rendered += 1
        for to in FORMATS:
            text = render(checked, to) if kind == "gate" else render_conversion(checked, to, "")
            if to == "junit":
                cases_of(text)
    # The mutations reach both sides, or nothing was tested.
    assert min(refused, rendered) > 20


def test_the_change_from_a_baseline_is_in_every_format(conversion: Json, tmp_path: Path) -> None:
    changed = copy.deepcopy(conversion)
    line = changed["result"]["budget"][0]
    line["baseline"] = line["measured"] - 24
    path = saved(tmp_path, changed)
    for to in ("text", "md", "html"):
        shown = kwsq("report", path, "--to", to).stdout.replace("\\", "")
        assert "change" in shown
        assert "+24 (+" in shown
        assert "+24 (+" not in kwsq("report", saved(tmp_path, conversion), "--to", to).stdout.replace("\\", "")
        path = saved(tmp_path, changed)
