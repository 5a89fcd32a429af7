"""DICOM headers -> series: images that belong together by content, not by folder or file name."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from edgeseg.errors import StudyError
from edgeseg.readers import plain
from edgeseg.readers.headers import Header, mr_headers
from edgeseg.readers.imagetype import is_derived, is_reformatted
from edgeseg.readers.sequences import SeriesFacts
from edgeseg.readers.sidecar import NO_AGENT
from edgeseg.types import Vector

_PARALLEL, _ASKEW = 0.01, 0.1
_SAME_TIME = 0.02
"""Part by which echo and inversion times of one series may differ: scanners round them slice by slice."""
_CAPTURES = "1.2.840.10008.5.1.4.1.1.7"
"""SOP classes of secondary captures, multi-frame ones too, begin so."""


@dataclass(frozen=True)
class Moment:
    """What tells one acquisition of a place from another; None and "" where the header does not say it.

    Parameters
    ----------
    agent
        Whether a contrast agent is named.
    position
        Temporal position.
    number
        Acquisition number.
    time
        Date and time of acquisition, as text that sorts by time.
    instance
        Instance number.
    """

    agent: bool | None = None
    position: int | None = None
    number: int | None = None
    time: str = ""
    instance: int | None = None


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
    moment
        When it was acquired.
    file
        The file as it was read; None where it is not plain.
    """

    path: Path
    index: int | None
    instance_uid: str
    position_mm: Vector
    orientation: Vector
    spacing_mm: Vector
    shape: tuple[int, int]
    moment: Moment = Moment()
    file: plain.PlainFile | None = field(default=None, compare=False, repr=False)

    @cached_property
    def normal(self) -> Vector:
        """Unit vector of the slice normal, LPS."""
        normal = np.cross(self.orientation[:3], self.orientation[3:])
        return np.asarray(normal / np.linalg.norm(normal))


@dataclass(frozen=True)
class Series:
    """Frames that belong together, in no order, what is known of them, and whether each tiles a whole volume."""

    frames: tuple[Frame, ...]
    facts: SeriesFacts
    mosaic: bool = False


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
    headers, copies = mr_headers(paths)
    groups, placeless = _group(headers)
    if not groups:
        raise StudyError(
            f"{len(headers)} MR images were found and none says where it lies (Image Position, Image Orientation and "
            "Pixel Spacing are missing or not valid): export the original images, not screen captures"
        )
    notes = []
    if copies:
        verb = "file is a copy" if copies == 1 else "files are copies"
        notes.append(f"{copies} {verb} of other files of the study, by SOPInstanceUID, and left aside")
    if placeless:
        verb = "image says" if placeless == 1 else "images say"
        notes.append(f"{placeless} {verb} nothing valid of position, orientation or pixel spacing: left aside")
    return groups, tuple(notes)


def _group(headers: dict[str, Header]) -> tuple[tuple[Series, ...], int]:
    """Frames by series, image type, stack, times and orientation; and how many have no place."""
    placeless = 0
    groups: dict[tuple[Any, ...], list[tuple[list[Frame], SeriesFacts]]] = {}
    for uid, header in headers.items():
        for index in range(_frame_count(header)) if _is_multiframe(header) else (None,):
            frame = _frame(header, index, uid)
            if frame is None:
                placeless += 1
                continue
            facts = _facts(header, index)
            stack = str(_item(header, index, "StackID", "FrameContentSequence") or "")
            mosaic = "MOSAIC" in _type(header, index)
            uid_of_series = str(header.get("SeriesInstanceUID"))
            key = (mosaic, uid_of_series, facts.label, facts.derived, _type(header, index), stack)
            alike = groups.setdefault(key, [])
            for frames, first in alike:
                parallel = np.abs(frames[0].orientation - frame.orientation).max() < _PARALLEL
                if parallel and _same_times(first, facts):
                    frames.append(frame)
                    break
            else:
                alike.append(([frame], replace(facts, normal=_triple(frame.normal))))
    found = (
        Series(tuple(frames), replace(facts, slices=len(frames)), key[0])
        for key, alike in groups.items()
        for frames, facts in alike
    )
    return tuple(found), placeless


def _same_times(first: SeriesFacts, second: SeriesFacts) -> bool:
    """Whether echo and inversion times are of one series, to `_SAME_TIME`."""
    pairs = (
        (first.echo_time_ms, second.echo_time_ms),
        (first.inversion_time_ms, second.inversion_time_ms),
    )
    return all(
        a == b or (a is not None and b is not None and abs(a - b) <= _SAME_TIME * max(abs(a), abs(b))) for a, b in pairs
    )


def _frame_count(header: Header) -> int:
    """How many frames a multi-frame header has: what it says, but no more than the items that it has for them."""
    said = _whole_number(header.get("NumberOfFrames"))
    described = len(header.get("PerFrameFunctionalGroupsSequence") or (None,))
    return described if said is None else min(said, described)


def _whole_number(value: Any) -> int | None:
    """The digits that a value begins with, as a number: archives write ``4a``; None where there are none."""
    digits = re.match(r"\s*(\d{1,9})", "" if value is None else str(value))
    return int(digits[1]) if digits else None


