"""One study through one engine: the straight line from files to files."""

from __future__ import annotations

import errno
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from edgeseg import backends, bundle, compiled, preprocess, readers, results, writers
from edgeseg.errors import InputError, ParityError, StudyError
from edgeseg.fingerprint import fingerprint
from edgeseg.types import FloatArray, Manifest, NetworkInput, Segmentation, Study
from edgeseg.writers.report import to_dict

_PACKAGES = ("numpy", "pillow", "pydicom", "SimpleITK", "openvino")
Say = Callable[[str], None]


def _silent(_: str) -> None:
    pass


@dataclass(frozen=True)
class OpenEngine:
    """A running engine and the manifest of the bundle that it came from."""

    manifest: Manifest
    engine: backends.Engine


@dataclass(frozen=True)
class Options:
    """What the caller decides about a study's results.

    Parameters
    ----------
    formats
        Names from `edgeseg.writers.FORMATS`; None takes the study's defaults.
    selection
        Which series serve as FLAIR, pre and post, where the user says it, and the rules for those that are not named.
    identified
        Whether reports say who the patient is, and messages where the study lies.
    """

    formats: tuple[str, ...] | None = None
    selection: readers.Selection = readers.AUTOMATIC
    identified: bool = False


DEFAULTS = Options()


@dataclass(frozen=True)
class Result:
    """A finished study: what was read and found, and the files written (relative to ``folder``)."""

    study: Study
    segmentation: Segmentation
    folder: Path
    files: tuple[str, ...]
    facts: writers.ReportFacts

    def report(self) -> dict[str, Any]:
        """What ``report.json`` says, or would say, as plain values."""
        if results.REPORT in self.files:
            written: dict[str, Any] = json.loads((self.folder / results.REPORT).read_text(encoding="utf-8"))
            return written
        return to_dict(self.segmentation, self.study, self.facts, self.files)


@contextmanager
def open_engine(
    name: str = bundle.DEFAULT_ENGINE,
    backend: str | None = None,
    device: str = "auto",
    allow_unverified: bool = False,
    public_key: Path | None = None,
    threads: int | None = None,
    triton: str | None = None,
) -> Iterator[OpenEngine]:
    """Verify and compile a bundle, or find it on a server; close it at the end.

    Parameters
    ----------
    name
        A bundle's folder or the name of a shipped one.
    backend, device, threads
        As in `edgeseg.backends.open_engine`.
    allow_unverified
        Serve an engine that failed parity, or was never checked.
    public_key
        PEM file of the key that has to have signed the bundle; None asks for no signature.
    triton
        Address of the Triton server that runs the network; None runs it here.

    Raises
    ------
    InputError
        When there is no such bundle, backend, device, key or server.
    EngineError
        When the bundle is damaged, or not signed by the key, or the server has another engine.
    ParityError
        When its masks are not known to be the PyTorch model's.
    """
    if triton and (backend or device != "auto"):
        raise InputError("with --triton the server says what the network runs on: leave out --backend and --device")
    manifest, content = bundle.read(bundle.find(name), public_key, backend)
    if not allow_unverified:
        check_parity(manifest)
    where = manifest, backend, device
    # What is kept is for the whole machine; for a part of its cores a network is compiled anew.
    keeping = threads is None and not triton
    if triton:
        opened = backends.open_server(manifest, triton)
    else:
        kept = compiled.read(*where) if keeping else None
        opened = backends.open_engine(manifest, content, backend, device, threads, kept)
    with opened as engine:
        if not (allow_unverified or engine.keeps_precision):
            raise ParityError(
                f"{engine.runtime} runs {manifest.name} through a backend that may take another precision, in which "
                "parity was not checked: export it for another platform, or accept it with --allow-unverified"
            )
        if keeping and not engine.from_cache:
            compiled.keep(*where, engine.compiled())
        yield OpenEngine(manifest, engine)


