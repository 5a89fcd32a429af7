"""NIfTI folders, written by SimpleITK here."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgeseg.errors import StudyError
from edgeseg.readers import find_studies, nifti, read_study
from edgeseg.types import Study

SHAPE = (8, 20, 24)


def _head(seed: int = 0) -> np.ndarray:
    """(slice, row, column) int16: an asymmetric head with texture."""
    s, r, c = np.indices(SHAPE)
    inside = ((s - 3.5) / 4) ** 2 + ((r - 9) / 8) ** 2 + ((c - 12) / 9) ** 2 < 1
    texture = np.random.default_rng(seed).integers(-8, 8, SHAPE)
    return np.where(inside, 300 + 20 * r + 7 * c * (s > 3) + texture, 2).astype(np.int16)


def _write(path: Path, voxels: np.ndarray) -> None:
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(voxels)
    if voxels.ndim == 3:
        image.SetOrigin((-30.0, 20.0, 5.0))
        image.SetSpacing((2.0, 3.0, 6.0))
        image.SetDirection((1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0))
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))


def _read(path: Path) -> Study:
    (files,) = find_studies(path)
    return read_study(files)


def test_a_set_is_read_by_its_file_names(tmp_path: Path) -> None:
    folder = tmp_path / "patient7"
    for name in ("flair.nii.gz", "t1.nii", "t1ce.nii.gz", "t2.nii.gz"):
        _write(folder / name, _head())
    _write(folder / "flair_seg.nii.gz", (_head() > 100).astype(np.uint8))
    study = _read(folder)
    assert (study.name, study.source) == ("patient7", "nifti")
    assert study.channels["flair"].series == "flair.nii.gz"
    assert study.channels["pre"].series == "t1.nii"
    assert study.channels["post"].series == "t1ce.nii.gz"
    assert study.flair.instance_ids == ("flair",) * SHAPE[0]
    np.testing.assert_array_equal(study.flair.voxels, _head())


def test_voxels_keep_their_order_and_place(tmp_path: Path) -> None:
    _write(tmp_path / "flair.nii.gz", _head())
    volume = nifti.read_volume(tmp_path / "flair.nii.gz")
    assert volume.voxels.dtype == np.float32
    np.testing.assert_array_equal(volume.voxels, _head())
    assert volume.geometry is not None
    place = volume.geometry.position_mm(np.array([2.0, 3.0, 4.0]))
    np.testing.assert_allclose(place, [-30 + 4 * 2, 20 - 3 * 3, 5 + 2 * 6], atol=1e-4)


def test_a_single_file_is_a_study_of_flair_alone(tmp_path: Path) -> None:
    _write(tmp_path / "case3_flair.nii.gz", _head())
    study = _read(tmp_path / "case3_flair.nii.gz")
    assert study.name == "case3_flair"
    assert study.pre is None
    assert study.post is None
    assert study.channels["pre"].filled_with == "flair"


def test_sidecars_tell_sequences_apart(tmp_path: Path) -> None:
    flair = {"EchoTime": 0.12, "RepetitionTime": 9, "InversionTime": 2.2, "ScanningSequence": "SE_IR"}
    t1 = {"EchoTime": 0.014, "RepetitionTime": 0.5, "ContrastBolusIngredient": "GADOLINIUM"}
    for name, sidecar in (("scan_a", flair), ("scan_b", t1)):
        _write(tmp_path / f"{name}.nii.gz", _head())
        (tmp_path / f"{name}.json").write_text(json.dumps(sidecar))
    study = _read(tmp_path)
    assert study.channels["flair"].series == "scan_a.nii.gz"
    assert "inversion time 2200 ms" in study.channels["flair"].reason
    assert study.channels["post"].series == "scan_b.nii.gz"


def test_several_flairs_in_one_folder_are_refused_by_name(tmp_path: Path) -> None:
    for name in ("p1_flair.nii.gz", "p2_flair.nii.gz", "p1_t1.nii.gz"):
        _write(tmp_path / name, _head())
    with pytest.raises(StudyError, match=r"2 FLAIR files \(p1_flair.nii.gz, p2_flair.nii.gz\)") as error:
        _read(tmp_path)
    assert "put each patient into a folder of its own" in str(error.value)


def test_a_t1_that_cannot_be_read_is_left_out_with_a_warning(tmp_path: Path) -> None:
    _write(tmp_path / "flair.nii.gz", _head())
    (tmp_path / "t1.nii.gz").write_bytes(b"broken")
    study = _read(tmp_path)
    assert study.pre is None
    assert "t1.nii.gz was left out" in study.warnings[0]


@pytest.mark.parametrize(
    ("name", "voxels", "found", "mend"),
    [
        ("t1.nii.gz", _head(), r"no FLAIR among 1 series \(found: T1 before contrast\)", "in the file's name"),
        ("scan.nii.gz", _head(), "not recognised", "in the file's name"),
        (
            "flair.nii.gz",
            (_head() > 100).astype(np.uint8),
            "only the values 0 and 1, so it is a mask",
            "give the image",
        ),
        ("flair.nii.gz", np.stack([_head()] * 3), "24 x 20 x 8 x 3 voxels", "extract the volume"),
    ],
)
def test_bad_sets_are_refused(tmp_path: Path, name: str, voxels: np.ndarray, found: str, mend: str) -> None:
    import SimpleITK as sitk

    if voxels.ndim == 4:
        image = sitk.JoinSeries([sitk.GetImageFromArray(one) for one in voxels])
        sitk.WriteImage(image, str(tmp_path / name))
    else:
        _write(tmp_path / name, voxels)
    with pytest.raises(StudyError, match=found) as error:
        _read(tmp_path)
    assert mend in str(error.value)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("kept", [0, 100, 400, -10])
def test_a_truncated_flair_is_refused(tmp_path: Path, kept: int, ending: str) -> None:
    path = tmp_path / f"flair{ending}"
    _write(path, _head())
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(StudyError, match="cannot be read as NIfTI"):
        _read(tmp_path)
