"""What DICOM results take over from the FLAIR series, cleaned: everything else stays behind.

Headers come as scanners and archives leave them: attributes missing, dates of zeros, an age of ``42``. A validator
blames the result for each one that is copied, so only a few attributes are, each when its value is valid.
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
    from pydicom import Dataset

_REQUIRED = ("PatientID", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate", "StudyTime")
_REQUIRED_NAMES = ("PatientName", "ReferringPhysicianName")
_OPTIONAL = ("IssuerOfPatientID", "PatientAge", "StudyDescription")
_LOSSY = ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod")
_DATES = ("Content", "Series", "Acquisition", "Study")
_NO_DATE, _NO_TIME = "19000101", "000000"
_LARGEST_NUMBER = 2**31 - 1
_REMEDY = "ask for other formats, such as --format nifti"


@dataclass(frozen=True)
class SourceImage:
    """One slice of the FLAIR series as DICOM refers to it.

    Parameters
    ----------
    class_uid, instance_uid, series_uid
        Of the image, or of the multi-frame instance that holds it.
    frame
        Number of the frame, from 1; None for a single image.
    position
        ImagePositionPatient as the file spells it: mm, LPS.
    """

    class_uid: str
    instance_uid: str
    series_uid: str
    frame: int | None
    position: Any


@dataclass(frozen=True)
class DicomSource:
    """The FLAIR series, as its results need it.

    Parameters
    ----------
    shared
        Patient, study and, where the images were compressed with a loss, how: every result has these attributes.
    images
        One for each slice of the mask, in its order.
    frame_of_reference_uid
        Of the series; made up from its UID where it was taken out.
    orientation, pixel_spacing, slice_thickness, slice_distance
        As DICOM spells them; the distance is the geometry's, since headers often get it wrong.
    series_number
        Of the series; 0 where it has none.
    date, time
        When the source was made; 1900-01-01 where it does not say, since DICOM demands a date.
    """

    shared: Dataset
    images: tuple[SourceImage, ...]
    frame_of_reference_uid: str
    orientation: Any
    pixel_spacing: Any
    slice_thickness: Any
    slice_distance: str
    series_number: int
    date: str
    time: str

    def result_number(self, offset: int) -> int:
        """Return the number of a series of results: the source's plus an offset, as far as DICOM's integers go."""
        return max(0, min(self.series_number, _LARGEST_NUMBER - offset)) + offset


def dicom_source(study: Study) -> DicomSource:
    """Return what results take over from the study's FLAIR headers, which are left as they are.

    Parameters
    ----------
    study
        A DICOM study. Its headers may be single images or multi-frame instances, in any order, and hold more images
        than the slices.

    Raises
    ------
    StudyError
        When headers, geometry or a UID are missing, or a slice lies where no header says.
    """
    geometry = study.flair.geometry
    if not study.headers or geometry is None:
        raise StudyError(f"the study {study.name} has no DICOM headers, and DICOM results need them: {_REMEDY}")
    first = study.headers[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's remarks on values that are left out here anyway
        shared = _shared(first)
        date, time = _date_and_time(first)
        number = _number(first)
    measures = _functional_group(first, "PixelMeasuresSequence")
    distance = _decimal(float(geometry.spacing_mm[0]))
    return DicomSource(
        shared=shared,
        images=_by_slice(_images(study), geometry, study),
        frame_of_reference_uid=first.get("FrameOfReferenceUID") or _made_up_frame_of_reference(first),
        orientation=_functional_group(first, "PlaneOrientationSequence").ImageOrientationPatient,
        pixel_spacing=measures.PixelSpacing,
        slice_thickness=measures.get("SliceThickness") or distance,
        slice_distance=distance,
        series_number=number,
        date=date,
        time=time,
    )


def _images(study: Study) -> list[SourceImage]:
    """Return every image that says where it lies: single images, and the frames of multi-frame instances."""
    images = []
    for header in study.headers:
        uids = (
            str(header.get("SOPClassUID") or ""),
            str(header.get("SOPInstanceUID") or ""),
            str(header.get("SeriesInstanceUID") or ""),
        )
        if not all(uids):
            raise StudyError(
                f"the FLAIR series of study {study.name} has an image without SOP Instance UID, SOP Class UID or "
                f"Series Instance UID, and DICOM results refer to each image by them: {_REMEDY}"
            )
        frames = header.get("PerFrameFunctionalGroupsSequence")
        places: list[tuple[int | None, Any]] = [(None, header)]
        if frames is not None:
            places = [
                (number, (frame.get("PlanePositionSequence") or [{}])[0]) for number, frame in enumerate(frames, 1)
            ]
        images += [
            SourceImage(*uids, number, position)
            for number, place in places
            if _is_position(position := place.get("ImagePositionPatient"))
        ]
    return images


def _is_position(value: Any) -> bool:
    try:
        return bool(np.isfinite(np.asarray(value, dtype=np.float64).reshape(3)).all())
    except (TypeError, ValueError):
        return False


def _by_slice(images: Sequence[SourceImage], geometry: Geometry, study: Study) -> tuple[SourceImage, ...]:
    """Find the image of each slice by where it lies, not by where it stands in the file."""
    indices = np.zeros((study.flair.voxels.shape[0], 3))
    indices[:, 0] = np.arange(len(indices))
    slices: Vector = geometry.position_mm(indices)
    positions = np.array([image.position for image in images], dtype=np.float64).reshape(-1, 3)
    if not len(positions):
        raise StudyError(
            f"no image of study {study.name} says where it lies (Image Position), and DICOM results need it: {_REMEDY}"
        )
    distances = np.linalg.norm(slices[:, None, :] - positions[None, :, :], axis=2)
    nearest = distances.argmin(axis=1)
    far = distances.min(axis=1) > geometry.spacing_mm[0] / 2
    if far.any() or len(set(nearest.tolist())) != len(nearest):
        index = int(far.argmax())
        raise StudyError(
            f"slice {index + 1} of study {study.name} lies {distances[index].min():.1f} mm from the nearest position "
            f"that the FLAIR headers give, so DICOM results would be misplaced: {_REMEDY}"
        )
    return tuple(images[index] for index in nearest)


def _shared(header: Any) -> Dataset:
    """Copy what all objects of a study share, each attribute where it is valid, and how the source was compressed."""
    from pydicom import Dataset

    shared = Dataset()
    for keyword in (*_REQUIRED, *_REQUIRED_NAMES):
        setattr(shared, keyword, _valid_text(header, keyword))
    for keyword in _OPTIONAL:
        if text := _valid_text(header, keyword):
            setattr(shared, keyword, text)
    if shared.PatientSex not in ("M", "F", "O"):
        shared.PatientSex = ""
    shared.StudyInstanceUID = header.StudyInstanceUID
    for keyword in _LOSSY:
        if header.get("LossyImageCompression") == "01" and header.get(keyword):
            setattr(shared, keyword, header.get(keyword))
    return shared


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
    try:
        return int(header.SeriesNumber)
    except (AttributeError, TypeError, ValueError):
        return 0


def _decimal(value: float) -> str:
    """Spell a number as DICOM's decimal string, of 16 characters at most."""
    from pydicom.valuerep import format_number_as_ds

    return str(format_number_as_ds(value))


def _functional_group(header: Any, name: str) -> Any:
    """Return what holds measures or orientation: a single image itself, or the item for all frames or the first."""
    frames = header.get("PerFrameFunctionalGroupsSequence")
    if frames is None:
        return header
    shared = header.get("SharedFunctionalGroupsSequence")
    for place in ([shared[0]] if shared else []) + [frames[0]]:
        if name in place:
            return place[name].value[0]
    raise StudyError(f"the FLAIR instance {header.SOPInstanceUID} has no {name}, and DICOM results need it: {_REMEDY}")
