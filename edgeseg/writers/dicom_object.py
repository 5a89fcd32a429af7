"""The shell of every DICOM object that edgeseg writes: identity, dates, equipment, references, and the file.

The same study, engine and mask give the same bytes: UIDs are hashes, and dates are the source's. The attributes are
written with pydicom alone: highdicom, which checks more, takes 0.4 s to load, a fifth of what a study may take from
folder to files. The tests read every object with it.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeseg.types import BoolArray, Study
from edgeseg.writers.dicom_items import encoded
from edgeseg.writers.dicom_source import DicomSource, SourceImage
from edgeseg.writers.report import ReportFacts

if TYPE_CHECKING:
    from pydicom import Dataset

FINDING = "FLAIR abnormality"
TITLE = "FLAIR abnormality (edgeseg, research only)"

Code = tuple[str, str, str]
"""Value, coding scheme, meaning."""

ABNORMAL_STRUCTURE: Code = ("49755003", "SCT", "Morphologically abnormal structure")
BRAIN: Code = ("12738006", "SCT", "Brain")

_EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"


@dataclass(frozen=True)
class Uids:
    """UIDs that depend on nothing but the source, the engine and what it found.

    Parameters
    ----------
    base
        What stands for source and engine.
    found
        What stands for the mask.
    """

    base: tuple[str, ...]
    found: tuple[str, ...]

    @classmethod
    def of(cls, mask: BoolArray, study: Study, source: DicomSource, facts: ReportFacts) -> Uids:
        """Hash what went in; ``mask`` is bool (slice, row, column)."""
        images = (f"{image.instance_uid}#{image.frame or 0}" for image in source.images)
        engine = (facts.algorithm_name, facts.algorithm_version, facts.engine_name, facts.engine_sha256, facts.parity)
        marked = hashlib.sha256(np.packbits(mask).tobytes()).hexdigest()
        return cls((study.uid, *images, *engine), (repr(facts.threshold), repr(mask.shape), marked))

    def series(self, kind: str) -> str:
        """Return the UID of a series of results: SEG, SR or SC."""
        return uid("series", kind, *self.base)

    def instance(self, kind: str) -> str:
        """Return the UID of the object of this kind: another mask, another object."""
        return uid("instance", kind, *self.base, *self.found)

    @property
    def tracking(self) -> str:
        """The UID under which SEG and SR speak of the same finding."""
        return uid("tracking", *self.base)


def uid(*parts: str) -> str:
    """Return the UID ``2.25.<integer>`` that stands for these parts."""
    digest = hashlib.sha256("\0".join(parts).encode()).digest()
    return f"2.25.{uuid.UUID(bytes=digest[:16], version=5).int}"


def new_object(source: DicomSource, uids: Uids, facts: ReportFacts, kind: str, class_uid: str, offset: int) -> Dataset:
    """Return a dataset with what all results have: patient, study, series, equipment, dates.

    Parameters
    ----------
    source, uids, facts
        Of the study and of what segmented it.
    kind
        Modality of the series: SEG, SR, OT.
    class_uid
        SOP class.
    offset
        The series' number is the source's plus this.
    """
    from pydicom import Dataset

    made = Dataset()
    made.update(source.shared)
    made.SpecificCharacterSet = "ISO_IR 192"
    made.SOPClassUID, made.SOPInstanceUID = class_uid, uids.instance(kind)
    made.SeriesInstanceUID, made.Modality = uids.series(kind), kind
    made.SeriesNumber, made.InstanceNumber = source.result_number(offset), 1
    made.SeriesDescription = TITLE
    made.SeriesDate = made.ContentDate = source.date
    made.SeriesTime = made.ContentTime = source.time
    made.Manufacturer = "edgeseg"
    made.ManufacturerModelName = long_string(facts.engine_name)
    made.SoftwareVersions = long_string(facts.algorithm_version)
    made.DeviceSerialNumber = facts.engine_sha256[:16] or "unknown"
    return made


def save(made: Dataset, path: Path) -> None:
    """Write a DICOM file, explicit little endian; its meta information names edgeseg alone."""
    from pydicom.dataset import FileMetaDataset

    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = _EXPLICIT_LITTLE_ENDIAN
    made.file_meta.ImplementationClassUID = uid("edgeseg")
    made.file_meta.ImplementationVersionName = "EDGESEG"
    made.save_as(path, enforce_file_format=True)


def code(concept: Code) -> Dataset:
    """Return the item of a code sequence."""
    return item(**code_attributes(concept))


def code_attributes(concept: Code) -> dict[str, str]:
    """Return what the item of a code sequence says, by keyword."""
    return {"CodeValue": concept[0], "CodingSchemeDesignator": concept[1], "CodeMeaning": concept[2]}


def item(**attributes: object) -> Dataset:
    """Return the item of a sequence."""
    from pydicom import Dataset

    made = Dataset()
    for keyword, value in attributes.items():
        setattr(made, keyword, value)
    return made


def reference(image: SourceImage) -> Dataset:
    """Return the item that refers to a slice's image, or to its frame of a multi-frame instance."""
    return item(**reference_attributes(image))


def reference_attributes(image: SourceImage) -> dict[str, str | int]:
    """Return what such an item says, by keyword."""
    frame = {} if image.frame is None else {"ReferencedFrameNumber": image.frame}
    return {"ReferencedSOPClassUID": image.class_uid, "ReferencedSOPInstanceUID": image.instance_uid, **frame}


def by_series(images: Iterable[SourceImage]) -> dict[str, list[bytes]]:
    """Return an encoded reference to each instance, once, by its series' UID."""
    found: dict[str, dict[str, bytes]] = {}
    for image in images:
        instance = encoded(ReferencedSOPClassUID=image.class_uid, ReferencedSOPInstanceUID=image.instance_uid)
        found.setdefault(image.series_uid, {}).setdefault(image.instance_uid, instance)
    return {series: list(instances.values()) for series, instances in found.items()}


def series_references(images: Iterable[SourceImage]) -> list[bytes]:
    """Return the encoded items of a Referenced Series Sequence."""
    return [
        encoded(ReferencedInstanceSequence=instances, SeriesInstanceUID=series)
        for series, instances in by_series(images).items()
    ]


def algorithm_name(facts: ReportFacts) -> str:
    """Return what DICOM calls the algorithm: edgeseg and the engine."""
    return long_string(f"{facts.algorithm_name} {facts.engine_name}")


def algorithm_parameters(facts: ReportFacts) -> list[str]:
    """Return what identifies the engine beyond its name, as ``key=value``."""
    return [f"engine_sha256={facts.engine_sha256}", f"parity={facts.parity}", f"threshold={facts.threshold:g}"]


def long_string(text: str) -> str:
    """Cut to the 64 characters of a DICOM long string (LO), without its separator."""
    return text.replace("\\", "/")[:64].strip() or "unknown"
