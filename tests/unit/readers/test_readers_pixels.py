"""From stored values to the scanner's: bits, signs, padding, rescale, and what is no grey image."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import seeds

from edgeseg.errors import StudyError
from edgeseg.readers import find_studies, read_study
from edgeseg.types import FloatArray


def _voxels(path: Path) -> FloatArray:
    (files,) = find_studies(path)
    return read_study(files).flair.voxels


def _with(change: Callable[[Any, int], None], folder: Path, **elements: Any) -> tuple[FloatArray, FloatArray]:
    """Voxels of the series as it is, and changed."""
    plain = _voxels(seeds.small_series(folder / "plain"))
    return plain, _voxels(seeds.small_series(folder / "changed", change=change, **elements))


def test_bits_above_those_stored_are_no_part_of_a_value(tmp_path: Path) -> None:
    def garbage(dataset: Any, number: int) -> None:
        assert dataset.BitsStored == 12
        dataset.PixelData = (dataset.pixel_array | (0x1000 << number % 4)).astype("<u2").tobytes()

    plain, changed = _with(garbage, tmp_path)
    np.testing.assert_array_equal(changed, plain)


def test_signed_values_of_twelve_bits(tmp_path: Path) -> None:
    def signed(dataset: Any, _: int) -> None:
        dataset.PixelRepresentation = 1
        dataset.PixelData = ((dataset.pixel_array.astype("<i2") - 300) & 0x0FFF).astype("<u2").tobytes()

    plain, changed = _with(signed, tmp_path)
    np.testing.assert_array_equal(changed, plain - 300)


def test_rescale_may_differ_from_slice_to_slice(tmp_path: Path) -> None:
    def rescaled(dataset: Any, number: int) -> None:
        dataset.PixelData = (dataset.pixel_array * (number + 1)).astype("<u2").tobytes()
        dataset.BitsStored, dataset.HighBit = 16, 15
        dataset.RescaleSlope, dataset.RescaleIntercept = 1 / (number + 1), 0

    plain, changed = _with(rescaled, tmp_path)
    np.testing.assert_allclose(changed, plain, rtol=1e-5)


@pytest.mark.parametrize("everywhere", [True, False])
def test_philips_scale_is_undone_where_all_slices_say_it_and_it_differs(tmp_path: Path, everywhere: bool) -> None:
    """FP = (PV * RS + RI) / (RS * SS): Chenevert et al. 2014, PMC3998685."""

    def philips(dataset: Any, number: int) -> None:
        dataset.RescaleSlope, dataset.RescaleIntercept = 2, 6
        if everywhere or number:
            block = dataset.private_block(0x2005, "Philips MR Imaging DD 001", create=True)
            block.add_new(0x0E, "FL", 0.25 * (number + 1))

    plain, changed = _with(philips, tmp_path)
    displayed = plain * 2 + 6
    scale = 2 * 0.25 * np.arange(1, seeds.SLICES + 1, dtype=np.float32)[:, None, None]
    np.testing.assert_allclose(changed, displayed / scale if everywhere else displayed, rtol=1e-6)


def test_padding_does_not_count_as_an_intensity(tmp_path: Path) -> None:
    def padded(dataset: Any, _: int) -> None:
        pixels = dataset.pixel_array.astype("<i2")
        pixels[:, :4] = -2000
        dataset.PixelData = pixels.tobytes()
        dataset.PixelRepresentation, dataset.BitsStored, dataset.HighBit = 1, 16, 15
        dataset.add_new(0x00280120, "SS", -2000)

    plain, changed = _with(padded, tmp_path)
    np.testing.assert_array_equal(changed[:, :, 4:], plain[:, :, 4:])
    assert changed[:, :, :4].min() == plain[:, :, 4:].min()


@pytest.mark.parametrize(
    ("elements", "found"),
    [
        (
            {"PhotometricInterpretation": "MONOCHROME1"},
            "stored as MONOCHROME1, and whether .* export it as MONOCHROME2",
        ),
        ({"RescaleSlope": 1e38, "RescaleIntercept": 1e38}, "values that are not finite"),
        ({"PixelSpacing": [300, 300]}, "voxels of 6 x 300 x 300 mm .* its header is damaged"),
        ({"PixelSpacing": [7.5, 1e-3]}, "voxels of 6 x 7.5 x 0.001 mm"),
    ],
)
def test_what_is_refused(tmp_path: Path, elements: dict[str, Any], found: str) -> None:
    with pytest.raises(StudyError, match=found):
        _voxels(seeds.small_series(tmp_path, **elements))
