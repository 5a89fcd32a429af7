"""GDCM in a process of its own: on a damaged JPEG it ends the process that it runs in.

The process begins with the first file that needs it, decodes one file after the other, and ends with its parent.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import pickle
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np

_SERVE = "from edgeseg.readers import apart; apart.serve()"


class _Process:
    """The process, where it runs; one that was inherited by a fork counts as not there."""

    def __init__(self) -> None:
        self._running: subprocess.Popen[bytes] | None = None
        self._parent = 0
        self._lock = threading.Lock()

    def ask(self, path: Path) -> tuple[bool, Any]:
        with self._lock:
            if self._running is None or self._parent != os.getpid():
                self._begin()
            running = self._running
            if running is None or running.stdin is None or running.stdout is None:  # pragma: no cover - PIPE makes both
                raise ValueError("no process to decode in")
            try:
                pickle.dump(str(path), running.stdin)
                running.stdin.flush()
                answer: tuple[bool, Any] = pickle.load(running.stdout)
            except BaseException as error:  # it ended, or this process was interrupted while it worked
                self._end()
                if isinstance(error, (EOFError, OSError, pickle.UnpicklingError)):
                    raise ValueError("GDCM ended its process") from error
                raise
            return answer

    def _begin(self) -> None:
        self._running = subprocess.Popen(
            [sys.executable, "-c", _SERVE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
        self._parent = os.getpid()
        atexit.register(self._end)

    def _end(self) -> None:
        if self._running is None or self._parent != os.getpid():
            return
        atexit.unregister(self._end)
        self._running.kill()
        for pipe in (self._running.stdin, self._running.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):  # what was not sent yet has no reader any more
                    pipe.close()
        self._running.wait()
        self._running = None


_process = _Process()


def decode(path: Path) -> Any:
    """Pixels of a DICOM file as stored, (row, column) or (frame, row, column), decoded by GDCM.

    Parameters
    ----------
    path
        A file in a transfer syntax of JPEG.

    Raises
    ------
    ValueError
        It cannot be decoded.
    """
    decoded, value = _process.ask(path)
    if not decoded:
        raise ValueError(value)
    return value


def serve() -> None:
    """Answer on standard output for each path on standard input, until that ends."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # so that nothing that a C library prints comes between the answers
    while True:
        try:
            path = Path(pickle.load(sys.stdin.buffer))
        except EOFError:
            return
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                answer = True, _pixels(path)
        except Exception as error:  # decoders raise whatever they like
            answer = False, f"{type(error).__name__}: {error}"
        pickle.dump(answer, answers, protocol=pickle.HIGHEST_PROTOCOL)
        answers.flush()


def _pixels(path: Path) -> Any:
    import gdcm
    import pydicom
    from pydicom.pixels import pixel_array
    from pydicom.uid import JPEGExtended12Bit

    dataset = pydicom.dcmread(path)
    if dataset.file_meta.TransferSyntaxUID != JPEGExtended12Bit or int(dataset.BitsStored) <= 8:
        return pixel_array(dataset, decoding_plugin="gdcm")
    reader = gdcm.ImageReader()  # pydicom refuses JPEG extended with more than 8 bits, which GDCM's own reader decodes
    reader.SetFileName(str(path))
    if not reader.Read():
        raise ValueError("GDCM cannot read it")
    content = reader.GetImage().GetBuffer().encode("utf-8", "surrogateescape")
    kind = "<i2" if dataset.PixelRepresentation else "<u2"
    frames = np.frombuffer(content, kind).reshape(-1, int(dataset.Rows), int(dataset.Columns))
    return frames[0] if len(frames) == 1 else frames
