"""Choose the calibration and the parity slices from the LGG set, and write them with their index.

    python calibration/make.py LGG_FOLDER
    python calibration/make.py --masks

The second line records the PyTorch model's masks of the parity slices, for machines without PyTorch, with every network
below ``engines/``; run it after the first, and when weights change.

The recipe. Parity slices come from the 15 patients of ``validation-patients.txt``, who train nothing that ships: 150
with an abnormality, patient by patient in turn until a patient has no more, and 5 without from each. Calibration slices
come from 30 of the others, every second to third name of the sorted list: 76 with and 52 without, in turn too. A
patient's slices are spread evenly over those that it has. Images are stored losslessly, as they are in the set, beside
the linear rule that makes network input of them: it needs the whole volume, which is not here.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from edgeseg import bundle, model, parity, preprocess
from edgeseg.backends import pytorch
from edgeseg.bundle import file_sha256
from edgeseg.readers import lgg, recorded, slices
from edgeseg.readers.lgg import Patient
from edgeseg.types import CHANNELS, BoolArray, Preprocessing, Study

HERE = Path(__file__).resolve().parent
PARITY, CALIBRATION = (150, 75), (76, 52)
"""Slices with and without an abnormality."""
CALIBRATION_PATIENTS = 30
NOISY = ("TCGA_CS_6186_20000601", "TCGA_FG_5964_20010511")
"""Their slices take half as much room again; the next patient stands in, so that all stay under 20 MB."""


def main() -> None:
    """Write ``slices/`` and ``index.json``, or with ``--masks`` the recorded masks alone."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("data", type=Path, nargs="?", help="the LGG set's folder")
    what.add_argument("--masks", action="store_true", help="record the PyTorch model's masks of the parity slices")
    arguments = parser.parse_args()
    if arguments.masks:
        record_masks()
    else:
        choose_slices(arguments.data)


def record_masks() -> None:
    """Write ``masks/``: the PyTorch model's masks of the parity slices, for each network whose weights are shipped."""
    found = {}
    for weights in sorted(bundle.shipped_folder().glob("*/weights.safetensors")):
        network, facts = model.load(weights)
        preprocessing = Preprocessing("stored" if facts.get("intensity", "stored") == "stored" else "volume")
        given, threshold = slices.read("parity", preprocessing), float(facts.get("threshold", "0.5"))
        with pytorch.PyTorchEngine(model.runnable(network, facts)) as engine:
            masks = engine.predict_logits(given.slices)[:, 0] >= parity.cut(threshold)
            runtime = f"{engine.runtime.split('+')[0]} {engine.inference_precision}"
        key = recorded.Key(file_sha256(weights), threshold, preprocessing, given.digest())
        found[weights.parent.name] = key, recorded.Recorded(masks, runtime)
    recorded.write(HERE, found)
    for path in sorted((HERE / recorded.FOLDER).iterdir()):
        print(f"{path.name}: {path.stat().st_size:,} bytes")


def choose_slices(data: Path) -> None:
    """Write ``slices/`` and ``index.json``; recorded masks are to be made again after it."""
    patients = lgg.index(data)
    held_back = (HERE / "validation-patients.txt").read_text(encoding="utf-8").split()
    others = [patient for patient in patients if patient.name not in held_back]
    spread = np.linspace(0, len(others) - 1, CALIBRATION_PATIENTS).round().astype(int)
    chosen = [others[k + 1] if others[k].name in NOISY else others[k] for k in spread]
    (HERE / slices.SLICES).mkdir(exist_ok=True)
    rows = [
        *_write("calibration", chosen, CALIBRATION),
        *_write("parity", [patient for patient in patients if patient.name in held_back], PARITY),
    ]
    named = {row["name"] for row in rows}
    for path in (HERE / slices.SLICES).iterdir():
        if path.stem.removesuffix("_mask") not in named:
            path.unlink()
    content = {"format": slices.FORMAT, "licence": "CC-BY-NC-SA-4.0", "slices": rows}
    (HERE / slices.INDEX).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    total = sum(path.stat().st_size for path in HERE.rglob("*") if path.is_file())
    print(f"{len(rows)} slices, {total / 1e6:.1f} MB")


def _write(use: str, patients: list[Patient], counts: tuple[int, int]) -> list[dict[str, Any]]:
    drawn = [lgg.read_masks(patient).any(axis=(1, 2)) for patient in patients]
    abnormal = _shares([int(found.sum()) for found in drawn], counts[0])
    empty = _shares([int((~found).sum()) for found in drawn], counts[1])
    rows = []
    for patient, found, *share in zip(patients, drawn, abnormal, empty, strict=True):
        chosen = sorted([*_spread(np.flatnonzero(found), share[0]), *_spread(np.flatnonzero(~found), share[1])])
        rules = _rules(lgg.read_study(patient))
        masks = lgg.read_masks(patient)
        rows += [_slice(use, patient, k, masks[k], rules) for k in chosen]
    return rows


def _rules(study: Study) -> list[tuple[float, float] | None]:
    """Each channel's (low, gain), None for a sequence that is missing."""
    volumes = (study.pre, study.flair, study.post)
    return [v and preprocess.intensity_rule(v.voxels, name) for name, v in zip(CHANNELS, volumes, strict=True)]


def _shares(available: list[int], wanted: int) -> list[int]:
    """How many of each, given in turn until ``wanted`` are given."""
    given = [0] * len(available)
    while sum(given) < wanted:
        for k, most in enumerate(available):
            if given[k] < most and sum(given) < wanted:
                given[k] += 1
    return given


def _spread(numbers: Any, count: int) -> list[int]:
    """``count`` of the numbers, the middles of equal parts of them."""
    return [int(numbers[int((k + 0.5) * len(numbers) / count)]) for k in range(count)]


def _slice(
    use: str, patient: Patient, number: int, drawn: BoolArray, rules: list[tuple[float, float] | None]
) -> dict[str, Any]:
    name = patient.images[number].stem
    image, mask = HERE / slices.SLICES / f"{name}.webp", HERE / slices.SLICES / f"{name}_mask.png"
    if not image.is_file():  # encoding takes a second
        with Image.open(patient.images[number]) as stored:
            stored.convert("RGB").save(image, lossless=True, quality=100, method=6)
    if use == "parity" and drawn.any():
        Image.fromarray(drawn).save(mask, optimize=True)
    return {
        "name": name,
        "patient": patient.name,
        "use": use,
        "abnormal_px": int(drawn.sum()),
        "image_sha256": file_sha256(image),
        "mask_sha256": file_sha256(mask) if mask.is_file() else None,
        "rules": rules,
    }


if __name__ == "__main__":
    main()
