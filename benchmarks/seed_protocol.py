"""Finished runs of the published protocol beside the published run: validation IoU by epoch, and the seeds' median.

Runs that the result file holds already stay in it, so that runs of hours can be added one by one. With ``--data``, the
finished networks are validated once more with the mean of a slice and its mirror image (the configuration's field
``test_time_augmentations``), which training has no part in.

edgeseg train CONFIG.yaml --data LGG_FOLDER -o RUN      (for each seed)
python benchmarks/seed_protocol.py RUN [RUN ...] [--data LGG_FOLDER] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgeseg import model
from edgeseg.training import batches, dataset, distributed, published, records, run, validation
from edgeseg.training import config as configuration


def main() -> None:
    """Print the curves and keep them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--data", type=Path, help="the LGG folder, for the mean with the mirror image")
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "seed_protocol.json")
    arguments = parser.parse_args()
    earlier = json.loads(arguments.json.read_text(encoding="utf-8"))["runs"] if arguments.json.is_file() else []
    by_key = {
        _key(curve): curve for curve in (*earlier, *(_curve(folder, arguments.data) for folder in arguments.runs))
    }
    curves = list(by_key.values())
    for curve in curves:
        ious = " ".join(f"{iou:.4f}" for iou in curve["iou"])
        passed = next((k for k, iou in enumerate(curve["iou"], 1) if iou > published.VALIDATION_IOU[-1]), None)
        curve["epochs_to_pass"] = passed
        mirrored = f", with the mirror image {curve['mirrored_iou']:.4f}" if curve.get("mirrored_iou") else ""
        print(f"{_group(curve)}, seed {curve['seed']}: {ious} (passes after {passed}){mirrored}")
    print("published: " + " ".join(f"{iou:.4f}" for iou in published.VALIDATION_IOU))
    groups: dict[str, list[float]] = {}
    for curve in curves:
        groups.setdefault(_group(curve), []).append(curve["iou"][-1])
        if curve.get("mirrored_iou"):
            groups.setdefault(f"{_group(curve)}, with the mirror image", []).append(curve["mirrored_iou"])
    medians = {name: {"seeds": len(last), "median": statistics.median(last)} for name, last in groups.items()}
    for name, found in medians.items():
        print(f"{name}: median of {found['seeds']} seeds {found['median']:.4f}")
    result = {"published": list(published.VALIDATION_IOU), "runs": curves, "medians": medians}
    arguments.json.parent.mkdir(exist_ok=True)
    arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def _key(curve: dict[str, Any]) -> tuple[Any, ...]:
    named = (curve[name] for name in ("encoder", "started_from", "batch_size", "seed"))
    return (*named, curve.get("intensity", "stored"), len(curve["iou"]))


def _group(curve: dict[str, Any]) -> str:
    """What runs that differ in the seed alone have in common."""
    intensity = curve.get("intensity", "stored")
    return f"{curve['encoder']}, batch {curve['batch_size']}, intensities {intensity}, {len(curve['iou'])} epochs"


def _mirrored(folder: Path, data: Path) -> float:
    """IoU on the run's own validation slices, by the mean of the logits of a slice and of its mirror image."""
    config = replace(configuration.load(folder / run.CONFIG), flips=("Horizontal flip",))
    _, held_back = dataset.split(dataset.read(config, data), config, run.begun(folder).seed)
    network, _ = model.load(folder / run.WEIGHTS)
    with distributed.joined((), config.batch_size) as processes:
        return validation.validate(network, held_back, batches.preparation(config, processes)).iou


def _curve(folder: Path, data: Path | None) -> dict[str, Any]:
    config = configuration.load(folder / run.CONFIG)
    lines = (folder / records.LOG).read_text(encoding="utf-8").splitlines()
    checked = [epoch["validation"] for epoch in map(json.loads, lines) if epoch.get("validation")]
    return {
        "encoder": config.encoder,
        "started_from": run.begun(folder).encoder,
        "batch_size": config.batch_size,
        "intensity": config.selection.intensity,
        "seed": run.begun(folder).seed,
        "iou": [found["iou"] for found in checked],
        "loss": [found["loss"] for found in checked],
        **({"mirrored_iou": _mirrored(folder, data)} if data else {}),
    }


if __name__ == "__main__":
    main()
