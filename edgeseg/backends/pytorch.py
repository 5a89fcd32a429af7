"""The PyTorch model itself as an engine: what every other engine is compared with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeseg.backends.base import Engine
from edgeseg.types import ByteArray, FloatArray

if TYPE_CHECKING:
    from torch import nn


class PyTorchEngine(Engine):
    """Runs ``edgeseg.model.with_byte_input(network)`` in FP32 on the CPU."""

    def __init__(self, network: nn.Module, threads: int | None = None) -> None:
        import torch

        if threads is not None:
            torch.set_num_threads(threads)  # of the whole process

        self.runtime = f"PyTorch {torch.__version__}"
        self.device = "CPU"
        self.inference_precision = "f32"
        self._network: nn.Module = network.eval()

    def _run(self, slices: ByteArray) -> FloatArray:
        import torch

        with torch.inference_mode():
            logits = self._network(torch.from_numpy(slices))
        return np.asarray(logits.numpy(), dtype=np.float32)

    def _release(self) -> None:
        del self._network
