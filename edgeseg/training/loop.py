"""The training loop: epochs, validation, checkpoints that resume."""

from __future__ import annotations

import json
import math
import pickle
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgeseg import metrics
from edgeseg.errors import InputError
from edgeseg.training.augmentation import augment
from edgeseg.training.config import TrainConfig
from edgeseg.training.dataset import SliceSet
from edgeseg.training.loss import bce_dice
from edgeseg.types import BoolArray

if TYPE_CHECKING:
    import torch
    from torch import nn

CHECKPOINT = "checkpoint.pt"
_VALIDATION_BATCH = 16


@dataclass(frozen=True)
class Validation:
    """Figures of an epoch on the validation slices.

    Parameters
    ----------
    loss
        BCE plus Dice loss, mean over the batches.
    iou, dice
        Mean over the slices whose drawn mask is not empty.
    dice_patient
        Dice of whole volumes, mean over the patients.
    false_positive_share
        Share, 0..1, of the slices without abnormality in which at least one pixel is marked; None without such slices.
    """

    loss: float
    iou: float
    dice: float
    dice_patient: float
    false_positive_share: float | None


@dataclass(frozen=True)
class Epoch:
    """One finished epoch (``number`` counts from 1)."""

    number: int
    train_loss: float
    learning_rate: float
    seconds: float
    slices_per_second: float
    validation: Validation | None


@dataclass(frozen=True)
class Step:
    """One finished optimiser step."""

    epoch: int
    step: int
    steps: int
    loss: float
    learning_rate: float


@dataclass
class _State:
    epoch: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    best: float = -math.inf


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
    resume: bool = False,
) -> list[dict[str, Any]]:
    """Train, validate and keep a checkpoint after every epoch; return the epochs' figures.

    Parameters
    ----------
    network
        Trained in place; at the end it holds the last epoch's weights, or the best one's with ``keep_best``.
    training, validation, config
        What to train on, what to measure on, and how.
    seed
        Every draw of the run comes from it and the epoch's number, so a resumed run takes the same steps.
    run
        The run's folder; ``checkpoint.pt`` and ``log.jsonl`` are written there.
    report
        Called after every step and every epoch.
    resume
        Go on from the folder's checkpoint.

    Raises
    ------
    InputError
        When there are too few slices for a batch, or the checkpoint does not fit.
    """
    import torch

    steps_per_epoch = _steps(len(_order(training, config, np.random.default_rng(seed))), config)
    if steps_per_epoch == 0:
        raise InputError(f"{len(training)} training slices do not fill a batch of {config.batch_size}")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if device.type == "cpu" and config.mixed_precision:
        _depthwise_in_fp32(network)
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    scaler = torch.amp.GradScaler(device.type, enabled=config.mixed_precision and device.type == "cuda")
    state = _resume(run, network, optimizer, scaler) if resume else _State()
    while state.epoch < config.epochs:
        started = time.perf_counter()
        losses, rate = _train_epoch(
            network, optimizer, scaler, training, config, _Clock(seed, state.epoch, steps_per_epoch), report
        )
        seconds = time.perf_counter() - started
        state.epoch += 1
        due = state.epoch % config.evaluation_epochs == 0 or state.epoch == config.epochs
        figures = validate(network, validation, config) if due else None
        epoch = Epoch(
            state.epoch, float(np.mean(losses)), rate, seconds, steps_per_epoch * config.batch_size / seconds, figures
        )
        state.history.append(asdict(epoch))
        _save(run, network, optimizer, scaler, state, _is_best(state, figures, config))
        report(epoch)
    if config.keep_best:
        network.load_state_dict(torch.load(run / "best.pt", map_location=device, weights_only=True))
    return state.history


@dataclass(frozen=True)
class _Clock:
    seed: int
    epoch: int
    steps_per_epoch: int


def _order(data: SliceSet, config: TrainConfig, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """An epoch's slices in the order that they are taken in; ``balanced`` draws as many empty ones as abnormal ones."""
    if config.slices != "balanced":
        return rng.permutation(len(data))
    abnormal = data.masks.any(axis=(1, 2))
    empty = np.flatnonzero(~abnormal)
    drawn = rng.choice(empty, min(len(empty), int(abnormal.sum())), replace=False)
    return rng.permutation(np.concatenate([np.flatnonzero(abnormal), drawn]))


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


def _steps(slices: int, config: TrainConfig) -> int:
    batches = slices / config.batch_size
    whole = math.floor(batches) if config.drop_last_batch else math.ceil(batches)
    return math.ceil(whole / config.grad_accumulation)


def _batches(count: int, config: TrainConfig, order: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.int64]]:
    stop = count - count % config.batch_size if config.drop_last_batch else count
    for start in range(0, stop, config.batch_size):
        yield order[start : start + config.batch_size]


