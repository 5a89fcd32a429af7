"""How well rules of intensity make the training set's patients alike, and the medians that `normalise` aims at.

    python benchmarks/intensity_rule.py LGG_FOLDER [--json FILE]

For every patient, FLAIR is divided by the rule's own measure of it. A rule is the better, the less the brain around the
abnormality (and the abnormality itself) differs from patient to patient: the figure is the standard deviation of the
logarithm of its median, over patients.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseg.readers import lgg
from edgeseg.types import CHANNELS, BoolArray

Values = npt.NDArray[np.float64]


def _tissue(values: Values) -> Values:
    return values[values > 0.1 * np.percentile(values, 99.5)]


RULES: dict[str, Callable[[Values], float]] = {
    "as stored": lambda _: 1.0,
    "largest value": lambda v: float(v.max()),
    "99.5th percentile": lambda v: float(np.percentile(v, 99.5)),
    "99th percentile of tissue": lambda v: float(np.percentile(_tissue(v), 99)),
    "90th percentile of tissue": lambda v: float(np.percentile(_tissue(v), 90)),
    "75th percentile of tissue": lambda v: float(np.percentile(_tissue(v), 75)),
    "median of tissue (the rule)": lambda v: float(np.median(_tissue(v))),
}


def measure(root: Path) -> dict[str, Any]:
    """Spread by rule over the patients with an abnormality, and the medians of each channel's tissue."""
    spread: dict[str, list[tuple[float, float]]] = {name: [] for name in RULES}
    medians: dict[str, list[float]] = {channel: [] for channel in CHANNELS}
    for patient in lgg.index(root):
        study, masks = lgg.read_study(patient), lgg.read_masks(patient)
        for channel, volume in zip(CHANNELS, (study.pre, study.flair, study.post), strict=True):
            if volume is not None:
                medians[channel].append(float(np.median(_tissue(_above_low(volume.voxels)))))
        if masks.sum() < 200:
            continue
        flair = _above_low(study.flair.voxels)
        abnormal, brain = float(np.median(flair[masks])), float(np.median(flair[_around(masks)]))
        for name, rule in RULES.items():
            spread[name].append((brain / rule(flair), abnormal / rule(flair)))
    return {
        "patients": len(spread["as stored"]),
        "spread": {name: np.log(np.array(pairs)).std(axis=0).round(3).tolist() for name, pairs in spread.items()},
        "tissue_median": {name: round(float(np.median(values)), 1) for name, values in medians.items()},
    }


def _above_low(voxels: npt.NDArray[np.float32]) -> Values:
    return voxels.astype(np.float64) - float(np.percentile(voxels, 2))


def _around(masks: BoolArray) -> BoolArray:
    """A ring in the slice around the abnormality, 4 to 15 pixels away."""
    import SimpleITK

    image = SimpleITK.GetImageFromArray(masks.astype(np.uint8))
    wide, near = (SimpleITK.BinaryDilate(image, [radius, radius, 0]) for radius in (15, 4))
    ring: BoolArray = SimpleITK.GetArrayFromImage(wide - near) > 0
    return ring


def main() -> None:
    """Print the table and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("data", type=Path)
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "intensity_rule.json")
    arguments = parser.parse_args()
    figures = measure(arguments.data)
    print(f"{figures['patients']} patients; spread of brain, of abnormality (standard deviation of the logarithm)")
    for name, (brain, abnormal) in figures["spread"].items():
        print(f"  {name:30} {brain:.3f}  {abnormal:.3f}")
    print("median of tissue:", figures["tissue_median"])
    arguments.json.parent.mkdir(exist_ok=True)
    arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
