"""Areas by slice as an SVG chart, one bar a slice: plain text, so that a page can hold it."""

from __future__ import annotations

from collections.abc import Sequence

PLOT_LEFT, PLOT_RIGHT, PLOT_TOP, PLOT_BOTTOM = 46.0, 396.0, 18.0, 158.0
"""Of the plot inside the chart's 400 x 190 units."""

_ROUND = (1, 2, 2.5, 5, 10)
_MOST_LABELS = 6


def step(slices: int) -> float:
    """Return the width of a slice's place in the chart's units."""
    return (PLOT_RIGHT - PLOT_LEFT) / slices


def areas_chart(areas: Sequence[float], unit: str, shown: int) -> str:
    """Return the chart as an SVG element.

    Parameters
    ----------
    areas
        One for each slice, in its order.
    unit
        Of the areas: ``mm²`` or ``px``.
    shown
        Index of the slice that is marked as the one on display (``id="now"``).
    """
    each, tick = step(len(areas)), round_step(max(areas))
    top = tick * max(1, -int(-max(areas) // tick))
    gap = min(1.0, each / 5)
    parts = [
        f'<svg class="chart" id="chart" viewBox="0 0 400 190" role="img" aria-label="{_summary(areas, unit)}">',
        f'<rect x="0" y="0" width="400" height="190" fill="none" pointer-events="all"/>'
        f'<text x="0" y="10">{unit}</text>',
    ]
    for k in range(round(top / tick) + 1):
        y = PLOT_BOTTOM - (PLOT_BOTTOM - PLOT_TOP) * k * tick / top
        parts.append(f'<line class="grid" x1="{PLOT_LEFT:g}" x2="{PLOT_RIGHT:g}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="end" x="{PLOT_LEFT - 6:g}" y="{y + 4:.1f}">{k * tick:,g}</text>')
    for k, area in enumerate(areas):
        if area:
            height = (PLOT_BOTTOM - PLOT_TOP) * area / top
            place = f'x="{PLOT_LEFT + k * each + gap / 2:.2f}" y="{PLOT_BOTTOM - height:.2f}"'
            parts.append(f'<rect class="bar" {place} width="{each - gap:.2f}" height="{height:.2f}"/>')
    place = f'y="{PLOT_TOP:g}" width="{each:.3f}" height="{PLOT_BOTTOM - PLOT_TOP:g}"'
    parts.append(f'<rect id="now" x="{PLOT_LEFT + shown * each:.3f}" {place}/>')
    parts += [
        f'<text class="middle" x="{PLOT_LEFT + (number - 0.5) * each:.1f}" y="{PLOT_BOTTOM + 15:g}">{number}</text>'
        for number in _labels(len(areas))
    ]
    middle = (PLOT_LEFT + PLOT_RIGHT) / 2
    parts.append(f'<text class="middle" x="{middle:g}" y="{PLOT_BOTTOM + 30:g}">slice</text></svg>')
    return "".join(parts)


def round_step(largest: float) -> float:
    """Return a round step that divides an axis up to this value into three to five parts; 1 at least."""
    if largest <= 4:
        return 1.0
    wanted = largest / 4
    power = 10.0 ** (len(str(int(wanted))) - 1)
    return max(1.0, power * min(_ROUND, key=lambda part: abs(part * power - wanted)))


def _labels(slices: int) -> list[int]:
    """Numbers of the slices that are labelled: the first one, and multiples of a round step."""
    every = max(1, round(round_step(4 * slices / _MOST_LABELS)))
    return sorted({1, *range(every, slices + 1, every)} - ({2} if every == 2 else set()))


def _summary(areas: Sequence[float], unit: str) -> str:
    if not any(areas):
        return f"Chart: nothing is marked in any of {len(areas)} slices"
    largest = max(range(len(areas)), key=lambda k: areas[k])
    return f"Chart of marked areas by slice: the largest is {areas[largest]:,.0f} {unit} in slice {largest + 1}"
