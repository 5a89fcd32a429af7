"""What a DICOM file's header says, read so that no file can cost more than it is worth."""

from __future__ import annotations

import io
import warnings
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeseg.errors import StudyError
from edgeseg.readers import plain, vendors
from edgeseg.readers.limits import LARGEST_FILE

if TYPE_CHECKING:
    from pydicom import Dataset

TAGS: tuple[str | int, ...] = (
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "SeriesNumber", "Modality"),
    *("ImageType", "SeriesDescription", "ProtocolName", "SequenceName", "PulseSequenceName", "ScanningSequence"),
    *("EchoTime", "RepetitionTime", "InversionTime", "ContrastBolusAgent", "ContrastBolusAgentSequence"),
    *("AcquisitionDateTime", "AcquisitionDate", "AcquisitionTime", "SeriesDate", "SeriesTime"),
    *("EchoPulseSequence", "EchoPlanarPulseSequence", "Rows", "Columns", "NumberOfFrames", "PixelSpacing"),
    *(
        "ImagePositionPatient",
        "ImageOrientationPatient",
        "SliceThickness",
        "PatientID",
        "AcquisitionNumber",
        "InstanceNumber",
    ),
    *("TemporalPositionIdentifier", "SamplesPerPixel", "PhotometricInterpretation"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
    *vendors.TAGS,
)
"""What is read of every file to find the series; the FLAIR series' headers are read whole later."""
LARGEST_VALUE = 1 << 20
"""Bytes above which an element's value counts as missing, sequences apart: none of `TAGS` is as long."""
MOST_READS = 2_000_000
"""Reads of a file's header: an Enhanced image of 1000 frames needs a tenth of them."""

_MODALITIES = frozenset(
    (
        *("CR", "CT", "DX", "ECG", "KO", "MG", "MR", "NM", "OT", "PR", "PT", "REG", "RF", "RTDOSE", "RTPLAN"),
        *("RTSTRUCT", "SC", "SEG", "SR", "US", "XA"),
    )
)
"""Those that a message may quote: what else stands there is nobody's code and may be anything."""
_SPECTROSCOPY = "1.2.840.10008.5.1.4.1.1.4.2"
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_BARE = (b"\x08\x00", b"\x02\x00", b"\x00\x08")
"""Groups that a file without a preamble begins with, the last one in big endian."""


def read_header(path: Path, tags: Sequence[str | int] | None = None) -> Dataset | None:
    """Read a DICOM file's header without its pixels, or only some elements of it.

    Parameters
    ----------
    path
        The file, with or without a preamble.
    tags
        Keywords of the elements that are wanted; values longer than `LARGEST_VALUE` count as missing then.

    Returns
    -------
    Dataset or None
        None where the file is not DICOM, says no StudyInstanceUID, or is larger than `LARGEST_FILE`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            file = read_plain(path)
            header = (
                _by_pydicom(path, tags)
                if file is None
                else file.dataset(None if tags is None else numbers(tuple(tags)))
            )
            return header if header is not None and header.get("StudyInstanceUID") else None
    except Exception:  # a damaged file raises whatever it likes: it is not readable, and the caller says so
        return None


def _by_pydicom(path: Path, tags: Sequence[str | int] | None) -> Dataset | None:
    """The same of a file that is not plain; raises whatever pydicom does."""
    import pydicom

    if path.stat().st_size > LARGEST_FILE:
        return None
    with path.open("rb") as file:
        start = file.read(1024)
    bare = start[128:132] != b"DICM"
    if (bare and not start.startswith(_BARE)) or (_DEFLATED in start and not _inflates(path)):
        return None
    wanted: Any = None if tags is None else list(tags)
    with Patient(path) as patient:
        header = pydicom.dcmread(
            patient,
            stop_before_pixels=True,
            force=bare,
            specific_tags=wanted,
            defer_size=None if tags is None else LARGEST_VALUE,
        )
    if tags is not None:
        _drop_long(header)
    return header


def read_plain(path: Path) -> plain.PlainFile | None:
    """Read a file that is plain and no larger than `LARGEST_FILE`; None for any other."""
    try:
        file = plain.read(path)
        return None if file is None or path.stat().st_size > LARGEST_FILE else file
    except OSError:
        return None


@lru_cache
def keywords(tags: tuple[str | int, ...]) -> dict[int, str]:
    """Keyword by tag, of the tags that are given by it."""
    from pydicom.datadict import tag_for_keyword

    return {tag_for_keyword(tag) or 0: tag for tag in tags if isinstance(tag, str)}


@lru_cache
def numbers(tags: tuple[str | int, ...]) -> frozenset[int]:
    """Tags as numbers."""
    from pydicom.tag import Tag

    return frozenset(int(Tag(tag)) for tag in tags)


def study_uid(path: Path) -> str | None:
    """A file's StudyInstanceUID; None where `read_header` has none."""
    with suppress(OSError):
        if (uid := plain.study_uid(path)) and path.stat().st_size <= LARGEST_FILE:
            return uid
    header = read_header(path, ("StudyInstanceUID",))
    return None if header is None else str(header.StudyInstanceUID)


