"""A training configuration: Hydrogen Torch's image-segmentation YAML as it is, and a section ``edgeseg`` of our own.

Every field is honoured, refused, or listed as without effect and why: none is dropped in silence.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal, cast

from edgeseg.errors import BackendMissing, ConfigError
from edgeseg.training import fields as known

try:
    import yaml
except ImportError as missing:
    raise BackendMissing("training needs PyYAML: pip install 'edgeseg[train]'") from missing

SEED_CONFIG = "published-run.yaml"


@dataclass(frozen=True)
class Augmentation:
    """Random changes of a training slice: a strategy, and ranges of our own beside it.

    Each range is drawn from uniformly (``gain`` and ``gamma`` on a logarithmic scale, ``gain`` for each channel).
    ``pipeline`` and ``inference_pipeline`` are serialised Albumentations pipelines, for ``Custom``; ``crop_px`` is the
    side of the square, at a random place, that the network is trained on, 0 for the whole slice.
    """

    strategy: Literal["Soft", "Medium", "Hard", "Custom"] = "Soft"
    pipeline: str = ""
    inference_pipeline: str = ""
    flip: float = 0.5
    rotation_deg: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    shift: float = 0.0
    gain: tuple[float, float] = (1.0, 1.0)
    gamma: tuple[float, float] = (1.0, 1.0)
    missing_sequence: float = 0.0
    crop_px: int = 0


@dataclass(frozen=True)
class Mixing:
    """Mixup or Cutmix of a batch's slices."""

    kind: Literal["Disabled", "Mixup", "Cutmix"] = "Disabled"
    concentration: float = 1.0
    probability: float = 1.0
    iterations: int = 1
    target: str = "Ratio"
    corner: bool = False


@dataclass(frozen=True)
class Selection:
    """Which slices a run reads, and on which side of the split each stands.

    ``table`` and ``images`` are paths, empty for none; ``group_column`` keeps rows of equal value in one fold;
    ``validation_size`` and ``sample`` are shares, 0..1; ``slices`` None means all rows of a table, and of an LGG folder
    the slices with an abnormality.
    """

    table: str
    images: str
    image_column: str
    class_column: str
    mask_column: str
    mask_order: Literal["column", "row"]
    mask_base: Literal[0, 1]
    group_column: str
    strategy: Literal["kfold", "automatic", "custom"]
    folds: tuple[int, ...]
    validation_size: float
    validation_table: str
    validation_patients: tuple[str, ...]
    sample: float
    sample_parts: tuple[str, ...]
    train_on_validation: bool
    slices: Literal["all", "abnormal", "balanced"] | None
    intensity: Literal["volume", "stored"]


@dataclass(frozen=True)
class TrainConfig:
    """What a run does. ``source`` is the whole file as read, ``fields`` every field's value, named or not."""

    name: str
    architecture: str
    encoder: str
    encoder_weights: str
    size_px: int
    normalisation: Literal["Simple", "Channel"]
    mixed_precision: bool
    mixed_precision_validation: bool
    half: Literal["float16", "bfloat16"]
    gpus: tuple[int, ...]
    workers: int
    seed: int
    batch_size: int
    adjust_batch_size: bool
    drop_last_batch: bool
    epochs: int
    evaluation_epochs: int
    keep_best: bool
    train_metric: bool
    learning_rate: float
    differential_rate: float
    differential_layers: tuple[str, ...]
    weight_decay: float
    schedule: Literal["Constant", "Cosine", "Linear"]
    warmup_epochs: float
    gradient_clip: float
    grad_accumulation: int
    metric: Literal["IoU", "Dice"]
    threshold: float
    flips: tuple[str, ...]
    build_bundle: bool
    selection: Selection
    augmentation: Augmentation
    mixing: Mixing
    source: dict[str, dict[str, Any]]
    fields: dict[str, Any]

    def inert(self, from_table: bool, overridden: bool = False) -> tuple[str, ...]:
        """Which fields have no effect in this run, and why; ``overridden`` when --data stands for the file's paths."""
        named = known.flatten(self.source)
        return tuple(line for line in known.inert(self.fields, from_table, overridden) if line.split(":")[0] in named)


def load(path: Path | None = None, epochs: int | None = None, by_patient: bool = False) -> TrainConfig:
    """Read a configuration; None is the seed's own, shipped with edgeseg.

    Parameters
    ----------
    path
        A Hydrogen Torch YAML file; fields that it does not name have the seed's values.
    epochs, by_patient
        In place of the file's ``training.epochs``, and ``patient`` for its ``dataset.group_fold_column``.

    Raises
    ------
    ConfigError
        Names the field, its value and the values that are supported.
    """
    text = shipped(SEED_CONFIG) if path is None else _read(path)
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is no YAML file: {str(error).splitlines()[0]}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} holds no sections: expected a Hydrogen Torch configuration")
    known.check(known.flatten(raw))
    if epochs is not None:
        raw.setdefault("training", {})["epochs"] = epochs
    if by_patient:
        raw.setdefault("dataset", {})["group_fold_column"] = "patient"
    fields = {**known.flatten(yaml.safe_load(shipped(SEED_CONFIG))), **known.flatten(raw)}
    known.check(fields)
    return _build(fields, cast("dict[str, dict[str, Any]]", raw))


def shipped(name: str) -> str:
    """Text of a configuration that edgeseg ships."""
    return (resources.files("edgeseg") / "configs" / name).read_text(encoding="utf-8")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"no readable configuration at {path}: give a Hydrogen Torch YAML file") from error


