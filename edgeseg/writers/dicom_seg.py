"""The mask as a DICOM Segmentation object that a PACS takes, beside the FLAIR series that it was drawn on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeseg.types import BoolArray, Segmentation, Study
from edgeseg.writers.dicom_items import encoded, set_items
from edgeseg.writers.dicom_object import (
    ABNORMAL_STRUCTURE,
    BRAIN,
    FINDING,
    Uids,
    algorithm_name,
    algorithm_parameters,
    code,
    code_attributes,
    item,
    long_string,
    new_object,
    reference_attributes,
    save,
    series_references,
    uid,
)
from edgeseg.writers.dicom_source import DicomSource, dicom_source
from edgeseg.writers.report import ReportFacts

if TYPE_CHECKING:
    from pydicom import Dataset

FILE = "segmentation.dcm"
CONTENT_LABEL = "FLAIR_ABNORMAL"
"""A code string: 16 characters at most."""

KIND, CLASS_UID = "SEG", "1.2.840.10008.5.1.4.1.1.66.4"
SEGMENT = 1
"""Number of the one segment."""

_SERIES_OFFSET = 9000
_AMBER_CIELAB = [51180, 38564, 53613]
"""The pictures' outline, sRGB (255, 176, 0), in CIELab (D50) as DICOM scales it."""
_SEGMENT_NUMBER, _POSITION = ((0x0062, 0x000B), (0x0062, 0x000A)), ((0x0020, 0x0032), (0x0020, 0x9113))
"""Attributes that frames are ordered by, each with the functional group that holds it."""


def write(segmentation: Segmentation, study: Study, folder: Path, facts: ReportFacts) -> list[str]:
    """Write ``segmentation.dcm``: a BINARY DICOM SEG on the FLAIR series' own frame of reference.

    Parameters
    ----------
    segmentation
        Its mask is (slice, row, column), bool; it may be empty.
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
    save(to_dataset(segmentation.mask, study, facts), folder / FILE)
    return [FILE]


def to_dataset(mask: BoolArray, study: Study, facts: ReportFacts) -> Dataset:
    """Return the mask as a DICOM SEG dataset.

    Every slice of the grid becomes a frame, empty ones too: readers that take the frames for a stack of equal
    spacing (ITK's among them) would otherwise put everything behind a gap into the wrong place.

    Parameters
    ----------
    mask
        Shape (slice, row, column), bool, on the FLAIR grid.
    study, facts
        As for `write`, which raises the same errors.
    """
    source = dicom_source(study)
    uids = Uids.of(mask, study, source, facts)
    seg = new_object(source, uids, facts, KIND, CLASS_UID, _SERIES_OFFSET)
    _describe(seg, source)
    seg.SegmentSequence = [_segment(facts, uids)]
    _set_pixels(seg, mask)
    _set_frames(seg, source, uid("dimensions", *uids.base))
    return seg


def _describe(seg: Dataset, source: DicomSource) -> None:
    """Say what it is, where it lies and what it was drawn on."""
    seg.ImageType = ["DERIVED", "PRIMARY"]
    seg.ContentLabel, seg.ContentDescription = CONTENT_LABEL, "FLAIR abnormality, for research use only"
    seg.ContentCreatorName, seg.ContentQualification = "", "RESEARCH"
    seg.FrameOfReferenceUID, seg.PositionReferenceIndicator = source.frame_of_reference_uid, ""
    set_items(seg, "ReferencedSeriesSequence", series_references(source.images))


def _segment(facts: ReportFacts, uids: Uids) -> Dataset:
    """Describe the one segment: what it is, where, and who says so."""
    algorithm = item(
        AlgorithmFamilyCodeSequence=[code(("123110", "DCM", "Artificial Intelligence"))],
        AlgorithmName=algorithm_name(facts),
        AlgorithmVersion=long_string(facts.algorithm_version),
        AlgorithmParameters=", ".join(algorithm_parameters(facts)),
        AlgorithmSource="edgeseg",
    )
    return item(
        SegmentNumber=SEGMENT,
        SegmentLabel=FINDING,
        SegmentAlgorithmType="AUTOMATIC",
        SegmentAlgorithmName=algorithm_name(facts),
        SegmentationAlgorithmIdentificationSequence=[algorithm],
        SegmentedPropertyCategoryCodeSequence=[code(ABNORMAL_STRUCTURE)],
        SegmentedPropertyTypeCodeSequence=[code(ABNORMAL_STRUCTURE)],
        AnatomicRegionSequence=[code(BRAIN)],
        TrackingID=FINDING,
        TrackingUID=uids.tracking,
        RecommendedDisplayCIELabValue=_AMBER_CIELAB,
    )


def _set_pixels(seg: Dataset, mask: BoolArray) -> None:
    """Pack the mask: one bit a voxel, the first in the lowest bit, frames without a gap between them."""
    seg.SegmentationType, seg.SegmentsOverlap = "BINARY", "NO"
    seg.NumberOfFrames, seg.Rows, seg.Columns = mask.shape
    seg.SamplesPerPixel, seg.PhotometricInterpretation = 1, "MONOCHROME2"
    seg.BitsAllocated, seg.BitsStored, seg.HighBit, seg.PixelRepresentation = 1, 1, 0, 0
    if "LossyImageCompression" not in seg:
        seg.LossyImageCompression = "00"
    packed = np.packbits(mask, axis=None, bitorder="little").tobytes()
    seg.add_new("PixelData", "OB", packed + b"\0" * (len(packed) % 2))


def _set_frames(seg: Dataset, source: DicomSource, dimensions_uid: str) -> None:
    """Say what all frames share, and of each where it lies and which image it was drawn on."""
    seg.DimensionOrganizationSequence = [item(DimensionOrganizationUID=dimensions_uid)]
    seg.DimensionIndexSequence = [
        item(DimensionOrganizationUID=dimensions_uid, DimensionIndexPointer=pointer, FunctionalGroupPointer=group)
        for pointer, group in (_SEGMENT_NUMBER, _POSITION)
    ]
    measures = item(
        PixelSpacing=source.pixel_spacing,
        SliceThickness=source.slice_thickness,
        SpacingBetweenSlices=source.slice_distance,
    )
    seg.SharedFunctionalGroupsSequence = [
        item(
            PixelMeasuresSequence=[measures],
            PlaneOrientationSequence=[item(ImageOrientationPatient=source.orientation)],
            SegmentIdentificationSequence=[item(ReferencedSegmentNumber=SEGMENT)],
        )
    ]
    set_items(seg, "PerFrameFunctionalGroupsSequence", _frames(source))


def _frames(source: DicomSource) -> Iterator[bytes]:
    purpose = encoded(**code_attributes(("121322", "DCM", "Source image for image processing operation")))
    derivation = encoded(**code_attributes(("113076", "DCM", "Segmentation")))
    for number, image in enumerate(source.images, 1):
        drawn_on = encoded(
            **reference_attributes(image),
            SpatialLocationsPreserved="YES",
            PurposeOfReferenceCodeSequence=[purpose],
        )
        yield encoded(
            FrameContentSequence=[encoded(DimensionIndexValues=[SEGMENT, number])],
            PlanePositionSequence=[encoded(ImagePositionPatient=image.position)],
            DerivationImageSequence=[encoded(SourceImageSequence=[drawn_on], DerivationCodeSequence=[derivation])],
        )
