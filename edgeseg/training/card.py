"""The card of a trained network: what it was trained on, how, and how far it carries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgeseg import __version__
from edgeseg.training.config import TrainConfig
from edgeseg.training.dataset import SliceSet

_LIMITS = """\
Non-commercial research use only. Not a medical device: nothing that it marks is a diagnosis.

- It marks FLAIR abnormality as drawn in the LGG set (lower-grade glioma before surgery, 1983 to 2004, five US
  institutions). Other diseases, children, operated patients and other body parts were not tried.
- It sees single axial slices; faint abnormality of low contrast is what it misses most.
- Weights derive from the LGG MRI segmentation set (Buda, Saha, Mazurowski, Computers in Biology and Medicine 109, 2019;
  images from The Cancer Imaging Archive, TCGA-LGG) and carry its licence, CC BY-NC-SA 4.0."""


def write_card(
    path: Path,
    config: TrainConfig,
    seed: int,
    encoder: str,
    training: SliceSet,
    validation: SliceSet,
    history: list[dict[str, Any]],
    digest: str,
) -> None:
    """Write a run's card as Markdown; figures are those of the epoch whose weights were kept."""
    sides = [("train", training), ("validate", validation)]
    rows = [f"| {side} | {s.patient_count()} | {len(s)} | {int(s.masks.any(axis=(1, 2)).sum())} |" for side, s in sides]
    checked = [epoch for epoch in history if epoch["validation"]]
    key = config.metric.lower()
    kept = max(checked, key=lambda epoch: epoch["validation"][key]) if config.keep_best else checked[-1]
    names = sorted({validation.names[number] for number in validation.patients.tolist()})
    whole = not set(training.patients.tolist()) & set(validation.patients.tolist())
    held_back = ", ".join(names) if whole else "none as a whole: the split is by slice"
    path.write_text(
        f"""# {config.name}

{config.architecture} with the encoder {config.encoder}, from {encoder}; weights rounded to FP16, SHA-256 `{digest}`.

| | patients | slices | with an abnormality |
|---|---|---|---|
{chr(10).join(rows)}

Patients held back for validation: {held_back}.

Training: {len(history)} of {config.epochs} epochs, batch {config.batch_size}, AdamW, learning rate
{config.learning_rate:g}, {config.schedule} schedule, seed {seed}, intensities "{config.intensity}",
edgeseg {__version__}. All settings: `config.yaml` of the run.

## Figures of epoch {kept["number"]}, whose weights these are, before rounding to FP16

{_figures(kept["validation"])}

## Limits

{_LIMITS}
""",
        encoding="utf-8",
    )


def _figures(validation: dict[str, Any]) -> str:
    false = validation["false_positive_share"]
    return "\n".join(
        [
            "| what | value |",
            "|---|---|",
            f"| loss (BCE + Dice) | {validation['loss']:.5f} |",
            f"| IoU, mean over slices with an abnormality | {validation['iou']:.5f} |",
            f"| Dice, mean over slices with an abnormality | {validation['dice']:.5f} |",
            f"| Dice, mean over patients, whole volumes | {validation['dice_patient']:.5f} |",
            f"| slices without abnormality with a false positive | {'-' if false is None else f'{false:.2%}'} |",
        ]
    )
