"""A manifest's fields, one by one: what each may be, and what is said of one that is not."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest

from edgeseg import bundle, manifest
from edgeseg.errors import EngineError
from edgeseg.types import Agreement, Manifest, ParityReport, Part, Preprocessing, Speed

WHOLE = Manifest(
    name="net-fp16",
    network="net",
    architecture="Unet",
    encoder="resnet34",
    file="model.onnx",
    sha256="cd" * 32,
    weights_sha256="ab" * 32,
    precision="fp16",
    inference_precision="f32",
    runtimes=("openvino", "onnxruntime"),
    input={"name": "slices", "dtype": "uint8", "shape": ["batch", 3, 256, 256]},
    output={"name": "logits", "dtype": "float32", "shape": ["batch", 1, 256, 256]},
    preprocessing=Preprocessing("volume", 256),
    threshold=0.4,
    calibration={
        "method": "min-max",
        "slices": 128,
        "patients": 30,
        "slices_sha256": "12" * 32,
        "kept": ["/conv"],
        "rungs": [{"kept": 1, "mean": 0.99, "fifth_percentile": 0.97, "worst": 0.9, "megabytes": 5.5}],
    },
    tools={"edgeseg": "0"},
    parity=ParityReport(
        Agreement(0.99, 0.9, 0.8, "A_3", 7),
        10,
        655360,
        12,
        0.01,
        None,
        -0.002,
        "A",
        False,
        ("too low",),
        "PyTorch",
        empty_slices=3,
        lost=(Part("A_3", 120),),
        invented=(Part("A_4", 30), Part("A_5", 21)),
    ),
    licence="CC-BY-NC-SA-4.0",
    files={"parity.json": "ef" * 32},
    speed=Speed(250.0, 8, 5.0, "OpenVINO 1", "a processor", 2),
)
OPTIONAL = ("files", "speed", "plan", "verified_on_device", "format")
RAW: dict[str, Any] = json.loads(json.dumps(asdict(WHOLE)))


def _parse(raw: Any) -> Manifest:
    return manifest.parse(json.dumps(raw).encode(), "mine")


def _changed(path: str, value: Any) -> dict[str, Any]:
    raw: dict[str, Any] = json.loads(json.dumps(RAW))
    *way, last = path.split(".")
    place = raw
    for name in way:
        place = place[name]
    place[last] = value
    return raw


def test_what_was_written_is_read() -> None:
    assert _parse(RAW) == WHOLE


def test_the_first_format_is_read_still() -> None:
    old = {name: value for name, value in RAW.items() if name not in OPTIONAL}
    old |= {"format": 1, "preprocessing": {"intensity": "volume", "size_px": 256}}
    found = _parse(old)
    assert (found.files, found.speed, found.preprocessing.version, found.format) == ({}, None, 1, 2)


def test_the_shipped_manifest_is_of_the_last_format() -> None:
    raw = json.loads((bundle.find(bundle.DEFAULT_ENGINE) / "manifest.json").read_text(encoding="utf-8"))
    assert raw["format"] == manifest.FORMAT
    assert set(raw["files"]) == {"parity.json", "parity.png"}


def test_a_parity_report_of_before_lost_parts_were_counted_is_read() -> None:
    older = {name: RAW["parity"][name] for name in RAW["parity"] if name not in ("empty_slices", "lost", "invented")}
    found = _parse(_changed("parity", older)).parity
    assert found is not None
    assert (found.empty_slices, found.lost, found.invented) == (0, (), ())


def test_a_later_format_asks_for_a_later_edgeseg() -> None:
    with pytest.raises(EngineError, match=r"format 3, this edgeseg reads up to 2: upgrade it with pip install"):
        _parse({**RAW, "format": 3, "unheard_of": 1})


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("format", 0, "1 or 2"),
        ("format", True, "1 or 2"),
        ("format", "2", "1 or 2"),
        ("name", 5, "text"),
        ("file", "../model.onnx", "inside the bundle"),
        ("file", "..", "inside the bundle"),
        ("file", "a\\b", "inside the bundle"),
        ("file", "manifest.json", "other files than manifest"),
        ("sha256", "AB" * 32, "a SHA-256 in hex"),
        ("weights_sha256", "ab", "a SHA-256 in hex"),
        ("files", {"../x": "ef" * 32}, "inside the bundle"),
        ("files", {"model.onnx": "ef" * 32}, "other files"),
        ("files", {"x": "no"}, "a SHA-256 in hex"),
        ("files", {"x": 1}, "text"),
        ("files", [], "an object"),
        ("precision", "fp61", '"fp32" or "fp16" or "int8"'),
        ("inference_precision", "g32", '"f32"'),
        ("runtimes", "openvino", "a list"),
        ("runtimes", [], "at least one"),
        ("runtimes", [1], "text"),
        ("input.shape", 3, r"uint8 \[batch, 3, 256, 256\]"),
        ("input.dtype", "int8", "uint8"),
        ("output.shape", ["batch", 2, 256, 256], r"float32 \[batch, 1, 256, 256\]"),
        ("threshold", "0.5", "a number"),
        ("threshold", 8.5, "above 0 and below 1"),
        ("threshold", True, "a number"),
        ("calibration", [], "an object"),
        ("tools", {"edgeseg": 1}, "text"),
        ("parity", 3, "an object"),
        ("parity.passed", "yes", "true or false"),
        ("parity.slices", 1.5, "a whole number"),
        ("parity.agreement.mean", None, "a number"),
        ("parity.failures", ["a", 2], "text"),
        ("parity.lost", [{"slice_name": "A_3"}], "pixels is missing"),
        ("parity.invented", [{"slice_name": "A_3", "pixels": "1"}], "a whole number"),
        ("speed", {"batch": 1}, "slices_per_second is missing"),
        ("speed.batch", "8", "a whole number"),
        ("unheard_of", 1, "no such field"),
        ("parity.unheard_of", 1, "no such field"),
    ],
)
def test_a_field_with_a_value_that_it_cannot_have(path: str, value: Any, expected: str) -> None:
    with pytest.raises(EngineError, match=expected) as caught:
        _parse(_changed(path, value))
    assert str(caught.value).startswith("the bundle mine has no usable manifest.json (")
    assert path.split(".")[-1] in str(caught.value)
    assert "edgeseg build-engine" in str(caught.value)


@pytest.mark.parametrize("name", [name for name in RAW if name not in OPTIONAL])
def test_a_missing_field_is_named(name: str) -> None:
    with pytest.raises(EngineError, match=rf"\({name} is missing\)"):
        _parse({key: value for key, value in RAW.items() if key != name})


@pytest.mark.parametrize(("field", "value"), [("version", 2), ("intensity", "histogram"), ("size_px", 0), ("new", 1)])
def test_another_preprocessing_is_refused_with_the_command_that_mends_it(field: str, value: Any) -> None:
    with pytest.raises(EngineError, match=r"with edgeseg build-engine WEIGHTS --fp16 -o FOLDER") as caught:
        _parse(_changed(f"preprocessing.{field}", value))
    assert f"preprocessing.{field} is {json.dumps(value)}, expected" in str(caught.value)


@pytest.mark.parametrize("length", range(0, len(json.dumps(RAW)), 50))
def test_a_truncated_manifest_is_refused(length: int) -> None:
    with pytest.raises(EngineError, match=r"no usable manifest\.json"):
        manifest.parse(json.dumps(RAW).encode()[:length], "mine")


@pytest.mark.parametrize("content", [b"\xff", b"null", b"[" * 100_000, b'{"format": NaN}', b"\x00"])
def test_what_is_no_manifest_is_refused(content: bytes) -> None:
    with pytest.raises(EngineError, match=r"no usable manifest\.json"):
        manifest.parse(content, "mine")


def test_numbers_that_are_not_finite_are_refused() -> None:
    with pytest.raises(EngineError, match="it holds NaN"):
        _parse(_changed("parity.agreement.mean", float("nan")))
