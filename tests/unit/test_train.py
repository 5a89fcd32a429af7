from __future__ import annotations

import csv
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from edgeseg import build, bundle, encoders, model, train
from edgeseg.errors import ConfigError, EdgesegError, EngineError, InputError, OutputError
from edgeseg.prepare import prepare
from edgeseg.training import checkpoint, config, dataset, loop, run
from edgeseg.training.plan import Plan

BASE: dict[str, Any] = {
    "experiment_name": "tiny-run",
    "architecture": {"architecture": "Linknet", "backbone": "tu-test_resnet", "pretrained": False},
    "dataset": {"group_fold_column": "patient", "folds": ["0"]},
    "environment": {"mixed_precision_training": False, "seed": 7},
    "training": {"batch_size": 4, "epochs": 2, "learning_rate": 0.01, "build_scoring_pipelines": False},
    "edgeseg": {"slices": "all"},
    "prediction": {"probability_threshold": 0.2},
}


def _config(folder: Path, **sections: dict[str, Any]) -> config.TrainConfig:
    content = {**BASE, **{name: {**BASE.get(name, {}), **fields} for name, fields in sections.items()}}
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return config.load(path)


@dataclass(frozen=True)
class Finished:
    config: config.TrainConfig
    folder: Path
    weights: Path
    plan: Plan
    result: train.Finished


