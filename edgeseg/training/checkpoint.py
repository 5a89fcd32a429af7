"""A run's state on disk: written after every epoch, read to go on. Loads with ``weights_only=True``."""

from __future__ import annotations

import json
import math
import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeseg.errors import InputError
from edgeseg.training import records

if TYPE_CHECKING:
    import torch
    from torch import nn

CHECKPOINT = "checkpoint.pt"
BEST = "best.pt"


@dataclass
class State:
    """What a run has behind it: epochs and optimiser steps with their figures, and the best metric so far."""

    epoch: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    steps: list[tuple[int, int, float, float]] = field(default_factory=list)
    best: float = -math.inf
    batch_size: int = 0


@dataclass(frozen=True)
class Trained:
    """What a checkpoint holds beside the state: the network, and what moves it."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler


def save(run: Path, trained: Trained, state: State, best: bool) -> None:
    """Write ``checkpoint.pt``, the run's records, and ``best.pt`` when this epoch is the best so far."""
    everything = {
        "network": trained.network.state_dict(),
        "optimizer": trained.optimizer.state_dict(),
        "scaler": trained.scaler.state_dict(),
        "epoch": state.epoch,
        "best": state.best,
        "batch_size": state.batch_size,
        "history": json.dumps(state.history),
        "steps": json.dumps(state.steps),
    }
    records.write(run, state.history, state.steps)
    if best:
        _replace(trained.network.state_dict(), run / BEST)
    _replace(everything, run / CHECKPOINT)


def _replace(content: object, path: Path) -> None:
    import torch

    partial = path.with_suffix(".part")
    torch.save(content, partial)
    partial.replace(path)


def resume(run: Path, trained: Trained) -> State:
    """Put a run's checkpoint into ``trained`` and return its state.

    Raises
    ------
    InputError
        When there is none, it is damaged, or it belongs to another network.
    """
    import torch

    path = run / CHECKPOINT
    if not path.is_file():
        raise InputError(f"no {CHECKPOINT} in {run} to resume from: start without --resume")
    device = next(trained.network.parameters()).device
    try:
        saved = torch.load(path, map_location=device, weights_only=True)
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        raise InputError(f"{path} is damaged ({type(error).__name__}): train again, without --resume") from error
    try:
        trained.network.load_state_dict(saved["network"])
        trained.optimizer.load_state_dict(saved["optimizer"])
        if saved["scaler"] and trained.scaler.is_enabled():  # neither, where a run goes on on another device
            trained.scaler.load_state_dict(saved["scaler"])
    except (KeyError, RuntimeError, ValueError) as error:
        raise InputError(f"{path} belongs to another network than the configuration's: {error}") from error
    steps = [tuple(step) for step in json.loads(saved["steps"])]
    return State(saved["epoch"], json.loads(saved["history"]), steps, saved["best"], saved["batch_size"])
