"""A server that speaks the KServe v2 protocol with Triton's extensions (binary tensors, configuration), for tests.

It answers from an engine of edgeseg, or does what a test has it do instead.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from typing import Any

import numpy as np

from edgeseg.backends.base import Engine
from edgeseg.types import FloatArray

HEADER_LENGTH = "Inference-Header-Content-Length"


@dataclass
class Server:
    """What it serves, and what it was asked.

    Parameters
    ----------
    config
        The model's configuration, as Triton gives it in JSON.
    engine
        What answers.
    ready, model_ready
        What it says of itself, and of the model.
    before
        Called with each request's path before it is answered; what it returns is sent in the answer's place.
    """

    config: dict[str, Any]
    engine: Engine
    ready: bool = True
    model_ready: bool = True
    before: Callable[[str], bytes | None] = lambda _: None
    paths: list[str] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    url: str = ""
    lock: Lock = field(default_factory=Lock)

    @property
    def name(self) -> str:
        """The model's."""
        return str(self.config["name"])

    def get(self, path: str) -> tuple[int, Any]:
        """Status and JSON of a question."""
        model = f"/v2/models/{self.name}"
        about = {"name": "triton", "version": "2.99.0", "extensions": ["binary_tensor_data", "model_configuration"]}
        answers: dict[str, tuple[int, Any]] = {
            "/v2": (200, about),
            "/v2/health/ready": (200 if self.ready else 400, {}),
            f"{model}/ready": (200 if self.model_ready else 400, {}),
            f"{model}/config": (200, self.config),
        }
        return answers.get(path, (404, {"error": f"Request for unknown model: {path} is not found"}))

    def infer(self, header: dict[str, Any], content: bytes) -> tuple[dict[str, Any], bytes]:
        """Header and bytes of the answer to a request for logits, which have to be as the configuration says."""
        (given,), (wanted,) = header["inputs"], header["outputs"]
        assert given["name"] == self.config["input"][0]["name"]
        assert given["datatype"] == "UINT8"
        assert wanted == {"name": self.config["output"][0]["name"], "parameters": {"binary_data": True}}
        assert given["parameters"]["binary_data_size"] == len(content)
        slices = np.frombuffer(bytearray(content), np.uint8).reshape(given["shape"])
        with self.lock:
            self.batches.append(len(slices))
            logits: FloatArray = self.engine.predict_logits(slices)
        data = logits.astype("<f4").tobytes()
        output = {"name": wanted["name"], "datatype": "FP32", "shape": list(logits.shape)}
        output["parameters"] = {"binary_data_size": len(data)}
        return {"model_name": self.name, "model_version": "1", "outputs": [output]}, data


@contextmanager
def serving(server: Server, certificate: tuple[Path, Path] | None = None) -> Iterator[Server]:
    """The server on a port of its own; encrypted with a certificate and its key where they are given."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            """Keep quiet."""

        def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def _instead(self) -> bool:
            server.paths.append(self.path)
            raw = server.before(self.path)
            if raw is not None:
                self.wfile.write(raw)
            return raw is not None

        def do_GET(self) -> None:
            if not self._instead():
                status, answer = server.get(self.path)
                self._send(status, json.dumps(answer).encode(), {"Content-Type": "application/json"})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self._instead():
                return
            length = int(self.headers[HEADER_LENGTH])
            header, content = server.infer(json.loads(body[:length]), body[length:])
            told = json.dumps(header).encode()
            self._send(200, told + content, {HEADER_LENGTH: str(len(told))})

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that leaves is the test's own."""

    with Quiet(("127.0.0.1", 0), Handler) as listening:
        scheme = "http"
        if certificate:
            scheme, context = "https", ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            listening.socket = context.wrap_socket(listening.socket, server_side=True)
        server.url = f"{scheme}://127.0.0.1:{listening.server_address[1]}"
        thread = Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            listening.shutdown()
            thread.join()
