"""The mask as NIfTI: its voxels must lie where the FLAIR grid says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeseg.errors import StudyError
from edgeseg.types import Geometry, Segmentation, Study, Volume
from edgeseg.writers import ReportFacts, write

FACTS = ReportFacts(engine={"name": "test-fp32"}, preprocessing={}, threshold=0.5)


def _oblique_geometry() -> Geometry:
    """Return a grid whose three directions are all tilted, and whose steps all differ."""
    about_x = np.array([[1, 0, 0], [0, np.cos(0.3), -np.sin(0.3)], [0, np.sin(0.3), np.cos(0.3)]])
    about_z = np.array([[np.cos(0.2), -np.sin(0.2), 0], [np.sin(0.2), np.cos(0.2), 0], [0, 0, 1]])
    turned = about_z @ about_x
    return Geometry(np.array([-91.0, 17.5, -40.25]), np.array([5.5, 0.8, 1.25]), turned[:, [2, 1, 0]])


def _study(geometry: Geometry | None) -> tuple[Segmentation, Study]:
    mask = np.zeros((4, 6, 9), dtype=bool)
    mask[1, 2, 3] = mask[3, 5, 0] = mask[0, 0, 8] = True
    flair = Volume(np.zeros(mask.shape, np.float32), geometry, ("flair",) * 4)
    return Segmentation(mask, mask.astype(np.float32), (1, 1, 0, 1), 1.0, None), Study(
        "n", "n", "nifti", flair, None, None, {}
    )


def test_marked_voxels_lie_where_the_grid_says(tmp_path: Path) -> None:
    """SimpleITK's own arithmetic gives the same patient coordinates, to a thousandth of a millimetre."""
    import SimpleITK

    geometry = _oblique_geometry()
    segmentation, study = _study(geometry)
    assert write(segmentation, study, ["nifti"], tmp_path, FACTS) == ["mask.nii.gz"]
    image: Any = SimpleITK.ReadImage(str(tmp_path / "mask.nii.gz"))
    voxels = SimpleITK.GetArrayFromImage(image)
    assert voxels.dtype == np.uint8
    np.testing.assert_array_equal(voxels, segmentation.mask)
    for index in np.argwhere(segmentation.mask):
        place = np.array(image.TransformIndexToPhysicalPoint([int(i) for i in index[::-1]]))
        np.testing.assert_allclose(place, geometry.position_mm(index.astype(float)), atol=1e-3)


def test_the_same_mask_gives_the_same_bytes(tmp_path: Path) -> None:
    """No time of writing in the file."""
    segmentation, study = _study(_oblique_geometry())
    contents = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write(segmentation, study, ["nifti"], tmp_path / name, FACTS)
        contents.append((tmp_path / name / "mask.nii.gz").read_bytes())
    assert contents[0] == contents[1]


def test_no_geometry_is_refused(tmp_path: Path) -> None:
    """A mask at a made-up place would be wrong."""
    segmentation, study = _study(None)
    with pytest.raises(StudyError, match="no geometry"):
        write(segmentation, study, ["nifti"], tmp_path, FACTS)
