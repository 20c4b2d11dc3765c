"""The allow-list at the front door is what the later steps really read."""

from __future__ import annotations

import onnx.defs
import pytest

from kwsq.passes.importers import IMPORTERS
from kwsq.passes.known_ops import (
    FOLDED_OPS,
    MICROSOFT_OPS,
    OPSET_HIGH,
    QUANTIZER_OPS,
    REAL_OPS,
    canonical_domain,
    is_known,
    refusal,
)


def test_the_operators_on_activations_are_those_of_the_importers() -> None:
    assert {op for op in IMPORTERS if not op.startswith("kwsq.")} == REAL_OPS


def test_every_listed_operator_of_the_default_domain_exists() -> None:
    schemas = {schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""}
    assert schemas >= REAL_OPS | FOLDED_OPS | QUANTIZER_OPS


def test_the_newest_opset_is_one_the_installed_onnx_knows() -> None:
    assert onnx.defs.onnx_opset_version() >= OPSET_HIGH


@pytest.mark.parametrize("op", sorted(MICROSOFT_OPS))
def test_microsoft_operators_are_read_in_their_domain_only(op: str) -> None:
    assert is_known("com.microsoft", op)
    assert is_known("", op) is (op in QUANTIZER_OPS)


@pytest.mark.parametrize(
    ("domain", "op", "word"),
    [
        ("", "LSTM", "recurrent"),
        ("", "If", "control flow"),
        ("trt", "TRT_FP8QuantizeLinear", "TensorRT"),
        ("com.microsoft", "MatMulNBits", "block-wise"),
        ("com.microsoft", "FusedConv", "optimizer"),
        ("qonnx.custom_op.general", "FloatQuant", "minifloat"),
        ("org.openvinotoolkit", "FakeQuantize", "OpenVINO"),
        ("", "Einsum", "no integer form"),
        ("my.domain", "Anything", "unknown domain"),
        ("", "DynamicQuantizeLinear", "depends on the data"),
    ],
)
def test_refusals_say_what_it_is_and_what_to_do(domain: str, op: str, word: str) -> None:
    assert not is_known(domain, op)
    found, remedy = refusal(domain, op)
    assert word in found
    assert remedy


def test_the_two_names_of_the_default_domain() -> None:
    assert canonical_domain("ai.onnx") == ""
    assert is_known("ai.onnx", "Conv")
