"""One study through one engine: which engines are served, and that results are written whole or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeseg import bundle, readers, segment, writers
from edgeseg.errors import EdgesegError, EngineError, InputError, OutputError, ParityError, StudyError
from edgeseg.types import Manifest

Change = Callable[[Manifest], Manifest]


@pytest.fixture
def short_tiff(example_tiff: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five slices of the example."""
    folder = tmp_path_factory.mktemp("in") / "short"
    folder.mkdir()
    for k in range(12, 17):
        shutil.copy(example_tiff / f"{example_tiff.name}_{k}.tif", folder)
    return folder


def _never_compared(manifest: Manifest) -> Manifest:
    return replace(manifest, parity=None)


def _failed(manifest: Manifest) -> Manifest:
    assert manifest.parity is not None
    return replace(manifest, parity=replace(manifest.parity, passed=False, failures=("masks differ a lot",)))


def _not_on_its_device(manifest: Manifest) -> Manifest:
    return replace(manifest, verified_on_device=False)


def _bundle(folder: Path, change: Change) -> Path:
    manifest, content = bundle.read(bundle.find(bundle.DEFAULT_ENGINE))
    bundle.write(folder, change(manifest), content)
    return folder


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (_never_compared, "was never compared with the PyTorch model"),
        (_failed, r"failed parity \(masks differ a lot\)"),
        (_not_on_its_device, "not been checked where it runs: run edgeseg parity on this machine"),
    ],
)
def test_an_engine_without_parity_is_served_only_when_asked_for(tmp_path: Path, change: Change, found: str) -> None:
    folder = _bundle(tmp_path / "engine", change)
    with pytest.raises(ParityError, match=found) as error, segment.open_engine(str(folder)):
        pass
    assert error.value.exit_code == 6
    assert "--allow-unverified" in str(error.value)
    with segment.open_engine(str(folder), allow_unverified=True) as opened:
        assert opened.engine.device == "CPU"


