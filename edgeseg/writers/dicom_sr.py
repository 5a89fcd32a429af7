"""Volume and largest diameter as a DICOM Structured Report: TID 1500, Measurement Report, of one volumetric finding.

It refers to the SEG that is written beside it, and to the FLAIR images that this was drawn on.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgeseg.types import Segmentation, Study
from edgeseg.writers import dicom_seg
from edgeseg.writers.diameter import Diameter, largest_diameter
from edgeseg.writers.dicom_items import encoded, set_items
from edgeseg.writers.dicom_object import (
    ABNORMAL_STRUCTURE,
    BRAIN,
    FINDING,
    Code,
    Uids,
    algorithm_name,
    algorithm_parameters,
    by_series,
    code,
    item,
    long_string,
    new_object,
    reference,
    save,
    uid,
)
from edgeseg.writers.dicom_source import DicomSource, dicom_source
from edgeseg.writers.report import NOTICE, ReportFacts

if TYPE_CHECKING:
    from pydicom import Dataset

FILE = "report.dcm"
KIND, CLASS_UID = "SR", "1.2.840.10008.5.1.4.1.1.88.33"
"""Comprehensive SR."""

_SERIES_OFFSET = 10000
_MODIFIES, _CONTEXT, _CONTAINS, _INFERRED = "HAS CONCEPT MOD", "HAS OBS CONTEXT", "CONTAINS", "INFERRED FROM"
_ML: Code = ("mL", "UCUM", "mL")
_MM: Code = ("mm", "UCUM", "mm")


def write(segmentation: Segmentation, study: Study, folder: Path, facts: ReportFacts) -> list[str]:
    """Write ``report.dcm``: volume, largest diameter and the engine that they come from.

    Parameters
    ----------
    segmentation
        Its mask is (slice, row, column), bool; with nothing marked both measurements are 0.
    study
        A DICOM study; its headers are the FLAIR series'.
    folder
        An existing folder.
    facts
        Name, version, hash and parity of what segmented.

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
    """Return the report as a DICOM dataset; parameters and errors are those of `write`."""
    source = dicom_source(study)
    uids = Uids.of(segmentation.mask, study, source, facts)
    sr = new_object(source, uids, facts, KIND, CLASS_UID, _SERIES_OFFSET)
    sr.CompletionFlag, sr.VerificationFlag, sr.PreliminaryFlag = "COMPLETE", "UNVERIFIED", "PRELIMINARY"
    sr.ReferencedPerformedProcedureStepSequence, sr.PerformedProcedureCodeSequence = [], []
    evidence = _evidence(sr.StudyInstanceUID, source, uids)
    set_items(sr, "CurrentRequestedProcedureEvidenceSequence", [evidence])
    diameter = largest_diameter(segmentation, study) or Diameter(0.0, None)
    group = _measurement_group(segmentation.volume_ml or 0.0, diameter, source, uids, facts)
    sr.update(
        _container(
            "",
            ("126000", "DCM", "Imaging Measurement Report"),
            [*_context(facts), _container(_CONTAINS, ("126010", "DCM", "Imaging Measurements"), [group])],
            template="1500",
        )
    )
    return sr


def _evidence(study_uid: str, source: DicomSource, uids: Uids) -> bytes:
    """List every object that the report speaks of: the FLAIR images and the SEG."""
    series = [
        encoded(ReferencedSOPSequence=instances, SeriesInstanceUID=series)
        for series, instances in by_series(source.images).items()
    ]
    seg = encoded(**_seg(uids))
    series.append(encoded(ReferencedSOPSequence=[seg], SeriesInstanceUID=uids.series(dicom_seg.KIND)))
    return encoded(ReferencedSeriesSequence=series, StudyInstanceUID=study_uid)


def _seg(uids: Uids) -> dict[str, str]:
    """Refer to the SEG: what the item says, by keyword."""
    return {
        "ReferencedSOPClassUID": dicom_seg.CLASS_UID,
        "ReferencedSOPInstanceUID": uids.instance(dicom_seg.KIND),
    }


def _context(facts: ReportFacts) -> list[Dataset]:
    """Say in which language, about which procedure, and that a device observed: no person is named."""
    return [
        _code(_MODIFIES, ("121049", "DCM", "Language of Content Item and Descendants"), ("en", "RFC5646", "English")),
        _code(_CONTEXT, ("121005", "DCM", "Observer Type"), ("121007", "DCM", "Device")),
        _uid(_CONTEXT, ("121012", "DCM", "Device Observer UID"), uid("device", facts.engine_name, facts.engine_sha256)),
        _text(_CONTEXT, ("121013", "DCM", "Device Observer Name"), "edgeseg"),
        _text(_CONTEXT, ("121014", "DCM", "Device Observer Manufacturer"), "edgeseg"),
        _text(_CONTEXT, ("121015", "DCM", "Device Observer Model Name"), long_string(facts.engine_name)),
        _code(
            _MODIFIES,
            ("121058", "DCM", "Procedure reported"),
            ("25056-3", "LN", "MRI unspecified body region"),
        ),
    ]


