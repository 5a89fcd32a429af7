"""Every fold's weights on the patients that they have not seen, with and without sequences, pooled.

    python benchmarks/cross_validation.py RUNS LGG_FOLDER [--json FILE]

RUNS is the folder of a run with several folds (fold-0, fold-1 ... inside). Folds that are measured already, by their
weights' hash, are not measured again: results are appended, and the pooled figures are those of the folds so far.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from edgeseg import evaluate, figures
from edgeseg.bundle import file_sha256
from edgeseg.training import config as configuration
from edgeseg.training import dataset, run
from edgeseg.training.dataset import Source

REPORTED = ("dice_mean", "dice_median", "dice_worst", "iou_abnormal", "surface_distance_px", "false_positive_share")


def main() -> None:
    """Measure the folds that are new, print a table and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("runs", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "cross_validation.json")
    arguments = parser.parse_args()
    kept: dict[str, Any] = json.loads(arguments.json.read_text()) if arguments.json.is_file() else {"folds": {}}
    source: Source | None = None
    for folder in sorted(path.parent for path in arguments.runs.glob(f"fold-*/{run.WEIGHTS}")):
        digest = file_sha256(folder / run.WEIGHTS)
        if digest in kept["folds"]:
            continue
        config = configuration.load(folder / run.CONFIG)
        source = source or dataset.read(config, arguments.data)
        _, validation = dataset.split(source, config, run.begun(folder).seed)
        found = _measure(folder, arguments.data, validation.patient_names())
        kept["folds"][digest] = {"fold": folder.name, "patients": len(validation.patient_names()), "figures": found}
        _write(arguments.json, kept)
    kept["pooled"] = _pooled(kept["folds"])
    _write(arguments.json, kept)


def _measure(folder: Path, data: Path, patients: tuple[str, ...]) -> dict[str, Any]:
    with evaluate.open_subject(str(folder)) as subject:
        found = {s: evaluate.evaluate(subject, data, patients, sequences=s).to_json() for s in evaluate.SEQUENCES}
    means = ", ".join(f"{name} {part['dice_mean']:.4f}" for name, part in found.items())
    print(f"{folder.name}: {len(patients)} patients, mean Dice {means}", flush=True)
    return found


def _pooled(folds: dict[str, Any]) -> dict[str, Any]:
    """The figures over all patients of all folds, with intervals, for each choice of sequences."""
    pooled = {}
    for sequences in evaluate.SEQUENCES:
        parts = [figures.from_json(fold["figures"][sequences]) for fold in folds.values()]
        whole = figures.combine(parts, f"{len(parts)} folds")
        pooled[sequences] = {name: getattr(whole, name) for name in REPORTED}
        pooled[sequences]["patients"] = len(whole.patients)
        pooled[sequences]["intervals"] = whole.intervals
        print(f"{sequences}, {len(parts)} folds, {len(whole.patients)} patients")
        for what, value in figures.summary_rows(whole):
            print(f"  {what:50} {value}")
    return pooled


def _write(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
