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


@pytest.fixture
def copied(lgg_folder: Path, tmp_path: Path) -> Path:
    """A copy of all patients, to be damaged."""
    place: Path = shutil.copytree(lgg_folder / "kaggle_3m", tmp_path / "set")
    return place


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
    with pytest.raises(
        InputError, match=rf"the 4 images and 5 masks .* masks without an image: 1 \(.*{NAMES[0]}_3_mask"
    ):
        lgg.index(tmp_path)


def test_images_without_a_mask_are_counted_over_the_set(copied: Path) -> None:
    for name in NAMES[1:3]:
        for k in (1, 2):
            (copied / name / f"{name}_{k}_mask.tif").unlink()
    (copied / NAMES[5] / f"{NAMES[5]}_4.tif").unlink()
    with pytest.raises(InputError) as caught:
        lgg.index(copied)
    said = str(caught.value)
    first = ", ".join(f"{name}/{name}_{k}.tif" for name, k in ((NAMES[1], 1), (NAMES[1], 2), (NAMES[2], 1)))
    assert f"the 29 images and 26 masks below {copied} are no pairs; images without a mask: 4 ({first}, ...)" in said
    assert f"masks without an image: 1 ({NAMES[5]}/{NAMES[5]}_4_mask.tif)" in said
    assert "copy the set again" in said


def test_a_patient_without_any_mask_is_not_passed_by(copied: Path) -> None:
    for path in (copied / NAMES[3]).glob("*_mask.tif"):
        path.unlink()
    with pytest.raises(InputError, match="images without a mask: 5"):
        lgg.index(copied)


def test_a_mask_without_a_number_is_refused(patient: Path, tmp_path: Path) -> None:
    _paint(patient / "whole_mask.tif", 0)
    with pytest.raises(InputError, match=r"whole_mask\.tif"):
        lgg.index(tmp_path)


def test_masks_of_another_size_are_refused(patient: Path, tmp_path: Path) -> None:
    _paint(patient / f"{NAMES[0]}_2_mask.tif", 0, (128, 256))
    with pytest.raises(StudyError, match=r"_2_mask\.tif has 256 x 128 pixels and its image 256 x 256: give"):
        lgg.read_masks(lgg.index(tmp_path)[0])


def test_masks_of_other_values_are_refused(patient: Path, tmp_path: Path) -> None:
    _paint(patient / f"{NAMES[0]}_2_mask.tif", 1)
    with pytest.raises(StudyError, match=r"_2_mask\.tif holds the values 1: draw masks with 0"):
        lgg.read_masks(lgg.index(tmp_path)[0])


def test_an_unreadable_file_is_refused(patient: Path, tmp_path: Path) -> None:
    (patient / f"{NAMES[0]}_2_mask.tif").write_bytes(b"II*\0")
    found = lgg.index(tmp_path)[0]
    with pytest.raises(StudyError, match=r"_2_mask\.tif: the drawn mask cannot be read"):
        lgg.read_masks(found)
    shutil.copy(patient / f"{NAMES[0]}_1_mask.tif", patient / f"{NAMES[0]}_2_mask.tif")
    (patient / f"{NAMES[0]}_1.tif").write_bytes(b"II*\0")
    with pytest.raises(StudyError, match=r"_1\.tif cannot be read"):
        lgg.read_masks(found)


def test_a_whole_set_passes(lgg_folder: Path, example_tiff: Path) -> None:
    lgg.check(lgg.index(lgg_folder))
    lgg.check(lgg.index(example_tiff.parent))


def test_all_damage_is_counted_at_once(copied: Path) -> None:
    def mask(patient: int, number: int) -> Path:
        return copied / NAMES[patient] / f"{NAMES[patient]}_{number}_mask.tif"

    mask(0, 1).write_bytes(b"II*\0")
    (copied / NAMES[4] / f"{NAMES[4]}_2.tif").write_bytes(b"no image")
    for k in (1, 3, 5):
        _paint(mask(1, k), 0, (100, 120))
    Image.fromarray(np.arange(65536, dtype=np.uint32).astype(np.uint8).reshape(256, 256)).save(mask(2, 2))
    _paint(mask(3, 2), 1)
    with pytest.raises(InputError) as caught:
        lgg.check(lgg.index(copied))
    said = str(caught.value)
    assert said.startswith("not all of the 30 slices can be used; unreadable: 2, the first is ")
    assert f"{mask(0, 1)}: the drawn mask cannot be read" in said
    assert "masks of another size than their images: 3, the first is " in said
    assert f"{mask(1, 1)} has 120 x 100 pixels and its image 256 x 256" in said
    assert "masks with other values than 0 and 255: 2, the first is " in said
    assert f"{mask(2, 2)} holds the values 0, 1, 2, 3, 4, ...: draw" in said


def test_patients_are_chosen_by_name_in_the_order_asked_for(lgg_folder: Path) -> None:
    patients = lgg.index(lgg_folder)
    assert [found.name for found in lgg.choose(patients, (NAMES[4], NAMES[1]))] == [NAMES[4], NAMES[1]]
    assert lgg.choose(patients, ()) == patients


def test_an_unknown_patient_is_refused(lgg_folder: Path) -> None:
    with pytest.raises(InputError, match="no patient TCGA_YY among the 6"):
        lgg.choose(lgg.index(lgg_folder), (NAMES[0], "TCGA_YY"))
