from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeseg.errors import InputError, StudyError
from edgeseg.readers import lgg

NAMES = [f"TCGA_XX_{number:04d}_20000101" for number in range(6)]


@pytest.fixture
def patient(lgg_folder: Path, tmp_path: Path) -> Path:
    """A copy of one patient's folder, to be damaged."""
    copied: Path = shutil.copytree(lgg_folder / "kaggle_3m" / NAMES[0], tmp_path / NAMES[0])
    return copied


def _paint(path: Path, value: int, shape: tuple[int, ...] = (256, 256)) -> None:
    Image.fromarray(np.full(shape, value, np.uint8)).save(path)


def test_the_folder_itself_and_the_one_above_it_are_taken(lgg_folder: Path) -> None:
    patients = lgg.index(lgg_folder)
    assert [patient.name for patient in patients] == NAMES
    assert lgg.index(lgg_folder / "kaggle_3m") == patients


def test_slices_are_in_the_order_of_their_numbers(patient: Path, tmp_path: Path) -> None:
    for number in range(6, 12):
        shutil.copy(patient / f"{NAMES[0]}_5.tif", patient / f"{NAMES[0]}_{number}.tif")
        shutil.copy(patient / f"{NAMES[0]}_5_mask.tif", patient / f"{NAMES[0]}_{number}_mask.tif")
    (found,) = lgg.index(tmp_path)
    assert [path.stem for path in found.images] == [f"{NAMES[0]}_{n}" for n in range(1, 12)]
    assert [path.stem for path in found.masks] == [f"{NAMES[0]}_{n}_mask" for n in range(1, 12)]
    assert lgg.read_study(found).flair.instance_ids == tuple(path.stem for path in found.images)


def test_images_and_masks_are_read_alike(lgg_folder: Path) -> None:
    found = lgg.index(lgg_folder)[2]
    study, masks = lgg.read_study(found), lgg.read_masks(found)
    assert study.name == NAMES[2]
    assert study.flair.voxels.shape == masks.shape == (5, 256, 256)
    assert masks.dtype == np.bool_
    assert masks.any(axis=(1, 2)).tolist() == [False, True, True, True, False]
    assert study.flair.voxels[masks].mean() > 2 * study.flair.voxels[2][study.flair.voxels[2] > 0].min()
    assert study.pre is not None
    assert study.post is not None


def test_the_example_patient(example_tiff: Path) -> None:
    (found,) = lgg.index(example_tiff.parent)
    assert found.name == example_tiff.name
    assert lgg.read_masks(found).shape == lgg.read_study(found).flair.voxels.shape


def test_other_folders_and_files_are_passed_by(lgg_folder: Path, patient: Path, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "data.csv").write_text("Patient,age\n")
    assert [found.name for found in lgg.index(tmp_path)] == [NAMES[0]]
    assert patient.is_dir()
    assert len(lgg.index(lgg_folder)) == 6


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no folder at"):
        lgg.index(tmp_path / "none")


def test_a_folder_without_patients_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"_mask\.tif below"):
        lgg.index(tmp_path)


def test_a_mask_without_an_image_is_refused(patient: Path, tmp_path: Path) -> None:
    (patient / f"{NAMES[0]}_3.tif").unlink()
    with pytest.raises(InputError, match=rf"{NAMES[0]}_3_mask\.tif has no image"):
        lgg.index(tmp_path)


def test_an_image_without_a_mask_is_refused(patient: Path, tmp_path: Path) -> None:
    (patient / f"{NAMES[0]}_5_mask.tif").unlink()
    with pytest.raises(InputError, match=rf"no {NAMES[0]}_5_mask\.tif beside"):
        lgg.index(tmp_path)


def test_a_mask_without_a_number_is_refused(patient: Path, tmp_path: Path) -> None:
    _paint(patient / "whole_mask.tif", 0)
    with pytest.raises(InputError, match=r"whole_mask\.tif"):
        lgg.index(tmp_path)


def test_masks_of_unequal_size_are_refused(patient: Path, tmp_path: Path) -> None:
    _paint(patient / f"{NAMES[0]}_2_mask.tif", 0, (128, 256))
    with pytest.raises(StudyError, match="the drawn masks cannot be read"):
        lgg.read_masks(lgg.index(tmp_path)[0])


def test_an_unreadable_mask_is_refused(patient: Path, tmp_path: Path) -> None:
    (patient / f"{NAMES[0]}_2_mask.tif").write_bytes(b"II*\0")
    with pytest.raises(StudyError, match="the drawn masks cannot be read"):
        lgg.read_masks(lgg.index(tmp_path)[0])


def test_patients_are_chosen_by_name_in_the_order_asked_for(lgg_folder: Path) -> None:
    patients = lgg.index(lgg_folder)
    assert [found.name for found in lgg.choose(patients, (NAMES[4], NAMES[1]))] == [NAMES[4], NAMES[1]]
    assert lgg.choose(patients, ()) == patients


def test_an_unknown_patient_is_refused(lgg_folder: Path) -> None:
    with pytest.raises(InputError, match="no patient TCGA_YY among the 6"):
        lgg.choose(lgg.index(lgg_folder), (NAMES[0], "TCGA_YY"))
