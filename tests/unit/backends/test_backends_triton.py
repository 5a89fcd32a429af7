from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kserve_server import Server, serving

from edgeseg import backends, bundle
from edgeseg.backends import triton
from edgeseg.backends.base import Engine
from edgeseg.errors import BackendMissing, EngineError, InputError
from edgeseg.types import ByteArray, Manifest

pytest.importorskip("tritonclient.http", reason="the [triton] extra is not installed")


@pytest.fixture(scope="module")
def local(tiny_bundle: Path) -> Iterator[tuple[Manifest, Engine]]:
    """The small network's manifest, and its engine on this machine."""
    manifest, content = bundle.read(tiny_bundle)
    with backends.open_engine(manifest, content) as engine:
        yield manifest, engine


@pytest.fixture
def serve(local: tuple[Manifest, Engine]) -> Iterator[Callable[..., Server]]:
    """Begin a server of the small network; its configuration and its behaviour can be changed."""
    manifest, engine = local
    with ExitStack() as stack:

        def begin(certificate: tuple[Path, Path] | None = None, **how: Any) -> Server:
            server = Server({**_config(manifest), **how.pop("config", {})}, engine, **how)
            return stack.enter_context(serving(server, certificate))

        yield begin


def _config(manifest: Manifest) -> dict[str, Any]:
    """As a Triton with one GPU would give it."""
    return {
        "name": manifest.name,
        "backend": "onnxruntime",
        "max_batch_size": 5,
        "input": [{"name": "slices"}],
        "output": [{"name": "logits"}],
        "instance_group": [{"kind": "KIND_GPU", "count": 1, "gpus": [0]}],
        "parameters": {triton.SHA256: {"string_value": manifest.sha256}},
    }


def _slices(count: int) -> ByteArray:
    return np.random.default_rng(4).integers(0, 256, (count, 3, 256, 256)).astype(np.uint8)


def test_logits_are_the_local_engines_in_batches_that_the_server_takes(
    serve: Callable[..., Server], local: tuple[Manifest, Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, (manifest, engine) = serve(), local
    slices = _slices(7)
    monkeypatch.setattr(engine, "batch", 5)  # a batch's size changes the last digits
    with backends.open_server(manifest, server.url) as remote:
        found = remote.predict_logits(slices)
    assert server.batches == [5, 2]
    assert found.dtype == np.float32
    assert np.array_equal(found, engine.predict_logits(slices))


def test_it_says_truly_what_runs_the_network(serve: Callable[..., Server], local: tuple[Manifest, Engine]) -> None:
    manifest = local[0]
    with backends.open_server(manifest, serve().url) as remote:
        assert (remote.runtime, remote.device) == ("Triton 2.99.0", "GPU of the server, through onnxruntime")
        assert (remote.inference_precision, remote.keeps_precision) == (manifest.inference_precision, True)
    on_cpu = {"backend": "openvino", "max_batch_size": 0, "instance_group": [{"kind": "KIND_CPU"}]}
    with backends.open_server(manifest, serve(config=on_cpu).url) as remote:
        assert (remote.device, remote.batch) == ("CPU of the server, through openvino", Engine.batch)
        assert (remote.inference_precision, remote.keeps_precision) == ("the server's choice", False)


def test_an_engine_serves_threads_other_than_its_own(
    serve: Callable[..., Server], local: tuple[Manifest, Engine]
) -> None:
    manifest, engine = local
    slices = _slices(2)
    with backends.open_server(manifest, serve().url) as remote, ThreadPoolExecutor(3) as threads:
        found = list(threads.map(lambda _: remote.predict_logits(slices), range(6)))
    expected = engine.predict_logits(slices)
    assert all(np.array_equal(one, expected) for one in found)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("gpu:8000", "gpu:8000"),
        ("ftp://gpu:8000", "ftp://gpu:8000"),
        ("http://", "http://"),
        ("http://gpu:99999", "http://gpu:99999"),
        ("http://gpu:8000?x=1", "http://gpu:8000"),
        ("http://someone:secret@gpu:8000", "a name or a password"),
        ("http://[gpu", "http://"),
        ("", "not "),
    ],
)
def test_an_address_that_is_none_is_refused(url: str, shown: str, local: tuple[Manifest, Engine]) -> None:
    with pytest.raises(InputError, match="--triton takes") as failure:
        backends.open_server(local[0], url)
    assert shown in str(failure.value)
    assert "secret" not in str(failure.value)


def test_a_path_before_the_protocols_own_is_kept(serve: Callable[..., Server], local: tuple[Manifest, Engine]) -> None:
    server = serve()
    with pytest.raises(InputError, match="is not ready"):
        backends.open_server(local[0], f"{server.url}/behind/a/proxy/")
    assert server.paths == ["/behind/a/proxy/v2/health/ready"]


def test_nobody_at_the_address(local: tuple[Manifest, Engine], free_port: Callable[[], int]) -> None:
    port = free_port()
    with pytest.raises(InputError, match=rf"{port} cannot be reached .*see that it runs"):
        backends.open_server(local[0], f"http://127.0.0.1:{port}")
    with pytest.raises(InputError, match=r"nowhere\.invalid:8000 cannot be reached"):
        backends.open_server(local[0], "http://nowhere.invalid:8000")


