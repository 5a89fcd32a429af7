from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest

from edgeseg import model
from edgeseg.errors import ConfigError, InputError
from edgeseg.training import batches, config, loop, published, records, validation
from edgeseg.training.checkpoint import State
from edgeseg.training.dataset import SliceSet
from edgeseg.training.distributed import Processes
from edgeseg.types import BoolArray, ByteArray

if TYPE_CHECKING:
    import torch
    from torch import nn

CONFIG = replace(
    config.load(),
    mixed_precision=False,
    batch_size=4,
    epochs=3,
    learning_rate=0.01,
    augmentation=config.Augmentation(rotation_deg=10.0, gain=(0.9, 1.1), missing_sequence=0.2),
)
SEED = 11


def _slices(count: int, seed: int = 0, size: int = 64) -> SliceSet:
    """Noise with a bright square in FLAIR; every fifth slice is without one."""
    draw = np.random.default_rng(seed)
    slices = draw.integers(0, 60, (count, 3, size, size)).astype(np.uint8)
    masks = np.zeros((count, size, size), np.bool_)
    for k, (row, column) in enumerate(draw.integers(0, size - 24, (count, 2))):
        masks[k, row : row + 24, column : column + 24] = k % 5 != 0
    slices[:, 1][masks] = 220
    return _set(slices, masks, np.arange(count) // 5)


def _set(slices: ByteArray, masks: BoolArray, patients: npt.NDArray[np.int64]) -> SliceSet:
    numbers = np.arange(len(slices))
    names = tuple(f"P{n}" for n in range(int(patients.max()) + 1))
    return SliceSet(slices, masks, patients, names, numbers, np.array([f"S{n}" for n in numbers]))


def _validate(network: nn.Module, data: SliceSet, settings: config.TrainConfig) -> validation.Validation:
    return validation.validate(network, data, batches.preparation(settings, Processes()))


def _network() -> nn.Module:
    import torch

    torch.manual_seed(3)
    return model.build("Linknet", "tu-test_resnet")


def _ignore(_: loop.Step | loop.Epoch) -> None:
    pass


def _fit(run: Path, settings: config.TrainConfig = CONFIG, **options: Any) -> tuple[nn.Module, list[dict[str, Any]]]:
    network, state = _fit_state(run, settings, **options)
    return network, state.history


def _fit_state(run: Path, settings: config.TrainConfig = CONFIG, **options: Any) -> tuple[nn.Module, State]:
    network = options.pop("network", None) or _network()
    report = options.pop("report", _ignore)
    run.mkdir(exist_ok=True)
    state = loop.fit(network, _slices(17), _slices(10, seed=1), settings, SEED, run, report, **options)
    return network, state


def _figures(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in epoch.items() if "second" not in k} for epoch in history]


