"""The page in a real browser. Skipped where there is no Chromium; `.ci/browser` installs it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.units.command.files import audited, clicks, written

pytest.importorskip("selenium", reason="selenium is not installed")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None, reason="no chromium and chromedriver: see .ci/browser"
)
HOSTILE = "<script>document.title = 'taken'</script><img src=x onerror=\"document.title='taken'\">"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of an audit in which an id is a script."""
    folder, (rows, _) = tmp_path_factory.mktemp("page"), clicks()
    rows = [(HOSTILE if user == "c-0003" else user, *rest) for user, *rest in rows]
    audited(written(folder / "clicks.csv", rows), "--keep", "title", "--passes", "4")
    return folder / "audit" / "audit.html"


@pytest.fixture(params=[(1280, 900), (390, 844)], ids=["desktop", "phone"])
def browser(request: pytest.FixtureRequest, page: Path) -> Iterator[Any]:
    """Chromium with the page open, at two widths."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    # root has no sandbox, and a container little shared memory
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with webdriver.Chrome(options=options, service=Service(DRIVER)) as driver:
        width, height = request.param
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        driver.get(page.as_uri())
        yield driver


def column(browser: Any, table: str, name: str) -> list[str]:
    """The cells of a column, from the top."""
    cells = browser.find_elements("css selector", f'#{table} td[data-name="{name}"]')
    return [cell.get_property("textContent") for cell in cells]


def test_the_page_opens_without_an_error_and_fits(browser: Any) -> None:
    assert browser.get_log("browser") == []
    assert browser.title == "Audit of clicks.csv"
    assert browser.find_element("css selector", "h1").text.endswith("nobody chose them.")
    wide, screen = browser.execute_script(
        "return [document.documentElement.scrollWidth, window.innerWidth]"
    )
    assert wide <= screen


def test_rows_sort_both_ways(browser: Any) -> None:
    on_phone = browser.execute_script("return window.innerWidth") < 500
    before = column(browser, "rows", "row")
    for direction, reverse in ("high first", True), ("low first", False):
        if on_phone:
            options = browser.find_elements("css selector", "#rows select option")
            next(o for o in options if o.text == f"row, {direction}").click()
        else:
            browser.find_element("css selector", "#rows th button").click()
        numbers = [int(cell.replace(",", "")) for cell in column(browser, "rows", "row")]
        assert numbers == sorted(numbers, reverse=reverse)
        assert len(numbers) == len(before)
    assert column(browser, "rows", "row") != before


def test_a_search_leaves_what_holds_it(browser: Any) -> None:
    field = browser.find_element("css selector", "#rows input")
    field.send_keys("C-0011")
    assert set(column(browser, "rows", "user")) == {"c-0011"}
    assert " of " in browser.find_element("css selector", "#rows .count").text
    field.clear()
    field.send_keys("nobody")
    assert column(browser, "rows", "user") == []


def test_ids_that_look_like_html_are_text(browser: Any) -> None:
    browser.find_element("css selector", "#rows input").send_keys("<script>")
    found = column(browser, "rows", "user")
    assert found
    assert set(found) == {HOSTILE}
    assert browser.title == "Audit of clicks.csv"
    assert browser.find_elements("css selector", "#tables img, #tables script") == []
    assert browser.get_log("browser") == []


def test_more_rows_come_if_asked(browser: Any) -> None:
    before = len(column(browser, "rows", "row"))
    button = browser.find_element("css selector", "#rows .more")
    browser.execute_script("arguments[0].click()", button)
    assert len(column(browser, "rows", "row")) == 5 * before


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_from_paper_in_light_and_dark(browser: Any, scheme: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    script = (
        "const s = getComputedStyle(document.querySelector(arguments[0]));"
        "return [s.color, getComputedStyle(document.body).backgroundColor]"
    )
    for selector in "h1", ".caption", "#rows td", ".unseen li":
        ink, paper = (luminance(c) for c in browser.execute_script(script, selector))
        contrast = (max(ink, paper) + 0.05) / (min(ink, paper) + 0.05)
        assert contrast > 4.5, selector  # WCAG 2.1, level AA
        assert (paper > ink) == (scheme == "light")


def luminance(colour: str) -> float:
    """Of "rgb(r, g, b)", as WCAG 2.1 defines it."""
    parts = [int(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
