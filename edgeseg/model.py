"""The network and its weights: with `encoders`, the only import of segmentation_models_pytorch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from edgeseg.bundle import file_sha256
from edgeseg.encoders import LITE0_PACKAGE, encoder_within_reach, import_smp, load_encoder
from edgeseg.errors import ConfigError, EngineError, InputError

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = [
    "FLIPS",
    "LITE0_PACKAGE",
    "Normalisation",
    "build",
    "encoder_within_reach",
    "flipped_mean",
    "halved",
    "load",
    "load_encoder",
    "normalisation_of",
    "normalise",
    "runnable",
    "save_weights",
    "with_byte_input",
]

Normalisation = Literal["Simple", "Channel"]
_SCALE = 255.0
_LEAST_DEVIATION = 1e-3
"""Added to a channel's standard deviation (0..1): a quarter of a grey level, so a channel that is empty, or all one
value, becomes zeros and not its rounding error; that of a head's slice is 0.1 to 0.3."""


FLIPS = {"Horizontal flip": 3, "Vertical flip": 2}
"""Flips at prediction, and the axis of (N, channels, H, W) that each turns round."""


def build(architecture: str, encoder: str, channels: int = 3) -> nn.Module:
    """The network with random weights: float (N, channels, H, W) in 0..1 to logits (N, 1, H, W).

    Raises
    ------
    BackendMissing
        When PyTorch or segmentation-models-pytorch is not installed.
    ConfigError
        When segmentation-models-pytorch does not know the architecture or the encoder.
    """
    smp = import_smp()
    try:
        network: nn.Module = smp.create_model(
            architecture, encoder_name=encoder, encoder_weights=None, in_channels=channels, classes=1
        )
    except (KeyError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"segmentation-models-pytorch has no {architecture} with the encoder {encoder}: {error}"
        ) from error
    return network


def normalise(slices: torch.Tensor, normalisation: Normalisation) -> torch.Tensor:
    """Network input as the network was trained on it: the one place where normalisation is written.

    Parameters
    ----------
    slices
        float32 (N, channels, H, W), 0..1: stored values divided by 255.
    normalisation
        ``Simple`` leaves them so. ``Channel`` subtracts from each channel of each slice its own mean, and divides by
        its own standard deviation (of all H x W pixels, the black around the head among them); a channel of one value
        gives zeros. Hydrogen Torch's "mean and standard deviation of the channels" are taken to be the image's own:
        its documentation does not say, but its ImageNet values are the statistics of photographs, and fit no MRI.

    Returns
    -------
    torch.Tensor
        float32 (N, channels, H, W).
    """
    if normalisation == "Simple":
        return slices
    centred = slices - slices.mean(dim=(2, 3), keepdim=True)
    deviation = (centred * centred).mean(dim=(2, 3), keepdim=True).sqrt()
    return centred / (deviation + _LEAST_DEVIATION)


def flipped_mean(network: nn.Module, slices: torch.Tensor, flips: Sequence[str]) -> torch.Tensor:
    """Logits float32 (N, 1, H, W), the mean of those of the slices and of each flip of them, flipped back.

    Parameters
    ----------
    network, slices
        The network, and what it takes: float (N, channels, H, W).
    flips
        Some of `FLIPS`, each on its own; none leaves the logits as they are.
    """
    logits: torch.Tensor = network(slices).float()
    for flip in flips:
        axis = FLIPS[flip]
        logits = logits + network(slices.flip(axis)).float().flip(axis)
    return logits / (1 + len(flips)) if flips else logits


def runnable(network: nn.Module, facts: Mapping[str, str]) -> nn.Module:
    """The network as it was trained, by its weights' facts: normalised and flipped inside (see `with_byte_input`).

    Raises
    ------
    InputError
        When the facts name a normalisation or a flip that this edgeseg does not know.
    """
    flips = tuple(flip for flip in facts.get("flips", "").split(",") if flip)
    if unknown := [flip for flip in flips if flip not in FLIPS]:
        raise InputError(f"the weights were measured with the flip {unknown[0]!r}, which this edgeseg does not know")
    return with_byte_input(network, normalisation_of(facts), flips)


