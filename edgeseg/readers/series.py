"""DICOM headers -> series: images that belong together by content, not by folder or file name."""

from __future__ import annotations

import hashlib
import math
import re
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeseg.errors import StudyError
from edgeseg.readers import vendors
from edgeseg.readers.imagetype import is_derived, is_reformatted
from edgeseg.readers.sequences import SeriesFacts
from edgeseg.readers.sidecar import NO_AGENT
from edgeseg.types import Vector

if TYPE_CHECKING:
    from pydicom import Dataset

TAGS: tuple[str | int, ...] = (
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "SeriesNumber", "Modality"),
    *("ImageType", "SeriesDescription", "ProtocolName", "SequenceName", "PulseSequenceName", "ScanningSequence"),
    *("EchoTime", "RepetitionTime", "InversionTime", "ContrastBolusAgent", "ContrastBolusAgentSequence"),
    *("AcquisitionDateTime", "AcquisitionDate", "AcquisitionTime", "SeriesDate", "SeriesTime"),
    *("EchoPulseSequence", "EchoPlanarPulseSequence", "Rows", "Columns", "NumberOfFrames", "PixelSpacing"),
    *("ImagePositionPatient", "ImageOrientationPatient", "SliceThickness"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
    *vendors.TAGS,
)
"""What is read of every file to find the series; the FLAIR series' headers are read whole later."""

_MODALITIES = frozenset(
    (
        *("CR", "CT", "DX", "ECG", "KO", "MG", "MR", "NM", "OT", "PR", "PT", "REG", "RF", "RTDOSE", "RTPLAN"),
        *("RTSTRUCT", "SC", "SEG", "SR", "US", "XA"),
    )
)
"""Those that a message may quote: what else stands there is nobody's code and may be anything."""
_PARALLEL, _ASKEW = 0.01, 0.1


@dataclass(frozen=True)
class Frame:
    """One slice: a file, or one frame of a multi-frame file.

    Parameters
    ----------
    path, index
        The file, and the frame in it (None for a file of a single image).
    instance_uid
        SOPInstanceUID.
    position_mm
        Shape (3,): centre of the first voxel, LPS.
    orientation
        Shape (6,): unit vectors along which the column and the row index grow.
    spacing_mm
        Shape (2,): distance of rows and of columns.
    shape
        Rows and columns.
    """

    path: Path
    index: int | None
    instance_uid: str
    position_mm: Vector
    orientation: Vector
    spacing_mm: Vector
    shape: tuple[int, int]

    @property
    def normal(self) -> Vector:
        """Unit vector of the slice normal, LPS."""
        normal = np.cross(self.orientation[:3], self.orientation[3:])
        return np.asarray(normal / np.linalg.norm(normal))


@dataclass(frozen=True)
class Series:
    """Frames that belong together, in no order, and what is known of them."""

    frames: tuple[Frame, ...]
    facts: SeriesFacts


def read_header(path: Path, tags: Sequence[str | int] | None = None) -> Dataset | None:
    """Read a DICOM file's header without its pixels, or only some elements of it; None where it is not DICOM."""
    import pydicom

    wanted: Any = None if tags is None else list(tags)
    try:
        with path.open("rb") as file:
            start = file.read(132)
        bare = start[:4] in (b"\x08\x00\x05\x00", b"\x08\x00\x08\x00", b"\x08\x00\x16\x00", b"\x08\x00\x00\x00")
        if start[128:] != b"DICM" and not bare:
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            header = pydicom.dcmread(path, stop_before_pixels=True, force=bare, specific_tags=wanted)
            return header if header.get("StudyInstanceUID") else None
    except Exception:  # a damaged file raises whatever it likes: it is not readable, and the caller says so
        return None


