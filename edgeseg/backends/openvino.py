"""OpenVINO: the embedded engine, on any CPU."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgeseg.backends.base import Engine
from edgeseg.errors import EngineError, InputError
from edgeseg.types import ByteArray, FloatArray, Manifest

_SLICES = 2
"""In a request (``docs/speed.md``)."""


class OpenVinoEngine(Engine):
    """Compiles with the manifest's precision as a hint: OpenVINO would take BF16 by itself where a CPU has it.

    Several requests are under way at the same time, on as many streams as OpenVINO finds best for the machine: threads
    that each work on slices of their own never wait for each other, which one request on all of them makes them do.
    """

    batch = 64

    def __init__(
        self,
        content: bytes,
        manifest: Manifest,
        device: str = "auto",
        threads: int | None = None,
        compiled: bytes | None = None,
    ) -> None:
        import openvino

        core = openvino.Core()
        self.device = "CPU" if device in ("auto", "cpu") else device.upper()
        if self.device != "CPU" and self.device not in core.available_devices:  # to ask starts every device's plugin
            known = ", ".join(core.available_devices)
            raise InputError(f"OpenVINO has no device {device} on this machine (it has {known}): give one of these")
        self.runtime = f"OpenVINO {openvino.__version__.split('-')[0]}"
        hints: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": manifest.inference_precision,
            "PERFORMANCE_HINT": "THROUGHPUT",
        }
        if threads is not None:
            hints["INFERENCE_NUM_THREADS"] = threads
        self._head = f"{openvino.__version__} {sorted(hints.items())}\n".encode()
        self._compiled: Any = self._kept(core, compiled, hints) if compiled else None
        self.from_cache = self._compiled is not None
        try:
            self._compiled = self._compiled or core.compile_model(core.read_model(content), self.device, hints)
        except RuntimeError as error:
            raise EngineError(f"{self.runtime} refuses {manifest.name}: {str(error).splitlines()[-1]}") from error
        self.inference_precision = str(self._compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name())
        streams = int(self._compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        self._requests: list[Any] = [self._compiled.create_infer_request() for _ in range(2 * streams)]

    def compiled(self) -> bytes:
        """The network as it was compiled, behind OpenVINO's version and hints."""
        return self._head + bytes(self._compiled.export_model().getbuffer())

    def _kept(self, core: Any, compiled: bytes, hints: dict[str, Any]) -> Any:
        """What was compiled before; None where that was another OpenVINO, with other hints, or it is not taken."""
        if not compiled.startswith(self._head):
            return None
        try:
            return core.import_model(compiled[len(self._head) :], self.device, hints)
        except RuntimeError:
            return None

    def _run(self, slices: ByteArray) -> FloatArray:
        from openvino import Tensor

        slices = slices if slices.flags.writeable else slices.copy()  # OpenVINO shares no others
        logits = np.empty((len(slices), 1, *slices.shape[2:]), np.float32)
        try:
            for turn, start in enumerate(range(0, len(slices), _SLICES)):
                part = slice(start, start + _SLICES)
                request = self._requests[turn % len(self._requests)]
                request.wait()
                request.set_input_tensor(Tensor(slices[part], shared_memory=True))
                request.set_output_tensor(Tensor(logits[part], shared_memory=True))
                request.start_async()
        finally:
            self._wait()
        return logits

    def _wait(self) -> None:
        """Let all requests end, whatever becomes of one of them: they write into an array that is about to go."""
        failures = []
        for request in self._requests:
            try:
                request.wait()
            except RuntimeError as error:
                failures.append(error)
        if failures:
            raise failures[0]

    def _release(self) -> None:
        self._requests = []
        self._compiled = None
