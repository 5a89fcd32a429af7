"""DICOM studies to measure with: the example's head at any number of slices, three uncompressed series, aligned.

    python benchmarks/studies.py FOLDER --studies 40 [--slices 26]

The slices between the example's are the mean of their neighbours. UIDs and the scale of the values hang on the study's
number, so that no two studies have the same bytes.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from forms import in_place

if TYPE_CHECKING:
    from pydicom import Dataset

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "dicom" / "example-study"
SERIES = ("pre", "flair", "post")
SLICES = 26


def main() -> None:
    """Write the studies."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--studies", type=int, default=1)
    parser.add_argument("--slices", type=int, default=SLICES)
    arguments = parser.parse_args()
    write(arguments.folder, arguments.studies, arguments.slices)


def write(folder: Path, studies: int, slices: int = SLICES, first: int = 0) -> None:
    """Write studies to ``folder/00000``, ``folder/00001`` and so on, those before ``first`` apart."""
    series = {name: _resliced(EXAMPLE / name, slices) for name in SERIES}
    for number in range(first, studies):
        for name, datasets in series.items():
            place = folder / f"{number:05d}" / name
            place.mkdir(parents=True)
            for index, original in enumerate(datasets):
                numbered(original, number).save_as(place / f"{index:03d}.dcm", enforce_file_format=True)


def numbered(original: Dataset, number: int) -> Dataset:
    """A slice as one of another study: UIDs of its own and, where it is not compressed, values of another scale."""
    from pydicom.uid import generate_uid

    dataset = copy.copy(original)
    dataset.file_meta = copy.copy(original.file_meta)
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID"):
        setattr(dataset, keyword, generate_uid(entropy_srcs=[dataset[keyword].value, str(number)]))
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    if not dataset.file_meta.TransferSyntaxUID.is_compressed:
        stored = np.frombuffer(dataset.PixelData, dtype="<u2")
        dataset.PixelData = np.rint(stored * (1 + number % 50 / 500)).astype("<u2").tobytes()
    return dataset


def _resliced(folder: Path, slices: int) -> list[Dataset]:
    """A series of the example's head at another number of slices, evenly spaced, without compression."""
    import pydicom
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    datasets = [pydicom.dcmread(path) for path in in_place(folder)]
    pixels = np.stack([dataset.pixel_array for dataset in datasets]).astype(np.float64)
    places = np.asarray([dataset.ImagePositionPatient for dataset in datasets], dtype=np.float64)
    extent_mm = float(np.linalg.norm(places[-1] - places[0]))
    found = []
    for index, at in enumerate(np.linspace(0, len(datasets) - 1, slices)):
        low = min(int(at), len(datasets) - 2)
        part = at - low
        dataset = copy.deepcopy(datasets[low])
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.PixelData = np.rint(pixels[low] * (1 - part) + pixels[low + 1] * part).astype("<u2").tobytes()
        dataset["PixelData"].VR = "OW"
        dataset["PixelData"].is_undefined_length = False
        position = places[low] * (1 - part) + places[low + 1] * part
        dataset.ImagePositionPatient = [round(float(value), 4) for value in position]
        dataset.SliceLocation = round(float(position[2]), 4)
        dataset.SliceThickness = dataset.SpacingBetweenSlices = round(extent_mm / (slices - 1), 4)
        dataset.InstanceNumber = index + 1
        dataset.SOPInstanceUID = generate_uid(entropy_srcs=[dataset.SeriesInstanceUID, str(index)])
        found.append(dataset)
    return found


if __name__ == "__main__":
    main()
