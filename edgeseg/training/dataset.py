"""The training set in memory, read from an LGG folder or a table, and split into training and validation slices."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from edgeseg import preprocess
from edgeseg.errors import ConfigError, InputError
from edgeseg.readers import lgg, table
from edgeseg.training.config import Selection, TrainConfig
from edgeseg.training.fields import FOLDS
from edgeseg.types import BoolArray, ByteArray, Preprocessing

_TABLES = (".pq", ".parquet", ".csv")
_EACH_SLICE = ("mask", "image", "")
"""Columns of the published table whose values differ for every slice, as an LGG folder's slices do; or none."""

Numbers = npt.NDArray[np.int64]


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
    groups
        Number of each slice's group: slices of one group are never parted by a split.
    labels
        Each slice's name: its file without the ending.
    """

    slices: ByteArray
    masks: BoolArray
    patients: Numbers
    names: tuple[str, ...]
    groups: Numbers
    labels: npt.NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.slices)

    def take(self, chosen: Numbers) -> SliceSet:
        """The chosen slices, in the order of ``chosen``."""
        return SliceSet(
            self.slices[chosen],
            self.masks[chosen],
            self.patients[chosen],
            self.names,
            self.groups[chosen],
            self.labels[chosen],
        )

    def patient_names(self) -> tuple[str, ...]:
        """Patients that have at least one slice here."""
        return tuple(self.names[number] for number in np.unique(self.patients))

    def abnormal_count(self) -> int:
        """Slices whose drawn mask is not empty."""
        return int(self.masks.any(axis=(1, 2)).sum())


@dataclass(frozen=True)
class Source:
    """What a run reads: all slices, those of a validation table of their own or None, and what they came from."""

    slices: SliceSet
    validation: SliceSet | None
    from_table: bool
    path: Path

    def digest(self) -> str:
        """SHA-256 of the slices' names and masks: whether two runs read the same."""
        digest = hashlib.sha256()
        for part in (self.slices, self.validation):
            if part is not None:
                digest.update("\n".join(part.labels.tolist()).encode())
                digest.update(np.packbits(part.masks).tobytes())
        return digest.hexdigest()


def read(config: TrainConfig, data: Path | None) -> Source:
    """Read the training set.

    Parameters
    ----------
    config
        Its ``selection`` says which columns and paths.
    data
        An LGG folder, a table (``.pq``, ``.parquet``, ``.csv``) or a folder with one; None takes the configuration's.

    Raises
    ------
    InputError
        When something is missing, unreadable or contradicts itself: named, with counts.
    ConfigError
        When the configuration asks for what these data do not have.
    """
    selection = config.selection
    path, images = _find(selection, data)
    if path.is_dir():
        if selection.validation_table:
            raise ConfigError(
                "dataset.validation_dataframe is a table, but the data are an LGG folder: name the patients in "
                "edgeseg.validation_patients"
            )
        return Source(_read_lgg(path, config), None, False, path)
    if selection.intensity != "stored":
        raise ConfigError(
            "edgeseg.intensity is 'volume', which needs whole volumes: with a table of slices it has to be 'stored'"
        )
    slices = _read_table(path, images, selection)
    beside = _beside(selection.validation_table, path)
    validation = _read_table(beside, images, selection) if beside else None
    return Source(slices, validation, True, path)


def _find(selection: Selection, data: Path | None) -> tuple[Path, Path | None]:
    """The LGG folder, or the table and the folder of its images (None: beside it)."""
    if data is None:
        table_path = Path(selection.table)
        if not selection.table or not table_path.is_file():
            raise InputError(
                f"dataset.train_dataframe is {selection.table or 'None'}, which is not here: give the data with --data"
            )
        return table_path, Path(selection.images) if selection.images else None
    if not data.exists():
        raise InputError(f"nothing is at {data}: --data takes an LGG folder, or a table ({', '.join(_TABLES)})")
    if data.is_file():
        if data.suffix not in _TABLES:
            raise InputError(f"{data} is no table: --data takes {', '.join(_TABLES)}, or an LGG folder")
        return data, None
    is_lgg = (data / "kaggle_3m").is_dir() or next(data.glob("*/*_mask.tif"), None) is not None
    tables = [] if is_lgg else sorted(path for path in data.glob("*") if path.suffix in _TABLES)
    if len(tables) > 1:
        raise InputError(f"{data} holds {len(tables)} tables, {tables[0].name} first: give one of them with --data")
    return (tables[0], None) if tables else (data, None)


