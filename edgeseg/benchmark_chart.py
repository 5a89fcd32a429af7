"""The chart of a benchmark: slices a second of each engine, at batch 1 and at its best batch."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import util
from pathlib import Path
from typing import Any

from edgeseg.errors import BackendMissing, OutputError

_BLUE, _LIGHT, _GREY, _PALE = "#0072b2", "#9ecae1", "#555555", "#bbbbbb"


def check(path: Path) -> None:
    """Raise what `draw` would raise for a missing package or folder, before minutes of measuring."""
    if util.find_spec("matplotlib") is None:
        raise BackendMissing("the chart needs matplotlib: pip install matplotlib, or leave out --chart")
    if not path.parent.is_dir():
        raise OutputError(f"there is no folder {path.parent} for the chart: make it, or give another file")


def draw(report: Mapping[str, Any], path: Path) -> None:
    """Draw a PNG: one panel a network, bundles in blue, peers in grey.

    Parameters
    ----------
    report
        What `edgeseg.benchmark.Report.to_json` returns.
    path
        Where the PNG goes.

    Raises
    ------
    OutputError
        When it cannot be written.
    """
    from matplotlib.figure import Figure

    networks: dict[str, list[Mapping[str, Any]]] = {}
    for one in report["engines"]:
        networks.setdefault(one["network"], []).append(one)
    heights = [len(engines) for engines in networks.values()]
    figure = Figure(figsize=(10, 1.2 + 0.75 * sum(heights) + 0.6 * len(heights)), layout="constrained")
    panels = figure.subplots(len(networks), 1, squeeze=False, sharex=True, height_ratios=heights)[:, 0]
    for axes, (network, engines) in zip(panels, networks.items(), strict=True):
        _draw_network(axes, network, engines)
    panels[-1].set_xlabel("slices a second (median); higher is better")
    figure.suptitle(f"{report['machine']['cpu']}, {report['threads']} threads, {report['rounds']} rounds", fontsize=10)
    part = path.with_name(path.name + ".part")
    try:
        figure.savefig(part, dpi=120, format="png")
        part.replace(path)
    except OSError as error:
        raise OutputError(f"cannot write the chart to {path} ({error.strerror}): give another file") from error


def _draw_network(axes: Any, network: str, engines: list[Mapping[str, Any]]) -> None:
    axes.set_title(network, loc="left", fontsize=11)
    for k, one in enumerate(engines):
        best, single = one["best"], one["single"]
        strong, weak = (_GREY, _PALE) if one["peer"] else (_BLUE, _LIGHT)
        axes.barh(k - 0.19, best["slices_per_second"], 0.36, color=strong)
        axes.barh(k + 0.19, single["slices_per_second"], 0.36, color=weak)
        for place, timing in ((k - 0.19, best), (k + 0.19, single)):
            label = f" {timing['slices_per_second']:.1f}, batch {timing['batch']}"
            axes.text(timing["slices_per_second"], place, label, va="center", fontsize=8)
    axes.set_yticks(range(len(engines)), [one["name"] for one in engines])
    axes.invert_yaxis()
    axes.margins(x=0.16)
    axes.set_xlim(left=0)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
