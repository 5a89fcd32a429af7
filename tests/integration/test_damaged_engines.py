"""The parity gate as it is run: real engines, damaged on purpose, against the recorded masks, without PyTorch."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeseg import bundle
from edgeseg.export import calibration, quantised
from edgeseg.readers import recorded, slices
from edgeseg.types import Manifest

FP16_ENGINE = f"{bundle.DEFAULT_NETWORK}-fp16"


Parity = Callable[..., Any]
"""The fixture `parity`: arguments to how the command ended."""


@pytest.fixture
def parity(monkeypatch: pytest.MonkeyPatch, edgeseg: Callable[..., Any], few: Path) -> Parity:
    """`edgeseg parity` on 24 parity slices, where PyTorch is not installed."""
    monkeypatch.setattr(slices, "shipped_folder", lambda: few)
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    return partial(edgeseg, "parity")


def _written(folder: Path, manifest: Manifest, content: bytes) -> Path:
    """A bundle of this network file, whose hash is right: only its masks can tell that it was damaged."""
    bundle.write(folder, replace(manifest, sha256=hashlib.sha256(content).hexdigest(), parity=None), content)
    return folder


# --- engines damaged on purpose


def _network(content: bytes) -> Any:
    import onnx

    return onnx.load_from_string(content)


def _scaled(content: bytes, name: str, factor: float) -> bytes:
    """One initialiser multiplied."""
    from onnx import numpy_helper

    network = _network(content)
    (tensor,) = [one for one in network.graph.initializer if one.name == name]
    values = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array((values.astype(np.float32) * factor).astype(values.dtype), name))
    return bytes(network.SerializeToString())


def _channels(content: bytes, order: list[int]) -> bytes:
    """The input's channels in another order."""
    from onnx import helper, numpy_helper

    network = _network(content)
    given = network.graph.input[0].name
    for node in network.graph.node:
        node.input[:] = ["reordered" if name == given else name for name in node.input]
    network.graph.initializer.append(numpy_helper.from_array(np.array(order), "order"))
    network.graph.node.insert(0, helper.make_node("Gather", [given, "order"], ["reordered"], axis=1))
    return bytes(network.SerializeToString())


def _ended(content: bytes, operation: str, value: Any, **attributes: int) -> bytes:
    """One more operation at the network's end: ``operation(logits, value)``."""
    from onnx import helper, numpy_helper

    network = _network(content)
    result = network.graph.output[0].name
    for node in network.graph.node:
        node.output[:] = ["undamaged" if name == result else name for name in node.output]
        node.input[:] = ["undamaged" if name == result else name for name in node.input]
    network.graph.initializer.append(numpy_helper.from_array(np.asarray(value), "damage"))
    network.graph.node.append(helper.make_node(operation, ["undamaged", "damage"], [result], **attributes))
    return bytes(network.SerializeToString())


STEM, MIDDLE = "network.encoder.model.conv_stem.weight_fp16", "network.encoder.model.blocks.3.1.conv_pwl.weight_fp16"
LAST_BUT_ONE = "network.decoder.blocks.4.conv1.0.weight_fp16"
UP_ONE_ROW = [*range(1, 256), 255]

DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "the first convolution's weights 3 % larger": lambda content: _scaled(content, STEM, 1.03),
    "one encoder convolution's weights 10 % larger": lambda content: _scaled(content, MIDDLE, 1.1),
    "one decoder convolution's weights 10 % larger": lambda content: _scaled(content, LAST_BUT_ONE, 1.1),
    "T1 before and after contrast swapped": lambda content: _channels(content, [2, 1, 0]),
    "FLAIR and T1 before contrast swapped": lambda content: _channels(content, [1, 0, 2]),
    "the mask one pixel higher": lambda content: _ended(content, "Gather", UP_ONE_ROW, axis=2),
    "every logit -60 or less: nothing is marked": lambda content: _ended(content, "Min", np.float32(-60)),
    "every logit 60 or more: everything is marked": lambda content: _ended(content, "Max", np.float32(60)),
    "every logit 0.3 higher": lambda content: _ended(content, "Add", np.float32(0.3)),
}


def test_the_undamaged_engine_passes(parity: Parity, shipped: tuple[Manifest, bytes], tmp_path: Path) -> None:
    folder = _written(tmp_path / "control", *shipped)
    run = parity(folder, "--json", "--picture", tmp_path / "worst.png")
    assert run.code == 0, run.err
    report = json.loads(run.out)
    assert report["reference"].startswith("recorded masks of PyTorch 2.")
    assert report["largest_logit_difference"] is None, "masks hold no logits"
    assert (report["slices"], report["by_patient"]["patients"], report["against_drawn"]["patients"]) == (24, 8, 8)
    assert 0 < report["empty_slices"] < 24
    assert report["against_drawn"]["slices_without"] == 8
    assert report["at_source"] is None, "these slices are 256 x 256 in the set"
    assert report["agreement"]["mean"] > 0.9999
    assert (tmp_path / "worst.png").read_bytes().startswith(b"\x89PNG")
    table = parity(folder).out
    assert "the same grid" in table
    assert max(map(len, table.splitlines())) <= 80


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_engine_is_refused(
    damage: str, parity: Parity, shipped: tuple[Manifest, bytes], tmp_path: Path
) -> None:
    folder = _written(tmp_path / "damaged", shipped[0], DAMAGES[damage](shipped[1]))
    run = parity(folder, "--picture", tmp_path / "worst.png")
    assert run.code == 6, f"{damage}: {run.out}"
    assert "fails parity: " in run.err
    assert "FAILED" in run.out
    assert (tmp_path / "worst.png").is_file()