def _build(fields: dict[str, Any], source: dict[str, dict[str, Any]]) -> TrainConfig:
    own = {**known.OWN_DEFAULTS, **{k.split(".")[1]: v for k, v in fields.items() if k.startswith("edgeseg.")}}
    training = {k.split(".")[1]: v for k, v in fields.items() if k.startswith("training.")}
    return TrainConfig(
        name=fields["experiment_name"],
        architecture=fields["architecture.architecture"],
        encoder=fields["architecture.backbone"],
        encoder_weights=own["encoder_weights"] if fields["architecture.pretrained"] else "none",
        size_px=fields["image.image_height"],
        normalisation=fields["image.image_normalization"],
        mixed_precision=fields["environment.mixed_precision_training"],
        mixed_precision_validation=fields["environment.mixed_precision_inference"],
        half=own["half"],
        gpus=tuple(int(number) for number in fields["environment.gpus"]),
        workers=fields["environment.number_of_workers"],
        seed=fields["environment.seed"],
        batch_size=training["batch_size"],
        adjust_batch_size=training["automatically_adjust_batch_size"],
        drop_last_batch=training["drop_last_batch"],
        epochs=training["epochs"],
        evaluation_epochs=training["evaluation_epochs"],
        keep_best=training["save_best_checkpoint"],
        train_metric=training["calculate_train_metric"],
        learning_rate=float(training["learning_rate"]),
        differential_rate=float(training["differential_learning_rate"]),
        differential_layers=tuple(training["differential_learning_rate_layers"]),
        weight_decay=float(training["weight_decay"]),
        schedule=training["schedule"],
        warmup_epochs=float(training["warmup_epochs"]),
        gradient_clip=float(training["gradient_clip"]),
        grad_accumulation=training["grad_accumulation"],
        metric=fields["prediction.metric"],
        threshold=fields["prediction.probability_threshold"],
        flips=tuple(fields["prediction.test_time_augmentations"]),
        build_bundle=training["build_scoring_pipelines"],
        selection=_selection(fields, own),
        augmentation=_augmentation(fields, own),
        mixing=_mixing(fields),
        source=source,
        fields=fields,
    )


def _selection(fields: dict[str, Any], own: dict[str, Any]) -> Selection:
    data = {k.split(".")[1]: v for k, v in fields.items() if k.startswith("dataset.")}
    paths = {k: "" if known.is_none(data[k]) else str(data[k]) for k in _PATHS}
    strategy = data["validation_strategy"]
    by_name = bool(own["validation_patients"])
    if by_name and strategy == "kfold" and data["group_fold_column"] != "patient":
        raise ConfigError(
            "edgeseg.validation_patients names patients, but dataset.group_fold_column is "
            f"{data['group_fold_column']!r}: set it to 'patient'"
        )
    if strategy == "custom" and by_name == bool(paths["validation_dataframe"]):
        raise ConfigError(
            "dataset.validation_strategy is 'custom': name the validation slices by dataset.validation_dataframe or by "
            "edgeseg.validation_patients, and not by both"
        )
    return Selection(
        table=paths["train_dataframe"],
        images=paths["data_folder"],
        image_column=data["image_column"],
        class_column=data["class_name_column"],
        mask_column=data["rle_mask_column"],
        mask_order=own["mask_order"],
        mask_base=own["mask_base"],
        group_column="" if known.is_none(data["group_fold_column"]) else data["group_fold_column"],
        strategy=strategy,
        folds=tuple(int(fold) for fold in data["folds"]) if strategy == "kfold" else (0,),
        validation_size=data["validation_size"],
        validation_table=paths["validation_dataframe"] if strategy == "custom" else "",
        validation_patients=tuple(own["validation_patients"]),
        sample=float(data["data_sample"]),
        sample_parts=tuple(data["data_sample_choice"]),
        train_on_validation=fields["training.train_validation_data"],
        slices=own["slices"],
        intensity=own["intensity"],
    )


_PATHS = ("train_dataframe", "data_folder", "validation_dataframe")


def _augmentation(fields: dict[str, Any], own: dict[str, Any]) -> Augmentation:
    strategy = fields["augmentation.augmentations_strategy"]
    custom = strategy == "Custom"
    pipelines = ("custom_train_augmentations", "custom_inference_augmentations")
    if custom and (empty := [name for name in pipelines if known.is_none(fields[f"augmentation.{name}"])]):
        raise ConfigError(f"augmentation.{empty[0]} is empty, but augmentations_strategy is Custom: give the pipeline")
    if own["crop_px"] and fields["image.image_normalization"] == "Channel":
        raise ConfigError(
            "edgeseg.crop_px and image.image_normalization 'Channel' exclude each other: a crop's mean and deviation "
            "are not those of the whole slice, which an engine takes"
        )
    return Augmentation(
        strategy=strategy,
        pipeline=fields["augmentation.custom_train_augmentations"] if custom else "",
        inference_pipeline=fields["augmentation.custom_inference_augmentations"] if custom else "",
        flip=0.0 if custom else 0.5,
        rotation_deg=float(own["rotation_deg"]),
        scale=(float(own["scale"][0]), float(own["scale"][1])),
        shift=float(own["shift"]),
        gain=(float(own["gain"][0]), float(own["gain"][1])),
        gamma=(float(own["gamma"][0]), float(own["gamma"][1])),
        missing_sequence=float(own["missing_sequence"]),
        crop_px=own["crop_px"],
    )


def _mixing(fields: dict[str, Any]) -> Mixing:
    return Mixing(
        kind=fields["augmentation.mix_image"],
        concentration=float(fields["augmentation.mix_concentration"]),
        probability=float(fields["augmentation.mix_probability"]),
        iterations=fields["augmentation.mix_iterations"],
        target=fields["augmentation.mix_target"],
        corner=fields["augmentation.cutmix_corner"],
    )
