"""Preprocessing in both directions, on phantoms whose marks are placed by arithmetic of the test's own."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeseg import preprocess
from edgeseg.errors import StudyError
from edgeseg.types import (
    CHANNELS,
    ChannelName,
    ChannelOrigin,
    FloatArray,
    Geometry,
    GridMapping,
    Preprocessing,
    Study,
    Volume,
)

SIZE = 256
HEAD, LEFT, POSTERIOR = (0.0, 0.0, 1.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)
TILT = math.radians(20)

# direction: columns are the patient directions (LPS) in which slice, row and column grow
ORIENTATIONS: dict[str, tuple[tuple[float, float, float], ...]] = {
    "axial": (HEAD, POSTERIOR, LEFT),
    "axial, feet last": ((0.0, 0.0, -1.0), POSTERIOR, (-1.0, 0.0, 0.0)),
    "axial, upside down": (HEAD, (0.0, -1.0, 0.0), (-1.0, 0.0, 0.0)),
    "sagittal": (LEFT, (0.0, 0.0, -1.0), POSTERIOR),
    "sagittal from the left": ((-1.0, 0.0, 0.0), (0.0, 0.0, -1.0), (0.0, -1.0, 0.0)),
    "coronal": (POSTERIOR, (0.0, 0.0, -1.0), LEFT),
    "coronal from behind": ((0.0, -1.0, 0.0), HEAD, (-1.0, 0.0, 0.0)),
    "oblique axial": (
        (0.0, -math.sin(TILT), math.cos(TILT)),
        (0.0, math.cos(TILT), math.sin(TILT)),
        LEFT,
    ),
    "oblique sagittal": (
        (math.cos(TILT), math.sin(TILT), 0.0),
        (0.0, 0.0, -1.0),
        (-math.sin(TILT), math.cos(TILT), 0.0),
    ),
}
SHAPES = {
    "256x256, 1 mm": ((8, 256, 256), (5.0, 1.0, 1.0)),
    "512x512, 0.43 mm": ((6, 512, 512), (5.0, 0.43, 0.43)),
    "192x256, 0.9 mm": ((6, 192, 256), (5.0, 0.9, 0.9)),
    "0.5 x 1.0 mm": ((6, 400, 220), (5.0, 0.5, 1.0)),
    "320x260, 0.7 mm": ((6, 320, 260), (5.0, 0.7, 0.7)),
    "odd, 173x211": ((6, 173, 211), (5.0, 1.1, 1.1)),
    "one row off, 255x256": ((6, 255, 256), (5.0, 1.0, 1.0)),
}


def _geometry(
    name: str, shape: tuple[int, int, int], spacing: tuple[float, float, float], centre: FloatArray | None = None
) -> Geometry:
    """A grid whose middle lies at ``centre`` (LPS, mm)."""
    direction = np.array(ORIENTATIONS[name]).T
    extent = np.array(spacing) * (np.array(shape) - 1)
    middle = np.array([12.0, -7.0, 30.0]) if centre is None else centre
    return Geometry(middle - direction @ extent / 2, np.array(spacing), direction)


def _study(flair: FloatArray, geometry: Geometry | None, pre: FloatArray | None = None) -> Study:
    def volume(voxels: FloatArray) -> Volume:
        return Volume(voxels, geometry, tuple(f"slice{k}" for k in range(len(voxels))))

    channels: dict[ChannelName, ChannelOrigin] = {name: ChannelOrigin("own", "", "") for name in CHANNELS}
    return Study("1.2.3", "phantom", "nifti", volume(flair), None if pre is None else volume(pre), None, channels)


def _balls(
    shape: tuple[int, int, int], geometry: Geometry, balls: list[tuple[tuple[float, float, float], float, float]]
) -> FloatArray:
    """Balls (offset from the grid's middle in LPS mm, radius in mm, value) in a grey head, voxel by voxel."""
    s, r, c = np.meshgrid(*[np.arange(n, dtype=np.float64) for n in shape], indexing="ij")
    spacing, d = geometry.spacing_mm, geometry.direction
    place = [
        geometry.origin_mm[k] + d[k, 0] * s * spacing[0] + d[k, 1] * r * spacing[1] + d[k, 2] * c * spacing[2]
        for k in range(3)
    ]
    middle = geometry.origin_mm + d @ (spacing * (np.array(shape) - 1)) / 2
    away = [place[k] - middle[k] for k in range(3)]
    voxels = np.zeros(shape, np.float32)
    voxels[(away[0] / 70) ** 2 + (away[1] / 80) ** 2 < 1] = 100
    for offset, radius, value in balls:
        inside = sum((away[k] - offset[k]) ** 2 for k in range(3)) < radius**2
        voxels[inside] = value
    return voxels


def _noise(seed: int = 1, shape: tuple[int, int, int] = (6, 64, 64)) -> FloatArray:
    """A head of noisy tissue in a dark background, 12 bit."""
    draw = np.random.default_rng(seed)
    s, r, c = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    head = r**2 + c**2 + 0 * s < 0.6
    voxels = np.abs(draw.normal(8, 4, shape)) + head * draw.gamma(8, 60, shape)
    return np.asarray(voxels, dtype=np.float32)


# --- intensities


@given(gain=st.floats(0.01, 500), offset=st.floats(-2000, 2000))
@settings(max_examples=25, deadline=None)
def test_a_positive_linear_change_of_the_scanner_changes_nothing(gain: float, offset: float) -> None:
    voxels = _noise()
    expected = preprocess.normalise(voxels, "flair")
    changed = np.asarray(voxels.astype(np.float64) * gain + offset, dtype=np.float32)
    tolerance = 0.05 + 2e-6 * abs(offset) / gain * 255 / 100
    assert np.abs(preprocess.normalise(changed, "flair") - expected).max() < tolerance


@pytest.mark.parametrize("channel", CHANNELS)
def test_the_tissue_median_is_the_training_sets(channel: ChannelName) -> None:
    voxels = _noise()
    values = preprocess.normalise(voxels, channel)
    low, high = np.percentile(voxels, [2, 99.5])
    tissue = values[voxels > low + (high - low) / 10]
    assert float(np.median(tissue)) == pytest.approx(preprocess.TISSUE_MEDIAN[channel], abs=0.05)
    assert values.dtype == np.float32
    assert values.min() == 0
    assert values.max() <= 255


def test_the_channels_have_targets_of_their_own() -> None:
    voxels = _noise()
    medians = {name: float(np.median(preprocess.normalise(voxels, name)[voxels > 100])) for name in CHANNELS}
    assert medians["pre"] < medians["post"] < medians["flair"]


@pytest.mark.parametrize("margin_px", [4, 16])
def test_more_background_around_the_head_changes_little(margin_px: int) -> None:
    voxels = _noise()
    wide = np.pad(voxels, ((0, 0), (margin_px, margin_px), (margin_px, margin_px)))
    inner = preprocess.normalise(wide, "flair")[:, margin_px:-margin_px, margin_px:-margin_px]
    head = voxels > 150
    change = np.abs(inner - preprocess.normalise(voxels, "flair"))[head]
    assert change.max() < 6
    assert change.mean() < 2


@pytest.mark.parametrize(
    ("voxels", "found"),
    [
        (np.full((4, 8, 8), 7, np.float32), "the flair volume is constant .*near 7"),
        (np.zeros((4, 8, 8), np.float32), "is constant"),
        (np.where(np.arange(256).reshape(4, 8, 8) == 9, np.nan, 5.0).astype(np.float32), "not finite"),
        (np.where(np.arange(256).reshape(4, 8, 8) == 9, np.inf, 5.0).astype(np.float32), "not finite"),
    ],
)
def test_a_volume_without_an_image_is_refused(voxels: FloatArray, found: str) -> None:
    with pytest.raises(StudyError, match=found):
        preprocess.to_network(_study(voxels, None), Preprocessing())


def test_a_missing_t1_is_flair_to_the_bit() -> None:
    slices = preprocess.to_network(_study(_noise(1), None, _noise(2)), Preprocessing()).slices
    assert slices.dtype == np.uint8
    assert slices.shape == (6, 3, 256, 256)
    assert np.array_equal(slices[:, 2], slices[:, 1])
    assert not np.array_equal(slices[:, 0], slices[:, 1])


def test_stored_intensities_keep_8_bit_values_and_no_others() -> None:
    draw = np.random.default_rng(0)
    eight = draw.integers(0, 256, (5, SIZE, SIZE)).astype(np.float32)
    stored = preprocess.to_network(_study(eight, None), Preprocessing("stored"))
    assert np.array_equal(stored.slices[:, 1], eight.astype(np.uint8))
    for other in (eight * 4, eight + np.float32(0.5), eight - 1):
        expected = preprocess.to_network(_study(other, None), Preprocessing("volume"))
        assert np.array_equal(
            preprocess.to_network(_study(other, None), Preprocessing("stored")).slices, expected.slices
        )


# --- geometry


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_anterior_is_up_and_the_patients_right_is_at_the_left(orientation: str) -> None:
    shape, spacing = _isotropic(orientation)
    geometry = _geometry(orientation, shape, spacing)
    marks = {
        "right anterior, feet": ((-35.0, -45.0, -16.0), 11.0, 1000.0),
        "left posterior, feet": ((30.0, 50.0, -16.0), 11.0, 700.0),
        "left, head": ((40.0, -5.0, 16.0), 11.0, 400.0),
    }
    study = _study(_balls(shape, geometry, list(marks.values())), geometry)
    network = preprocess.to_network(study, Preprocessing())
    assert network.slices.shape == (shape[_order(geometry)[0]], 3, SIZE, SIZE)
    images = network.slices[:, 1].astype(np.float32)
    images[images < 1.5 * np.median(images[images > 20])] = 0
    middle, half = SIZE / 2, len(images) / 2
    expected = {
        "right anterior, feet": (True, True, True),
        "left posterior, feet": (True, False, False),
        "left, head": (False, None, False),
    }
    for name, (low, up, left) in expected.items():
        z, y, x = _centroid_near(images, geometry, shape, marks[name][0])
        assert (z < half) == low, name
        assert (x < middle) == left, name
        if up is not None:
            assert (y < middle) == up, name


def _isotropic(orientation: str) -> tuple[tuple[int, int, int], tuple[float, float, float]]:
    """A grid that covers 180 mm in the axial plane and 100 mm along the head, whatever its order of axes."""
    direction = np.abs(np.array(ORIENTATIONS[orientation]))  # rows: slice, row, column
    sizes = [100 if axis.argmax() == 2 else 180 for axis in direction]
    spacing = (4.0, 1.5, 1.5)
    shape = tuple(round(sizes[k] / spacing[k]) for k in range(3))
    return (shape[0], shape[1], shape[2]), spacing


def _centroid_near(
    images: FloatArray,
    geometry: Geometry,
    shape: tuple[int, int, int],
    offset: tuple[float, float, float],
) -> tuple[float, float, float]:
    """Centroid (slice, row, column) of the mark that is expected at an offset; it must be within a pixel of it."""
    order = _order(geometry)
    cosines = [geometry.direction[:, a] * np.sign(geometry.direction[2 - k, a]) for k, a in enumerate(order)]
    sizes = [shape[axis] for axis in order]
    spacing = [geometry.spacing_mm[axis] for axis in order]
    scale = SIZE / max(sizes[1] * spacing[1], sizes[2] * spacing[2])
    z = (sizes[0] - 1) / 2 + float(cosines[0] @ np.array(offset)) / spacing[0]
    y = SIZE / 2 + float(cosines[1] @ np.array(offset)) * scale - 0.5
    x = SIZE / 2 + float(cosines[2] @ np.array(offset)) * scale - 0.5
    zz, yy, xx = np.nonzero(images)
    near = (np.abs(zz - z) * spacing[0] < 14) & (np.abs(yy - y) < 14 * scale) & (np.abs(xx - x) < 14 * scale)
    assert near.sum() > 50, "no mark where the patient coordinates put it"
    found = zz[near].mean(), yy[near].mean(), xx[near].mean()
    assert abs(found[0] - z) < 0.75
    assert abs(found[1] - y) < 1
    assert abs(found[2] - x) < 1
    return float(found[0]), float(found[1]), float(found[2])


@pytest.mark.parametrize("case", SHAPES)
def test_a_circle_in_the_patient_is_a_circle_for_the_network(case: str) -> None:
    shape, spacing = SHAPES[case]
    geometry = _geometry("axial", shape, spacing)
    fields = shape[1] * spacing[1], shape[2] * spacing[2]
    radius = 0.3 * min(fields)
    rows = (np.arange(shape[1]) - (shape[1] - 1) / 2)[:, None] * spacing[1]
    columns = (np.arange(shape[2]) - (shape[2] - 1) / 2)[None, :] * spacing[2]
    disc = np.where(rows**2 + columns**2 < radius**2, 200.0, 0.0)
    voxels = np.asarray(np.repeat(disc[None], shape[0], axis=0), dtype=np.float32)
    image = preprocess.to_network(_study(voxels, geometry), Preprocessing("stored")).slices[0, 1] / 200.0
    y, x = np.indices(image.shape)
    total = image.sum()
    centre = (image * y).sum() / total, (image * x).sum() / total
    assert centre == pytest.approx((127.5, 127.5), abs=0.05)
    expected_px = radius * SIZE / max(fields)
    across = math.sqrt((image * (x - centre[1]) ** 2).sum() / total) * 2
    down = math.sqrt((image * (y - centre[0]) ** 2).sum() / total) * 2
    assert across == pytest.approx(expected_px, rel=0.012)
    assert down == pytest.approx(expected_px, rel=0.012)
    assert down == pytest.approx(across, rel=0.006)


@pytest.mark.parametrize("shape", [(5, 256, 101), (5, 256, 100), (5, 400, 333), (5, 120, 77), (5, 99, 200)])
def test_every_pixel_lies_where_it_belongs_to_a_fraction(shape: tuple[int, int, int]) -> None:
    _, rows, columns = shape
    scale = SIZE / max(rows, columns)
    for axis, count in ((1, rows), (2, columns)):
        ramp = 20 + 200 * (np.arange(count) + 0.5) / count
        voxels = np.broadcast_to(ramp[:, None] if axis == 1 else ramp, shape).round().astype(np.float32)
        image = preprocess.to_network(_study(voxels, None), Preprocessing("stored")).slices[0, 1]
        line = (image[:, SIZE // 2] if axis == 1 else image[SIZE // 2]).astype(np.float64)
        source = (np.arange(SIZE) + 0.5 - (SIZE - count * scale) / 2) / scale  # where a pixel's centre lies, in voxels
        inside = (source > 1 + 1 / scale) & (source < count - 1 - 1 / scale)
        expected = 20 + 200 * source / count
        assert np.abs(line - expected)[inside].mean() < 0.5
        assert abs((line - expected)[inside][:8].mean()) < 0.6
        assert abs((line - expected)[inside][-8:].mean()) < 0.6


@pytest.mark.parametrize("orientation", ["axial", "axial, upside down"])
def test_square_slices_of_the_networks_size_pass_bit_for_bit(orientation: str) -> None:
    draw = np.random.default_rng(3)
    voxels = draw.integers(0, 256, (5, SIZE, SIZE)).astype(np.float32)
    geometry = _geometry(orientation, (5, SIZE, SIZE), (6.0, 0.9375, 0.9375))
    study = _study(voxels, geometry)
    network = preprocess.to_network(study, Preprocessing("stored"))
    flipped = voxels[:, ::-1, ::-1] if "upside" in orientation else voxels
    assert np.array_equal(network.slices[:, 1], flipped.astype(np.uint8))
    logits = draw.normal(0, 3, (5, 1, SIZE, SIZE)).astype(np.float32)
    found = preprocess.to_segmentation(logits, study, network.mapping, 0.5)
    back = logits[:, 0, ::-1, ::-1] if "upside" in orientation else logits[:, 0]
    assert np.array_equal(found.probability, preprocess.to_probability(back))
    reached = found.probability >= 0.5  # noise joins up into one part: all but a few lone voxels stay
    assert not (found.mask & ~reached).any()
    assert np.count_nonzero(reached & ~found.mask) < 10


def test_padding_is_black_and_the_slice_keeps_its_place() -> None:
    voxels = np.full((5, 100, 200), 90, np.float32)
    network = preprocess.to_network(_study(voxels, None), Preprocessing("stored"))
    image = network.slices[0, 1]
    assert not image[:64].any()
    assert not image[-64:].any()
    assert (image[64:-64] == 90).all()


# --- and back


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("case", ["256x256, 1 mm", "0.5 x 1.0 mm", "odd, 173x211"])
def test_a_blob_of_logits_comes_back_to_its_voxels(orientation: str, case: str) -> None:
    in_plane = SHAPES[case][0][1:], SHAPES[case][1][1:]
    shape, spacing = _grid_like(orientation, *in_plane)
    geometry = _geometry(orientation, shape, spacing)
    voxels = np.zeros(shape, np.float32)
    voxels[tuple(slice(n // 4, n - n // 4) for n in shape)] = 100
    study = _study(voxels, geometry)
    network = preprocess.to_network(study, Preprocessing("stored"))
    logits, index = _painted(network.mapping, geometry, shape)
    found = preprocess.to_segmentation(logits, study, network.mapping, 0.5)
    assert found.mask.shape == shape
    centroid = np.argwhere(found.mask).mean(axis=0)
    assert np.abs(centroid - index).max() < 0.5


def _grid_like(
    orientation: str, sizes: tuple[int, int], spacing: tuple[float, float]
) -> tuple[tuple[int, int, int], tuple[float, float, float]]:
    """A grid of five places along the head, and these rows and columns in the axial plane, in the grid's own order."""
    order = [int(np.abs(axis).argmax()) for axis in ORIENTATIONS[orientation]]  # 0 left, 1 posterior, 2 head
    size, step = {2: 5, 1: sizes[0], 0: sizes[1]}, {2: 5.0, 1: spacing[0], 0: spacing[1]}
    shape, steps = [size[k] for k in order], [step[k] for k in order]
    return (shape[0], shape[1], shape[2]), (steps[0], steps[1], steps[2])


def _painted(
    mapping: GridMapping, geometry: Geometry, shape: tuple[int, int, int]
) -> tuple[FloatArray, tuple[float, float, float]]:
    """Logits of a disc off the middle of one slice, and the grid index that its centre belongs to."""
    sizes = np.array([shape[int(k)] for k in _order(geometry)])
    steps = np.array([geometry.spacing_mm[int(k)] for k in _order(geometry)])
    scale = SIZE / max(sizes[1] * steps[1], sizes[2] * steps[2])
    place, row_mm, column_mm = 1, -21.3, 13.7  # from the middle: to posterior, to the left
    y, x = np.indices((SIZE, SIZE))
    centre = SIZE / 2 - 0.5 + row_mm * scale, SIZE / 2 - 0.5 + column_mm * scale
    logits = np.full((int(sizes[0]), 1, SIZE, SIZE), -8.0, np.float32)
    logits[place, 0] = np.clip(12.0 - np.hypot(y - centre[0], x - centre[1]), -8, 8)
    wanted = (place, (sizes[1] - 1) / 2 + row_mm / steps[1], (sizes[2] - 1) / 2 + column_mm / steps[2])
    index = [0.0, 0.0, 0.0]
    for k, axis in enumerate(_order(geometry)):
        towards = geometry.direction[2 - k, axis] > 0
        index[axis] = wanted[k] if towards else sizes[k] - 1 - wanted[k]
    assert mapping.size_px == SIZE
    return logits, (index[0], index[1], index[2])


def _order(geometry: Geometry) -> list[int]:
    """Which grid axis runs along the head, which along posterior and which along left."""
    return [int(np.abs(geometry.direction[k]).argmax()) for k in (2, 1, 0)]


@given(
    rows=st.integers(16, 600),
    columns=st.integers(16, 600),
    row_mm=st.floats(0.3, 2.0),
    column_mm=st.floats(0.3, 2.0),
    orientation=st.sampled_from(sorted(ORIENTATIONS)),
)
@settings(max_examples=60, deadline=None)
def test_any_grid_goes_there_and_back(
    rows: int, columns: int, row_mm: float, column_mm: float, orientation: str
) -> None:
    shape, spacing = _grid_like(orientation, (rows, columns), (row_mm, column_mm))
    shape_small = (shape[0], shape[1], shape[2])
    geometry = _geometry(orientation, shape_small, spacing)
    mapping = preprocess.grid_mapping(shape_small, geometry, SIZE)
    assert mapping.top_px >= 0
    assert mapping.left_px >= 0
    assert max(mapping.height_px, mapping.width_px) == SIZE
    assert mapping.height_px / mapping.width_px == pytest.approx(rows * row_mm / (columns * column_mm))
    logits = np.full((5, 1, SIZE, SIZE), 4.0, np.float32)
    voxels = np.zeros(shape_small, np.float32)
    voxels[tuple(slice(n // 4, n - n // 4) for n in shape_small)] = 100
    study = _study(voxels, geometry)
    assert preprocess.to_network(study, Preprocessing("stored")).slices.shape == (5, 3, SIZE, SIZE)
    assert preprocess.to_segmentation(logits, study, mapping, 0.5).mask.all()


# --- what comes out


def test_probability_is_stable_and_monotone() -> None:
    logits = np.array([-1e30, -500, -20, -1, 0, 1, 20, 500, 1e30], np.float32)
    with np.errstate(all="raise"):
        probability = preprocess.to_probability(logits)
    assert probability.dtype == np.float32
    assert probability[4] == 0.5
    assert (np.diff(probability) >= 0).all()
    assert probability[[0, -1]].tolist() == [0.0, 1.0]
    assert probability[[3, 5]] == pytest.approx([1 / (1 + math.e), math.e / (1 + math.e)], abs=1e-6)


def test_areas_and_volume_are_those_of_the_grid() -> None:
    shape, spacing = (5, SIZE, SIZE), (6.0, 0.5, 0.5)
    geometry = _geometry("axial", shape, spacing)
    logits = np.full((5, 1, SIZE, SIZE), -5.0, np.float32)
    logits[1, 0, 10:20, 10:30] = 5
    logits[3, 0, 100:101, 100:150] = 5
    study = _study(_noise(shape=shape), geometry)
    found = preprocess.to_segmentation(logits, study, preprocess.grid_mapping(shape, geometry, SIZE), 0.5)
    assert found.slice_area_px == (0, 200, 0, 50, 0)
    assert found.slice_area_mm2 == (0.0, 50.0, 0.0, 12.5, 0.0)
    assert found.volume_ml == pytest.approx(250 * 6.0 * 0.25 / 1000)
    flat = _study(study.flair.voxels, None)
    without = preprocess.to_segmentation(logits, flat, preprocess.grid_mapping(shape, None, SIZE), 0.5)
    assert without.slice_area_px == found.slice_area_px
    assert without.volume_ml is None
    assert without.slice_area_mm2 is None


def test_the_threshold_is_in_the_probability() -> None:
    shape = (5, SIZE, SIZE)
    study = _study(_noise(shape=shape), None)
    logits = np.zeros((5, 1, SIZE, SIZE), np.float32)
    mapping = preprocess.grid_mapping(shape, None, SIZE)
    assert preprocess.to_segmentation(logits, study, mapping, 0.5).mask.all()
    assert not preprocess.to_segmentation(logits, study, mapping, 0.51).mask.any()


def test_small_islands_are_dropped_and_large_ones_stay() -> None:
    study = _study(np.ones((4, SIZE, SIZE), np.float32), None)
    logits = np.full((4, 1, SIZE, SIZE), -9.0, np.float32)
    logits[1:3, 0, 10:20, 10:20] = 9  # 200 voxels
    logits[1, 0, 100:103, 100:108] = 9  # 24 voxels: over a tenth
    logits[1, 0, 200:203, 200:205] = 9  # 15 voxels
    logits[3, 0, 20, 20] = 9  # joined to the largest by a corner
    found = preprocess.to_segmentation(logits, study, preprocess.grid_mapping((4, SIZE, SIZE), None, SIZE), 0.5)
    assert found.slice_area_px == (0, 124, 100, 1)
    assert not found.mask[1, 200:203, 200:205].any()
