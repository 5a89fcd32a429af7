"""Several processes that train one network, started by ``torchrun``: the same steps as one process at the same batch.

Loss and batch normalisation are computed over the global batch: their sums are added up over the processes by
differentiable reductions, so the gradients that PyTorch's DistributedDataParallel averages are those of one process.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from edgeseg.errors import ConfigError

_PATIENCE = timedelta(hours=2)
"""Between two folds the first process measures one and builds its bundle, and the others wait."""

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class Processes:
    """One process among those of the run; alone by default.

    Parameters
    ----------
    rank, count
        Its number, from 0, and how many there are.
    device
        Name of the device that this process trains on.
    """

    rank: int = 0
    count: int = 1
    device: str = "cpu"

    @property
    def leads(self) -> bool:
        """Whether this process writes the run's files and reports."""
        return self.rank == 0

    def own(self, size: int) -> slice:
        """The rows of a global batch of ``size`` that are this process's."""
        return slice(size * self.rank // self.count, size * (self.rank + 1) // self.count)

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """Element-wise sum of a float tensor over the processes; gradients flow through it."""
        if self.count == 1:
            return values
        summed: torch.Tensor = _differentiable_sum().apply(values)
        return summed

    def gather(self, content: list[Any]) -> list[Any]:
        """The lists of all processes, one after the other."""
        if self.count == 1:
            return content
        from torch import distributed

        gathered: list[Any] = [None] * self.count
        distributed.all_gather_object(gathered, content)
        return [item for part in gathered for item in part]

    def agree(self, value: int) -> int:
        """The first process's value, in all of them."""
        if self.count == 1:
            return value
        from torch import distributed

        values = [value]
        distributed.broadcast_object_list(values, src=0)
        return values[0]


@cache
def _differentiable_sum() -> Any:
    """Sum over the processes, whose gradient is the sum of their gradients."""
    import torch
    from torch import distributed

    class Sum(torch.autograd.Function):
        @staticmethod
        def forward(_: Any, values: torch.Tensor) -> torch.Tensor:
            summed = values.clone()
            distributed.all_reduce(summed)
            return summed

        @staticmethod
        def backward(_: Any, *gradients: torch.Tensor) -> torch.Tensor:
            summed = gradients[0].clone()
            distributed.all_reduce(summed)
            return summed

    return Sum


@contextmanager
def joined(gpus: tuple[int, ...], batch_size: int) -> Iterator[Processes]:
    """Join the processes that ``torchrun`` started, or stand alone.

    Parameters
    ----------
    gpus
        The devices that the configuration names; without a GPU here the CPU is taken.
    batch_size
        Slices of a global batch.

    Raises
    ------
    ConfigError
        When several devices are named but one process was started, a device is not there, or a batch has fewer slices
        than there are processes.
    """
    import torch

    count = int(os.environ.get("WORLD_SIZE", "1"))
    rank, local = int(os.environ.get("RANK", "0")), int(os.environ.get("LOCAL_RANK", "0"))
    device = _device(gpus, count, local)
    if batch_size < count:
        raise ConfigError(f"training.batch_size is {batch_size}, but there are {count} processes: each needs a slice")
    if count == 1:
        yield Processes(device=device)
        return
    if device != "cpu":
        torch.cuda.set_device(device)
    torch.distributed.init_process_group("gloo" if device == "cpu" else "nccl", timeout=_PATIENCE)
    try:
        yield Processes(rank, count, device)
    finally:
        torch.distributed.destroy_process_group()


def _device(gpus: tuple[int, ...], count: int, local: int) -> str:
    import torch

    if not torch.cuda.is_available() or not gpus:
        return "cpu"
    if len(gpus) > 1 and count == 1:
        raise ConfigError(
            f"environment.gpus names {len(gpus)} devices: start a process for each, with torchrun --nproc-per-node "
            f"{len(gpus)} --no-python edgeseg train ..."
        )
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if len(gpus) < here:
        raise ConfigError(f"environment.gpus names {len(gpus)} devices for {here} processes: name one for each")
    number = gpus[local]
    if number >= torch.cuda.device_count():
        raise ConfigError(
            f"environment.gpus names device {number}, but this machine has {torch.cuda.device_count()}, from 0"
        )
    return f"cuda:{number}"


def wrap(network: nn.Module, processes: Processes) -> nn.Module:
    """The network as its processes train it: its gradients averaged, its batch normalisation over the global batch."""
    if processes.count == 1:
        return network
    from torch import nn

    if processes.device == "cpu":
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.forward = partial(_normalise, processes, module)  # type: ignore[method-assign]
        return nn.parallel.DistributedDataParallel(network, find_unused_parameters=True)
    from timm.layers import convert_sync_batchnorm

    converted = convert_sync_batchnorm(network)
    return nn.parallel.DistributedDataParallel(converted, device_ids=[processes.device], find_unused_parameters=True)


def _normalise(processes: Processes, norm: Any, features: torch.Tensor) -> torch.Tensor:
    """Batch normalisation over the global batch (Ioffe and Szegedy, 2015): PyTorch's own knows GPUs alone."""
    import torch

    if not norm.training:
        normalised: torch.Tensor = type(norm).forward(norm, features)
        return normalised
    values = features.to(torch.promote_types(features.dtype, torch.float32))
    channels = values.shape[1]
    sums = torch.cat([values.sum((0, 2, 3)), values.new_tensor([values.numel() / channels])])
    sums = processes.total(sums)
    mean, count = sums[:-1] / sums[-1], sums[-1].detach()
    centred = values - mean.view(1, -1, 1, 1)
    variance = processes.total(centred.square().sum((0, 2, 3))) / count
    if norm.track_running_stats:
        with torch.no_grad():
            norm.num_batches_tracked += 1
            norm.running_mean.lerp_(mean, norm.momentum)
            norm.running_var.lerp_(variance * count / (count - 1), norm.momentum)
    scale = norm.weight * torch.rsqrt(variance + norm.eps)
    result: torch.Tensor = (centred * scale.view(1, -1, 1, 1) + norm.bias.view(1, -1, 1, 1)).to(features.dtype)
    for name in ("drop", "act"):  # timm's batch normalisation holds its activation
        if hasattr(norm, name):
            result = getattr(norm, name)(result)
    return result


def describe(processes: Processes, gpus: tuple[int, ...]) -> str:
    """What trains, in words."""
    import torch

    number = f"{processes.count} processes, " if processes.count > 1 else ""
    if processes.device != "cpu":
        return f"{number}{torch.cuda.get_device_name(processes.device)}"
    return f"{number}CPU" + (" (the configuration names a GPU; there is none here)" if gpus else "")
