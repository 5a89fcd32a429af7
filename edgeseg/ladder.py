"""The rungs of an INT8 network: quantise, judge, and keep convolutions in floating point only as the masks need."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from edgeseg import backends, quantize
from edgeseg.readers import slices
from edgeseg.types import ByteArray, FloatArray, Manifest

if TYPE_CHECKING:
    from edgeseg.export.quantised import Spelling

MARGIN = quantize.Wanted(0.988, 0.96)
"""What the choice of layers aims at on the calibration slices: a little more than parity demands of unseen patients."""


@dataclass(frozen=True)
class Built:
    """What a bundle is written from.

    Parameters
    ----------
    manifest
        With the verdict.
    content
        The network file.
    others
        Further files by name: the plan.
    """

    manifest: Manifest
    content: bytes
    others: dict[str, bytes]


def climb(
    manifest: Manifest,
    content: bytes,
    method: str,
    spelling: Spelling,
    judge: Callable[[Manifest, bytes], Built],
    report: Callable[[str], None],
) -> Built:
    """Quantise; while the gate fails take the next rung: all convolutions, then all but the fewest that the masks need.

    Ranges and the choice of layers read calibration slices alone; the gate reads parity slices.

    Parameters
    ----------
    manifest, content
        The FP32 network file and what it says of itself.
    method
        One of `edgeseg.export.calibration.METHODS`.
    spelling
        ``unsigned`` for OpenVINO and ONNX Runtime, ``signed`` for TensorRT.
    judge
        Makes a bundle's parts of an INT8 network file, with the gate's verdict.
    report
        Called with a sentence at each step.
    """
    from edgeseg.export import calibration

    chosen = slices.read("calibration", manifest.preprocessing)
    ranges = calibration.cached(content, chosen.slices, method, report)

    def run(file: bytes, given: ByteArray) -> FloatArray:
        with backends.open_engine(_of(manifest, file), file) as engine:
            return engine.predict_logits(given)

    trial = quantize.trial(content, ranges, chosen.slices, run)
    rungs = [trial.rung(())]
    report(_said(rungs[-1]))
    file = partial(_int8, manifest, content, ranges, rungs, method, spelling, chosen)
    built = judge(*file())
    verdict = built.manifest.parity
    if verdict and not verdict.passed:
        report(f"rung 1 fails parity: {'; '.join(verdict.failures)}")
        for found in quantize.fewest_kept(trial.rung, trial.order(report), MARGIN):
            report(_said(found))
            rungs.append(found)
        built = judge(*file())
    return built


def _said(rung: quantize.Rung) -> str:
    return (
        f"{len(rung.kept)} convolutions kept: agreement on calibration slices {rung.mean:.4f}, 5th percentile "
        f"{rung.fifth_percentile:.3f}, worst {rung.worst:.3f}, {rung.megabytes:.1f} MB"
    )


def _int8(
    manifest: Manifest,
    content: bytes,
    ranges: Any,
    rungs: list[quantize.Rung],
    method: str,
    spelling: Spelling,
    chosen: slices.Slices,
) -> tuple[Manifest, bytes]:
    """The network file of the last rung: what is not quantised is stored in FP16, for TensorRT computed in it too."""
    from edgeseg.export import precision as rounding
    from edgeseg.export import quantised

    signed = quantised.quantise(content, ranges, rungs[-1].kept)
    if spelling == "signed":
        file = rounding.to_fp16(signed)
    else:
        file = rounding.to_fp16_initialisers(quantised.spell(signed, "unsigned"), least_axes=4)
    facts = {
        "method": method,
        "spelling": spelling,
        "slices": len(chosen.names),
        "patients": len(set(chosen.patients)),
        "slices_sha256": chosen.digest(),
        "kept": list(rungs[-1].kept),
        "rungs": [{**asdict(one), "kept": len(one.kept)} for one in rungs],
    }
    return replace(_of(manifest, file), calibration=facts), file


def _of(manifest: Manifest, content: bytes) -> Manifest:
    return replace(manifest, sha256=hashlib.sha256(content).hexdigest())
