"""What the training loop costs beside the network: slices a second of edgeseg's loop against a bare PyTorch loop.

    python benchmarks/throughput.py [--pairs 7] [--steps 12] [--recipe NAME ...] [--threads N] [--json FILE]

Both train the same network at the recipe's batch size, image size, optimiser, loss and mixed precision. edgeseg's loop
takes uint8 slices from memory and augments them as the recipe says; the bare one takes float tensors that were made
beforehand, of the size that augmentation leaves, and changes nothing: neither the slices, nor, as edgeseg's loop does
on a CPU, the precision of depthwise convolutions. They run by turns in one process, and the ratio is the median over
the pairs, so that what slows the machine down slows both. Slices are random: their content does not matter for timing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import edgeseg
from edgeseg import machine, model
from edgeseg.training import config as configuration
from edgeseg.training import loop, precision
from edgeseg.training.config import TrainConfig
from edgeseg.training.dataset import SliceSet
from edgeseg.training.loss import bce_dice

if TYPE_CHECKING:
    import torch
    from torch import nn

RECIPES = ("lgg-unet-efficientnet-lite0", "published-run")
CONFIGS = Path(edgeseg.__file__).parent / "configs"
VALIDATION_SLICES = 2


def main() -> None:
    """Measure each recipe, print a table and keep the figures."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--steps", type=int, default=12, help="optimiser steps of each turn")
    parser.add_argument("--recipe", choices=RECIPES, nargs="+", default=list(RECIPES))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "throughput.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    figures: dict[str, Any] = {"machine": _machine(), "steps": arguments.steps, "recipes": {}}
    print(f"{'recipe':30} {'px':>4} {'edgeseg':>9} {'bare':>9}  slices/s {'ratio':>6}  (lowest to highest)")
    for name in arguments.recipe:
        found = _measure(_recipe(name), arguments.pairs, arguments.steps)
        figures["recipes"][name] = found
        low, high = min(found["ratios"]), max(found["ratios"])
        print(
            f"{name:30} {found['size_px']:4} {found['edgeseg']:9.2f} {found['bare']:9.2f} {found['ratio']:16.3f}"
            f"  ({low:.3f} to {high:.3f}, {arguments.pairs} pairs)"
        )
    arguments.json.parent.mkdir(exist_ok=True)
    arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def _recipe(name: str) -> TrainConfig:
    """A shipped configuration, for one epoch of all the slices given, at its own augmentation."""
    import torch

    recipe = configuration.load(CONFIGS / f"{name}.yaml")
    everything = replace(recipe.selection, slices="all")
    recipe = replace(recipe, epochs=1, keep_best=False, train_metric=False, selection=everything)
    return precision.affordable(recipe, torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def _measure(recipe: TrainConfig, pairs: int, steps: int) -> dict[str, Any]:
    """Slices a second of both loops by turns, after one turn of each that does not count."""
    draw = np.random.default_rng(0)
    data, few = _slices(draw, recipe.batch_size * steps, recipe), _slices(draw, VALIDATION_SLICES, recipe)
    networks = [model.build(recipe.architecture, recipe.encoder) for _ in range(2)]
    batches = _tensors(draw, steps, recipe)
    house, bare = [], []
    for _ in range(pairs + 1):
        house.append(_house(networks[0], data, few, recipe))
        bare.append(_bare(networks[1], batches, recipe))
    ratios = [a / b for a, b in zip(house[1:], bare[1:], strict=True)]
    return {
        "batch_size": recipe.batch_size,
        "size_px": _trained_px(recipe),
        "edgeseg": round(statistics.median(house[1:]), 3),
        "bare": round(statistics.median(bare[1:]), 3),
        "ratio": round(statistics.median(ratios), 4),
        "ratios": [round(ratio, 4) for ratio in ratios],
    }


def _house(network: nn.Module, data: SliceSet, few: SliceSet, recipe: TrainConfig) -> float:
    """Training slices a second of one epoch of edgeseg's loop, as it reports them: validation is not in them."""
    speeds: list[float] = []

    def report(event: loop.Step | loop.Epoch) -> None:
        if isinstance(event, loop.Epoch):
            speeds.append(event.slices_per_second)

    with tempfile.TemporaryDirectory() as run:
        loop.fit(network, data, few, recipe, 0, Path(run), report)
    return speeds[0]


def _bare(network: nn.Module, batches: list[tuple[torch.Tensor, torch.Tensor]], recipe: TrainConfig) -> float:
    """Slices a second of the loop that anyone writes, over batches that lie ready on the device."""
    import torch

    device = batches[0][0].device
    half = precision.half_type(device, recipe.half)
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    network.train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    scaler = torch.amp.GradScaler(device.type, enabled=recipe.mixed_precision and half == torch.float16)
    started, taken = time.perf_counter(), 0
    for slices, masks in batches:
        with torch.autocast(device.type, half, enabled=recipe.mixed_precision):
            loss = bce_dice(network(slices), masks)
        scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        loss.item()  # logged, as a loop does; on a GPU it waits for the step
        taken += len(slices)
    return taken / (time.perf_counter() - started)


def _trained_px(recipe: TrainConfig) -> int:
    """Side of the square that the network is trained on."""
    return recipe.augmentation.crop_px or recipe.size_px


def _slices(draw: np.random.Generator, count: int, recipe: TrainConfig) -> SliceSet:
    """Random slices of one patient, each with a mask: what edgeseg's loop takes."""
    size = recipe.size_px
    masks = np.zeros((count, size, size), dtype=bool)
    masks[:, size // 3 : size // 2, size // 3 : size // 2] = True
    return SliceSet(
        slices=draw.integers(0, 256, (count, 3, size, size), dtype=np.uint8),
        masks=masks,
        patients=np.zeros(count, dtype=np.int64),
        names=("random",),
        groups=np.arange(count),
        labels=np.array([f"random_{k}" for k in range(count)]),
    )


def _tensors(draw: np.random.Generator, steps: int, recipe: TrainConfig) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Random batches on the device, float32 0..1 and channels last: what the bare loop takes."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    size, batches = _trained_px(recipe), []
    for _ in range(steps):
        slices = torch.from_numpy(draw.random((recipe.batch_size, 3, size, size), dtype=np.float32))
        masks = torch.zeros(recipe.batch_size, 1, size, size)
        masks[:, :, size // 3 : size // 2, size // 3 : size // 2] = 1
        batches.append((slices.to(device, memory_format=torch.channels_last), masks.to(device)))
    return batches


def _machine() -> dict[str, Any]:
    """What the figures hold for."""
    import torch

    return {
        "cpu": machine.cpu(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "bfloat16": precision.cpu_has_bfloat16(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "edgeseg": edgeseg.__version__,
    }


if __name__ == "__main__":
    main()
