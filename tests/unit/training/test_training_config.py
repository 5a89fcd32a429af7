from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from edgeseg.errors import ConfigError
from edgeseg.training import config

SEED = yaml.safe_load(config.shipped(config.SEED_CONFIG))
FIELDS = sorted(
    f"{section}.{name}".rstrip(".")
    for section, content in SEED.items()
    for name in (content if isinstance(content, dict) else [""])
)
OTHER: dict[str, Any] = {
    "dataset.folds": ["2"],
    "dataset.group_fold_column": "patient",
    "dataset.data_sample_choice": ["Train"],
    "environment.gpus": ["1"],
    "logging.logger": "Neptune",
    "prediction.metric": "Dice",
    "augmentation.augmentations_strategy": "Medium",
    "augmentation.mix_image": "Cutmix",
    "dataset.validation_dataframe": "validation.pq",
    "dataset.validation_strategy": "automatic",
    "image.image_normalization": "Channel",
    "prediction.test_time_augmentations": ["Horizontal flip"],
    "training.schedule": "Linear",
    "training.differential_learning_rate_layers": ["encoder"],
}
"""Another value than the seed's, where it does not follow from the value's type."""


def _file(folder: Path, content: dict[str, Any]) -> Path:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def _with(field: str, value: Any) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(config.shipped(config.SEED_CONFIG))
    section, _, name = field.partition(".")
    if name:
        content.setdefault(section, {})[name] = value
    else:
        content[section] = value
    return content


def _another(field: str) -> Any:
    if field in OTHER:
        return OTHER[field]
    section, _, name = field.partition(".")
    value = SEED[section][name] if name else SEED[section]
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 3 if isinstance(value, int) else value * 0.5 + 0.1
    return "another"


def _inert_fields(loaded: config.TrainConfig) -> set[str]:
    return {line.split(":")[0] for line in loaded.inert(from_table=False)}


def test_the_seed_configuration_is_the_published_run() -> None:
    loaded = config.load()
    assert (loaded.architecture, loaded.encoder, loaded.encoder_weights) == ("Unet", "resnet34", "hub")
    assert (loaded.batch_size, loaded.drop_last_batch, loaded.epochs, loaded.grad_accumulation) == (16, True, 5, 1)
    assert (loaded.learning_rate, loaded.weight_decay, loaded.schedule, loaded.warmup_epochs) == (1e-3, 0, "Cosine", 0)
    assert (loaded.gradient_clip, loaded.evaluation_epochs, loaded.keep_best) == (0, 1, False)
    assert (loaded.mixed_precision, loaded.mixed_precision_validation) == (True, False)
    assert (loaded.metric, loaded.threshold) == ("IoU", 0.5)
    assert loaded.selection.folds == (4,)
    assert (loaded.selection.group_column, loaded.selection.slices, loaded.selection.intensity) == (
        "mask",
        None,
        "stored",
    )
    assert (loaded.normalisation, loaded.flips, loaded.build_bundle, loaded.train_metric) == ("Simple", (), True, False)
    assert loaded.mixing == config.Mixing()
    assert (loaded.seed, loaded.size_px, loaded.name) == (-1, 256, "brain-mri-segmentation")
    assert loaded.augmentation == config.Augmentation(flip=0.5)


def test_the_file_is_taken_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "seed.yaml"
    path.write_text(config.shipped(config.SEED_CONFIG), encoding="utf-8")
    assert config.load(path) == config.load()
    assert config.load(path).source == SEED


@pytest.mark.parametrize("field", FIELDS)
def test_no_field_is_dropped_in_silence(field: str, tmp_path: Path) -> None:
    """Another value of any field changes the run, is refused by name, or is listed as without effect."""
    path = _file(tmp_path, _with(field, _another(field)))
    try:
        changed = config.load(path)
    except ConfigError as error:
        assert field in str(error)  # noqa: PT017  one of three outcomes
        return
    seed = config.load()
    assert replace(changed, source=seed.source, fields=seed.fields) != seed or field in _inert_fields(changed)


def test_fields_without_effect_are_real_ones_and_have_a_reason() -> None:
    loaded = config.load()
    assert loaded.inert(from_table=False)
    for line in loaded.inert(from_table=False):
        field, _, reason = line.partition(": ")
        assert field in FIELDS
        assert len(reason) > 10
    assert "training.epochs" not in _inert_fields(loaded)


