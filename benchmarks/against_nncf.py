"""The shipped INT8 networks beside NNCF's: agreement by the gate, size, and slices a second by turns in one process.

    python benchmarks/against_nncf.py [--networks NAME ...] [--rounds 15] [--threads N] [--json FILE]

NNCF is OpenVINO's own quantiser, and so a CPU's measure to beat. Here it quantises OpenVINO's graph of the same network
in FP32, its batch normalisations folded (post-training, its two presets, otherwise as it stands), on the same
calibration slices that the shipped INT8 files were made from. Each result is judged as those are: `edgeseg.gate` on the
shipped parity slices, against the PyTorch model's recorded masks. CPUs without VNNI add two products in 16 bits, for
which weights of 8 bits are too much: NNCF takes 7 in the first layers by itself, and in a further trial in all, as the
shipped files do.

The engines then take turns, so that what else the machine does slows all alike; a ratio is taken within each round, and
its median is given. NNCF is no dependency of edgeseg: pip install nncf.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from contextlib import ExitStack
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from edgeseg import backends, bundle, gate, machine, model
from edgeseg.backends.base import Engine
from edgeseg.export import graph
from edgeseg.readers import slices
from edgeseg.types import ByteArray, FloatArray, Manifest, ParityReport

NETWORKS = ("lgg-unet-efficientnet-lite0", "lgg-unet-resnet34")
TRIALS = {
    "NNCF, default": ("performance", None),
    "NNCF, mixed": ("mixed", None),
    "NNCF, default, 7 bits": ("performance", "enable"),
}
"""Name of each trial, NNCF's preset (symmetric activations, or some that are not), and its ``overflow_fix``."""
BATCHES = (1, 8)
SHIPPED, FP32 = "edgeseg", "OpenVINO FP32"


class GraphEngine(Engine):
    """OpenVINO's own file pair, compiled as `edgeseg.backends.openvino` compiles an ONNX file."""

    def __init__(self, path: Path, threads: int) -> None:
        import openvino

        hints = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
        self.runtime = f"OpenVINO {openvino.__version__.split('-')[0]}"
        self.device, self.inference_precision = "CPU", "f32"
        core = openvino.Core()
        self._request: Any = core.compile_model(core.read_model(path), "CPU", hints).create_infer_request()

    def _run(self, given: ByteArray) -> FloatArray:
        return np.asarray(self._request.infer([given], share_inputs=True, share_outputs=True)[0], dtype=np.float32)

    def _release(self) -> None:
        self._request = None


