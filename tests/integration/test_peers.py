"""The peers of ``benchmarks/peers.py`` do the same work as edgeseg: the same masks, in the same kinds of files."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peers
import peers_chart
import pytest
import studies

from edgeseg import bundle

ENGINE = f"{bundle.DEFAULT_NETWORK}-fp16"
SLICES = 7


@pytest.fixture
def ours(tmp_path: Path, edgeseg: Callable[..., Any]) -> Path:
    """Results of a small archive of two studies, which lies beside them."""
    studies.write(tmp_path / "archive", 2, SLICES)
    formats = [part for name in ("dicom-seg", "nifti", "report") for part in ("--format", name)]
    run = edgeseg("infer", tmp_path / "archive", "-o", tmp_path / "ours", "--engine", ENGINE, *formats)
    assert run.code == 0
    return tmp_path / "ours"


@pytest.mark.parametrize(("script", "package"), [("plain.py", "highdicom"), ("with_monai.py", "monai")])
def test_a_peers_masks_are_edgesegs(script: str, package: str, ours: Path, repository: Path, tmp_path: Path) -> None:
    pytest.importorskip(package, reason=f"pip install {package}")
    pytest.importorskip("nibabel", reason="pip install nibabel")
    command = [sys.executable, str(repository / "benchmarks" / script), tmp_path / "archive", tmp_path / "theirs"]
    subprocess.run([*map(str, command), "--threads", "1"], check=True, capture_output=True)
    peer = peers.Contestant("peer", "fp32", ())
    found = peers._agreement(peer, tmp_path / "theirs", ours, 2)
    assert found["voxels_marked"] > 1000
    assert found["dice"] > peers.LEAST_DICE["fp16"]


def test_who_computes_something_else_is_no_peer(ours: Path, tmp_path: Path) -> None:
    import SimpleITK

    peer = peers.Contestant("peer", "int8", ())
    with pytest.raises(SystemExit, match="2 studies, edgeseg 2, of 3"):
        peers._agreement(peer, ours, ours, 3)
    copy = tmp_path / "copy"
    for study in ours.iterdir():
        (copy / study.name).mkdir(parents=True)
        for file in ("mask.nii.gz", "segmentation.dcm"):
            (copy / study.name / file).write_bytes((study / file).read_bytes())
        image = SimpleITK.ReadImage(str(study / "mask.nii.gz"))
        SimpleITK.WriteImage(SimpleITK.Flip(image, (True, False, False)), str(copy / study.name / "mask.nii.gz"))
    with pytest.raises(SystemExit, match="no peer"):
        peers._agreement(peer, copy, ours, 2)
    SimpleITK.WriteImage(image * 0, str(copy / study.name / "mask.nii.gz"))
    with pytest.raises(SystemExit, match="holds"):
        peers._agreement(peer, copy, ours, 2)


def test_the_figures_say_which_bars_are_held(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = "lgg-unet-resnet34"
    contestants = []
    for name, seconds in (("edgeseg FP32", 30.0), ("edgeseg INT8", 10.0), (peers.PLAIN, 44.0), (peers.ALL_FORMATS, 0)):
        run = {"first_s": 2.0, "written_s": seconds - 1, "process_s": seconds, "network_s": 0.2, "peak_mb": 400.0}
        one = peers.Contestant(name, "fp32", (), archive=[run] * 3 if seconds else [], cold=[run | {"written_s": 1.9}])
        one.agreement = {"dice": 1.0}
        contestants.append(one)
    figures = peers._figures(network, contestants, 5)
    assert [(bar["found"], bar["held"]) for bar in figures["bars"]] == [(4.4, False), (1.9, True), (0.2, True)]
    assert figures["contestants"][peers.PLAIN]["int8_is_faster"] == 4.4
    assert figures["contestants"]["edgeseg INT8"]["s_a_study"] == 2.0
    assert figures["contestants"]["edgeseg INT8"]["s_a_study_without_start"] == 1.75
    assert "archive" not in figures["contestants"][peers.ALL_FORMATS]
    peers._print(network, figures)
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    assert "MISSED" in printed
    whole = {"networks": {network: figures}, "studies": 5, "slices": 26, "threads": 2, "machine": {"cpu": "a CPU"}}
    peers_chart.draw(whole, tmp_path / "chart.png")
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")
