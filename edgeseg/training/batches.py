"""Which slices an epoch takes, in which order, and how a batch of them is made ready for the network."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeseg import model
from edgeseg.training import augmentation, mixing, pipelines
from edgeseg.training.config import TrainConfig
from edgeseg.training.dataset import Numbers, SliceSet
from edgeseg.training.distributed import Processes

if TYPE_CHECKING:
    import torch

Pair = tuple["torch.Tensor", "torch.Tensor"]


def steps_per_epoch(data: SliceSet, config: TrainConfig) -> int:
    """Optimiser steps of an epoch."""
    return math.ceil(len(batches(data, config, (0, 0))) / config.grad_accumulation)


def batches(data: SliceSet, config: TrainConfig, seed: tuple[int, int]) -> list[Numbers]:
    """The batches of an epoch, as indices of slices; the last short one is dropped where the configuration says so."""
    order = _order(data, config, np.random.default_rng(seed))
    size = config.batch_size
    stop = len(order) - len(order) % size if config.drop_last_batch else len(order)
    return [order[start : start + size] for start in range(0, stop, size)]


def _order(data: SliceSet, config: TrainConfig, rng: np.random.Generator) -> Numbers:
    """An epoch's slices in the order that they are taken in; ``balanced`` draws as many empty ones as abnormal ones."""
    if config.selection.slices != "balanced":
        return rng.permutation(len(data))
    abnormal = data.masks.any(axis=(1, 2))
    empty = np.flatnonzero(~abnormal)
    drawn = rng.choice(empty, min(len(empty), int(abnormal.sum())), replace=False)
    return rng.permutation(np.concatenate([np.flatnonzero(abnormal), drawn]))


@dataclass(frozen=True)
class Preparation:
    """Makes batches ready: augmented, mixed, normalised, and on this process's device.

    Every draw is for the whole global batch, so that it does not depend on how many processes share it.
    """

    config: TrainConfig
    processes: Processes
    training_pipeline: pipelines.Pipeline | None
    inference_pipeline: pipelines.Pipeline | None

    def for_training(self, data: SliceSet, epoch_batches: list[Numbers], seed: int) -> Iterator[Pair]:
        """Batches of (slices float32 (N, 3, H, W), masks float32 (N, 1, H, W), 0..1), this process's rows of each."""
        import torch

        generator = torch.Generator().manual_seed(seed)
        for chosen in epoch_batches:
            yield self._augmented(data, chosen, generator)

    def _augmented(self, data: SliceSet, chosen: Numbers, generator: torch.Generator) -> Pair:
        import torch

        own = self.processes.own(len(chosen))
        rows = slice(None) if self.config.mixing.kind != "Disabled" else own  # partners stand in the whole batch
        seeds = torch.randint(2**31, (len(chosen),), generator=generator).tolist() if self.training_pipeline else []
        draws = augmentation.draw(len(chosen), self.config.augmentation, generator).rows(rows)
        slices, masks = self._tensors(data, chosen[rows], self.training_pipeline, seeds[rows])
        slices, masks = augmentation.apply(slices, masks, draws, self.config.augmentation)
        if self.config.mixing.kind != "Disabled":
            mix = mixing.draw(len(chosen), self.config.mixing, (slices.shape[2], slices.shape[3]), generator)
            slices, masks = mixing.apply(slices, masks, mix, own)
        return self._ready(slices), masks

    def for_validation(self, data: SliceSet, chosen: Numbers) -> Pair:
        """The same for validation slices, without random changes."""
        slices, masks = self._tensors(data, chosen, self.inference_pipeline, chosen.tolist())
        return self._ready(slices), masks

    def _tensors(self, data: SliceSet, chosen: Numbers, pipeline: pipelines.Pipeline | None, seeds: list[int]) -> Pair:
        import torch

        slices, masks = data.slices[chosen], data.masks[chosen]
        if pipeline:
            slices, masks = pipelines.apply_batch(pipeline, slices, masks, seeds, self.config.workers)
        device = torch.device(self.processes.device)
        return (
            torch.from_numpy(slices).to(device).float() / 255,
            torch.from_numpy(masks).to(device).float()[:, None],
        )

    def _ready(self, slices: torch.Tensor) -> torch.Tensor:
        import torch

        return model.normalise(slices, self.config.normalisation).contiguous(memory_format=torch.channels_last)


def preparation(config: TrainConfig, processes: Processes) -> Preparation:
    """How a run's batches are made ready.

    Raises
    ------
    ConfigError
        When a serialised Albumentations pipeline cannot be read.
    """
    return Preparation(config, processes, *_pipelines(config))


def check_pipelines(config: TrainConfig) -> None:
    """Refuse a serialised Albumentations pipeline that cannot be read, before a run begins.

    Raises
    ------
    ConfigError
        Names the transform or the argument.
    """
    _pipelines(config)


def _pipelines(config: TrainConfig) -> tuple[pipelines.Pipeline | None, pipelines.Pipeline | None]:
    """The pipelines of training and of validation slices; None without ``Custom``."""
    settings = config.augmentation
    if settings.strategy != "Custom":
        return None, None
    size = config.size_px
    inference = pipelines.parse(settings.inference_pipeline, size, size, "augmentation.custom_inference_augmentations")
    return pipelines.parse(settings.pipeline, size, size), inference


def keeps_slices(config: TrainConfig, data: SliceSet) -> bool:
    """Whether the inference pipeline leaves slices as they are, as an engine, which has none, takes them."""
    _, pipeline = _pipelines(config)
    if pipeline is None:
        return True
    few = data.slices[:8]
    changed, _ = pipelines.apply_batch(pipeline, few, data.masks[:8], list(range(len(few))), 0)
    return bool(np.array_equal(changed, few))
