"""The fields of a training configuration: which values each takes, and which have no effect in a run, and why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from edgeseg.errors import ConfigError
from edgeseg.model import FLIPS

FOLDS = 5
LAYERS = ("encoder", "backbone", "decoder", "segmentation_head", "head")


@dataclass(frozen=True)
class _Rule:
    """Which values of a field are supported: ``accepts`` tests one, ``values`` says them in words."""

    accepts: Callable[[Any], bool]
    values: str


def _one_of(*values: Any) -> _Rule:
    return _Rule(lambda v: any(v == w and type(v) is type(w) for w in values), " or ".join(repr(v) for v in values))


def _is_number(value: Any, low: float, high: float, kinds: tuple[type, ...] = (int, float)) -> bool:
    return isinstance(value, kinds) and not isinstance(value, bool) and bool(low <= cast("float", value) <= high)


def _number(low: float, high: float = float("inf"), whole: bool = False) -> _Rule:
    words = f"a {'whole ' if whole else ''}number from {low:g}" + (f" to {high:g}" if high != float("inf") else "")
    return _Rule(lambda v: _is_number(v, low, high, (int,) if whole else (int, float)), words)


def _range(low: float, high: float) -> _Rule:
    return _Rule(
        lambda v: isinstance(v, list) and len(v) == 2 and all(_is_number(x, low, high) for x in v) and v[0] <= v[1],
        f"two numbers from {low:g} to {high:g}, the smaller first",
    )


def _some_of(*values: str, least: int = 0) -> _Rule:
    words = f"a list {'of at least one ' if least else ''}of {', '.join(map(repr, values))}"
    return _Rule(
        lambda v: (
            isinstance(v, list)
            and len(v) >= least
            and len(set(map(str, v))) == len(v)
            and all(str(x) in values for x in v)
        ),
        words,
    )


_FLAG = _one_of(True, False)
_ANY = _Rule(lambda _: True, "any value")
_TEXT = _Rule(lambda v: isinstance(v, str) and bool(v), "a text")
_TEXTS = _Rule(lambda v: isinstance(v, list) and all(isinstance(x, str) for x in v), "a list of texts")
_NOTHING = _Rule(lambda v: v in (None, "None", ""), "None")
_TEXT_OR_NONE = _Rule(lambda v: v is None or isinstance(v, str), "a text or None")
_SHARE = _Rule(lambda v: _is_number(v, 0, 1) and v > 0, "a number above 0, up to 1")
_BETWEEN = _Rule(lambda v: isinstance(v, float) and 0 < v < 1, "a number between 0 and 1, both left out")
_CROP = _Rule(lambda v: v in (0, 64, 96, 128, 160, 192, 224), "0 (the whole slice), or 64 to 224 in steps of 32")

_RULES: dict[str, _Rule] = {
    "architecture.architecture": _TEXT,
    "architecture.backbone": _TEXT,
    "architecture.pretrained": _FLAG,
    "augmentation.augmentations_strategy": _one_of("Soft", "Medium", "Hard", "Custom"),
    "augmentation.custom_inference_augmentations": _TEXT_OR_NONE,
    "augmentation.custom_train_augmentations": _TEXT_OR_NONE,
    "augmentation.cutmix_corner": _FLAG,
    "augmentation.mix_concentration": _Rule(lambda v: _is_number(v, 0, 1000) and v > 0, "a number above 0"),
    "augmentation.mix_image": _one_of("Disabled", "Mixup", "Cutmix"),
    "augmentation.mix_iterations": _number(1, 16, whole=True),
    "augmentation.mix_probability": _number(0, 1),
    "augmentation.mix_target": _one_of("Ratio"),
    "dataset.class_name_column": _TEXT,
    "dataset.data_folder": _ANY,
    "dataset.data_folder_test": _ANY,
    "dataset.data_sample": _SHARE,
    "dataset.data_sample_choice": _some_of("Train", "Validation"),
    "dataset.folds": _some_of(*map(str, range(FOLDS)), least=1),
    "dataset.group_fold_column": _TEXT_OR_NONE,
    "dataset.image_column": _TEXT,
    "dataset.rle_mask_column": _TEXT,
    "dataset.test_dataframe": _ANY,
    "dataset.train_dataframe": _ANY,
    "dataset.validation_dataframe": _ANY,
    "dataset.validation_size": _BETWEEN,
    "dataset.validation_strategy": _one_of("kfold", "automatic", "custom"),
    "environment.gpus": _Rule(lambda v: isinstance(v, list) and all(str(x).isdigit() for x in v), "a list of numbers"),
    "environment.mixed_precision_inference": _FLAG,
    "environment.mixed_precision_training": _FLAG,
    "environment.number_of_workers": _number(0, 64, whole=True),
    "environment.seed": _number(-1, 2**31 - 1, whole=True),
    "experiment_name": _TEXT,
    "image.image_channels": _one_of(3),
    "image.image_height": _one_of(256),
    "image.image_normalization": _one_of("Simple", "Channel"),
    "image.image_width": _one_of(256),
    "logging.logger": _NOTHING,
    "logging.neptune_project": _ANY,
    "prediction.metric": _one_of("IoU", "Dice"),
    "prediction.probability_threshold": _BETWEEN,
    "prediction.test_time_augmentations": _some_of(*FLIPS),
    "training.automatically_adjust_batch_size": _FLAG,
    "training.batch_size": _number(1, 4096, whole=True),
    "training.build_scoring_pipelines": _FLAG,
    "training.calculate_train_metric": _FLAG,
    "training.differential_learning_rate": _number(0, 10),
    "training.differential_learning_rate_layers": _some_of(*LAYERS),
    "training.drop_last_batch": _FLAG,
    "training.epochs": _number(1, 10000, whole=True),
    "training.evaluation_epochs": _number(1, 10000, whole=True),
    "training.grad_accumulation": _number(1, 4096, whole=True),
    "training.gradient_clip": _number(0),
    "training.learning_rate": _Rule(lambda v: _is_number(v, 0, 10) and v > 0, "a number above 0, up to 10"),
    "training.loss_function": _one_of("BCEDice"),
    "training.optimizer": _one_of("AdamW"),
    "training.save_best_checkpoint": _FLAG,
    "training.schedule": _one_of("Constant", "Cosine", "Linear"),
    "training.train_validation_data": _FLAG,
    "training.warmup_epochs": _number(0, 10000),
    "training.weight_decay": _number(0),
    "edgeseg.encoder_weights": _TEXT,
    "edgeseg.slices": _one_of("all", "abnormal", "balanced"),
    "edgeseg.intensity": _one_of("volume", "stored"),
    "edgeseg.validation_patients": _TEXTS,
    "edgeseg.mask_order": _one_of("column", "row"),
    "edgeseg.mask_base": _one_of(1, 0),
    "edgeseg.half": _one_of("float16", "bfloat16"),
    "edgeseg.missing_sequence": _number(0, 1),
    "edgeseg.rotation_deg": _number(0, 180),
    "edgeseg.scale": _range(0.1, 10),
    "edgeseg.shift": _number(0, 1),
    "edgeseg.gain": _range(0.1, 10),
    "edgeseg.gamma": _range(0.1, 10),
    "edgeseg.crop_px": _CROP,
}

OWN_DEFAULTS: dict[str, Any] = {
    "encoder_weights": "hub",
    "slices": None,
    "intensity": "stored",
    "validation_patients": [],
    "mask_order": "column",
    "mask_base": 1,
    "half": "float16",
    "missing_sequence": 0.0,
    "rotation_deg": 0.0,
    "scale": [1.0, 1.0],
    "shift": 0.0,
    "gain": [1.0, 1.0],
    "gamma": [1.0, 1.0],
    "crop_px": 0,
}
"""Values of the section ``edgeseg``: without one the run is the published one."""


def flatten(raw: dict[str, Any]) -> dict[str, Any]:
    """``{section: {name: value}}`` as ``{"section.name": value}``."""
    flat: dict[str, Any] = {}
    for section, content in raw.items():
        if isinstance(content, dict):
            flat.update({f"{section}.{name}": value for name, value in content.items()})
        else:
            flat[section] = content
    return flat


def check(fields: dict[str, Any]) -> None:
    """Refuse a field that is not known, and a value that is not supported.

    Raises
    ------
    ConfigError
        Names the field, its value and the values that are supported.
    """
    for field, value in fields.items():
        rule = _RULES.get(field)
        if rule is None:
            raise ConfigError(f"the configuration has a field {field} that edgeseg does not know: remove it")
        if not rule.accepts(value):
            raise ConfigError(f"{field} is {value!r}: supported is {rule.values}")


def is_none(value: Any) -> bool:
    """Whether a field's value means that nothing is given: null, ``None`` as a text, or an empty text."""
    return value in (None, "None", "")


