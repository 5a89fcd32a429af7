"""What INT8 costs to build and what it saves: time and memory of the first rung, the files' sizes, and the ladders.

    python benchmarks/int8.py [--networks NAME ...] [--json FILE]

The first rung is `edgeseg build-engine WEIGHTS --int8` with an empty cache, up to the gate's verdict; the command is
stopped there. Run it while nothing else runs. The ladders are those of the shipped bundles' manifests.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from edgeseg import bundle, model
from edgeseg.export import graph

NETWORKS = ("lgg-unet-efficientnet-lite0", "lgg-unet-resnet34")
DONE = ("convolutions kept, parity fails", "against PyTorch")


def main() -> None:
    """Print the figures and keep them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "int8.json")
    arguments = parser.parse_args()
    figures = {name: {**first_rung(name), **shipped(name)} for name in arguments.networks}
    for name, found in figures.items():
        print(name, json.dumps(found, indent=1))
    arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def first_rung(name: str) -> dict[str, Any]:
    """Seconds and peak resident memory (GB) of the command up to the verdict on all convolutions in INT8."""
    weights = bundle.shipped_weights(name)
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        command = ["edgeseg", "build-engine", str(weights), "--int8", "-o", f"{folder}/built"]
        environment = {**os.environ, "XDG_CACHE_HOME": folder}
        said: list[str] = []
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        ) as run:
            assert run.stdout is not None
            for line in run.stdout:
                said.append(line.rstrip())
                if any(sign in line for sign in DONE):
                    run.send_signal(signal.SIGKILL)
                    break
        seconds = time.monotonic() - started
    if not any(sign in line for line in said for sign in DONE):
        raise SystemExit("\n".join(said))
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
    return {"first_rung_s": round(seconds, 1), "peak_gb": round(peak, 2), "cores": os.cpu_count()}


def shipped(name: str) -> dict[str, Any]:
    """Size of the shipped INT8 file beside the network's FP32 file, and how it was found."""
    manifest, content = bundle.read(bundle.find(f"{name}-int8"))
    network, facts = model.load(bundle.shipped_weights(name))
    single = graph.to_onnx(model.runnable(network, facts), manifest.preprocessing.size_px)
    calibration = manifest.calibration or {}
    return {
        "int8_mb": round(len(content) / 1e6, 2),
        "fp32_mb": round(len(single) / 1e6, 2),
        "int8_share_of_fp32": round(len(content) / len(single), 4),
        "kept": len(calibration["kept"]),
        "rungs": calibration["rungs"],
    }


if __name__ == "__main__":
    main()