def _beside(name: str, path: Path) -> Path | None:
    """A second table's path: as it is named, or beside the first."""
    if not name:
        return None
    return Path(name) if Path(name).is_file() else path.parent / Path(name).name


def _read_lgg(root: Path, config: TrainConfig) -> SliceSet:
    selection, patients = config.selection, lgg.index(root)
    by_patient = selection.group_column == "patient"
    if not by_patient and selection.group_column not in _EACH_SLICE and selection.strategy != "custom":
        raise ConfigError(
            f"dataset.group_fold_column is {selection.group_column!r}: an LGG folder has 'patient', and "
            f"{' and '.join(map(repr, _EACH_SLICE[:2]))}, which keep nothing together"
        )
    lgg.check(patients)
    _check_sizes(patients, config.size_px)
    preprocessing = Preprocessing(selection.intensity, config.size_px)
    slices, masks, owners, labels = [], [], [], []
    for number, patient in enumerate(patients):
        network_input = preprocess.to_network(lgg.read_study(patient), preprocessing)
        slices.append(network_input.slices)
        masks.append(lgg.read_masks(patient))
        owners.append(np.full(len(network_input.slices), number))
        labels += [path.stem for path in patient.images]
    numbers = np.concatenate(owners)
    names = tuple(patient.name for patient in patients)
    groups = numbers if by_patient else np.arange(len(numbers))
    return SliceSet(np.concatenate(slices), np.concatenate(masks), numbers, names, groups, np.array(labels))


def _check_sizes(patients: list[lgg.Patient], size_px: int) -> None:
    other = {}
    for patient in patients:
        with Image.open(patient.images[0]) as image:
            if image.size != (size_px, size_px):
                other[patient.name] = image.size
    if other:
        name, (width, height) = next(iter(other.items()))
        raise InputError(
            f"the images of {len(other)} of {len(patients)} patients are not of {size_px} x {size_px} pixels, first "
            f"{name} with {width} x {height}: the LGG set's are; train on a table of them (edgeseg prepare), whose "
            "images are resized"
        )


def _read_table(path: Path, images: Path | None, selection: Selection) -> SliceSet:
    group = selection.group_column if selection.strategy != "custom" else ""
    columns = table.Columns(selection.image_column, selection.class_column, selection.mask_column, group or None)
    rows = table.read(path, images, columns, selection.mask_order, selection.mask_base)
    labels = [Path(name).stem for name in rows.images]
    names, patients = _numbered(rows.patients or [re.sub(r"_\d+$", "", label) for label in labels])
    _, groups = _numbered(rows.groups)
    return SliceSet(rows.slices, rows.masks, patients, names, groups, np.array(labels))


def _numbered(values: Sequence[str]) -> tuple[tuple[str, ...], Numbers]:
    """The distinct values, sorted, and each value's index among them."""
    distinct, numbers = np.unique(np.array(values), return_inverse=True)
    return tuple(str(value) for value in distinct), numbers.astype(np.int64)


