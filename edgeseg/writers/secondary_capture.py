"""Pictures for viewers that show neither SEG nor SR: every slice with its outline burnt in, as a DICOM colour image."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeseg.types import ByteArray, Segmentation, Study
from edgeseg.writers.dicom_items import encoded, set_items
from edgeseg.writers.dicom_object import (
    Uids,
    code,
    code_attributes,
    new_object,
    reference_attributes,
    save,
    series_references,
)
from edgeseg.writers.dicom_source import DicomSource, dicom_source
from edgeseg.writers.display import display_plane, window
from edgeseg.writers.overlay import slice_picture
from edgeseg.writers.report import NOTICE, ReportFacts

if TYPE_CHECKING:
    from pydicom import Dataset

FILE = "secondary-capture.dcm"
KIND, CLASS_UID = "OT", "1.2.840.10008.5.1.4.1.1.7.4"
"""Multi-frame True Color Secondary Capture."""

_SERIES_OFFSET = 11000
_LONGEST_PX = 480
_SLICE_NUMBERS = (0x0018, 0x2001)
"""Page Number Vector: what tells the frames apart."""


def write(segmentation: Segmentation, study: Study, folder: Path, facts: ReportFacts) -> list[str]:
    """Write ``secondary-capture.dcm``: one RGB frame a slice, turned as radiologists look at it, not compressed.

    A frame holds the slice's number and area, the patient's sides and the notice; no name and no date. It is a picture:
    it has no place in the patient, and nothing can be measured on it.

    Parameters
    ----------
    segmentation
        Its mask is (slice, row, column), bool.
    study
        A DICOM study; its headers are the FLAIR series'.
    folder
        An existing folder.
    facts
        Name, version and hash of what segmented.

    Returns
    -------
    list of str
        The file written, relative to the folder.

    Raises
    ------
    StudyError
        When the headers and the grid do not belong together.
    """
    save(to_dataset(segmentation, study, facts), folder / FILE)
    return [FILE]


def to_dataset(segmentation: Segmentation, study: Study, facts: ReportFacts) -> Dataset:
    """Return the pictures as a DICOM dataset; parameters and errors are those of `write`."""
    source = dicom_source(study)
    uids = Uids.of(segmentation.mask, study, source, facts)
    capture = new_object(source, uids, facts, KIND, CLASS_UID, _SERIES_OFFSET)
    _describe(capture, source)
    _set_frames(capture, _pictures(segmentation, study))
    return capture


def _describe(capture: Dataset, source: DicomSource) -> None:
    """Say how it came about, and from which images."""
    capture.ImageType = ["DERIVED", "SECONDARY"]
    capture.ConversionType = "WSD"
    capture.BodyPartExamined, capture.PatientOrientation = "BRAIN", ""
    capture.BurnedInAnnotation = "NO"  # the attribute asks for text that identifies the patient
    capture.DerivationDescription = f"Outline of FLAIR abnormality. {NOTICE}"
    capture.DerivationCodeSequence = [code(("113091", "DCM", "Pixel by pixel mask"))]
    purpose = encoded(**code_attributes(("121322", "DCM", "Source image for image processing operation")))
    drawn_on = (
        encoded(**reference_attributes(image), PurposeOfReferenceCodeSequence=[purpose]) for image in source.images
    )
    set_items(capture, "SourceImageSequence", drawn_on)
    set_items(capture, "ReferencedSeriesSequence", series_references(source.images))


def _pictures(segmentation: Segmentation, study: Study) -> ByteArray:
    """Return the frames: uint8 (slice, row, column, RGB), 0..255."""
    limits, plane = window(study.flair.voxels), display_plane(study.flair.geometry)
    return np.stack(
        [
            np.asarray(slice_picture(segmentation, study, index, plane, limits, longest_px=_LONGEST_PX))
            for index in range(len(segmentation.mask))
        ]
    )


def _set_frames(capture: Dataset, pictures: ByteArray) -> None:
    """Set pixels and what describes them; ``pictures`` is uint8 (slice, row, column, RGB)."""
    capture.NumberOfFrames, capture.Rows, capture.Columns, capture.SamplesPerPixel = pictures.shape
    capture.PhotometricInterpretation, capture.PlanarConfiguration = "RGB", 0
    capture.BitsAllocated, capture.BitsStored, capture.HighBit, capture.PixelRepresentation = 8, 8, 7, 0
    capture.FrameIncrementPointer = _SLICE_NUMBERS
    capture.PageNumberVector = list(range(1, len(pictures) + 1))
    if "LossyImageCompression" not in capture:
        capture.LossyImageCompression = "00"
    raw = pictures.tobytes()
    capture.add_new("PixelData", "OB", raw + b"\0" * (len(raw) % 2))
