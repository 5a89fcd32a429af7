"""report.html in Chromium, from its file URL and without a network: slider, outline, chart, keys, wheel, screens."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgeseg import readers, segment
from edgeseg.types import ByteArray

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="chromium and chromium-driver are not installed")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--hide-scrollbars"),
)
DESKTOP, PHONE = (1280, 900), (390, 844)


@pytest.fixture(scope="module")
def result(
    example_dicom: Path, default_engine: segment.OpenEngine, tmp_path_factory: pytest.TempPathFactory
) -> segment.Result:
    """The example study, its page alone: moved to a folder of its own, to show that it needs no other file."""
    (files,) = readers.find_studies(example_dicom)
    options = segment.Options(formats=("html",))
    return segment.segment(files, default_engine, tmp_path_factory.mktemp("page"), options)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A browser that is cut off from every network and notes what it requests and complains of."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    driver.execute_cdp_cmd("Network.enable", {})
    cut = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
    driver.execute_cdp_cmd("Network.emulateNetworkConditions", cut)
    yield driver
    driver.quit()


@pytest.fixture
def page(chromium: Any, result: segment.Result) -> Iterator[Any]:
    """The report, opened anew on a desktop's screen; at the end nothing was requested, and nothing complained of."""
    _screen(chromium, DESKTOP, "light")
    place = (result.folder / "report.html").resolve().as_uri()
    chromium.get_log("performance")
    chromium.get(place)
    yield chromium
    assert chromium.get_log("browser") == []
    assert _requests(chromium) <= {place}


def _requests(chromium: Any) -> set[str]:
    """Every address asked for since the last time; the page's own pictures are data."""
    events = (json.loads(entry["message"])["message"] for entry in chromium.get_log("performance"))
    sent = (event for event in events if event["method"] == "Network.requestWillBeSent")
    addresses = {event["params"]["request"]["url"] for event in sent}
    return {address for address in addresses if not address.startswith("data:")}


def _screen(chromium: Any, size: tuple[int, int], scheme: str) -> None:
    width, height = size
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": size == PHONE}
    chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def _shown(page: Any) -> int:
    """Number of the slice on display; slider, words, chart and picture have to agree."""
    number = int(page.execute_script("return document.getElementById('slider').value"))
    data = "JSON.parse(document.getElementById('data').textContent)"
    area = page.execute_script(f"return {data}.areas[{number - 1}]")
    assert _by(page, "place").text == f"Slice {number} of 15: " + (f"{area} mm²" if area else "nothing marked")
    assert _by(page, "slider").get_attribute("aria-valuetext") == _by(page, "place").text
    picture = page.execute_script(f"return {data}.pictures[{number - 1}]")
    assert _by(page, "picture").get_attribute("href").endswith(picture)
    step, left = page.execute_script(f"return [{data}.step, {data}.left]")
    assert float(_by(page, "now").get_attribute("x")) == pytest.approx(left + (number - 1) * step, abs=0.01)
    return number


def _by(page: Any, name: str) -> Any:
    return page.find_element("id", name)


def _pixels(page: Any, name: str) -> ByteArray:
    """An element as it is on the screen: uint8 (row, column, 3)."""
    return np.asarray(Image.open(io.BytesIO(_by(page, name).screenshot_as_png)).convert("RGB"))


def _amber(page: Any) -> int:
    """How many of the stage's pixels have the outline's colour."""
    red, green, blue = np.moveaxis(_pixels(page, "stage").astype(int), -1, 0)
    return int(((red - blue > 120) & (red - green > 40) & (green - blue > 60)).sum())


def test_it_opens_with_the_largest_area(page: Any, result: segment.Result) -> None:
    areas = result.segmentation.slice_area_px
    assert _shown(page) == int(np.argmax(areas)) + 1
    assert "Not a medical device" in page.find_element("class name", "notice").text
    assert f"{result.segmentation.volume_ml:.1f} ml" in page.find_element("tag name", "h1").text
    assert page.find_elements("css selector", "label[for=slider]")