def _measurement_group(
    volume_ml: float, diameter: Diameter, source: DicomSource, uids: Uids, facts: ReportFacts
) -> Dataset:
    """Return TID 1411: which segment, what it is, by which algorithm, and its measurements."""
    segment = item(**_seg(uids), ReferencedSegmentNumber=dicom_seg.SEGMENT)
    content = [
        _text(_CONTEXT, ("112039", "DCM", "Tracking Identifier"), FINDING),
        _uid(_CONTEXT, ("112040", "DCM", "Tracking Unique Identifier"), uids.tracking),
        _code(_CONTAINS, ("276214006", "SCT", "Finding category"), ABNORMAL_STRUCTURE),
        _code(_CONTAINS, ("121071", "DCM", "Finding"), ABNORMAL_STRUCTURE),
        _image(_CONTAINS, ("121191", "DCM", "Referenced Segment"), segment),
        *(
            _uid(_CONTAINS, ("121232", "DCM", "Source series for segmentation"), series)
            for series in by_series(source.images)
        ),
        _code(_MODIFIES, ("363698007", "SCT", "Finding Site"), BRAIN),
        *_algorithm(facts),
        _number(
            ("118565006", "SCT", "Volume"),
            volume_ml,
            _ML,
            _code(
                _MODIFIES,
                ("370129005", "SCT", "Measurement Method"),
                ("126030", "DCM", "Sum of segmented voxel method for volume"),
            ),
        ),
        _long_axis(diameter, source),
        _text(_CONTAINS, ("121106", "DCM", "Comment"), NOTICE),
    ]
    return _container(_CONTAINS, ("125007", "DCM", "Measurement Group"), content, template="1411")


def _algorithm(facts: ReportFacts) -> list[Dataset]:
    """Return TID 4019: what measured."""
    return [
        _text(_MODIFIES, ("111001", "DCM", "Algorithm Name"), algorithm_name(facts)),
        _text(_MODIFIES, ("111003", "DCM", "Algorithm Version"), facts.algorithm_version),
        *(
            _text(_MODIFIES, ("111002", "DCM", "Algorithm Parameters"), parameter)
            for parameter in algorithm_parameters(facts)
        ),
    ]


def _long_axis(diameter: Diameter, source: DicomSource) -> Dataset:
    """Return the largest diameter: the long axis in the acquired plane, the maximum over the slices, and on which."""
    content = [_code(_MODIFIES, ("121401", "DCM", "Derivation"), ("56851009", "SCT", "Maximum"))]
    if diameter.slice is not None:
        measured_on = reference(source.images[diameter.slice])
        content.append(_image(_INFERRED, ("121112", "DCM", "Source of Measurement"), measured_on))
    return _number(("103339001", "SCT", "Long axis"), diameter.length_mm, _MM, *content)


def _content(relationship: str, kind: str, name: Code, **attributes: object) -> Dataset:
    """Return a content item; the root has no relationship."""
    made = item(ValueType=kind, ConceptNameCodeSequence=[code(name)], **attributes)
    if relationship:
        made.RelationshipType = relationship
    return made


def _container(relationship: str, name: Code, content: list[Dataset], template: str = "") -> Dataset:
    made = _content(relationship, "CONTAINER", name, ContinuityOfContent="SEPARATE", ContentSequence=content)
    if template:
        made.ContentTemplateSequence = [item(MappingResource="DCMR", TemplateIdentifier=template)]
    return made


def _code(relationship: str, name: Code, value: Code) -> Dataset:
    return _content(relationship, "CODE", name, ConceptCodeSequence=[code(value)])


def _text(relationship: str, name: Code, value: str) -> Dataset:
    return _content(relationship, "TEXT", name, TextValue=value)


def _uid(relationship: str, name: Code, value: str) -> Dataset:
    return _content(relationship, "UIDREF", name, UID=value)


def _image(relationship: str, name: Code, referenced: Dataset) -> Dataset:
    return _content(relationship, "IMAGE", name, ReferencedSOPSequence=[referenced])


def _number(name: Code, value: float, unit: Code, *content: Dataset) -> Dataset:
    """Return a measurement, to a thousandth of its unit."""
    measured = item(NumericValue=f"{value:.3f}", MeasurementUnitsCodeSequence=[code(unit)])
    return _content(_CONTAINS, "NUM", name, MeasuredValueSequence=[measured], ContentSequence=list(content))
