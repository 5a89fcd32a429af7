"""What a received dataset says of itself, in every encoding, and what damaged ones do."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeseg.scanner.instance import Instance, Unreadable, file_header, identify, read_whole

MR = "1.2.840.10008.5.1.4.1.1.4"
IMPLICIT, EXPLICIT, BIG_ENDIAN, DEFLATED, RLE = (
    f"1.2.840.10008.1.2{suffix}" for suffix in ("", ".1", ".2", ".1.99", ".5")
)
FOUND = Instance(MR, "1.2.3.4", "1.2.3")


def _dataset() -> Any:
    from pydicom.dataset import Dataset

    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.StudyInstanceUID = MR, "1.2.3.4", "1.2.3"
    dataset.PatientName = "Canary^Name"
    item = Dataset()
    item.ReferencedSOPInstanceUID, item.StudyInstanceUID = "9.9.9", "9.9"
    dataset.ReferencedImageSequence = [item]
    dataset.add_new(0x00190010, "LO", "SIEMENS MR HEADER")
    dataset.add_new(0x00191008, "OB", bytes(5000))
    dataset.Rows = dataset.Columns = 4
    dataset.add_new(0x7FE00010, "OW", bytes(32))
    return dataset


def _encoded(dataset: Any, syntax: str) -> bytes:
    import pydicom
    from pydicom.filewriter import write_dataset

    uid = pydicom.uid.UID(syntax)
    buffer = pydicom.filebase.DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = uid.is_implicit_VR, uid.is_little_endian
    write_dataset(buffer, dataset)
    content = bytes(buffer.getvalue())
    if uid.is_deflated:
        packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        content = packer.compress(content) + packer.flush()
    return content


@pytest.mark.parametrize(
    "syntax",
    [
        *(EXPLICIT, IMPLICIT, BIG_ENDIAN, DEFLATED),
        RLE,
    ],
)
def test_an_instance_is_known_in_every_encoding(syntax: str) -> None:
    assert identify(memoryview(_encoded(_dataset(), syntax)), syntax) == FOUND


def test_a_file_is_read_back_as_it_was_sent(tmp_path: Path) -> None:
    import pydicom

    encoded = _encoded(_dataset(), EXPLICIT)
    path = tmp_path / "a.dcm"
    path.write_bytes(file_header(FOUND, EXPLICIT, len(encoded)) + encoded)
    read = pydicom.dcmread(path)
    assert read.file_meta.MediaStorageSOPInstanceUID == read.SOPInstanceUID == "1.2.3.4"
    assert read.file_meta.TransferSyntaxUID == EXPLICIT
    assert path.read_bytes()[132 + 12 + read.file_meta.FileMetaInformationGroupLength :] == encoded
    assert read == _dataset()


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG_ENDIAN, DEFLATED])
def test_a_file_that_is_cut_off_is_not_whole(tmp_path: Path, syntax: str) -> None:
    encoded, path = _encoded(_dataset(), syntax), tmp_path / "a"
    content = file_header(FOUND, syntax, len(encoded)) + encoded
    path.write_bytes(content)
    assert read_whole(path) == (FOUND.study, FOUND.uid)
    for damaged in (content[:-1], content[:200], content[:5], b"", content + b"\0", bytes(len(content))):
        path.write_bytes(damaged)
        assert read_whole(path) is None


def test_a_uid_with_a_leading_zero_is_taken_as_it_is() -> None:
    dataset = _dataset()
    encoded = _encoded(dataset, EXPLICIT).replace(b"1.2.3.4\0", b"1.2.03.4")
    assert identify(memoryview(encoded), EXPLICIT).uid == "1.2.03.4"


@pytest.mark.parametrize(
    "text", [b"../../x\0", b"1.2/3.4\0", b"\0" * 8, b"1.2 3.4\0", "1.2.é\0".encode().ljust(8, b"\0")]
)
def test_a_uid_that_is_none_is_refused_and_not_quoted(text: bytes) -> None:
    encoded = _encoded(_dataset(), EXPLICIT).replace(b"1.2.3.4\0", text)
    with pytest.raises(Unreadable, match=r"\(0008,0018\) is missing or not a UID") as caught:
        identify(memoryview(encoded), EXPLICIT)
    assert "x" not in str(caught.value)


def test_a_bomb_of_zeros_is_looked_into_no_further_than_its_beginning() -> None:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    bomb = b"".join(packer.compress(bytes(1024**2)) for _ in range(256)) + packer.flush()
    with pytest.raises(Unreadable):
        identify(memoryview(bomb), DEFLATED)


def test_sequences_in_each_other_without_end_are_refused() -> None:
    opening = struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF) + struct.pack(
        "<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF
    )
    with pytest.raises(Unreadable):
        identify(memoryview(opening * 20000), EXPLICIT)


@settings(max_examples=300, deadline=None)
@given(
    start=st.integers(0, 300),
    noise=st.binary(min_size=0, max_size=40),
    syntax=st.sampled_from([EXPLICIT, IMPLICIT, BIG_ENDIAN, DEFLATED]),
)
def test_damage_gives_an_instance_or_one_kind_of_error(start: int, noise: bytes, syntax: str) -> None:
    encoded = _encoded(_dataset(), EXPLICIT)
    damaged = encoded[:start] + noise + encoded[start + len(noise) :]
    try:
        found = identify(memoryview(damaged), syntax)
    except Unreadable:
        return
    assert BytesIO(file_header(found, syntax, 0)).read(132).endswith(b"DICM")
