from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image

from edgeseg import prepare
from edgeseg.errors import BackendMissing, EdgesegError, InputError, OutputError
from edgeseg.readers import lgg, runlength, table, tiff
from edgeseg.types import BoolArray

parquet = pytest.importorskip("pyarrow.parquet", reason="the [train] extra is not installed")

COLUMNS = table.Columns("image", "class_id", "rle_mask", "mask")


@pytest.fixture
def copied(lgg_folder: Path, tmp_path: Path) -> Path:
    """A copy of the set, to be damaged."""
    place: Path = shutil.copytree(lgg_folder, tmp_path / "set")
    return place


@pytest.mark.parametrize("slices", ["abnormal", "all"])
def test_the_table_holds_the_set_voxel_for_voxel(
    lgg_folder: Path, tmp_path: Path, slices: Literal["abnormal", "all"]
) -> None:
    prepared = prepare.prepare(lgg_folder, tmp_path / "out" / "set", slices)
    rows = table.read(prepared.table, None, COLUMNS)
    patients = lgg.index(lgg_folder)
    masks = np.concatenate([lgg.read_masks(patient) for patient in patients])
    images = np.moveaxis(np.concatenate([tiff.read_slices(patient.images) for patient in patients]), -1, 1)
    taken = np.logical_or(masks.any(axis=(1, 2)), slices == "all")
    assert np.array_equal(rows.slices, images[taken])
    assert np.array_equal(rows.masks, masks[taken])
    names = [path.stem for patient in patients for path in patient.images]
    kept = [name for name, take in zip(names, taken, strict=True) if take]
    assert rows.images == tuple(f"{name}.png" for name in kept)
    assert rows.groups == tuple(f"{name}_mask.tif" for name in kept)
    assert rows.patients == tuple(name.rpartition("_")[0] for name in kept)
    assert prepared == prepare.Prepared(tmp_path / "out" / "set" / "table.pq", len(kept), 18, 6)
    assert sorted(path.name for path in prepared.table.parent.iterdir()) == ["images", "table.pq"]


def test_empty_slices_have_no_class_and_no_runs(lgg_folder: Path, tmp_path: Path) -> None:
    written = parquet.read_table(prepare.prepare(lgg_folder, tmp_path, "all").table).to_pylist()
    assert list(written[0]) == ["image", "class_id", "rle_mask", "mask", "patient"]
    assert (written[0]["class_id"], written[0]["rle_mask"]) == (None, "")
    assert written[1]["class_id"] == "abnormality"
    with Image.open(tmp_path / "images" / written[1]["image"]) as image:
        assert (image.format, image.mode, image.size) == ("PNG", "RGB", (256, 256))


def test_progress_is_told_by_patient(lgg_folder: Path, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    prepare.prepare(lgg_folder, tmp_path, report=lambda *event: told.append(event))
    assert [done for _, done, _ in told] == [1, 2, 3, 4, 5, 6]
    assert told[2] == ("TCGA_XX_0002_20000101", 3, 6)


def test_nothing_is_overwritten(lgg_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "table.pq").write_text("mine")
    with pytest.raises(OutputError, match=r"holds table\.pq already, and nothing is overwritten"):
        prepare.prepare(lgg_folder, tmp_path)
    assert (tmp_path / "table.pq").read_text() == "mine"
    (tmp_path / "table.pq").rename(tmp_path / "images")
    with pytest.raises(OutputError, match="holds images already"):
        prepare.prepare(lgg_folder, tmp_path)


def test_a_damaged_set_leaves_nothing(copied: Path, tmp_path: Path) -> None:
    name = "TCGA_XX_0005_20000101"
    (copied / "kaggle_3m" / name / f"{name}_5_mask.tif").write_bytes(b"II*\0")
    with pytest.raises(InputError, match="unreadable: 1, the first is"):
        prepare.prepare(copied, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_mask_that_does_not_come_back_is_refused(
    lgg_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shifted(mask: BoolArray) -> str:
        return "1 2" if mask.any() else ""

    monkeypatch.setattr(runlength, "encode", shifted)
    with pytest.raises(EdgesegError, match=r"_2_mask\.tif was not the same after encoding"):
        prepare.prepare(lgg_folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_full_disk_leaves_nothing(lgg_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(prepare, "_write_table", full)
    with pytest.raises(OutputError, match=r"cannot write to .*out \(No space left on device\)"):
        prepare.prepare(lgg_folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_set_without_an_abnormality_makes_no_table(copied: Path, tmp_path: Path) -> None:
    for path in copied.rglob("*_mask.tif"):
        Image.new("L", (256, 256)).save(path)
    with pytest.raises(InputError, match="no slice of the set has an abnormality"):
        prepare.prepare(copied, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert prepare.prepare(copied, tmp_path / "out", "all").abnormal == 0


def test_images_of_the_same_name_are_refused(copied: Path, tmp_path: Path) -> None:
    folder = copied / "kaggle_3m" / "TCGA_XX_0000_20000101"
    shutil.copytree(folder, folder.with_name("again"))
    with pytest.raises(InputError, match=r"5 images have the name of another patient's \(the first: TCGA_XX_0000"):
        prepare.prepare(copied, tmp_path / "out")


def test_without_pyarrow_the_extra_is_named(lgg_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(BackendMissing, match=r"pip install 'edgeseg\[train\]'"):
        prepare.prepare(lgg_folder, tmp_path / "out")
