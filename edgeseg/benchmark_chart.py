"""The chart of a benchmark: slices a second of each engine, at batch 1 and at its best batch; a GPU's time apart."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import util
from pathlib import Path
from typing import Any

from edgeseg.errors import BackendMissing, OutputError

_BLUE, _LIGHT, _GREY, _PALE = "#0072b2", "#9ecae1", "#555555", "#bbbbbb"
_STAGES = {"find": _PALE, "before": _LIGHT, "network": _BLUE, "after": "#e69f00"}
_STEPS = {
    "upload_ms": (_LIGHT, "copy to the GPU"),
    "compute_ms": (_BLUE, "network"),
    "download_ms": (_PALE, "copy back"),
}


def check(path: Path) -> None:
    """Raise what `draw` would raise for a missing package or folder, before minutes of measuring."""
    if util.find_spec("matplotlib") is None:
        raise BackendMissing("the chart needs matplotlib: pip install matplotlib, or leave out --chart")
    if not path.parent.is_dir():
        raise OutputError(f"there is no folder {path.parent} for the chart: make it, or give another file")


def draw(report: Mapping[str, Any], path: Path) -> None:
    """Draw a PNG: one panel a network, bundles in blue, peers in grey; below, a panel of the engines on a GPU.

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
    on_gpu = [one for one in report["engines"] if one.get("on_gpu")]
    heights = [*(len(engines) for engines in networks.values()), *([len(on_gpu)] if on_gpu else [])]
    figure = Figure(figsize=(10, 1.2 + 0.75 * sum(heights) + 0.6 * len(heights)), layout="constrained")
    panels = figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    widest = max(one["best"]["slices_per_second"] for one in report["engines"])
    for axes, (network, engines) in zip(panels, networks.items(), strict=False):
        _draw_network(axes, network, engines, widest)
    panels[len(networks) - 1].set_xlabel("slices a second (median); higher is better")
    if on_gpu:
        _draw_gpu(panels[-1], on_gpu)
    figure.suptitle(f"{report['machine']['cpu']}, {report['threads']} threads, {report['rounds']} rounds", fontsize=10)
    _save(figure, path)


def draw_steps(report: Mapping[str, Any], path: Path) -> None:
    """Draw a PNG of the whole way from folder to files: each step's time a slice, and the engine alone.

    Parameters
    ----------
    report
        What `edgeseg.end_to_end.Report.to_json` returns.
    path
        Where the PNG goes.

    Raises
    ------
    OutputError
        When it cannot be written.
    """
    from matplotlib.figure import Figure

    whole, alone = (1000 / report[name] for name in ("slices_per_second", "engine_slices_per_second"))
    bars = [("engine alone", alone, _GREY), ("from folder to files", whole, "black")]
    bars += [(step["name"], step["ms"], _STAGES[step["stage"]]) for step in report["steps"]]
    figure = Figure(figsize=(10, 1.3 + 0.42 * len(bars)), layout="constrained")
    axes = figure.subplots()
    for k, (_, ms, color) in enumerate(bars):
        axes.barh(k, ms, 0.6, color=color)
        share = "" if k < 2 else f", at work {100 * report['steps'][k - 2]['share']:.0f} % of the time"
        axes.text(ms, k, f" {ms:.2f} ms{share}", va="center", fontsize=8)
    _tidy(axes, [{"name": name} for name, *_ in bars])
    axes.set_xlim(0, 1.4 * max(ms for _, ms, _ in bars))
    axes.set_xlabel("ms a slice (median); steps of one colour follow each other, the colours run at the same time")
    over, cpu = f"{report['end_to_end_over_engine']:.2f} of the engine alone", report["machine"]["cpu"]
    taken = f"{report['studies']} studies of {report['slices']} slices in all, {report['rounds']} rounds"
    figure.suptitle(f"{report['engine']}: {over}, {taken}, {cpu}", fontsize=10)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    part = path.with_name(path.name + ".part")
    try:
        figure.savefig(part, dpi=120, format="png")
        part.replace(path)
    except OSError as error:
        raise OutputError(f"cannot write the chart to {path} ({error.strerror}): give another file") from error


def _draw_gpu(axes: Any, engines: list[Mapping[str, Any]]) -> None:
    """Time a slice at the best batch, step by step, and the roofline as a line across the network's part."""
    axes.set_title(engines[0]["device"], loc="left", fontsize=11)
    for k, one in enumerate(engines):
        best, start = one["on_gpu"]["best"], 0.0
        for step, (color, label) in _STEPS.items():
            axes.barh(k, best[step] / best["batch"], 0.5, start, color=color, label=label if k == 0 else None)
            if step == "compute_ms" and best["roofline_ms"] is not None:
                least = start + best["roofline_ms"] / best["batch"]
                named = "the network's least time (roofline)" if k == 0 else None
                axes.plot([least, least], [k - 0.35, k + 0.35], color="black", label=named)
            start += best[step] / best["batch"]
        axes.text(start, k, f" {start:.3f} ms, batch {best['batch']}", va="center", fontsize=8)
    axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.3), ncols=4, frameon=False)
    axes.set_xlabel("ms a slice by the GPU's clock, nothing overlapping; lower is better")
    _tidy(axes, engines)


def _draw_network(axes: Any, network: str, engines: list[Mapping[str, Any]], widest: float) -> None:
    axes.set_title(network, loc="left", fontsize=11)
    for k, one in enumerate(engines):
        best, single = one["best"], one["single"]
        strong, weak = (_GREY, _PALE) if one["peer"] else (_BLUE, _LIGHT)
        axes.barh(k - 0.19, best["slices_per_second"], 0.36, color=strong)
        axes.barh(k + 0.19, single["slices_per_second"], 0.36, color=weak)
        for place, timing in ((k - 0.19, best), (k + 0.19, single)):
            label = f" {timing['slices_per_second']:.1f}, batch {timing['batch']}"
            axes.text(timing["slices_per_second"], place, label, va="center", fontsize=8)
    _tidy(axes, engines)
    axes.set_xlim(0, 1.16 * widest)


def _tidy(axes: Any, engines: list[Mapping[str, Any]]) -> None:
    axes.set_yticks(range(len(engines)), [one["name"] for one in engines])
    axes.invert_yaxis()
    axes.margins(x=0.16)
    axes.set_xlim(left=0)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
