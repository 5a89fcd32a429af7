"""What a received instance is, from the first elements of its dataset, and the header that makes a file of it."""

from __future__ import annotations

import io
import re
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SOP_CLASS, SOP_INSTANCE, STUDY = 0x00080016, 0x00080018, 0x0020000D
_BEGINNING = 4 * 1024**2
"""Bytes of a dataset that are looked through: MR headers reach the StudyInstanceUID within kilobytes."""
_PREAMBLE = 128
_MARK = b"EDGESEG\0"
_UID = re.compile(r"[0-9.]{1,64}")
_IMPLEMENTATION = "2.25.239640749330033086433669751633332209346"


class Unreadable(Exception):
    """A dataset that does not say what it is; the text quotes nothing of it."""


@dataclass(frozen=True)
class Instance:
    """What an instance says of itself.

    Parameters
    ----------
    sop_class, uid, study
        Its SOPClassUID, SOPInstanceUID and StudyInstanceUID: digits and dots alone.
    """

    sop_class: str
    uid: str
    study: str


def identify(dataset: memoryview, transfer_syntax: str) -> Instance:
    """Read what an encoded dataset is, without decoding more of it.

    Parameters
    ----------
    dataset
        The encoded dataset.
    transfer_syntax
        UID of its encoding.

    Raises
    ------
    Unreadable
        It is damaged, or one of the three UIDs is missing or not a UID.
    """
    from pydicom.filereader import read_dataset
    from pydicom.uid import UID

    syntax = UID(transfer_syntax)
    try:
        start = bytes(dataset[:_BEGINNING])
        if syntax.is_deflated:
            start = zlib.decompressobj(-zlib.MAX_WBITS).decompress(start, _BEGINNING)
        found = read_dataset(
            io.BytesIO(start),
            syntax.is_implicit_VR,
            syntax.is_little_endian,
            stop_when=lambda tag, _vr, _length: tag > STUDY,
            specific_tags=[SOP_CLASS, SOP_INSTANCE, STUDY],
        )
        return Instance(_uid(found, SOP_CLASS), _uid(found, SOP_INSTANCE), _uid(found, STUDY))
    except Unreadable:
        raise
    except Exception as error:  # whatever damaged bytes do to a parser; RecursionError too
        raise Unreadable("the dataset is damaged") from error


def _uid(dataset: Any, tag: int) -> str:
    # As stored: pydicom's conversion would warn of a UID that is slightly wrong, and quote it.
    element = dataset.get_item(tag)
    value = element.value if element is not None else None
    text = value.rstrip(b"\0 ").decode("ascii", "replace") if isinstance(value, bytes) else ""
    if not _UID.fullmatch(text):
        raise Unreadable(f"({tag >> 16:04X},{tag & 0xFFFF:04X}) is missing or not a UID")
    return text


def file_header(instance: Instance, transfer_syntax: str, dataset_bytes: int) -> bytes:
    """Preamble and file meta information, in front of the dataset in a DICOM file.

    The preamble, which is free for such use, holds the file's size: `read_whole` goes by it.
    """
    elements = b"".join(
        [
            struct.pack("<HH2sHI", 2, 0x0001, b"OB", 0, 2) + b"\0\1",
            _element(0x0002, b"UI", instance.sop_class),
            _element(0x0003, b"UI", instance.uid),
            _element(0x0010, b"UI", transfer_syntax),
            _element(0x0012, b"UI", _IMPLEMENTATION),
            _element(0x0013, b"SH", "EDGESEG"),
        ]
    )
    meta = b"DICM" + struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(elements)) + elements
    return (_MARK + struct.pack("<Q", _PREAMBLE + len(meta) + dataset_bytes)).ljust(_PREAMBLE, b"\0") + meta


def read_whole(path: Path) -> tuple[str, str] | None:
    """Read to which study a file of `file_header` and its dataset belongs.

    Returns
    -------
    tuple of str or None
        StudyInstanceUID and SOPInstanceUID; None when the file is not all there.
    """
    import pydicom

    try:
        with path.open("rb") as file:
            start = file.read(len(_MARK) + 8)
        if start != _MARK + struct.pack("<Q", path.stat().st_size):
            return None
        found = pydicom.dcmread(path, specific_tags=[SOP_INSTANCE, STUDY], stop_before_pixels=True)
        return _uid(found, STUDY), _uid(found, SOP_INSTANCE)
    except Exception:  # a file that was cut off may be anything
        return None


def _element(number: int, representation: bytes, text: str) -> bytes:
    value = text.encode("ascii")
    value += (b"\0" if representation == b"UI" else b" ") * (len(value) % 2)
    return struct.pack("<HH2sH", 2, number, representation, len(value)) + value
