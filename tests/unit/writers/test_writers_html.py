"""report.html: escaped, sealed against the network, the same bytes twice, and true to the report."""

from __future__ import annotations

import hashlib
import io
import json
import re
from base64 import b64decode, b64encode
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgeseg.types import Alignment, ChannelName, ChannelOrigin, Geometry, Segmentation, Study, Volume
from edgeseg.writers import ReportFacts, html
from edgeseg.writers.report import NOTICE, to_dict

CANARY = "<script>alert('canary')</script>\"&$notice"
FACTS = ReportFacts(
    engine={
        "name": "lite0-fp16",
        "sha256": "ab" * 32,
        "precision": "fp16",
        "inference_precision": "f32",
        "runtime": "OpenVINO",
        "runtime_version": "2026.4",
        "device": "CPU",
        "parity": "passed",
        "agreement": {"mean": 0.9907, "fifth_percentile": 0.9671, "worst": 0.8476, "slices": 135},
    },
    preprocessing={},
    threshold=0.5,
    versions={"numpy": "2"},
)


class _Page(HTMLParser):
    """The page as a browser takes it apart: tags with their attributes, the text of each kind of element."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.setdefault(self.tags[-1][0] if self.tags else "", []).append(data)

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)

    @property
    def data(self) -> Any:
        return json.loads(self.texts["script"][0])


def _study(geometry: bool = True, name: str = "0123456789ab") -> tuple[Segmentation, Study]:
    mask = np.zeros((4, 24, 32), dtype=bool)
    mask[1, 4:10, 5:12], mask[2, 5:9, 6:10] = True, True
    voxels = np.random.default_rng(0).uniform(0, 500, mask.shape).astype(np.float32)
    grid = Geometry(np.zeros(3), np.array([5.0, 2.0, 1.0]), np.eye(3)[:, ::-1]) if geometry else None
    channels: dict[ChannelName, ChannelOrigin] = {
        "pre": ChannelOrigin("own", "series 3", "T1 by physics", Alignment("registered", 12.34, 5.6)),
        "flair": ChannelOrigin("own", "series 5", "FLAIR by inversion time"),
        "post": ChannelOrigin("flair", "", "no T1 after contrast among the series"),
    }
    flair = Volume(voxels, grid, ("a", "b", "c", "d"))
    study = Study(name, name, "dicom" if geometry else "tiff", flair, None, None, channels, (), ("look here",))
    areas = tuple(int(area) for area in mask.sum(axis=(1, 2)))
    areas_mm2 = tuple(2.0 * area for area in areas) if geometry else None
    volume_ml = 0.58 if geometry else None
    return Segmentation(mask, mask.astype(np.float32), areas, volume_ml, areas_mm2, {"read": 1.0}), study


def _text(segmentation: Segmentation, study: Study, facts: ReportFacts = FACTS, **more: Any) -> str:
    return html.page({**to_dict(segmentation, study, facts), **more}, segmentation, study)


def test_it_says_what_the_report_says(tmp_path: Path) -> None:
    assert html.write(*_study(), tmp_path, FACTS) == ["report.html"]
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = _Page(text)
    assert page.texts["h1"][0] == "FLAIR abnormality: 0.6 ml in 2 of 4 slices"
    assert NOTICE in text.split("<header>")[0]
    for said in (
        *("0123456789ab", "32 × 24 pixels", "voxels of 1 × 2 × 5 mm", "2 of 4", "84 mm²", "look here"),
        *("own series", "FLAIR stands in", "series 3", "T1 by physics", "no T1 after contrast among the series"),
        "registered; registration found 12.3 mm and 5.6 degrees",
        *("lite0-fp16", "fp16 file, computed in f32", "OpenVINO 2026.4 on CPU", "SHA-256 abababababab"),
        "passed: mean IoU 0.9907, 5th percentile 0.9671, worst 0.8476, over 135 slices",
    ):
        assert said in text, said
    assert page.data["areas"] == ["", "84", "32", ""]
    slider = next(attributes for tag, attributes in page.tags if attributes.get("id") == "slider")
    assert (slider["min"], slider["max"], slider["value"]) == ("1", "4", "2")


def test_the_picture_is_the_slice_and_the_outline_its_mask() -> None:
    segmentation, study = _study()
    data = _Page(_text(segmentation, study)).data
    for picture, voxels in zip(data["pictures"], study.flair.voxels, strict=True):
        shown = np.asarray(Image.open(io.BytesIO(b64decode(picture))), dtype=float)
        assert shown.shape == voxels.shape
        assert np.corrcoef(shown.ravel(), voxels.ravel())[0, 1] > 0.9
    assert [bool(path) for path in data["outlines"]] == [False, True, True, False]


def test_a_study_without_geometry_is_in_pixels() -> None:
    text = _text(*_study(geometry=False))
    assert "FLAIR abnormality: 58 px in 2 of 4 slices" in text
    assert "areas are in pixels" in text
    assert "Sides as stored" in text
    assert " ml" not in text
    assert "mm²" not in text


def test_what_others_add_to_the_report_is_shown() -> None:
    segmentation, study = _study()
    channels = to_dict(segmentation, study, FACTS)["channels"]
    channels["flair"]["score"] = 7
    series = {"series": "series 5 <x>", "kind": "FLAIR", "score": 7, "slices": 4, "channel": "flair"}
    selection = {"rules": "built-in", "considered": [series, {**series, "kind": "T2", "channel": None}]}
    text = _text(segmentation, study, largest_diameter_mm=41.7, channels=channels, selection=selection)
    assert "All 2 series, by rules: built-in" in text
    assert "series 5 &lt;x&gt;" in text
    assert "<dt>Largest diameter</dt><dd>42 mm</dd>" in text
    assert "<dt>Score</dt><dd>7</dd>" in text


def test_nothing_found_is_said() -> None:
    _, study = _study()
    empty = np.zeros(study.flair.voxels.shape, dtype=bool)
    text = _text(Segmentation(empty, empty.astype(np.float32), (0,) * 4, 0.0, (0.0,) * 4), study)
    assert "No FLAIR abnormality found" in text
    assert "nothing is marked in any of 4 slices" in text
    assert 'value="3"' in text


def test_whatever_comes_from_outside_is_text() -> None:
    """A folder's name, a warning, a reason, an engine's name, a patient's name: none becomes an element."""
    segmentation, study = _study(name=CANARY)
    origin = ChannelOrigin("own", CANARY, CANARY)
    study = replace(study, channels=dict.fromkeys(study.channels, origin), warnings=(CANARY,))
    facts = replace(FACTS, engine={**FACTS.engine, "name": CANARY, "licence": CANARY}, versions={CANARY: CANARY})
    text = _text(segmentation, study, facts, identified={"patient_name": CANARY})
    page, plain = _Page(text), _Page(_text(*_study()))
    assert page.count("script") == plain.count("script") == 2
    assert "alert('canary')" not in text
    assert "$notice" in text  # is no placeholder either
    assert not [attributes for _, attributes in page.tags if any(key.startswith("on") for key in attributes)]


