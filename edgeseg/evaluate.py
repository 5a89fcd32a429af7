"""An engine or the PyTorch model against the drawn masks, whole volumes, patient by patient."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgeseg import backends, bundle, figures, metrics, preprocess
from edgeseg.backends import pytorch
from edgeseg.errors import InputError, OutputError
from edgeseg.figures import Evaluation, PatientFigures
from edgeseg.readers import lgg
from edgeseg.types import BoolArray, Preprocessing, Study

WEIGHTS = "weights.safetensors"

SEQUENCES = ("all", "no-post", "flair")
"""What `with_sequences` leaves of a study."""


@dataclass(frozen=True)
class Subject:
    """What is evaluated: an open engine, closed by a with-statement, and how its input and output are meant."""

    name: str
    engine: backends.Engine
    preprocessing: Preprocessing
    threshold: float

    def __enter__(self) -> Subject:
        return self

    def __exit__(self, *_: object) -> None:
        self.engine.close()


def open_subject(what: str, backend: str | None = None) -> Subject:
    """Open a bundle (folder or name), or a model (``.safetensors``, or the folder of a run; needs PyTorch).

    Parameters
    ----------
    what
        A folder with ``manifest.json`` is a bundle; a bare name means a shipped one first.
    backend
        Which of a bundle's runtimes; None takes the first.

    Raises
    ------
    InputError
        When there is no such thing, or a backend is asked for weights, which run in PyTorch alone.
    EngineError
        When the bundle is damaged.
    BackendMissing
        When PyTorch or the bundle's runtime is not installed.
    """
    weights = _weights(what)
    if weights is not None:
        if backend is not None:
            raise InputError(f"{what} holds weights, which run in PyTorch: leave out --backend, or give a bundle")
        return _open_model(weights)
    manifest, content = bundle.read(bundle.find(what), backend=backend)
    engine = backends.open_engine(manifest, content, backend)
    name = f"{manifest.name} on {engine.runtime} {engine.inference_precision}"
    return Subject(name, engine, manifest.preprocessing, manifest.threshold)


def _weights(what: str) -> Path | None:
    """The weights file that is meant; None when a bundle is."""
    path = Path(what)
    if path.suffix == ".safetensors":
        return path
    shipped = [folder.name for folder in bundle.shipped()]
    if what in shipped or not path.is_dir() or (path / bundle.MANIFEST).is_file():
        return None
    if not (path / WEIGHTS).is_file():
        inside = sorted(path.glob(f"*/{WEIGHTS}"))
        remedy = f"give one such as {inside[0].parent}" if inside else "give another folder, or finish the run"
        raise InputError(
            f"{path} holds neither {bundle.MANIFEST} (a bundle) nor {WEIGHTS} (a finished training run): {remedy}"
        )
    return path / WEIGHTS


def _open_model(path: Path) -> Subject:
    from edgeseg import model

    network, facts = model.load(path)
    engine = pytorch.PyTorchEngine(model.runnable(network, facts))
    stored = facts.get("intensity", "stored") == "stored"
    preprocessing = Preprocessing("stored" if stored else "volume")
    name = f"{path.resolve().parent.name} on {engine.runtime}"
    return Subject(name, engine, preprocessing, float(facts.get("threshold", 0.5)))


def evaluate(
    subject: Subject,
    data: Path,
    patients: tuple[str, ...] = (),
    report: Callable[[str, int, int], None] = lambda *_: None,
    sequences: str = "all",
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
    sequences
        One of `SEQUENCES`: what the network is given.

    Raises
    ------
    InputError
        When there is no such choice of sequences, or a patient is unknown, listed twice, or cannot be read.
    BackendMissing
        When what surface distances and intervals need is not installed.
    """
    metrics.check_installed()
    check_sequences(sequences)
    twice = [name for name in dict.fromkeys(patients) if patients.count(name) > 1]
    if twice:
        raise InputError(f"the patient {twice[0]} is listed {patients.count(twice[0])} times: correct the list")
    chosen = lgg.choose(lgg.index(data), patients)
    found = []
    for number, patient in enumerate(chosen):
        study = with_sequences(lgg.read_study(patient), sequences)
        drawn = lgg.read_masks(patient)
        found.append(compare(patient.name, mark(subject, study), drawn))
        report(patient.name, number + 1, len(chosen))
    return figures.summarise(subject.name, subject.threshold, sequences, found)


