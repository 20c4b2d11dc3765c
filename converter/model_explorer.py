"""Node data for Model Explorer: one figure per operator, to be laid over the graph of the `.tflite` file.

A file holds one figure for one graph: `results` maps the name of an operator's output tensor to its value, `gradient`
colours the values from the least to the largest.

Source: google-ai-edge/model-explorer, src/server/package/src/model_explorer/node_data_builder.py (GraphNodeData).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kwsq.ir.errors import Problem, UsageError

Json = Mapping[str, Any]
FIGURES = ("sqnr", "flash", "macs", "memory")
_COOL, _WARM = "#e8f0fa", "#c0392b"


def node_data(report: Json, figure: str) -> dict[str, Any]:
    """Returns the node data of a conversion's report.

    Args:
        report: of a conversion to a `.tflite` file.
        figure: "sqnr" in dB, "flash" and "memory" in bytes, or "macs".

    Raises:
        UsageError: the report is about another kind of file.
    """
    result = report["result"]
    written = result["footprint"]["format"] if "footprint" in result else "score"
    if written != "tflite":
        found, remedy = f"a {written} file", "convert with --target neon"
        raise UsageError(Problem("--to model-explorer", found, "a report about a .tflite file", remedy))
    if figure == "sqnr":
        values = {row["tensor"]: round(row["sqnr_db"], 2) for row in result["layer_noise"]}
    else:
        values = {layer["name"]: _of(layer, figure) for layer in result["footprint"]["layers"]}
    # A low SQNR is what to look at; of everything else it is much.
    colors = (_WARM, _COOL) if figure == "sqnr" else (_COOL, _WARM)
    return {
        "results": {name: {"value": value} for name, value in values.items()},
        "gradient": [{"stop": stop, "bgColor": color} for stop, color in enumerate(colors)],
    }


def _of(layer: Json, figure: str) -> int:
    found = {
        "flash": layer["flash"]["total_bytes"],
        "macs": layer["macs"],
        "memory": layer["live_activation_bytes"],
    }
    return int(found[figure])
