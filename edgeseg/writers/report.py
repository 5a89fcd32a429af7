"""``report.json``: what was found, by which engine, from which images, and how long it took.

No patient name, identifier or birth date, unless `ReportFacts.identified` says so: a study is named by its folder or by
the hash of its UID.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeseg import __version__
from edgeseg.types import CHANNELS, Segmentation, Study
from edgeseg.writers.diameter import largest_diameter

FILE = "report.json"
SCHEMA_VERSION = 1
NOTICE = "Non-commercial research use only. Not a medical device."

_WHO = {
    "patient_name": "PatientName",
    "patient_id": "PatientID",
    "birth_date": "PatientBirthDate",
    "accession_number": "AccessionNumber",
    "study_date": "StudyDate",
    "study_description": "StudyDescription",
    "series_description": "SeriesDescription",
}


@dataclass(frozen=True)
class ReportFacts:
    """What the writers have to say of everything outside study and segmentation.

    Parameters
    ----------
    engine
        ``name``, ``sha256`` (of the network file), ``precision``, ``inference_precision``, ``runtime``,
        ``runtime_version``, ``device``; what else is there is reported behind these.
    preprocessing
        How voxels became network input.
    threshold
        Probability at and above which a voxel is marked.
    versions
        Package -> version.
    algorithm_name, algorithm_version
        Who segmented, for DICOM's algorithm identification.
    warnings
        Sentences that a person should read, besides the study's own.
    fingerprint
        Hash of what the results hang on, by which a later run knows them as done.
    identified
        Whether the report says who the patient is.
    """

    engine: dict[str, Any]
    preprocessing: dict[str, Any]
    threshold: float
    versions: dict[str, str] = field(default_factory=dict)
    algorithm_name: str = "edgeseg"
    algorithm_version: str = __version__
    warnings: tuple[str, ...] = ()
    fingerprint: str = ""
    identified: bool = False

    @property
    def engine_name(self) -> str:
        """Name of the engine."""
        return str(self.engine.get("name", "unknown"))

    @property
    def engine_sha256(self) -> str:
        """SHA-256 of the network file, in hex; empty where it is not known."""
        return str(self.engine.get("sha256", ""))

    @property
    def parity(self) -> str:
        """Whether the engine's masks are known to be the PyTorch model's: ``passed`` or ``unverified``."""
        return str(self.engine.get("parity", "unverified"))


def write(
    segmentation: Segmentation,
    study: Study,
    folder: Path,
    facts: ReportFacts,
    files: Sequence[str] = (),
    write_ms: float | None = None,
) -> list[str]:
    """Write ``report.json``.

    Parameters
    ----------
    segmentation, study, facts
        What is reported.
    folder
        An existing folder.
    files
        What the other writers wrote, relative to the folder.
    write_ms
        How long that took, in ms.

    Returns
    -------
    list of str
        The file written, relative to the folder.
    """
    content = to_dict(segmentation, study, facts, files=[*files, FILE], write_ms=write_ms)
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / FILE).write_text(text + "\n", encoding="utf-8")
    return [FILE]


def to_dict(
    segmentation: Segmentation,
    study: Study,
    facts: ReportFacts,
    files: Sequence[str] = (),
    write_ms: float | None = None,
) -> dict[str, Any]:
    """Return the report as plain JSON values, keys in a fixed order.

    Volumes are in ml, diameters in mm, areas in mm2 or pixels of the FLAIR grid, times in ms. What the files do not
    say is null.
    """
    timings = dict(segmentation.timings_ms)
    if write_ms is not None:
        timings["write"] = write_ms
    diameter = largest_diameter(segmentation, study)
    report: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "edgeseg_version": __version__,
        "notice": NOTICE,
        "study": {"name": study.name, "source": study.source, "grid": _grid(study)},
        **({"identified": _identified(study)} if facts.identified else {}),
        "finding": "FLAIR abnormality",
        "volume_ml": _rounded(segmentation.volume_ml, 3),
        "largest_diameter_mm": _rounded(None if diameter is None else diameter.length_mm, 3),
        "marked_slices": sum(area > 0 for area in segmentation.slice_area_px),
        "engine": _engine(facts.engine),
        "threshold": facts.threshold,
        "channels": {name: study.channels[name] for name in CHANNELS if name in study.channels},
        "selection": {"rules": study.rules or None, "considered": study.considered},
        "preprocessing": facts.preprocessing,
        "slices": _slices(segmentation, study),
        "timings_ms": {step: _rounded(duration, 1) for step, duration in timings.items()},
        "versions": dict(sorted(facts.versions.items())),
        "warnings": list(dict.fromkeys([*study.warnings, *facts.warnings])),
        "fingerprint": facts.fingerprint,
        "files": list(files),
    }
    plain = _plain(report)
    if not isinstance(plain, dict):
        raise TypeError(f"The report became {type(plain).__name__}, not a dict.")
    return plain


def _identified(study: Study) -> dict[str, str]:
    """Return who the patient is and what was examined when, as the FLAIR series' first header says it; DICOM only."""
    found = {}
    for name, keyword in _WHO.items() if study.headers else ():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # pydicom's remarks on values: they are shown as they are
                found[name] = str(study.headers[0].get(keyword) or "")
        except Exception:  # pydicom raises whatever a malformed value's conversion does
            found[name] = ""
    return found


def _engine(engine: Mapping[str, Any]) -> dict[str, Any]:
    """Order the engine's facts: those that every report has first."""
    first = ("name", "sha256", "precision", "inference_precision", "runtime", "runtime_version", "device")
    return {**{key: engine.get(key) for key in first}, **{key: engine[key] for key in engine if key not in first}}


def _grid(study: Study) -> dict[str, Any]:
    """Describe the FLAIR grid, axes (slice, row, column)."""
    geometry = study.flair.geometry
    return {
        "shape": list(study.flair.voxels.shape),
        "spacing_mm": None if geometry is None else [round(float(step), 4) for step in geometry.spacing_mm],
    }


def _slices(segmentation: Segmentation, study: Study) -> list[dict[str, Any]]:
    """List every slice: ``slice`` counts from 1 as the pictures do, ``index`` from 0 as arrays do."""
    areas_mm2 = segmentation.slice_area_mm2 or (None,) * len(segmentation.slice_area_px)
    rows = zip(study.flair.instance_ids, segmentation.slice_area_px, areas_mm2, strict=True)
    return [
        {
            "slice": index + 1,
            "index": index,
            "instance": instance,
            "area_px": int(area_px),
            "area_mm2": _rounded(area_mm2, 1),
        }
        for index, (instance, area_px, area_mm2) in enumerate(rows)
    ]


def _rounded(value: float | None, digits: int) -> float | None:
    """Round, and keep None."""
    return None if value is None else round(float(value), digits)


def _plain(value: Any) -> Any:
    """Turn NumPy scalars, arrays, tuples, paths and dataclasses into JSON values; what is no number becomes null."""
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: _plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.generic | np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    return str(value)
