from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from edgeseg.errors import ConfigError
from edgeseg.training import config, dataset, loop
from edgeseg.types import Preprocessing


def _stand_in(patients: npt.NDArray[np.int64], empty: tuple[int, ...] = ()) -> dataset.SliceSet:
    """Slices of 2 x 2 pixels; the first byte of each is its number (modulo 256)."""
    slices = np.zeros((len(patients), 3, 2, 2), np.uint8)
    slices[:, 0, 0, 0] = np.arange(len(patients)) % 256
    masks = np.ones((len(patients), 2, 2), np.bool_)
    masks[list(empty)] = False
    return dataset.SliceSet(slices, masks, patients, tuple(f"P{n}" for n in range(int(patients.max()) + 1)))


def test_the_published_split_and_its_steps() -> None:
    settings = config.load()
    data = _stand_in(np.arange(1373) % 110)
    training, validation = dataset.split(data, settings, seed=732471)
    assert (len(training), len(validation)) == (1099, 274)
    losses_per_epoch = loop._steps(len(training), settings)
    assert losses_per_epoch == 68
    assert loop._steps(len(training), replace(settings, drop_last_batch=False)) == 69
    assert loop._steps(len(training), replace(settings, grad_accumulation=3)) == 23


def test_the_published_split_lets_patients_stand_on_both_sides() -> None:
    training, validation = dataset.split(_stand_in(np.arange(200) % 10), config.load(), seed=1)
    assert set(training.patients) & set(validation.patients)


def test_slices_without_abnormality_are_left_out_by_the_seed() -> None:
    data = _stand_in(np.arange(40) % 4, empty=tuple(range(10)))
    training, validation = dataset.split(data, config.load(), seed=1)
    assert len(training) + len(validation) == 30
    assert training.masks.any(axis=(1, 2)).all()
    both = dataset.split(data, replace(config.load(), slices="all"), seed=1)
    assert sum(len(side) for side in both) == 40


@pytest.mark.parametrize("fold", range(dataset.FOLDS))
def test_by_patient_nobody_stands_on_both_sides(fold: int) -> None:
    settings = replace(config.load(by_patient=True), fold=fold)
    data = _stand_in(np.repeat(np.arange(11), 7))
    training, validation = dataset.split(data, settings, seed=3)
    assert not set(training.patients) & set(validation.patients)
    assert len(training) + len(validation) == len(data)
    assert validation.patient_count() in (2, 3)


def test_every_slice_validates_in_one_fold() -> None:
    data = _stand_in(np.repeat(np.arange(11), 7))
    seen: list[int] = []
    for fold in range(dataset.FOLDS):
        _, validation = dataset.split(data, replace(config.load(), fold=fold), seed=3)
        seen += validation.slices[:, 0, 0, 0].tolist()
    assert sorted(seen) == list(range(77))


def test_the_split_follows_from_the_seed() -> None:
    data, settings = _stand_in(np.arange(100) % 9), config.load()
    first, again, other = (dataset.split(data, settings, seed)[1].slices for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_named_patients_validate() -> None:
    settings = replace(config.load(), validation_patients=("P4", "P1"), by_patient=True)
    training, validation = dataset.split(_stand_in(np.repeat(np.arange(6), 3)), settings, seed=1)
    assert set(validation.patients) == {1, 4}
    assert set(training.patients) == {0, 2, 3, 5}


def test_an_unknown_validation_patient_is_refused() -> None:
    settings = replace(config.load(), validation_patients=("P1", "P77"), by_patient=True)
    with pytest.raises(ConfigError, match="P77"):
        dataset.split(_stand_in(np.repeat(np.arange(6), 3)), settings, seed=1)


def test_a_side_without_slices_is_refused() -> None:
    settings = replace(config.load(), validation_patients=("P0", "P1"), by_patient=True)
    with pytest.raises(ConfigError, match="0 training slices of 6"):
        dataset.split(_stand_in(np.repeat(np.arange(2), 3)), settings, seed=1)


def test_a_validation_side_without_abnormality_is_refused() -> None:
    settings = replace(config.load(), validation_patients=("P0",), by_patient=True, slices="all")
    with pytest.raises(ConfigError, match="no abnormality"):
        dataset.split(_stand_in(np.repeat(np.arange(3), 3), empty=(0, 1, 2)), settings, seed=1)


def test_reading_keeps_slices_masks_and_patients_together(lgg_folder: Path) -> None:
    told: list[tuple[str, int, int]] = []
    data = dataset.read(lgg_folder, Preprocessing("stored"), lambda *facts: told.append(facts))
    assert data.slices.shape == (30, 3, 256, 256)
    assert data.slices.dtype == np.uint8
    assert data.masks.shape == (30, 256, 256)
    assert data.patients.tolist() == [n for n in range(6) for _ in range(5)]
    assert data.names[3] == "TCGA_XX_0003_20000101"
    assert told[-1] == ("TCGA_XX_0005_20000101", 6, 6)
    flair = data.slices[:, 1]
    assert flair[data.masks].mean() > 180 > 100 > flair[~data.masks].max() / 2
    assert data.masks.any(axis=(1, 2)).tolist() == [False, True, True, True, False] * 6


def test_intensities_are_the_configurations(lgg_folder: Path) -> None:
    stored, volume = (dataset.read(lgg_folder, Preprocessing(kind)).slices for kind in ("stored", "volume"))
    assert not np.array_equal(stored, volume)
