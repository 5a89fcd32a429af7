"""The parity gate: an engine's masks against the PyTorch model's, live or recorded; a picture of the worst slices."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgeseg import backends, bundle, parity, preprocess, readers
from edgeseg.errors import BackendMissing, InputError, OutputError
from edgeseg.readers import lgg, recorded, slices
from edgeseg.types import CHANNELS, BoolArray, ByteArray, FloatArray, GridMapping, Manifest, ParityReport, Study
from edgeseg.writers import comparison

PICTURE = bundle.PICTURE


@dataclass(frozen=True)
class Verdict:
    """The report, and a PNG file's bytes with the slices that agree least; None where neither engine marks anything."""

    report: ParityReport
    picture: bytes | None

    def files(self) -> dict[str, bytes]:
        """What a bundle holds of it beside the report."""
        return {PICTURE: self.picture} if self.picture else {}


@dataclass(frozen=True)
class Subject:
    """One patient's slices as both engines are given them.

    Parameters
    ----------
    name
        The patient or study.
    given
        uint8 (slice, channel, size, size): network input.
    slice_names, source_names
        One for each slice of the network, and of the study's own grid.
    drawn
        bool (slice, row, column) on the study's own grid: drawn masks; None where there are none.
    mapping
        The way back to the study's own grid; None where the network's squares are that grid.
    voxel_ml
        Volume of a voxel of the study's own grid; None where it is not known.
    """

    name: str
    given: ByteArray
    slice_names: tuple[str, ...]
    source_names: tuple[str, ...]
    drawn: BoolArray | None = None
    mapping: GridMapping | None = None
    voxel_ml: float | None = None


@dataclass(frozen=True)
class Reference:
    """What the engine is compared with.

    Parameters
    ----------
    name
        For the report.
    outputs
        A subject's logits, float32 (slice, 1, size, size), or its recorded masks, bool of the same shape.
    """

    name: str
    outputs: Callable[[Subject], FloatArray | BoolArray]


def judge_runtimes(
    manifest: Manifest,
    content: bytes,
    backend: str | None,
    model: backends.Engine | None,
    data: Path | None = None,
    patients: tuple[str, ...] = (),
) -> Verdict:
    """`judge` on the runtime that is named, else on the first; on every one of the engine's if its tolerance says so.

    Parameters
    ----------
    manifest, content
        From `edgeseg.bundle.read`, or about to be written.
    backend
        A runtime's name.
    model, data, patients
        As in `judge`.

    Returns
    -------
    Verdict
        Of the first runtime to fail, else of the first. A further one that is not installed is left out: the report's
        ``judged_on`` says which ran.

    Raises
    ------
    BackendMissing
        When the first is not installed.
    InputError
        As `judge`.
    """
    several = parity.TOLERANCES[manifest.precision].every_runtime and backend is None and manifest.plan is None
    verdicts: list[Verdict] = []
    ran: tuple[str, ...] = ()
    for name in manifest.runtimes if several else (backend,):
        try:
            engine = backends.open_engine(manifest, content, name)
        except BackendMissing:
            if not verdicts:
                raise
            continue
        with engine:
            verdicts.append(judge(engine, manifest, model, data, patients))
        ran = (*ran, engine.runtime)
        if not verdicts[-1].report.passed:
            break
    verdict = verdicts[0] if verdicts[-1].report.passed else verdicts[-1]
    failures = tuple(f"{failure} ({ran[-1]})" if several else failure for failure in verdict.report.failures)
    return replace(verdict, report=replace(verdict.report, failures=failures, judged_on=ran))


def judge(
    engine: backends.Engine,
    manifest: Manifest,
    model: backends.Engine | None,
    data: Path | None = None,
    patients: tuple[str, ...] = (),
) -> Verdict:
    """Compare an engine's masks with the PyTorch model's.

    Parameters
    ----------
    engine, manifest
        What is judged.
    model
        The PyTorch model; None takes its recorded masks of the shipped parity slices.
    data
        An LGG folder, or any folder of studies, which have no drawn masks; None takes the shipped parity slices.
    patients
        Names of patients or studies below ``data``; none means all.

    Raises
    ------
    InputError
        When data or patients cannot be used, or no masks are recorded for this network.
    """
    if data is None:
        shipped = slices.read("parity", manifest.preprocessing)
        reference = _live(model, manifest) if model else _recorded(manifest, shipped)
        subjects = _of_slices(shipped)
    elif model is None:
        raise InputError("masks are recorded for the shipped parity slices alone: leave out --data")
    else:
        reference, subjects = _live(model, manifest), _of_folder(data, patients, manifest)
    worst = comparison.Worst()
    seen = (_look(subject, reference, engine, manifest.threshold, worst) for subject in subjects)
    report = parity.compare(seen, manifest.threshold, parity.TOLERANCES[manifest.precision], reference.name)
    return Verdict(report, comparison.png(worst, f"{manifest.name} on {engine.runtime}", reference.name))


