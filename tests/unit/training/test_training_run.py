from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from edgeseg import bundle, model
from edgeseg.errors import EdgesegError, InputError, OutputError
from edgeseg.training import config, loop, run

BASE: dict[str, Any] = {
    "experiment_name": "tiny-run",
    "architecture": {"architecture": "Linknet", "backbone": "tu-test_resnet", "pretrained": False},
    "dataset": {"group_fold_column": "patient", "folds": ["0"]},
    "environment": {"mixed_precision_training": False, "seed": 7},
    "training": {"batch_size": 4, "epochs": 2, "learning_rate": 0.01},
    "edgeseg": {"slices": "all"},
}


def _config(folder: Path, **sections: dict[str, Any]) -> config.TrainConfig:
    content = {**BASE, **{name: {**BASE[name], **fields} for name, fields in sections.items()}}
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return config.load(path)


@dataclass(frozen=True)
class Finished:
    config: config.TrainConfig
    folder: Path
    weights: Path
    said: tuple[str, ...]


@pytest.fixture(scope="module")
def finished(lgg_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A run of two epochs, split by patient."""
    root = tmp_path_factory.mktemp("run")
    settings = _config(root)
    said: list[str] = []
    weights = run.train(settings, lgg_folder, root / "run", say=said.append)
    return Finished(settings, root / "run", weights, tuple(said))


def _log(finished: Finished) -> list[str]:
    return (finished.folder / "log.jsonl").read_text(encoding="utf-8").splitlines()


def test_the_folder_holds_the_whole_run(finished: Finished) -> None:
    assert {path.name for path in finished.folder.iterdir()} == {
        "config.yaml",
        "run.json",
        "checkpoint.pt",
        "log.jsonl",
        "charts.png",
        "weights.safetensors",
        "card.md",
    }
    assert yaml.safe_load((finished.folder / "config.yaml").read_text()) == BASE
    assert json.loads((finished.folder / "run.json").read_text()) == {"seed": "7", "encoder": "random weights"}
    assert [json.loads(line)["number"] for line in _log(finished)] == [1, 2]
    assert (finished.folder / "charts.png").read_bytes().startswith(b"\x89PNG")


def test_the_weights_are_the_checkpoints_rounded_to_half(finished: Finished) -> None:
    import torch

    network, facts = model.load(finished.weights)
    saved = torch.load(finished.folder / loop.CHECKPOINT, weights_only=True)["network"]
    assert (facts["name"], facts["architecture"], facts["encoder"]) == ("tiny-run", "Linknet", "tu-test_resnet")
    assert (facts["intensity"], facts["threshold"]) == ("stored", "0.5")
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


def test_what_has_no_effect_and_what_is_split_is_said(finished: Finished) -> None:
    said = "\n".join(finished.said)
    assert "without effect: augmentation.mix_probability" in said
    assert "20 slices of 4 patients train, 10 slices of 2 patients validate" in said
    assert "both sides" not in said


def test_a_run_is_not_overwritten(finished: Finished, lgg_folder: Path) -> None:
    before = bundle.file_sha256(finished.weights)
    with pytest.raises(OutputError, match="--resume"):
        run.train(finished.config, lgg_folder, finished.folder)
    assert bundle.file_sha256(finished.weights) == before


def test_resuming_a_finished_run_gives_the_same_weights(finished: Finished, lgg_folder: Path) -> None:
    before = bundle.file_sha256(finished.weights)
    run.train(finished.config, lgg_folder, finished.folder, resume=True)
    assert bundle.file_sha256(finished.weights) == before


def test_resuming_nothing_is_refused(finished: Finished, lgg_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no run to resume"):
        run.train(finished.config, lgg_folder, tmp_path / "none", resume=True)
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
            run.train(settings, lgg_folder, tmp_path / folder, resume=resume)
    assert seeds[0] == seeds[2] != seeds[1]
    assert json.loads((tmp_path / "a" / "run.json").read_text())["seed"] == str(seeds[0])
    assert 0 <= seeds[0] < 2**31


def test_a_split_by_slice_warns_of_shared_patients(
    lgg_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _stop(monkeypatch)
    said: list[str] = []
    settings = _config(tmp_path, dataset={"group_fold_column": "mask"})
    with pytest.raises(EdgesegError, match="stopped"):
        run.train(settings, lgg_folder, tmp_path / "run", say=said.append)
    assert any("patients stand on both sides" in line for line in said)


def test_the_card_of_a_split_by_slice_names_no_patient_held_back(lgg_folder: Path, tmp_path: Path) -> None:
    settings = _config(tmp_path, dataset={"group_fold_column": "mask"}, training={"epochs": 1, "batch_size": 12})
    run.train(settings, lgg_folder, tmp_path / "run")
    card = (tmp_path / "run" / "card.md").read_text(encoding="utf-8")
    assert "none as a whole" in card
    assert "TCGA_XX" not in card


def test_a_folder_that_cannot_be_made_is_refused(lgg_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="-o"):
        run.train(_config(tmp_path), lgg_folder, tmp_path / "file" / "run")


def test_data_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--data"):
        run.train(_config(tmp_path), tmp_path / "nothing", tmp_path / "run")
    assert not (tmp_path / "run").exists()
