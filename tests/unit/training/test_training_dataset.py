from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from edgeseg.errors import ConfigError, InputError
from edgeseg.prepare import prepare
from edgeseg.training import batches, config, dataset
from edgeseg.training.dataset import SliceSet, Source
from edgeseg.training.fields import FOLDS
from edgeseg.training.plan import for_fold


def _choose(**choices: Any) -> config.TrainConfig:
    seed = config.load()
    return replace(seed, selection=replace(seed.selection, **choices))


def _split(data: SliceSet, settings: config.TrainConfig, seed: int) -> tuple[SliceSet, SliceSet]:
    by_patient = settings.selection.group_column == "patient"
    data = replace(data, groups=data.patients) if by_patient else data
    return dataset.split(Source(data, None, False, Path()), settings, seed)


def _stand_in(patients: npt.NDArray[np.int64], empty: tuple[int, ...] = ()) -> SliceSet:
    """Slices of 2 x 2 pixels; the first byte of each is its number (modulo 256)."""
    slices = np.zeros((len(patients), 3, 2, 2), np.uint8)
    slices[:, 0, 0, 0] = np.arange(len(patients)) % 256
    masks = np.ones((len(patients), 2, 2), np.bool_)
    masks[list(empty)] = False
    names = tuple(f"P{n}" for n in range(int(patients.max()) + 1))
    numbers = np.arange(len(patients))
    return SliceSet(slices, masks, patients, names, numbers, np.array([f"S{n}" for n in numbers]))


def test_the_published_split_and_its_steps() -> None:
    settings = config.load()
    data = _stand_in(np.arange(1373) % 110)
    training, validation = _split(data, settings, seed=732471)
    assert (len(training), len(validation)) == (1099, 274)
    assert batches.steps_per_epoch(training, settings) == 68
    assert batches.steps_per_epoch(training, settings) * settings.epochs == 340
    assert batches.steps_per_epoch(training, replace(settings, drop_last_batch=False)) == 69
    assert batches.steps_per_epoch(training, replace(settings, grad_accumulation=3)) == 23


def test_the_published_split_lets_patients_stand_on_both_sides() -> None:
    training, validation = _split(_stand_in(np.arange(200) % 10), config.load(), seed=1)
    assert set(training.patients) & set(validation.patients)


def test_slices_without_abnormality_are_left_out_by_the_seed() -> None:
    data = _stand_in(np.arange(40) % 4, empty=tuple(range(10)))
    training, validation = _split(data, config.load(), seed=1)
    assert len(training) + len(validation) == 30
    assert training.masks.any(axis=(1, 2)).all()
    both = _split(data, _choose(slices="all"), seed=1)
    assert sum(len(side) for side in both) == 40


@pytest.mark.parametrize("fold", range(FOLDS))
def test_by_patient_nobody_stands_on_both_sides(fold: int) -> None:
    settings = for_fold(config.load(by_patient=True), fold)
    data = _stand_in(np.repeat(np.arange(11), 7))
    training, validation = _split(data, settings, seed=3)
    assert not set(training.patients) & set(validation.patients)
    assert len(training) + len(validation) == len(data)
    assert len(validation.patient_names()) in (2, 3)


def test_every_slice_validates_in_one_fold() -> None:
    data = _stand_in(np.repeat(np.arange(11), 7))
    seen: list[int] = []
    for fold in range(FOLDS):
        _, validation = _split(data, for_fold(config.load(), fold), seed=3)
        seen += validation.slices[:, 0, 0, 0].tolist()
    assert sorted(seen) == list(range(77))


