"""What a run is going to do, known before it trains: read and checked in whole, and said in one table."""

from __future__ import annotations

import secrets
from dataclasses import asdict, dataclass, replace
from typing import Any

from edgeseg.errors import ConfigError
from edgeseg.training import batches, dataset, loop, precision, published
from edgeseg.training.config import TrainConfig
from edgeseg.training.dataset import SliceSet, Source


@dataclass(frozen=True)
class Side:
    """Slices, those of them with an abnormality, and patients on one side of a split."""

    slices: int
    abnormal: int
    patients: int


@dataclass(frozen=True)
class FoldPlan:
    """One fold: both sides, how many patients stand on both, its steps, and its first and last learning rate."""

    fold: int
    training: Side
    validation: Side
    patients_on_both_sides: int
    slices_an_epoch: int
    steps_an_epoch: int
    steps: int
    first_learning_rate: float
    last_learning_rate: float


@dataclass(frozen=True)
class Plan:
    """A whole run: what it reads, draws and starts from, and its folds."""

    name: str
    network: str
    data: str
    seed: int
    encoder: str
    device: str
    precision: str
    epochs: int
    batch_size: int
    augmentation: str
    folds: tuple[FoldPlan, ...]
    inert: tuple[str, ...]
    differs: str

    def to_json(self) -> dict[str, Any]:
        """Plain values, as they are printed."""
        return asdict(self)

    def rows(self) -> list[list[str]]:
        """The plan as a table: what, and its value in words."""
        several = len(self.folds) > 1
        rows = [
            ["data", self.data],
            ["seed", str(self.seed)],
            ["encoder starts from", self.encoder],
            ["device", f"{self.device}; {self.precision}"],
            ["augmentation", self.augmentation],
        ]
        for fold in self.folds:
            name = f"fold {fold.fold}: " if several else ""
            rows += [
                [f"{name}training", _words(fold.training)],
                [f"{name}validation", _words(fold.validation)],
                [
                    f"{name}steps",
                    f"{fold.steps_an_epoch} an epoch of {fold.slices_an_epoch} slices, {fold.steps} in all "
                    f"({self.epochs} epochs, batch {self.batch_size})",
                ],
                [f"{name}learning rate", f"first {fold.first_learning_rate:.6g}, last {fold.last_learning_rate:.6g}"],
            ]
        return rows

    def without_effect(self) -> list[str]:
        """The fields without effect, those with the same reason in one sentence."""
        reasons: dict[str, list[str]] = {}
        for line in self.inert:
            field, _, reason = line.partition(": ")
            reasons.setdefault(reason, []).append(field)
        return [f"{', '.join(fields)}: {reason}" for reason, fields in reasons.items()]

    def warnings(self, compare: bool = False) -> list[str]:
        """What a person should know before the first step; ``compare`` adds how the published protocol differs."""
        shared = {fold.patients_on_both_sides for fold in self.folds} - {0}
        lines = [f"{count} patients stand on both sides of the split: its figures flatter" for count in sorted(shared)]
        return [*lines, self.differs] if compare and self.differs else lines


def _words(side: Side) -> str:
    return f"{side.slices} slices ({side.abnormal} with an abnormality) of {side.patients} patients"


def seed_of(config: TrainConfig) -> int:
    """The configuration's seed; -1 draws one."""
    return secrets.randbelow(2**31) if config.seed == -1 else config.seed


def plan(config: TrainConfig, source: Source, seed: int, encoder: str, device: str, overridden: bool = False) -> Plan:
    """Plan a run: every split is made, every pipeline parsed, nothing trained.

    Parameters
    ----------
    config, source, seed
        What to do, what was read, and what the draws come from.
    encoder, device
        What the encoder starts from and what trains, in words.
    overridden
        Whether the data are others than the configuration's paths name.

    Raises
    ------
    ConfigError
        When a side is empty, or the training slices do not fill a batch.
    """
    batches.check_pipelines(config)
    folds = tuple(_fold(config, source, seed, fold) for fold in config.selection.folds)
    by_patient = not any(fold.patients_on_both_sides for fold in folds)
    first = folds[0]
    return Plan(
        name=config.name,
        network=f"{config.architecture} with the encoder {config.encoder}",
        data=f"{'table' if source.from_table else 'LGG folder'}, {len(source.slices)} slices",
        seed=seed,
        encoder=encoder,
        device=device,
        precision=precision.describe(config, device),
        epochs=config.epochs,
        batch_size=config.batch_size,
        augmentation=augmentation(config),
        folds=folds,
        inert=config.inert(source.from_table, overridden),
        differs=published.protocol(
            config.encoder, config.epochs, first.training.slices, first.validation.slices, config.batch_size, by_patient
        ),
    )


def _fold(config: TrainConfig, source: Source, seed: int, fold: int) -> FoldPlan:
    config = for_fold(config, fold)
    training, validation = dataset.split(source, config, seed)
    per_epoch = batches.steps_per_epoch(training, config)
    if per_epoch == 0:
        raise ConfigError(
            f"{len(training)} training slices do not fill a batch of {config.batch_size}: lower training.batch_size, "
            "or set training.drop_last_batch to false"
        )
    total = per_epoch * config.epochs
    return FoldPlan(
        fold=fold,
        training=_side(training),
        validation=_side(validation),
        patients_on_both_sides=dataset.on_both_sides(training, validation),
        slices_an_epoch=sum(map(len, batches.batches(training, config, (seed, 0)))),
        steps_an_epoch=per_epoch,
        steps=total,
        first_learning_rate=loop.learning_rate(config, 0, total, per_epoch),
        last_learning_rate=loop.learning_rate(config, total - 1, total, per_epoch),
    )


def for_fold(config: TrainConfig, fold: int) -> TrainConfig:
    """The configuration of one of its folds, as a file that names this fold alone would give it."""
    if config.selection.strategy != "kfold":
        return config
    named = [str(fold)]
    source = {**config.source, "dataset": {**config.source.get("dataset", {}), "folds": named}}
    fields = {**config.fields, "dataset.folds": named}
    return replace(config, selection=replace(config.selection, folds=(fold,)), source=source, fields=fields)


def _side(data: SliceSet) -> Side:
    return Side(len(data), data.abnormal_count(), len(data.patient_names()))


def augmentation(config: TrainConfig) -> str:
    """The random changes of a training slice, in words."""
    settings = config.augmentation
    words: list[str] = [settings.strategy]
    if config.mixing.kind != "Disabled":
        words.append(config.mixing.kind)
    if settings.crop_px:
        words.append(f"crops of {settings.crop_px} px")
    if settings.rotation_deg:
        words.append(f"rotation to {settings.rotation_deg:g} degrees")
    if settings.shift:
        words.append(f"shift to {settings.shift:.0%}")
    for name in ("scale", "gain", "gamma"):
        low, high = getattr(settings, name)
        if (low, high) != (1.0, 1.0):
            words.append(f"{name} {low:g} to {high:g}")
    if settings.missing_sequence:
        words.append(f"T1 replaced by FLAIR in {settings.missing_sequence:.0%}")
    return ", ".join(words)