def _frame(header: Header, index: int | None, uid: str) -> Frame | None:
    """A frame's place, or None where the header does not say it."""
    position = _item(header, index, "ImagePositionPatient", "PlanePositionSequence")
    orientation = _item(header, index, "ImageOrientationPatient", "PlaneOrientationSequence")
    spacing = _item(header, index, "PixelSpacing", "PixelMeasuresSequence")
    try:
        place = np.asarray(position, dtype=np.float64).reshape(3)
        axes = np.asarray(orientation, dtype=np.float64).reshape(2, 3)
        pixel = np.asarray(spacing, dtype=np.float64).reshape(2)
        shape = (int(header.get("Rows")), int(header.get("Columns")))
    except (TypeError, ValueError, AttributeError):
        return None
    lengths = np.linalg.norm(axes, axis=1, keepdims=True)
    if not np.isfinite(place).all() or not (pixel > 0).all() or not (np.abs(lengths - 1.0) <= 0.05).all():
        return None
    if not np.isfinite(pixel).all() or abs(float(axes[0] @ axes[1])) > _ASKEW:
        return None
    return Frame(
        header.path, index, uid, place, (axes / lengths).ravel(), pixel, shape, _moment(header, index), header.file
    )


def _moment(header: Header, index: int | None) -> Moment:
    """When a frame was acquired."""
    content = "FrameContentSequence"
    position = _item(header, index, "TemporalPositionIdentifier", content, "TemporalPositionIndex")
    number = _item(header, index, "AcquisitionNumber", content, "FrameAcquisitionNumber")
    time = _item(header, index, "AcquisitionDateTime", content, "FrameAcquisitionDateTime")
    return Moment(
        agent=_agent(header),
        position=_whole_number(position),
        number=_whole_number(number),
        time=str(time or _acquired(header)),
        instance=_whole_number(header.get("InstanceNumber")),
    )


def _facts(header: Header, index: int | None) -> SeriesFacts:
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
        derived=is_derived(types) or "MOSAIC" in types or _is_capture(header),
        sequence=header.sequence,
        reformatted=is_reformatted(types),
        thickness_mm=_number(header, index, "SliceThickness", "PixelMeasuresSequence"),
        names=("" if number is None else str(number), str(header.get("SeriesInstanceUID", "")), digits),
    )


def _is_capture(header: Header) -> bool:
    """Whether an image is a secondary capture, or in colour: no image as acquired."""
    photometric = str(header.get("PhotometricInterpretation") or "MONOCHROME2")
    samples = _whole_number(header.get("SamplesPerPixel"))
    captured = str(header.get("SOPClassUID", "")).startswith(_CAPTURES)
    return captured or samples not in (None, 1) or not photometric.startswith("MONOCHROME")


def _techniques(header: Header, index: int | None) -> tuple[str, ...]:
    """ScanningSequence's codes, or what enhanced MR says in their place."""
    value = header.get("ScanningSequence")
    if value:
        return tuple(value) if not isinstance(value, str) else (value,)
    codes = {"SPIN": "SE", "GRADIENT": "GR"}
    found = [codes.get(str(header.get("EchoPulseSequence")), "")]
    found.append("IR" if _item(header, index, "InversionRecovery", "MRModifierSequence") == "YES" else "")
    found.append("EP" if header.get("EchoPlanarPulseSequence") == "YES" else "")
    return tuple(code for code in found if code)


def _agent(header: Header) -> bool | None:
    """Whether a contrast agent is named."""
    if header.get("ContrastBolusAgentSequence"):
        return True
    return str(header.get("ContrastBolusAgent") or "").strip().lower() not in NO_AGENT or None


def _acquired(header: Header) -> str:
    """When the series was acquired, as text that sorts by time."""
    whole = str(header.get("AcquisitionDateTime") or "")
    for day, time in (("AcquisitionDate", "AcquisitionTime"), ("SeriesDate", "SeriesTime")):
        if not whole and header.get(time):
            whole = f"{header.get(day) or ''}{header.get(time)}"
    return whole


def _type(header: Header, index: int | None) -> tuple[str, ...]:
    """ImageType, or a frame's FrameType, in capitals."""
    value = _item(header, index, "ImageType", "MRImageFrameTypeSequence", "FrameType")
    values = [value] if isinstance(value, str) else list(value or ())
    return tuple(str(item).strip().upper() for item in values)


def _number(header: Header, index: int | None, keyword: str, group: str, inner: str | None = None) -> float | None:
    value = _item(header, index, keyword, group, inner)
    if not isinstance(value, (str, int, float)) and value is not None and len(value):
        value = value[0]
    try:
        number = math.nan if value in (None, "") else float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _item(header: Header, index: int | None, keyword: str, group: str, inner: str | None = None) -> Any:
    """An element of a classic header, or of a frame's functional group (its own, else the shared one)."""
    if index is not None:
        frames = header.get("PerFrameFunctionalGroupsSequence") or ()
        shared = header.get("SharedFunctionalGroupsSequence") or ()
        for groups in (*frames[index : index + 1], *shared[:1]):
            try:
                items = groups.get(group)
                value = items[0].get(inner or keyword) if items else None
            except Exception:  # malformed: pydicom raises whatever the conversion does, and the value counts as missing
                continue
            if value is not None:
                return value
    return header.get(keyword)


def _is_multiframe(header: Header) -> bool:
    return bool(header.get("PerFrameFunctionalGroupsSequence") or header.get("SharedFunctionalGroupsSequence"))


def _triple(vector: Vector) -> tuple[float, float, float]:
    return (float(vector[0]), float(vector[1]), float(vector[2]))
