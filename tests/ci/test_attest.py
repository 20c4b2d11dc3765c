"""Statement, bill of materials, card: what they vouch for is checked first; equal conversions give equal bytes."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_runs import kwsq, kwsq_convert, left, quantized_dense, samples

NAMES = ["MODEL_CARD.md", "model.cdx.json", "model.intoto.json"]


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("attest")
    assert kwsq_convert(quantized_dense(folder), "--target", "neon", "--wbits", 4, "-o", folder / "out").code == 0
    return folder / "out"


@pytest.fixture
def out(converted: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(converted, tmp_path / "out"))


def written(out: Path) -> dict[str, Any]:
    outcome = kwsq("attest", out)
    assert outcome.code == 0, outcome.stderr
    return {name: json.loads((out / name).read_text("utf-8")) for name in NAMES if name.endswith(".json")}


def test_the_statement_names_every_file_with_its_hash(out: Path) -> None:
    statement = written(out)["model.intoto.json"]
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "https://in-toto.io/attestation/test-result/v0.1"
    subject = {entry["name"]: entry["digest"]["sha256"] for entry in statement["subject"]}
    assert set(subject) == {"model.tflite", "report.json", "report.html"}
    for name, digest in subject.items():
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == digest
    predicate = statement["predicate"]
    assert predicate["result"] == "PASSED"
    assert len(predicate["passedTests"]) >= 4
    assert predicate["failedTests"] == []


def test_the_bill_of_materials_ties_artefact_and_source(converted: Path, out: Path) -> None:
    bom = written(out)["model.cdx.json"]
    assert (bom["bomFormat"], bom["specVersion"]) == ("CycloneDX", "1.6")
    artefact, (source,) = bom["metadata"]["component"], bom["components"]
    assert artefact["type"] == source["type"] == "machine-learning-model"
    assert artefact["hashes"][0]["content"] == hashlib.sha256((out / "model.tflite").read_bytes()).hexdigest()
    model = (converted.parent / "dense_w4.onnx").read_bytes()
    assert source["hashes"][0]["content"] == hashlib.sha256(model).hexdigest()
    assert bom["dependencies"] == [{"ref": artefact["bom-ref"], "dependsOn": [source["bom-ref"]]}]
    properties = {entry["name"]: entry["value"] for entry in artefact["properties"]}
    assert properties["kwsq:weight_bits"] == "4"


def bom_faults(bom: Any) -> list[str]:
    """What the schema of CycloneDX 1.6 would refuse in what kwsq writes; the schema itself where it is installed."""
    card = {"modelParameters", "quantitativeAnalysis"}
    component = {"type", "bom-ref", "name", "hashes", "modelCard", "properties"}
    known = {"bomFormat", "specVersion", "version", "metadata", "components", "dependencies"}
    main = bom["metadata"]["component"]
    every = [main, *bom["components"]]
    references = [entry["bom-ref"] for entry in every]
    checks = {
        "unknown keys": bom.keys() <= known and all(c.keys() <= component for c in every),
        "unknown keys of the card": main["modelCard"].keys() <= card,
        "a hash that is none": all(
            len(h["content"]) == 64 and h["alg"] == "SHA-256" for c in every for h in c["hashes"]
        ),
        "references that repeat": len(set(references)) == len(references),
        "a dependency on nothing": all({d["ref"], *d["dependsOn"]} <= set(references) for d in bom["dependencies"]),
        "properties that are not text": all(isinstance(p["value"], str) for p in main["properties"]),
    }
    return [name for name, holds in checks.items() if not holds]


def schema_faults(bom: Any) -> str:
    schema, validation = (pytest.importorskip(f"cyclonedx.{name}") for name in ("schema", "validation.json"))
    validator = validation.JsonStrictValidator(schema.SchemaVersion.V1_6)
    return str(validator.validate_str(json.dumps(bom)) or "")


def test_the_bill_of_materials_is_cyclonedx(out: Path) -> None:
    bom = written(out)["model.cdx.json"]
    assert bom_faults(bom) == []


def test_the_bill_of_materials_satisfies_the_published_schema(out: Path) -> None:
    bom = written(out)["model.cdx.json"]
    assert schema_faults(bom) == ""
    bom["metadata"]["component"]["type"] = "model"
    assert schema_faults(bom) != ""


@pytest.mark.parametrize("fault", ["key", "card", "hash", "repeat", "dangling", "number"])
def test_every_fault_of_a_bill_is_noticed(fault: str, out: Path) -> None:
    bom = written(out)["model.cdx.json"]
    main, (source,) = bom["metadata"]["component"], bom["components"]
    match fault:
        case "key":
            bom["timestamp"] = "now"
        case "card":
            main["modelCard"]["accuracy"] = 1
        case "hash":
            main["hashes"][0]["content"] = "00"
        case "repeat":
            source["bom-ref"] = main["bom-ref"]
            bom["dependencies"] = []
        case "dangling":
            bom["dependencies"][0]["dependsOn"] = ["nothing"]
        case "number":
            main["properties"][0]["value"] = 4
    assert len(bom_faults(bom)) == 1


def test_every_resource_of_the_statement_can_be_found(out: Path) -> None:
    """A resource descriptor needs a uri, a digest or its content: a name alone says nothing."""
    predicate = written(out)["model.intoto.json"]["predicate"]
    assert all(entry.keys() & {"uri", "digest", "content"} for entry in predicate["configuration"])
    assert predicate["configuration"][0]["name"] == "dense_w4.onnx"
    assert predicate["configuration"][1]["uri"].startswith("pkg:pypi/kwsq@")


def test_neither_times_nor_places_are_written(converted: Path, out: Path) -> None:
    """Equal bytes from another directory, and nothing of either directory in them."""
    written(out)
    again = Path(shutil.copytree(converted, out.parent / "elsewhere" / "deep"))
    written(again)
    for name in NAMES:
        data = (out / name).read_bytes()
        assert data == (again / name).read_bytes()
        assert str(out.parent).encode() not in data


def test_the_card_says_what_is_known_and_what_is_not(out: Path) -> None:
    written(out)
    card = (out / "MODEL_CARD.md").read_text("utf-8")
    assert "Accuracy was not assessed" in card
    assert "To be filled in by the makers" in card
    assert hashlib.sha256((out / "model.tflite").read_bytes()).hexdigest() in card


@pytest.fixture(scope="module")
def gated(converted: Path) -> Path:
    """The artefact against itself, on 400 inputs with labels that mean nothing."""
    data, report = samples(converted.parent, 400), converted.parent / "gate.json"
    model = converted / "model.tflite"
    outcome = kwsq("gate", "--reference", model, "--candidate", model, "--data", data, "-o", report)
    assert outcome.code in (0, 3), outcome.stderr
    return report


def test_a_gate_on_the_artefact_joins_all_three(out: Path, gated: Path) -> None:
    assert kwsq("attest", out, "--gate", gated).code == 0
    statement, bom = (json.loads((out / name).read_text("utf-8")) for name in ("model.intoto.json", "model.cdx.json"))
    predicate = statement["predicate"]
    checks = json.loads(gated.read_text("utf-8"))["result"]["checks"]
    assert {f"gate: {c['id']}" for c in checks if c["status"] == "PASS"} <= set(predicate["passedTests"])
    report = next(entry for entry in predicate["configuration"] if entry["name"] == "gate.json")
    assert report["digest"]["sha256"] == hashlib.sha256(gated.read_bytes()).hexdigest()
    metrics = bom["metadata"]["component"]["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    assert len(metrics) == sum(c["point"] is not None for c in checks) > 0
    assert all(m["confidenceInterval"].keys() == {"lowerBound", "upperBound"} for m in metrics)
    assert bom_faults(bom) == []
    assert "## Detection" in (out / "MODEL_CARD.md").read_text("utf-8")


def test_the_schema_takes_a_gates_metrics(out: Path, gated: Path) -> None:
    assert kwsq("attest", out, "--gate", gated).code == 0
    assert schema_faults(json.loads((out / "model.cdx.json").read_text("utf-8"))) == ""


def test_an_inconclusive_gate_warns_and_a_failed_or_foreign_one_is_refused(out: Path, gated: Path) -> None:
    def altered(change: Callable[[Any], None]) -> Path:
        report = json.loads(gated.read_text("utf-8"))
        change(report["result"])
        path = out.parent / "altered.json"
        path.write_text(json.dumps(report), encoding="utf-8")
        return path

    def inconclusive(result: Any) -> None:
        result["checks"][0]["status"] = result["verdict"]["status"] = "INCONCLUSIVE"

    assert kwsq("attest", out, "--gate", altered(inconclusive)).code == 0
    predicate = json.loads((out / "model.intoto.json").read_text("utf-8"))["predicate"]
    assert (predicate["result"], len(predicate["warnedTests"]) > 0) == ("WARNED", True)
    refusals = {
        "FAIL": lambda result: result["verdict"].update(status="FAIL"),
        "a gate on": lambda result: result["sources"]["candidate"].update(sha256="0" * 64),
    }
    for found, change in refusals.items():
        outcome = kwsq("attest", out, "--gate", altered(change))
        assert (outcome.code, found in outcome.stderr) == (2, True)
    outcome = kwsq("attest", out, "--gate", out / "report.json")
    assert (outcome.code, "another report" in outcome.stderr) == (2, True)
    assert kwsq("attest", out, "--gate", out / "absent.json").code == 2


def test_the_gate_of_the_conversion_is_not_forgotten(tmp_path: Path) -> None:
    model, data, folder = quantized_dense(tmp_path), samples(tmp_path, 400), tmp_path / "out"
    assert kwsq_convert(model, "--target", "neon", "--wbits", 4, "--data", data, "-o", folder).code == 0
    gate = json.loads((folder / "report.json").read_text("utf-8"))["result"]["gate"]
    predicate = written(folder)["model.intoto.json"]["predicate"]
    judged = {f"gate: {c['id']}" for c in gate["checks"] if c["status"] != "SKIPPED"}
    named = {*predicate["passedTests"], *predicate["warnedTests"]}
    assert judged
    assert judged == {name for name in named if name.startswith("gate: ")}
    assert all(entry.keys() & {"uri", "digest"} for entry in predicate["configuration"])
    assert any(
        e.get("digest", {}).get("sha256") == hashlib.sha256(data.read_bytes()).hexdigest()
        for e in predicate["configuration"]
    )
    assert "## Detection" in (folder / "MODEL_CARD.md").read_text("utf-8")


def test_equal_bytes_again(out: Path) -> None:
    written(out)
    first = {name: (out / name).read_bytes() for name in NAMES}
    written(out)
    assert {name: (out / name).read_bytes() for name in NAMES} == first


@pytest.mark.parametrize("name", ["model.tflite", "report.html", "report.json"])
def test_a_changed_file_is_not_vouched_for(name: str, out: Path) -> None:
    data = (out / name).read_bytes()
    (out / name).write_bytes(data + b" ")
    before = left(out)
    outcome = kwsq("attest", out)
    assert outcome.code == 2
    assert name in outcome.stderr
    assert left(out) == before


def test_a_manifest_cannot_point_elsewhere(out: Path) -> None:
    manifest = json.loads((out / "manifest.json").read_text("utf-8"))
    manifest["files"]["../dense_w4.onnx"] = {"sha256": "0" * 64, "bytes": 1}
    (out / "manifest.json").write_text(json.dumps(manifest))
    outcome = kwsq("attest", out)
    assert outcome.code == 2
    assert left(out) == ["manifest.json", "model.tflite", "report.html", "report.json"]


@pytest.mark.parametrize("text", ["", "[]", '{"files": 1}', '{"files": {"model.tflite": 3}}'])
def test_damaged_manifests_are_refused(text: str, out: Path) -> None:
    (out / "manifest.json").write_text(text)
    outcome = kwsq("attest", out)
    assert outcome.code == 2
    assert "Traceback" not in outcome.stderr


def test_a_failed_conversion_has_nothing_to_attest(out: Path) -> None:
    report = json.loads((out / "report.json").read_text("utf-8"))
    report["result"]["verdict"].update(passed=False, status="fail", exit_code=1)
    (out / "report.json").write_text(json.dumps(report))
    assert kwsq("attest", out).code == 2


def test_converting_again_removes_what_vouched_for_the_old_bytes(converted: Path, out: Path) -> None:
    written(out)
    model = quantized_dense(out.parent)
    assert kwsq_convert(model, "--target", "neon", "--wbits", 4, "-o", out, "--force").code == 0
    assert not [name for name in NAMES if (out / name).exists()]
