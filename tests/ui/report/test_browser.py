"""The report in a real browser: by day, by night, on a phone, and printed.

Needs Chromium, and is skipped where it is not: `apt-get install chromium`.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from genepool.pool.reader import Pool
from genepool.ui.report.report import write_report

sync_api = pytest.importorskip(
    "playwright.sync_api", reason="no playwright here: pip install playwright"
)
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser") if (path := shutil.which(name))), None
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium"),
]

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

# Contrast of every text with what lies behind it (WCAG 2.2, 1.4.3): the pairs below 4.5.
CONTRAST = """() => {
  const rgb = text => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = node => {
    for (; node; node = node.parentElement) {
      const colour = rgb(getComputedStyle(node).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const bad = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let seen = 0;
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || !node.getClientRects().length) continue;
    const [a, b] = [light(rgb(getComputedStyle(node).color)), light(behind(node))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    seen += 1;
    if (ratio < 4.5) bad.push([walker.currentNode.textContent.trim(), ratio]);
  }
  return {seen, bad};
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture(scope="module", params=["recipes", "vectors", "two_tasks"])
def file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("page") / "report.html"
    with Pool(request.getfixturevalue(request.param)) as pool:
        write_report(pool, out)
    return out


def opened(browser: Any, file: Path, width: int, scheme: str) -> tuple[Any, list[str]]:
    """The page in a window of that width, and everything it complains about or asks for."""
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page = context.new_page()
    noise: list[str] = []
    page.on("console", lambda message: noise.append(message.text))
    page.on("pageerror", lambda error: noise.append(str(error)))
    page.on(
        "request",
        lambda asked: noise.append(asked.url) if not asked.url.startswith("data:") else None,
    )
    page.goto(file.as_uri())
    return page, noise


@pytest.mark.parametrize("width", [320, 390, 768, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_and_can_be_read(browser: Any, file: Path, width: int, scheme: str) -> None:
    page, noise = opened(browser, file, width, scheme)
    # Nothing but the file itself was asked for, and nothing was refused.
    assert noise == [file.as_uri()]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    found = page.evaluate(CONTRAST)
    assert found["seen"] > 100
    assert found["bad"] == []
    # Every picture was decoded, and every drawing has a size.
    assert page.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
    sizes = page.evaluate(
        "[...document.querySelectorAll('svg')].map(s => s.getBoundingClientRect())"
        ".map(box => Math.min(box.width, box.height))"
    )
    assert min(sizes) >= 6
    page.context.close()


def test_dark_is_dark(browser: Any, file: Path) -> None:
    shades = {}
    for scheme in ("light", "dark"):
        page, _ = opened(browser, file, 800, scheme)
        colour = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
        shades[scheme] = sum(map(int, re.findall(r"\d+", colour)[:3]))
        page.context.close()
    assert shades["dark"] < 100
    assert shades["light"] > 700


def test_it_prints_on_white_and_on_several_pages(browser: Any, file: Path) -> None:
    page, _ = opened(browser, file, 800, "dark")
    data = page.pdf(format="A4", print_background=True)
    assert data.startswith(b"%PDF-")
    assert 2 <= len(re.findall(rb"/Type\s*/Page\b", data)) <= 12
    page.emulate_media(media="print")
    white = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert white == "rgb(255, 255, 255)"
    assert page.evaluate(CONTRAST)["bad"] == []
    assert not page.locator("nav").is_visible()
    page.context.close()


def test_the_document_can_be_downloaded(browser: Any, file: Path, tmp_path: Path) -> None:
    page, _ = opened(browser, file, 800, "light")
    with page.expect_download() as waiting:
        page.get_by_role("link", name="Download everything as JSON").click()
    download = waiting.value
    assert download.suggested_filename == "pool-report.json"
    download.save_as(tmp_path / "report.json")
    assert "status" in json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    page.context.close()


def test_its_structure_is_announced(browser: Any, file: Path) -> None:
    page, _ = opened(browser, file, 800, "light")
    for role in ("banner", "main", "contentinfo"):
        assert page.get_by_role(role).count() == 1
    assert page.get_by_role("navigation", name="Contents").count() == 1
    for name in ("Result", "Who solves what", "Family"):
        assert page.get_by_role("region", name=name, exact=True).count() == 1
    assert page.get_by_role("img", name=re.compile("^Score of the champion, over 60")).count() == 1
    assert page.get_by_role("table", name="Mean score of champion and seeds").count() == 1
    # From the top, the first key leads past the contents.
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the result"
    page.context.close()