def _look(
    subject: Subject, reference: Reference, engine: backends.Engine, threshold: float, worst: comparison.Worst
) -> parity.PatientLogits:
    """Run one patient through both, and remember its worst slices for the picture."""
    theirs, ours = reference.outputs(subject), engine.predict_logits(subject.given)
    limit = parity.cut(threshold)
    masks = parity.marked(theirs, limit), parity.marked(ours, limit)
    for k, name in enumerate(subject.slice_names):
        worst.add(name, subject.given[k, CHANNELS.index("flair")], masks[0][k], masks[1][k])
    source = None
    if subject.mapping is not None:  # recorded masks are of slices that have no other grid: these are logits
        both = np.asarray(theirs, np.float32), ours
        on_grid = [preprocess.to_grid(logits, subject.mapping) >= limit for logits in both]
        source = parity.SourceMasks(on_grid[0], on_grid[1], subject.source_names)
    return parity.PatientLogits(
        subject.name, theirs, ours, subject.drawn, subject.slice_names, source, subject.voxel_ml
    )


def _live(model: backends.Engine, manifest: Manifest) -> Reference:
    name = f"{model.runtime} {model.inference_precision}, weights {manifest.weights_sha256[:12]}"
    return Reference(name, lambda subject: model.predict_logits(subject.given))


def _recorded(manifest: Manifest, shipped: slices.Slices) -> Reference:
    key = recorded.Key(manifest.weights_sha256, manifest.threshold, manifest.preprocessing, shipped.digest())
    found = recorded.read(key)
    by_name = dict(zip(shipped.names, found.masks, strict=True))
    name = f"recorded masks of {found.runtime}, weights {manifest.weights_sha256[:12]}"
    return Reference(name, lambda subject: np.stack([by_name[name] for name in subject.slice_names])[:, None])


def check_recorded(manifest: Manifest, missing: str) -> None:
    """Refuse a network that no masks are recorded of, before anything is read.

    Parameters
    ----------
    manifest
        Of the engine.
    missing
        Why the PyTorch model cannot be run, with the remedy; empty where only its weights are not at hand.

    Raises
    ------
    BackendMissing
        When PyTorch is what is missing.
    InputError
        When its weights are.
    """
    networks = recorded.known()
    if manifest.weights_sha256 in networks:
        return
    said = f"no masks are recorded for the weights of {manifest.name}, only for those of {', '.join(networks.values())}"
    if missing:
        raise BackendMissing(f"{said}: give its weights with --reference. {missing}")
    raise InputError(f"{said}: give its weights with --reference")


def check_picture(path: Path | None) -> None:
    """Refuse a picture in a folder that is not there, before a long comparison.

    Raises
    ------
    OutputError
        When there is no such folder, or the path is a folder itself.
    """
    if path is not None and (path.is_dir() or not path.parent.is_dir()):
        raise OutputError(f"cannot write the picture {path}: give a file in a folder that exists, such as {PICTURE}")


def save_picture(verdict: Verdict, path: Path) -> None:
    """Write the picture; where there is nothing to show, an earlier one goes.

    Raises
    ------
    OutputError
        When it cannot be written.
    """
    try:
        if verdict.picture is None:
            path.unlink(missing_ok=True)
        else:
            path.write_bytes(verdict.picture)
    except OSError as error:
        raise OutputError(f"cannot write the picture {path} ({error.strerror}): give another place") from error


def _of_slices(shipped: slices.Slices) -> Iterator[Subject]:
    """The shipped slices, patient by patient: they are 256 x 256 in the set, so that is their own grid."""
    if shipped.drawn is None:
        raise InputError("the shipped parity slices have no drawn masks: install edgeseg again")
    for patient in dict.fromkeys(shipped.patients):
        own = [k for k, name in enumerate(shipped.patients) if name == patient]
        names = tuple(shipped.names[k] for k in own)
        yield Subject(patient, shipped.slices[own], names, names, shipped.drawn[own])


def _of_folder(data: Path, patients: tuple[str, ...], manifest: Manifest) -> Iterator[Subject]:
    if _has_masks(data):
        for patient in lgg.choose(lgg.index(data), patients):
            yield _subject(patient.name, lgg.read_study(patient), manifest, lgg.read_masks(patient))
        return
    studies = {files.name: files for files in readers.find_studies(data)}
    if unknown := [name for name in patients if name not in studies]:
        raise InputError(f"no study {unknown[0]} among the {len(studies)} of --data: correct the list")
    for name in patients or studies:
        yield _subject(name, readers.read_study(studies[name]), manifest, None)


def _has_masks(data: Path) -> bool:
    """Whether a folder is an LGG set: patients with drawn masks, in it or in ``kaggle_3m`` inside."""
    return any(any(data.glob(pattern)) for pattern in ("*/*_mask.tif", "kaggle_3m/*/*_mask.tif"))


def _subject(name: str, study: Study, manifest: Manifest, drawn: BoolArray | None) -> Subject:
    given = preprocess.to_network(study, manifest.preprocessing)
    source_names = study.flair.instance_ids
    if study.source != "tiff":  # DICOM's own ids are long, and say who was examined
        source_names = tuple(f"{name} slice {k + 1}" for k in range(len(study.flair.voxels)))
    same = preprocess.keeps_grid(given.mapping)
    names = source_names if same else tuple(f"{name} slice {k + 1}" for k in range(len(given.slices)))
    if study.source == "tiff":
        names = source_names
    voxel_ml = study.flair.geometry.voxel_ml if study.flair.geometry else None
    return Subject(name, given.slices, names, source_names, drawn, None if same else given.mapping, voxel_ml)
