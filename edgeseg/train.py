"""A training run from configuration and data to weights, figures of every validation slice, and a ready bundle."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from edgeseg import build, bundle, encoders, evaluate, metrics, model
from edgeseg.errors import BackendMissing, EdgesegError, InputError, OutputError
from edgeseg.training import batches, dataset, distributed, loop, plan, run
from edgeseg.training.checkpoint import CHECKPOINT, State
from edgeseg.training.config import TrainConfig
from edgeseg.training.dataset import SliceSet, Source
from edgeseg.training.distributed import Processes
from edgeseg.training.plan import Plan
from edgeseg.types import BoolArray
from edgeseg.writers import slices as sheet

PREDICTIONS, SHEET, BUNDLE = "predictions", "slices.png", "bundle"
_SHOWN = 10
_PARITY_PATIENTS = 15


@dataclass(frozen=True)
class Finished:
    """One fold's run: its folder, its figures by epoch and step, and its bundle, or None where none was built."""

    folder: Path
    state: State
    bundle: Path | None

    def to_json(self) -> dict[str, Any]:
        """Plain values, as they are printed."""
        bundle = None if self.bundle is None else str(self.bundle)
        return {"folder": str(self.folder), "bundle": bundle, "epochs": self.state.history}


@dataclass(frozen=True)
class Options:
    """What the command line adds to a configuration.

    Parameters
    ----------
    encoder_weights
        ``hub``, ``package``, ``none`` or a file; None takes the configuration's.
    resume
        Go on from the checkpoints in the run's folder.
    board
        Write a log for TensorBoard too.
    published
        Draw the published run's curves beside this one's.
    """

    encoder_weights: str | None = None
    resume: bool = False
    board: bool = False
    published: bool = False


def dry_run(config: TrainConfig, data: Path | None, encoder_weights: str | None = None) -> Plan | None:
    """Read and check everything, and plan the run; nothing is trained, loaded or written.

    Of several processes the first plans; the others return None.

    Raises
    ------
    BackendMissing
        When PyTorch is not installed.
    InputError
        When configuration or data cannot be used.
    """
    with _processes(config) as processes:
        if not processes.leads:
            return None
        source = dataset.read(config, data)
        return _plan(config, source, plan.seed_of(config), encoder_weights, processes, data is not None)


def train(
    config: TrainConfig,
    data: Path | None,
    folder: Path,
    options: Options = Options(),
    announce: Callable[[Plan], None] = lambda _: None,
    say: Callable[[str], None] = lambda _: None,
    progress: loop.Report = lambda _: None,
) -> list[Finished]:
    """Train as the configuration says, fold after fold; return what each left.

    Parameters
    ----------
    config
        From `edgeseg.training.config.load`.
    data
        An LGG folder, a table, or a folder with one; None takes the configuration's paths.
    folder
        The run's folder; with several folds each has its own in it, ``fold-<number>``. Beside the files that
        `edgeseg.training.run.train` names it gets ``predictions.csv`` and ``predictions.npz`` (the validation slices),
        ``slices.png`` (the best and worst of them) and ``bundle/``.
    options
        What the command line adds.
    announce
        Called with the plan before the first step.
    say, progress
        Called with sentences, and with every step and epoch.

    Raises
    ------
    BackendMissing
        When PyTorch is not installed.
    InputError
        When configuration, data, weights or folder cannot be used: before the first step.
    """
    with _processes(config) as processes:
        folders = _folders(config, folder, options)
        if processes.leads:
            say("reading and checking the data")
        source = dataset.read(config, data)
        seed = run.begun(folders[0]).seed if options.resume else plan.seed_of(config)
        seed = processes.agree(seed)
        planned = _plan(config, source, seed, options.encoder_weights, processes, data is not None)
        if processes.leads:
            announce(planned)
        finished = []
        for number, place in zip(config.selection.folds, folders, strict=True):
            if len(folders) > 1 and processes.leads:
                say(f"fold {number}: {place}")
            one = plan.for_fold(config, number)
            finished.append(_fold(one, source, place, seed, options, processes, say, progress))
        return finished if processes.leads else []


@contextmanager
def _processes(config: TrainConfig) -> Iterator[Processes]:
    if find_spec("torch") is None:
        raise BackendMissing("training needs PyTorch: pip install 'edgeseg[train]'")
    with distributed.joined(config.gpus, config.batch_size) as processes:
        yield processes


def _plan(
    config: TrainConfig,
    source: Source,
    seed: int,
    encoder_weights: str | None,
    processes: Processes,
    overridden: bool,
) -> Plan:
    model.build(config.architecture, config.encoder)  # an unknown name is said before anything begins
    named = encoder_weights or config.encoder_weights
    encoder = encoders.encoder_within_reach(config.encoder, named)
    device = distributed.describe(processes, config.gpus)
    return plan.plan(config, source, seed, encoder, device, overridden)


