"""Every relative link in the pages leads somewhere, headings included, and every `make` command exists."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from checkout import NOT_CLONED, ROOT

LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```", flags=re.MULTILINE | re.DOTALL)


def pages(root: Path) -> list[Path]:
    skipped = [path for pattern in NOT_CLONED for path in root.glob(pattern)]
    return sorted(p for p in root.rglob("*.md") if not any(p.is_relative_to(s) for s in skipped))


def anchors_of(page: Path) -> set[str]:
    """Heading anchors as GitHub makes them: lower case, punctuation dropped, blanks to hyphens."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+\s+(.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def broken_links(page: Path) -> Iterator[str]:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for match in LINK.finditer(text):
        link = match[1] or match[2]
        if re.match(r"[a-z]+:", link):
            continue  # the web is not ours to check, and tests are offline
        file, _, anchor = link.partition("#")
        target = (page.parent / file) if file else page
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors_of(target)):
            yield link


@pytest.mark.parametrize("page", pages(ROOT), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_relative_links_lead_somewhere(page: Path) -> None:
    assert list(broken_links(page)) == []


def test_a_broken_link_and_a_broken_anchor_are_noticed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A heading: one\n[ok](#a-heading-one) [web](https://example.org) [no](gone.md) [nor](page.md#two)\n"
        "```\n[in code](gone.txt)\n```\n",
        encoding="utf-8",
    )
    assert list(broken_links(page)) == ["gone.md", "page.md#two"]


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))


@pytest.mark.parametrize("page", pages(ROOT), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_make_command_in_the_pages_exists(page: Path) -> None:
    named = set(re.findall(r"(?:`|^\$ |^)make ([a-z][a-z-]*)", page.read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert named <= make_targets()