def with_byte_input(
    network: nn.Module, normalisation: Normalisation = "Simple", flips: Sequence[str] = ()
) -> nn.Module:
    """The network as it is exported and run: uint8 (N, 3, H, W), 0..255, to float32 logits (N, 1, H, W).

    Parameters
    ----------
    network
        Takes what `normalise` returns.
    normalisation
        What it was trained with.
    flips
        What its logits are averaged over, as `flipped_mean` does: each takes the time of another run.
    """
    from torch import nn

    class ByteInput(nn.Module):
        """Normalises inside, so that a network file needs no normalisation around it."""

        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, slices: torch.Tensor) -> torch.Tensor:
            return flipped_mean(self.network, normalise(slices.float() / _SCALE, normalisation), flips)

    return ByteInput().eval()


def halved(network: nn.Module) -> nn.Module:
    """What `with_byte_input` returns, computed in FP16, channels last, as GPUs like it; normalised in FP32 as before.

    Bytes go in and float32 logits come out; the network that is given is changed.
    """
    import torch

    inner = network.get_submodule("network").half().to(memory_format=torch.channels_last)
    inner.register_forward_pre_hook(lambda _, given: (given[0].half().contiguous(memory_format=torch.channels_last),))
    return network


def normalisation_of(facts: Mapping[str, str]) -> Normalisation:
    """How the slices were normalised for the weights with these facts; ``Simple`` where they do not say.

    Raises
    ------
    InputError
        When it is a normalisation that this edgeseg does not know.
    """
    value = facts.get("normalisation", "Simple")
    if value == "Simple":
        return "Simple"
    if value == "Channel":
        return "Channel"
    raise InputError(f"the weights were trained with the normalisation {value!r}, which this edgeseg does not know")


def save_weights(network: nn.Module, path: Path, facts: Mapping[str, str]) -> str:
    """Write the weights, rounded to FP16 once, as safetensors; return the file's SHA-256.

    ``facts`` becomes the file's metadata: at least ``architecture`` and ``encoder``, so that `load` needs no more, and
    ``normalisation`` where it is not ``Simple``.
    """
    import torch
    from safetensors.torch import save

    rounded = {
        name: (tensor.detach().cpu().half() if tensor.is_floating_point() else tensor.detach().cpu()).contiguous()
        for name, tensor in network.state_dict().items()
    }
    overflowing = [n for n, t in rounded.items() if t.is_floating_point() and not torch.isfinite(t).all()]
    if overflowing:
        raise EngineError(f"weights beyond the range of FP16, first in {overflowing[0]}: they cannot be shipped")
    partial = path.with_suffix(".part")
    partial.write_bytes(_reproducible(save(rounded, metadata=dict(facts))))
    partial.replace(path)
    return file_sha256(path)


def _reproducible(content: bytes) -> bytes:
    """Sort a safetensors file's metadata: it is written in any order, and equal weights would have different hashes."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[end:]


def load(path: Path) -> tuple[nn.Module, dict[str, str]]:
    """The network of a safetensors file, in FP32 and evaluation mode, and the facts in its metadata.

    Raises
    ------
    InputError
        When the file is missing, no safetensors file, not written by edgeseg, or of another network than it says.
    """
    import_smp()
    import torch
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise InputError(
            f"no weights at {path}: give the weights.safetensors of a training run or of engines/<network>"
        )
    try:
        with safe_open(path, framework="pt") as file:
            facts = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise InputError(f"{path} is damaged or no safetensors file ({error}): train or download it again") from error
    if not {"architecture", "encoder"} <= facts.keys():
        raise InputError(f"{path} does not say which network it belongs to: give weights that edgeseg train wrote")
    normalisation_of(facts)
    network = build(facts["architecture"], facts["encoder"])
    try:
        network.load_state_dict({n: t.float() if t.dtype == torch.float16 else t for n, t in tensors.items()})
    except RuntimeError as error:
        raise InputError(
            f"{path} does not hold the weights of the {facts['architecture']} with the encoder {facts['encoder']} that "
            "it names: train or download it again"
        ) from error
    return network.eval(), facts