def check_parity(manifest: Manifest) -> None:
    """Raise ParityError for an engine that failed the gate, or never went through it."""
    remedy = "build the engine again, or accept it as it is with --allow-unverified"
    if manifest.parity is None:
        raise ParityError(f"{manifest.name} was never compared with the PyTorch model: {remedy}")
    if not manifest.parity.passed:
        raise ParityError(f"{manifest.name} failed parity ({manifest.parity.failures[0]}): {remedy}")
    if not manifest.verified_on_device:
        raise ParityError(
            f"the plan of {manifest.name} has not been checked where it runs: run edgeseg parity on this machine, or "
            "accept it as it is with --allow-unverified"
        )


def segment(
    files: readers.StudyFiles,
    opened: OpenEngine,
    output: Path,
    options: Options = DEFAULTS,
    say: Say = _silent,
) -> Result:
    """Segment one study and write the results to ``output/<study>/``: all of them, or none.

    Parameters
    ----------
    files
        From `edgeseg.readers.find_studies`.
    opened
        From `open_engine`.
    output
        Folder that the study's own folder goes into.
    options
        Formats, and what else can be chosen.
    say
        Called with the name of each step.

    Raises
    ------
    StudyError
        When the study cannot be used.
    OutputError
        When the results cannot be written.
    InputError
        When the study cannot have a format that was asked for.
    """
    mark = fingerprint_of(files, opened, options)
    with results.staging(output, files.name) as stage:
        prepared = prepare(files, opened, options, say)
        return finish(
            prepared, logits_of(prepared, opened, say), opened, stage, output / files.name, options, say, mark
        )


def fingerprint_of(files: readers.StudyFiles, opened: OpenEngine, options: Options = DEFAULTS) -> str:
    """Hash of what the study's results hang on: its files, the engine with its runtime, and the options."""
    facts = _facts(opened)
    how = {"engine": facts.engine, "preprocessing": facts.preprocessing, "threshold": facts.threshold}
    return fingerprint(files, {**how, "options": options})


@dataclass(frozen=True)
class Prepared:
    """A study that was read, and what the network is given of it.

    Parameters
    ----------
    study
        As read, but for the T1s' voxels, which nothing asks for any more.
    given
        Its slices as the engine takes them.
    formats
        What is to be written.
    timings_ms
        Wall time of the steps so far.
    """

    study: Study
    given: NetworkInput
    formats: tuple[str, ...]
    timings_ms: dict[str, float]


def prepare(files: readers.StudyFiles, opened: OpenEngine, options: Options = DEFAULTS, say: Say = _silent) -> Prepared:
    """Read a study, and make the network's input of it: what comes before the engine.

    Raises
    ------
    StudyError
        When the study cannot be used.
    InputError
        When it cannot have a format that was asked for.
    """
    timings: dict[str, float] = {}
    with _timed("read", timings, say):
        study = readers.read_study(files, options.selection)
    chosen = options.formats or writers.default_formats(study)
    writers.check_formats(study, chosen)
    with _timed("preprocess", timings, say):
        given = preprocess.to_network(study, opened.manifest.preprocessing)
    return Prepared(replace(study, pre=None, post=None), given, chosen, timings)


def logits_of(prepared: Prepared, opened: OpenEngine, say: Say = _silent) -> FloatArray:
    """The engine's logits, float32 (slice, 1, size, size). Of slices that are black in all channels one is run."""
    slices = prepared.given.slices
    with _timed("network", prepared.timings_ms, say):
        black = np.flatnonzero(~slices.any(axis=(1, 2, 3)))
        if len(black) < 2:
            return opened.engine.predict_logits(slices)
        run = np.delete(np.arange(len(slices)), black[1:])
        logits = np.empty((len(slices), 1, *slices.shape[2:]), np.float32)
        logits[run] = opened.engine.predict_logits(slices[run])
        logits[black[1:]] = logits[black[0]]
        return logits