def test_a_server_or_a_model_that_is_not_ready(serve: Callable[..., Server], local: tuple[Manifest, Engine]) -> None:
    manifest = local[0]
    with pytest.raises(InputError, match="is not ready: wait"):
        backends.open_server(manifest, serve(ready=False).url)
    with pytest.raises(EngineError, match=f"has no model {manifest.name} that is ready"):
        backends.open_server(manifest, serve(model_ready=False).url)
    with pytest.raises(EngineError, match="has no model other-fp32 that is ready"):
        backends.open_server(replace(manifest, name="other-fp32"), serve().url)


@pytest.mark.parametrize("parameters", [{}, {triton.SHA256: {"string_value": "ab" * 32}}, {triton.SHA256: {}}])
def test_another_engine_of_the_same_name_is_refused(
    parameters: dict[str, Any], serve: Callable[..., Server], local: tuple[Manifest, Engine]
) -> None:
    manifest = local[0]
    with pytest.raises(EngineError, match=f"is another engine.* {manifest.sha256[:12]}"):
        backends.open_server(manifest, serve(config={"parameters": parameters}).url)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>", "another protocol than Triton's"),
        (b"nonsense\r\n\r\n", "another protocol than Triton's"),
        (b"", "broke off"),
        (b'HTTP/1.1 500 no\r\nContent-Length: 16\r\n\r\n{"error": "full"', "answered with an error"),
    ],
)
def test_something_else_that_listens_there(
    raw: bytes, said: str, serve: Callable[..., Server], local: tuple[Manifest, Engine]
) -> None:
    server = serve(before=lambda path: None if "ready" in path else raw)
    with pytest.raises(InputError, match=said) as failure:
        backends.open_server(local[0], server.url)
    assert "\n" not in str(failure.value)


def test_a_server_that_goes_away_fails_the_study_and_is_found_again(
    serve: Callable[..., Server], local: tuple[Manifest, Engine]
) -> None:
    gone: list[str] = []
    server = serve(before=lambda path: b"" if gone and path.endswith("infer") else None)
    slices = _slices(2)
    with backends.open_server(local[0], server.url) as remote:
        whole = remote.predict_logits(slices)
        gone.append("now")
        asked = len(server.paths)
        with pytest.raises(
            EngineError, match=r"Triton 2.99.0 failed on \(2, 3, 256, 256\) slices: the server at .* broke"
        ):
            remote.predict_logits(slices)
        assert len(server.paths) == asked + 1, "nothing is asked twice"
        gone.clear()
        assert np.array_equal(remote.predict_logits(slices), whole)


def test_a_stopped_server_is_named(local: tuple[Manifest, Engine]) -> None:
    manifest, engine = local
    with serving(Server(_config(manifest), engine)) as server:
        remote = backends.open_server(manifest, server.url)
    with remote, pytest.raises(EngineError, match=r"cannot be reached .*do the study again"):
        remote.predict_logits(_slices(1))


def test_an_error_of_the_server_is_quoted(serve: Callable[..., Server], local: tuple[Manifest, Engine]) -> None:
    answer = b'{"error": "CUDA out of memory\\nat line 3"}'
    raw = b"HTTP/1.1 500 no\r\nContent-Length: %d\r\n\r\n%s" % (len(answer), answer)
    server = serve(before=lambda path: raw if path.endswith("infer") else None)
    with (
        backends.open_server(local[0], server.url) as remote,
        pytest.raises(EngineError, match=r"answered with an error \(\[500\] CUDA out of memory\)"),
    ):
        remote.predict_logits(_slices(1))


def test_a_server_that_says_nothing_is_given_up(
    local: tuple[Manifest, Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triton, "ANSWER_S", 0.2)
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(InputError, match="did not answer in time"),
    ):
        backends.open_server(local[0], f"http://127.0.0.1:{silent.getsockname()[1]}")


def test_a_certificate_has_to_be_one_that_the_system_trusts(
    serve: Callable[..., Server],
    local: tuple[Manifest, Engine],
    papers: Callable[[str], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host, other = papers("one"), papers("two")
    server = serve(certificate=(host.certificate, host.key))
    monkeypatch.setenv("SSL_CERT_FILE", str(other.ca))
    with pytest.raises(InputError, match=r"cannot be reached .*certificate"):
        backends.open_server(local[0], server.url)
    monkeypatch.setenv("SSL_CERT_FILE", str(host.ca))
    with backends.open_server(local[0], server.url) as remote:
        assert np.array_equal(remote.predict_logits(_slices(1)), local[1].predict_logits(_slices(1)))


def test_without_the_client(local: tuple[Manifest, Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tritonclient.http", None)
    with pytest.raises(BackendMissing, match=r"pip install 'edgeseg\[triton\]'"):
        backends.open_server(local[0], "http://127.0.0.1:8000")


def test_the_client_is_loaded_by_none_but_its_users() -> None:
    code = "import sys, edgeseg.backends, edgeseg.infer_command, edgeseg.backends.triton; print(sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "edgeseg.backends.triton" in loaded
    assert "tritonclient" not in loaded
    assert "gevent" not in loaded