def find_series(paths: Sequence[Path]) -> tuple[tuple[Series, ...], tuple[str, ...]]:
    """Group a study's MR images into series.

    Parameters
    ----------
    paths
        DICOM files of one study.

    Returns
    -------
    series
        One for each SeriesInstanceUID, image type, echo time and orientation.
    warnings
        Sentences on what was left aside.

    Raises
    ------
    StudyError
        There are no MR images, or none says where it lies in the patient.
    """
    headers: dict[str, tuple[Path, Dataset]] = {}
    modalities: Counter[str] = Counter()
    copies = 0
    for path in paths:
        header = read_header(path, TAGS)
        if header is None:
            continue
        _drop_malformed(header)
        modality = str(header.get("Modality", "unknown"))
        modality = modality if modality in _MODALITIES else "of another modality"
        modalities[modality] += 1
        if modality == "MR" and header.get("Rows"):
            uid = str(header.get("SOPInstanceUID") or f"file {len(headers) + 1}")
            copies += uid in headers
            headers.setdefault(uid, (path, header))
    if not headers:
        raise StudyError(_no_mr(modalities))
    groups, placeless = _group(headers)
    if not groups:
        raise StudyError(
            f"{len(headers)} MR images were found and none says where it lies (Image Position, Image Orientation and "
            "Pixel Spacing are missing or not valid): export the original images, not screen captures"
        )
    notes = []
    if copies:
        notes.append(f"{copies} files are copies of other files of the study and were left aside")
    if placeless:
        verb = "image says" if placeless == 1 else "images say"
        notes.append(f"{placeless} {verb} nothing valid of position, orientation or pixel spacing: left aside")
    return tuple(Series(tuple(frames), facts) for frames, facts in groups), tuple(notes)


def _no_mr(modalities: Counter[str]) -> str:
    found = ", ".join(f"{count} {modality}" for modality, count in sorted(modalities.items()))
    if set(modalities) == {"CT"}:
        count = "1 file" if modalities["CT"] == 1 else f"{modalities['CT']} files"
        return (
            f"only CT images found ({count}): edgeseg segments brain MR and needs a FLAIR series, so give the MR study"
        )
    return f"no MR images found (files by modality: {found or 'none'}): give an MR study with a FLAIR series"


def _group(headers: dict[str, tuple[Path, Dataset]]) -> tuple[list[tuple[list[Frame], SeriesFacts]], int]:
    """Frames by series, image type, echo time and orientation, with the facts of each group; how many have no place."""
    placeless = 0
    groups: dict[tuple[Any, ...], list[tuple[list[Frame], SeriesFacts]]] = {}
    for uid, (path, header) in headers.items():
        for index in range(_frame_count(header)) if _is_multiframe(header) else (None,):
            frame = _frame(path, header, index, uid)
            if frame is None:
                placeless += 1
                continue
            facts = _facts(header, index)
            key = (
                header.get("SeriesInstanceUID"),
                facts.label,
                facts.derived,
                _type(header, index),
                facts.echo_time_ms,
            )
            alike = groups.setdefault(key, [])
            for frames, _ in alike:
                if np.abs(frames[0].orientation - frame.orientation).max() < _PARALLEL:
                    frames.append(frame)
                    break
            else:
                alike.append(([frame], replace(facts, normal=_triple(frame.normal))))
    found = [(frames, replace(facts, slices=len(frames))) for alike in groups.values() for frames, facts in alike]
    return found, placeless


def _drop_malformed(header: Dataset) -> None:
    """Take out the elements whose bytes pydicom cannot turn into a value, so that they count as missing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's remarks on values: those that matter are checked here
        for tag in list(header.keys()):
            try:
                header[tag]
            except Exception:  # pydicom raises whatever a value's conversion does
                del header[tag]


def _frame_count(header: Dataset) -> int:
    """How many frames a multi-frame header has: what it says, or the items that it has for them."""
    said = _whole_number(header.get("NumberOfFrames"))
    return said if said is not None else len(header.get("PerFrameFunctionalGroupsSequence") or (None,))


def _whole_number(value: Any) -> int | None:
    """The digits that a value begins with, as a number: archives write ``4a``; None where there are none."""
    digits = re.match(r"\s*(\d{1,9})", "" if value is None else str(value))
    return int(digits[1]) if digits else None


def _frame(path: Path, header: Dataset, index: int | None, uid: str) -> Frame | None:
    """A frame's place, or None where the header does not say it."""
    position = _item(header, index, "ImagePositionPatient", "PlanePositionSequence")
    orientation = _item(header, index, "ImageOrientationPatient", "PlaneOrientationSequence")
    spacing = _item(header, index, "PixelSpacing", "PixelMeasuresSequence")
    try:
        place = np.asarray(position, dtype=np.float64).reshape(3)
        axes = np.asarray(orientation, dtype=np.float64).reshape(2, 3)
        pixel = np.asarray(spacing, dtype=np.float64).reshape(2)
        shape = (int(header.Rows), int(header.Columns))
    except (TypeError, ValueError, AttributeError):
        return None
    lengths = np.linalg.norm(axes, axis=1, keepdims=True)
    if not np.isfinite(place).all() or not (pixel > 0).all() or not np.allclose(lengths, 1.0, atol=0.05):
        return None
    if not np.isfinite(pixel).all() or abs(float(axes[0] @ axes[1])) > _ASKEW:
        return None
    return Frame(path, index, uid, place, (axes / lengths).ravel(), pixel, shape)