def main() -> None:
    """Print the figures and keep them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=machine.cores())
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "nncf.json")
    arguments = parser.parse_args()
    figures: dict[str, Any] = {
        "machine": machine.facts(),
        "nncf": metadata.version("nncf"),
        "threads": arguments.threads,
        "rounds": arguments.rounds,
        "networks": {},
    }
    for name in arguments.networks:
        figures["networks"][name] = measure(name, arguments.rounds, arguments.threads)
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def measure(name: str, rounds: int, threads: int) -> dict[str, Any]:
    """Quantise one network with NNCF, judge all, and time all by turns."""
    manifest, content = bundle.read(bundle.find(f"{name}-int8"), backend="openvino")
    network = model.runnable(*model.load(bundle.shipped_weights(name)))
    single, folded = (graph.to_onnx(network, manifest.preprocessing.size_px, folded=folded) for folded in (False, True))
    given = slices.read("calibration", manifest.preprocessing)
    found: dict[str, Any] = {"calibration_slices": len(given.names), "fp32_mb": round(len(single) / 1e6, 2)}
    with ExitStack() as opened, tempfile.TemporaryDirectory() as folder:
        engines: dict[str, Engine] = {
            SHIPPED: opened.enter_context(backends.open_engine(manifest, content, "openvino", threads=threads)),
            FP32: opened.enter_context(backends.open_engine(_single(manifest), single, "openvino", threads=threads)),
        }
        files: dict[str, dict[str, Any]] = {SHIPPED: {"mb": round(len(content) / 1e6, 2)}}
        for variant in TRIALS:
            path = Path(folder) / f"{len(files)}.xml"
            files[variant] = quantise(folded, given.slices, variant, path)
            engines[variant] = opened.enter_context(GraphEngine(path, threads))
        for variant, file in files.items():
            verdict = gate.judge(engines[variant], manifest, model=None)
            found[variant] = {**file, **_of_report(verdict.report)}
            print(name, variant, json.dumps(found[variant]), flush=True)
        found["speed"] = race(engines, manifest.preprocessing.size_px, rounds)
        print(name, json.dumps(found["speed"], indent=1), flush=True)
    return found


def _single(manifest: Manifest) -> Manifest:
    return replace(manifest, precision="fp32", runtimes=("openvino",))


def quantise(content: bytes, given: ByteArray, variant: str, path: Path) -> dict[str, Any]:
    """Quantise a network file's OpenVINO graph on calibration slices, and write it.

    What NNCF leaves in floating point is stored in FP16, as in the shipped files.
    """
    import nncf
    import openvino
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, OverflowFix

    preset, fix = TRIALS[variant]
    started = time.monotonic()
    quantised = nncf.quantize(
        openvino.Core().read_model(content),
        nncf.Dataset([given[k : k + 1] for k in range(len(given))]),
        preset=nncf.QuantizationPreset(preset),
        subset_size=len(given),
        advanced_parameters=AdvancedQuantizationParameters(overflow_fix=OverflowFix(fix)) if fix else None,
    )
    openvino.save_model(quantised, path, compress_to_fp16=True)
    seconds = time.monotonic() - started
    constants = [op for op in openvino.Core().read_model(path).get_ops() if op.get_type_name() == "Constant"]
    weights = [op.data for op in constants if op.get_element_type() == openvino.Type.i8 and op.data.size > 1]
    return {
        "mb": round((path.stat().st_size + path.with_suffix(".bin").stat().st_size) / 1e6, 2),
        "seconds_to_quantise": round(seconds, 1),
        "largest_weight": max(int(np.abs(data.astype(np.int16)).max()) for data in weights),
    }


def _of_report(report: ParityReport) -> dict[str, Any]:
    return {
        "mean": round(report.agreement.mean, 4),
        "fifth_percentile": round(report.agreement.fifth_percentile, 4),
        "worst": round(report.agreement.worst, 4),
        "slices_over_50_px": report.agreement.slices,
        "lost": [part.pixels for part in report.lost],
        "invented": [part.pixels for part in report.invented],
        "dice_change_mean": report.dice_change_mean and round(report.dice_change_mean, 4),
        "dice_change_worst": report.dice_change_worst and round(report.dice_change_worst, 4),
        "gate": report.failures or "passed",
    }


def race(engines: dict[str, Engine], size_px: int, rounds: int) -> dict[str, Any]:
    """By batch and engine: slices a second, and times the shipped engine's rate: medians over the rounds."""
    given = np.random.default_rng(0).integers(0, 256, (max(BATCHES), 3, size_px, size_px), dtype=np.uint8)
    seconds: dict[int, dict[str, list[float]]] = {batch: {name: [] for name in engines} for batch in BATCHES}
    for batch in BATCHES:
        for _ in range(rounds):
            for name, engine in engines.items():
                seconds[batch][name].append(_turn(engine, given[:batch]))
    return {
        f"batch {batch}": {
            name: {
                "slices_per_second": round(1 / statistics.median(own), 2),
                "times_shipped": round(
                    statistics.median(theirs / one for theirs, one in zip(of[SHIPPED], own, strict=True)), 3
                ),
            }
            for name, own in of.items()
        }
        for batch, of in seconds.items()
    }


def _turn(engine: Engine, given: ByteArray) -> float:
    """Seconds a slice; one run before does not count."""
    engine.batch = len(given)
    engine.predict_logits(given)
    started = time.perf_counter()
    engine.predict_logits(given)
    return (time.perf_counter() - started) / len(given)


if __name__ == "__main__":
    main()
