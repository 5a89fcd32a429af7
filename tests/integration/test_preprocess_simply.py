"""Preprocessing takes short ways, and gives to the bit what the simple formulas of these tests give."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeseg import preprocess, readers
from edgeseg.errors import StudyError
from edgeseg.types import CHANNELS, ByteArray, FloatArray, Geometry, Preprocessing, Study, Volume

RULE = Preprocessing()
MEDIANS = {"pre": 52.0, "flair": 57.0, "post": 55.0}
TILT = np.radians(20)
AXIAL = np.array([[0.0, 0, 1], [0, 1, 0], [1, 0, 0]])
GRIDS = {
    "square": (AXIAL, (7, 256, 256), 1.0),
    "upside down": (AXIAL * [1, -1, 1], (3, 256, 256), 1.0),
    "large": (AXIAL, (3, 512, 512), 1.0),
    "wide pixels": (AXIAL, (4, 256, 256), 1.3),
    "coronal": (AXIAL[:, [1, 0, 2]], (60, 256, 256), 1.0),
    "oblique": (
        np.array([[0, 0, 1], [-np.sin(TILT), np.cos(TILT), 0], [np.cos(TILT), np.sin(TILT), 0]]),
        (5, 101, 77),
        0.8,
    ),
}
VOXELS: dict[str, Callable[[np.random.Generator, tuple[int, ...]], Any]] = {
    "whole": lambda draw, shape: draw.integers(0, 4096, shape),
    "sixteen bits": lambda draw, shape: draw.integers(0, 65536, shape),
    "dark": lambda draw, shape: np.where(draw.random(shape) < 0.985, 0, draw.integers(0, 300, shape)),
    "two values": lambda draw, shape: np.where(draw.random(shape) < 0.5, 17, 18),
    "not whole": lambda draw, shape: draw.gamma(3, 200, shape),
    "negative": lambda draw, shape: draw.integers(-1000, 3000, shape),
    "above sixteen bits": lambda draw, shape: draw.integers(0, 70000, shape),
    "half": lambda draw, shape: draw.integers(0, 2000, shape) / 2,
}


def _simple_rule(values: FloatArray, channel: str) -> tuple[float, float]:
    low, high = np.percentile(values, (2.0, 99.5))
    tissue = values[values > low + 0.1 * (high - low)]
    return float(low), float(MEDIANS[channel] / (float(np.median(tissue)) - low))


def _simple_input(study: Study) -> ByteArray:
    mapping = preprocess.grid_mapping(study.flair.voxels.shape, study.flair.geometry, RULE.size_px)
    channels = []
    for channel, volume in zip(
        CHANNELS, (study.pre or study.flair, study.flair, study.post or study.flair), strict=True
    ):
        low, gain = _simple_rule(volume.voxels, "flair" if volume is study.flair else channel)
        values = np.clip((volume.voxels - np.float32(low)) * np.float32(gain), 0, 255).astype(np.float32)
        squares = preprocess._to_squares(preprocess._orient(values, mapping), mapping)
        channels.append(np.clip(np.rint(squares), 0, 255).astype(np.uint8))
    return np.stack(channels, axis=1)


def _study(grid: str, kind: str, seed: int = 0) -> Study:
    direction, shape, width_mm = GRIDS[grid]
    geometry = Geometry(np.zeros(3), np.array([5.0, 1.0, width_mm]), direction)
    draw = np.random.default_rng(seed)
    volumes = [Volume(VOXELS[kind](draw, shape).astype(np.float32), geometry, ("",) * shape[0]) for _ in range(2)]
    return Study("1.2", "a", "dicom", volumes[0], volumes[1], None, {})


@pytest.mark.parametrize(("grid", "kind"), [*product(GRIDS, ("whole", "not whole")), *product(["square"], VOXELS)])
def test_the_network_is_given_what_sorting_and_scaling_give(grid: str, kind: str) -> None:
    study = _study(grid, kind)
    assert np.array_equal(preprocess.to_network(study, RULE).slices, _simple_input(study))


def test_the_examples_are_given_as_sorting_and_scaling_give_them(example_dicom: Path, example_tiff: Path) -> None:
    for folder in (example_dicom, example_tiff):
        study = readers.read_study(readers.find_studies(folder)[0], readers.AUTOMATIC)
        assert np.array_equal(preprocess.to_network(study, RULE).slices, _simple_input(study))


@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.integers(2, 400),
    most=st.sampled_from([1, 2, 5, 255, 4095, 65535]),
    share=st.floats(0, 1),
)
@settings(max_examples=300, deadline=None)
def test_counting_finds_what_sorting_finds(seed: int, size: int, most: int, share: float) -> None:
    draw = np.random.default_rng(seed)
    whole = np.where(draw.random((1, 1, size)) < share, 0, draw.integers(0, most + 1, (1, 1, size)))
    values = whole.astype(np.float32)
    if np.percentile(values, 2.0) == np.percentile(values, 99.5):
        with pytest.raises(StudyError, match="constant"):
            preprocess.normalise(values, "flair")
        return
    found = preprocess.intensity_rule(values, preprocess.whole_numbers(values), "flair")
    assert found == _simple_rule(values, "flair") == preprocess.intensity_rule(values, None, "flair")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_value_that_is_no_number_is_refused(value: float) -> None:
    study = _study("square", "whole")
    study.flair.voxels[3, 100, 100] = value
    with pytest.raises(StudyError, match="not finite"):
        preprocess.to_network(study, RULE)


@pytest.mark.parametrize("value", [0.0, 7.0, 65535.0, -3.5, 100000.0])
def test_a_constant_volume_is_refused(value: float) -> None:
    study = _study("square", "whole")
    study.flair.voxels[:] = value
    with pytest.raises(StudyError, match=f"constant .every voxel near {value:g}"):
        preprocess.to_network(study, RULE)


def _simple_mask(marked: Any) -> Any:
    import SimpleITK

    image = SimpleITK.GetImageFromArray(marked.astype(np.uint8))
    labels = SimpleITK.GetArrayFromImage(SimpleITK.ConnectedComponent(image, True))
    voxels = np.bincount(labels.ravel())
    voxels[0] = 0
    return (voxels >= 0.1 * voxels.max())[labels] & marked


def _logits(kind: str, shape: tuple[int, int, int]) -> FloatArray:
    draw = np.random.default_rng(3)
    logits = draw.normal(-6, 1, (shape[0], 1, *shape[1:])).astype(np.float32)
    if kind == "borders":
        logits[0, 0, :4, :30], logits[-1, 0, -20:, -1], logits[:, 0, -1, 0] = 5, 5, 5
    if kind == "islands":
        logits[1:3, 0, 20:40, 30:70], logits[2, 0, 100:110, 100:120], logits[0, 0, 200, 200] = 5, 0, 90
    if kind == "scattered":
        logits += 4
    if kind == "full":
        logits += 20
    return logits


@pytest.mark.parametrize("kind", ["empty", "borders", "islands", "scattered", "full"])
@pytest.mark.parametrize("grid", GRIDS)
def test_the_mask_is_that_of_whole_volumes(grid: str, kind: str) -> None:
    study = _study(grid, "whole")
    mapping = preprocess.to_network(study, RULE).mapping
    logits = _logits(kind, (study.flair.voxels.shape[mapping.axes[0]], 256, 256))
    given_back = preprocess.to_grid(logits, mapping)
    probability = np.float32(0.5) * (np.tanh(np.float32(0.5) * given_back) + np.float32(1))
    mask = _simple_mask(probability >= 0.5)
    untouched = logits.copy()
    found = preprocess.to_segmentation(logits, study, mapping, 0.5)
    assert np.array_equal(found.probability, probability)
    assert found.probability.dtype == np.float32
    assert np.array_equal(found.mask, mask)
    assert found.mask.dtype == np.bool_
    assert found.slice_area_px == tuple(mask.sum(axis=(1, 2)).tolist())
    assert np.array_equal(logits, untouched)


def test_the_voxels_are_left_as_they_were() -> None:
    study = _study("square", "whole")
    before = replace(study.flair, voxels=study.flair.voxels.copy())
    preprocess.to_network(study, RULE)
    assert np.array_equal(study.flair.voxels, before.voxels)
