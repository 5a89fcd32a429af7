from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from edgeseg import bundle, model
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


def test_an_unreachable_hub_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    import segmentation_models_pytorch as smp

    def offline(*_: object, **__: object) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(smp.encoders, "get_encoder", offline)
    with pytest.raises(InputError, match=r"out of reach \(ConnectionError\).*--encoder-weights none"):
        model.load_encoder(_tiny(), "tu-test_resnet", "hub")


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