def _weights(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def _same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    import torch

    return a.keys() == b.keys() and all(torch.allclose(a[n], b[n], rtol=0, atol=1e-6) for n in a)


def test_the_learning_rate_is_the_published_runs() -> None:
    """After step t it is 0.5 (1 + cos(pi t / 340)) 1e-3: what step number t, counted from 0, is taken with."""
    rates = [loop.learning_rate(config.load(), t, 340, 68) for t in range(341)]
    theirs = [published.learning_rate(t) for t in range(341)]
    assert np.abs(np.subtract(rates, theirs)).max() < 1e-12
    assert rates[0] == 1e-3
    assert rates[1] == pytest.approx(9.999787e-4, abs=1e-10)
    assert rates[340] == pytest.approx(0, abs=1e-18)


def test_other_schedules() -> None:
    linear, constant = (replace(config.load(), schedule=s) for s in ("Linear", "Constant"))
    assert [loop.learning_rate(linear, t, 4, 2) for t in range(5)] == pytest.approx([1e-3, 7.5e-4, 5e-4, 2.5e-4, 0])
    assert {loop.learning_rate(constant, t, 4, 2) for t in range(5)} == {1e-3}


def test_warm_up_rises_in_a_line_and_the_schedule_follows_it() -> None:
    settings = replace(config.load(), warmup_epochs=0.5)
    rates = [loop.learning_rate(settings, t, 20, 6) for t in range(20)]
    assert rates[:4] == pytest.approx([2.5e-4, 5e-4, 7.5e-4, 1e-3])
    assert rates[3:] == pytest.approx([0.5e-3 * (1 + math.cos(math.pi * t / 17)) for t in range(17)])


def test_the_loss_falls_and_every_step_and_epoch_is_told(tmp_path: Path) -> None:
    told: list[loop.Step | loop.Epoch] = []
    _, history = _fit(tmp_path, replace(CONFIG, epochs=6), report=told.append)
    steps = [event for event in told if isinstance(event, loop.Step)]
    assert history[-1]["train_loss"] < 0.75 * history[0]["train_loss"]
    assert [step.step for step in steps] == list(range(1, 25))
    assert {step.steps for step in steps} == {24}
    assert [step.learning_rate for step in steps] == pytest.approx(
        [0.005 * (1 + math.cos(math.pi * t / 24)) for t in range(24)]
    )
    assert [event.number for event in told if isinstance(event, loop.Epoch)] == [1, 2, 3, 4, 5, 6]
    lines = (tmp_path / "log.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == history


def test_a_resumed_run_takes_the_same_steps(tmp_path: Path) -> None:
    class PowerCut(Exception):
        pass

    def cut(event: loop.Step | loop.Epoch) -> None:
        if isinstance(event, loop.Step) and (event.epoch, event.step) == (2, 6):
            raise PowerCut

    network, history = _fit(tmp_path / "unbroken")
    with pytest.raises(PowerCut):
        _fit(tmp_path / "broken", report=cut)
    resumed, resumed_history = _fit(tmp_path / "broken", go_on=True)
    assert [epoch["number"] for epoch in resumed_history] == [1, 2, 3]
    assert _same(_weights(network), _weights(resumed))
    for a, b in zip(_figures(history), _figures(resumed_history), strict=True):
        assert a.pop("validation") == pytest.approx(b.pop("validation"), abs=1e-6)
        assert a == pytest.approx(b, abs=1e-6)


def test_the_seed_decides_the_steps(tmp_path: Path) -> None:
    first, again = (_fit(tmp_path / name)[0] for name in ("a", "b"))
    other = _network()
    (tmp_path / "c").mkdir()
    loop.fit(other, _slices(17), _slices(10, seed=1), CONFIG, SEED + 1, tmp_path / "c", _ignore)
    assert _same(_weights(first), _weights(again))
    assert not _same(_weights(first), _weights(other))


def test_a_finished_run_resumes_to_its_end(tmp_path: Path) -> None:
    network, history = _fit(tmp_path)
    again, same = _fit(tmp_path, go_on=True)
    assert same == history
    assert _same(_weights(network), _weights(again))


def test_the_checkpoint_is_plain_tensors(tmp_path: Path) -> None:
    import torch

    _fit(tmp_path, replace(CONFIG, epochs=1))
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert saved["epoch"] == 1
    assert not list(tmp_path.glob("*.part"))


def test_resuming_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="start without --resume"):
        _fit(tmp_path, go_on=True)


@pytest.mark.parametrize("content", [b"", b"no checkpoint at all"])
def test_a_damaged_checkpoint_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(content)
    with pytest.raises(InputError, match="is damaged"):
        _fit(tmp_path, go_on=True)


def test_a_truncated_checkpoint_is_refused(tmp_path: Path) -> None:
    _fit(tmp_path, replace(CONFIG, epochs=1))
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(InputError, match="is damaged"):
        _fit(tmp_path, go_on=True)


def test_another_networks_checkpoint_is_refused(tmp_path: Path) -> None:
    _fit(tmp_path, replace(CONFIG, epochs=1))
    with pytest.raises(InputError, match="another network"):
        _fit(tmp_path, go_on=True, network=model.build("Unet", "tu-test_resnet"))


def test_too_few_slices_for_a_batch_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="17 training slices do not fill a batch of 32"):
        _fit(tmp_path, replace(CONFIG, batch_size=32))


def _preset(monkeypatch: pytest.MonkeyPatch, ious: list[float]) -> None:
    """Validation gives these IoU values, one an epoch; Dice falls from epoch to epoch."""
    figures = iter(ious)

    def validate(*_: object) -> validation.Validation:
        value = next(figures)
        return validation.Validation(1 - value, value, 1 - value, value, None)

    monkeypatch.setattr(loop, "validate", validate)


