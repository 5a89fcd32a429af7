"""The rungs of an INT8 network: quantise, judge, and keep convolutions in floating point only as the masks need."""

from __future__ import annotations

import functools
import hashlib
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgeseg import backends, quantize
from edgeseg.readers import slices
from edgeseg.types import ByteArray, FloatArray, Manifest, Preprocessing

if TYPE_CHECKING:
    from edgeseg.export.quantised import Ranges, Spelling

MARGINS = (quantize.Wanted(0.988, 0.96), quantize.Wanted(0.991, 0.97), quantize.Wanted(0.994, 0.98))
"""What the choice of layers aims at on the calibration slices, the next one when the gate fails: more than parity
demands of unseen patients, who agree a little less."""

PASSES = 4
"""How often fine-tuning goes through the calibration slices."""

Distil = Callable[[bytes, "Ranges", tuple[str, ...], ByteArray], bytes]
"""A network file in FP32, fine-tuned for INT8: from its ranges, the convolutions kept, and calibration slices."""


@dataclass(frozen=True)
class Recipe:
    """How an INT8 network arises.

    Parameters
    ----------
    method
        One of `edgeseg.export.calibration.METHODS`.
    calibration
        A folder of studies that ranges, layers and fine-tuning are taken from; None is the shipped calibration slices.
    finetune
        Fine-tune the weights when the choice of layers does not suffice.
    """

    method: str = "min-max"
    calibration: Path | None = None
    finetune: bool = False


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


def slices_of(recipe: Recipe, preprocessing: Preprocessing) -> slices.Slices:
    """The slices that a recipe calibrates on.

    Raises
    ------
    InputError
        When its folder, or the shipped one, cannot be used.
    """
    if recipe.calibration is None:
        return slices.read("calibration", preprocessing)
    return slices.of_studies(recipe.calibration, preprocessing)


def climb(
    manifest: Manifest,
    content: bytes,
    recipe: Recipe,
    spelling: Spelling,
    chosen: slices.Slices,
    judge: Callable[[Manifest, bytes], Built],
    distil: Distil,
    report: Callable[[str], None],
) -> Built:
    """Quantise; while the gate fails, take the next rung.

    First all convolutions; then all but as few as a search finds that the masks need; then, if the recipe says so,
    with fine-tuned weights. Ranges, layers and fine-tuning read calibration slices alone; the gate reads parity slices.

    Parameters
    ----------
    manifest, content
        The FP32 network file and what it says of itself.
    recipe
        How the INT8 network arises.
    spelling
        ``unsigned`` for OpenVINO and ONNX Runtime, ``signed`` for TensorRT.
    chosen
        Calibration slices, from `slices_of`.
    judge
        Makes a bundle's parts of an INT8 network file, with the gate's verdict.
    distil
        Fine-tunes.
    report
        Called with a sentence at each step.
    """
    from edgeseg.export import calibration

    ranges = calibration.cached(content, chosen.slices, recipe.method, report)
    trial = quantize.trial(content, ranges, chosen.slices, functools.partial(_run, manifest))
    steps = _Steps(manifest, recipe, spelling, chosen, judge, report)
    steps.take(trial.rung(()))
    built, failures = steps.judged(trial)
    if failures:
        built, failures = _fewest_kept(steps, trial)
    if failures and recipe.finetune:
        kept = steps.rungs[-1].kept
        tuned = distil(content, ranges, kept, trial.slices)
        ranges = calibration.cached(tuned, chosen.slices, recipe.method, report)
        trial = replace(trial, content=tuned, ranges=ranges)
        steps.take(replace(trial.rung(kept), finetuned=True))
        built, _ = steps.judged(trial)
    return built


@dataclass
class _Steps:
    """The rungs so far; the last one is what is judged."""

    manifest: Manifest
    recipe: Recipe
    spelling: Spelling
    chosen: slices.Slices
    judge: Callable[[Manifest, bytes], Built]
    report: Callable[[str], None]
    rungs: list[quantize.Rung] = field(default_factory=list)

    def take(self, found: quantize.Rung) -> None:
        """Put a rung last; it is reported once."""
        if found not in self.rungs:
            self.report(_said(found))
        self.rungs = [*(one for one in self.rungs if one != found), found]

    def judged(self, trial: quantize.Trial) -> tuple[Built, str]:
        """The last rung's network file with the gate's verdict, and why it failed; empty when it passed."""
        built = self.judge(*_int8(self, trial))
        verdict = built.manifest.parity
        failures = "; ".join(verdict.failures) if verdict else ""
        if failures:
            self.report(f"with {len(self.rungs[-1].kept)} convolutions kept, parity fails: {failures}")
        return built, failures


def _fewest_kept(steps: _Steps, trial: quantize.Trial) -> tuple[Built, str]:
    """The second rung: as few convolutions kept as reach a margin, the next margin while the gate fails."""
    measure, by_harm = functools.cache(trial.rung), trial.order(steps.report)
    verdicts: dict[tuple[str, ...], tuple[Built, str]] = {}
    for wanted in MARGINS:
        for found in quantize.fewest_kept(measure, by_harm, wanted):
            steps.take(found)
        kept = steps.rungs[-1].kept
        if kept not in verdicts:  # where no choice reaches a margin, the best one comes again
            verdicts[kept] = steps.judged(trial)
        if not verdicts[kept][1]:
            break
    return verdicts[kept]


def _run(manifest: Manifest, file: bytes, given: ByteArray) -> tuple[FloatArray, float]:
    with backends.open_engine(_of(manifest, file), file) as engine:
        engine.predict_logits(given[:1])
        started = time.perf_counter()
        return engine.predict_logits(given), 1000 * (time.perf_counter() - started) / len(given)


def _said(rung: quantize.Rung) -> str:
    return (
        f"{len(rung.kept)} convolutions kept{', weights fine-tuned' * rung.finetuned}: agreement on calibration slices "
        f"{rung.mean:.4f}, 5th percentile {rung.fifth_percentile:.3f}, worst {rung.worst:.3f}, "
        f"{rung.megabytes:.1f} MB, {rung.ms:.1f} ms a slice"
    )


def _int8(steps: _Steps, trial: quantize.Trial) -> tuple[Manifest, bytes]:
    """The network file of the last rung: what is not quantised is stored in FP16, for TensorRT computed in it too."""
    from edgeseg.export import precision as rounding
    from edgeseg.export import quantised

    last, chosen = steps.rungs[-1], steps.chosen
    kept = last.kept
    if steps.spelling == "signed":
        file = rounding.to_fp16(quantised.quantise(trial.content, trial.ranges, kept))
    else:
        file = quantize.unsigned(trial.content, trial.ranges, kept)
    facts = {
        "method": steps.recipe.method,
        "spelling": steps.spelling,
        "slices": len(chosen.names),
        "patients": len(set(chosen.patients)),
        "slices_sha256": chosen.digest(),
        "kept": list(kept),
        "finetuned": last.finetuned,
        "rungs": [{**asdict(one), "kept": len(one.kept)} for one in steps.rungs],
    }
    return replace(_of(steps.manifest, file), calibration=facts), file


def _of(manifest: Manifest, content: bytes) -> Manifest:
    return replace(manifest, sha256=hashlib.sha256(content).hexdigest())
