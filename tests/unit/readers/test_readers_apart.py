"""GDCM's own process: files that end it are refused, and the next file is read."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import forms
import numpy as np
import pytest
import seeds

from edgeseg.errors import StudyError
from edgeseg.readers import apart, find_studies, read_study

DAMAGED = Path(__file__).parent / "damaged"
"""The example's files, as `benchmarks/fuzz.py` damaged them: GDCM 3.2 aborts on both."""
JPEG = "JPEG lossless, first-order prediction"


@pytest.fixture
def compressed(tmp_path: Path) -> Path:
    """A series in JPEG lossless."""
    missing = forms.missing_encoder(JPEG)
    if missing is not None:
        pytest.skip(f"{missing} is not installed, which writes {JPEG}")
    return forms.convert_folder(seeds.small_series(tmp_path / "plain"), tmp_path / "jpeg", JPEG)


@pytest.mark.parametrize("name", ["jpeg-lossless.dcm", "jpeg-extended.dcm"])
def test_a_file_that_ends_gdcm_is_refused_and_the_next_one_is_read(name: str, compressed: Path, tmp_path: Path) -> None:
    (bad,) = find_studies(DAMAGED / name)
    with pytest.raises(StudyError, match=r"a header that can be read and pixels that cannot \(truncated or damaged\)"):
        read_study(bad)
    (good,), (plain,) = find_studies(compressed), find_studies(tmp_path / "plain")
    np.testing.assert_array_equal(read_study(good).flair.voxels, read_study(plain).flair.voxels)


def test_what_cannot_be_decoded_is_said_and_leaves_the_process(compressed: Path) -> None:
    files = sorted(compressed.iterdir())
    first = apart.decode(files[0])
    running = apart._process._running
    with pytest.raises(ValueError, match="FileNotFoundError"):
        apart.decode(compressed / "nowhere")
    assert apart._process._running is running
    np.testing.assert_array_equal(apart.decode(files[0]), first)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc to look for processes in")
def test_the_process_ends_with_its_parent_even_when_that_is_killed(compressed: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from edgeseg.readers import apart\n"
        "apart.decode(Path(sys.argv[1]))\n"
        "print(apart._process._running.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    command = [sys.executable, "-c", code, str(next(compressed.iterdir()))]
    process = int(subprocess.run(command, capture_output=True, text=True, check=False).stdout)
    patience = time.monotonic() + 20
    while _runs(process) and time.monotonic() < patience:
        time.sleep(0.05)
    assert not _runs(process)


def _runs(process: int) -> bool:
    try:
        return "apart" in Path(f"/proc/{process}/cmdline").read_text()
    except OSError:
        return False


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # Python 3.12's on forks beside threads
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_fork_has_a_process_of_its_own(compressed: Path) -> None:
    path = next(compressed.iterdir())
    expected = apart.decode(path)
    if (child := os.fork()) == 0:
        same = False
        try:
            same = bool(np.array_equal(apart.decode(path), expected))
        finally:
            os._exit(0 if same else 1)
    assert os.waitpid(child, 0)[1] == 0
    np.testing.assert_array_equal(apart.decode(path), expected)