@pytest.mark.parametrize(
    ("field", "value", "supported"),
    [
        ("training.loss_function", "Focal", "BCEDice"),
        ("training.schedule", "cosine", "Cosine"),
        ("training.batch_size", 0, "from 1 to 4096"),
        ("training.batch_size", 16.0, "whole number"),
        ("training.learning_rate", "1e-3", "a number"),
        ("image.image_height", 512, "256"),
        ("augmentation.augmentations_strategy", "Strong", "'Soft' or 'Medium' or 'Hard' or 'Custom'"),
        ("augmentation.mix_image", "Mosaic", "'Disabled' or 'Mixup' or 'Cutmix'"),
        ("augmentation.mix_concentration", 0, "above 0"),
        ("dataset.data_sample", 1.5, "up to 1"),
        ("dataset.data_sample_choice", ["Test"], "'Train', 'Validation'"),
        ("dataset.validation_strategy", "random", "'automatic'"),
        ("image.image_normalization", "ImageNet", "'Channel'"),
        ("logging.logger", "Neptune", "None"),
        ("training.differential_learning_rate_layers", ["neck"], "'decoder'"),
        ("training.drop_last_batch", 1, "True or False"),
        ("prediction.probability_threshold", 0, "between 0 and 1"),
        ("prediction.probability_threshold", 1.0, "between 0 and 1"),
        ("dataset.folds", [], "at least one"),
        ("dataset.folds", ["4", "4"], "at least one"),
        ("dataset.folds", ["5"], "'4'"),
        ("edgeseg.gain", [1.2, 0.8], "the smaller first"),
        ("edgeseg.gain", ["a", "b"], "two numbers"),
        ("edgeseg.slices", "most", "'abnormal'"),
    ],
)
def test_an_unsupported_value_is_refused(field: str, value: Any, supported: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        config.load(_file(tmp_path, _with(field, value)))
    assert field in str(caught.value)
    assert repr(value) in str(caught.value)
    assert supported in str(caught.value)


@pytest.mark.parametrize("field", ["training.warm_up", "edgeseg.gains", "optimiser", "training"])
def test_an_unknown_field_is_refused(field: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=field):
        config.load(_file(tmp_path, _with(field, None)), epochs=2 if field == "training" else None)


@pytest.mark.parametrize("text", ["a: [", "- 1\n- 2\n", "", "\xff"])
def test_a_file_that_is_no_configuration_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"config\.yaml"):
        config.load(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no readable configuration"):
        config.load(tmp_path / "none.yaml")


def test_the_default_networks_own_configuration(repository: Path) -> None:
    loaded = config.load(repository / "edgeseg" / "configs" / "lgg-unet-efficientnet-lite0.yaml")
    chosen = loaded.selection
    assert (loaded.encoder, loaded.encoder_weights) == ("tu-tf_efficientnet_lite0", "package")
    assert (chosen.strategy, chosen.group_column, chosen.folds) == ("kfold", "patient", (0,))
    assert len(chosen.validation_patients) == len(set(chosen.validation_patients)) == 15
    listed = (repository / "calibration" / "validation-patients.txt").read_text(encoding="utf-8").split()
    assert set(chosen.validation_patients) <= set(listed)
    assert (chosen.slices, chosen.intensity, loaded.batch_size) == ("balanced", "volume", 16)
    assert loaded.augmentation.missing_sequence > 0


def test_custom_validation_names_a_table_or_patients(tmp_path: Path) -> None:
    content = _with("dataset.validation_strategy", "custom")
    with pytest.raises(ConfigError, match=r"edgeseg\.validation_patients"):
        config.load(_file(tmp_path, content))
    content["dataset"]["validation_dataframe"] = "validation.pq"
    assert config.load(_file(tmp_path, content)).selection.validation_table == "validation.pq"
    content["edgeseg"] = {"validation_patients": ["A"]}
    with pytest.raises(ConfigError, match="not by both"):
        config.load(_file(tmp_path, content))


def test_named_patients_need_folds_by_patient(tmp_path: Path) -> None:
    content = _with("edgeseg.validation_patients", ["A"])
    with pytest.raises(ConfigError, match="group_fold_column"):
        config.load(_file(tmp_path, content))
    content["dataset"]["group_fold_column"] = "patient"
    assert config.load(_file(tmp_path, content)).selection.validation_patients == ("A",)


def test_several_folds(tmp_path: Path) -> None:
    assert config.load(_file(tmp_path, _with("dataset.folds", ["1", "3"]))).selection.folds == (1, 3)


def test_another_rate_for_some_layers(tmp_path: Path) -> None:
    content = _with("training.differential_learning_rate_layers", ["backbone"])
    content["training"]["differential_learning_rate"] = 1e-4
    loaded = config.load(_file(tmp_path, content))
    assert (loaded.differential_layers, loaded.differential_rate) == (("backbone",), 1e-4)
    assert config.load().differential_rate == config.load().learning_rate


def test_a_custom_pipeline_is_kept_as_text() -> None:
    seed = config.load()
    assert (seed.augmentation.pipeline, seed.augmentation.flip) == ("", 0.5)


def test_a_table_makes_its_columns_count(tmp_path: Path) -> None:
    loaded = config.load(_file(tmp_path, _with("dataset.image_column", "file")))
    assert loaded.selection.image_column == "file"
    assert any(line.startswith("dataset.image_column") for line in loaded.inert(from_table=False))
    assert not any(line.startswith("dataset.image_column") for line in loaded.inert(from_table=True))


def test_encoder_weights_of_an_untrained_encoder_are_said(tmp_path: Path) -> None:
    content = _with("edgeseg.encoder_weights", "package")
    content["architecture"]["pretrained"] = False
    loaded = config.load(_file(tmp_path, content))
    assert loaded.encoder_weights == "none"
    assert "edgeseg.encoder_weights" in _inert_fields(loaded)


def test_overrides_stand_in_the_recorded_configuration() -> None:
    loaded = config.load(epochs=2, by_patient=True)
    assert (loaded.epochs, loaded.selection.group_column) == (2, "patient")
    assert loaded.source["training"]["epochs"] == 2
    assert loaded.source["dataset"]["group_fold_column"] == "patient"


def test_an_override_is_checked_as_the_file_is() -> None:
    with pytest.raises(ConfigError, match=r"training\.epochs is 0"):
        config.load(epochs=0)


def test_the_five_folds_are_the_default_networks_recipe(repository: Path) -> None:
    recipe = config.load(repository / "edgeseg" / "configs" / "lgg-unet-efficientnet-lite0.yaml").fields
    folds = config.load(repository / "benchmarks" / "five_folds.yaml").fields
    differing = {name for name in {*recipe, *folds} if recipe.get(name) != folds.get(name)}
    assert differing == {"dataset.folds", "training.build_scoring_pipelines"}
    assert folds["dataset.folds"] == ["0", "1", "2", "3", "4"]