class Patient(io.BufferedReader):
    """A file that ends the patience of its reader: zeros without end are elements without end."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        self._reads = 0

    def read(self, size: int | None = -1) -> bytes:
        """Read as any file does, and raise ValueError where it was asked `MOST_READS` times."""
        self._reads += 1
        if self._reads > MOST_READS:
            raise ValueError("more elements than any image has")
        return super().read(size)


def _inflates(path: Path) -> bool:
    """Whether a deflated file's dataset has at most `LARGEST_FILE` bytes when it is inflated."""
    with path.open("rb") as file:
        file.seek(140)
        file.seek(144 + int.from_bytes(file.read(4), "little"))  # the file meta information says its own length
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        found, chunk = 0, file.read(1 << 16)
        while chunk and found <= LARGEST_FILE:
            found += len(inflater.decompress(chunk, 1 << 24))
            chunk = inflater.unconsumed_tail or file.read(1 << 16)
    return found <= LARGEST_FILE


def _drop_long(header: Dataset) -> None:
    """Take out the values that were too long to be read, those of sequences apart."""
    for tag in list(header.keys()):
        raw = header.get_item(tag)
        if getattr(raw, "is_raw", False) and raw.value is None and raw.length > LARGEST_VALUE and raw.VR != "SQ":
            del header[tag]


@dataclass(frozen=True)
class Header:
    """What a file says of its image, of `TAGS`.

    Parameters
    ----------
    path
        The file.
    values
        By keyword; what cannot be converted is missing.
    sequence
        Names of the pulse sequence.
    file
        As it was read; None where it is not plain.
    """

    path: Path
    values: Mapping[str, Any]
    sequence: str = ""
    file: plain.PlainFile | None = None

    def get(self, keyword: str, default: Any = None) -> Any:
        """An element's value, or what stands in for it."""
        return self.values.get(keyword, default)


def mr_headers(paths: Sequence[Path]) -> tuple[dict[str, Header], int]:
    """The MR images among a study's files, by SOPInstanceUID, and how many more files have one that was met before.

    Raises
    ------
    StudyError
        There are no MR images, or images of several patients.
    """
    headers: dict[str, Header] = {}
    modalities: Counter[str] = Counter()
    patients = set()
    copies = 0
    converted: plain.Converted = {}
    for path in paths:
        header = _mr_header(path, converted)
        if header is None:
            continue
        modality = str(header.get("Modality", "unknown"))
        modality = modality if modality in _MODALITIES else "of another modality"
        modalities[modality] += 1
        if modality == "MR" and header.get("Rows") and header.get("SOPClassUID") != _SPECTROSCOPY:
            uid = str(header.get("SOPInstanceUID") or f"file {len(headers) + 1}")
            copies += uid in headers
            headers.setdefault(uid, header)
            patients.add(str(header.get("PatientID") or "").strip())
    if not headers:
        raise StudyError(_no_mr(modalities))
    if len(patients - {""}) > 1:
        raise StudyError(
            f"{len(patients - {''})} patients share one StudyInstanceUID: give the files of one patient, or mend the "
            "UIDs where they were changed"
        )
    return headers, copies


def _mr_header(path: Path, converted: plain.Converted) -> Header | None:
    """What a file says; None where `read_header` has none."""
    names = keywords(TAGS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            file = read_plain(path)
            if file is not None:
                values = file.values(names, converted)
                sequence = _sequence_names(file, values)
            elif (header := _by_pydicom(path, TAGS)) is not None:
                drop_malformed(header)
                values = {names[tag]: element.value for tag, element in header.items() if tag in names}
                sequence = vendors.sequence_names(header)
            else:
                return None
    except Exception:  # a damaged file raises whatever it likes
        return None
    return Header(path, values, sequence, file) if values.get("StudyInstanceUID") else None


def _sequence_names(file: plain.PlainFile, values: Mapping[str, Any]) -> str:
    """As `vendors.sequence_names`, which looks at private elements only where there are some."""
    private = numbers(vendors.PRIVATE_TAGS)
    if not any(tag in private for tag, *_ in file.elements):
        return " ".join(str(values[name]) for name in vendors.STANDARD if values.get(name))
    header = file.dataset(numbers(vendors.TAGS))
    drop_malformed(header)
    return vendors.sequence_names(header)


def _no_mr(modalities: Counter[str]) -> str:
    found = ", ".join(f"{count} {modality}" for modality, count in sorted(modalities.items()))
    if set(modalities) == {"CT"}:
        count = "1 file" if modalities["CT"] == 1 else f"{modalities['CT']} files"
        return (
            f"only CT images found ({count}): edgeseg segments brain MR and needs a FLAIR series, so give the MR study"
        )
    return f"no MR images found (files by modality: {found or 'none'}): give an MR study with a FLAIR series"


def drop_malformed(header: Dataset, deep: bool = False) -> None:
    """Take out the elements whose bytes pydicom cannot turn into a value, so that they count as missing.

    Parameters
    ----------
    header
        What is changed.
    deep
        Also in the items of sequences, which takes longer.
    """
    from pydicom.dataelem import DataElement

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's remarks on values: those that matter are checked by their readers
        for tag, element in list(header.items()):
            if not isinstance(element, DataElement):
                try:
                    element = header[tag]
                except Exception:  # pydicom raises whatever a value's conversion does
                    del header[tag]
                    continue
            if deep and element.VR == "SQ":
                for item in element.value or ():
                    drop_malformed(item, deep)
