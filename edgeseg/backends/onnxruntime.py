"""ONNX Runtime on the CPU: the reference for network files where their own runtime is not at hand."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgeseg.backends.base import Engine
from edgeseg.errors import EngineError, InputError
from edgeseg.types import ByteArray, FloatArray, Manifest


class OnnxRuntimeEngine(Engine):
    """Computes in the file's own types: FP32 here."""

    def __init__(self, content: bytes, manifest: Manifest, device: str = "auto") -> None:
        import onnxruntime

        if device not in ("auto", "cpu"):
            raise InputError(f"the backend onnxruntime runs on the CPU, not on {device}: give --device cpu")
        self.runtime = f"ONNX Runtime {onnxruntime.__version__}"
        self.device = "CPU"
        self.inference_precision = "f32"
        try:
            self._session: Any = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        except Exception as error:  # its binding raises types of its own that share no base
            raise EngineError(f"{self.runtime} refuses {manifest.name}: {str(error).splitlines()[0]}") from error
        self._input = self._session.get_inputs()[0].name

    def _run(self, slices: ByteArray) -> FloatArray:
        return np.asarray(self._session.run(None, {self._input: slices})[0], dtype=np.float32)

    def _release(self) -> None:
        self._session = None
