"""The mask as a DICOM Segmentation object that a PACS takes, beside the FLAIR series that it was drawn on.

The same study, engine and mask give the same bytes: UIDs are hashes, and dates are the source's.
"""

from __future__ import annotations

import hashlib
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeseg.types import BoolArray, Segmentation, Study
from edgeseg.writers.report import ReportFacts
from edgeseg.writers.seg_source import SegSource, seg_source

if TYPE_CHECKING:
    import highdicom
    from pydicom import Dataset

FILE = "segmentation.dcm"
LABEL = "FLAIR abnormality"
CONTENT_LABEL = "FLAIR_ABNORMAL"
"""A code string: 16 characters at most."""


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
    dataset = to_dataset(segmentation.mask, study, facts)
    dataset.save_as(folder / FILE)
    return [FILE]


def to_dataset(mask: BoolArray, study: Study, facts: ReportFacts) -> highdicom.seg.Segmentation:
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
    import highdicom

    source = seg_source(study)
    uids = _Uids(study, source, mask, facts)
    seg = highdicom.seg.Segmentation(
        source_images=source.images,
        pixel_array=mask,
        segmentation_type="BINARY",
        segment_descriptions=[_segment(facts, uids)],
        series_instance_uid=uids.series,
        series_number=source.series_number,
        sop_instance_uid=uids.instance,
        instance_number=1,
        **_equipment(facts),
        content_description="FLAIR abnormality, for research use only",
        content_label=CONTENT_LABEL,
        content_qualification="RESEARCH",
        content_date=source.date,
        content_time=source.time,
        series_description="FLAIR abnormality (edgeseg, research only)",
        plane_positions=source.plane_positions,
        omit_empty_frames=False,
        specific_character_set="ISO_IR 192",
    )
    _finish(seg, source, uids)
    return seg


class _Uids:
    """UIDs that depend on nothing but the source, the engine and what it found."""

    def __init__(self, study: Study, source: SegSource, mask: BoolArray, facts: ReportFacts) -> None:
        import numpy as np

        engine = (facts.algorithm_name, facts.algorithm_version, facts.engine_name, facts.engine_sha256)
        base = (study.uid, source.series_uid, *source.instance_uids, *engine)
        found = hashlib.sha256(np.packbits(mask).tobytes()).hexdigest()
        self.series = _uid("series", *base)
        self.tracking = _uid("tracking", *base)
        self.dimensions = _uid("dimensions", *base)
        self.instance = _uid("instance", *base, repr(facts.threshold), repr(mask.shape), found)


def _uid(*parts: str) -> str:
    """Return the UID ``2.25.<integer>`` that stands for these parts."""
    digest = hashlib.sha256("\0".join(parts).encode()).digest()
    return f"2.25.{uuid.UUID(bytes=digest[:16], version=5).int}"


def _equipment(facts: ReportFacts) -> dict[str, Any]:
    """Name the engine as DICOM names the machine that made an object."""
    return {
        "manufacturer": "edgeseg",
        "manufacturer_model_name": _long_string(facts.engine_name),
        "software_versions": _long_string(facts.algorithm_version),
        "device_serial_number": facts.engine_sha256[:16] or "unknown",
    }


def _segment(facts: ReportFacts, uids: _Uids) -> highdicom.seg.SegmentDescription:
    """Describe the one segment: what it is, where, and who says so."""
    import highdicom
    from pydicom.sr.codedict import codes

    parameters = {"engine_sha256": facts.engine_sha256, "threshold": f"{facts.threshold:g}"}
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name=_long_string(f"{facts.algorithm_name} {facts.engine_name}"),
        family=codes.DCM.ArtificialIntelligence,
        version=_long_string(facts.algorithm_version),
        source="edgeseg",
        parameters=parameters,
    )
    return highdicom.seg.SegmentDescription(
        segment_number=1,
        segment_label=LABEL,
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.MorphologicallyAbnormalStructure,
        algorithm_type="AUTOMATIC",
        algorithm_identification=algorithm,
        tracking_uid=uids.tracking,
        tracking_id=LABEL,
        anatomic_regions=[codes.SCT.Brain],
        display_color=highdicom.color.CIELabColor.from_string("orange"),
    )


def _finish(seg: Dataset, source: SegSource, uids: _Uids) -> None:
    """Set what highdicom takes from the clock or makes up, and the name that it would warn about."""
    del seg.InstanceCreationDate, seg.InstanceCreationTime
    for equipment in seg.get("ContributingEquipmentSequence", []):
        equipment.pop("ContributionDateTime", None)
    seg.PatientName = source.patient_name
    seg.SeriesDate = source.date
    seg.SeriesTime = source.time
    seg.DimensionOrganizationSequence[0].DimensionOrganizationUID = uids.dimensions
    for index in seg.DimensionIndexSequence:
        index.DimensionOrganizationUID = uids.dimensions


def _long_string(text: str) -> str:
    """Cut to the 64 characters of a DICOM long string (LO), without its separator."""
    return text.replace("\\", "/")[:64].strip() or "unknown"
