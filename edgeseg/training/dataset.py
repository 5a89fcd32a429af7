"""The training set in memory, split into training and validation slices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgeseg import preprocess
from edgeseg.errors import ConfigError
from edgeseg.readers import lgg
from edgeseg.training.config import TrainConfig
from edgeseg.types import BoolArray, ByteArray, Preprocessing

FOLDS = 5


@dataclass(frozen=True)
class SliceSet:
    """Slices, one after the other.

    Parameters
    ----------
    slices
        uint8 (slice, 3, 256, 256), 0..255: network input.
    masks
        bool (slice, 256, 256): drawn masks.
    patients
        Index into ``names`` of each slice's patient.
    names
        The patients.
    """

    slices: ByteArray
    masks: BoolArray
    patients: npt.NDArray[np.int64]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.slices)

    def take(self, chosen: npt.NDArray[np.int64]) -> SliceSet:
        """The chosen slices, in the order of ``chosen``."""
        return SliceSet(self.slices[chosen], self.masks[chosen], self.patients[chosen], self.names)

    def patient_count(self) -> int:
        """Patients that have at least one slice here."""
        return len(np.unique(self.patients))


def read(root: Path, preprocessing: Preprocessing, report: Callable[[str, int, int], None] | None = None) -> SliceSet:
    """Read the LGG set below ``root``; ``report`` is called with (patient, done, total)."""
    patients = lgg.index(root)
    slices, masks, owners = [], [], []
    for number, patient in enumerate(patients):
        network_input = preprocess.to_network(lgg.read_study(patient), preprocessing)
        slices.append(network_input.slices)
        masks.append(lgg.read_masks(patient))
        owners.append(np.full(len(network_input.slices), number))
        if report:
            report(patient.name, number + 1, len(patients))
    names = tuple(patient.name for patient in patients)
    return SliceSet(np.concatenate(slices), np.concatenate(masks), np.concatenate(owners), names)


def split(data: SliceSet, config: TrainConfig, seed: int) -> tuple[SliceSet, SliceSet]:
    """Training and validation slices, as the configuration says.

    The published run takes the slices with an abnormality, each on its own: patients then stand on both sides. By
    patient, whole patients are kept together.

    Raises
    ------
    ConfigError
        When a validation patient is not in the set, a side is empty, or no validation slice is abnormal.
    """
    chosen = np.arange(len(data))
    if config.slices == "abnormal":
        chosen = chosen[data.masks.any(axis=(1, 2))]
    groups = data.patients[chosen] if config.by_patient else chosen
    validates = _in_fold(groups, config.fold, seed, _numbers(data, config.validation_patients))
    if validates.all() or not validates.any():
        raise ConfigError(f"the split leaves {np.count_nonzero(~validates)} training slices of {len(chosen)}: add data")
    if not data.masks[chosen[validates]].any():
        raise ConfigError("the validation slices hold no abnormality, so IoU and Dice have no meaning: choose others")
    return data.take(chosen[~validates]), data.take(chosen[validates])


def _numbers(data: SliceSet, names: tuple[str, ...]) -> list[int]:
    unknown = [name for name in names if name not in data.names]
    if unknown:
        raise ConfigError(
            f"edgeseg.validation_patients names {unknown[0]}, which is not among the {len(data.names)} patients of "
            f"--data ({len(unknown)} such names): use a folder that has them, or another list"
        )
    return [data.names.index(name) for name in names]


def _in_fold(groups: npt.NDArray[np.int64], fold: int, seed: int, first: list[int]) -> BoolArray:
    """Which slices fall into a fold: shuffled groups, dealt into five runs whose sizes differ by one at most.

    Where groups are named for the first fold, the others are dealt into the other four.
    """
    shuffled = np.random.default_rng(seed).permutation(np.setdiff1d(groups, first))
    folds = [np.array(first), *np.array_split(shuffled, FOLDS - 1)] if first else np.array_split(shuffled, FOLDS)
    return np.isin(groups, folds[fold])