def inert(fields: dict[str, Any], from_table: bool, overridden: bool = False) -> tuple[str, ...]:
    """Which of the fields have no effect in a run, each with the reason.

    Parameters
    ----------
    fields
        As from `flatten`, checked.
    from_table
        Whether the data are a table with run-length masks; else they are an LGG folder.
    overridden
        Whether --data stands in place of the fields that say where the data are.
    """
    reasons: dict[str, list[str]] = {
        "prediction on a test set is not part of a training run": [
            "dataset.data_folder_test",
            "dataset.test_dataframe",
        ],
        "no logger is named": ["logging.neptune_project"],
    }
    if fields["augmentation.mix_image"] == "Disabled":
        reasons["augmentation.mix_image is Disabled"] = [
            f"augmentation.{f}"
            for f in ("cutmix_corner", "mix_concentration", "mix_iterations", "mix_probability", "mix_target")
        ]
    elif fields["augmentation.mix_image"] == "Mixup":
        reasons["augmentation.mix_image is Mixup"] = ["augmentation.cutmix_corner"]
    strategy = fields["augmentation.augmentations_strategy"]
    if strategy != "Custom":
        reasons[f"augmentation.augmentations_strategy is {strategy}"] = [
            "augmentation.custom_train_augmentations",
            "augmentation.custom_inference_augmentations",
        ]
        reasons["the slices are in memory and need no loader"] = ["environment.number_of_workers"]
    reasons.update(_inert_data(fields, from_table))
    if from_table and overridden:
        reasons["--data says where the data are"] = ["dataset.train_dataframe", "dataset.data_folder"]
    if fields["dataset.data_sample"] != 1 and not fields["dataset.data_sample_choice"]:
        reasons["dataset.data_sample_choice is empty"] = ["dataset.data_sample"]
    if not fields["environment.mixed_precision_training"]:
        reasons["environment.mixed_precision_training is false"] = ["edgeseg.half"]
    if fields["dataset.data_sample"] == 1:
        reasons["dataset.data_sample is 1"] = ["dataset.data_sample_choice"]
    if not fields["training.differential_learning_rate_layers"]:
        reasons["no layers are named for it"] = ["training.differential_learning_rate"]
    if not fields["architecture.pretrained"] and "edgeseg.encoder_weights" in fields:
        reasons["architecture.pretrained is false"] = ["edgeseg.encoder_weights"]
    return tuple(f"{field}: {reason}" for reason, names in reasons.items() for field in names)


def _inert_data(fields: dict[str, Any], from_table: bool) -> dict[str, list[str]]:
    """The same for the fields that say where the data are and how they are split."""
    reasons: dict[str, list[str]] = {}
    if not from_table:
        reasons["--data is an LGG folder, whose masks are images"] = [
            f"dataset.{f}"
            for f in ("data_folder", "train_dataframe", "class_name_column", "image_column", "rle_mask_column")
        ] + ["edgeseg.mask_order", "edgeseg.mask_base"]
    strategy = fields["dataset.validation_strategy"]
    ignored = {
        "kfold": ["validation_size", "validation_dataframe"],
        "automatic": ["folds", "validation_dataframe"],
        "custom": ["folds", "validation_size", "group_fold_column"],
    }[strategy]
    reasons[f"dataset.validation_strategy is {strategy}"] = [f"dataset.{f}" for f in ignored]
    if strategy == "automatic" and fields.get("edgeseg.validation_patients"):
        reasons[f"dataset.validation_strategy is {strategy}"].append("edgeseg.validation_patients")
    return reasons
