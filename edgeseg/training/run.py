"""A whole training run: configuration and data in, a folder with weights, log, charts and card out."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from pathlib import Path

import yaml

from edgeseg import __version__, model
from edgeseg.errors import BackendMissing, InputError, OutputError
from edgeseg.training import charts, dataset, loop
from edgeseg.training.card import write_card
from edgeseg.training.config import TrainConfig
from edgeseg.types import Preprocessing

WEIGHTS = "weights.safetensors"
BEGUN = "run.json"


def train(
    config: TrainConfig,
    data: Path,
    run: Path,
    encoder_weights: str | None = None,
    resume: bool = False,
    say: Callable[[str], None] = lambda _: None,
    progress: loop.Report = lambda _: None,
) -> Path:
    """Train as the configuration says; return the path of the weights.

    Parameters
    ----------
    config
        From `edgeseg.training.config.load`.
    data
        The LGG set's folder.
    run
        The run's folder: ``config.yaml``, ``run.json``, ``checkpoint.pt``, ``log.jsonl``, ``charts.png``,
        ``weights.safetensors`` (rounded to FP16) and ``card.md``.
    encoder_weights
        ``hub``, ``package``, ``none`` or a file; None takes the configuration's.
    resume
        Go on from the checkpoint in ``run``.
    say, progress
        Called with sentences, and with every step and epoch.

    Raises
    ------
    BackendMissing
        When PyTorch is not installed.
    InputError
        When configuration, data, weights or folder cannot be used.
    """
    try:
        import torch
    except ImportError as error:
        raise BackendMissing("training needs PyTorch: pip install 'edgeseg[train]'") from error
    if not resume and (run / loop.CHECKPOINT).exists():
        raise OutputError(f"{run} holds a run already: go on with --resume, or give another folder with -o")
    for field in config.inert:
        say(f"without effect: {field}")
    begun = _begun(run) if resume else {}
    seed = int(begun["seed"]) if begun else _seed(config)
    torch.manual_seed(seed)
    network = model.build(config.architecture, config.encoder)
    origin = begun.get("encoder") or model.load_encoder(
        network, config.encoder, encoder_weights or config.encoder_weights
    )
    say(f"seed {seed}; encoder: {origin}; device: {_device(config)}")
    slices = dataset.read(data, Preprocessing(config.intensity, config.size_px))
    training, validation = dataset.split(slices, config, seed)
    say(f"{_count(training)} train, {_count(validation)} validate")
    shared = set(training.patients.tolist()) & set(validation.patients.tolist())
    if shared:
        say(f"warning: {len(shared)} patients stand on both sides of the split: its figures flatter")
    if not resume:
        _begin(run, config, {"seed": str(seed), "encoder": origin})
    history = loop.fit(network, training, validation, config, seed, run, progress, resume)
    charts.draw(history, config.metric, run / "charts.png")
    facts = {
        "name": config.name,
        "architecture": config.architecture,
        "encoder": config.encoder,
        "intensity": config.intensity,
        "threshold": str(config.threshold),
        "edgeseg": __version__,
        "format": "edgeseg weights 1",
    }
    digest = model.save_weights(network, run / WEIGHTS, facts)
    write_card(run / "card.md", config, seed, origin, training, validation, history, digest)
    return run / WEIGHTS


def _count(slices: dataset.SliceSet) -> str:
    return f"{len(slices)} slices of {slices.patient_count()} patients"


def _device(config: TrainConfig) -> str:
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    named = config.source.get("environment", {}).get("gpus")
    return "CPU" + (" (the configuration names a GPU; there is none here)" if named else "")


def _seed(config: TrainConfig) -> int:
    return secrets.randbelow(2**31) if config.seed == -1 else config.seed


def _begun(run: Path) -> dict[str, str]:
    """What the run in this folder drew and loaded when it began."""
    try:
        begun: dict[str, str] = json.loads((run / BEGUN).read_text(encoding="utf-8"))
        int(begun["seed"])
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"no run to resume in {run}: start without --resume") from error
    return begun


def _begin(run: Path, config: TrainConfig, begun: dict[str, str]) -> None:
    """Make the run's folder and write down what the run starts from."""
    try:
        run.mkdir(parents=True, exist_ok=True)
        (run / BEGUN).write_text(json.dumps(begun, indent=2) + "\n", encoding="utf-8")
        (run / "config.yaml").write_text(yaml.safe_dump(config.source, sort_keys=False), encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write to {run} ({error.strerror}): give another folder with -o") from error