def split(source: Source, config: TrainConfig, seed: int) -> tuple[SliceSet, SliceSet]:
    """Training and validation slices, as the configuration says; of its folds, the first that it names.

    The published run takes the slices with an abnormality, each on its own: patients then stand on both sides. By
    patient, whole patients are kept together.

    Raises
    ------
    ConfigError
        When a validation patient is not in the set, a side is empty, or no validation slice is abnormal.
    """
    selection = config.selection
    wanted = selection.slices or ("all" if source.from_table else "abnormal")
    data = _abnormal(source.slices) if wanted == "abnormal" else source.slices
    if source.validation is not None:
        training = data
        validation = _abnormal(source.validation) if wanted == "abnormal" else source.validation
    else:
        validates = _validates(data, selection, seed)
        training, validation = data.take(np.flatnonzero(~validates)), data.take(np.flatnonzero(validates))
    training = _sample(training, selection, "Train", seed)
    validation = _sample(validation, selection, "Validation", seed)
    if not len(training) or not len(validation):
        raise ConfigError(
            f"the split leaves {len(training)} training and {len(validation)} validation slices of {len(data)}"
            f"{_where(selection)}: add data, or choose another split"
        )
    for side, name in ((training, "training"), (validation, "validation")):
        if not side.abnormal_count():
            raise ConfigError(
                f"the {len(side)} {name} slices{_where(selection)} hold no abnormality, so IoU and Dice have no "
                "meaning: choose others"
            )
    return (join(training, validation) if selection.train_on_validation else training), validation


def _abnormal(data: SliceSet) -> SliceSet:
    return data.take(np.flatnonzero(data.masks.any(axis=(1, 2))))


def _where(selection: Selection) -> str:
    return f" in fold {selection.folds[0]}" if selection.strategy == "kfold" else ""


def _validates(data: SliceSet, selection: Selection, seed: int) -> BoolArray:
    """Which slices validate: shuffled groups, dealt into five runs whose sizes differ by one at most, or one share.

    Where patients are named, they are the validation patients of ``custom`` and the first fold of ``kfold``; the other
    four folds share the other patients.
    """
    if selection.strategy == "automatic":
        shuffled = np.random.default_rng(seed).permutation(np.unique(data.groups))
        return np.isin(data.groups, shuffled[: max(1, round(selection.validation_size * len(shuffled)))])
    named = np.isin(data.patients, _numbers(data, selection.validation_patients))
    if selection.strategy == "custom":
        return named
    first = np.unique(data.groups[named])
    shuffled = np.random.default_rng(seed).permutation(np.setdiff1d(data.groups, first))
    folds = [first, *np.array_split(shuffled, FOLDS - 1)] if len(first) else np.array_split(shuffled, FOLDS)
    return np.isin(data.groups, folds[selection.folds[0]])


def _numbers(data: SliceSet, names: tuple[str, ...]) -> list[int]:
    unknown = [name for name in names if name not in data.names]
    if unknown:
        raise ConfigError(
            f"edgeseg.validation_patients names {unknown[0]}, which is not among the {len(data.names)} patients of "
            f"--data ({len(unknown)} such names): use a folder that has them, or another list"
        )
    return [data.names.index(name) for name in names]


def _sample(data: SliceSet, selection: Selection, part: str, seed: int) -> SliceSet:
    """The share of the slices that ``data_sample`` asks for, in their order."""
    if selection.sample == 1 or part not in selection.sample_parts:
        return data
    chosen = np.random.default_rng((seed, 1)).permutation(len(data))[: round(selection.sample * len(data))]
    return data.take(np.sort(chosen))


def join(first: SliceSet, second: SliceSet) -> SliceSet:
    """Two sets as one."""
    names, patients = _numbered([part.names[k] for part in (first, second) for k in part.patients.tolist()])
    groups = np.concatenate([first.groups, second.groups])
    return SliceSet(
        np.concatenate([first.slices, second.slices]),
        np.concatenate([first.masks, second.masks]),
        patients,
        names,
        groups,
        np.concatenate([first.labels, second.labels]),
    )


def on_both_sides(training: SliceSet, validation: SliceSet) -> int:
    """How many patients stand on both sides of a split."""
    return len(set(training.patient_names()) & set(validation.patient_names()))
