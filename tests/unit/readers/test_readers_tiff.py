"""TIFF folders as the LGG set names them, and every way in which they can be wrong."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeseg.errors import StudyError
from edgeseg.readers import find_studies, read_study, tiff
from edgeseg.types import Study

EXAMPLE = Path(__file__).parents[3] / "examples" / "tiff" / "TCGA_HT_7884_19980913"


def _write(folder: Path, count: int = 12, first: int = 1) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for n in range(first, first + count):
        pixels = rng.integers(1, 200, (16, 20, 3)).astype(np.uint8)
        pixels[0, 0] = n
        Image.fromarray(pixels).save(folder / f"case_{n}.tif")
    return folder


def _read(folder: Path) -> Study:
    (files,) = find_studies(folder)
    return read_study(files)


def test_example_is_read_in_the_order_of_its_numbers() -> None:
    study = _read(EXAMPLE)
    assert (study.name, study.uid, study.source) == (EXAMPLE.name, EXAMPLE.name, "tiff")
    assert study.flair.instance_ids == tuple(f"{EXAMPLE.name}_{n}" for n in range(6, 21))
    assert study.flair.voxels.shape == (15, 256, 256)
    assert study.flair.geometry is None
    with Image.open(EXAMPLE / f"{EXAMPLE.name}_10.tif") as image:
        expected = np.asarray(image)
    for position, volume in enumerate((study.pre, study.flair, study.post)):
        assert volume is not None
        assert volume.voxels.dtype == np.float32
        np.testing.assert_array_equal(volume.voxels[4], expected[..., position])


def test_slice_ten_follows_slice_nine(tmp_path: Path) -> None:
    study = _read(_write(tmp_path / "case"))
    np.testing.assert_array_equal(study.flair.voxels[:, 0, 0], np.arange(1, 13))
    assert tiff.slice_number(Path("TCGA_CS_4941_19960909_12.tif")) == 12


def test_copy_of_flair_and_blank_channel_are_missing_sequences(tmp_path: Path) -> None:
    folder = _write(tmp_path / "case", count=5)
    for path in folder.glob("*.tif"):
        with Image.open(path) as image:
            pixels = np.array(image)
        pixels[..., 0], pixels[..., 2] = pixels[..., 1], 0
        Image.fromarray(pixels).save(path)
    study = _read(folder)
    assert study.pre is None
    assert study.post is None
    assert study.channels["pre"].filled_with == "flair"
    assert "copy of FLAIR" in study.channels["pre"].reason
    assert "blank" in study.channels["post"].reason


def test_greyscale_is_flair_alone(tmp_path: Path) -> None:
    folder = tmp_path / "grey"
    folder.mkdir()
    for n in range(5):
        Image.fromarray(np.full((8, 8), n, np.uint8)).save(folder / f"g_{n}.tif")
    study = _read(folder)
    assert study.pre is None
    assert study.post is None
    assert study.flair.voxels[3, 0, 0] == 3


def _spoil(folder: Path, what: str) -> None:
    """Make one thing wrong in a folder of twelve good slices."""
    path = folder / "case_5.tif"
    rng = np.random.default_rng(1)
    if what == "16-bit":
        Image.fromarray(rng.integers(0, 4000, (16, 20)).astype(np.uint16)).save(path)
    elif what == "size":
        Image.fromarray(np.ones((16, 21, 3), np.uint8)).save(path)
    elif what == "missing":
        path.unlink()
    elif what == "mask":
        Image.fromarray((rng.integers(0, 2, (16, 20)) * 255).astype(np.uint8)).save(path)
    elif what == "bilevel":
        Image.fromarray(rng.integers(0, 2, (16, 20)).astype(bool)).save(path)
    elif what == "only masks":
        for file in list(folder.iterdir()):
            file.rename(file.with_name(f"{file.stem}_mask.tif"))
    elif what == "truncated":
        path.write_bytes(path.read_bytes()[:300])
    elif what == "text":
        path.write_text("no image")
    elif what == "no number":
        path.rename(folder / "middle.tif")
    elif what == "two patients":
        path.rename(folder / "other_5.tif")
    elif what == "twice":
        shutil.copy(path, folder / "case_05.tif")
    elif what == "pages":
        page = Image.fromarray(np.ones((16, 20), np.uint8))
        page.save(path, save_all=True, append_images=[page])
    elif what == "blank":
        for file in folder.iterdir():
            Image.fromarray(np.full((16, 20, 3), 7, np.uint8)).save(file)


@pytest.mark.parametrize(
    ("what", "found", "mend"),
    [
        ("16-bit", r"case_5.tif is a 16-bit TIFF", "export it with 8 bits"),
        ("size", r"case_5.tif has 21 x 16 pixels and case_1.tif has 20 x 16", "export them again"),
        ("missing", r"slices 1 to 12, but number 5 is missing", "copy the whole series again"),
        ("mask", r"case_5.tif holds only the values 0 and 255, so it is a mask", "give the images"),
        ("bilevel", r"case_5.tif is a black-and-white image, so a mask", "give the images"),
        ("only masks", r"holds only masks", "give the folder with the images"),
        ("truncated", r"case_5.tif cannot be read as a TIFF image", "copy or export it again"),
        ("text", r"case_5.tif cannot be read as a TIFF image", "copy or export it again"),
        ("no number", r"middle.tif has no slice number", "<patient>_<slice number>.tif"),
        ("two patients", r"holds slices of 2 patients", "a folder of its own"),
        ("twice", r"slice number 5 twice", "remove one"),
        ("pages", r"case_5.tif holds 2 pages", "a file of its own"),
        ("blank", r"blank FLAIR channel in all 12 slices", "give RGB slices"),
    ],
)
def test_bad_folder_is_refused_with_what_was_found_and_the_mend(
    tmp_path: Path, what: str, found: str, mend: str
) -> None:
    folder = _write(tmp_path / "case")
    _spoil(folder, what)
    with pytest.raises(StudyError, match=found) as error:
        _read(folder)
    assert mend in str(error.value)


def test_sixteen_bit_rgb_is_named_as_such(tmp_path: Path) -> None:
    path = tmp_path / "a_1.tif"
    entries = [(256, 3, 1, 1), (257, 3, 1, 1), (258, 3, 1, 16), (259, 3, 1, 1), (262, 3, 1, 2), (277, 3, 1, 3)]
    ifd = len(entries).to_bytes(2, "little")
    for tag, kind, count, value in entries:
        ifd += tag.to_bytes(2, "little") + kind.to_bytes(2, "little") + count.to_bytes(4, "little")
        ifd += value.to_bytes(4, "little")
    path.write_bytes(b"II*\0\x08\0\0\0" + ifd + bytes(4) + bytes(6))
    with pytest.raises(StudyError, match=r"a_1.tif is a 16-bit TIFF"):
        tiff.read_slices([path])
