"""report.html in headless Chromium: it draws, answers to pointer, keyboard and legend, and logs no console error."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import report_samples as samples

from whorl.reports.comparison import write

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH to open the report in")

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
    *("--disable-quic", "--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--enable-logging=stderr", "--v=0", "--window-size=1200,2400", "--virtual-time-budget=1500", "--dump-dom"),
)

# Uses the page as a person would and leaves what it saw in an element.
PROBE = """
const seen = {};
const figure = document.querySelector('[data-chart="perplexity"]');
const plot = figure.querySelector(".plot"), tip = figure.querySelector(".tip");
const lines = () => [...figure.querySelectorAll("[data-line]")].map((group) => group.dataset.line);
const drawn = (f) => [f.dataset.chart, f.querySelectorAll("svg.drawn").length];
seen.charts = [...document.querySelectorAll("figure")].map(drawn);
seen.dots = figure.querySelectorAll(".drawn .dot").length;
seen.pairs = document.querySelectorAll('[data-chart="pairs"] [data-line="hope"] .pair.within').length;
seen.keys = document.querySelectorAll("li .key svg").length;
seen.before = lines();
const place = figure.querySelectorAll('[data-line="hope"] .dot')[2].getBoundingClientRect();
plot.dispatchEvent(new PointerEvent("pointermove", { clientX: place.x + 6, clientY: place.y + 6 }));
seen.hover = [tip.hidden, tip.innerText];
plot.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowLeft" }));
seen.left = tip.querySelector("p").textContent;
plot.dispatchEvent(new PointerEvent("pointerleave"));
seen.left_hidden = tip.hidden;
const strips = document.querySelector('[data-chart="pairs"] .plot'), told = strips.querySelector(".tip");
const press = (key) => strips.dispatchEvent(new KeyboardEvent("keydown", { key }));
["ArrowRight", "ArrowRight", "ArrowDown"].forEach(press); // the first one only enters, at the first pair
seen.pair = told.innerText;
press("Escape");
seen.pair_left = told.hidden;
figure.querySelector('.legend [data-name="rope"]').click();
seen.after = lines();
seen.elsewhere = document.querySelector('[data-chart="pairs"] [data-line="rope"]');
figure.querySelectorAll(".switch button")[1].click();
seen.label = figure.querySelector("svg.drawn").getAttribute("aria-label");
document.body.append(Object.assign(document.createElement("pre"), { id: "probe", textContent: JSON.stringify(seen) }));
"""


def open_page(page: str, folder: Path, *flags: str) -> tuple[str, list[str]]:
    """The document after its scripts ran, and every line that it logged to the console."""
    (folder / "page.html").write_text(page, encoding="utf-8")
    command = [str(CHROMIUM), *FLAGS, *flags, f"--user-data-dir={folder / 'profile'}", (folder / "page.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def with_script(page: str, script: str) -> str:
    return page.replace("</body>", f"<script>{script}</script></body>")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("browser")
    write(samples.read(samples.with_losses(samples.language((0, 1)))), out)
    return (out / "report.html").read_text(encoding="utf-8")


def test_the_page_draws_and_responds_without_a_console_error(page: str, tmp_path: Path) -> None:
    document, console = open_page(with_script(page, PROBE), tmp_path)
    assert console == []
    found = re.search(r'<pre id="probe">(.*?)</pre>', document, re.S)
    assert found is not None, "the probe did not run to its end"
    seen = json.loads(found[1].replace("&amp;", "&"))
    assert seen["charts"] == [["perplexity", 1], ["pairs", 1], ["training", 1]]
    assert seen["dots"] == 20
    assert seen["pairs"] == 11
    assert seen["keys"] == 4
    hidden, text = seen["hover"]
    assert hidden is False
    for part in ("hope", "512 tokens, 4x", "22.8", "1.30x", "standard error"):
        assert part in text
    assert seen["left"] == "256 tokens, 2x"
    assert seen["left_hidden"] is True
    for part in ("hope", "pair", "1", "8.38 tokens"):
        assert part in seen["pair"]
    assert seen["pair_left"] is True
    assert seen["before"] == ["rope", "hope", "p-rope:p=0.5", "nope"]
    assert seen["after"] == ["hope", "p-rope:p=0.5", "nope"]
    assert seen["elsewhere"] is None
    assert seen["label"].startswith("mean perplexity")


def test_a_narrow_page_draws_every_chart_within_its_width(page: str, tmp_path: Path) -> None:
    probe = """
    const wide = (svg) => svg.getBoundingClientRect().right > document.documentElement.clientWidth;
    const drawn = [...document.querySelectorAll("svg.drawn")];
    document.body.dataset.seen = [drawn.length, drawn.filter(wide).length, innerWidth].join(" ");
    """
    document, console = open_page(with_script(page, probe), tmp_path, "--window-size=500,5200")
    assert console == []
    assert 'data-seen="3 0 500"' in document


def test_a_planted_error_is_seen(page: str, tmp_path: Path) -> None:
    """Shows that the check above can fail: errors, and requests that the page's policy forbids, reach the console."""
    planted = with_script(page, "document.body.append(new Image()).x; fetch('https://example.invalid/');")
    _, console = open_page(planted, tmp_path)
    assert any("TypeError" in line for line in console)
