"""What a DICOM SEG takes over from the FLAIR series, cleaned: everything else stays behind.

Headers come as scanners and archives leave them: attributes missing, dates of zeros, an age of ``42``. A validator
blames the SEG for each one that is copied, so only a few attributes are, each when its value is valid.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeseg.errors import StudyError
from edgeseg.types import Geometry, Study, Vector

if TYPE_CHECKING:
    import highdicom
    from pydicom import Dataset

_REQUIRED = ("PatientID", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate", "StudyTime")
_REQUIRED_NAMES = ("ReferringPhysicianName",)
_OPTIONAL = ("IssuerOfPatientID", "PatientAge", "StudyDescription")
_DATES = ("Content", "Series", "Acquisition", "Study")
_NO_DATE, _NO_TIME = "19000101", "000000"
_SERIES_OFFSET = 9000
_REMEDY = "ask for another format, such as --format nifti"


@dataclass(frozen=True)
class SegSource:
    """The FLAIR series, as highdicom wants it.

    Parameters
    ----------
    images
        Datasets without pixel data: one for each slice, in the mask's order, or a single multi-frame one.
    plane_positions
        Where each slice of the mask lies, in its order; None where the images' own order says it.
    series_uid, instance_uids
        Of the source.
    series_number
        Of the SEG: the source's plus 9000.
    date, time
        When the source was made; 1900-01-01 where it does not say, since DICOM demands a date.
    patient_name
        Kept apart: highdicom warns about a name of one part.
    """

    images: list[Dataset]
    plane_positions: list[highdicom.PlanePositionSequence] | None
    series_uid: str
    instance_uids: tuple[str, ...]
    series_number: int
    date: str
    time: str
    patient_name: str


def seg_source(study: Study) -> SegSource:
    """Return what a SEG takes over from the study's FLAIR headers, which are left as they are.

    Parameters
    ----------
    study
        A DICOM study. Frames of a multi-frame header may be in any order, and more than the slices.

    Raises
    ------
    StudyError
        When headers or geometry are missing, the series is spread over several multi-frame instances, an image or a
        frame does not say where it lies, or a slice lies where no header says.
    """
    geometry = study.flair.geometry
    if not study.headers or geometry is None:
        raise StudyError(
            f"the study {study.name} has no DICOM headers, and a DICOM SEG needs them: ask for the other formats"
        )
    first = study.headers[0]
    _check_kind(study)
    multi_frame = "PerFrameFunctionalGroupsSequence" in first
    positions = _frame_positions(first) if multi_frame else _slice_positions(study.headers)
    order = _order(positions, geometry, study)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's remarks on values that are left out here anyway
        base = _shared_attributes(first)
        date, time = _date_and_time(first)
        name = str(first.get("PatientName", "") or "")
        number = _number(first)
    images = [_multi_frame(base, first, geometry)] if multi_frame else _images(base, study.headers, order, geometry)
    return SegSource(
        images=images,
        plane_positions=_plane_positions(positions[order]) if multi_frame else None,
        series_uid=str(first.SeriesInstanceUID),
        instance_uids=tuple(str(image.SOPInstanceUID) for image in images),
        series_number=number,
        date=date,
        time=time,
        patient_name=name,
    )


def _check_kind(study: Study) -> None:
    """Refuse what highdicom cannot refer to: several multi-frame instances, and instances without a UID."""
    if len(study.headers) > 1 and any("PerFrameFunctionalGroupsSequence" in header for header in study.headers):
        raise StudyError(
            f"the FLAIR series of study {study.name} is spread over {len(study.headers)} multi-frame instances, and a "
            f"DICOM SEG is made of one, or of single images: {_REMEDY}"
        )
    if not all(header.get("SOPInstanceUID") for header in study.headers):
        raise StudyError(
            f"the FLAIR series of study {study.name} has an image without SOP Instance UID, and a DICOM SEG refers to "
            f"each image by it: {_REMEDY}"
        )


def _slice_positions(headers: Sequence[Any]) -> Vector:
    """Return the headers' positions, (header, 3), mm, LPS."""
    return _stacked([header.get("ImagePositionPatient") for header in headers], "image")


def _frame_positions(header: Any) -> Vector:
    """Return the positions of all frames of a multi-frame header, (frame, 3), mm, LPS."""
    places = [(frame.get("PlanePositionSequence") or [None])[0] for frame in header.PerFrameFunctionalGroupsSequence]
    return _stacked([None if place is None else place.get("ImagePositionPatient") for place in places], "frame")


def _stacked(positions: Sequence[Any], what: str) -> Vector:
    """Return positions as an array (position, 3), mm, where each is one."""
    for number, position in enumerate(positions, 1):
        try:
            np.asarray(position, dtype=np.float64).reshape(3)
        except (TypeError, ValueError):
            raise StudyError(
                f"{what} {number} of {len(positions)} of the FLAIR series does not say where it lies (Image Position), "
                f"and a DICOM SEG needs it: {_REMEDY}"
            ) from None
    return np.asarray(positions, dtype=np.float64)


def _order(positions: Vector, geometry: Geometry, study: Study) -> list[int]:
    """Find the header or frame of each slice by where it lies, not by where it stands in the file."""
    slices = np.zeros((study.flair.voxels.shape[0], 3))
    slices[:, 0] = np.arange(len(slices))
    distances = np.linalg.norm(geometry.position_mm(slices)[:, None, :] - positions[None, :, :], axis=2)
    nearest = distances.argmin(axis=1)
    far = distances.min(axis=1) > geometry.spacing_mm[0] / 2
    if far.any() or len(set(nearest.tolist())) != len(nearest):
        index = int(far.argmax())
        raise StudyError(
            f"slice {index + 1} of study {study.name} lies {distances[index].min():.1f} mm from the nearest position "
            f"that the FLAIR headers give, so a DICOM SEG would be misplaced: ask for the other formats"
        )
    return [int(index) for index in nearest]


