"""mercure's contract with its processing modules: one task, images in one folder, results flat in another.

mercure (https://mercure-imaging.org) starts a module's container with ``MERCURE_IN_DIR`` and ``MERCURE_OUT_DIR``. The
first holds ``<SeriesInstanceUID>#<file>.dcm`` and ``task.json``, whose ``process.settings`` are the site's choices.
What the module leaves in the second is sent on; ``result.json`` there is kept with the task. A task has failed when
the module's exit code is not 0.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgeseg import batch, readers, segment
from edgeseg.errors import ConfigError, EdgesegError, InputError, OutputError, PartialFailure
from edgeseg.scanner.monitor import Monitor

TASK, RESULT = "task.json", "result.json"


@dataclass(frozen=True)
class Settings:
    """What a site may choose in mercure's settings of the module or rule; None leaves it to the command line."""

    engine: str | None = None
    backend: str | None = None
    device: str | None = None
    formats: tuple[str, ...] | None = None


def read_settings(folder: Path) -> Settings | None:
    """Read the settings of a task.

    Parameters
    ----------
    folder
        The folder with the images.

    Returns
    -------
    Settings or None
        None when the folder is none of mercure's: it holds no ``task.json`` with ``info`` and ``process``.

    Raises
    ------
    ConfigError
        When a setting is unknown or has a value of another kind.
    """
    try:
        task = json.loads((folder / TASK).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(task, dict) or not {"info", "process"} <= set(task):
        return None
    process = task["process"]
    if isinstance(process, list):  # several steps: mercure gives each container its own, older versions a list of one
        process = process[0] if process else {}
    given = process.get("settings") if isinstance(process, dict) else None
    return _settings(given or {})


def _settings(given: Any) -> Settings:
    names = tuple(Settings.__dataclass_fields__)
    if not isinstance(given, dict) or not set(given) <= set(names):
        unknown = ", ".join(sorted(set(given) - set(names))) if isinstance(given, dict) else "no table of settings"
        raise ConfigError(f"the settings of {TASK} hold {unknown}: edgeseg knows {', '.join(names)}")
    found: dict[str, Any] = dict(given)
    if isinstance(found.get("formats"), str):
        found["formats"] = [name.strip() for name in found["formats"].split(",")]
    for name, value in found.items():
        texts = value if name == "formats" and isinstance(value, list) else [value]
        if not all(isinstance(text, str) for text in texts):
            raise ConfigError(f"the setting {name} of {TASK} is {value!r}: give text")
    if "formats" in found:
        found["formats"] = tuple(found["formats"])
    return Settings(**found)


def run(folder: Path, output: Path, opened: segment.OpenEngine, options: segment.Options, monitor: Monitor) -> None:
    """Segment the studies of a task, and leave their DICOM results and ``result.json`` in the output folder.

    Parameters
    ----------
    folder, output
        mercure's two folders.
    opened, options
        As in `edgeseg.segment.segment`.
    monitor
        What is told of it.

    Raises
    ------
    StudyError
        When no study can be used.
    PartialFailure
        When some of several cannot; the others' results are there.
    OutputError
        When the output folder cannot be written to.
    """
    studies = readers.find_studies(folder)
    results: dict[str, Any] = {}
    failed: list[EdgesegError] = []
    with tempfile.TemporaryDirectory(prefix="edgeseg-") as stage:
        for outcome in batch.run(studies, opened, Path(stage), options):
            try:
                if outcome.error is not None:
                    raise outcome.error
                results[outcome.name] = _deliver(Path(stage) / outcome.name, output)
                monitor.event("study_done", study=outcome.name, files=len(results[outcome.name]["files"]))
            except OutputError:
                raise
            except EdgesegError as error:
                failed.append(error)
                results[outcome.name] = {"error": str(error)}
                monitor.event("study_failed", study=outcome.name, error=str(error))
    _write(output / RESULT, lambda path: path.write_text(json.dumps({"edgeseg": results}, indent=2) + "\n"))
    if failed and len(failed) == len(results):
        raise failed[0]
    if failed:
        raise PartialFailure(f"{len(failed)} of {len(results)} studies are not done: {RESULT} says why")


def _deliver(results: Path, output: Path) -> dict[str, Any]:
    """Copy a study's DICOM files to mercure's folder, under mercure's names; return what ``result.json`` says of it."""
    import pydicom

    written = []
    for path in sorted(results.rglob("*.dcm")):
        header = pydicom.dcmread(path, stop_before_pixels=True)
        name = f"{header.SeriesInstanceUID}#{header.SOPInstanceUID}.dcm"
        _write(output / name, lambda target, path=path: shutil.copyfile(path, target))  # type: ignore[misc]
        written.append(name)
    if not written:
        raise InputError("no DICOM result was written: have dicom-seg among the formats, and give DICOM images")
    return {**_figures(results), "files": written}


def _write(path: Path, fill: Callable[[Path], object]) -> None:
    """Write a file beside its place and move it there."""
    stage = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fill(stage)
        stage.replace(path)
    except OSError as error:
        stage.unlink(missing_ok=True)
        raise OutputError(f"cannot write to {path.parent} ({error.strerror}): give another folder with -o") from error


def _figures(results: Path) -> dict[str, Any]:
    """What a study's report says, as far as it names no instance."""
    try:
        report = json.loads((results / "report.json").read_text(encoding="utf-8"))
    except FileNotFoundError:  # the formats that were asked for are without it
        return {}
    kept = ("finding", "notice", "volume_ml", "marked_slices", "warnings")
    return {**{name: report.get(name) for name in kept}, "engine": report["engine"]["name"]}


def with_settings(options: segment.Options, settings: Settings) -> segment.Options:
    """Options with the task's formats in place of the command line's."""
    return replace(options, formats=settings.formats) if settings.formats else options
