from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgeseg.errors import BackendMissing, InputError
from edgeseg.readers import runlength, table
from edgeseg.types import BoolArray

pa = pytest.importorskip("pyarrow", reason="the [train] extra is not installed")
parquet = pytest.importorskip("pyarrow.parquet", reason="the [train] extra is not installed")

COLUMNS = table.Columns("image", "class_id", "rle_mask", None)
NAMES = ["a.png", "b.png", "c.png"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images of 256 x 256 in ``images``: their values tell file and channel."""
    (tmp_path / "images").mkdir()
    for k, name in enumerate(NAMES):
        _paint(tmp_path / "images" / name, [10 * k + 1, 10 * k + 2, 10 * k + 3])
    return tmp_path


def _paint(path: Path, colour: list[int], size: tuple[int, int] = (256, 256)) -> None:
    Image.fromarray(np.full((*size, 3), colour, np.uint8)).save(path)


def _mask(rows: slice, columns: slice, shape: tuple[int, int] = (256, 256)) -> BoolArray:
    mask = np.zeros(shape, np.bool_)
    mask[rows, columns] = True
    return mask


def _write(folder: Path, **columns: list[Any]) -> Path:
    path = folder / "table.pq"
    parquet.write_table(pa.table(columns), path)
    return path


def _rows(folder: Path, **changed: list[Any]) -> Path:
    given: dict[str, list[Any]] = {"image": NAMES, "class_id": ["x", "x", None], "rle_mask": ["5 3", "9 2", None]}
    return _write(folder, **given | changed)


def test_images_and_masks_are_read_in_order_of_appearance(folder: Path) -> None:
    mask = _mask(slice(10, 40), slice(20, 90))
    path = _rows(folder, image=["c.png", "a.png", "b.png"], rle_mask=[runlength.encode(mask), "", None])
    rows = table.read(path, None, COLUMNS)
    assert rows.images == rows.groups == ("c.png", "a.png", "b.png")
    assert rows.patients is None
    assert rows.slices.shape == (3, 3, 256, 256)
    assert rows.slices.dtype == np.uint8
    assert rows.slices[0, :, 5, 7].tolist() == [21, 22, 23]
    assert rows.masks.dtype == np.bool_
    assert np.array_equal(rows.masks[0], mask)
    assert not rows.masks[1:].any()


@pytest.mark.parametrize("order", ["column", "row"])
@pytest.mark.parametrize("base", [0, 1])
def test_order_and_base_are_those_given(folder: Path, order: runlength.Order, base: runlength.Base) -> None:
    mask = _mask(slice(0, 3), slice(0, 7))
    path = _rows(folder, rle_mask=[runlength.encode(mask, order, base), "", ""])
    assert np.array_equal(table.read(path, None, COLUMNS, order, base).masks[0], mask)


def test_lists_and_several_rows_of_an_image_are_joined(folder: Path) -> None:
    parts = [runlength.encode(_mask(slice(k, k + 9), slice(k, k + 9))) for k in (0, 50, 100)]
    path = _rows(
        folder,
        image=["a.png", "b.png", "a.png", "c.png"],
        class_id=[["x", "y"], [], ["z"], None],
        rle_mask=[parts[:2], None, parts[2:], []],
    )
    rows = table.read(path, None, COLUMNS)
    assert rows.images == ("a.png", "b.png", "c.png")
    assert rows.masks.sum(axis=(1, 2)).tolist() == [243, 0, 0]


def test_plain_rows_of_different_classes_are_joined(folder: Path) -> None:
    path = _rows(folder, image=["a.png", "a.png", "b.png"], class_id=[1, 2, 1], rle_mask=["1 4", "3 4", "1 1"])
    assert table.read(path, None, COLUMNS).masks.sum(axis=(1, 2)).tolist() == [6, 1]


def test_group_and_patient_are_text(folder: Path) -> None:
    path = _rows(folder, fold=[3, 3, 4], patient=["p", "q", "q"])
    rows = table.read(path, None, table.Columns("image", "class_id", "rle_mask", "fold"))
    assert rows.groups == ("3", "3", "4")
    assert rows.patients == ("p", "q", "q")
    rows = table.read(path, None, table.Columns("image", "class_id", "rle_mask", "patient"))
    assert rows.groups == rows.patients == ("p", "q", "q")


def test_the_folder_is_given_or_found(folder: Path) -> None:
    path = _rows(folder)
    expected = table.read(path, folder / "images", COLUMNS).slices
    assert np.array_equal(table.read(path, None, COLUMNS).slices, expected)
    beside = path.rename(folder / "images" / "table.parquet")
    assert np.array_equal(table.read(beside, None, COLUMNS).slices, expected)


def test_images_of_another_size_are_resized_and_their_masks_decoded_before(folder: Path) -> None:
    _paint(folder / "images" / "a.png", [7, 8, 9], (128, 512))
    mask = _mask(slice(32, 64), slice(128, 256), (128, 512))
    rows = table.read(_rows(folder, rle_mask=[runlength.encode(mask), "", ""]), None, COLUMNS)
    assert rows.slices[0, :, 100, 100].tolist() == [7, 8, 9]
    assert np.array_equal(rows.masks[0], _mask(slice(64, 128), slice(64, 128)))


def test_grey_images_fill_all_channels(folder: Path) -> None:
    grey = np.arange(65536, dtype=np.uint32).reshape(256, 256).astype(np.uint8)
    Image.fromarray(grey).save(folder / "images" / "a.png")
    assert all(np.array_equal(channel, grey) for channel in table.read(_rows(folder), None, COLUMNS).slices[0])


def test_a_csv_table_is_read(folder: Path) -> None:
    path = folder / "table.csv"
    path.write_text("image,class_id,rle_mask,fold\na.png,1,5 3,7\nb.png,1,9 2,07\nc.png,,,8\n")
    rows = table.read(path, None, table.Columns("image", "class_id", "rle_mask", "fold"))
    assert rows.masks.sum(axis=(1, 2)).tolist() == [3, 2, 0]
    assert rows.groups == ("7", "07", "8")
    assert rows.patients is None


def _refused(path: Path, sentence: str, columns: table.Columns = COLUMNS, images: Path | None = None) -> None:
    with pytest.raises(InputError, match=sentence):
        table.read(path, images, columns)


def test_a_missing_column_is_named_with_those_there(folder: Path) -> None:
    named = table.Columns("file", "class_id", "rle", None)
    _refused(_rows(folder), "has no column file, rle; its columns are image, class_id, rle_mask: name", named)


def test_a_table_that_is_none_is_refused(folder: Path) -> None:
    _refused(folder / "none.pq", "there is no table at .*none.pq: give a Parquet file")
    _refused(folder, "there is no table at")
    (folder / "empty.pq").touch()
    _refused(folder / "empty.pq", "empty.pq cannot be read as a Parquet table")
    (folder / "short.pq").write_bytes(_rows(folder).read_bytes()[:-20])
    _refused(folder / "short.pq", "short.pq cannot be read as a Parquet table")
    (folder / "empty.csv").touch()
    _refused(folder / "empty.csv", "empty.csv cannot be read as a CSV table")


def test_a_table_without_rows_is_refused(folder: Path) -> None:
    _refused(_write(folder, image=[], class_id=[], rle_mask=[]), "has its columns but no rows")


def test_a_column_that_stands_twice_is_refused(folder: Path) -> None:
    texts = pa.array(["a"])
    doubled = pa.Table.from_arrays([texts] * 4, names=["image", "class_id", "rle_mask", "image"])
    parquet.write_table(doubled, folder / "table.pq")
    _refused(folder / "table.pq", "has 2 columns image")


def test_missing_images_are_counted(folder: Path) -> None:
    path = _rows(folder, image=[f"{k}.png" for k in range(8)], class_id=["x"] * 8, rle_mask=[""] * 8)
    _refused(path, r"images that are missing: 8 \(0\.png, 1\.png, 2\.png, \.\.\.\), not in")
    _refused(_rows(folder, image=["a.png", "b.png", "d.png"]), r"images that are missing: 1 \(d\.png\)")
    _refused(path, "there is no folder of images at", images=folder / "pictures")


def test_names_without_their_ending_are_told(folder: Path) -> None:
    path = _rows(folder, image=["a", "b", "c"])
    _refused(
        path, r"missing: 3 \(a, b, c\), as a lacks its ending \(the file is a\.png\): write", images=folder / "images"
    )
    _refused(path, r"a lacks its ending \(the file is a\.png\)")


def test_another_column_in_place_of_the_images_is_refused(folder: Path) -> None:
    path = _rows(folder, rle_mask=["1 2 " * 900 + str(k) for k in range(3)])
    with pytest.raises(InputError, match="images that are missing: 3") as caught:
        table.read(path, None, table.Columns("rle_mask", "class_id", "image", None))
    assert len(str(caught.value)) < 800


def test_rows_at_odds_are_counted(folder: Path) -> None:
    path = _rows(
        folder,
        image=["a.png", "a.png", "b.png", None, "c.png"],
        class_id=["x", "x", "x", "x", ""],
        rle_mask=["1 2", "1 2", "3 4", "1 1", ""],
        fold=["1", "2", None, "1", "1"],
    )
    with pytest.raises(InputError) as caught:
        table.read(path, None, table.Columns("image", "class_id", "rle_mask", "fold"))
    said = str(caught.value)
    assert "rows without a file name in image: 1 (row 4), and every row needs one; " in said
    assert "rows that repeat an image, class and mask: 1 (a.png in row 2)" in said
    assert "images without a fold: 1 (b.png)" in said
    assert "images with more than one fold: 1 (a.png with 1 and 2)" in said


def test_an_empty_row_that_stands_twice_is_a_duplicate(folder: Path) -> None:
    _refused(
        _rows(folder, image=["a.png", "c.png", "c.png"], class_id=["x", None, ""], rle_mask=["", "", None]),
        "that repeat an image",
    )


def test_lists_of_unlike_length_are_counted(folder: Path) -> None:
    path = _rows(folder, class_id=[["x", "y"], ["x"], []], rle_mask=[["1 2"], ["1 2"], []])
    _refused(path, r"rows with lists of unlike length: 1 \(a\.png with 2 classes and 1 masks\)")


def test_images_and_masks_that_cannot_be_read_are_counted_together(folder: Path) -> None:
    (folder / "images" / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    path = _rows(folder, class_id=["x"] * 3, rle_mask=["1 2", "1 2 3", "65530 9"])
    with pytest.raises(InputError) as caught:
        table.read(path, None, COLUMNS)
    said = str(caught.value)
    assert "images that cannot be read: 1, the first is a.png: it is damaged or no image" in said
    assert "masks that cannot be decoded: 2, the first is b.png, class x: the run-length mask has 3 numbers" in said


def test_images_of_16_bits_and_of_several_pages_are_refused(folder: Path) -> None:
    Image.fromarray(np.zeros((256, 256), np.uint16)).save(folder / "images" / "a.png")
    _refused(_rows(folder), "a.png: it has pixels of mode I;16, where one 8-bit")
    page = Image.new("L", (256, 256))
    page.save(folder / "images" / "d.tif", save_all=True, append_images=[page, page])
    _refused(_rows(folder, image=["d.tif", "b.png", "c.png"]), "d.tif: it has 3 pages")


def test_without_pyarrow_the_extra_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _rows(folder)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(BackendMissing, match=r"pip install 'edgeseg\[train\]'"):
        table.read(path, None, COLUMNS)