@pytest.fixture(scope="module")
def int8(shipped: tuple[Manifest, bytes]) -> tuple[Manifest, bytes]:
    """The default network with its last 19 convolutions in INT8, calibrated on 16 slices."""
    manifest, content = shipped
    single = _single(content)
    given = slices.read("calibration", manifest.preprocessing).slices[::8]
    kept = quantised.convolutions(single)[:40]
    signed = quantised.quantise(single, calibration.ranges(single, given), kept)
    return replace(manifest, name="int8", precision="int8"), quantised.spell(signed, "unsigned")


def _single(content: bytes) -> bytes:
    """The FP16 file's initialisers in FP32, without the casts behind them."""
    from onnx import numpy_helper

    network = _network(content)
    halves = {tensor.name: tensor for tensor in network.graph.initializer}
    for node in [node for node in network.graph.node if node.op_type == "Cast" and node.input[0] in halves]:
        values = numpy_helper.to_array(halves[node.input[0]]).astype(np.float32)
        halves[node.input[0]].CopyFrom(numpy_helper.from_array(values, node.output[0]))
        network.graph.node.remove(node)
    return bytes(network.SerializeToString())


def test_an_int8_engine_with_one_layers_scales_doubled_is_refused(
    parity: Parity, int8: tuple[Manifest, bytes], tmp_path: Path
) -> None:
    control = parity(_written(tmp_path / "control", *int8), "--json")
    assert control.code == 0, control.err
    assert 0.985 < json.loads(control.out)["agreement"]["mean"] < 1
    scales = "network.decoder.blocks.3.conv1.0.weight_scale"
    damaged = parity(_written(tmp_path / "damaged", int8[0], _scaled(int8[1], scales, 2)))
    assert (damaged.code, "agreement is" in damaged.err) == (6, True)


# --- what the recorded masks are, and when there are none


def test_the_recorded_masks_are_the_live_models(shipped: tuple[Manifest, bytes]) -> None:
    pytest.importorskip("torch", reason="the live model needs the extra train")
    from edgeseg import model
    from edgeseg.backends import pytorch

    manifest = shipped[0]
    given = slices.read("parity", manifest.preprocessing)
    key = recorded.Key(manifest.weights_sha256, manifest.threshold, manifest.preprocessing, given.digest())
    found = recorded.read(key)
    assert found.masks.shape == (225, 256, 256)
    network, facts = model.load(bundle.shipped_weights(manifest.network))
    with pytorch.PyTorchEngine(model.runnable(network, facts)) as engine:
        live = engine.predict_logits(given.slices[::25])[:, 0] >= 0
    assert live.any()
    assert np.count_nonzero(live != found.masks[::25]) <= 1, "another processor may round a logit to the other side"


def test_masks_are_recorded_of_every_shipped_network() -> None:
    weights = sorted(bundle.shipped_folder().glob("*/weights.safetensors"))
    assert {bundle.file_sha256(path): path.parent.name for path in weights} == recorded.known()
    files = sorted((slices.shipped_folder() / recorded.FOLDER).glob("*.png"))
    assert [path.stem for path in files] == [path.parent.name for path in weights]
    assert all(path.stat().st_size < 300_000 for path in files)


def test_a_network_that_no_masks_are_recorded_of(
    parity: Parity, shipped: tuple[Manifest, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = replace(shipped[0], weights_sha256="ab" * 32, network="my-network")
    folder = _written(tmp_path / "other", other, shipped[1])
    with monkeypatch.context() as patch:
        patch.delitem(sys.modules, "segmentation_models_pytorch")
        run = parity(folder)
    assert (run.code, "give its weights with --reference" in run.err) == (2, True)
    (tmp_path / "my.safetensors").write_bytes(b"")
    for arguments in ((folder, "--reference", tmp_path / "my.safetensors"), (folder, "--data", tmp_path)):
        run = parity(*arguments)
        assert (run.code, "pip install 'edgeseg[train]'" in run.err) == (4, True), run.err
    same_name = _written(tmp_path / "same", replace(shipped[0], weights_sha256="ab" * 32), shipped[1])
    run = parity(same_name)
    assert run.code == 4
    assert "only for those of lgg-unet-efficientnet-lite0" in run.err
    assert "pip install 'edgeseg[train]'" in run.err


def test_another_threshold_and_damaged_masks_are_no_reference(
    parity: Parity, few: Path, shipped: tuple[Manifest, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = parity(_written(tmp_path / "lower", replace(shipped[0], threshold=0.25), shipped[1]))
    assert (run.code, "another threshold: theirs is 0.5, the engine's 0.25" in run.err) == (2, True)
    copy = Path(shutil.copytree(few, tmp_path / "calibration"))
    monkeypatch.setattr(slices, "shipped_folder", lambda: copy)
    (masks,) = (copy / recorded.FOLDER).glob("*.png")
    masks.write_bytes(masks.read_bytes()[:-1])
    run = parity(FP16_ENGINE)
    assert (run.code, "SHA-256 differs" in run.err) == (2, True)
    (copy / recorded.FOLDER / "index.json").unlink()
    run = parity(FP16_ENGINE)
    assert (run.code, "no index of recorded masks" in run.err) == (2, True)


def test_a_picture_that_cannot_be_written_is_refused_at_once(parity: Parity, tmp_path: Path) -> None:
    run = parity(FP16_ENGINE, "--picture", tmp_path / "nowhere" / "worst.png")
    assert (run.code, "cannot write the picture" in run.err) == (2, True)
    assert parity(FP16_ENGINE, "--picture", tmp_path).code == 2
