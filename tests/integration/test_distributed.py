from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("torch", reason="training needs the extra train")

CONFIG: dict[str, Any] = {
    "experiment_name": "shared",
    "architecture": {"architecture": "Unet", "backbone": "tu-tf_efficientnet_lite0", "pretrained": False},
    "augmentation": {"mix_image": "Cutmix", "mix_probability": 0.5},
    "dataset": {"group_fold_column": "patient", "folds": ["0"]},
    "environment": {"mixed_precision_training": False, "seed": 7},
    "training": {
        "batch_size": 5,
        "epochs": 1,
        "learning_rate": 1e-4,
        "gradient_clip": 1.0,
        "build_scoring_pipelines": False,
    },
    "edgeseg": {"slices": "all", "gain": [0.9, 1.1], "missing_sequence": 0.3, "crop_px": 64},
}
"""Five slices a batch: two and three of them for each of two processes."""

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
ONE_BATCH = """
import sys, torch
from edgeseg import model
from edgeseg.training import distributed, loss

torch.manual_seed(0)
network = model.build("Unet", "tu-tf_efficientnet_lite0").double().train()
slices, masks = torch.rand(5, 3, 64, 64).double(), (torch.rand(5, 1, 64, 64) > 0.8).double()
with distributed.joined((), 5) as processes:
    own = processes.own(5)
    shared = distributed.wrap(network, processes)
    value = loss.bce_dice(shared(slices[own]), masks[own], processes.total)
    value.backward()
    if processes.leads:
        gradients = torch.cat([parameter.grad.flatten() for parameter in network.parameters()])
        running = torch.cat([buffer.double().flatten() for buffer in network.buffers()])
        torch.save({"loss": value.detach(), "gradients": gradients, "running": running}, sys.argv[1])
"""


def _losses(run: Path) -> list[float]:
    with (run / "steps.csv").open(encoding="utf-8", newline="") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def _validation(run: Path) -> list[float]:
    with (run / "metrics.csv").open(encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    return [float(row[name]) for name in ("validation_loss", "iou", "dice_patient", "false_positive_share")]


def _train(folder: Path, data: Path, run: Path, *launcher: str) -> subprocess.CompletedProcess[str]:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(CONFIG), encoding="utf-8")
    edgeseg = str(Path(sys.executable).with_name("edgeseg"))
    command = [*launcher, edgeseg, "train", str(path), "--data", str(data), "-o", str(run)]
    quiet = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(command, capture_output=True, text=True, timeout=600, env=quiet, check=True)


def test_two_processes_take_the_steps_of_one(lgg_folder: Path, tmp_path: Path) -> None:
    alone = _train(tmp_path, lgg_folder, tmp_path / "alone")
    shared = _train(tmp_path, lgg_folder, tmp_path / "shared", *TORCHRUN, "--no-python")
    assert len(_losses(tmp_path / "alone")) == 4
    assert _losses(tmp_path / "shared") == pytest.approx(_losses(tmp_path / "alone"), rel=3e-3)
    assert _validation(tmp_path / "shared") == pytest.approx(_validation(tmp_path / "alone"), rel=1e-2, abs=1e-2)
    assert "2 processes, CPU" in shared.stderr
    assert shared.stderr.count("epoch 1:") == alone.stderr.count("epoch 1:") == 1


def test_loss_gradients_and_statistics_of_a_batch_are_those_of_one_process(tmp_path: Path) -> None:
    """In float64, where rounding cannot hide a fault: single precision parts the curves by itself."""
    import torch

    script = tmp_path / "one_batch.py"
    script.write_text(ONE_BATCH, encoding="utf-8")
    quiet = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    for launcher, name in (((sys.executable,), "alone"), (TORCHRUN, "shared")):
        subprocess.run([*launcher, str(script), str(tmp_path / name)], env=quiet, timeout=600, check=True)
    alone, shared = (torch.load(tmp_path / name, weights_only=True) for name in ("alone", "shared"))
    for what, values in alone.items():
        torch.testing.assert_close(shared[what], values, rtol=1e-9, atol=1e-9 * values.abs().max().item(), msg=what)
