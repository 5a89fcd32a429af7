"""KServe's own server, with a bundle behind it: ``python kserve_model.py BUNDLE CONFIG.json --http_port N``.

The protocol and the binary tensors are KServe's; Triton's extension for a model's configuration is added here.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import kserve
from kserve.model_server import app

from edgeseg import backends, bundle


class Bundle(kserve.Model):  # type: ignore[misc]
    """A bundle's engine as KServe takes models."""

    def __init__(self, folder: Path) -> None:
        manifest, content = bundle.read(folder)
        super().__init__(manifest.name)
        self._engine = backends.open_engine(manifest, content)
        self.ready = True

    def predict(self, payload: Any, *_: Any, **__: Any) -> Any:
        """Logits of the one input."""
        logits = self._engine.predict_logits(payload.inputs[0].as_numpy().copy())
        output = kserve.InferOutput(payload.request_outputs[0].name, list(logits.shape), "FP32")
        output.set_data_from_numpy(logits, binary_data=True)
        return kserve.InferResponse("", self.name, [output], requested_outputs=payload.request_outputs)


def _serve() -> None:
    folder, config = Path(sys.argv.pop(1)), json.loads(Path(sys.argv.pop(1)).read_text(encoding="utf-8"))
    model = Bundle(folder)
    app.add_api_route(f"/v2/models/{model.name}/config", lambda: config)
    arguments, _ = kserve.model_server.parser.parse_known_args()
    kserve.ModelServer(http_port=arguments.http_port, enable_grpc=False).start([model])


if __name__ == "__main__":
    _serve()