@pytest.mark.parametrize(("metric", "best"), [("IoU", 1), ("Dice", 0)])
def test_the_best_epoch_is_kept_on_demand(
    metric: Any, best: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _preset(monkeypatch, [0.5, 0.9, 0.6])
    network, states = _network(), []

    def remember(event: loop.Step | loop.Epoch) -> None:
        if isinstance(event, loop.Epoch):
            states.append(_weights(network))

    _fit(tmp_path, replace(CONFIG, keep_best=True, metric=metric), network=network, report=remember)
    assert [_same(_weights(network), state) for state in states] == [number == best for number in range(3)]


def test_the_last_epoch_is_kept_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    _preset(monkeypatch, [0.5, 0.9, 0.6])
    network, _ = _fit(tmp_path)
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["network"]
    assert _same(_weights(network), saved)
    assert not (tmp_path / "best.pt").exists()


def test_validation_every_other_epoch_and_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _preset(monkeypatch, [0.5, 0.9])
    _, history = _fit(tmp_path, replace(CONFIG, evaluation_epochs=2))
    assert [epoch["validation"] is not None for epoch in history] == [False, True, True]


def test_gradients_are_gathered_over_batches(tmp_path: Path) -> None:
    told: list[loop.Step | loop.Epoch] = []
    _fit(tmp_path, replace(CONFIG, grad_accumulation=3, epochs=1), report=told.append)
    assert [event.step for event in told if isinstance(event, loop.Step)] == [1, 2]


def _bright_flair() -> nn.Module:
    """A network that marks FLAIR at and above half of its range."""
    import torch
    from torch import nn

    class BrightFlair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.tensor(100.0))

        def forward(self, slices: torch.Tensor) -> torch.Tensor:
            return (slices[:, 1:2] - 0.5) * self.gain

    return BrightFlair()


def test_validation_figures_of_hand_made_slices() -> None:
    slices = np.zeros((20, 3, 8, 8), np.uint8)
    masks = np.zeros((20, 8, 8), np.bool_)
    masks[0, :4, :4] = True
    slices[0, 1, :4, :2] = 255  # half of it found: IoU 1/2, Dice 2/3
    masks[17, 4, 4] = True
    slices[17, 1, 4, 4] = 255  # found, in the second batch
    slices[5, 1, 0, 0] = 255  # a false positive
    data = _set(slices, masks, np.repeat([0, 1], 10))
    figures = _validate(_bright_flair(), data, CONFIG)
    assert figures.iou == pytest.approx((1 / 2 + 1) / 2)
    assert figures.dice == pytest.approx((2 / 3 + 1) / 2)
    assert figures.dice_patient == pytest.approx((2 * 8 / (16 + 9) + 1) / 2)
    assert figures.false_positive_share == pytest.approx(1 / 18)
    only_abnormal = data.take(np.array([0, 17]))
    assert _validate(_bright_flair(), only_abnormal, CONFIG).false_positive_share is None


def test_the_threshold_is_a_probability() -> None:
    slices = np.zeros((1, 3, 8, 8), np.uint8)
    slices[0, 1, :, :4] = 130  # logit 0.98, probability 0.73
    masks = np.ones((1, 8, 8), np.bool_)
    data = _set(slices, masks, np.array([0]))
    shares = [_validate(_bright_flair(), data, replace(CONFIG, threshold=t)).iou for t in (0.5, 0.7, 0.75)]
    assert shares == [0.5, 0.5, 0.0]


def test_the_metric_on_the_training_slices_on_demand(tmp_path: Path) -> None:
    _, history = _fit(tmp_path, replace(CONFIG, train_metric=True, epochs=1))
    assert 0 <= history[0]["training"]["iou"] <= 1
    _, history = _fit(tmp_path / "without", replace(CONFIG, epochs=1))
    assert history[0]["training"] is None


def test_named_layers_learn_at_their_own_rate(tmp_path: Path) -> None:
    settings = replace(CONFIG, differential_layers=("backbone",), differential_rate=0.0, epochs=1, weight_decay=0.0)
    before = _weights(_network())
    network, _ = _fit(tmp_path, settings)
    moved = {
        name.split(".")[0]
        for name, parameter in network.named_parameters()
        if not np.array_equal(parameter.detach().numpy(), before[name].numpy())
    }
    assert moved == {"decoder", "segmentation_head"}


