"""The pages in a browser: no console errors, nothing fetched, no horizontal overflow on a desk or a telephone."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from cli_runs import kwsq, kwsq_convert

MODEL = Path(__file__).resolve().parents[2] / "models" / "kws_ff" / "kws_ff_w4.onnx"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WIDTHS = (1280, 390)
LONGEST_SECONDS = 120
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: sudo apt-get install chromium")
QUIET = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --hide-scrollbars --enable-logging=stderr --v=0"
)
# A page of its own holds the report in a frame as wide as the screen to try: headless windows have a least width.
HARNESS = """<!doctype html><meta charset="utf-8"><body style="margin:0"><iframe id="f" style="border:0;width:{width}px;
height:3000px"></iframe><pre id="out"></pre><script>
const frame = document.getElementById("f"), out = document.getElementById("out"), errors = [];
frame.onload = () => {{
  const page = frame.contentDocument, inner = frame.contentWindow;
  for (const d of page.querySelectorAll("details")) d.open = true;
  out.textContent = "RESULT" + JSON.stringify({{
    errors, scroll: page.documentElement.scrollWidth, body: page.body.scrollWidth, width: inner.innerWidth,
    fetched: inner.performance.getEntriesByType("resource").map(e => e.name),
    sections: [...page.querySelectorAll("h2")].map(e => e.textContent),
  }}) + "END";
}};
frame.srcdoc = {page};
</script>"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("pages")
    outcome = kwsq_convert(MODEL, "--target", "neon", "--wbits", 4, "-o", folder / "out", "-q")
    assert outcome.code == 0, outcome.stderr
    rng = np.random.default_rng(0)
    label = np.repeat([1, 0], [300, 6000])
    score = rng.normal(4.6 * label, 1.0)
    for name, noise in (("reference", 0.0), ("candidate", 0.1)):
        scores = (score + rng.normal(0, noise, label.size)).tolist()
        rows = (f"{i},{y},{s!r}" for i, (y, s) in enumerate(zip(label.tolist(), scores, strict=True)))
        (folder / f"{name}.csv").write_text("\n".join(["trial_id,label,score", *rows]), encoding="utf-8")
    pair = ("--reference", folder / "reference.csv", "--candidate", folder / "candidate.csv")
    assert kwsq("gate", *pair, "-o", folder / "gate.json", "-q").code in (0, 1, 3)
    return {
        "conversion": (folder / "out" / "report.html").read_text("utf-8"),
        "gate": kwsq("report", folder / "gate.json", "--to", "html").stdout,
    }


def opened(page: str, width: int, folder: Path) -> tuple[dict[str, object], str]:
    """What the browser measured, and what it logged."""
    harness = folder / "harness.html"
    literal = json.dumps(page).replace("</", "<\\/")
    harness.write_text(HARNESS.format(width=width, page=literal), encoding="utf-8")
    command = [str(CHROMIUM), *QUIET.split(), f"--user-data-dir={folder / 'profile'}", f"--window-size={width},900"]
    command += ["--virtual-time-budget=3000", "--dump-dom", harness.as_uri()]
    environment = {**os.environ, "HOME": str(folder)}
    done = subprocess.run(command, capture_output=True, timeout=LONGEST_SECONDS, check=False, env=environment)
    found = re.search(r"RESULT(\{.*?\})END", done.stdout.decode("utf-8").partition('<pre id="out">')[2], re.DOTALL)
    assert found, done.stderr.decode(errors="replace")[-2000:]
    measured: dict[str, object] = json.loads(html.unescape(found[1]))
    return measured, "\n".join(line for line in done.stderr.decode(errors="replace").splitlines() if "CONSOLE" in line)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("kind", ["conversion", "gate"])
def test_a_page_opens_without_errors_fetches_or_overflow(
    kind: str, width: int, pages: dict[str, str], tmp_path: Path
) -> None:
    measured, console = opened(pages[kind], width, tmp_path)
    assert measured["width"] == width
    assert measured["scroll"] == width
    assert int(str(measured["body"])) <= width
    assert measured["fetched"] == []
    assert console == ""
    sections = measured["sections"]
    assert isinstance(sections, list)
    wanted = {"conversion": {"Flash", "Activation memory", "SQNR by layer", "Weights"}, "gate": {"Checks"}}[kind]
    assert wanted <= set(sections)


def test_the_checks_can_fail(pages: dict[str, str], tmp_path: Path) -> None:
    wide = "<div style='width:2000px'>x</div><script>console.error('broken')</script><img src='http://127.0.0.1:9/none.png'>"
    measured, console = opened(pages["gate"].replace("<body>", f"<body>{wide}"), 390, tmp_path)
    assert measured["scroll"] != 390
    assert measured["fetched"] == ["http://127.0.0.1:9/none.png"]
    assert "broken" in console
