"""What a release carries besides the model: an in-toto statement, an ML-BOM and a model card.

All three are made from report.json and manifest.json after the files' hashes were checked, and hold no times, paths or
hosts: the same conversion gives the same bytes. The statement is unsigned; signing is the release pipeline's.

Source: in-toto Attestation Framework, Statement v1 and predicate Test Result v0.1; CycloneDX 1.6.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kwsq.converter.attested_gate import GateEvidence, gate_evidence, own_gate
from kwsq.converter.input_file import read_file
from kwsq.converter.manifest import json_bytes
from kwsq.converter.model_card import model_card
from kwsq.converter.output import BOM, CARD, MANIFEST, REPORT_JSON, STATEMENT, write_beside
from kwsq.converter.saved_report import is_gate, read_saved
from kwsq.ir.errors import Problem, UsageError

Json = dict[str, Any]
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://in-toto.io/attestation/test-result/v0.1"


def attest(directory: Path, gate: Path | None = None) -> list[str]:
    """Writes the three files into a conversion's directory; returns their names.

    Args:
        directory: of a passed conversion.
        gate: report of `kwsq gate` on the artefact in it; None takes the gate of the conversion, if it ran one.

    Raises:
        UsageError: no conversion's output, a failed one, a file that is not what the manifest says, or a gate that
            failed or was about another file.
    """
    report = read_saved(directory / REPORT_JSON)
    if is_gate(report) or not report["result"]["verdict"]["passed"]:
        remedy = "convert the model first; a failed conversion leaves nothing to attest"
        raise UsageError(Problem(f"directory {str(directory)!r}", "no proven artefact", "a passed conversion", remedy))
    manifest = _checked_manifest(directory)
    accepted = [report["result"]["artefact"]["sha256"]]
    evidence = own_gate(report) if gate is None else gate_evidence(gate, accepted)
    files = {
        STATEMENT: json_bytes(statement(report, manifest, evidence)),
        BOM: json_bytes(bill_of_materials(report, manifest, evidence)),
        CARD: model_card(report, evidence).encode(),
    }
    write_beside(directory, files)
    return list(files)


def _checked_manifest(directory: Path) -> Json:
    where = f"manifest {str(directory / MANIFEST)!r}"
    try:
        manifest: Json = json.loads(read_file(directory / MANIFEST, "manifest"))
        named = {name: str(entry["sha256"]) for name, entry in manifest["files"].items()}
        source = (str(manifest["source"]["name"]), str(manifest["source"]["sha256"]), dict(manifest["versions"]))
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(Problem(where, f"a damaged file: {error}", "a manifest of kwsq", "convert again")) from error
    changed = [
        Problem(f"file {name!r}", f"SHA-256 {found}", f"{digest}, as in {MANIFEST}", "convert again")
        for name, digest in named.items()
        if (found := hashlib.sha256(read_file(directory / Path(name).name, "file")).hexdigest()) != digest
    ]
    if changed:
        raise UsageError(changed)
    return {**manifest, "source": {"name": source[0], "sha256": source[1]}}


def statement(report: Json, manifest: Json, gate: GateEvidence | None = None) -> Json:
    """Returns the in-toto statement: these files passed these checks.

    Args:
        report: of the conversion.
        manifest: beside it.
        gate: on the artefact, if there was one.
    """
    checks = report["result"]["parity"]["checks"]
    lines = report["result"]["budget"]
    warned = [f"budget: {line['metric']}" for line in lines if line["status"] == "warn"]
    passed = [f"parity: {check['name']}" for check in checks]
    passed += [f"budget: {line['metric']}" for line in lines if line["status"] == "pass"]
    if gate is not None:
        passed += gate.tests("PASS")
        # A failed gate reaches here only where the settings do not enforce it.
        warned += gate.tests("INCONCLUSIVE", "FAIL")
    return {
        "_type": STATEMENT_TYPE,
        "subject": [
            {"name": name, "digest": {"sha256": entry["sha256"]}} for name, entry in sorted(manifest["files"].items())
        ],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "result": "WARNED" if warned else "PASSED",
            "configuration": [
                {"name": manifest["source"]["name"], "digest": {"sha256": manifest["source"]["sha256"]}},
                {
                    "name": "kwsq",
                    "uri": f"pkg:pypi/kwsq@{manifest['versions']['kwsq']}",
                    "annotations": {"versions": manifest["versions"], "options": manifest["options"]},
                },
                *(gate.resources() if gate is not None else ()),
            ],
            "passedTests": passed,
            "warnedTests": warned,
            "failedTests": [],
        },
    }


def bill_of_materials(report: Json, manifest: Json, gate: GateEvidence | None = None) -> Json:
    """Returns the CycloneDX document: the artefact, the model it comes from, and the tool between them.

    Args:
        report: of the conversion.
        manifest: beside it.
        gate: on the artefact, if there was one.
    """
    artefact, source = report["result"]["artefact"], manifest["source"]
    references = {name: f"model:sha256:{digest}" for name, digest in _digests(artefact, source).items()}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "tools": {
                "components": [
                    {"type": "application", "name": name, "version": version}
                    for name, version in manifest["versions"].items()
                ]
            },
            "component": {
                "type": "machine-learning-model",
                "bom-ref": references["artefact"],
                "name": artefact["file"],
                "hashes": [_hash(artefact["sha256"])],
                "modelCard": _card(report["result"], gate),
                "properties": _properties(report["result"]),
            },
        },
        "components": [
            {
                "type": "machine-learning-model",
                "bom-ref": references["source"],
                "name": source["name"],
                "hashes": [_hash(source["sha256"])],
            }
        ],
        "dependencies": [{"ref": references["artefact"], "dependsOn": [references["source"]]}],
    }


def _digests(artefact: Json, source: Mapping[str, str]) -> dict[str, str]:
    return {"artefact": artefact["sha256"], "source": source["sha256"]}


def _hash(digest: str) -> Json:
    return {"alg": "SHA-256", "content": digest}


def _card(result: Json, gate: GateEvidence | None) -> Json:
    accuracy = result["accuracy"]
    metrics = [{"type": "top-1 accuracy", "value": f"{accuracy['artefact_top1']:.6f}"}] if accuracy["assessed"] else []
    if gate is not None:
        metrics += gate.metrics()
    return {
        "modelParameters": {
            "task": "keyword spotting",
            "inputs": [{"format": _format(tensor)} for tensor in result["inputs"]],
            "outputs": [{"format": _format(tensor)} for tensor in result["outputs"]],
        },
        "quantitativeAnalysis": {"performanceMetrics": metrics},
    }


def _format(tensor: Json) -> str:
    return f"{tensor['dtype']}{tensor['shape']} {tensor['name']}"


def _properties(result: Json) -> list[Json]:
    model, footprint = result["model"], result["footprint"]
    values = {
        "quantization": model["quantization"],
        "weight_bits": model["weight_bits"],
        "target": result["options"]["target"],
        "container": result["artefact"]["container"],
        "flash_bytes": result["artefact"]["bytes"],
        "activation_ram_bytes": footprint["totals"]["activation_ram_bytes"],
        "macs": footprint["macs"],
    }
    return [{"name": f"kwsq:{name}", "value": str(value)} for name, value in values.items()]