def _train_epoch(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    data: SliceSet,
    config: TrainConfig,
    clock: _Clock,
    report: Report,
) -> tuple[list[float], float]:
    import torch

    device = next(network.parameters()).device
    network.train()
    order = _order(data, config, np.random.default_rng((clock.seed, clock.epoch)))
    generator = torch.Generator().manual_seed(clock.seed * 100_003 + clock.epoch)
    torch.manual_seed(clock.seed * 100_003 + clock.epoch)  # dropout, where a network has it
    losses: list[float] = []
    batches = list(_batches(len(order), config, order))
    total, rate = config.epochs * clock.steps_per_epoch, 0.0
    for number, chosen in enumerate(batches):
        step = clock.epoch * clock.steps_per_epoch + number // config.grad_accumulation
        rate = learning_rate(config, step, total, clock.steps_per_epoch)
        slices, masks = augment(*_to_tensors(data, chosen, device), config.augmentation, generator)
        with torch.autocast(device.type, _half(device), enabled=config.mixed_precision):
            logits = network(slices.contiguous(memory_format=torch.channels_last))
        loss = bce_dice(logits, masks)
        scaler.scale(loss / config.grad_accumulation).backward()  # type: ignore[no-untyped-call]
        losses.append(float(loss.detach()))
        if (number + 1) % config.grad_accumulation == 0 or number + 1 == len(batches):
            _step(network, optimizer, scaler, rate, config.gradient_clip)
            report(Step(clock.epoch + 1, step + 1, total, losses[-1], rate))
    return losses, rate


def _step(
    network: nn.Module, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, rate: float, clip: float
) -> None:
    import torch

    for group in optimizer.param_groups:
        group["lr"] = rate
    if clip > 0:
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(network.parameters(), clip)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)


def _half(device: torch.device) -> torch.dtype:
    import torch

    return torch.float16 if device.type == "cuda" else torch.bfloat16


def _to_tensors(
    data: SliceSet, chosen: npt.NDArray[np.int64], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    slices = torch.from_numpy(data.slices[chosen]).to(device).float() / 255
    masks = torch.from_numpy(data.masks[chosen]).to(device).float()[:, None]
    return slices, masks


def validate(network: nn.Module, data: SliceSet, config: TrainConfig) -> Validation:
    """Figures of the network on the validation slices, none of them dropped."""
    import torch

    device = next(network.parameters()).device
    network.eval()
    losses, marked = [], []
    logit_threshold = math.log(config.threshold / (1 - config.threshold))
    with torch.inference_mode():
        for start in range(0, len(data), _VALIDATION_BATCH):
            chosen = np.arange(start, min(start + _VALIDATION_BATCH, len(data)))
            slices, masks = _to_tensors(data, chosen, device)
            with torch.autocast(device.type, _half(device), enabled=config.mixed_precision_validation):
                logits = network(slices.contiguous(memory_format=torch.channels_last)).float()
            losses.append(float(bce_dice(logits, masks)))
            marked.append((logits[:, 0] >= logit_threshold).cpu().numpy())
    return _figures(float(np.mean(losses)), np.concatenate(marked), data)


def _figures(loss: float, marked: BoolArray, data: SliceSet) -> Validation:
    abnormal = np.flatnonzero(data.masks.any(axis=(1, 2)))
    empty = np.flatnonzero(~data.masks.any(axis=(1, 2)))
    patients = [data.patients == number for number in np.unique(data.patients)]
    return Validation(
        loss=loss,
        iou=float(np.mean([metrics.iou(marked[k], data.masks[k]) for k in abnormal])),
        dice=float(np.mean([metrics.dice(marked[k], data.masks[k]) for k in abnormal])),
        dice_patient=float(np.mean([metrics.dice(marked[own], data.masks[own]) for own in patients])),
        false_positive_share=float(marked[empty].any(axis=(1, 2)).mean()) if len(empty) else None,
    )


def _is_best(state: _State, figures: Validation | None, config: TrainConfig) -> bool:
    if figures is None:
        return False
    value = figures.iou if config.metric == "IoU" else figures.dice
    if value <= state.best:
        return False
    state.best = value
    return config.keep_best


def _save(
    run: Path,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    state: _State,
    best: bool,
) -> None:
    everything = {
        "network": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scaler": scaler.state_dict(),
        "epoch": state.epoch,
        "best": state.best,
        "history": json.dumps(state.history),
    }
    _replace(everything, run / CHECKPOINT)
    if best:
        _replace(network.state_dict(), run / "best.pt")
    lines = [json.dumps(epoch) + "\n" for epoch in state.history]
    (run / "log.jsonl").write_text("".join(lines), encoding="utf-8")


def _replace(content: object, path: Path) -> None:
    import torch

    partial = path.with_suffix(".part")
    torch.save(content, partial)
    partial.replace(path)


def _resume(run: Path, network: nn.Module, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler) -> _State:
    import torch

    path = run / CHECKPOINT
    if not path.is_file():
        raise InputError(f"no {CHECKPOINT} in {run} to resume from: start without --resume")
    device = next(network.parameters()).device
    try:
        saved = torch.load(path, map_location=device, weights_only=True)
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        raise InputError(f"{path} is damaged ({type(error).__name__}): train again, without --resume") from error
    try:
        network.load_state_dict(saved["network"])
        optimizer.load_state_dict(saved["optimizer"])
        scaler.load_state_dict(saved["scaler"])
    except (KeyError, RuntimeError, ValueError) as error:
        raise InputError(f"{path} belongs to another network than the configuration's: {error}") from error
    return _State(saved["epoch"], json.loads(saved["history"]), saved["best"])