def _folders(config: TrainConfig, folder: Path, options: Options) -> list[Path]:
    """A folder for each fold; refused where a run would be written over, or a resumed one is another."""
    folds = config.selection.folds
    folders = [folder / f"fold-{fold}" for fold in folds] if len(folds) > 1 else [folder]
    for fold, place in zip(folds, folders, strict=True):
        if not options.resume and (place / CHECKPOINT).exists():
            raise OutputError(f"{place} holds a run already: go on with --resume, or give another folder with -o")
        if options.resume and (place / run.CONFIG).exists():
            run.check_resumable(place, plan.for_fold(config, fold))
    return folders


def _fold(
    config: TrainConfig,
    source: Source,
    folder: Path,
    seed: int,
    options: Options,
    processes: Processes,
    say: Callable[[str], None],
    progress: loop.Report,
) -> Finished:
    """Train one fold; the process that leads measures it and builds its bundle."""
    training, validation = dataset.split(source, config, seed)
    resume = options.resume and (folder / CHECKPOINT).exists()
    digest = source.digest()
    start = run.begun(folder) if resume else run.Begun(seed, "", digest)
    if start.data != digest:
        raise InputError(
            f"the run in {folder} began with other slices or masks than these: give the data that it began with, or "
            "start in another folder with -o"
        )
    state = run.train(
        config,
        (training, validation),
        folder,
        start,
        processes,
        options.encoder_weights,
        resume,
        options.board,
        options.published,
        source.from_table,
        progress,
    )
    if not processes.leads:
        return Finished(folder, state, None)
    say(f"encoder: {run.begun(folder).encoder}")
    _show(folder, validation)
    return Finished(folder, state, _bundle(config, source, folder, validation, say) if config.build_bundle else None)


def _show(folder: Path, validation: SliceSet) -> None:
    """Every validation slice's figures and mask, and a picture of the best and the worst with both outlines."""
    with evaluate.open_subject(str(folder / run.WEIGHTS)) as subject:
        logits = subject.engine.predict_logits(validation.slices)
    marked: BoolArray = logits[:, 0] >= float(np.log(subject.threshold / (1 - subject.threshold)))
    ious = [metrics.iou(a, b) for a, b in zip(marked, validation.masks, strict=True)]
    _write_predictions(folder, validation, marked, ious)
    abnormal = np.flatnonzero(validation.masks.any(axis=(1, 2)))
    order = abnormal[np.argsort(np.array(ious)[abnormal], kind="stable")]
    worst, best = order[:_SHOWN], order[::-1][:_SHOWN]
    shown = np.concatenate([worst, best[~np.isin(best, worst)]])
    captions = [f"{validation.labels[k]}  IoU {ious[k]:.2f}" for k in shown]
    title = f"{len(worst)} worst and {len(shown) - len(worst)} best of {len(abnormal)} validation slices"
    if len(shown) == len(abnormal):
        title = "The validation slices with an abnormality, the worst first"
    sheet.write_sheet(folder / SHEET, validation.slices[shown], validation.masks[shown], marked[shown], captions, title)


def _write_predictions(folder: Path, validation: SliceSet, marked: BoolArray, ious: list[float]) -> None:
    """``predictions.csv``, a row a validation slice, and ``predictions.npz``: names, marked and drawn masks."""
    part = folder / f"{PREDICTIONS}.part"
    with part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["slice", "patient", "iou", "dice", "drawn_px", "marked_px"])
        for k, label in enumerate(validation.labels):
            drawn, own = validation.masks[k], marked[k]
            patient = validation.names[validation.patients[k]]
            dice = metrics.dice(own, drawn)
            writer.writerow([label, patient, f"{ious[k]:.6f}", f"{dice:.6f}", int(drawn.sum()), int(own.sum())])
    part.replace(folder / f"{PREDICTIONS}.csv")
    with part.open("wb") as binary:
        np.savez_compressed(binary, slices=validation.labels, marked=marked, drawn=validation.masks)
    part.replace(folder / f"{PREDICTIONS}.npz")


def _bundle(
    config: TrainConfig, source: Source, folder: Path, validation: SliceSet, say: Callable[[str], None]
) -> Path | None:
    """The run's FP16 bundle, checked on its validation patients, or on the example study where the data are a table."""
    patients = () if source.from_table else validation.patient_names()[:_PARITY_PATIENTS]
    data = bundle.example_data() if source.from_table else source.path
    try:
        manifest = build.build_engine(folder / run.WEIGHTS, "fp16", data, folder / BUNDLE, None, patients, say)
    except EdgesegError as error:  # the weights are there: other folds go on, and edgeseg build-engine can try again
        say(f"warning: no bundle was built: {error}")
        return None
    if manifest.parity is not None and not manifest.parity.passed:
        say(f"warning: the bundle fails parity: {'; '.join(manifest.parity.failures)}")
    if not batches.keeps_slices(config, validation):
        say("warning: augmentation.custom_inference_augmentations changes slices, and no engine applies it")
    return folder / BUNDLE
