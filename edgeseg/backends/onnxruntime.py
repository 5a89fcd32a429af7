"""ONNX Runtime, on the CPU or through an execution provider that its installation has."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgeseg.backends.base import Engine
from edgeseg.errors import EngineError, InputError
from edgeseg.types import ByteArray, FloatArray, Manifest

_CPU, _CUDA, _TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
_PROVIDERS = {"cpu": (_CPU,), "cuda": (_CUDA, _CPU), "tensorrt": (_TENSORRT, _CUDA, _CPU)}
"""Device: its provider, and those that run what it cannot."""
_NAMES = {_CPU: "CPU", _CUDA: "CUDA", _TENSORRT: "TensorRT"}
_OPTIONS = {_CUDA: {"use_tf32": "0"}}
"""CUDA would round FP32 to TF32 by itself: parity is with FP32."""
_REMEDY = "give --device cpu, or put onnxruntime-gpu in place of onnxruntime"
_FATAL = 4
"""Severity of its log from which it is printed: what fails is raised here."""


class OnnxRuntimeEngine(Engine):
    """Computes in the file's own types: FP32 here."""

    def __init__(self, content: bytes, manifest: Manifest, device: str = "auto", threads: int | None = None) -> None:
        import onnxruntime

        self.runtime = f"ONNX Runtime {onnxruntime.__version__}"
        self.inference_precision = "f32"
        listed = list(onnxruntime.get_available_providers())
        wanted = _choose(device, listed)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _FATAL
        if threads is not None:
            options.intra_op_num_threads = threads
        if (manifest.calibration or {}).get("spelling") == "signed":
            # As TensorRT computes it: optimised at any level, biases are quantised, with scales that FP16 cannot hold.
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        given = [(name, _OPTIONS.get(name, {})) for name in wanted if name in listed]
        try:
            self._session: Any = onnxruntime.InferenceSession(content, options, providers=given)
        except Exception as error:  # its binding raises types of its own that share no base
            raise EngineError(f"{self.runtime} refuses {manifest.name}: {str(error).splitlines()[0]}") from error
        running = self._session.get_providers()[0]
        if device != "auto" and running != wanted[0]:
            raise InputError(
                f"ONNX Runtime lists {wanted[0]} and could not start it (it runs {running}): install the driver and "
                "libraries that its version needs, or give --device cpu"
            )
        self.device = _NAMES[running]
        self._input = self._session.get_inputs()[0].name

    def _run(self, slices: ByteArray) -> FloatArray:
        try:
            return np.asarray(self._session.run(None, {self._input: slices})[0], dtype=np.float32)
        except Exception as error:  # its own types again: `Engine` knows a runtime's failure by RuntimeError
            raise RuntimeError(str(error)) from error

    def _release(self) -> None:
        self._session = None


def _choose(device: str, listed: list[str]) -> tuple[str, ...]:
    """Providers for a device, best first; ``auto`` is CUDA where listed, else CPU: TensorRT builds for minutes."""
    if device == "auto":
        return _PROVIDERS["cuda" if _CUDA in listed else "cpu"]
    if device not in _PROVIDERS:
        raise InputError(f"the backend onnxruntime has no device {device}: give --device auto, {', '.join(_PROVIDERS)}")
    if _PROVIDERS[device][0] not in listed:
        raise InputError(
            f"this ONNX Runtime has no {_PROVIDERS[device][0]} for --device {device} (it has {', '.join(listed)}): "
            f"{_REMEDY}"
        )
    return _PROVIDERS[device]
