"""The chart of `benchmarks/peers.py`: seconds a study of each contestant, in an archive and cold; ours are blue."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

_BLUE, _LIGHT, _GREY, _PALE = "#0072b2", "#9ecae1", "#555555", "#bbbbbb"


def draw(figures: Mapping[str, Any], path: Path) -> None:
    """Draw a PNG, one row of panels a network: on the left the archive, on the right one study, cold."""
    from matplotlib.figure import Figure

    networks = figures["networks"]
    rows = max(len(network["contestants"]) for network in networks.values())
    figure = Figure(figsize=(11, 0.9 + (0.42 * rows + 0.9) * len(networks)), layout="constrained")
    panels = figure.subplots(len(networks), 2, squeeze=False)
    for (left, right), (name, network) in zip(panels, networks.items(), strict=True):
        contestants = network["contestants"]
        in_archive = {who: one for who, one in contestants.items() if "archive" in one}
        _bars(left, {who: (one["s_a_study"], 0.0) for who, one in in_archive.items()})
        _bars(right, {who: (one["cold"]["written_s"], one["cold"]["network_s"]) for who, one in contestants.items()})
        left.set_title(f"{name}: s a study, archive of {figures['studies']}", fontsize=9, loc="left")
        right.set_title("one study, cold, to the last file, s (dark: network)", fontsize=9, loc="left")
    slices, threads = figures["slices"], figures["threads"]
    figure.suptitle(f"{slices} slices a study, {threads} threads, {figures['machine']['cpu']}", fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, format="png")


def _bars(axes: Any, seconds: Mapping[str, tuple[float, float]]) -> None:
    """A bar for each contestant; the second of its two values is drawn dark, as a part of the first."""
    widest = max(whole for whole, _ in seconds.values())
    for k, (name, (whole, part)) in enumerate(seconds.items()):
        ours = name.startswith("edgeseg")
        dark, light = (_BLUE, _LIGHT) if ours else (_GREY, _PALE)
        axes.barh(k, whole, 0.7, color=light if part else dark)
        axes.barh(k, part, 0.7, color=dark)
        axes.text(whole, k, f" {whole:.2f}", va="center", fontsize=8)
    axes.set_yticks(range(len(seconds)), list(seconds), fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.15 * widest)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
