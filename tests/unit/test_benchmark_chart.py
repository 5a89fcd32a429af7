"""The benchmark's chart: one panel a network, every engine named, and places that cannot be written."""

from __future__ import annotations

from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgeseg import benchmark_chart
from edgeseg.errors import BackendMissing, OutputError


def _engine(network: str, name: str, peer: bool) -> dict[str, Any]:
    single, best = {"batch": 1, "slices_per_second": 100.0}, {"batch": 8, "slices_per_second": 250.0}
    return {"network": network, "name": name, "peer": peer, "single": single, "best": best}


REPORT: dict[str, Any] = {
    "machine": {"cpu": "a processor"},
    "threads": 2,
    "rounds": 20,
    "engines": [_engine("a", "a-int8", False), _engine("b", "b-fp16", False), _engine("a", "PyTorch eager", True)],
}


def test_a_chart_is_drawn(tmp_path: Path) -> None:
    path = tmp_path / "chart.png"
    benchmark_chart.check(path)
    benchmark_chart.draw(REPORT, path)
    with Image.open(path) as image:
        assert image.width == 1200
        assert len(np.unique(np.asarray(image.convert("L")))) > 10
    assert [file.name for file in tmp_path.iterdir()] == ["chart.png"]


def test_a_gpu_gets_a_panel_of_its_own(tmp_path: Path) -> None:
    def on_gpu(roofline_ms: float | None) -> dict[str, Any]:
        best = {"batch": 8, "upload_ms": 0.3, "compute_ms": 2.0, "download_ms": 0.2, "roofline_ms": roofline_ms}
        return {"device": "Card (compute capability 8.9)", "on_gpu": {"best": best}}

    engines = [{**REPORT["engines"][0], **on_gpu(0.9)}, {**REPORT["engines"][2], **on_gpu(None)}, REPORT["engines"][1]]
    heights = []
    for name, shown in (("without", REPORT["engines"]), ("with", engines)):
        benchmark_chart.draw({**REPORT, "engines": shown}, tmp_path / f"{name}.png")
        with Image.open(tmp_path / f"{name}.png") as image:
            heights.append(image.height)
    assert heights[1] > heights[0] + 120


def test_the_whole_way_is_drawn_step_by_step(tmp_path: Path) -> None:
    stages = {"find": "find", "read": "before", "network": "network", "write": "after"}
    steps = [{"name": name, "stage": stage, "ms": 2.0, "share": 0.5} for name, stage in stages.items()]
    whole = {"engine": "a-int8", "studies": 8, "slices": 208, "rounds": 5, "end_to_end_over_engine": 0.8}
    rates = {"slices_per_second": 80.0, "engine_slices_per_second": 100.0}
    for count in (4, 2):
        report = {**whole, **rates, "machine": REPORT["machine"], "steps": steps[:count]}
        benchmark_chart.draw_steps(report, tmp_path / f"{count}.png")
    with Image.open(tmp_path / "4.png") as more, Image.open(tmp_path / "2.png") as fewer:
        assert more.width == fewer.width == 1200
        assert more.height - fewer.height > 80
    assert len(list(tmp_path.iterdir())) == 2


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="there is no folder"):
        benchmark_chart.check(tmp_path / "no" / "chart.png")
    with pytest.raises(OutputError, match="cannot write the chart"):
        benchmark_chart.draw(REPORT, tmp_path / "no" / "chart.png")


def test_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(util, "find_spec", lambda _: None)
    with pytest.raises(BackendMissing, match="pip install matplotlib"):
        benchmark_chart.check(tmp_path / "chart.png")
