"""JUnit XML, the form in which CI systems take results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from xml.sax.saxutils import escape, quoteattr

from kwsq.converter.safe_text import printable


class Outcome(Enum):
    """What became of a test case."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Case:
    """One test case.

    Args:
        group: class name, e.g. "kwsq.gate".
        name: of the case.
        outcome: passed, failed or skipped.
        status: kwsq's own word for it, e.g. "INCONCLUSIVE".
        text: what was found; figures stand in it, since some readers drop attributes.
    """

    group: str
    name: str
    outcome: Outcome
    status: str
    text: str


def document(suite: str, cases: Sequence[Case]) -> str:
    """Returns a JUnit document with one suite; every text is escaped."""
    count = {outcome: sum(case.outcome is outcome for case in cases) for outcome in Outcome}
    counts = f'tests="{len(cases)}" failures="{count[Outcome.FAILED]}" errors="0" skipped="{count[Outcome.SKIPPED]}"'
    body = "\n".join(map(_element, cases))
    head = '<?xml version="1.0" encoding="UTF-8"?>'
    name = quoteattr(printable(suite))
    return f"{head}\n<testsuites {counts}>\n<testsuite name={name} {counts}>\n{body}\n</testsuite>\n</testsuites>\n"


def _element(case: Case) -> str:
    status, text = printable(case.status), printable(case.text)
    match case.outcome:
        case Outcome.FAILED:
            inner = f"<failure type={quoteattr(status)} message={quoteattr(text)}>{escape(text)}</failure>"
        case Outcome.SKIPPED:
            inner = f"<skipped message={quoteattr(text)}/>"
        case Outcome.PASSED:
            inner = f"<system-out>{escape(f'{status}: {text}')}</system-out>"
    names = f"classname={quoteattr(printable(case.group))} name={quoteattr(printable(case.name))}"
    return f"<testcase {names}>{inner}</testcase>"