def test_the_engine_is_closed_when_its_work_is_done(example_tiff: Path, tmp_path: Path) -> None:
    with segment.open_engine() as opened:
        pass
    (files,) = readers.find_studies(example_tiff)
    with pytest.raises(EngineError, match="was closed"):
        segment.segment(files, opened, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_all_that_the_report_lists_is_there_and_nothing_else(
    example_tiff: Path, tmp_path: Path, default_engine: segment.OpenEngine
) -> None:
    (files,) = readers.find_studies(example_tiff)
    steps: list[str] = []
    result = segment.segment(files, default_engine, tmp_path / "a" / "b", say=steps.append)
    assert steps == ["read", "preprocess", "network", "postprocess", "write"]
    assert result.folder == tmp_path / "a" / "b" / example_tiff.name
    assert _below(result.folder) == set(result.files)
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == [example_tiff.name]
    report = json.loads((result.folder / "report.json").read_text())
    assert set(report["files"]) == set(result.files)
    assert report["engine"]["sha256"] == default_engine.manifest.sha256
    assert report["engine"]["inference_precision"] == "f32"
    assert set(report["timings_ms"]) == {*steps}


@pytest.mark.parametrize(
    ("problem", "expected", "found"),
    [
        (OSError(28, "No space left on device"), OutputError, "No space left on device"),
        (OSError("encoder error -2"), OutputError, "encoder error -2"),
        (StudyError("headers are odd: export them again"), StudyError, "headers are odd"),
    ],
)
def test_a_writer_that_fails_leaves_nothing_behind(
    problem: Exception,
    expected: type[EdgesegError],
    found: str,
    short_tiff: Path,
    tmp_path: Path,
    default_engine: segment.OpenEngine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def write(_segmentation: Any, _study: Any, _formats: Any, folder: Path, _facts: Any) -> list[str]:
        (folder / "masks").mkdir()
        (folder / "masks" / "half.tif").write_bytes(b"II*")
        raise problem

    monkeypatch.setattr(writers, "write", write)
    (files,) = readers.find_studies(short_tiff)
    with pytest.raises(expected, match=found):
        segment.segment(files, default_engine, tmp_path / "new" / "out")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "old").mkdir()
    with pytest.raises(expected):
        segment.segment(files, default_engine, tmp_path / "old")
    assert list(tmp_path.rglob("*")) == [tmp_path / "old"]


def test_a_failed_run_keeps_the_earlier_results(
    short_tiff: Path, tmp_path: Path, default_engine: segment.OpenEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    (files,) = readers.find_studies(short_tiff)
    segment.segment(files, default_engine, tmp_path, segment.Options(("masks", "report")))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def write(*_: Any) -> list[str]:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writers, "write", write)
    with pytest.raises(OutputError):
        segment.segment(files, default_engine, tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("formats", [("jpeg",), ("nifti",)])
def test_a_format_that_a_study_cannot_have(
    formats: tuple[str, ...], short_tiff: Path, tmp_path: Path, default_engine: segment.OpenEngine
) -> None:
    (files,) = readers.find_studies(short_tiff)
    with pytest.raises(InputError, match="choose among"):
        segment.segment(files, default_engine, tmp_path / "out", segment.Options(formats))
    assert not (tmp_path / "out").exists()


def _below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


# --- where the output may be


@pytest.mark.parametrize("output", ["", "out", "deep/er/out", "other/../out"])
def test_an_output_folder_inside_the_study_is_refused(tmp_path: Path, output: str) -> None:
    (tmp_path / "study" / "other").mkdir(parents=True)
    with pytest.raises(InputError, match="lies inside the input"):
        segment.check_output(tmp_path / "study", [], [], tmp_path / "study" / output)


def test_an_output_folder_inside_the_study_by_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "study")
    with pytest.raises(InputError, match="lies inside"):
        segment.check_output(tmp_path / "study", [], [], tmp_path / "link" / "out")


@pytest.mark.parametrize("output", ["study-out", "out"])
def test_an_output_folder_beside_the_study_is_fine(tmp_path: Path, output: str) -> None:
    (tmp_path / "study").mkdir()
    segment.check_output(tmp_path / "study", [tmp_path / "study"], ["study"], tmp_path / output)


def test_results_that_would_fall_into_the_study_are_refused(tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    with pytest.raises(InputError, match="would go into the study"):
        segment.check_output(tmp_path / "study", [tmp_path / "study"], ["study"], tmp_path)
    segment.check_output(tmp_path / "study", [tmp_path / "study"], ["0123456789ab"], tmp_path)


def test_the_study_itself_is_not_touched(short_tiff: Path, tmp_path: Path, default_engine: segment.OpenEngine) -> None:
    copy = tmp_path / "in" / "head"
    shutil.copytree(short_tiff, copy)
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in copy.iterdir()}
    (files,) = readers.find_studies(copy)
    segment.segment(files, default_engine, tmp_path / "out", segment.Options(("masks",)))
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in copy.iterdir()} == before


@pytest.mark.parametrize("black", [(), (2,), (0, 1, 4), tuple(range(5))])
def test_black_slices_are_run_once_and_get_the_logits_that_they_would_have(
    black: tuple[int, ...], short_tiff: Path, default_engine: segment.OpenEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    (files,) = readers.find_studies(short_tiff)
    prepared = segment.prepare(files, default_engine)
    prepared.given.slices[list(black)] = 0
    expected = default_engine.engine.predict_logits(prepared.given.slices)
    run: list[int] = []
    predict = default_engine.engine.predict_logits

    def counted(slices: Any) -> Any:
        run.append(len(slices))
        return predict(slices)

    monkeypatch.setattr(default_engine.engine, "predict_logits", counted)
    np.testing.assert_array_equal(segment.logits_of(prepared, default_engine), expected)
    assert run == [5 - max(0, len(black) - 1)]
