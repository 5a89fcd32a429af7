"""A Triton Inference Server over HTTP: the network runs there, and several scanners share its GPU."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Any, TypeVar
from urllib.parse import urlsplit

import numpy as np

from edgeseg.backends.base import Engine
from edgeseg.errors import EngineError, InputError
from edgeseg.types import ByteArray, FloatArray, Manifest

SHA256 = "edgeseg.sha256"
"""The parameter of a model's configuration that holds the hash of its bundle's network file."""
CHOOSES_PRECISION = "openvino"
"""Triton's backend that takes BF16 where its CPU has it, and has no setting for FP32."""
CONNECT_S, ANSWER_S = 10.0, 120.0
"""How long to wait for a connection, and for an answer: the first batch of a size may be compiled, others may queue."""

_T = TypeVar("_T")


class TritonEngine(Engine):
    """The bundle's engine behind a server that says that it serves this very network file.

    Each request has a connection of its own: it costs a batch nothing, an engine may be used from any thread (the
    client's sockets may not), and none is found closed later.
    """

    def __init__(self, url: str, manifest: Manifest) -> None:
        import gevent.ssl
        import tritonclient.http

        hub = gevent.get_hub()
        hub.NOT_ERROR = (*type(hub).NOT_ERROR, KeyboardInterrupt)  # else Ctrl-C while it waits prints lines of its own
        self._client: Any = tritonclient.http
        self._trust: Any = gevent.ssl.create_default_context
        self._secure, self._host, self._path = _address(url)
        self._manifest = manifest
        self._check_ready()
        about = self._first(lambda client: client.get_server_metadata())
        config = self._configuration()
        self.runtime = f"{str(about.get('name')).capitalize()} {about.get('version')}"
        served_by = str(config.get("backend") or config.get("platform"))
        self.device = f"{_kind(config)} of the server, through {served_by}"
        self.keeps_precision = served_by != CHOOSES_PRECISION
        self.inference_precision = manifest.inference_precision if self.keeps_precision else "the server's choice"
        self.batch = int(config.get("max_batch_size") or Engine.batch)

    def _check_ready(self) -> None:
        if not self._first(lambda client: client.is_server_ready()):
            raise InputError(
                f"the server at {self._host} is not ready: wait until it has loaded its models, or see its log"
            )
        name = self._manifest.name
        if not self._first(lambda client: client.is_model_ready(name)):
            raise EngineError(
                f"the server at {self._host} has no model {name} that is ready: put there what edgeseg export-triton "
                "writes, or name the engine that it has with --engine"
            )

    def _configuration(self) -> dict[str, Any]:
        """The model's configuration, which has to name the bundle's network file."""
        name, sha256 = self._manifest.name, self._manifest.sha256
        config: dict[str, Any] = self._first(lambda client: client.get_model_config(name))
        found = config.get("parameters", {}).get(SHA256, {}).get("string_value") or "none"
        if found != sha256:
            raise EngineError(
                f"the server's {name} is another engine: it names the SHA-256 {found[:12]}, the bundle here has "
                f"{sha256[:12]}: export this bundle with edgeseg export-triton, or give the server's with --engine"
            )
        return config

    def _first(self, ask: Callable[[Any], _T]) -> _T:
        """Ask before any study is read: without an answer, the address is of no use."""
        try:
            return self._ask(ask)
        except Exception as error:  # the client's own types share no base
            raise InputError(f"{self._said(error)}: see that it runs, and that --triton has its address") from error

    def _ask(self, ask: Callable[[Any], _T]) -> _T:
        client = self._client.InferenceServerClient(
            self._host + self._path,
            ssl=self._secure,
            ssl_context_factory=lambda **_: self._trust(),  # the system's certificates, not a copy of Mozilla's
            connection_timeout=CONNECT_S,
            network_timeout=ANSWER_S,
        )
        client._client_stub._connection_pool.size = -1  # what it counts its own unsaid tries by: none
        with closing(client):
            return ask(client)

    def _run(self, slices: ByteArray) -> FloatArray:
        given = self._client.InferInput(self._manifest.input["name"], slices.shape, "UINT8")
        given.set_data_from_numpy(slices)
        name = self._manifest.output["name"]
        wanted = [self._client.InferRequestedOutput(name)]
        try:
            answer = self._ask(lambda client: client.infer(self._manifest.name, [given], outputs=wanted))
            return np.asarray(answer.as_numpy(name), dtype=np.float32)
        except Exception as error:  # `Engine` knows a runtime's failure by RuntimeError
            raise RuntimeError(f"{self._said(error)}: see to the server, and do the study again") from error

    def _said(self, error: Exception) -> str:
        """What went wrong between here and the server, on one line."""
        server = f"the server at {self._host}"
        text = (str(error).strip() or type(error).__name__).splitlines()[0][:200].rstrip(".")
        if isinstance(error, TimeoutError):
            return (
                f"{server} did not answer in time ({CONNECT_S:.0f} s for a connection, {ANSWER_S:.0f} s for an answer)"
            )
        if isinstance(error, OSError):
            return f"{server} cannot be reached ({error.strerror or text})"
        if isinstance(error, self._client.InferenceServerException):
            return f"{server} answered with an error ({text})"
        return f"{server} broke off, or speaks another protocol than Triton's ({text})"

    def _release(self) -> None:
        """Nothing is held between requests."""


def _address(url: str) -> tuple[bool, str, str]:
    """Whether it is encrypted, host with port, and path.

    Raises
    ------
    InputError
        When it is no address of a server.
    """
    try:
        parts = urlsplit(url)
        well = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        well = False
    if not well or parts.username is not None or parts.query or parts.fragment:
        said = "one with a name or a password" if "@" in url else url
        raise InputError(f"--triton takes http://HOST:PORT or https://HOST:PORT, such as http://gpu:8000, not {said}")
    return parts.scheme == "https", parts.netloc, parts.path.rstrip("/")


def _kind(config: dict[str, Any]) -> str:
    """``GPU`` or ``CPU``, as the server says: it puts one of them in place of KIND_AUTO when it loads a model."""
    kinds = {str(group.get("kind")).removeprefix("KIND_") for group in config.get("instance_group", [])}
    return " and ".join(sorted(kinds & {"GPU", "CPU"})) or "unknown device"
