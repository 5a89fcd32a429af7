"""The same study, engine and options give the same bytes: in another process, year, time zone, language and folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FORMATS = ("nifti", "dicom-seg", "dicom-sr", "secondary-capture")
FILES = {"mask.nii.gz", "segmentation.dcm", "report.dcm", "secondary-capture.dcm"}

# Everything that asks the clock from Python is told another time, from before the first import on.
RUN = """
import datetime, sys, time

shift_s = float(sys.argv.pop(1))
real_time = time.time
time.time = lambda: real_time() + shift_s

class Shifted(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return super().fromtimestamp(time.time(), tz)

    @classmethod
    def today(cls):
        return cls.now()

class ShiftedDay(datetime.date):
    @classmethod
    def today(cls):
        return cls.fromtimestamp(time.time())

datetime.datetime, datetime.date = Shifted, ShiftedDay
from edgeseg.cli import main
main()
"""


def _run(study: Path, output: Path, shift_s: float, **environment: str) -> dict[str, bytes]:
    """Return the files of a run in a process of its own, by their name."""
    formats = [part for name in FORMATS for part in ("--format", name)]
    command = [sys.executable, "-c", RUN, str(shift_s), "infer", str(study), "-o", str(output), *formats]
    result = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return {path.name: path.read_bytes() for path in output.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def runs(example_dicom: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Two runs as unlike each other as can be."""
    folder = tmp_path_factory.mktemp("runs")
    first = _run(example_dicom, folder / "a", 0.0, TZ="UTC", PYTHONHASHSEED="1", LC_ALL="C.UTF-8")
    days_s = 86400.0 * 1234.6
    second = _run(example_dicom, folder / "other place", days_s, TZ="Pacific/Auckland", PYTHONHASHSEED="77", LC_ALL="C")
    return first, second


def test_two_runs_give_the_same_bytes(runs: tuple[dict[str, bytes], dict[str, bytes]]) -> None:
    """Every DICOM object, and the NIfTI file with its compression's header."""
    first, second = runs
    assert set(first) == set(second) == FILES
    assert [name for name in first if first[name] != second[name]] == []


def test_the_clock_is_not_asked(runs: tuple[dict[str, bytes], dict[str, bytes]], tmp_path: Path) -> None:
    """All dates are the study's own."""
    import pydicom

    for name in FILES - {"mask.nii.gz"}:
        path = tmp_path / name
        path.write_bytes(runs[0][name])
        dates = {str(element.value) for element in pydicom.dcmread(path).iterall() if element.VR in ("DA", "DT")}
        assert dates == {"", "20000101"}
