"""The shipped calibration and parity slices: what is promised of them, and that damage is found."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from edgeseg import preprocess
from edgeseg.errors import InputError, StudyError
from edgeseg.readers import lgg, slices
from edgeseg.types import Preprocessing

VOLUME, STORED = Preprocessing("volume"), Preprocessing("stored")


def test_the_shipped_slices_are_enough_and_their_patients_apart(repository: Path) -> None:
    folder = slices.shipped_folder()
    rows = slices.read_index(folder)["slices"]
    held_back = set((repository / "calibration" / "validation-patients.txt").read_text().split())
    found = {use: [row for row in rows if row["use"] == use] for use in ("calibration", "parity")}
    calibrating = {row["patient"] for row in found["calibration"]}
    assert len(found["calibration"]) >= 128
    assert len(calibrating) == 30
    assert not calibrating & held_back
    assert {row["patient"] for row in found["parity"]} == held_back
    abnormal = [row["abnormal_px"] > 0 for row in found["parity"]]
    assert (sum(abnormal), len(abnormal) - sum(abnormal)) == (150, 75)
    assert 0 < sum(row["abnormal_px"] > 0 for row in found["calibration"]) < len(found["calibration"])
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 20e6
    assert len({row["name"] for row in rows}) == len(rows)


def test_parity_slices_are_the_sets_own_and_scaled_by_their_volumes_rule(repository: Path) -> None:
    """The example patient is one of the 15; the example holds the most of its slices, but not the whole volume."""
    patient = lgg.index(repository / "examples" / "tiff")[0]
    given = preprocess.to_network(lgg.read_study(patient), STORED).slices
    drawn = lgg.read_masks(patient)
    names = [path.stem for path in patient.images]
    stored, scaled = slices.read("parity", STORED), slices.read("parity", VOLUME)
    assert stored.drawn is not None
    own = [k for k, name in enumerate(stored.names) if name in names]
    assert len(own) > 5
    rows = {row["name"]: row for row in slices.read_index(slices.shipped_folder())["slices"]}
    for k in own:
        place = names.index(stored.names[k])
        assert np.array_equal(stored.slices[k], given[place])
        assert np.array_equal(stored.drawn[k], drawn[place])
        low, gain = rows[stored.names[k]]["rules"][1]
        flair = np.clip((given[place][1].astype(np.float64) - low) * gain, 0, 255)
        assert np.abs(scaled.slices[k][1] - flair).max() <= 0.501
    assert stored.digest() != scaled.digest()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One calibration and one parity slice, copied."""
    source = slices.shipped_folder()
    index = slices.read_index(source)
    rows = [next(row for row in index["slices"] if row["use"] == use) for use in ("calibration", "parity")]
    (tmp_path / slices.SLICES).mkdir()
    for row in rows:
        for path in (source / slices.SLICES).glob(f"{row['name']}[._]*"):
            shutil.copy(path, tmp_path / slices.SLICES)
    (tmp_path / slices.INDEX).write_text(json.dumps({**index, "slices": rows}))
    return tmp_path


def test_a_changed_byte_is_found(folder: Path) -> None:
    found = slices.read("calibration", VOLUME, folder)
    assert found.slices.shape == (1, 3, 256, 256)
    assert found.drawn is None
    image = folder / slices.SLICES / f"{found.names[0]}.webp"
    content = bytearray(image.read_bytes())
    content[-1] ^= 1
    image.write_bytes(content)
    with pytest.raises(InputError, match="SHA-256 differs"):
        slices.read("calibration", VOLUME, folder)
    image.unlink()
    with pytest.raises(InputError, match="is missing"):
        slices.read("calibration", VOLUME, folder)


def test_an_index_that_is_none_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / slices.INDEX).write_text('{"format": 99}')
    with pytest.raises(InputError, match="no index that this edgeseg reads"):
        slices.read("parity", VOLUME, folder)
    with pytest.raises(InputError, match="no index of slices"):
        slices.read("parity", VOLUME, tmp_path / "nowhere")


def test_ones_own_studies_give_slices_spread_over_each(lgg_folder: Path) -> None:
    found = slices.of_studies(lgg_folder, VOLUME, most=10)
    assert found.slices.shape == (len(found.names), 3, 256, 256)
    assert 1 < len(found.names) <= 10
    assert len(set(found.patients)) == min(10, len(lgg.index(lgg_folder)))
    assert len(set(found.names)) == len(found.names)
    assert found.drawn is None


def test_one_slice_of_a_study_is_its_middle_one(lgg_folder: Path) -> None:
    found = slices.of_studies(lgg_folder, VOLUME, most=len(lgg.index(lgg_folder)))
    assert {name.rsplit("_", 1)[1] for name in found.names} == {"3"}, "each has five slices"


def test_a_single_study_gives_all_that_it_has(repository: Path) -> None:
    patient = lgg.index(repository / "examples" / "tiff")[0]
    found = slices.of_studies(repository / "examples" / "tiff", STORED)
    np.testing.assert_array_equal(found.slices, preprocess.to_network(lgg.read_study(patient), STORED).slices)


def test_a_folder_without_images_and_ct_are_refused(tmp_path: Path) -> None:
    from pydicom.data import get_testdata_file

    with pytest.raises(StudyError, match="is empty: give a folder"):
        slices.of_studies(tmp_path, VOLUME)
    shutil.copy(str(get_testdata_file("CT_small.dcm")), tmp_path / "one.dcm")
    with pytest.raises(StudyError, match="only CT images found"):
        slices.of_studies(tmp_path, VOLUME)
