"""The one seam between edgeseg and whatever runs a network: arrays in, logits out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

import numpy as np

from edgeseg.device import DeviceLimits, DeviceTimes
from edgeseg.errors import EngineError
from edgeseg.types import ByteArray, FloatArray


class Engine(ABC):
    """A network file compiled by a runtime. A backend writes `_run` and `_release`; the checks are here, once.

    Attributes
    ----------
    runtime
        The runtime's name and version.
    device
        What it runs on.
    inference_precision
        What it computes in.
    keeps_precision
        Whether that is the manifest's, which parity was checked in; False where nobody can say.
    batch
        Slices at once.
    from_cache
        Whether it was compiled at an earlier start.
    """

    runtime: str
    device: str
    inference_precision: str
    keeps_precision: bool = True
    batch: int = 4
    from_cache: bool = False

    def predict_logits(self, slices: ByteArray) -> FloatArray:
        """Logits of FLAIR abnormality.

        Parameters
        ----------
        slices
            uint8 (N, 3, H, W), 0..255; N may be any number.

        Returns
        -------
        FloatArray
            float32 (N, 1, H, W).

        Raises
        ------
        EngineError
            When the engine was closed, its runtime fails, or returns another shape or values that are not finite.
        ValueError
            When ``slices`` is of another dtype or shape.
        """
        self._check(slices)
        count, _, rows, columns = slices.shape
        found = [np.empty((0, 1, rows, columns), np.float32)]
        for start in range(0, count, self.batch):
            part = np.ascontiguousarray(slices[start : start + self.batch])
            with self._failures(part):
                result = self._run(part)
            if result.shape != (len(part), 1, rows, columns):
                raise EngineError(f"{self.runtime} returned logits of the shape {result.shape}: build the engine again")
            found.append(result)
        logits = found[1] if len(found) == 2 and found[1].flags.owndata else np.concatenate(found)
        if not np.isfinite(logits).all():
            raise EngineError(
                f"{self.runtime} returned logits that are not finite: the engine or its runtime is broken"
            )
        return logits

    @contextmanager
    def _failures(self, slices: ByteArray) -> Iterator[None]:
        """A runtime's failure is known by RuntimeError."""
        try:
            yield
        except RuntimeError as error:
            said = str(error).strip().splitlines()
            raise EngineError(
                f"{self.runtime} failed on {slices.shape} slices: {said[-1] if said else error}"
            ) from error

    def _check(self, slices: ByteArray) -> None:
        if slices.dtype != np.uint8 or slices.ndim != 4 or slices.shape[1] != 3:
            raise ValueError(f"slices are {slices.dtype} {slices.shape}, expected uint8 (N, 3, H, W)")
        if self._closed:
            raise EngineError(f"this {self.runtime} engine was closed: open it again")

    def time_steps(self, slices: ByteArray) -> DeviceTimes | None:
        """Copies and network timed apart by the device's own clock; None for an engine that has none, as on a CPU.

        Parameters
        ----------
        slices
            uint8 (N, 3, H, W), N at least 1; timed are as many of them, from the first, as the engine takes at once.

        Raises
        ------
        EngineError
            When the engine was closed, or its runtime fails.
        ValueError
            When ``slices`` is of another dtype or shape.
        """
        self._check(slices)
        with self._failures(slices):
            return self._time(slices)

    def limits(self) -> DeviceLimits | None:
        """What the GPU's driver says that it can do; None where there is no GPU."""
        return None

    def compiled(self) -> bytes | None:
        """The network as this runtime compiled it, for `edgeseg.backends.open_engine`; None where it is not kept."""
        return None

    def close(self) -> None:
        """Give the runtime's memory back; a second call does nothing."""
        if not self._closed:
            self._closed = True
            self._release()

    _closed = False

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _time(self, slices: ByteArray) -> DeviceTimes | None:  # noqa: ARG002  for an engine that has a clock
        """One batch, timed."""
        return None

    @abstractmethod
    def _run(self, slices: ByteArray) -> FloatArray:
        """uint8 (n, 3, H, W) with 1 <= n <= batch to float32 (n, 1, H, W)."""

    @abstractmethod
    def _release(self) -> None:
        """Give the runtime's memory back."""