@pytest.fixture(scope="module")
def finished(lgg_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A run of two epochs, split by patient, with its bundle."""
    root = tmp_path_factory.mktemp("run")
    settings = _config(root, training={"build_scoring_pipelines": True})
    plans: list[Plan] = []
    (result,) = train.train(settings, lgg_folder, root / "run", announce=plans.append)
    return Finished(settings, root / "run", root / "run" / "weights.safetensors", plans[0], result)


def _log(finished: Finished) -> list[str]:
    return (finished.folder / "log.jsonl").read_text(encoding="utf-8").splitlines()[1:]


def _begun(finished: Finished) -> dict[str, Any]:
    """The log's first line: seed, encoder weights, digest of the data."""
    first: dict[str, Any] = json.loads((finished.folder / "log.jsonl").read_text(encoding="utf-8").splitlines()[0])
    return first


def test_the_folder_holds_the_whole_run(finished: Finished) -> None:
    assert {path.name for path in finished.folder.iterdir()} == {
        "config.yaml",
        "run.json",
        "checkpoint.pt",
        "log.jsonl",
        "metrics.csv",
        "steps.csv",
        "charts.png",
        "slices.png",
        "predictions.csv",
        "predictions.npz",
        "weights.safetensors",
        "card.md",
        "bundle",
    }
    assert yaml.safe_load((finished.folder / "config.yaml").read_text()) == finished.config.source
    assert json.loads((finished.folder / "run.json").read_text()) == _begun(finished)
    assert _begun(finished)["seed"] == 7
    assert _begun(finished)["encoder"] == "random weights"
    assert [json.loads(line)["number"] for line in _log(finished)] == [1, 2]
    assert (finished.folder / "charts.png").read_bytes().startswith(b"\x89PNG")


def test_the_weights_are_the_checkpoints_rounded_to_half(finished: Finished) -> None:
    import torch

    network, facts = model.load(finished.weights)
    saved = torch.load(finished.folder / checkpoint.CHECKPOINT, weights_only=True)["network"]
    assert (facts["name"], facts["architecture"], facts["encoder"]) == ("tiny-run", "Linknet", "tu-test_resnet")
    assert (facts["intensity"], facts["threshold"], facts["normalisation"]) == ("stored", "0.2", "Simple")
    for name, tensor in network.state_dict().items():
        expected = saved[name].half().float() if saved[name].is_floating_point() else saved[name]
        assert torch.equal(tensor, expected), name


def test_the_card_says_what_the_network_was_made_of(finished: Finished) -> None:
    card = (finished.folder / "card.md").read_text(encoding="utf-8")
    assert "seed 7" in card
    assert bundle.file_sha256(finished.weights) in card
    assert "CC BY-NC-SA 4.0" in card
    assert "Not a medical device" in card
    assert "2 of 2 epochs" in card
    assert "| train | 4 | 20 | 12 |" in card
    assert "| validate | 2 | 10 | 6 |" in card
    held_back = next(line for line in card.splitlines() if line.startswith("Patients held back"))
    assert held_back.count("TCGA_XX_") == 2
    last = json.loads(_log(finished)[-1])
    assert f"{last['validation']['loss']:.5f}" in card


def test_the_plan_says_what_is_split(finished: Finished) -> None:
    (fold,) = finished.plan.folds
    assert (fold.training.slices, fold.training.abnormal, fold.training.patients) == (20, 12, 4)
    assert (fold.validation.slices, fold.validation.abnormal, fold.validation.patients) == (10, 6, 2)
    assert (fold.patients_on_both_sides, fold.steps_an_epoch, fold.steps) == (0, 5, 10)
    assert fold.first_learning_rate == 0.01 > fold.last_learning_rate > 0
    assert "random weights" in finished.plan.encoder
    words = "\n".join(" ".join(row) for row in finished.plan.rows())
    assert "20 slices (12 with an abnormality) of 4 patients" in words
    assert "a split by patient" in finished.plan.warnings(compare=True)[0]
    assert finished.plan.warnings() == []
    told = finished.plan.without_effect()
    assert sum(line.count("environment.number_of_workers") for line in told) == 0


def test_every_validation_slice_is_measured_and_its_mask_kept(finished: Finished) -> None:
    with (finished.folder / "predictions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    arrays = np.load(finished.folder / "predictions.npz")
    assert len(rows) == 10
    assert [row["slice"] for row in rows] == arrays["slices"].tolist()
    assert [int(row["drawn_px"]) for row in rows] == arrays["drawn"].sum(axis=(1, 2)).tolist()
    assert [int(row["marked_px"]) for row in rows] == arrays["marked"].sum(axis=(1, 2)).tolist()
    union = (arrays["marked"] | arrays["drawn"]).sum(axis=(1, 2))
    both = (arrays["marked"] & arrays["drawn"]).sum(axis=(1, 2))
    expected = np.where(union == 0, 1.0, both / np.maximum(union, 1))
    assert [float(row["iou"]) for row in rows] == pytest.approx(expected.tolist(), abs=1e-6)
    assert all(row["patient"] in row["slice"] for row in rows)
    last = json.loads(_log(finished)[-1])["validation"]
    ious = [float(row["iou"]) for row in rows if int(row["drawn_px"])]
    assert np.mean(ious) == pytest.approx(last["iou"], abs=2e-2)  # these weights are rounded


def test_the_bundle_is_ready(finished: Finished) -> None:
    assert finished.result.bundle == finished.folder / "bundle"
    manifest, content = bundle.read(finished.folder / "bundle")
    assert content
    assert (manifest.name, manifest.weights_sha256) == ("tiny-run-fp16", bundle.file_sha256(finished.weights))
    assert manifest.parity is not None
    assert manifest.parity.passed


def test_a_run_is_not_overwritten(finished: Finished, lgg_folder: Path) -> None:
    before = bundle.file_sha256(finished.weights)
    with pytest.raises(OutputError, match="--resume"):
        train.train(finished.config, lgg_folder, finished.folder)
    assert bundle.file_sha256(finished.weights) == before


def test_resuming_a_finished_run_gives_the_same_weights(finished: Finished, lgg_folder: Path) -> None:
    before = bundle.file_sha256(finished.weights)
    train.train(finished.config, lgg_folder, finished.folder, train.Options(resume=True))
    assert bundle.file_sha256(finished.weights) == before


def test_resuming_nothing_is_refused(finished: Finished, lgg_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no run to resume"):
        train.train(finished.config, lgg_folder, tmp_path / "none", train.Options(resume=True))
    assert not (tmp_path / "none").exists()


def _stop(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Training ends where it would begin; the seeds that it would have begun with."""
    seeds: list[int] = []

    def fit(*given: Any, **_: Any) -> None:
        seeds.append(given[4])
        raise EdgesegError("stopped")

    monkeypatch.setattr(loop, "fit", fit)
    return seeds


def test_a_seed_is_drawn_recorded_and_kept_on_resuming(
    lgg_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds = _stop(monkeypatch)
    settings = _config(tmp_path, environment={"seed": -1})
    for folder, resume in (("a", False), ("b", False), ("a", True)):
        with pytest.raises(EdgesegError, match="stopped"):
            train.train(settings, lgg_folder, tmp_path / folder, train.Options(resume=resume))
    assert seeds[0] == seeds[2] != seeds[1]
    assert json.loads((tmp_path / "a" / "run.json").read_text())["seed"] == seeds[0]
    assert 0 <= seeds[0] < 2**31


def test_a_split_by_slice_warns_of_shared_patients(
    lgg_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _stop(monkeypatch)
    plans: list[Plan] = []
    settings = _config(tmp_path, dataset={"group_fold_column": "mask"})
    with pytest.raises(EdgesegError, match="stopped"):
        train.train(settings, lgg_folder, tmp_path / "run", announce=plans.append)
    assert plans[0].folds[0].patients_on_both_sides > 0
    assert "patients stand on both sides" in plans[0].warnings()[0]


def test_the_card_of_a_split_by_slice_names_no_patient_held_back(lgg_folder: Path, tmp_path: Path) -> None:
    settings = _config(tmp_path, dataset={"group_fold_column": "mask"}, training={"epochs": 1, "batch_size": 12})
    train.train(settings, lgg_folder, tmp_path / "run")
    card = (tmp_path / "run" / "card.md").read_text(encoding="utf-8")
    assert "none as a whole" in card
    assert "TCGA_XX" not in card


def test_a_folder_that_cannot_be_made_is_refused(lgg_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="-o"):
        train.train(_config(tmp_path), lgg_folder, tmp_path / "file" / "run")


def test_data_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--data"):
        train.train(_config(tmp_path), tmp_path / "nothing", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_dry_run_trains_loads_and_writes_nothing(
    lgg_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoders, "load_encoder", lambda *_: pytest.fail("weights are loaded"))
    monkeypatch.setattr(loop, "fit", lambda *_: pytest.fail("a network is trained"))
    monkeypatch.chdir(tmp_path)
    plan = train.dry_run(_config(tmp_path, dataset={"folds": ["0", "3"]}), lgg_folder, "package")
    assert plan is not None
    assert [fold.fold for fold in plan.folds] == [0, 3]
    assert plan.to_json()["folds"][1]["steps"] == plan.folds[1].steps
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]


def test_the_published_run_as_planned(lgg_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in set of the published size: 1,099 and 274 slices, 68 steps an epoch, 340 in all."""
    count = 1373
    slices, masks = np.zeros((count, 3, 8, 8), np.uint8), np.ones((count, 8, 8), np.bool_)
    labels = np.array([f"P{n % 110}_{n}" for n in range(count)])
    names = tuple(f"P{n}" for n in range(110))
    stand_in = dataset.SliceSet(slices, masks, np.arange(count) % 110, names, np.arange(count), labels)
    monkeypatch.setattr(dataset, "read", lambda *_: dataset.Source(stand_in, None, False, lgg_folder))
    plan = train.dry_run(config.load(), lgg_folder, "none")
    assert plan is not None
    (fold,) = plan.folds
    assert (fold.training.slices, fold.validation.slices) == (1099, 274)
    assert (fold.steps_an_epoch, fold.steps, fold.slices_an_epoch) == (68, 340, 1088)
    assert (fold.first_learning_rate, plan.differs) == (1e-3, "")
    assert fold.last_learning_rate == pytest.approx(0.5e-3 * (1 + np.cos(np.pi * 339 / 340)), abs=1e-12)
    assert fold.patients_on_both_sides > 50


def test_several_folds_in_one_run(lgg_folder: Path, tmp_path: Path) -> None:
    settings = _config(tmp_path, dataset={"folds": ["1", "4"]}, training={"epochs": 1})
    finished = train.train(settings, lgg_folder, tmp_path / "run")
    assert [one.folder.name for one in finished] == ["fold-1", "fold-4"]
    validated = [(one.folder / "predictions.csv").read_text(encoding="utf-8").splitlines()[1:] for one in finished]
    patients = [{line.split(",")[1] for line in lines} for lines in validated]
    assert not patients[0] & patients[1]
    again = train.train(settings, lgg_folder, tmp_path / "run", train.Options(resume=True))
    assert [one.state.epoch for one in again] == [1, 1]
    for one, patients_of_fold in zip(finished, patients, strict=True):
        own = config.load(one.folder / "config.yaml")  # a fold's file is that of this fold alone
        _, validation = dataset.split(dataset.read(own, lgg_folder), own, run.begun(one.folder).seed)
        assert set(validation.patient_names()) == patients_of_fold


def test_a_fold_that_was_not_begun_is_begun_on_resuming(
    lgg_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = _config(tmp_path, dataset={"folds": ["1", "4"]}, training={"epochs": 1})
    fit = loop.fit

    def interrupted(*given: Any, **named: Any) -> Any:
        if given[5].name == "fold-4":
            raise KeyboardInterrupt
        return fit(*given, **named)

    monkeypatch.setattr(loop, "fit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train.train(settings, lgg_folder, tmp_path / "run")
    monkeypatch.setattr(loop, "fit", fit)
    finished = train.train(settings, lgg_folder, tmp_path / "run", train.Options(resume=True))
    assert [(one.folder / "weights.safetensors").is_file() for one in finished] == [True, True]


def test_resuming_with_another_configuration_is_refused(finished: Finished, lgg_folder: Path, tmp_path: Path) -> None:
    other = _config(tmp_path, training={"batch_size": 5, "build_scoring_pipelines": True})
    with pytest.raises(ConfigError, match=r"training\.batch_size is 5.*began with 4"):
        train.train(other, lgg_folder, finished.folder, train.Options(resume=True))


def test_resuming_with_other_data_is_refused(finished: Finished, lgg_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(lgg_folder, tmp_path / "set")
    shutil.rmtree(tmp_path / "set" / "kaggle_3m" / "TCGA_XX_0005_20000101")
    with pytest.raises(InputError, match="other slices or masks"):
        train.train(finished.config, tmp_path / "set", finished.folder, train.Options(resume=True))


def test_a_bundle_that_cannot_be_built_does_not_end_the_run(
    lgg_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise EngineError("the network cannot be exported")

    monkeypatch.setattr(build, "build_engine", fail)
    said: list[str] = []
    settings = _config(tmp_path, training={"epochs": 1, "build_scoring_pipelines": True}, dataset={"folds": ["0", "1"]})
    finished = train.train(settings, lgg_folder, tmp_path / "run", say=said.append)
    assert [one.bundle for one in finished] == [None, None]
    assert sum("no bundle was built: the network cannot be exported" in line for line in said) == 2


def test_ctrl_c_keeps_the_last_checkpoint(lgg_folder: Path, tmp_path: Path) -> None:
    settings = _config(tmp_path)

    def stop(event: loop.Step | loop.Epoch) -> None:
        if isinstance(event, loop.Step) and event.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train.train(settings, lgg_folder, tmp_path / "broken", progress=stop)
    (resumed,) = train.train(settings, lgg_folder, tmp_path / "broken", train.Options(resume=True))
    (unbroken,) = train.train(settings, lgg_folder, tmp_path / "unbroken")
    assert [row[0] for row in resumed.state.steps] == [row[0] for row in unbroken.state.steps] == list(range(1, 11))
    losses = [[row[3] for row in one.state.steps] for one in (resumed, unbroken)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert resumed.state.history[-1]["validation"] == pytest.approx(unbroken.state.history[-1]["validation"], abs=1e-4)


def test_a_table_trains_as_the_folder_does(lgg_folder: Path, tmp_path: Path) -> None:
    prepare(lgg_folder, tmp_path / "table", "all")
    settings = _config(tmp_path, training={"epochs": 1})
    (run,) = train.train(settings, tmp_path / "table", tmp_path / "run")
    card = (run.folder / "card.md").read_text(encoding="utf-8")
    assert "| train | 4 | 20 | 12 |" in card
    assert "training table" in card


def test_the_board_holds_every_step(lgg_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the log for TensorBoard needs the extra tensorboard")
    settings = _config(tmp_path, training={"epochs": 1})
    train.train(settings, lgg_folder, tmp_path / "run", train.Options(board=True))
    assert list((tmp_path / "run" / "tensorboard").iterdir())


@pytest.mark.parametrize(
    ("pipeline", "warned"),
    [
        (
            '{"__version__": "1.1.0", "transform": {"__class_fullname__": "Compose", "p": 1.0, "transforms": '
            '[{"__class_fullname__": "Resize", "always_apply": true, "p": 1, "height": IMAGE_HEIGHT, '
            '"width": IMAGE_WIDTH, "interpolation": 1}]}}',
            False,
        ),
        (
            '{"__version__": "1.1.0", "transform": {"__class_fullname__": "Compose", "p": 1.0, "transforms": '
            '[{"__class_fullname__": "VerticalFlip", "always_apply": true, "p": 1}]}}',
            True,
        ),
    ],
)
def test_a_custom_pipeline_trains_and_says_what_an_engine_leaves_out(
    pipeline: str, warned: bool, lgg_folder: Path, tmp_path: Path
) -> None:
    augmentation = {
        "augmentations_strategy": "Custom",
        "custom_train_augmentations": pipeline,
        "custom_inference_augmentations": pipeline,
    }
    settings = _config(tmp_path, training={"epochs": 1, "build_scoring_pipelines": True}, augmentation=augmentation)
    said: list[str] = []
    train.train(settings, lgg_folder, tmp_path / "run", say=said.append)
    assert any("custom_inference_augmentations changes slices" in line for line in said) == warned


@pytest.mark.parametrize(("field", "name"), [("backbone", "no-such-encoder"), ("architecture", "NoSuchNet")])
def test_an_unknown_network_is_refused_before_anything_begins(
    field: str, name: str, lgg_folder: Path, tmp_path: Path
) -> None:
    settings = _config(tmp_path, architecture={field: name})
    for begin in (
        lambda: train.dry_run(settings, lgg_folder),
        lambda: train.train(settings, lgg_folder, tmp_path / "r"),
    ):
        with pytest.raises(ConfigError, match=name):
            begin()
    assert not (tmp_path / "r").exists()