def test_a_rate_for_layers_that_are_not_there_is_refused(tmp_path: Path) -> None:
    settings = replace(CONFIG, differential_layers=("decoder",))
    with pytest.raises(ConfigError, match="differential_learning_rate_layers"):
        _fit(tmp_path, settings, network=_bright_flair())


@pytest.mark.parametrize("fits", [4, 2, 1])
def test_the_batch_shrinks_until_it_fits(fits: int, tmp_path: Path) -> None:

    class Hungry(type(_network())):  # type: ignore[misc]
        def forward(self, slices: torch.Tensor) -> torch.Tensor:
            if len(slices) > fits and self.training:
                raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 7 bytes")
            return super().forward(slices)  # type: ignore[no-any-return]

    network = _network()
    network.__class__ = Hungry
    settings = replace(CONFIG, adjust_batch_size=True, epochs=1, size_px=64)
    _, state = _fit_state(tmp_path, settings, network=network)
    assert (state.batch_size, len(state.steps)) == (fits, 17 // fits)
    _, resumed = _fit_state(tmp_path, replace(settings, epochs=2), go_on=True)
    assert resumed.batch_size == fits


def test_another_fault_than_memory_is_not_swallowed(tmp_path: Path) -> None:
    network = _bright_flair()
    network.forward = lambda _: 1 / 0
    with pytest.raises(ZeroDivisionError):
        _fit(tmp_path, replace(CONFIG, adjust_batch_size=True), network=network)


@pytest.mark.parametrize("kind", ["Mixup", "Cutmix"])
@pytest.mark.parametrize("strategy", ["Medium", "Hard"])
def test_strategies_and_mixing_train(kind: Any, strategy: Any, tmp_path: Path) -> None:
    settings = replace(
        CONFIG,
        epochs=1,
        normalisation="Channel",
        augmentation=config.Augmentation(strategy=strategy),
        mixing=config.Mixing(kind=kind),
    )
    _, history = _fit(tmp_path, settings)
    assert math.isfinite(history[0]["train_loss"])


def test_a_short_group_of_batches_weighs_as_much_as_a_whole_one(tmp_path: Path) -> None:
    """Four batches by threes: the second step is the fourth batch alone, with its whole gradient."""
    told: list[loop.Step | loop.Epoch] = []
    settings = replace(CONFIG, grad_accumulation=3, epochs=1, learning_rate=1e-3, gradient_clip=1e-3)
    _, state = _fit_state(tmp_path, settings, report=told.append)
    assert [event.slices for event in told if isinstance(event, loop.Step)] == [12, 4]
    assert [row[0] for row in state.steps] == [1, 2]


def test_a_run_that_diverges_stops_and_keeps_its_checkpoint(tmp_path: Path) -> None:
    import torch

    def ruin(event: loop.Step | loop.Epoch) -> None:
        if isinstance(event, loop.Step) and event.epoch == 2:
            next(network.parameters()).data.fill_(float("nan"))

    network = _network()
    with pytest.raises(InputError, match=r"after epoch 2.*gradient_clip"):
        _fit(tmp_path, network=network, report=ruin)
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert saved["epoch"] == 1
    assert all(bool(torch.isfinite(value).all()) for value in saved["network"].values())


def test_processes_without_a_slice_are_refused(tmp_path: Path) -> None:
    settings = replace(CONFIG, drop_last_batch=False)
    with pytest.raises(ConfigError, match="a batch of 1 slices cannot be shared by 2 processes"):
        _fit(tmp_path, settings, processes=Processes(0, 2))


def test_the_records_of_a_run_are_whole(tmp_path: Path) -> None:
    _, state = _fit_state(tmp_path)
    with (tmp_path / records.STEPS).open(encoding="utf-8", newline="") as file:
        assert [float(row["loss"]) for row in csv.DictReader(file)] == [row[3] for row in state.steps]
    assert [row[0] for row in state.steps] == list(range(1, 13))
    lines = (tmp_path / "metrics.csv").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 1 + CONFIG.epochs
