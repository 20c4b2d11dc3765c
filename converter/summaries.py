"""What each command prints, as blocks made from its JSON result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kwsq.converter.budget_summary import budget_table
from kwsq.converter.estimates import estimate_blocks
from kwsq.converter.footprint_summaries import footprint_totals
from kwsq.converter.safe_text import printable
from kwsq.converter.terminal import Block, Line, Table, name_cell, number

Json = Mapping[str, Any]
TOP_LAYERS = 10


def conversion_blocks(report: Json, directory: str) -> list[Block]:
    """Returns the summary of a conversion; the last lines are the parity verdict and the footprint."""
    result = report["result"]
    verdict, artefact = result["verdict"], result["artefact"]
    return [
        Line(f"{verdict['status'].upper()}  {printable(verdict['headline'])}", "good" if verdict["passed"] else "bad"),
        *(Line(f"  - {printable(reason)}", "bad") for reason in verdict["reasons"]),
        Line(f"output      {printable(directory)}"),
        *(Line(f"beside      {f['file']}, {number(f['bytes'], 'B')}: {f['what']}") for f in artefact["beside"]),
        Line(f"quantized   {_quantized(result)}"),
        *_accuracy_lines(result["accuracy"]),
        *_gate(result["gate"]),
        *budget_table(result["budget"]),
        *_notes(result["notes"]),
        _widths_table(result["weights"]),
        _layers_table(result["footprint"]["layers"]),
        _containers_table(result["containers"], result["runtimes"]),
        *estimate_blocks(artefact, result["footprint"]),
        *_parity_blocks(result["parity"]),
        *_noise_lines(result["layer_noise"]),
        *_bisection(result["bisection"]),
        *footprint_totals(result["footprint"]),
    ]


def _quantized(result: Json) -> str:
    model = result["model"]
    if model["quantization"] == "ptq":
        return f"after training (PTQ), {model['weight_bits']}-bit weights, {len(result['ptq'])} choices in the report"
    dialects = ", ".join(model["dialects"]) or "none"
    return f"during training (QAT), {model['weight_bits']}-bit weights, dialects: {dialects}"


def _accuracy_lines(accuracy: Json) -> list[Block]:
    if not accuracy["assessed"]:
        return [Line("accuracy    not assessed (add --data EVAL.npz)")]
    source, artefact = accuracy["source_top1"], accuracy["artefact_top1"]
    text = f"accuracy    source {source:.2%}, artefact {artefact:.2%} top-1 on {accuracy['samples']:,} samples"
    return [Line(text)]


def _gate(gate: Json | None) -> list[Block]:
    if gate is None:
        return []
    from kwsq.converter.gate_summaries import gate_of_conversion

    return gate_of_conversion(gate)


def _notes(notes: Sequence[Json]) -> list[Block]:
    return [
        Line(f"warning     {name_cell(note['where'])}: {printable(note['text'])}", "warning")
        for note in notes
        if note["level"] == "warning"
    ]


def _widths_table(weights: Sequence[Json]) -> Block:
    rows = tuple(
        (
            name_cell(w["tensor"]),
            _bits(w),
            w["container"],
            number(w["elements"]),
            number(w["distinct_codes"]),
            "gain folded" if w["gain_folded"] else "as annotated" if w["annotated_scale"] else "chosen",
        )
        for w in weights
    )
    return Table("Weights", ("tensor", "bits", "container", "weights", "codes used", "scale"), rows)


def _bits(weight: Json) -> str:
    bound = "" if weight["bits_declared"] else "≥ "
    codebook = " codebook" if weight["levels"] else ""
    return f"{bound}{weight['bits']}{codebook}{' (wider)' if weight['wider_than_requested'] else ''}"


def _layers_table(layers: Sequence[Json]) -> Block:
    top = sorted(layers, key=lambda layer: -layer["flash"]["total_bytes"])[:TOP_LAYERS]
    rows = tuple(
        (
            name_cell(layer["name"]),
            printable(layer["operator"], 24),
            number(layer["flash"]["total_bytes"]),
            number(layer["flash"]["weights_bytes"]),
            number(layer["macs"]),
            number(layer["live_activation_bytes"]),
        )
        for layer in top
    )
    title = f"Largest {len(rows)} of {len(layers)} operators"
    return Table(title, ("operator", "type", "flash B", "weights B", "MACs", "live B"), rows, left=2)


def _containers_table(containers: Sequence[Json], runtimes: Sequence[Json]) -> Block:
    rows = [
        (
            f"container {c['container']}{' (written)' if c['written'] else ''}",
            _sizes(c) if c["available"] else c["reason"],
        )
        for c in containers
    ]
    answers = {True: "yes", False: "no: ", None: ""}
    rows += [
        (f"runs in {r['name']}", answers[r["accepted"]] + (r["detail"] if not r["accepted"] else "")) for r in runtimes
    ]
    return Table("Containers and runtimes", ("", ""), tuple((a, printable(b)) for a, b in rows), left=2)


def _sizes(container: Json) -> str:
    text = f"{number(container['file_bytes'], 'B')}, weights {number(container['weight_bytes'], 'B')}"
    arena = container["arena_bytes"]
    return text if arena is None else f"{text}, arena of TensorFlow Lite Micro {number(arena, 'B')}"


def _parity_blocks(parity: Json) -> list[Block]:
    lines = [Line(""), Line(f"Parity on {parity['vectors']:,} inputs", "title")]
    for check in parity["checks"]:
        mark, style = ("pass", "good") if check["passed"] else ("FAIL", "bad")
        lines.append(Line(f"  {mark}  {printable(check['question'])}{_worst(check)}", style))
        if check["mismatches"]:
            first = check["mismatches"][0]
            place = "" if first["index"] is None else str(first["index"])
            found = f"{first['what']} {first['found']}, expected {first['expected']}"
            lines.append(Line(f"        first: {name_cell(first['tensor'])}{place}: {printable(found)}", "bad"))
    verdict = "parity PASSED" if parity["passed"] else "parity FAILED"
    return [*lines, Line(verdict, "good" if parity["passed"] else "bad")]


def _bisection(found: Json | None) -> list[Block]:
    if found is None:
        return []
    from kwsq.converter.bisect_command import bisection_blocks

    return bisection_blocks(found)


def _noise_lines(rows: Sequence[Json]) -> list[Block]:
    """Returns the layer furthest from the source; the report lists all."""
    if not rows:
        return []
    worst = min(rows, key=lambda row: row["sqnr_db"])
    text = f"lowest SQNR of {len(rows)} layers {worst['sqnr_db']:.1f} dB, {worst['rmse_steps']:.2f} steps rmse, in "
    return [Line(text + name_cell(worst["tensor"]))]


def _worst(check: Json) -> str:
    largest = largest_difference(check)
    return "" if largest is None else f" (largest difference {number(largest)} LSB)"


def largest_difference(check: Json) -> float | None:
    """Returns the largest difference of a parity check in LSB, None where it compares no outputs."""
    outputs = check["figures"].get("outputs", {})
    largest = max((figures.get("max_lsb", 0.0) for figures in outputs.values()), default=None)
    return None if largest is None else round(largest, 2)


def footprint_blocks(footprint: Json) -> list[Block]:
    """Returns the summary `kwsq footprint` prints."""
    containers = footprint["containers"]
    rows = tuple((key.removesuffix("_weight_bytes"), number(value)) for key, value in containers.items())
    return [
        Line(f"{footprint['format']}, {number(footprint['file_bytes'], 'B')}", "title"),
        *(Line(f"note: {printable(note)}", "warning") for note in footprint["notes"]),
        _layers_table(footprint["layers"]),
        Table("Weights in other containers", ("container", "bytes"), rows),
        *footprint_totals(footprint),
    ]


def inspection_blocks(facts: Json) -> list[Block]:
    """Returns the summary `kwsq inspect` prints."""
    blocks = {"tflite": _tflite_blocks, "kwsq": _pack_blocks, "onnx": _onnx_blocks}
    return blocks[facts["format"]](facts)


def run_blocks(facts: Json) -> list[Block]:
    """Returns the summary `kwsq run` prints."""
    rows = tuple((name_cell(o["name"]), o["dtype"], str(o["shape"])) for o in facts["outputs"])
    return [
        Line(f"{facts['vectors']:,} vectors in {printable(facts['runtime'], 60)}"),
        Table("Outputs", ("name", "type", "shape"), rows, left=3),
        Line(f"written to {printable(facts['output'])}"),
    ]


def _pack_blocks(facts: Json) -> list[Block]:
    public = [
        f"{kind}: {name_cell(t['name'])} {t['dtype']} {t['shape']}"
        + (f", state fed by {name_cell(t['state_from'])}" if t["state_from"] else "")
        for kind in ("inputs", "outputs")
        for t in facts[kind]
    ]
    sections = tuple((s["section"], number(s["bytes"]), s["sha256"][:16]) for s in facts["sections"])
    tensors = tuple(
        (
            name_cell(t["name"]),
            str(t["bits"]),
            t["scheme"] + (f" of {t['levels']}" if "levels" in t else ""),
            f"set bit means {t['bit1_means']:+d}" if "bit1_means" in t else "",
            str(t["shape"]),
            f"{t['layout']}, rows at {t['row_align_bits']} bits, {t['bit_order']}",
        )
        for t in facts["tensors"]
    )
    operators: dict[str, int] = {}
    for operator in facts["operators"]:
        operators[operator["operator"]] = operators.get(operator["operator"], 0) + 1
    counts = ", ".join(f"{count} {name}" for name, count in operators.items())
    version = ".".join(map(str, facts["version"]))
    return [
        Line(f"kwsq pack {version}, {number(facts['file_bytes'], 'B')}, digests verified", "title"),
        *(Line(line) for line in public),
        Line(f"operators: {counts}; activations {number(facts['arena_bytes'], 'B')}"),
        Table("Sections", ("section", "bytes", "SHA-256"), sections),
        Table("Weights", ("tensor", "bits", "scheme", "", "shape", "packing"), tensors, left=6),
    ]


def _tflite_blocks(facts: Json) -> list[Block]:
    operators = tuple(
        (printable(op["operator"], 32), number(op["version"]), ", ".join(map(name_cell, op["outputs"])))
        for op in facts["operators"]
    )
    tensors = tuple(
        (
            name_cell(t["name"]),
            t["dtype"],
            str(t["shape"]),
            "constant" if t["constant"] else "",
            _scale_cell(t),
            str(t["zero_point"][0]) if t["scale_count"] and t["zero_point"] else "",
        )
        for t in facts["tensors"]
    )
    public = [
        f"{kind}: {name_cell(t['name'])} {t['dtype']} {t['shape']}"
        for kind in ("inputs", "outputs")
        for t in facts[kind]
    ]
    return [
        Line(f"tflite, {number(facts['file_bytes'], 'B')}, {printable(facts['description'], 60)}", "title"),
        *(Line(line) for line in public),
        Table("Operators", ("operator", "version", "outputs"), operators, left=3),
        Table("Tensors", ("tensor", "type", "shape", "", "scale", "zero point"), tensors, left=4),
    ]


def _scale_cell(tensor: Json) -> str:
    count, scales = tensor["scale_count"], tensor["scale"]
    if not count:
        return ""
    first = f"{scales[0]:.8g}" if isinstance(scales[0], float) else scales[0]
    return first if count == 1 else f"{first} and {count - 1} more"


def _onnx_blocks(facts: Json) -> list[Block]:
    opsets = ", ".join(f"{printable(domain, 40)} {version}" for domain, version in facts["opsets"].items())
    public = [
        f"{kind}: {name_cell(t['name'])} {t['dtype']} {t['shape']}"
        for kind in ("inputs", "outputs")
        for t in facts[kind]
    ]
    quantizers = tuple(
        (
            name_cell(q["tensor"]),
            q["role"],
            q["dialect"],
            ("" if q["bits_declared"] else "≥ ") + str(q["bits"]),
            q["grid"],
            _scale_cell(q),
            "" if q["range"] is None else f"{q['range'][0]} to {q['range'][1]}",
        )
        for q in facts["quantizers"]
    )
    headers = ("tensor", "role", "dialect", "bits", "grid", "scale", "codes")
    return [
        Line(f"onnx, {number(facts['file_bytes'], 'B')}, {printable(facts['producer'], 60)}, opsets {opsets}", "title"),
        *(Line(line) for line in public),
        Line(f"dialects: {', '.join(facts['dialects']) or 'none (a float model)'}"),
        *([Table("Quantizers", headers, quantizers, left=3)] if quantizers else []),
        *_judgement(facts),
    ]


def _judgement(facts: Json) -> list[Block]:
    if not facts["convertible"]:
        refused = [Line(f"  - {_problem(problem)}", "bad") for problem in facts["refused"]]
        return [Line(""), Line(f"would be refused, {len(refused)} problems:", "bad"), *refused]
    needs = [Line(f"  needs: {_problem(problem)}", "warning") for problem in facts["needs"]]
    return [Line(""), Line("would convert", "good"), *needs]


def _problem(problem: Json) -> str:
    op = f" ({problem['op']}, opset {problem['opset']})" if problem["op"] else ""
    text = f"{problem['where']}{op}: found {problem['found']}; expected {problem['expected']}; {problem['remedy']}"
    return printable(text)


def ops_blocks(facts: Json) -> list[Block]:
    """Returns the summary `kwsq ops` prints."""
    opsets = facts["onnx_opsets"]
    rows = tuple((op["name"], ", ".join(op["tflite"]) or "several of the others") for op in facts["integer_operators"])
    return [
        Line(f"ONNX opsets {opsets['lowest']} to {opsets['highest']}", "title"),
        Line(f"operators: {', '.join(facts['onnx_operators'])}"),
        *(Line(f"{name} only as {form}") for name, form in facts["onnx_operators_in_patterns"].items()),
        Line(f"on constants or inside quantizers: {', '.join(facts['onnx_constant_operators'])}"),
        Line(f"quantizers: {', '.join(facts['onnx_quantizers'])}"),
        Table("Dialects", ("dialect", "what"), tuple((d["name"], d["what"]) for d in facts["dialects"]), left=2),
        Table("Integer operators", ("kwsq", "TensorFlow Lite"), rows, left=2),
    ]
