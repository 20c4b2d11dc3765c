"""The list of supported operators is read off the code, and the page is what the code says."""

import json

from checkout import ROOT
from cli_runs import kwsq

from kwsq.converter.ops import as_markdown, supported
from kwsq.passes.importers import IMPORTERS
from kwsq.passes.lowering import LOWERINGS, PARTS
from kwsq.targets.base import TARGETS


def test_the_page_is_current() -> None:
    page = (ROOT / "docs" / "ops.md").read_text(encoding="utf-8")
    assert page == as_markdown(), "run: kwsq ops --markdown > docs/ops.md"


def test_the_command_prints_the_page_and_the_facts() -> None:
    assert kwsq("ops", "--markdown").stdout == as_markdown()
    assert json.loads(kwsq("ops", "--json").stdout) == supported()
    assert "Conv" in kwsq("ops").stdout


def test_the_facts_follow_the_tables() -> None:
    facts = supported()
    assert facts["targets"] == sorted(TARGETS)
    assert set(facts["onnx_operators"]) == {op for op in IMPORTERS if not op.startswith("kwsq.")}
    assert all(entry["what"] for entry in facts["dialects"])


def test_operators_in_patterns_are_listed_and_have_no_form_of_their_own() -> None:
    facts = supported()
    assert set(facts["onnx_operators_in_patterns"]) <= set(facts["onnx_operators"])
    assert not set(PARTS) & set(LOWERINGS)
