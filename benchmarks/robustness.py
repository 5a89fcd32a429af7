"""Dice when scanner values are scaled, the head is larger or smaller, or sequences are missing.

    python benchmarks/robustness.py ENGINE LGG_FOLDER --patients FILE [--json FILE]

Scaled values keep the 8 bits of the files (they are rounded and clipped at 255, as a badly set window would), the head
is scaled about the image's centre with its mask. Every row is the mean over the same patients, whole volumes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from edgeseg import metrics
from edgeseg.evaluate import Subject, mark, open_subject, with_sequences
from edgeseg.readers import lgg
from edgeseg.types import BoolArray, FloatArray, Study, Volume

Change = Callable[[Study, BoolArray], tuple[Study, BoolArray]]


def main() -> None:
    """Print the table and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("engine")
    parser.add_argument("data", type=Path)
    parser.add_argument("--patients", type=Path, required=True)
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "robustness.json")
    arguments = parser.parse_args()
    names = tuple(arguments.patients.read_text(encoding="utf-8").split())
    changes: dict[str, Change] = {"as it is": lambda study, drawn: (study, drawn)}
    for gain in (0.7, 0.85, 1.2, 1.4):
        changes[f"values x {gain}"] = _values(gain)
    for scale in (0.85, 0.92, 1.08, 1.15):
        changes[f"head x {scale}"] = _head(scale)
    changes["without T1 after contrast"] = lambda study, drawn: (with_sequences(study, "no-post"), drawn)
    changes["FLAIR alone"] = lambda study, drawn: (with_sequences(study, "flair"), drawn)
    figures = {}
    with open_subject(arguments.engine) as subject:
        for name, change in changes.items():
            dices = _dices(subject, arguments.data, names, change)
            figures[name] = {"mean": float(np.mean(dices)), "median": float(np.median(dices)), "worst": min(dices)}
            print(f"{name:28} mean {figures[name]['mean']:.4f} median {figures[name]['median']:.4f}", flush=True)
    result = {"engine": subject.name, "patients": len(names), "dice": figures}
    arguments.json.parent.mkdir(exist_ok=True)
    arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def _dices(subject: Subject, data: Path, names: tuple[str, ...], change: Change) -> list[float]:
    dices = []
    for patient in lgg.choose(lgg.index(data), names):
        study, drawn = change(lgg.read_study(patient), lgg.read_masks(patient))
        dices.append(metrics.dice(mark(subject, study), drawn))
    return dices


def _values(gain: float) -> Change:
    return lambda study, drawn: (_each(study, lambda v: np.clip(np.rint(v * gain), 0, 255).astype(np.float32)), drawn)


def _head(scale: float) -> Change:
    def change(study: Study, drawn: BoolArray) -> tuple[Study, BoolArray]:
        mask = np.stack([_zoom(m.astype(np.float32), scale) for m in drawn]) > 0.5
        return _each(study, lambda v: np.stack([_zoom(s, scale) for s in v])), mask

    return change


def _each(study: Study, change: Callable[[FloatArray], FloatArray]) -> Study:
    def of(volume: Volume) -> Volume:
        return replace(volume, voxels=change(volume.voxels))

    return replace(study, flair=of(study.flair), pre=study.pre and of(study.pre), post=study.post and of(study.post))


def _zoom(image: FloatArray, scale: float) -> FloatArray:
    """Scale about the centre; the frame keeps its size, and what comes in from outside is 0."""
    rows, columns = image.shape
    around = ((1 - 1 / scale) * columns / 2, (1 - 1 / scale) * rows / 2)
    moved = Image.fromarray(image).transform(
        (columns, rows),
        Image.Transform.AFFINE,
        (1 / scale, 0, around[0], 0, 1 / scale, around[1]),
        Image.Resampling.BICUBIC,
    )
    return np.clip(np.asarray(moved, dtype=np.float32), 0, None)


if __name__ == "__main__":
    main()
