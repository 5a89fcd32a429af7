from __future__ import annotations

import errno
import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgeseg import bundle, verdict
from edgeseg.errors import EngineError, InputError
from edgeseg.types import Agreement, Manifest, ParityReport, Preprocessing, Speed

Keys = list[tuple[Path, Path]]

CONTENT = bytes(range(256)) * 9
MANIFEST = Manifest(
    name="net-fp16",
    network="net",
    architecture="Unet",
    encoder="resnet34",
    file="model.onnx",
    sha256=hashlib.sha256(CONTENT).hexdigest(),
    weights_sha256="ab" * 32,
    precision="fp16",
    inference_precision="f32",
    runtimes=("openvino", "onnxruntime"),
    input={"name": "slices", "dtype": "uint8", "shape": ["batch", 3, 256, 256]},
    output={"name": "logits", "dtype": "float32", "shape": ["batch", 1, 256, 256]},
    preprocessing=Preprocessing("volume", 256),
    threshold=0.4,
    calibration=None,
    tools={"edgeseg": "0"},
    parity=ParityReport(
        Agreement(0.99, 0.9, 0.8, "A_3", 7), 10, 655360, 12, 0.01, None, -0.002, "A", False, ("too low",), "PyTorch"
    ),
    licence="CC-BY-NC-SA-4.0",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A whole bundle."""
    bundle.write(tmp_path / "net-fp16", MANIFEST, CONTENT)
    return tmp_path / "net-fp16"


def _edit(folder: Path, **fields: Any) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}), encoding="utf-8")


def test_what_is_written_is_read(folder: Path) -> None:
    manifest, content = bundle.read(folder)
    assert (replace(manifest, files={}), content) == (MANIFEST, CONTENT)
    assert manifest.files == {"parity.json": bundle.file_sha256(folder / "parity.json")}
    assert {path.name for path in folder.iterdir()} == {"manifest.json", "model.onnx", "parity.json"}
    assert json.loads((folder / "parity.json").read_text())["agreement"]["worst_slice"] == "A_3"


def test_a_bundle_without_parity(tmp_path: Path) -> None:
    unchecked = replace(MANIFEST, parity=None)
    bundle.write(tmp_path, unchecked, CONTENT)
    assert bundle.read(tmp_path)[0] == unchecked
    assert not (tmp_path / "parity.json").exists()


def test_an_unchecked_bundle_leaves_no_verdict_of_an_earlier_one(folder: Path) -> None:
    bundle.write(folder, replace(MANIFEST, parity=None), CONTENT)
    assert not (folder / "parity.json").exists()


@pytest.mark.parametrize("position", [0, 1000, len(CONTENT) - 1])
def test_one_flipped_byte_is_found(position: int, folder: Path) -> None:
    damaged = bytearray(CONTENT)
    damaged[position] ^= 1
    (folder / "model.onnx").write_bytes(damaged)
    with pytest.raises(EngineError) as caught:
        bundle.read(folder)
    assert hashlib.sha256(damaged).hexdigest()[:12] in str(caught.value)
    assert MANIFEST.sha256[:12] in str(caught.value)
    assert "is damaged" in str(caught.value)


def test_a_missing_network_file(folder: Path) -> None:
    (folder / "model.onnx").unlink()
    with pytest.raises(EngineError, match=r"no readable model\.onnx"):
        bundle.read(folder)


@pytest.mark.parametrize("name", ["../model.onnx", "/etc/passwd", "a/b.onnx", "..", ".", "", 5, None])
def test_a_file_outside_the_bundle_is_refused(name: Any, folder: Path) -> None:
    (folder.parent / "model.onnx").write_bytes(CONTENT)
    _edit(folder, file=name)
    with pytest.raises(EngineError):
        bundle.read(folder)


def test_the_reason_names_the_file_outside(folder: Path) -> None:
    _edit(folder, file="../model.onnx")
    with pytest.raises(EngineError, match=r"\.\./model\.onnx.*a file inside the bundle"):
        bundle.read_manifest(folder)


@pytest.mark.parametrize("text", ["", "[]", "{", "null", '{"format": 1}', "\xff"])
def test_an_unusable_manifest_is_refused(text: str, folder: Path) -> None:
    (folder / "manifest.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(EngineError, match=r"manifest\.json|format"):
        bundle.read(folder)


def test_an_unknown_field_is_refused(folder: Path) -> None:
    _edit(folder, secret=1)
    with pytest.raises(EngineError, match="secret"):
        bundle.read(folder)


def test_content_that_is_not_the_manifests_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="hash"):
        bundle.write(tmp_path / "new", MANIFEST, CONTENT + b"x")
    assert not (tmp_path / "new").exists()


def test_every_file_of_the_manifest_is_verified_and_no_other_is_handed_out(tmp_path: Path) -> None:
    written = bundle.write(tmp_path, MANIFEST, CONTENT, {"model.plan": b"plan"})
    assert bundle.read(tmp_path) == (written, CONTENT)
    assert bundle.read_file(tmp_path, written, "model.plan") == b"plan"
    with pytest.raises(EngineError, match=r"no hash of manifest\.json"):
        bundle.read_file(tmp_path, written, "manifest.json")
    for name in ("model.plan", "parity.json", "model.onnx"):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(EngineError, match=f"is damaged: {name}"):
            bundle.read(tmp_path)
        (tmp_path / name).unlink()
        with pytest.raises(EngineError, match=f"no readable {name}"):
            bundle.read(tmp_path)
        (tmp_path / name).write_bytes(whole)
    assert bundle.read(tmp_path)[1] == CONTENT


SPEED = Speed(250.0, 8, 5.1, "OpenVINO 1", "a processor", 2)


def test_a_speed_is_recorded(folder: Path) -> None:
    bundle.record_speed(folder, SPEED)
    assert bundle.read(folder)[0].speed == SPEED


def test_a_signed_bundle(folder: Path, signing_keys: Keys) -> None:
    private, public = signing_keys[0]
    assert not bundle.is_signed(folder)
    assert bundle.sign(folder, private) == folder / "manifest.sig"
    assert bundle.is_signed(folder)
    assert bundle.read(folder, public)[1] == CONTENT
    with pytest.raises(InputError, match="is signed, and its speed would undo that"):
        bundle.record_speed(folder, SPEED)
    bundle.write(folder, MANIFEST, CONTENT)
    assert not bundle.is_signed(folder), "the signature was of the earlier manifest"


def test_a_signature_that_is_asked_for_is_looked_at_before_anything_is_parsed(
    folder: Path, signing_keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle.sign(folder, signing_keys[0][0])
    monkeypatch.setattr(bundle, "parse", lambda *_: pytest.fail("the manifest was parsed"))
    with pytest.raises(EngineError, match=r"not signed by .*two-public\.pem, or was changed since"):
        bundle.read(folder, signing_keys[1][1])
    whole = (folder / "manifest.json").read_bytes()
    for position in range(0, len(whole), 97):
        (folder / "manifest.json").write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        with pytest.raises(EngineError, match="was changed since"):
            bundle.read(folder, signing_keys[0][1])
    (folder / "manifest.json").write_bytes(whole)
    for signature in (b"", b"x" * 64, (folder / "manifest.sig").read_bytes()[:-1]):
        (folder / "manifest.sig").write_bytes(signature)
        with pytest.raises(EngineError, match="was changed since"):
            bundle.read(folder, signing_keys[0][1])
    (folder / "manifest.sig").unlink()
    with pytest.raises(EngineError, match="is not signed"):
        bundle.read(folder, signing_keys[0][1])


def test_a_signed_bundle_with_another_network_file(folder: Path, signing_keys: Keys) -> None:
    bundle.sign(folder, signing_keys[0][0])
    (folder / "model.onnx").write_bytes(CONTENT + b"x")
    with pytest.raises(EngineError, match=r"is damaged: model\.onnx"):
        bundle.read(folder, signing_keys[0][1])


def test_a_damaged_bundle_is_not_signed(folder: Path, signing_keys: Keys) -> None:
    (folder / "parity.json").write_bytes(b"{}")
    with pytest.raises(EngineError, match=r"is damaged: parity\.json"):
        bundle.sign(folder, signing_keys[0][0])
    assert not bundle.is_signed(folder)


def test_moving_files_that_is_interrupted_leaves_no_manifest(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "replace", broken)
    with pytest.raises(InputError, match="Input/output error"):
        bundle.write(folder, MANIFEST, CONTENT)
    assert not (folder / "manifest.json").exists()


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="-o"):
        bundle.write(tmp_path / "file" / "bundle", MANIFEST, CONTENT)


def test_a_bundle_is_found_by_path_and_by_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "shipped_folder", lambda: folder.parent)
    assert bundle.find(str(folder)) == folder
    assert bundle.find("net-fp16") == folder
    assert bundle.shipped() == [folder]
    with pytest.raises(InputError, match=r"no engine net-int8.*\(net-fp16\)"):
        bundle.find("net-int8")


def test_a_network_without_a_manifest_is_no_bundle(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder.parent / "net").mkdir()
    (folder.parent / "net" / "weights.safetensors").write_bytes(b"")
    monkeypatch.setattr(bundle, "shipped_folder", lambda: folder.parent)
    with pytest.raises(InputError, match="no engine net:"):
        bundle.find("net")


def test_the_shipped_default_is_whole_and_made_of_the_shipped_weights() -> None:
    manifest, content = bundle.read(bundle.find(bundle.DEFAULT_ENGINE))
    assert manifest.name == bundle.DEFAULT_ENGINE
    assert len(content) > 1_000_000
    assert manifest.weights_sha256 == bundle.file_sha256(bundle.shipped_weights())
    assert manifest.inference_precision == "f32"
    assert manifest.parity is not None
    assert manifest.parity.passed


def test_the_example_patient_is_where_it_is_said(example_tiff: Path) -> None:
    assert example_tiff.parent == bundle.example_data()


@pytest.mark.parametrize(
    ("field", "value"),
    [("threshold", 8.5), ("threshold", "0"), ("precision", "fp61"), ("inference_precision", "g32"), ("runtimes", [])],
)
def test_a_manifest_with_an_impossible_value_is_refused(
    tiny_bundle: Path, tmp_path: Path, field: str, value: object
) -> None:
    folder = tmp_path / "changed"
    shutil.copytree(tiny_bundle, folder)
    raw = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    (folder / "manifest.json").write_text(json.dumps({**raw, field: value}), encoding="utf-8")
    with pytest.raises(EngineError, match=f"no usable manifest.json .*{field}"):
        bundle.read(folder)


def test_a_folder_here_does_not_replace_a_shipped_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    impostor = tmp_path / bundle.DEFAULT_ENGINE
    impostor.mkdir()
    (impostor / "manifest.json").write_text("{}", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert bundle.find(bundle.DEFAULT_ENGINE) == bundle.shipped_folder() / bundle.DEFAULT_ENGINE
    assert bundle.find(f"./{bundle.DEFAULT_ENGINE}").resolve() == impostor.resolve()


def test_a_whole_parity_report_is_read_back(tmp_path: Path) -> None:
    assert MANIFEST.parity is not None
    whole = replace(
        MANIFEST.parity,
        lost=(verdict.Part("A_3", 144),),
        by_patient=verdict.PatientAgreement(0.99, 0.98, 0.97, "A", 3),
        at_source=Agreement(0.99, 0.9, 0.8, "A slice 3", 7),
        against_drawn=verdict.Overlap(0.9, 0.8, 0.7, 0.6, 3, 5, 1, 2),
        volume=verdict.VolumeDifference(0.5, -1.5, "A", -0.25, "ml"),
    )
    bundle.write(tmp_path, replace(MANIFEST, parity=whole), CONTENT)
    assert bundle.read(tmp_path)[0].parity == whole


# --- plans

PLAN_BYTES = b"a plan"
PLAN = {
    "file": "model.plan",
    "sha256": hashlib.sha256(PLAN_BYTES).hexdigest(),
    "runtime": "tensorrt-rtx",
    "version": "1.7.1",
    "max_batch": 8,
    "dla_core": None,
    "capabilities": [],
    "version_compatible": False,
    "hardware_compatible": False,
}
PLANNED = replace(MANIFEST, runtimes=("tensorrt-rtx", "onnxruntime"), plan=PLAN, verified_on_device=False)


def test_each_backend_gets_its_own_file(tmp_path: Path) -> None:
    written = bundle.write(tmp_path, PLANNED, CONTENT, {"model.plan": PLAN_BYTES})
    assert bundle.read(tmp_path) == (written, PLAN_BYTES)
    assert bundle.read(tmp_path, backend="tensorrt-rtx")[1] == PLAN_BYTES
    assert bundle.read(tmp_path, backend="onnxruntime")[1] == CONTENT


@pytest.mark.parametrize("name", ["model.plan", "model.onnx"])
@pytest.mark.parametrize("backend", ["tensorrt-rtx", "onnxruntime"])
def test_a_changed_plan_or_network_is_refused_whatever_is_run(name: str, backend: str, tmp_path: Path) -> None:
    bundle.write(tmp_path, PLANNED, CONTENT, {"model.plan": PLAN_BYTES})
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes() + b"!")
    with pytest.raises(EngineError, match=f"damaged: {name} has the SHA-256"):
        bundle.read(tmp_path, backend=backend)
    (tmp_path / name).unlink()
    with pytest.raises(EngineError, match=f"no readable {name}"):
        bundle.read(tmp_path, backend=backend)


def test_a_plan_is_written_with_its_hash_or_not_at_all(tmp_path: Path) -> None:
    for others in (None, {"model.plan": b"another"}):
        with pytest.raises(EngineError, match="not that of the plan"):
            bundle.write(tmp_path, PLANNED, CONTENT, others)
    assert not list(tmp_path.iterdir())


def test_manifests_from_before_plans_still_load(tmp_path: Path) -> None:
    written = bundle.write(tmp_path, MANIFEST, CONTENT)
    raw = json.loads((tmp_path / "manifest.json").read_text())
    del raw["plan"], raw["verified_on_device"]
    (tmp_path / "manifest.json").write_text(json.dumps(raw))
    assert bundle.read(tmp_path) == (written, CONTENT)


@pytest.mark.parametrize(
    "change",
    [
        {"file": "../model.plan"},
        {"file": 3},
        {"max_batch": 0},
        {"max_batch": "8"},
        {"version_compatible": "no"},
        {"capabilities": "8.9"},
        {"runtime": "openvino"},
        {"dla_core": "0"},
    ],
)
def test_a_plan_with_facts_that_cannot_be_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    bundle.write(tmp_path, PLANNED, CONTENT, {"model.plan": PLAN_BYTES})
    raw = json.loads((tmp_path / "manifest.json").read_text())
    raw["plan"].update(change)
    (tmp_path / "manifest.json").write_text(json.dumps(raw))
    with pytest.raises(EngineError, match=r"no usable manifest|outside itself"):
        bundle.read(tmp_path)


def test_a_plan_is_confirmed(tmp_path: Path) -> None:
    written = bundle.write(tmp_path, PLANNED, CONTENT, {"model.plan": PLAN_BYTES})
    assert written.parity is not None
    report = replace(written.parity, reference="where it runs")
    picture = {"parity.png": b"where it runs"}
    bundle.confirm(tmp_path, replace(written, verified_on_device=True, parity=report), picture)
    found, plan = bundle.read(tmp_path)
    assert plan == PLAN_BYTES
    assert (tmp_path / "parity.png").read_bytes() == b"where it runs"
    assert (found.verified_on_device, found.parity) == (True, report)
    assert json.loads((tmp_path / "parity.json").read_text())["reference"] == "where it runs"
    assert found.files["parity.json"] != written.files["parity.json"]


def test_a_signed_bundle_is_not_confirmed(tmp_path: Path, signing_keys: list[tuple[Path, Path]]) -> None:
    written = bundle.write(tmp_path / "b", PLANNED, CONTENT, {"model.plan": PLAN_BYTES})
    bundle.sign(tmp_path / "b", signing_keys[0][0])
    with pytest.raises(InputError, match=r"is signed, and the note that its plan has passed here would undo that"):
        bundle.confirm(tmp_path / "b", replace(written, verified_on_device=True), {})
    assert bundle.read(tmp_path / "b", signing_keys[0][1])[0] == written


# --- a full disk


def _full_at(monkeypatch: pytest.MonkeyPatch, file: int) -> None:
    """The disk is full when this many files have been begun."""
    write_bytes, written = Path.write_bytes, 0

    def full(path: Path, content: bytes) -> int:
        nonlocal written
        written += 1
        if written == file:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_bytes(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)


@pytest.mark.parametrize("file", [1, 2, 3, 4])
def test_a_full_disk_leaves_the_earlier_bundle_as_it_was(
    file: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = bundle.write(tmp_path, PLANNED, CONTENT, {"model.plan": PLAN_BYTES})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with monkeypatch.context() as patch:
        _full_at(patch, file)
        with pytest.raises(EngineError, match=r"the disk is full: .* an earlier one there is as it was"):
            bundle.write(tmp_path, MANIFEST, CONTENT, {"parity.png": b"others", "notes.txt": b"others"})
    with monkeypatch.context() as patch:
        _full_at(patch, file)
        with pytest.raises(EngineError, match="the disk is full"):
            bundle.confirm(tmp_path, replace(written, verified_on_device=True), {})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_files_of_an_earlier_bundle_go(tmp_path: Path) -> None:
    bundle.write(tmp_path, PLANNED, CONTENT, {"model.plan": PLAN_BYTES, "parity.png": b"worst slices"})
    (tmp_path / "notes.txt").write_text("mine")
    bundle.write(tmp_path, MANIFEST, CONTENT)
    assert {path.name for path in tmp_path.iterdir()} == {"manifest.json", "model.onnx", "parity.json", "notes.txt"}
