"""Fine-tuning for INT8: the network learns, quantised, to give the logits that it gave before."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeseg.errors import EngineError
from edgeseg.types import ByteArray, FloatArray

if TYPE_CHECKING:
    import torch
    from torch import nn

BATCH = 8
LEARNING_RATE = 2e-6
"""Five times as much made the masks agree less, on the very slices that were learned from."""
_NEAR = 4.0
_LEAST = 1e-8


@dataclass(frozen=True)
class Layer:
    """A convolution as it stands in the network file, its batch normalisation folded into it.

    Parameters
    ----------
    weight, bias
        float32 (out, in, row, column) and (out,).
    input_peak
        Largest absolute value of its input in INT8; None for one that is not quantised, as a transposed one never is.
    """

    weight: FloatArray
    bias: FloatArray
    input_peak: float | None


def distil(
    network: nn.Module,
    layers: Mapping[str, Layer],
    slices: ByteArray,
    passes: int,
    say: Callable[[str], None],
    seed: int = 0,
) -> dict[str, tuple[FloatArray, FloatArray]]:
    """Weights and biases with which the quantised network gives more nearly the logits of the network in FP32.

    Weights and inputs of the quantised convolutions are rounded in the forward pass as the network file rounds them,
    and the gradient passes the rounding as if it were not there (Bengio et al., arXiv 1308.3432). Only logits near the
    mask's edge, in either network, are learned: Huber's loss of their difference. Half of the slices, drawn anew each
    pass, are mirrored left to right. No drawn mask is read.

    Parameters
    ----------
    network
        `edgeseg.model.runnable`, in evaluation mode; it is not changed.
    layers
        By the name of their module in ``network``: all its convolutions, transposed ones too.
    slices
        uint8 (N, 3, H, W): calibration slices, each with an abnormality: the edges of few pixels mislead.
    passes
        How often they are gone through.
    say
        Called with a sentence after each pass.
    seed
        Of the slices' order and the mirroring.

    Returns
    -------
    dict
        float32 weight (out, in, row, column) and bias (out,) by the module's name, of the quantised convolutions.

    Raises
    ------
    EngineError
        When the folded layers are not the network.
    """
    import torch

    student = folded(network, layers)
    _check_same(network, student, slices[:2])
    round_in_forward(student, layers)
    learned = {name: _parameters(student, name) for name, layer in layers.items() if layer.input_peak}
    optimizer = torch.optim.Adam([parameter for both in learned.values() for parameter in both], lr=LEARNING_RATE)
    steps = passes * -(-len(slices) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    draw = np.random.default_rng(seed)
    for number in range(1, passes + 1):
        losses = []
        for chosen in np.array_split(draw.permutation(len(slices)), -(-len(slices) // BATCH)):
            given = torch.from_numpy(slices[chosen])
            mirrored = torch.from_numpy(draw.random(len(chosen)) < 0.5)[:, None, None, None]
            given = torch.where(mirrored, given.flip(-1), given).contiguous(memory_format=torch.channels_last)
            with torch.no_grad():
                target = network(given)
            loss = _loss(student(given), target)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            losses.append(float(loss.detach()))
        say(f"fine-tuning, pass {number} of {passes}: loss near the mask's edge {np.mean(losses):.4f}")
    return {name: (w.detach().numpy().copy(), b.detach().numpy().copy()) for name, (w, b) in learned.items()}


def folded(network: nn.Module, layers: Mapping[str, Layer]) -> nn.Module:
    """A copy with the folded convolutions, and batch normalisations that change nothing.

    Raises
    ------
    EngineError
        When the network has no such convolution.
    """
    import torch
    from torch import nn

    student = copy.deepcopy(network)
    modules = dict(student.named_modules())
    for name, layer in layers.items():
        module = modules.get(name)
        if not isinstance(module, nn.Conv2d | nn.ConvTranspose2d) or module.weight.shape != layer.weight.shape:
            raise EngineError(f"the network has no convolution {name} of the file's size: it cannot be fine-tuned")
        module.weight = nn.Parameter(torch.from_numpy(layer.weight.copy()))
        module.bias = nn.Parameter(torch.from_numpy(layer.bias.copy()))
    for module in modules.values():
        if isinstance(module, nn.BatchNorm2d):
            _make_neutral(module)
    return student.requires_grad_(False)


def round_in_forward(network: nn.Module, layers: Mapping[str, Layer]) -> None:
    """Round inputs and weights of the quantised convolutions as the network file does; weights and biases may learn."""
    import torch
    from torch import nn
    from torch.nn.utils import parametrize

    class Rounded(nn.Module):
        """7-bit weights, a scale an output channel."""

        def forward(self, weight: torch.Tensor) -> torch.Tensor:
            scales = (weight.detach().abs().amax(dim=(1, 2, 3)) / 64).clamp_min(_LEAST)
            zeros = torch.zeros(len(weight), dtype=torch.int32)
            return torch.fake_quantize_per_channel_affine(weight, scales, zeros, 0, -64, 64)

    def rounded(scale: float, _: nn.Module, given: tuple[torch.Tensor]) -> torch.Tensor:
        return torch.fake_quantize_per_tensor_affine(given[0], scale, 0, -128, 127)

    for name, layer in layers.items():
        if layer.input_peak:
            module = network.get_submodule(name).requires_grad_(True)
            module.register_forward_pre_hook(partial(rounded, layer.input_peak / 127))
            parametrize.register_parametrization(module, "weight", Rounded())


def _make_neutral(module: Any) -> None:
    import torch

    module.eval()
    with torch.no_grad():
        module.running_mean.zero_()
        module.running_var.fill_(1 - module.eps)
        if module.affine:
            module.weight.fill_(1)
            module.bias.zero_()


def _check_same(network: nn.Module, student: nn.Module, slices: ByteArray) -> None:
    import torch

    with torch.no_grad():
        given = torch.from_numpy(slices)
        difference = float((network(given) - student(given)).abs().max())
    if difference > 1e-2:
        raise EngineError(
            f"the network's logits change by {difference:.2g} when its batch normalisations are folded: it has some "
            "that stand apart from a convolution, and cannot be fine-tuned; leave out --finetune"
        )


def _loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    from torch.nn import functional

    near = (target.abs() < _NEAR) | (logits.detach().abs() < _NEAR)
    losses = functional.huber_loss(logits, target, reduction="none")
    return (losses * near).sum() / near.sum().clamp_min(1)


def _parameters(network: nn.Module, name: str) -> tuple[nn.Parameter, nn.Parameter]:
    module: Any = network.get_submodule(name)
    return module.parametrizations.weight.original, module.bias
