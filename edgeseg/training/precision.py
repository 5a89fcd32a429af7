"""The arithmetic of a training step: which 16-bit type, and whether the machine has it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from edgeseg.training.config import TrainConfig

if TYPE_CHECKING:
    import torch


def half_type(device: torch.device, half: str) -> torch.dtype:
    """The 16-bit type of mixed precision: BF16 on a CPU; on a GPU the one that the configuration names."""
    import torch

    return torch.bfloat16 if device.type == "cpu" or half == "bfloat16" else torch.float16


def cpu_has_bfloat16() -> bool:
    """Whether this CPU computes in BF16; one that does not emulates it, at a tenth of the speed of FP32."""
    import torch

    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def affordable(config: TrainConfig, device: torch.device) -> TrainConfig:
    """The configuration in FP32 where it asks for mixed precision of a CPU without BF16; else as it is."""
    if device.type != "cpu" or cpu_has_bfloat16():
        return config
    return replace(config, mixed_precision=False, mixed_precision_validation=False)


def describe(config: TrainConfig, device: str) -> str:
    """The arithmetic of a training step, in words; ``device`` as `edgeseg.training.distributed.describe` names it."""
    if not config.mixed_precision:
        return "float32"
    if "CPU" not in device:
        return f"mixed, {config.half}"
    return "mixed, bfloat16" if cpu_has_bfloat16() else "float32: mixed precision would be slow, this CPU has no BF16"