def test_the_policy_lets_the_pages_own_script_run_and_nothing_be_fetched() -> None:
    text = _text(*_study())
    page = _Page(text)
    policy = next(a["content"] for tag, a in page.tags if tag == "meta" and "http-equiv" in a) or ""
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    for name, content in (("style-src", "<style>(.*?)</style>"), ("script-src", "<script>(.*?)</script>")):
        (found,) = re.findall(content, text, re.DOTALL)
        assert rules[name] == f"'sha256-{b64encode(hashlib.sha256(found.encode()).digest()).decode()}'"
    places = [value or "" for _, a in page.tags for key, value in a.items() if key in ("src", "href")]
    assert places
    assert all(place.startswith("data:") for place in places)
    assert not [a for _, a in page.tags if "style" in a]  # the policy would drop it


def test_the_same_twice_whatever_the_time_taken() -> None:
    segmentation, study = _study()
    assert _text(segmentation, study) == _text(replace(segmentation, timings_ms={"read": 99.9}), study)


def test_it_names_the_patient_only_when_asked() -> None:
    from pydicom import Dataset

    segmentation, study = _study()
    header = Dataset()
    header.PatientName, header.PatientID, header.PatientBirthDate = "Doe^Jane", "id-77", "19700102"
    header.StudyDate, header.SeriesDescription = "20240506", "AX FLAIR"
    study = replace(study, headers=(header,))
    assert "Doe" not in _text(segmentation, study)
    named = _text(segmentation, study, replace(FACTS, identified=True))
    for said in ("This page identifies the patient", "Doe^Jane", "id-77", "19700102", "20240506", "AX FLAIR"):
        assert said in named


def test_many_voxels_make_smaller_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    segmentation, study = _study()
    monkeypatch.setattr(html, "MOST_PIXELS", study.flair.voxels.size // 4)
    data = _Page(_text(segmentation, study)).data
    assert {Image.open(io.BytesIO(b64decode(picture))).size for picture in data["pictures"]} == {(16, 12)}


@pytest.mark.parametrize("slices", [1, 2, 7, 26, 150])
def test_every_placeholder_is_filled(slices: int) -> None:
    _, study = _study()
    voxels = np.ones((slices, 24, 32), np.float32)
    study = replace(study, flair=Volume(voxels, study.flair.geometry, ("a",) * slices))
    mask = np.zeros(voxels.shape, dtype=bool)
    text = _text(Segmentation(mask, voxels, (0,) * slices, 0.0, (0.0,) * slices), study)
    assert not re.search(r"\$[a-z_]+", text)
    assert len(_Page(text).data["pictures"]) == slices
