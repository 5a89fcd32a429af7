"""How INT8 ranges arise: the network runs on calibration slices, and each convolution's input is watched."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from edgeseg import cache
from edgeseg.errors import EngineError, InputError
from edgeseg.export.graph import INPUT
from edgeseg.export.quantised import Ranges, save
from edgeseg.types import ByteArray

METHODS = {"min-max": "MinMax", "entropy": "Entropy", "percentile": "Percentile"}
"""Our names of ONNX Runtime's calibration methods."""

_TOGETHER = 16
"""Slices whose intermediate values are in memory at once; the first methods' histograms grow by each such part."""


def ranges(content: bytes, slices: ByteArray, method: str = "min-max") -> Ranges:
    """Lowest and highest value of the input of each convolution.

    Parameters
    ----------
    content
        A serialised ONNX model in FP32.
    slices
        uint8 (N, 3, H, W): network input.
    method
        One of `METHODS`.

    Raises
    ------
    InputError
        When there is no such method, or no slice.
    EngineError
        When ONNX Runtime fails, or lacks memory or room.
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod, calibrate

    check_method(method)
    if not len(slices):
        raise InputError("there are no slices to calibrate on")
    inputs = {n.input[0] for n in onnx.load_from_string(content).graph.node if n.op_type == "Conv"}
    with _failures(), tempfile.TemporaryDirectory() as folder:
        path = save(content, Path(folder))
        calibrator = calibrate.create_calibrator(
            path,
            ["Conv"],
            augmented_model_path=str(path.with_name("watched.onnx")),
            calibrate_method=CalibrationMethod[METHODS[method]],
            extra_options={"symmetric": True},
        )
        for start in range(0, len(slices), _TOGETHER):
            calibrator.collect_data(_reader(slices[start : start + _TOGETHER]))
        found: Any = calibrator.compute_data()
        limits = {name: found[name].range_value for name in found if name in inputs}
    return {name: (np.min(low).item(), np.max(high).item()) for name, (low, high) in limits.items()}


@contextmanager
def _failures() -> Iterator[None]:
    """ONNX Runtime raises types of its own that share no base, and it works on files."""
    try:
        yield
    except Exception as error:
        said = (str(error) or type(error).__name__).splitlines()[0]
        raise EngineError(
            f"the network could not be watched on the calibration slices ({said}): free memory and room in the folder "
            "of temporary files, or build on a larger machine"
        ) from error


def check_method(method: str) -> None:
    """Raise InputError when there is no such calibration method."""
    if method not in METHODS:
        raise InputError(f"there is no calibration method {method!r}: give {', '.join(METHODS)}")


def cached(content: bytes, slices: ByteArray, method: str, say: Callable[[str], None]) -> Ranges:
    """`ranges`, kept by the hashes of network and slices, the method and the runtime's version; says when it is used.

    Raises
    ------
    InputError
        As `ranges`.
    """
    import onnxruntime

    digest = hashlib.sha256(content)
    digest.update(hashlib.sha256(slices.tobytes()).digest())
    digest.update(f"{method} {slices.shape} {onnxruntime.__version__}".encode())
    place = cache.folder("ranges")
    path = place / f"{digest.hexdigest()}.json" if place else None
    if path and (kept := _kept(path)):
        say(f"ranges of {len(slices)} slices ({method}): taken from the cache, {path}")
        return kept
    say(f"watching the network on {len(slices)} calibration slices ({method})")
    found = ranges(content, slices, method)
    if path is None:
        return found
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.part")
        partial.write_text(json.dumps(found), encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        say(f"the ranges could not be kept ({error.strerror})")
    return found


def _kept(path: Path) -> Ranges:
    """Ranges from an earlier run; none where there are none that can be read."""
    try:
        return {name: (float(low), float(high)) for name, (low, high) in json.loads(path.read_text()).items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def _reader(slices: ByteArray) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """Hands out one slice at a time."""

        def __init__(self) -> None:
            self._slices: Iterator[ByteArray] = iter(slices[k : k + 1] for k in range(len(slices)))

        def get_next(self) -> dict[str, ByteArray] | None:
            """The next slice, or None after the last."""
            part = next(self._slices, None)
            return None if part is None else {INPUT: part}

    return Reader()
