"""The card of a trained network: what it was trained on, how, and how far it carries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgeseg import __version__
from edgeseg.training import dataset, plan
from edgeseg.training.config import TrainConfig
from edgeseg.training.dataset import SliceSet

_LIMITS = """\
Non-commercial research use only. Not a medical device: nothing that it marks is a diagnosis.

- It marks FLAIR abnormality as drawn in the LGG set (lower-grade glioma before surgery, 1983 to 2004, five US
  institutions). Other diseases, children, operated patients and other body parts were not tried.
- It sees single axial slices; faint abnormality of low contrast is what it misses most.
- Weights derive from the LGG MRI segmentation set (Buda, Saha, Mazurowski, Computers in Biology and Medicine 109, 2019;
  images from The Cancer Imaging Archive, TCGA-LGG) and carry its licence, CC BY-NC-SA 4.0."""

_TABLE_LIMITS = """\
Non-commercial research use only. Not a medical device: nothing that it marks is a diagnosis.

- It marks what the masks of its training table mark; slices of other kinds were not tried.
- It sees single slices."""


def write_card(
    path: Path,
    config: TrainConfig,
    seed: int,
    encoder: str,
    sides: tuple[SliceSet, SliceSet],
    history: list[dict[str, Any]],
    digest: str,
    from_table: bool = False,
) -> None:
    """Write a run's card as Markdown; figures are those of the epoch whose weights were kept."""
    training, validation = sides
    rows = [
        f"| {name} | {len(side.patient_names())} | {len(side)} | {side.abnormal_count()} |"
        for name, side in (("train", training), ("validate", validation))
    ]
    checked = [epoch for epoch in history if epoch["validation"]]
    key = config.metric.lower()
    kept = max(checked, key=lambda epoch: epoch["validation"][key]) if config.keep_best else checked[-1]
    shared = dataset.on_both_sides(training, validation)
    held_back = (
        f"none as a whole: {shared} patients stand on both sides, so the figures flatter"
        if shared
        else ", ".join(validation.patient_names())
    )
    path.write_text(
        f"""# {config.name}

{config.architecture} with the encoder {config.encoder}, from {encoder}; weights rounded to FP16, SHA-256 `{digest}`.

| | patients | slices | with an abnormality |
|---|---|---|---|
{chr(10).join(rows)}

Patients held back for validation: {held_back}.

Training: {len(history)} of {config.epochs} epochs, batch {config.batch_size}, AdamW, learning rate
{config.learning_rate:g}, {config.schedule} schedule, seed {seed}, augmentation {plan.augmentation(config)},
normalisation {config.normalisation}, intensities "{config.selection.intensity}", edgeseg {__version__}. All settings:
`config.yaml` of the run.

## Figures of epoch {kept["number"]}, whose weights these are, before rounding to FP16

{_figures(kept["validation"])}

## Limits

{_TABLE_LIMITS if from_table else _LIMITS}
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