def _shared_attributes(header: Any) -> Dataset:
    """Copy what all images of a series share: patient, study, series, frame of reference, compression."""
    from pydicom import Dataset

    base = Dataset()
    for keyword in (*_REQUIRED, *_REQUIRED_NAMES):
        setattr(base, keyword, _valid_text(header, keyword))
    for keyword in _OPTIONAL:
        if text := _valid_text(header, keyword):
            setattr(base, keyword, text)
    if base.PatientSex not in ("M", "F", "O"):
        base.PatientSex = ""
    base.PatientName = ""
    base.Modality = "MR"
    for keyword in ("SOPClassUID", "StudyInstanceUID", "SeriesInstanceUID", "Rows", "Columns"):
        setattr(base, keyword, getattr(header, keyword))
    base.FrameOfReferenceUID = header.get("FrameOfReferenceUID") or _made_up_frame_of_reference(header)
    base.PositionReferenceIndicator = ""  # free text, which may say anything
    for keyword in ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"):
        if header.get("LossyImageCompression") == "01" and header.get(keyword):
            setattr(base, keyword, header.get(keyword))
    return base


def _made_up_frame_of_reference(header: Any) -> str:
    """Return a frame of reference for a series whose own was taken out: DICOM demands one."""
    digest = hashlib.sha256(f"frame of reference\0{header.SeriesInstanceUID}".encode()).digest()
    return f"2.25.{int.from_bytes(digest[:16], 'big')}"


def _valid_text(header: Any, keyword: str) -> str:
    """Return an attribute's text where DICOM allows its value, else nothing."""
    from pydicom import config
    from pydicom.valuerep import PersonName, validate_value

    try:
        element = header[keyword]
        value = element.value
        if not isinstance(value, str | PersonName):
            return ""
        validate_value(element.VR, value, config.RAISE)
    except (KeyError, ValueError, TypeError, NotImplementedError):
        return ""
    return str(value)


def _date_and_time(header: Any) -> tuple[str, str]:
    """Return when the source was made: the first of its dates that is valid, and the time that goes with it."""
    for stem in _DATES:
        if date := _valid_text(header, f"{stem}Date"):
            return date, _valid_text(header, f"{stem}Time") or _NO_TIME
    return _NO_DATE, _NO_TIME


def _number(header: Any) -> int:
    """Return the SEG's series number."""
    try:
        number = int(header.SeriesNumber)
    except (AttributeError, TypeError, ValueError):
        number = 0
    return _SERIES_OFFSET + max(0, min(number, 2**31 - 1 - _SERIES_OFFSET))


def _images(base: Dataset, headers: Sequence[Any], order: Sequence[int], geometry: Geometry) -> list[Dataset]:
    """Return one dataset for each slice, in the mask's order."""
    from copy import deepcopy

    first = headers[order[0]]
    images = []
    for index in order:
        header, image = headers[index], deepcopy(base)
        image.SOPInstanceUID = header.SOPInstanceUID
        image.ImagePositionPatient = header.ImagePositionPatient
        image.ImageOrientationPatient = first.ImageOrientationPatient
        _set_measures(image, first, geometry)
        images.append(image)
    return images


def _set_measures(target: Dataset, source: Any, geometry: Geometry) -> None:
    """Set pixel spacing, thickness and slice distance: the last one by geometry, since headers often get it wrong."""
    from pydicom.valuerep import format_number_as_ds

    distance = format_number_as_ds(float(geometry.spacing_mm[0]))
    target.PixelSpacing = source.PixelSpacing
    target.SliceThickness = source.get("SliceThickness") or distance
    target.SpacingBetweenSlices = distance


def _multi_frame(base: Dataset, header: Any, geometry: Geometry) -> Dataset:
    """Return the multi-frame source with its pixel measures and orientation where highdicom looks: shared."""
    from pydicom import Dataset

    shared, measures, orientation = Dataset(), Dataset(), Dataset()
    _set_measures(measures, _functional_group(header, "PixelMeasuresSequence"), geometry)
    axes = _functional_group(header, "PlaneOrientationSequence")
    orientation.ImageOrientationPatient = axes.ImageOrientationPatient
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [orientation]
    base.SOPInstanceUID = header.SOPInstanceUID
    base.NumberOfFrames = len(header.PerFrameFunctionalGroupsSequence)
    base.SharedFunctionalGroupsSequence = [shared]
    base.PerFrameFunctionalGroupsSequence = []
    for frame in header.PerFrameFunctionalGroupsSequence:
        item = Dataset()
        item.PlanePositionSequence = frame.PlanePositionSequence
        base.PerFrameFunctionalGroupsSequence.append(item)
    return base


def _functional_group(header: Any, name: str) -> Any:
    """Return the item of a functional group: shared by all frames, or the first frame's."""
    shared = header.get("SharedFunctionalGroupsSequence")
    for place in ([shared[0]] if shared else []) + [header.PerFrameFunctionalGroupsSequence[0]]:
        if name in place:
            return place[name].value[0]
    raise StudyError(
        f"the FLAIR instance {header.SOPInstanceUID} has no {name}, and a DICOM SEG needs it: ask for the other formats"
    )


def _plane_positions(positions: Vector) -> list[highdicom.PlanePositionSequence]:
    """Return positions (slice, 3) in mm, LPS, as highdicom takes them."""
    import highdicom

    return [highdicom.PlanePositionSequence("PATIENT", position.tolist()) for position in positions]