def finish(
    prepared: Prepared,
    logits: FloatArray,
    opened: OpenEngine,
    stage: Path,
    folder: Path,
    options: Options,
    say: Say,
    mark: str,
) -> Result:
    """Make a mask of logits, write the results and publish them: what comes after the engine.

    Parameters
    ----------
    prepared, logits
        From `prepare` and `logits_of`.
    opened, options, say
        As in `segment`, which says what is raised, too.
    stage
        From `edgeseg.results.staging`.
    folder
        Where the results go.
    mark
        From `fingerprint_of`, for the report.
    """
    study, timings = prepared.study, prepared.timings_ms
    with _timed("postprocess", timings, say):
        found = preprocess.to_segmentation(logits, study, prepared.given.mapping, opened.manifest.threshold)
    found = replace(found, timings_ms=timings)
    say("write")
    try:
        facts = replace(_facts(opened), fingerprint=mark, identified=options.identified)
        names = writers.write(found, study, prepared.formats, stage, facts)
        results.publish(stage, folder)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise StudyError("names of its files are too long to name results by: give them shorter names") from error
        raise results.unwritable(folder.parent, error) from error
    return Result(study, found, folder, tuple(names), facts)


@contextmanager
def _timed(step: str, timings: dict[str, float], say: Say) -> Iterator[None]:
    say(step)
    started = time.perf_counter()
    yield
    timings[step] = 1000 * (time.perf_counter() - started)


def _served(manifest: Manifest) -> bool:
    return manifest.parity is not None and manifest.parity.passed and manifest.verified_on_device


def _agreement(manifest: Manifest) -> dict[str, Any] | None:
    """The engine's masks beside the PyTorch model's, without the name of the worst slice: it may be a study's."""
    if manifest.parity is None:
        return None
    return {name: value for name, value in asdict(manifest.parity.agreement).items() if name != "worst_slice"}


def _facts(opened: OpenEngine) -> writers.ReportFacts:
    manifest, engine = opened.manifest, opened.engine
    runtime, _, version = engine.runtime.rpartition(" ")
    described = {
        "name": manifest.name,
        "sha256": manifest.sha256,
        "precision": manifest.precision,
        "inference_precision": engine.inference_precision,
        "runtime": runtime,
        "runtime_version": version,
        "device": engine.device,
        "weights_sha256": manifest.weights_sha256,
        "parity": "passed" if _served(manifest) and engine.keeps_precision else "unverified",
        "agreement": _agreement(manifest),
        "licence": manifest.licence,
    }
    given = {**asdict(manifest.preprocessing), "smallest_island": preprocess.SMALLEST_ISLAND}
    return writers.ReportFacts(described, given, manifest.threshold, _versions())


@lru_cache(maxsize=1)
def _versions() -> dict[str, str]:
    return {package: metadata.version(package) for package in _PACKAGES}


def check_output(given: Path, roots: list[Path], names: list[str], output: Path) -> None:
    """Refuse an output folder inside the input, and results that would fall into a study's own folder.

    A second run would read its own masks, or take the study for results.

    Parameters
    ----------
    given
        The input.
    roots, names
        The folder of each study found in it, and the name of its output folder.
    output
        Folder that the studies' own folders go into.

    Raises
    ------
    InputError
        When one lies inside the other.
    """
    if given.is_dir() and output.resolve().is_relative_to(given.resolve()):
        remedy = "give a folder outside it with -o"
        raise InputError(
            f"the output folder lies inside the input: {remedy}",
            f"the output folder {output} lies inside the input {given}: {remedy}",
        )
    for root, name in zip(roots, names, strict=True):
        if root.is_dir() and (output / name).resolve().is_relative_to(root.resolve()):
            said, remedy = f"the results of {name} would go into the study", "itself: give another folder with -o"
            raise InputError(f"{said} {remedy}", f"{said} {root} {remedy}")


def check_selection(selection: readers.Selection, studies: list[readers.StudyFiles]) -> None:
    """Refuse a DICOM series named for several studies: its number means something else in each.

    File names of NIfTI, which may be patterns, and ``none`` hold for all of them.

    Raises
    ------
    InputError
        When one is named, and more than one study was found.
    """
    for channel, value in selection.named().items():
        if len(studies) > 1 and value.lower() != readers.NONE and any(files.kind == "dicom" for files in studies):
            raise InputError(
                f"--{channel} {value} names a series, and {len(studies)} studies were found, each with series of its "
                "own: give one study, or rules for all of them with --rules"
            )