def test_the_slider_moves_through_the_slices(page: Any) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.keys import Keys

    before = _pixels(page, "stage")
    slider = _by(page, "slider")
    width = slider.size["width"]
    ActionChains(page).move_to_element_with_offset(slider, width // 2 - 2, 0).click().perform()
    assert _shown(page) == 15
    assert np.abs(_pixels(page, "stage").astype(int) - before).mean() > 5  # another picture is on the screen
    slider.send_keys(Keys.HOME)
    assert _shown(page) == 1
    slider.send_keys(Keys.ARROW_UP, Keys.ARROW_RIGHT)
    assert _shown(page) == 3
    for name, expected in (("forth", 4), ("back", 3), ("back", 2)):
        _by(page, name).click()
        assert _shown(page) == expected


def test_the_outline_is_switched_off_and_on(page: Any) -> None:
    with_outline = _amber(page)
    assert with_outline > 200
    _by(page, "shown").click()
    assert _amber(page) == 0
    _by(page, "forth").click()
    assert _amber(page) == 0  # and stays off
    _by(page, "back").click()
    _by(page, "shown").click()
    assert _amber(page) == with_outline
    page.execute_script("arguments[0].value = 15; arguments[0].dispatchEvent(new Event('input'))", _by(page, "slider"))
    assert _amber(page) == 0  # nothing is marked there


def test_a_click_on_the_chart_goes_to_the_slice(page: Any) -> None:
    from selenium.webdriver import ActionChains

    chart = _by(page, "chart")
    data = "JSON.parse(document.getElementById('data').textContent)"
    step, left = page.execute_script(f"return [{data}.step, {data}.left]")
    for number in (1, 6, 15):
        place = (left + (number - 0.5) * step) / 400 - 0.5
        ActionChains(page).move_to_element_with_offset(chart, round(place * chart.size["width"]), 10).click().perform()
        assert _shown(page) == number


def test_arrow_keys_and_the_wheel(page: Any) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.actions.wheel_input import ScrollOrigin
    from selenium.webdriver.common.keys import Keys

    first = _shown(page)
    page.find_element("tag name", "body").send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_LEFT)
    assert _shown(page) == first + 1
    origin = ScrollOrigin.from_element(_by(page, "stage"))
    ActionChains(page).scroll_from_origin(origin, 0, 120).perform()
    assert _shown(page) == first + 4
    assert page.execute_script("return window.scrollY") == 0  # the page stays where it is
    ActionChains(page).scroll_from_origin(origin, 0, -80).perform()
    assert _shown(page) == first + 2
    _by(page, "stage").click()
    assert page.switch_to.active_element == _by(page, "slider")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_it_fits_the_screen_in_the_colours_asked_for(page: Any, size: tuple[int, int], scheme: str) -> None:
    _screen(page, size, scheme)
    assert page.execute_script("return document.documentElement.scrollWidth") <= size[0]
    stage = _by(page, "stage").rect
    assert stage["width"] > 0.5 * min(size)
    assert stage["y"] + stage["height"] < size[1]  # the picture is seen without scrolling
    screen = np.asarray(Image.open(io.BytesIO(page.get_screenshot_as_png())).convert("L"))
    corner = int(screen[size[1] // 2, 2])
    assert corner > 200 if scheme == "light" else corner < 60


def test_it_prints_on_white_without_its_controls(page: Any) -> None:
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert not _by(page, "slider").is_displayed()
    assert _by(page, "stage").is_displayed()
    assert page.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_a_name_that_is_a_script_does_not_run(
    chromium: Any, example_tiff: Path, default_engine: segment.OpenEngine, tmp_path: Path
) -> None:
    folder = tmp_path / "<img src=x onerror=alert(1)><script>document.title = 'run'<"
    folder.mkdir()
    for k in range(12, 17):
        shutil.copy(example_tiff / f"{example_tiff.name}_{k}.tif", folder)
    (files,) = readers.find_studies(folder)
    result = segment.segment(files, default_engine, tmp_path / "out", segment.Options(formats=("html",)))
    place = (result.folder / "report.html").resolve().as_uri()
    chromium.get_log("performance")
    chromium.get(place)
    assert chromium.find_element("css selector", "header .quiet").text.startswith(f"Study {folder.name} (TIFF)")
    assert chromium.title.endswith(folder.name)
    assert chromium.find_elements("tag name", "img") == []
    assert chromium.get_log("browser") == []
    assert _requests(chromium) <= {place}