def check_sequences(sequences: str) -> None:
    """Raise InputError when ``sequences`` is not one of `SEQUENCES`."""
    if sequences not in SEQUENCES:
        raise InputError(f"there is no choice of sequences {sequences!r}: give {', '.join(SEQUENCES)}")


def with_sequences(study: Study, sequences: str) -> Study:
    """The study as if sequences had not been acquired; `preprocess.to_network` then puts FLAIR in their place.

    Parameters
    ----------
    study
        With any sequences.
    sequences
        ``all`` leaves it as it is, ``no-post`` takes away T1 after contrast, ``flair`` all but FLAIR.

    Raises
    ------
    InputError
        When ``sequences`` is none of these.
    """
    check_sequences(sequences)
    if sequences == "flair":
        return replace(study, pre=None, post=None)
    return replace(study, post=None) if sequences == "no-post" else study


def mark(subject: Subject, study: Study) -> BoolArray:
    """The mask that the subject gives for a study: bool (slice, row, column) on the FLAIR grid."""
    given = preprocess.to_network(study, subject.preprocessing)
    logits = subject.engine.predict_logits(given.slices)
    return preprocess.to_segmentation(logits, study, given.mapping, subject.threshold).mask


def compare(patient: str, marked: BoolArray, drawn: BoolArray) -> PatientFigures:
    """Figures of one patient, from masks of one shape: bool (slice, row, column).

    Surface distances are taken in each slice by itself, in pixels, because nothing says how far the slices lie apart,
    and where both masks are not empty.

    Raises
    ------
    BackendMissing
        When what surface distances need is not installed.
    """
    abnormal, found = drawn.any(axis=(1, 2)), marked.any(axis=(1, 2))
    ious = np.array([metrics.iou(a, b) for a, b in zip(marked, drawn, strict=True)])
    distances = [metrics.surface_distance_px(marked[k], drawn[k]) or 0.0 for k in np.flatnonzero(abnormal & found)]
    return PatientFigures(
        patient=patient,
        dice=metrics.dice(marked, drawn),
        slices=len(drawn),
        abnormal_slices=int(abnormal.sum()),
        missed_slices=int((abnormal & ~found).sum()),
        false_positive_slices=int((found & ~abnormal).sum()),
        drawn_px=int(drawn.sum()),
        marked_px=int(marked.sum()),
        iou_sum=float(ious.sum()),
        iou_abnormal_sum=float(ious[abnormal].sum()),
        surface_distance_sum_px=float(sum(distances)),
    )


def check_csv(path: Path) -> None:
    """Find out before a long evaluation whether its figures can be written to ``path``.

    Raises
    ------
    OutputError
        When they cannot.
    """
    if path.is_dir():
        raise OutputError(f"{path} is a folder: give --csv the name of a file")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise OutputError(f"cannot write to the folder {path.parent}: make it, or give another with --csv")


def write_csv(evaluation: Evaluation, path: Path) -> None:
    """Write one row a patient with all figures; a file of this name is replaced once the new one is whole.

    Raises
    ------
    OutputError
        When it cannot be written.
    """
    partial = path.with_name(path.name + ".part")
    try:
        partial.write_text(figures.to_csv(evaluation), encoding="utf-8", newline="\n")
        partial.replace(path)
    except OSError as error:
        raise OutputError(f"cannot write the figures to {path} ({error.strerror}): give another with --csv") from error
