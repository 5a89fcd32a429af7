"""The chart of areas: bars as high as their areas, round ticks, and a place for every slice."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from edgeseg.writers.chart import PLOT_BOTTOM, PLOT_LEFT, PLOT_RIGHT, PLOT_TOP, areas_chart, round_step, step


def _rects(areas: list[float], shown: int = 0) -> list[dict[str, str]]:
    return [rect.attrib for rect in ElementTree.fromstring(areas_chart(areas, "mm²", shown)).iter("rect")]


def test_bars_are_as_high_as_their_areas() -> None:
    areas = [0.0, 300.0, 1500.0, 0.0, 750.0]
    bars = [rect for rect in _rects(areas) if rect.get("class") == "bar"]
    heights = [float(bar["height"]) for bar in bars]
    assert [height / heights[1] for height in heights] == pytest.approx([0.2, 1.0, 0.5], abs=1e-3)
    for bar, index in zip(bars, (1, 2, 4), strict=True):
        middle = float(bar["x"]) + float(bar["width"]) / 2
        assert (middle - PLOT_LEFT) / step(5) == pytest.approx(index + 0.5, abs=1e-2)
        assert float(bar["y"]) + float(bar["height"]) == pytest.approx(PLOT_BOTTOM, abs=0.02)
        assert float(bar["y"]) >= PLOT_TOP


@pytest.mark.parametrize("shown", [0, 3])
def test_the_slice_on_display_is_marked(shown: int) -> None:
    (now,) = (rect for rect in _rects([1.0] * 4, shown) if rect.get("id") == "now")
    assert float(now["x"]) == pytest.approx(PLOT_LEFT + shown * step(4), abs=1e-2)
    assert float(now["x"]) + float(now["width"]) <= PLOT_RIGHT + 0.01


@pytest.mark.parametrize("largest", [0, 0.4, 4, 5, 37, 99, 1405, 2001, 65536, 262144])
def test_ticks_are_round_and_few(largest: float) -> None:
    tick = round_step(largest)
    assert float(f"{tick:.2g}") == tick
    parts = -(-largest // tick)
    assert parts <= 7
    assert largest <= 4 or parts >= 3
    labels = re.findall(r'class="end"[^>]*>([\d,.]+)<', areas_chart([largest], "px", 0))
    assert float(labels[-1].replace(",", "")) >= largest


def test_it_says_in_words_what_it_shows() -> None:
    assert "the largest is 1,405 px in slice 2" in areas_chart([3, 1405, 0], "px", 0)
