"""The example patient in every form that edgeseg reads, through the default engine: are the masks the same?

python benchmarks/examples.py [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import forms
import numpy as np

from edgeseg import metrics, readers, segment
from edgeseg.readers import lgg
from edgeseg.types import BoolArray

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
STUDY = EXAMPLES / "dicom" / "example-study"
SERIES = ("pre", "flair", "post")


def main() -> None:
    """Print the figures and keep them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "examples.json")
    arguments = parser.parse_args()
    with segment.open_engine() as opened, tempfile.TemporaryDirectory() as folder:
        tiff = mask(EXAMPLES / "tiff", opened, Path(folder))
        masks = {name: mask(make(Path(folder) / name), opened, Path(folder) / "out") for name, make in made().items()}
    (patient,) = lgg.index(EXAMPLES / "tiff")
    figures = {
        "iou_dicom_tiff": metrics.iou(masks["DICOM"], tiff),
        "differing_voxels": int(np.count_nonzero(masks["DICOM"] != tiff)),
        "dice_drawn": metrics.dice(tiff, lgg.read_masks(patient)),
        "iou_with_tiff": {name: metrics.iou(found, tiff) for name, found in masks.items()},
    }
    print(json.dumps(figures, indent=2))
    arguments.json.parent.mkdir(exist_ok=True)
    arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def made() -> dict[str, Callable[[Path], Path]]:
    """How to write the example's DICOM study into a folder, by the form's name; those that have an encoder here."""
    compressed = {
        f"DICOM, {form}": lambda folder, form=form: forms.convert_folder(STUDY, folder, form)
        for form in forms.ALL
        if forms.missing_encoder(form) is None
    }
    return {"DICOM": lambda _: STUDY, "Enhanced DICOM": _enhanced, "NIfTI": _nifti, "zip": _zip, **compressed}


def mask(study: Path, opened: segment.OpenEngine, output: Path) -> BoolArray:
    """Mask of the one study that a path holds, (slice, row, column), from the feet to the head."""
    (files,) = readers.find_studies(study)
    return segment.segment(files, opened, output, segment.Options(("report",))).segmentation.mask


def _enhanced(folder: Path) -> Path:
    for series in SERIES:
        forms.enhanced(sorted((STUDY / series).iterdir()), folder / series)
    return folder


def _nifti(folder: Path) -> Path:
    for series, name in zip(SERIES, ("t1", "flair", "t1ce"), strict=True):
        plain = forms.convert_folder(STUDY / series, folder / ".plain" / series, "explicit little endian")
        forms.nifti(forms.in_place(plain), folder / f"head_{name}.nii.gz")
    return folder


def _zip(folder: Path) -> Path:
    import shutil

    return Path(shutil.make_archive(str(folder), "zip", STUDY))


if __name__ == "__main__":
    main()
