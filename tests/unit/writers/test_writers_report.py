"""report.json: complete, plain, and without a patient's name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from edgeseg.types import Alignment, ChannelName, ChannelOrigin, Geometry, Segmentation, Study, Volume
from edgeseg.writers import ReportFacts, report, write

ENGINE = {
    "device": "CPU",
    "name": "lite0-fp16",
    "sha256": "ab" * 32,
    "precision": "fp16",
    "inference_precision": "f32",
    "runtime": "openvino",
    "runtime_version": "2026.4.1",
}
FACTS = ReportFacts(
    engine=ENGINE,
    preprocessing={"intensity": "volume", "size_px": np.int64(256)},
    threshold=0.5,
    versions={"numpy": "2", "edgeseg": "0.1.0"},
    warnings=("second",),
)


def _study() -> tuple[Segmentation, Study]:
    geometry = Geometry(np.zeros(3), np.array([5.0, 0.898437512, 0.9]), np.eye(3))
    mask = np.zeros((3, 4, 4), dtype=bool)
    mask[1, :2, :3] = True
    channels: dict[ChannelName, ChannelOrigin] = {
        "post": ChannelOrigin("flair", "", "No T1 after contrast was found."),
        "pre": ChannelOrigin(
            "own", "series 3", "T1 by physics.", Alignment("registered", 1.5, 0.25, 0.4, float("nan"))
        ),
        "flair": ChannelOrigin("own", "series 5", "FLAIR by inversion time."),
    }
    flair = Volume(np.zeros(mask.shape, np.float32), geometry, ("1.2.3", "1.2.4", "1.2.5"))
    study = Study("1.2", "0123456789ab", "dicom", flair, None, None, channels, (), ("first",))
    areas = (np.int64(0), np.int64(6), np.int64(0))
    segmentation = Segmentation(
        mask, mask.astype(np.float32), areas, np.float64(1.23456), (0.0, 4.85156, 0.0), {"read": 12.3456}
    )
    return segmentation, study


def test_report_says_what_was_found_by_what(tmp_path: Path) -> None:
    """Figures are rounded, NumPy's types are plain, what is no number is null."""
    segmentation, study = _study()
    files = write(segmentation, study, ["report", "overlay"], tmp_path, FACTS)
    content = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert files[-1] == "report.json"
    assert content["files"] == files
    assert all((tmp_path / file).is_file() for file in files)
    assert content["volume_ml"] == 1.235
    assert content["marked_slices"] == 1
    expected = {"slice": 2, "index": 1, "instance": "1.2.4", "area_px": 6, "area_mm2": 4.9}
    assert content["slices"][1] == expected
    assert content["channels"]["pre"]["alignment"]["method"] == "registered"
    assert content["channels"]["pre"]["alignment"]["similarity_after"] is None
    assert content["channels"]["post"]["filled_with"] == "flair"
    assert content["preprocessing"] == {"intensity": "volume", "size_px": 256}
    assert content["warnings"] == ["first", "second"]
    assert content["timings_ms"]["read"] == 12.3
    assert content["timings_ms"]["write"] > 0
    assert "not a medical device" in content["notice"].lower()


def test_keys_stand_in_a_fixed_order() -> None:
    """Whatever order the facts came in."""
    segmentation, study = _study()
    content = report.to_dict(segmentation, study, FACTS)
    assert list(content)[:4] == ["schema_version", "edgeseg_version", "notice", "study"]
    assert list(content["channels"]) == ["pre", "flair", "post"]
    assert list(content["engine"])[:2] == ["name", "sha256"]
    assert list(content["versions"]) == ["edgeseg", "numpy"]


def test_a_study_without_geometry_has_null_volume() -> None:
    """Not zero: the files do not say it."""
    segmentation, study = _study()
    flair = Volume(study.flair.voxels, None, ("a", "b", "c"))
    bare = Segmentation(segmentation.mask, segmentation.probability, (0, 6, 0), None, None)
    content = report.to_dict(bare, Study("p", "p", "tiff", flair, None, None, {}), FACTS)
    assert content["volume_ml"] is None
    assert content["slices"][1]["area_mm2"] is None
    assert content["study"]["grid"]["spacing_mm"] is None
