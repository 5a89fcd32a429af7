"""What half precision would do on a GPU: the PyTorch model's own half-precision run, and its activations' peaks.

    python benchmarks/half_precision.py [--networks NAME ...] [--json FILE]

An FP16 file is computed in FP32 on a CPU, so its parity there says nothing of FP16 arithmetic. Here the PyTorch model
runs the shipped parity slices twice on the CPU: in FP32, where every module's largest output is noted, and in half
precision: every tensor between two operations is FP16; batch normalisations, activations and sums are computed in FP16;
a convolution takes and gives FP16 and adds its products up in FP32, as the tensor cores of a GPU do (PyTorch's own FP16
convolution on a CPU without FP16 arithmetic takes minutes a slice). Values beyond 65,504 overflow in FP16.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgeseg import bundle, model, parity
from edgeseg.backends import pytorch
from edgeseg.readers import slices
from edgeseg.types import FloatArray, Preprocessing

NETWORKS = ("lgg-unet-efficientnet-lite0", "lgg-unet-resnet34")
AGREEMENT, PEAK = 0.999, 32_000.0
"""Bars: mean agreement of half precision with FP32, and the largest activation."""


def main() -> None:
    """Print the figures and keep them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "half_precision.json")
    arguments = parser.parse_args()
    figures = {name: measure(name) for name in arguments.networks}
    for name, found in figures.items():
        print(name, json.dumps(found, indent=1))
    arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    if not all(found["bars_met"] for found in figures.values()):
        raise SystemExit("a bar is missed")


def measure(name: str) -> dict[str, Any]:
    """Agreement of the two runs of a shipped network, and the peaks of the FP32 run's activations."""
    import torch

    network, facts = model.load(bundle.shipped_weights(name))
    stored = facts.get("intensity", "stored") == "stored"
    given = slices.read("parity", Preprocessing("stored" if stored else "volume"))
    peaks: dict[str, float] = {}
    hooks = [module.register_forward_hook(_note(peaks, where)) for where, module in network.named_modules()]
    with pytorch.PyTorchEngine(model.runnable(network, facts)) as engine:
        single = engine.predict_logits(given.slices)
    for hook in hooks:
        hook.remove()
    with pytorch.PyTorchEngine(_halved(network, facts)) as engine:
        half = engine.predict_logits(given.slices)
    both, threshold = _patients(given, single, half), float(facts["threshold"])
    report = parity.compare(both, threshold, parity.TOLERANCES["fp16"], f"PyTorch FP32, {name}")
    larger = parity.compare(both, threshold, replace(parity.TOLERANCES["fp16"], least_px=50), "").agreement
    largest = sorted(peaks, key=lambda where: -peaks[where])[:5]
    agreement = report.agreement
    return {
        "slices": report.slices,
        "torch": torch.__version__,
        "mean_agreement": agreement.mean,
        "slices_marked": agreement.slices,
        "mean_agreement_over_50_px": larger.mean,
        "slices_over_50_px": larger.slices,
        "mean_agreement_by_patient": report.by_patient and report.by_patient.mean,
        "fifth_percentile": agreement.fifth_percentile,
        "worst": [agreement.worst_slice, agreement.worst],
        "differing_pixels": report.differing_pixels,
        "pixels": report.pixels,
        "largest_logit_difference": report.largest_logit_difference,
        "dice_change_mean": report.dice_change_mean,
        "dice_change_worst": report.dice_change_worst,
        "gate_of_fp16": report.failures or "passed",
        "modules": len(peaks),
        "largest_activations": {where: round(peaks[where], 2) for where in largest},
        "bars_met": agreement.mean >= AGREEMENT and peaks[largest[0]] < PEAK,
    }


def _note(peaks: dict[str, float], where: str) -> Any:
    """A hook that keeps a module's largest absolute output."""

    def hook(module: Any, inputs: Any, output: Any) -> None:  # noqa: ARG001  PyTorch's own signature
        for one in output if isinstance(output, list | tuple) else [output]:
            peaks[where] = max(peaks.get(where, 0.0), float(one.abs().max()))

    return hook


def _halved(network: Any, facts: dict[str, str]) -> Any:
    """The network in half precision: bytes in, float32 logits out; normalised in FP32, everything after it in half."""
    import torch
    from torch import nn

    for module in network.half().modules():
        if isinstance(module, nn.Conv2d):  # FP16 in and out, products added up in FP32
            module.float()
            module.register_forward_pre_hook(lambda _, given: (given[0].float(),))
            module.register_forward_hook(lambda _, __, output: output.half())

    class Half(nn.Module):
        """Takes uint8 (N, 3, H, W)."""

        def forward(self, given: Any) -> Any:
            values = model.normalise(given.float() / 255.0, model.normalisation_of(facts))
            logits = network(values.half())
            if logits.dtype != torch.float16:
                raise SystemExit(f"the network computed in {logits.dtype}, not in half precision")
            return logits.float()

    return Half()


def _patients(given: slices.Slices, single: FloatArray, half: FloatArray) -> list[parity.PatientLogits]:
    found = []
    for patient in dict.fromkeys(given.patients):
        own = np.flatnonzero([name == patient for name in given.patients])
        drawn = None if given.drawn is None else given.drawn[own]
        names = tuple(given.names[k] for k in own)
        found.append(parity.PatientLogits(patient, single[own], half[own], drawn, names))
    return found


if __name__ == "__main__":
    main()
