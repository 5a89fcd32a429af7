"""Finished runs of the published protocol beside the published run: validation IoU by epoch, and the seeds' median.

Runs that the result file holds already stay in it, so that runs of hours can be added one by one.

edgeseg train CONFIG.yaml --data LGG_FOLDER -o RUN      (for each seed)
python benchmarks/seed_protocol.py RUN [RUN ...] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from edgeseg.training import config as configuration
from edgeseg.training import published, records, run


def main() -> None:
    """Print the curves and keep them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "seed_protocol.json")
    arguments = parser.parse_args()
    earlier = json.loads(arguments.json.read_text(encoding="utf-8"))["runs"] if arguments.json.is_file() else []
    by_key = {_key(curve): curve for curve in (*earlier, *(_curve(folder) for folder in arguments.runs))}
    curves = list(by_key.values())
    for curve in curves:
        ious = " ".join(f"{iou:.4f}" for iou in curve["iou"])
        passed = next((k for k, iou in enumerate(curve["iou"], 1) if iou > published.VALIDATION_IOU[-1]), None)
        curve["epochs_to_pass"] = passed
        print(f"{curve['encoder']}, batch {curve['batch_size']}, seed {curve['seed']}: {ious} (passes after {passed})")
    print("published: " + " ".join(f"{iou:.4f}" for iou in published.VALIDATION_IOU))
    groups: dict[str, list[float]] = {}
    for curve in curves:
        name = f"{curve['encoder']}, batch {curve['batch_size']}, {len(curve['iou'])} epochs"
        groups.setdefault(name, []).append(curve["iou"][-1])
    medians = {name: {"seeds": len(last), "median": statistics.median(last)} for name, last in groups.items()}
    for name, found in medians.items():
        print(f"{name}: median of {found['seeds']} seeds {found['median']:.4f}")
    result = {"published": list(published.VALIDATION_IOU), "runs": curves, "medians": medians}
    arguments.json.parent.mkdir(exist_ok=True)
    arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def _key(curve: dict[str, Any]) -> tuple[Any, ...]:
    return (*(curve[name] for name in ("encoder", "started_from", "batch_size", "seed")), len(curve["iou"]))


def _curve(folder: Path) -> dict[str, Any]:
    config = configuration.load(folder / run.CONFIG)
    lines = (folder / records.LOG).read_text(encoding="utf-8").splitlines()
    checked = [epoch["validation"] for epoch in map(json.loads, lines) if epoch.get("validation")]
    return {
        "encoder": config.encoder,
        "started_from": run.begun(folder).encoder,
        "batch_size": config.batch_size,
        "seed": run.begun(folder).seed,
        "iou": [validation["iou"] for validation in checked],
        "loss": [validation["loss"] for validation in checked],
    }


if __name__ == "__main__":
    main()