def _facts(header: Dataset, index: int | None) -> SeriesFacts:
    """What a header says of its series; the number of slices is filled in later."""
    text = [str(header.get("SeriesDescription") or header.get("ProtocolName") or "")]
    types = set(_type(header, index))
    if "LOCALIZER" in types:
        text.append("localizer")
    digits = hashlib.sha256(str(header.get("SeriesInstanceUID", "")).encode()).hexdigest()[:12]
    number = _whole_number(header.get("SeriesNumber"))
    return SeriesFacts(
        label=f"series {'without number' if number is None else number} ({digits})",
        slices=1,
        text=" ".join(text),
        echo_time_ms=_number(header, index, "EchoTime", "MREchoSequence", "EffectiveEchoTime"),
        repetition_time_ms=_number(header, index, "RepetitionTime", "MRTimingAndRelatedParametersSequence"),
        inversion_time_ms=_number(header, index, "InversionTime", "MRModifierSequence", "InversionTimes"),
        techniques=_techniques(header, index),
        agent=_agent(header),
        acquired=_acquired(header),
        derived=is_derived(types),
        sequence=vendors.sequence_names(header),
        reformatted=is_reformatted(types),
        thickness_mm=_number(header, index, "SliceThickness", "PixelMeasuresSequence"),
        names=("" if number is None else str(number), str(header.get("SeriesInstanceUID", "")), digits),
    )


def _techniques(header: Dataset, index: int | None) -> tuple[str, ...]:
    """ScanningSequence's codes, or what enhanced MR says in their place."""
    value = header.get("ScanningSequence")
    if value:
        return tuple(value) if not isinstance(value, str) else (value,)
    codes = {"SPIN": "SE", "GRADIENT": "GR"}
    found = [codes.get(str(header.get("EchoPulseSequence")), "")]
    found.append("IR" if _item(header, index, "InversionRecovery", "MRModifierSequence") == "YES" else "")
    found.append("EP" if header.get("EchoPlanarPulseSequence") == "YES" else "")
    return tuple(code for code in found if code)


def _agent(header: Dataset) -> bool | None:
    """Whether a contrast agent is named."""
    if header.get("ContrastBolusAgentSequence"):
        return True
    return str(header.get("ContrastBolusAgent") or "").strip().lower() not in NO_AGENT or None


def _acquired(header: Dataset) -> str:
    """When the series was acquired, as text that sorts by time."""
    whole = str(header.get("AcquisitionDateTime") or "")
    for day, time in (("AcquisitionDate", "AcquisitionTime"), ("SeriesDate", "SeriesTime")):
        if not whole and header.get(time):
            whole = f"{header.get(day) or ''}{header.get(time)}"
    return whole


def _type(header: Dataset, index: int | None) -> tuple[str, ...]:
    """ImageType, or a frame's FrameType, in capitals."""
    value = _item(header, index, "ImageType", "MRImageFrameTypeSequence", "FrameType")
    values = [value] if isinstance(value, str) else list(value or ())
    return tuple(str(item).strip().upper() for item in values)


def _number(header: Dataset, index: int | None, keyword: str, group: str, inner: str | None = None) -> float | None:
    value = _item(header, index, keyword, group, inner)
    if not isinstance(value, (str, int, float)) and value is not None and len(value):
        value = value[0]
    try:
        number = math.nan if value in (None, "") else float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _item(header: Dataset, index: int | None, keyword: str, group: str, inner: str | None = None) -> Any:
    """An element of a classic header, or of a frame's functional group (its own, else the shared one)."""
    if index is not None:
        frames = header.get("PerFrameFunctionalGroupsSequence") or ()
        shared = header.get("SharedFunctionalGroupsSequence") or ()
        for groups in (*frames[index : index + 1], *shared[:1]):
            items = groups.get(group)
            if items and items[0].get(inner or keyword) is not None:
                return items[0].get(inner or keyword)
    return header.get(keyword)


def _is_multiframe(header: Dataset) -> bool:
    return bool(header.get("PerFrameFunctionalGroupsSequence") or header.get("SharedFunctionalGroupsSequence"))


def _triple(vector: Vector) -> tuple[float, float, float]:
    return (float(vector[0]), float(vector[1]), float(vector[2]))
