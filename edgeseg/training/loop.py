"""The training loop: epochs of optimiser steps, validation, a checkpoint after each."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeseg.errors import ConfigError, InputError
from edgeseg.training import batches
from edgeseg.training.batches import Preparation
from edgeseg.training.checkpoint import BEST, State, Trained, resume, save
from edgeseg.training.config import TrainConfig
from edgeseg.training.dataset import SliceSet
from edgeseg.training.distributed import Processes, wrap
from edgeseg.training.loss import bce_dice
from edgeseg.training.precision import affordable, half_type
from edgeseg.training.validation import Validation, validate

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class Epoch:
    """One finished epoch (``number`` counts from 1); ``training`` and ``validation`` None when not measured."""

    number: int
    epochs: int
    train_loss: float
    learning_rate: float
    seconds: float
    slices_per_second: float
    training: Validation | None
    validation: Validation | None


@dataclass(frozen=True)
class Step:
    """One finished optimiser step; ``slices`` were taken in it."""

    epoch: int
    step: int
    steps: int
    loss: float
    learning_rate: float
    slices: int


Report = Callable[[Step | Epoch], None]


def learning_rate(config: TrainConfig, step: int, steps: int, steps_per_epoch: int) -> float:
    """Learning rate that step number ``step`` (from 0) of ``steps`` is taken with.

    Linear warm-up over ``warmup_epochs``; then constant, linear to 0, or half a cosine to 0:
    0.5 (1 + cos(pi t / T)) (Loshchilov and Hutter, SGDR, 2017, without restarts).
    """
    warmup = round(config.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return config.learning_rate * (step + 1) / (warmup + 1)
    share = (step - warmup) / max(1, steps - warmup)
    if config.schedule == "Cosine":
        return config.learning_rate * 0.5 * (1 + math.cos(math.pi * share))
    return config.learning_rate * (1 - share if config.schedule == "Linear" else 1.0)


def fit(
    network: nn.Module,
    training: SliceSet,
    validation: SliceSet,
    config: TrainConfig,
    seed: int,
    run: Path,
    report: Report,
    go_on: bool = False,
    processes: Processes | None = None,
) -> State:
    """Train, validate and keep a checkpoint after every epoch; return the epochs' and steps' figures.

    Parameters
    ----------
    network
        Trained in place; at the end it holds the last epoch's weights, or the best one's with ``keep_best``.
    training, validation, config
        What to train on, what to measure on, and how.
    seed
        Every draw of the run comes from it and the epoch's number, so a resumed run takes the same steps.
    run
        The run's folder; the checkpoint and the records are written there.
    report
        Called after every step and every epoch.
    go_on
        Go on from the folder's checkpoint.
    processes
        This process among those that share the run; None is alone on the CPU or the first GPU.

    Raises
    ------
    InputError
        When there are too few slices for a batch, or the checkpoint does not fit.
    """
    import torch

    if batches.steps_per_epoch(training, config) == 0:
        raise InputError(
            f"{len(training)} training slices do not fill a batch of {config.batch_size}: lower training.batch_size"
        )
    processes = processes or Processes(device="cuda:0" if torch.cuda.is_available() else "cpu")
    config = affordable(config, torch.device(processes.device))
    trained = _movers(network, config, torch.device(processes.device))
    state = resume(run, trained) if go_on else State()
    if config.adjust_batch_size:
        state.batch_size = state.batch_size or min(processes.gather([_fitting_batch(network, config, processes)]))
        config = replace(config, batch_size=state.batch_size)
    _check_shares(training, config, processes)
    ready = batches.preparation(config, processes)
    shared = wrap(network, processes)
    while state.epoch < config.epochs:
        epoch = _epoch(shared, trained, training, validation, ready, state, seed, report)
        _check_finite(network, epoch)
        if processes.leads:
            save(run, trained, state, config.keep_best and _is_best(state, epoch.validation, config))
            report(epoch)
    if state.history[-1]["validation"] is None:  # fewer epochs than the checkpoint was to have
        state.history[-1]["validation"] = asdict(validate(network, validation, ready))
    if config.keep_best and processes.leads and (run / BEST).exists():
        network.load_state_dict(torch.load(run / BEST, map_location=processes.device, weights_only=True))
    return state


def _movers(network: nn.Module, config: TrainConfig, device: torch.device) -> Trained:
    """The network on its device, its optimiser with a rate for each group of layers, and the loss scaler."""
    import torch

    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if device.type == "cpu" and config.mixed_precision:
        _depthwise_in_fp32(network)
    names = {"backbone": "encoder", "head": "segmentation_head"}
    prefixes = tuple(names.get(layer, layer) for layer in config.differential_layers)
    others: list[nn.Parameter] = []
    named: list[nn.Parameter] = []
    for name, parameter in network.named_parameters():
        (named if prefixes and name.startswith(prefixes) else others).append(parameter)
    if prefixes and not named:
        raise ConfigError(
            f"training.differential_learning_rate_layers is {list(config.differential_layers)}, but "
            f"{config.architecture} has only {', '.join(sorted(name for name, _ in network.named_children()))}"
        )
    groups: list[dict[str, Any]] = [{"params": others, "share": 1.0}]
    if named:
        share = config.differential_rate / config.learning_rate if config.learning_rate else 0.0
        groups.append({"params": named, "share": share})
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=config.weight_decay)
    scaled = config.mixed_precision and half_type(device, config.half) == torch.float16
    return Trained(network, optimizer, torch.amp.GradScaler(device.type, enabled=scaled))


def _depthwise_in_fp32(network: nn.Module) -> None:
    """Keep depthwise convolutions out of BF16: their gradients take the CPU up to eight times as long there."""
    import torch
    from torch import nn

    def forward(convolution: nn.Conv2d, features: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", enabled=False):
            return type(convolution).forward(convolution, features.float()).to(features.dtype)

    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1:
            module.forward = partial(forward, module)  # type: ignore[method-assign]


def _check_shares(data: SliceSet, config: TrainConfig, processes: Processes) -> None:
    """Refuse batches that would leave a process without a slice."""
    smallest = min(len(batch) for batch in batches.batches(data, config, (0, 0)))
    if smallest < processes.count:
        raise ConfigError(
            f"a batch of {smallest} slices cannot be shared by {processes.count} processes: set "
            "training.drop_last_batch to true, or start fewer processes"
        )


def _check_finite(network: nn.Module, epoch: Epoch) -> None:
    """Stop a run that diverged before its checkpoint is written over."""
    import torch

    if all(bool(torch.isfinite(parameter).all()) for parameter in network.parameters()):
        return
    raise InputError(
        f"the weights are no numbers any more after epoch {epoch.number}: the checkpoint of the epoch before is kept; "
        "lower training.learning_rate, or set training.gradient_clip"
    )


def _fitting_batch(network: nn.Module, config: TrainConfig, processes: Processes) -> int:
    """The largest batch, halved from the configuration's, of which this process's share fits into memory."""
    import torch

    device = next(network.parameters()).device
    kept = {name: value.clone() for name, value in network.state_dict().items()}
    size = config.batch_size
    while True:
        try:
            slices = torch.zeros(math.ceil(size / processes.count), 3, config.size_px, config.size_px, device=device)
            with torch.autocast(device.type, half_type(device, config.half), enabled=config.mixed_precision):
                logits = network.train()(slices)
            bce_dice(logits, torch.zeros_like(logits)).backward()  # type: ignore[no-untyped-call]
            break
        except RuntimeError as error:  # a CPU's allocator has no error of its own
            if "memory" not in str(error) or size == 1:
                raise
            size = size // 2
        finally:
            network.zero_grad(set_to_none=True)
            network.load_state_dict(kept)
    return size


def _epoch(
    network: nn.Module,
    trained: Trained,
    training: SliceSet,
    validation: SliceSet,
    ready: Preparation,
    state: State,
    seed: int,
    report: Report,
) -> Epoch:
    """Take an epoch's steps and measure it; ``state`` grows by it."""
    config = ready.config
    started = time.perf_counter()
    state.epoch += 1
    taken = batches.batches(training, config, (seed, state.epoch - 1))
    losses = _steps(network, trained, training, taken, ready, state, seed, report)
    seconds = time.perf_counter() - started
    due = state.epoch % config.evaluation_epochs == 0 or state.epoch == config.epochs
    epoch = Epoch(
        state.epoch,
        config.epochs,
        float(np.mean(losses)),
        state.steps[-1][2],
        seconds,
        sum(map(len, taken)) / seconds,
        validate(trained.network, training, ready) if due and config.train_metric else None,
        validate(trained.network, validation, ready) if due else None,
    )
    state.history.append(asdict(epoch))
    return epoch


