"""Every page in headless Chromium, with all hosts blocked."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from browser import CHROMIUM, DRIVER, TAB, Browser, chromium
from toy_pages import PAGES

from qcaps.reports.html.run import StepPage, run_page

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="Debian's chromium and chromium-driver are not installed"),
]
NAMES = [*PAGES, "run"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write every page once."""
    folder = tmp_path_factory.mktemp("pages")
    pages = {name: write() for name, write in PAGES.items()}
    pages["run"] = run_page("A toy.", [StepPage(n, 0, page) for n, page in pages.items()], "steps: []\n")
    for name, page in pages.items():
        (folder / f"{name}.html").write_text(page, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.mark.parametrize("name", NAMES)
def test_a_page_asks_for_nothing_and_has_nothing_to_complain_of(browser: Browser, folder: Path, name: str):
    browser.log("browser")
    browser.requests()
    browser.open(folder / f"{name}.html")
    assert browser.log("browser") == []
    found = [address for address in browser.requests() if not address.startswith("data:")]
    assert found == [(folder / f"{name}.html").as_uri()]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_scrolls_sideways(browser: Browser, folder: Path, name: str, width: int):
    browser.open(folder / f"{name}.html", width=width)
    assert browser.script("return document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("name", NAMES)
def test_every_plot_and_picture_is_there_and_has_a_size(browser: Browser, folder: Path, name: str):
    browser.open(folder / f"{name}.html")
    page = (folder / f"{name}.html").read_text()
    sizes = browser.script(
        "document.querySelectorAll('details').forEach(d => d.open = true);"
        "return [...document.querySelectorAll('figure > svg')].map(s => s.getBBox().width)"
    )
    assert len(sizes) == page.count('<figure class="chart">')
    assert len(sizes) > 0
    assert min(sizes) > 200
    widths = browser.script("return [...document.images].map(i => i.naturalWidth)")
    assert len(widths) == page.count("<img ")
    assert all(width > 0 for width in widths)


def test_the_tab_key_reaches_every_control_in_order_and_shows_where_it_is(browser: Browser, folder: Path):
    browser.open(folder / "quantization.html")
    find = "const e = [...document.querySelectorAll('a[href], summary, [tabindex]')].filter(x => x.checkVisibility());"
    for place in range(browser.script(find + "return e.length")):
        browser.press(TAB)
        where = "return [e.indexOf(document.activeElement), getComputedStyle(document.activeElement).outlineStyle]"
        assert browser.script(find + where) == [place, "solid"]


def test_the_first_control_leads_to_the_report(browser: Browser, folder: Path):
    browser.open(folder / "quantization.html")
    browser.press(TAB)
    assert browser.script("return document.activeElement.textContent") == "Skip to the report"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(browser: Browser, folder: Path, scheme: str):
    browser.open(folder / "quantization.html", scheme=scheme)
    pairs = browser.script(
        "return ['body', 'caption', '.card dt', '.good', 'a', '.warning'].map(s => {"
        "let e = document.querySelector(s), ink = getComputedStyle(e).color, g = e;"
        "while (getComputedStyle(g).backgroundColor === 'rgba(0, 0, 0, 0)') g = g.parentElement;"
        "return [s, ink, getComputedStyle(g).backgroundColor]})"
    )
    assert (_luminance(pairs[0][2]) < 0.1) is (scheme == "dark")
    for selector, ink, ground in pairs:
        light, dark = sorted((_luminance(ink), _luminance(ground)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, selector


def test_paper_is_white_and_details_are_open(browser: Browser, folder: Path):
    browser.open(folder / "quantization.html", scheme="dark")
    browser.develop("Emulation.setEmulatedMedia", media="print")
    try:
        assert browser.script("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert browser.script("return document.querySelector('details table').getBoundingClientRect().height") > 20
        assert browser.script("return getComputedStyle(document.querySelector('nav')).display") == "none"
    finally:
        browser.develop("Emulation.setEmulatedMedia", media="")


def _luminance(colour: str) -> float:
    """Give the relative luminance of WCAG 2.2, section 1.4.3."""
    shares = torch.tensor([float(number) / 255 for number in re.findall(r"[\d.]+", colour)[:3]])
    linear = torch.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
    return float(linear @ torch.tensor([0.2126, 0.7152, 0.0722]))
