"""A training configuration: Hydrogen Torch's image-segmentation YAML as it is, and a section ``edgeseg`` of our own.

Every field is honoured, refused, or listed as without effect and why: none is dropped in silence.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal, cast

from edgeseg.errors import BackendMissing, ConfigError

try:
    import yaml
except ImportError as missing:
    raise BackendMissing("training needs PyYAML: pip install 'edgeseg[train]'") from missing

SEED_CONFIG = "lgg-unet-resnet34.yaml"


@dataclass(frozen=True)
class Augmentation:
    """Random changes of a training slice; the seed's ``Soft`` strategy is the flip alone.

    Each range is drawn from uniformly (``gain`` and ``gamma`` on a logarithmic scale, ``gain`` for each channel).
    """

    flip: float = 0.5
    rotation_deg: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    shift: float = 0.0
    gain: tuple[float, float] = (1.0, 1.0)
    gamma: tuple[float, float] = (1.0, 1.0)
    missing_sequence: float = 0.0
    crop_px: int = 0
    """Side of the square, at a random place, that the network is trained on; 0 is the whole slice."""


@dataclass(frozen=True)
class TrainConfig:
    """What a run does. ``source`` is the whole file as read; ``inert`` says which fields have no effect, and why."""

    name: str
    architecture: str
    encoder: str
    encoder_weights: str
    size_px: int
    mixed_precision: bool
    mixed_precision_validation: bool
    seed: int
    batch_size: int
    drop_last_batch: bool
    epochs: int
    evaluation_epochs: int
    keep_best: bool
    learning_rate: float
    weight_decay: float
    schedule: Literal["Constant", "Cosine", "Linear"]
    warmup_epochs: float
    gradient_clip: float
    grad_accumulation: int
    metric: Literal["IoU", "Dice"]
    threshold: float
    fold: int
    by_patient: bool
    validation_patients: tuple[str, ...]
    slices: Literal["all", "abnormal", "balanced"]
    intensity: Literal["volume", "stored"]
    augmentation: Augmentation
    source: dict[str, dict[str, Any]]
    inert: tuple[str, ...]


@dataclass(frozen=True)
class _Rule:
    """Which values of a field are supported: ``accepts`` tests one, ``values`` says them in words."""

    accepts: Callable[[Any], bool]
    values: str


def _one_of(*values: Any) -> _Rule:
    return _Rule(lambda v: any(v == w and type(v) is type(w) for w in values), " or ".join(repr(v) for v in values))


def _number(low: float, high: float = float("inf"), whole: bool = False) -> _Rule:
    kinds = (int,) if whole else (int, float)
    words = f"a {'whole ' if whole else ''}number from {low:g}" + (f" to {high:g}" if high != float("inf") else "")
    return _Rule(lambda v: isinstance(v, kinds) and not isinstance(v, bool) and low <= v <= high, words)


def _range(low: float, high: float) -> _Rule:
    return _Rule(
        lambda v: isinstance(v, list) and len(v) == 2 and all(map(_number(low, high).accepts, v)) and v[0] <= v[1],
        f"two numbers from {low:g} to {high:g}, the smaller first",
    )


_FLAG = _one_of(True, False)
_ANY = _Rule(lambda _: True, "any value")
_TEXT = _Rule(lambda v: isinstance(v, str) and bool(v), "a text")
_TEXTS = _Rule(lambda v: isinstance(v, list) and all(isinstance(x, str) for x in v), "a list of texts")
_NOTHING = _Rule(lambda v: v in (None, "None", ""), "None")
_EMPTY = _Rule(lambda v: v == [], "an empty list")

_RULES: dict[str, _Rule] = {
    "architecture.architecture": _TEXT,
    "architecture.backbone": _TEXT,
    "architecture.pretrained": _FLAG,
    "augmentation.augmentations_strategy": _one_of("Soft"),
    "augmentation.custom_inference_augmentations": _ANY,
    "augmentation.custom_train_augmentations": _ANY,
    "augmentation.cutmix_corner": _FLAG,
    "augmentation.mix_concentration": _ANY,
    "augmentation.mix_image": _one_of("Disabled"),
    "augmentation.mix_iterations": _ANY,
    "augmentation.mix_probability": _ANY,
    "augmentation.mix_target": _ANY,
    "dataset.class_name_column": _ANY,
    "dataset.data_folder": _ANY,
    "dataset.data_folder_test": _ANY,
    "dataset.data_sample": _one_of(1, 1.0),
    "dataset.data_sample_choice": _ANY,
    "dataset.folds": _Rule(
        lambda v: isinstance(v, list) and len(v) == 1 and str(v[0]) in "01234" and len(str(v[0])) == 1,
        "a list of one fold, '0' to '4'",
    ),
    "dataset.group_fold_column": _one_of("mask", "patient"),
    "dataset.image_column": _ANY,
    "dataset.rle_mask_column": _ANY,
    "dataset.test_dataframe": _NOTHING,
    "dataset.train_dataframe": _ANY,
    "dataset.validation_dataframe": _NOTHING,
    "dataset.validation_size": _ANY,
    "dataset.validation_strategy": _one_of("kfold", "custom"),
    "environment.gpus": _Rule(lambda v: isinstance(v, list) and len(v) <= 1, "a list of at most one device"),
    "environment.mixed_precision_inference": _FLAG,
    "environment.mixed_precision_training": _FLAG,
    "environment.number_of_workers": _number(0, 64, whole=True),
    "environment.seed": _number(-1, 2**31 - 1, whole=True),
    "experiment_name": _TEXT,
    "image.image_channels": _one_of(3),
    "image.image_height": _one_of(256),
    "image.image_normalization": _one_of("Simple"),
    "image.image_width": _one_of(256),
    "logging.logger": _NOTHING,
    "logging.neptune_project": _ANY,
    "prediction.metric": _one_of("IoU", "Dice"),
    "prediction.probability_threshold": _Rule(
        lambda v: isinstance(v, float) and 0 < v < 1, "a number between 0 and 1, both left out"
    ),
    "prediction.test_time_augmentations": _EMPTY,
    "training.automatically_adjust_batch_size": _one_of(False),
    "training.batch_size": _number(1, 4096, whole=True),
    "training.build_scoring_pipelines": _FLAG,
    "training.calculate_train_metric": _one_of(False),
    "training.differential_learning_rate": _ANY,
    "training.differential_learning_rate_layers": _EMPTY,
    "training.drop_last_batch": _FLAG,
    "training.epochs": _number(1, 10000, whole=True),
    "training.evaluation_epochs": _number(1, 10000, whole=True),
    "training.grad_accumulation": _number(1, 4096, whole=True),
    "training.gradient_clip": _number(0),
    "training.learning_rate": _number(0, 10),
    "training.loss_function": _one_of("BCEDice"),
    "training.optimizer": _one_of("AdamW"),
    "training.save_best_checkpoint": _FLAG,
    "training.schedule": _one_of("Constant", "Cosine", "Linear"),
    "training.train_validation_data": _one_of(False),
    "training.warmup_epochs": _number(0),
    "training.weight_decay": _number(0),
    "edgeseg.encoder_weights": _TEXT,
    "edgeseg.slices": _one_of("all", "abnormal", "balanced"),
    "edgeseg.intensity": _one_of("volume", "stored"),
    "edgeseg.validation_patients": _TEXTS,
    "edgeseg.missing_sequence": _number(0, 1),
    "edgeseg.rotation_deg": _number(0, 180),
    "edgeseg.scale": _range(0.1, 10),
    "edgeseg.shift": _number(0, 1),
    "edgeseg.gain": _range(0.1, 10),
    "edgeseg.gamma": _range(0.1, 10),
    "edgeseg.crop_px": _Rule(lambda v: v in (0, 64, 96, 128, 160, 192, 224), "0 (the whole slice) or 64 to 224 by 32"),
}

_OWN_DEFAULTS: dict[str, Any] = {
    "slices": "abnormal",
    "intensity": "stored",
    "validation_patients": [],
    "missing_sequence": 0.0,
    "rotation_deg": 0.0,
    "scale": [1.0, 1.0],
    "shift": 0.0,
    "gain": [1.0, 1.0],
    "gamma": [1.0, 1.0],
    "crop_px": 0,
}
"""Without a section ``edgeseg`` the run is the published one."""


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
    _check(_flat(raw))
    if epochs is not None:
        raw.setdefault("training", {})["epochs"] = epochs
    if by_patient:
        raw.setdefault("dataset", {})["group_fold_column"] = "patient"
    fields = {**_flat(yaml.safe_load(shipped(SEED_CONFIG))), **_flat(raw)}
    _check(fields)
    return _build(fields, cast("dict[str, dict[str, Any]]", raw))


def shipped(name: str) -> str:
    """Text of a configuration that edgeseg ships."""
    return (resources.files("edgeseg") / "configs" / name).read_text(encoding="utf-8")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"no readable configuration at {path}: give a Hydrogen Torch YAML file") from error


def _flat(raw: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for section, content in raw.items():
        if isinstance(content, dict):
            flat.update({f"{section}.{name}": value for name, value in content.items()})
        else:
            flat[section] = content
    return flat


def _check(fields: dict[str, Any]) -> None:
    for field, value in fields.items():
        rule = _RULES.get(field)
        if rule is None:
            raise ConfigError(f"the configuration has a field {field} that edgeseg does not know: remove it")
        if not rule.accepts(value):
            raise ConfigError(f"{field} is {value!r}: supported is {rule.values}")


def _build(fields: dict[str, Any], source: dict[str, dict[str, Any]]) -> TrainConfig:
    own = {**_OWN_DEFAULTS, **{k.split(".")[1]: v for k, v in fields.items() if k.startswith("edgeseg.")}}
    custom = fields["dataset.validation_strategy"] == "custom"
    by_patient = custom or fields["dataset.group_fold_column"] == "patient"
    if own["validation_patients"] and not by_patient:
        raise ConfigError("edgeseg.validation_patients names patients, but dataset.group_fold_column is not 'patient'")
    if custom and not own["validation_patients"]:
        raise ConfigError("dataset.validation_strategy is 'custom': edgeseg.validation_patients must name the patients")
    pretrained = fields["architecture.pretrained"]
    return TrainConfig(
        name=fields["experiment_name"],
        architecture=fields["architecture.architecture"],
        encoder=fields["architecture.backbone"],
        encoder_weights=own.get("encoder_weights", "hub") if pretrained else "none",
        size_px=fields["image.image_height"],
        mixed_precision=fields["environment.mixed_precision_training"],
        mixed_precision_validation=fields["environment.mixed_precision_inference"],
        seed=fields["environment.seed"],
        batch_size=fields["training.batch_size"],
        drop_last_batch=fields["training.drop_last_batch"],
        epochs=fields["training.epochs"],
        evaluation_epochs=fields["training.evaluation_epochs"],
        keep_best=fields["training.save_best_checkpoint"],
        learning_rate=float(fields["training.learning_rate"]),
        weight_decay=float(fields["training.weight_decay"]),
        schedule=fields["training.schedule"],
        warmup_epochs=float(fields["training.warmup_epochs"]),
        gradient_clip=float(fields["training.gradient_clip"]),
        grad_accumulation=fields["training.grad_accumulation"],
        metric=fields["prediction.metric"],
        threshold=float(fields["prediction.probability_threshold"]),
        fold=0 if custom else int(fields["dataset.folds"][0]),
        by_patient=by_patient,
        validation_patients=tuple(own["validation_patients"]),
        slices=own["slices"],
        intensity=own["intensity"],
        augmentation=_augmentation(own),
        source=source,
        inert=_inert(fields, own),
    )


def _augmentation(own: dict[str, Any]) -> Augmentation:
    return Augmentation(
        rotation_deg=float(own["rotation_deg"]),
        scale=(float(own["scale"][0]), float(own["scale"][1])),
        shift=float(own["shift"]),
        gain=(float(own["gain"][0]), float(own["gain"][1])),
        gamma=(float(own["gamma"][0]), float(own["gamma"][1])),
        missing_sequence=float(own["missing_sequence"]),
        crop_px=own["crop_px"],
    )


def _inert(fields: dict[str, Any], own: dict[str, Any]) -> tuple[str, ...]:
    """Which of the fields have no effect in this run, each with the reason."""
    reasons = {
        "augmentation.mix_image is Disabled": [
            f"augmentation.{f}"
            for f in ("cutmix_corner", "mix_concentration", "mix_iterations", "mix_probability", "mix_target")
        ],
        "augmentation.augmentations_strategy is Soft": [
            "augmentation.custom_train_augmentations",
            "augmentation.custom_inference_augmentations",
        ],
        "--data says where the images and masks are": [
            f"dataset.{f}"
            for f in ("data_folder", "data_folder_test", "train_dataframe", "class_name_column", "image_column")
        ]
        + ["dataset.rle_mask_column"],
        "dataset.data_sample is 1": ["dataset.data_sample_choice"],
        "no layers are named for it": ["training.differential_learning_rate"],
        "no logger is named": ["logging.neptune_project"],
        "the slices are in memory and need no loader": ["environment.number_of_workers"],
        "training takes the first GPU where there is one, and the CPU elsewhere": ["environment.gpus"],
        "edgeseg build-engine makes the engine from the run's weights": ["training.build_scoring_pipelines"],
        "the images are of this size already": ["image.image_height", "image.image_width"],
    }
    if fields["dataset.validation_strategy"] == "custom":
        reasons["edgeseg.validation_patients names the validation patients"] = [
            f"dataset.{f}" for f in ("folds", "group_fold_column", "validation_size")
        ]
    else:
        reasons["dataset.validation_strategy is kfold"] = ["dataset.validation_size"]
    if not fields["architecture.pretrained"] and "encoder_weights" in own:
        reasons["architecture.pretrained is false"] = ["edgeseg.encoder_weights"]
    return tuple(f"{field}: {reason}" for reason, names in reasons.items() for field in names)