def _steps(
    network: nn.Module,
    trained: Trained,
    data: SliceSet,
    taken: list[Any],
    ready: Preparation,
    state: State,
    seed: int,
    report: Report,
) -> list[float]:
    import torch

    config, drawn = ready.config, seed * 100_003 + state.epoch - 1
    torch.manual_seed(drawn)  # dropout, where a network has it
    device = torch.device(ready.processes.device)
    dtype = half_type(device, config.half)
    network.train()
    per_epoch = math.ceil(len(taken) / config.grad_accumulation)
    losses: list[float] = []
    for number, (slices, masks) in enumerate(ready.for_training(data, taken, drawn)):
        begun = number - number % config.grad_accumulation
        group = taken[begun : begun + config.grad_accumulation]  # the last one may be shorter
        with torch.autocast(device.type, dtype, enabled=config.mixed_precision):
            logits = network(slices)
        loss = bce_dice(logits, masks, ready.processes.total)
        trained.scaler.scale(loss / len(group)).backward()  # type: ignore[no-untyped-call]
        losses.append(float(loss.detach()))
        if number + 1 == begun + len(group):
            step = (state.epoch - 1) * per_epoch + number // config.grad_accumulation
            rate = learning_rate(config, step, config.epochs * per_epoch, per_epoch)
            _step(trained, rate, config.gradient_clip)
            mean = float(np.mean(losses[-len(group) :]))
            state.steps.append((step + 1, state.epoch, rate, mean))
            report(Step(state.epoch, step + 1, config.epochs * per_epoch, mean, rate, sum(map(len, group))))
    return losses


def _step(trained: Trained, rate: float, clip: float) -> None:
    import torch

    for group in trained.optimizer.param_groups:
        group["lr"] = rate * group["share"]
    if clip > 0:
        trained.scaler.unscale_(trained.optimizer)
        torch.nn.utils.clip_grad_norm_(trained.network.parameters(), clip)
    trained.scaler.step(trained.optimizer)
    trained.scaler.update()
    trained.optimizer.zero_grad(set_to_none=True)


def _is_best(state: State, figures: Validation | None, config: TrainConfig) -> bool:
    if figures is None:
        return False
    value = figures.iou if config.metric == "IoU" else figures.dice
    if value <= state.best:
        return False
    state.best = value
    return True
