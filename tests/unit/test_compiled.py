"""A second start takes the compiled network from the cache, where that is what was put there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgeseg import bundle, cache, compiled, segment
from edgeseg.errors import EngineError
from edgeseg.types import ByteArray, FloatArray, Manifest


@pytest.fixture
def kept_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of compiled networks of a cache of the test's own."""
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache" / "compiled"


@pytest.fixture
def slices() -> ByteArray:
    """Six random slices."""
    return np.random.default_rng(0).integers(0, 256, (6, 3, 256, 256), dtype=np.uint8)


def _start(name: str, slices: ByteArray) -> tuple[bool, FloatArray]:
    with segment.open_engine(name, allow_unverified=True) as opened:
        return opened.engine.from_cache, opened.engine.predict_logits(slices)


@pytest.mark.parametrize("name", [bundle.DEFAULT_ENGINE, "lgg-unet-efficientnet-lite0-fp16"])
@pytest.mark.usefixtures("kept_in")
def test_a_second_start_compiles_nothing_and_gives_the_same_logits(name: str, slices: ByteArray) -> None:
    first, second = _start(name, slices), _start(name, slices)
    assert (first[0], second[0]) == (False, True)
    np.testing.assert_array_equal(first[1], second[1])


@pytest.mark.parametrize("place", [0, 40, 500, -1])
def test_what_was_damaged_is_compiled_again(place: int, kept_in: Path, slices: ByteArray, tiny_bundle: Path) -> None:
    _, expected = _start(str(tiny_bundle), slices)
    [file] = kept_in.iterdir()
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)
    from_cache, logits = _start(str(tiny_bundle), slices)
    assert not from_cache
    np.testing.assert_array_equal(logits, expected)
    assert _start(str(tiny_bundle), slices)[0], "what was compiled again is kept again"


@pytest.mark.parametrize("length", [0, 10, 32, 4000])
def test_what_was_cut_off_is_compiled_again(length: int, kept_in: Path, slices: ByteArray, tiny_bundle: Path) -> None:
    _start(str(tiny_bundle), slices)
    [file] = kept_in.iterdir()
    file.write_bytes(file.read_bytes()[:length])
    assert not _start(str(tiny_bundle), slices)[0]


def test_what_the_runtime_does_not_take_is_compiled_again(kept_in: Path, slices: ByteArray, tiny_bundle: Path) -> None:
    _start(str(tiny_bundle), slices)
    manifest = bundle.read_manifest(tiny_bundle)
    kept = compiled.read(manifest, None, "auto")
    assert kept is not None
    head, _, _ = kept.partition(b"\n")
    for other in (b"2020.1 []\n", head + b"\nnothing that OpenVINO wrote"):
        compiled.keep(manifest, None, "auto", other)
        assert not _start(str(tiny_bundle), slices)[0]
    assert len(list(kept_in.iterdir())) == 1


def test_a_damaged_bundle_is_refused_with_its_network_in_the_cache(
    kept_in: Path, slices: ByteArray, tiny_bundle: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in tiny_bundle.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    assert not _start(str(copy), slices)[0]
    assert list(kept_in.iterdir())
    network = copy / bundle.read_manifest(copy).file
    network.write_bytes(network.read_bytes() + b" ")
    with pytest.raises(EngineError, match="damaged"):
        _start(str(copy), slices)


def test_another_network_precision_or_device_has_a_place_of_its_own(
    kept_in: Path, shipped: tuple[Manifest, bytes]
) -> None:
    manifest, _ = shipped
    compiled.keep(manifest, None, "auto", b"this one")
    others = [
        (replace(manifest, sha256="0" * 64), None, "auto"),
        (replace(manifest, inference_precision="bf16"), None, "auto"),
        (manifest, "onnxruntime", "auto"),
        (manifest, None, "gpu"),
    ]
    assert [compiled.read(*other) for other in others] == [None] * 4
    assert compiled.read(manifest, None, "auto") == b"this one"
    assert [file.suffix for file in kept_in.iterdir()] == [".bin"]


def test_another_processor_compiles_for_itself(
    kept_in: Path, shipped: tuple[Manifest, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled.keep(shipped[0], None, "auto", b"this one")
    monkeypatch.setattr("edgeseg.machine.instruction_sets", lambda: ("none",))
    assert compiled.read(shipped[0], None, "auto") is None
    assert kept_in.is_dir()


def test_where_nothing_can_be_kept_the_engine_runs(
    slices: ByteArray, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "compiled").mkdir()
    (tmp_path / "compiled").chmod(0o777)
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path))
    assert [_start(str(tiny_bundle), slices)[0] for _ in range(2)] == [False, False]
    assert not list((tmp_path / "compiled").iterdir())


def test_a_full_disk_leaves_nothing_half_kept(
    kept_in: Path, shipped: tuple[Manifest, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, _: bytes) -> int:
        path.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    compiled.keep(shipped[0], None, "auto", b"content")
    assert not list(kept_in.iterdir())