def test_the_split_follows_from_the_seed() -> None:
    data, settings = _stand_in(np.arange(100) % 9), config.load()
    first, again, other = (_split(data, settings, seed)[1].slices for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_named_patients_validate() -> None:
    settings = _choose(validation_patients=("P4", "P1"), group_column="patient", strategy="custom")
    training, validation = _split(_stand_in(np.repeat(np.arange(6), 3)), settings, seed=1)
    assert set(validation.patients) == {1, 4}
    assert set(training.patients) == {0, 2, 3, 5}


def test_an_unknown_validation_patient_is_refused() -> None:
    settings = _choose(validation_patients=("P1", "P77"), group_column="patient", folds=(0,))
    with pytest.raises(ConfigError, match="P77"):
        _split(_stand_in(np.repeat(np.arange(6), 3)), settings, seed=1)


def test_a_side_without_slices_is_refused() -> None:
    settings = _choose(validation_patients=("P0", "P1"), group_column="patient", strategy="custom")
    with pytest.raises(ConfigError, match="0 training and 6 validation slices of 6"):
        _split(_stand_in(np.repeat(np.arange(2), 3)), settings, seed=1)


def test_a_validation_side_without_abnormality_is_refused() -> None:
    settings = _choose(validation_patients=("P0",), group_column="patient", strategy="custom", slices="all")
    with pytest.raises(ConfigError, match="no abnormality"):
        _split(_stand_in(np.repeat(np.arange(3), 3), empty=(0, 1, 2)), settings, seed=1)


def test_reading_keeps_slices_masks_and_patients_together(lgg_folder: Path) -> None:
    data = dataset.read(config.load(), lgg_folder).slices
    assert data.labels[6] == "TCGA_XX_0001_20000101_2"
    assert data.slices.shape == (30, 3, 256, 256)
    assert data.slices.dtype == np.uint8
    assert data.masks.shape == (30, 256, 256)
    assert data.patients.tolist() == [n for n in range(6) for _ in range(5)]
    assert data.names[3] == "TCGA_XX_0003_20000101"
    flair = data.slices[:, 1]
    assert flair[data.masks].mean() > 180 > 100 > flair[~data.masks].max() / 2
    assert data.masks.any(axis=(1, 2)).tolist() == [False, True, True, True, False] * 6


def test_intensities_are_the_configurations(lgg_folder: Path) -> None:
    stored, volume = (dataset.read(_choose(intensity=kind), lgg_folder).slices.slices for kind in ("stored", "volume"))
    assert not np.array_equal(stored, volume)


@pytest.mark.parametrize("fold", range(1, FOLDS))
def test_named_patients_are_the_first_fold_and_the_others_share_the_rest(fold: int) -> None:
    data = _stand_in(np.repeat(np.arange(11), 3))
    settings = _choose(validation_patients=("P4", "P1"), group_column="patient", folds=(0,))
    assert set(_split(data, settings, seed=1)[1].patient_names()) == {"P1", "P4"}
    training, validation = _split(data, for_fold(settings, fold), seed=1)
    assert not set(validation.patient_names()) & {"P1", "P4", *training.patient_names()}
    assert len(validation.patient_names()) in (2, 3)


def test_automatic_holds_out_a_share() -> None:
    training, validation = _split(_stand_in(np.arange(100)), _choose(strategy="automatic", validation_size=0.3), 1)
    assert (len(training), len(validation)) == (70, 30)
    settings = _choose(strategy="automatic", validation_size=0.3, group_column="patient")
    _, validation = _split(_stand_in(np.repeat(np.arange(10), 5)), settings, 1)
    assert (len(validation), len(validation.patient_names())) == (15, 3)


@pytest.mark.parametrize(("parts", "sizes"), [(("Train",), (40, 20)), (("Train", "Validation"), (40, 10))])
def test_a_sample_of_the_data(parts: tuple[str, ...], sizes: tuple[int, int]) -> None:
    settings = _choose(sample=0.5, sample_parts=parts)
    training, validation = _split(_stand_in(np.arange(100)), settings, 1)
    assert (len(training), len(validation)) == sizes
    assert not set(training.labels) & set(validation.labels)
    again, _ = _split(_stand_in(np.arange(100)), settings, 1)
    assert np.array_equal(training.labels, again.labels)


def test_training_on_the_validation_slices_too() -> None:
    training, validation = _split(_stand_in(np.arange(50) % 7), _choose(train_on_validation=True), 1)
    assert (len(training), len(validation)) == (50, 10)
    assert set(validation.labels) < set(training.labels)
    owners = dict(zip(training.labels, (training.names[k] for k in training.patients), strict=True))
    assert all(owners[f"S{n}"] == f"P{n % 7}" for n in range(50))


def test_balanced_epochs_take_every_abnormal_slice_and_other_empty_ones() -> None:
    data = _stand_in(np.arange(40), empty=tuple(range(30)))
    settings = replace(_choose(slices="balanced"), batch_size=4, drop_last_batch=False)
    epochs = [np.concatenate(batches.batches(data, settings, (1, epoch))) for epoch in range(3)]
    for taken in epochs:
        assert len(taken) == len(set(taken.tolist())) == 20
        assert set(range(30, 40)) <= set(taken.tolist())
    assert len({tuple(sorted(taken.tolist())) for taken in epochs}) == 3


@pytest.mark.parametrize("slices", ["abnormal", "all"])
def test_a_prepared_table_gives_the_folders_slices(slices: Any, lgg_folder: Path, tmp_path: Path) -> None:
    prepare(lgg_folder, tmp_path / "table", slices)
    from_folder = _split(dataset.read(_choose(slices=slices), lgg_folder).slices, _choose(slices=slices), 5)
    source = dataset.read(config.load(), tmp_path / "table")
    assert source.from_table
    from_table = dataset.split(source, config.load(), 5)
    for ours, theirs in zip(from_table, from_folder, strict=True):
        assert len(ours) == len(theirs)
        both = set(ours.labels) | set(theirs.labels)
        assert both <= set(dataset.read(_choose(slices="all"), lgg_folder).slices.labels)
    everything = dataset.join(*from_table)
    expected = dict(zip(from_folder[0].labels, from_folder[0].masks, strict=True))
    for label, mask, patient in zip(everything.labels, everything.masks, everything.patients, strict=True):
        assert everything.names[patient] == str(label).rpartition("_")[0]
        if label in expected:
            assert np.array_equal(mask, expected[label])


def test_a_table_splits_by_any_column(lgg_folder: Path, tmp_path: Path) -> None:
    prepare(lgg_folder, tmp_path / "table", "abnormal")
    settings = config.load(by_patient=True)
    training, validation = dataset.split(dataset.read(settings, tmp_path / "table" / "table.pq"), settings, 5)
    assert not set(training.patient_names()) & set(validation.patient_names())
    assert dataset.on_both_sides(training, validation) == 0
    with pytest.raises(InputError, match="hospital"):
        dataset.read(_choose(group_column="hospital"), tmp_path / "table")


def test_a_validation_table(lgg_folder: Path, tmp_path: Path) -> None:
    prepare(lgg_folder, tmp_path / "a", "abnormal")
    prepare(lgg_folder, tmp_path / "b", "all")
    settings = _choose(strategy="custom", validation_table=str(tmp_path / "b" / "table.pq"))
    settings = replace(settings, selection=replace(settings.selection, images=""))
    source = dataset.read(settings, tmp_path / "a")
    training, validation = dataset.split(source, settings, 1)
    assert (len(training), len(validation)) == (18, 30)
    with pytest.raises(ConfigError, match=r"edgeseg\.validation_patients"):
        dataset.read(settings, lgg_folder)


def test_data_that_do_not_fit_the_configuration_are_refused(lgg_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--data"):
        dataset.read(config.load(), None)
    with pytest.raises(ConfigError, match="'patient'"):
        dataset.read(_choose(group_column="hospital"), lgg_folder)
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(InputError, match="no table"):
        dataset.read(config.load(), tmp_path / "notes.txt")
    prepare(lgg_folder, tmp_path / "table", "abnormal")
    with pytest.raises(ConfigError, match=r"edgeseg\.intensity"):
        dataset.read(_choose(intensity="volume"), tmp_path / "table")
    (tmp_path / "table" / "again.pq").write_bytes(b"")
    with pytest.raises(InputError, match="2 tables"):
        dataset.read(config.load(), tmp_path / "table")


def test_the_inner_folder_is_the_set_too_whatever_tables_lie_in_it(lgg_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(lgg_folder, tmp_path / "set")
    (tmp_path / "set" / "kaggle_3m" / "data.csv").write_text("Patient,age\nTCGA_XX_0000,50\n")
    for root in (tmp_path / "set", tmp_path / "set" / "kaggle_3m"):
        source = dataset.read(config.load(), root)
        assert (source.from_table, len(source.slices)) == (False, 30)


def test_images_of_another_size_are_refused(lgg_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(lgg_folder, tmp_path / "set")
    for path in (tmp_path / "set" / "kaggle_3m" / "TCGA_XX_0002_20000101").iterdir():
        Image.open(path).resize((128, 96), Image.Resampling.NEAREST).save(path)
    with pytest.raises(InputError, match=r"1 of 6 patients.*TCGA_XX_0002_20000101 with 128 x 96.*edgeseg prepare"):
        dataset.read(config.load(), tmp_path / "set")


def test_named_patients_have_no_say_in_an_automatic_split() -> None:
    data = _stand_in(np.repeat(np.arange(10), 5))
    plain = _choose(strategy="automatic", group_column="patient")
    named = _choose(strategy="automatic", group_column="patient", validation_patients=("P1", "nobody"))
    assert np.array_equal(_split(data, plain, 3)[1].labels, _split(data, named, 3)[1].labels)


def test_custom_takes_the_named_patients_alone_whatever_the_groups() -> None:
    data = replace(_stand_in(np.repeat(np.arange(10), 5)), groups=np.zeros(50, np.int64))
    settings = _choose(strategy="custom", validation_patients=("P3",))
    _, validation = dataset.split(Source(data, None, False, Path()), settings, 1)
    assert validation.patient_names() == ("P3",)


def test_a_validation_table_counts_under_custom_alone(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("dataset: {validation_dataframe: other.pq}\n")
    loaded = config.load(path)
    assert loaded.selection.validation_table == ""
    assert any(line.startswith("dataset.validation_dataframe") for line in loaded.inert(from_table=True))


def test_without_a_group_column_each_slice_stands_alone(lgg_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("dataset: {group_fold_column: null}\n")
    settings = config.load(path)
    prepare(lgg_folder, tmp_path / "table", "abnormal")
    for data in (lgg_folder, tmp_path / "table"):
        training, validation = dataset.split(dataset.read(settings, data), settings, 5)
        assert (len(training), len(validation)) == (15, 3)


def test_the_digest_tells_other_data_apart() -> None:
    data = _stand_in(np.arange(10))
    source = Source(data, None, False, Path())
    other = Source(replace(data, masks=~data.masks), None, False, Path())
    assert source.digest() == Source(data, None, True, Path("x")).digest() != other.digest()
