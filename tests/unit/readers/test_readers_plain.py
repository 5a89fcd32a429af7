"""What is read at once is what pydicom reads, element by element and pixel by pixel; all else is left to pydicom."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import forms
import numpy as np
import pytest
import seeds

from edgeseg.errors import StudyError
from edgeseg.readers import plain, vendors
from edgeseg.readers.headers import TAGS, drop_malformed, keywords, mr_headers, numbers, read_header, study_uid

if TYPE_CHECKING:
    from pydicom import Dataset


def _pydicoms(path: Path, **options: Any) -> Dataset:
    """What pydicom reads of a file."""
    import pydicom

    dataset: Dataset = pydicom.dcmread(path, **options)
    return dataset


def _file(
    folder: Path, change: Callable[[Dataset], None] | None = None, form: str = "explicit little endian", **values: Any
) -> Path:
    """One slice of the example, changed, in a transfer syntax."""
    changed = seeds.small_series(folder / "series", change=lambda dataset, _: change(dataset) if change else None)
    dataset = _pydicoms(changed / "2")
    for name, value in values.items():
        setattr(dataset, name, value)
    dataset.save_as(folder / "file", enforce_file_format=True)
    forms.convert(folder / "file", folder / "converted", form)
    return folder / "converted"


def _taken(path: Path) -> plain.PlainFile:
    file = plain.read(path)
    assert file is not None
    return file


def _text(dataset: Dataset) -> None:
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.PatientName = "Größe^Ä"
    dataset.ImageComments = "seven"
    block = dataset.private_block(0x0019, "GEMS_ACQU_01", create=True)
    block.add_new(0x9C, "LO", "T2FLAIR")


def _sequences(dataset: Dataset) -> None:
    inner = forms.item(CodeValue="1", CodeMeaning="Größe")
    item = forms.item(PurposeOfReferenceCodeSequence=[inner])
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.ReferencedImageSequence = [item, forms.item()]


def _ambiguous(dataset: Dataset) -> None:
    dataset.PixelRepresentation = 1
    dataset.add_new(0x00280120, "SS", -5)
    dataset.add_new(0x00280106, "SS", -5)


@pytest.mark.parametrize("form", ["explicit little endian", "implicit little endian", "RLE", "JPEG 2000"])
@pytest.mark.parametrize("change", [None, _text, _sequences, _ambiguous])
def test_the_header_is_pydicoms(tmp_path: Path, form: str, change: Callable[[Dataset], None] | None) -> None:
    path = _file(tmp_path, change, form)
    file, converted = _taken(path), dict[tuple[Any, ...], Any]()
    expected = _pydicoms(path, stop_before_pixels=True)
    for dataset in (file.dataset(), file.dataset(converted=converted), _taken(path).dataset(converted=converted)):
        assert list(dataset.keys()) == list(expected.keys())
        assert dataset == expected
        assert str(dataset.PatientName) == str(expected.PatientName)
    assert converted


def test_some_elements_are_those_of_all(tmp_path: Path) -> None:
    path = _file(tmp_path, _text)
    assert _taken(path).dataset(numbers(TAGS)) == _pydicoms(path, specific_tags=list(TAGS))


def test_slices_share_what_is_the_same_and_nothing_else() -> None:
    converted: plain.Converted = {}
    first, second, *_ = sorted((seeds.EXAMPLE / "flair").iterdir())
    one, two = (_taken(path).dataset(converted=converted) for path in (first, second))
    assert one["StudyInstanceUID"] is two["StudyInstanceUID"]
    assert one.SOPInstanceUID == _pydicoms(first).SOPInstanceUID
    assert two.SOPInstanceUID == _pydicoms(second).SOPInstanceUID


def test_the_same_bytes_under_another_character_set_are_not_shared(tmp_path: Path) -> None:
    converted: plain.Converted = {}
    for name, coding in (("a", "ISO_IR 192"), ("b", "ISO_IR 100")):
        path = _file(tmp_path / name, SpecificCharacterSet=coding, ProtocolName="aXXb")
        path.write_bytes(path.read_bytes().replace(b"aXXb", "aäb".encode()))
        assert _taken(path).dataset(converted=converted) == _pydicoms(path, stop_before_pixels=True)


@pytest.mark.parametrize(
    ("allocated", "used", "signed"), [(8, 8, 0), (16, 12, 0), (16, 16, 1), (16, 12, 1), (32, 24, 0)]
)
def test_the_pixels_are_pydicoms(tmp_path: Path, allocated: int, used: int, signed: int) -> None:
    kind = np.dtype(f"<{'i' if signed else 'u'}{allocated // 8}")
    low, high = (-(1 << used - 1), (1 << used - 1) - 1) if signed else (0, (1 << used) - 1)
    values = np.random.default_rng(used).integers(low, high, (32, 32), endpoint=True).astype(kind)

    def change(dataset: Dataset) -> None:
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = allocated, used, used - 1
        dataset.PixelRepresentation = signed
        dataset.PixelData = values.tobytes()

    path = _file(tmp_path, change)
    file = _taken(path)
    stored = file.stored(plain.layout_of(file.dataset()))
    assert stored is not None
    assert stored.dtype == kind
    np.testing.assert_array_equal(stored, values)
    np.testing.assert_array_equal(stored, _pydicoms(path).pixel_array)


def _bits_beyond(dataset: Dataset) -> None:
    dataset.PixelData = (dataset.pixel_array | 0x8000).astype("<u2").tobytes()


def _two_frames(dataset: Dataset) -> None:
    dataset.NumberOfFrames, dataset.Rows = 2, dataset.Rows // 2


def _colours(dataset: Dataset) -> None:
    dataset.SamplesPerPixel, dataset.Rows = 2, dataset.Rows // 2


def _too_long(dataset: Dataset) -> None:
    dataset.PixelData += bytes(2)


@pytest.mark.parametrize("change", [_bits_beyond, _two_frames, _colours, _too_long])
def test_pixels_that_are_not_plain_are_left_to_pydicom(tmp_path: Path, change: Callable[[Dataset], None]) -> None:
    path = _file(tmp_path)
    dataset = _pydicoms(path)
    change(dataset)
    dataset.save_as(path)
    file = _taken(path)
    assert file.stored(plain.layout_of(file.dataset())) is None


@pytest.mark.parametrize("form", ["big endian", "deflated"])
def test_files_that_are_not_plain_are_left_to_pydicom(tmp_path: Path, form: str) -> None:
    if missing := forms.missing_encoder(form):
        pytest.skip(f"needs {missing}")
    path = _file(tmp_path, form=form)
    assert plain.read(path) is None
    assert read_header(path) == _pydicoms(path, stop_before_pixels=True)


def test_a_sequence_of_undefined_length_is_left_to_pydicom(tmp_path: Path) -> None:
    path = _file(tmp_path, _sequences)
    dataset = _pydicoms(path)
    dataset["ReferencedImageSequence"].is_undefined_length = True
    dataset.save_as(path)
    assert plain.read(path) is None
    assert read_header(path) == _pydicoms(path, stop_before_pixels=True)


@pytest.mark.parametrize(("size", "plainly"), [(100, True), (1 << 13, True), (60_000, True), (1 << 17, False)])
def test_a_long_header_is_read_whole_and_a_very_long_one_left_to_pydicom(
    tmp_path: Path, size: int, plainly: bool
) -> None:
    def change(dataset: Dataset) -> None:
        dataset.private_block(0x0019, "SOMEBODY", create=True).add_new(0x01, "OB", bytes(size))

    path = _file(tmp_path, change)
    assert (plain.read(path) is not None) == plainly
    assert read_header(path) == _pydicoms(path, stop_before_pixels=True)


def test_a_file_without_pixels_and_one_that_lost_some(tmp_path: Path) -> None:
    path = _file(tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[:-100])
    file = _taken(path)
    assert file.pixels is None
    dataset = _pydicoms(path, force=True)
    del dataset.PixelData
    dataset.save_as(path)
    assert _taken(path).pixels is None


def test_damaged_files_give_what_pydicom_makes_of_them(tmp_path: Path) -> None:
    """Bytes changed at random: where the file still counts as plain, pydicom has to see the same elements."""
    draw, kept = np.random.default_rng(7), 0
    contents = [
        _file(tmp_path / form, _text, form).read_bytes()
        for form in ("explicit little endian", "implicit little endian")
    ]
    path = tmp_path / "damaged"
    for turn in range(600):
        content = bytearray(contents[turn % 2])
        header = len(content) - 2048
        for place in draw.integers(132, header, draw.integers(1, 4)):
            content[place] = draw.integers(256)
        path.write_bytes(content)
        file = plain.read(path)
        if file is None:
            continue
        kept += 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ours, theirs = file.dataset(converted={}), _pydicoms(path, stop_before_pixels=True)
            assert list(ours.keys()) == list(theirs.keys())
            drop_malformed(ours)
            drop_malformed(theirs)
            assert ours == theirs
    assert kept > 100


@pytest.mark.parametrize("form", ["explicit little endian", "implicit little endian"])
@pytest.mark.parametrize("change", [None, _text, _sequences])
def test_values_are_pydicoms_and_shared_by_what_they_hang_on(
    tmp_path: Path, form: str, change: Callable[[Dataset], None] | None
) -> None:
    path = _file(tmp_path, change, form)
    expected = _pydicoms(path, specific_tags=list(TAGS))
    converted: plain.Converted = {}
    for _ in range(2):
        found = _taken(path).values(keywords(TAGS), converted)
        assert found == {
            element.keyword: element.value for element in expected if element.keyword in keywords(TAGS).values()
        }
    assert vendors.sequence_names(expected) == mr_headers([path])[0][str(expected.SOPInstanceUID)].sequence


def test_a_value_that_cannot_be_converted_is_left_out(tmp_path: Path) -> None:
    elements = ((0x00180080, "DS", b"9000", 0), (0x00280010, "US", b"\x01", 0))  # half of a number
    found = plain.PlainFile(tmp_path, False, elements, None).values(keywords(TAGS), {})
    assert found == {"RepetitionTime": 9000}


@pytest.mark.parametrize("form", ["explicit little endian", "implicit little endian", "big endian", "deflated", "RLE"])
def test_the_study_of_a_file_in_any_form(tmp_path: Path, form: str) -> None:
    if missing := forms.missing_encoder(form):
        pytest.skip(f"needs {missing}")
    assert study_uid(_file(tmp_path, form=form)) == _pydicoms(_file(tmp_path)).StudyInstanceUID


def test_the_study_of_no_study(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("DICM")
    assert study_uid(tmp_path / "text") is study_uid(tmp_path / "missing") is None


def test_a_header_in_no_character_set_counts_as_none(tmp_path: Path) -> None:
    path = _file(tmp_path, SpecificCharacterSet="ISO_IR 192")
    path.write_bytes(path.read_bytes().replace(b"ISO_IR 192", b"GB18\0 0300"))
    assert plain.read(path) is not None
    assert read_header(path) is None
    with pytest.raises(StudyError, match="no MR images found"):
        mr_headers([path])
