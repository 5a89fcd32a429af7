"""The example patient as TIFF and as DICOM through the default engine: are the masks the same?

python benchmarks/examples.py [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np

from edgeseg import metrics, readers, segment
from edgeseg.readers import lgg

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def main() -> None:
    """Print the figures and keep them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "examples.json")
    arguments = parser.parse_args()
    masks = {}
    with segment.open_engine() as opened, tempfile.TemporaryDirectory() as folder:
        for kind in ("tiff", "dicom"):
            (study,) = readers.find_studies(EXAMPLES / kind)
            masks[kind] = segment.segment(study, opened, Path(folder), segment.Options(("report",))).segmentation.mask
    (patient,) = lgg.index(EXAMPLES / "tiff")
    figures = {
        "iou_dicom_tiff": metrics.iou(masks["dicom"], masks["tiff"]),
        "differing_voxels": int(np.count_nonzero(masks["dicom"] != masks["tiff"])),
        "dice_drawn": metrics.dice(masks["tiff"], lgg.read_masks(patient)),
    }
    print(json.dumps(figures, indent=2))
    arguments.json.parent.mkdir(exist_ok=True)
    arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
