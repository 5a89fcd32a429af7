"""One training run: configuration and split in, a folder with weights, records, charts and card out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

from edgeseg import __version__, model
from edgeseg.errors import ConfigError, InputError, OutputError
from edgeseg.training import charts, loop, records
from edgeseg.training.card import write_card
from edgeseg.training.checkpoint import State
from edgeseg.training.config import TrainConfig
from edgeseg.training.dataset import SliceSet
from edgeseg.training.distributed import Processes
from edgeseg.training.fields import flatten

WEIGHTS, CONFIG, CARD, CHARTS = "weights.safetensors", "config.yaml", "card.md", "charts.png"


@dataclass(frozen=True)
class Begun:
    """What a run drew, loaded and read when it began, and a resumed one keeps; ``data`` is a digest of the slices."""

    seed: int
    encoder: str
    data: str


def begun(run: Path) -> Begun:
    """What the run in this folder began with.

    Raises
    ------
    InputError
        When there is no run.
    """
    try:
        content = json.loads((run / records.BEGUN).read_text(encoding="utf-8"))
        return Begun(int(content["seed"]), str(content["encoder"]), str(content["data"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"no run to resume in {run}: start without --resume") from error


def check_resumable(run: Path, config: TrainConfig) -> None:
    """Refuse to go on with another configuration than the one that the run began with; ``epochs`` may differ.

    Raises
    ------
    ConfigError
        Names the fields that differ.
    """
    try:
        earlier = flatten(yaml.safe_load((run / CONFIG).read_text(encoding="utf-8")) or {})
    except (OSError, UnicodeDecodeError, yaml.YAMLError, AttributeError) as error:
        raise InputError(f"{run / CONFIG} cannot be read: start again without --resume, in another folder") from error
    now = flatten(config.source)
    changed = sorted(name for name in {*earlier, *now} - {"training.epochs"} if earlier.get(name) != now.get(name))
    if changed:
        raise ConfigError(
            f"{changed[0]} is {now.get(changed[0])!r}, but the run in {run} began with {earlier.get(changed[0])!r} "
            f"({len(changed)} such fields): resume with its own {CONFIG}, or start in another folder with -o"
        )


def train(
    config: TrainConfig,
    split: tuple[SliceSet, SliceSet],
    run: Path,
    start: Begun,
    processes: Processes,
    encoder_weights: str | None = None,
    resume: bool = False,
    board: bool = False,
    published: bool = False,
    from_table: bool = False,
    progress: loop.Report = lambda _: None,
) -> State:
    """Train on one split; the folder gets weights, records, charts and a card.

    Parameters
    ----------
    config, split
        What to do, and the training and validation slices.
    run
        The run's folder: ``config.yaml``, ``run.json``, ``checkpoint.pt``, ``log.jsonl``, ``metrics.csv``,
        ``steps.csv``, ``charts.png``, ``weights.safetensors`` (rounded to FP16) and ``card.md``.
    start
        The seed, and what the encoder starts from in words; with ``resume`` what the run began with.
    processes
        This process among those that share the run.
    encoder_weights
        ``hub``, ``package``, ``none`` or a file; None takes the configuration's.
    resume
        Go on from the checkpoint in ``run``.
    board
        Write a log for TensorBoard too.
    published
        Draw the published run's curves beside this one's.
    from_table
        Whether the slices come from a table: its card does not speak of the LGG set.
    progress
        Called with every step and epoch.

    Raises
    ------
    InputError
        When configuration, weights or folder cannot be used.
    """
    import torch

    torch.manual_seed(start.seed)
    network = model.build(config.architecture, config.encoder)
    if not resume:
        origin = model.load_encoder(network, config.encoder, encoder_weights or config.encoder_weights)
        start = Begun(start.seed, origin, start.data)
    if processes.leads:
        _begin(run, config, start)
    training, validation = split
    with _reports(run, processes, board, progress) as report:
        state = loop.fit(network, training, validation, config, start.seed, run, report, resume, processes)
    if processes.leads:
        charts.draw(state.history, state.steps, config.metric, run / CHARTS, published)
        digest = model.save_weights(network, run / WEIGHTS, _facts(config))
        write_card(run / CARD, config, start.seed, start.encoder, split, state.history, digest, from_table)
    return state


@contextmanager
def _reports(run: Path, processes: Processes, board: bool, progress: loop.Report) -> Iterator[loop.Report]:
    """What is called with every step and epoch: the caller's, and TensorBoard's where it is asked for."""
    if not processes.leads:
        yield lambda _: None
        return
    if not board:
        yield progress
        return
    with records.Board(run) as log:

        def report(event: loop.Step | loop.Epoch) -> None:
            if isinstance(event, loop.Step):
                log.step((event.step, event.epoch, event.learning_rate, event.loss))
            else:
                log.epoch(asdict(event))
            progress(event)

        yield report


def _facts(config: TrainConfig) -> dict[str, str]:
    """What the weights' file says about itself: enough to run the network as it was trained."""
    return {
        "name": config.name,
        "architecture": config.architecture,
        "encoder": config.encoder,
        "intensity": config.selection.intensity,
        "normalisation": config.normalisation,
        "flips": ",".join(config.flips),
        "threshold": str(config.threshold),
        "edgeseg": __version__,
        "format": "edgeseg weights 1",
    }


def _begin(run: Path, config: TrainConfig, start: Begun) -> None:
    """Make the run's folder and write down what the run starts from."""
    try:
        run.mkdir(parents=True, exist_ok=True)
        (run / records.BEGUN).write_text(json.dumps(asdict(start), indent=2) + "\n", encoding="utf-8")
        (run / CONFIG).write_text(yaml.safe_dump(config.source, sort_keys=False), encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write to {run} ({error.strerror}): give another folder with -o") from error
