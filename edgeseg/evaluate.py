"""An engine or the PyTorch model against the drawn masks, whole volumes, patient by patient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeseg import backends, bundle, metrics, preprocess
from edgeseg.backends import pytorch
from edgeseg.errors import InputError
from edgeseg.readers import lgg
from edgeseg.types import BoolArray, Preprocessing


@dataclass(frozen=True)
class PatientFigures:
    """Figures of one patient.

    Parameters
    ----------
    dice
        Dice of the whole volume, 0..1.
    iou_abnormal
        Mean IoU over the slices whose drawn mask is not empty; None without such slices.
    slices, abnormal_slices
        Counts.
    false_positive_slices
        Slices without abnormality in which at least one pixel is marked.
    """

    patient: str
    dice: float
    iou_abnormal: float | None
    slices: int
    abnormal_slices: int
    false_positive_slices: int


@dataclass(frozen=True)
class Evaluation:
    """Figures of all patients.

    Parameters
    ----------
    subject
        What was evaluated: name, precision, runtime.
    dice_mean, dice_median, dice_worst
        Over patients.
    iou_abnormal
        Mean IoU over all slices whose drawn mask is not empty.
    iou_all
        Mean IoU over all slices; two empty masks agree at 1.
    empty_slices, false_positive_slices, false_positive_share
        Slices without abnormality, those of them with a marked pixel, and their share, 0..1.
    """

    subject: str
    threshold: float
    dice_mean: float
    dice_median: float
    dice_worst: float
    iou_abnormal: float
    iou_all: float
    empty_slices: int
    false_positive_slices: int
    false_positive_share: float
    patients: tuple[PatientFigures, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values, as they are written."""
        return asdict(self)


@dataclass(frozen=True)
class Subject:
    """What is evaluated: an open engine and how its input and output are meant."""

    name: str
    engine: backends.Engine
    preprocessing: Preprocessing
    threshold: float


def open_subject(what: str, backend: str | None = None) -> Subject:
    """Open a bundle (folder or name) or a model (``.safetensors``; needs PyTorch).

    Raises
    ------
    InputError
        When there is no such thing.
    EngineError
        When the bundle is damaged.
    BackendMissing
        When PyTorch or the bundle's runtime is not installed.
    """
    if what.endswith(".safetensors"):
        return _open_model(Path(what))
    manifest, content = bundle.read(bundle.find(what))
    engine = backends.open_engine(manifest, content, backend)
    name = f"{manifest.name} on {engine.runtime} {engine.inference_precision}"
    return Subject(name, engine, manifest.preprocessing, manifest.threshold)


def _open_model(path: Path) -> Subject:
    from edgeseg import model

    network, facts = model.load(path)
    engine = pytorch.PyTorchEngine(model.with_byte_input(network))
    stored = facts.get("intensity", "stored") == "stored"
    preprocessing = Preprocessing("stored" if stored else "volume")
    return Subject(f"{path.parent.name} on {engine.runtime}", engine, preprocessing, float(facts.get("threshold", 0.5)))


def evaluate(
    subject: Subject,
    data: Path,
    patients: tuple[str, ...] = (),
    report: Callable[[str, int, int], None] = lambda *_: None,
) -> Evaluation:
    """Segment patients of an LGG folder and compare with the drawn masks.

    Parameters
    ----------
    subject
        From `open_subject`.
    data
        The LGG set's folder.
    patients
        Names; none means all below ``data``.
    report
        Called with (patient, done, total).
    """
    chosen = lgg.choose(lgg.index(data), patients)
    figures, ious, abnormal = [], [], []
    for number, patient in enumerate(chosen):
        study = lgg.read_study(patient)
        given = preprocess.to_network(study, subject.preprocessing)
        logits = subject.engine.predict_logits(given.slices)
        marked = preprocess.to_segmentation(logits, study, given.mapping, subject.threshold).mask
        drawn = lgg.read_masks(patient)
        if drawn.shape != marked.shape:
            raise InputError(f"{patient.name}: masks are {drawn.shape}, images {marked.shape} (slice, row, column)")
        slice_ious = [metrics.iou(a, b) for a, b in zip(marked, drawn, strict=True)]
        ious += slice_ious
        abnormal += [bool(mask.any()) for mask in drawn]
        figures.append(_patient(patient.name, marked, drawn, slice_ious))
        report(patient.name, number + 1, len(chosen))
    return _summary(subject, figures, np.array(ious), np.array(abnormal, dtype=bool))


def _patient(name: str, marked: BoolArray, drawn: BoolArray, ious: list[float]) -> PatientFigures:
    abnormal = drawn.any(axis=(1, 2))
    return PatientFigures(
        patient=name,
        dice=metrics.dice(marked, drawn),
        iou_abnormal=float(np.mean(np.array(ious)[abnormal])) if abnormal.any() else None,
        slices=len(drawn),
        abnormal_slices=int(abnormal.sum()),
        false_positive_slices=int((marked.any(axis=(1, 2)) & ~abnormal).sum()),
    )


def _summary(
    subject: Subject, figures: list[PatientFigures], ious: np.ndarray[Any, Any], abnormal: BoolArray
) -> Evaluation:
    dices = [patient.dice for patient in figures]
    empty = int((~abnormal).sum())
    false = sum(patient.false_positive_slices for patient in figures)
    return Evaluation(
        subject=subject.name,
        threshold=subject.threshold,
        dice_mean=float(np.mean(dices)),
        dice_median=float(np.median(dices)),
        dice_worst=min(dices),
        iou_abnormal=float(ious[abnormal].mean()) if abnormal.any() else 1.0,
        iou_all=float(ious.mean()),
        empty_slices=empty,
        false_positive_slices=false,
        false_positive_share=false / empty if empty else 0.0,
        patients=tuple(figures),
    )
