"""The script that a physicist writes in an afternoon: pydicom, PyTorch eager one slice after the other, highdicom.

    python benchmarks/plain.py ARCHIVE OUTPUT --network lgg-unet-resnet34 [--threads 2]

A peer for `benchmarks/peers.py`. Weights, rule of intensities and threshold are edgeseg's; everything else is what the
packages' own tutorials do. It is told which folder is which sequence, aligns nothing, and takes the slices as axial.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from edgeseg import bundle, model, preprocess
from edgeseg.types import CHANNELS, BoolArray, ByteArray, FloatArray

THRESHOLD = 0.5
SIZE_PX = 256


def main() -> None:
    """Segment every study of an archive, or one; a line of JSON for each."""
    import torch

    arguments = parse(__doc__)
    torch.set_num_threads(arguments.threads)
    network = model.runnable(*model.load(bundle.shipped_weights(arguments.network)))
    for study in studies(arguments.archive):
        volumes, headers = read(study)
        slices = np.stack([preprocess.to_bytes(preprocess.normalise(volumes[name], name)) for name in CHANNELS], axis=1)
        began = time.perf_counter()
        probability = run(network, slices)
        network_s = time.perf_counter() - began
        mask = without_islands(probability >= THRESHOLD)
        folder = arguments.output / study.name
        folder.mkdir(parents=True)
        write_seg(mask, headers, folder / "segmentation.dcm")
        write_nifti(mask, headers, folder / "mask.nii.gz")
        finish(study.name, mask, headers, network_s, folder)


def parse(description: str | None) -> argparse.Namespace:
    """What both peers are given."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0] if description else None)
    parser.add_argument("archive", type=Path, help="a study's folder, or a folder of studies")
    parser.add_argument("output", type=Path)
    parser.add_argument("--network", default=bundle.DEFAULT_NETWORK)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def studies(archive: Path) -> Iterator[Path]:
    """Folders of studies: those that hold a folder for FLAIR."""
    yield from sorted(folder for folder in (archive, *archive.iterdir()) if (folder / "flair").is_dir())


def read(study: Path) -> tuple[dict[str, FloatArray], list[Any]]:
    """Volumes (slice, row, column) of the sequences, and the headers of the FLAIR series' slices."""
    import pydicom

    volumes: dict[str, FloatArray] = {}
    headers: dict[str, list[Any]] = {}
    for name in CHANNELS:
        found = [pydicom.dcmread(path) for path in (study / name).glob("*.dcm")]
        found.sort(key=lambda header: float(header.ImagePositionPatient[2]))
        slope, offset = float(found[0].get("RescaleSlope", 1)), float(found[0].get("RescaleIntercept", 0))
        volumes[name] = np.stack([header.pixel_array for header in found]).astype(np.float32) * slope + offset
        headers[name] = found
    return volumes, headers["flair"]


def run(network: Any, slices: ByteArray) -> FloatArray:
    """Probability, float32 (slice, row, column), of uint8 (slice, channel, row, column)."""
    import torch
    from torch.nn import functional

    rows, columns = slices.shape[2:]
    found = []
    with torch.inference_mode():
        for one in torch.from_numpy(slices):
            given = one[None]
            if (rows, columns) != (SIZE_PX, SIZE_PX):
                given = functional.interpolate(given.float(), (SIZE_PX, SIZE_PX), mode="bilinear")
            logits = network(given)
            if (rows, columns) != (SIZE_PX, SIZE_PX):
                logits = functional.interpolate(logits, (rows, columns), mode="bilinear")
            found.append(torch.sigmoid(logits[0, 0]).numpy())
    return np.stack(found)


def without_islands(mask: BoolArray) -> BoolArray:
    """The mask without parts that have less than a share of the largest one's voxels, as edgeseg drops them."""
    from scipy import ndimage

    labels, _ = ndimage.label(mask, np.ones((3, 3, 3)))
    voxels = np.bincount(labels.ravel())
    voxels[0] = 0
    return np.asarray((voxels >= preprocess.SMALLEST_ISLAND * voxels.max())[labels] & mask, dtype=np.bool_)


def write_seg(mask: BoolArray, headers: list[Any], path: Path) -> None:
    """Write a DICOM SEG by highdicom."""
    import highdicom
    from highdicom.seg import Segmentation, SegmentDescription
    from pydicom.sr.codedict import codes

    algorithm = highdicom.AlgorithmIdentificationSequence(
        name="peer", version="1", family=codes.DCM.ArtificialIntelligence
    )
    segment = SegmentDescription(
        segment_number=1,
        segment_label="FLAIR abnormality",
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.MorphologicallyAbnormalStructure,
        algorithm_type="AUTOMATIC",
        algorithm_identification=algorithm,
    )
    Segmentation(
        source_images=headers,
        pixel_array=mask.astype(np.uint8),
        segmentation_type="BINARY",
        segment_descriptions=[segment],
        series_instance_uid=highdicom.UID(),
        series_number=9003,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer="peer",
        manufacturer_model_name="peer",
        software_versions="1",
        device_serial_number="1",
        omit_empty_frames=False,
    ).save_as(path)


def write_nifti(mask: BoolArray, headers: list[Any], path: Path) -> None:
    """Write NIfTI by nibabel: axes (column, row, slice), patient coordinates RAS."""
    import nibabel

    image: Any = nibabel.Nifti1Image(mask.transpose(2, 1, 0).astype(np.uint8), _affine(headers))
    nibabel.save(image, path)


def _affine(headers: list[Any]) -> Any:
    """Index (column, row, slice) to mm, RAS."""
    first, last = (np.asarray(headers[k].ImagePositionPatient, dtype=np.float64) for k in (0, -1))
    directions = np.asarray(headers[0].ImageOrientationPatient, dtype=np.float64).reshape(2, 3)
    down_mm, across_mm = (float(value) for value in headers[0].PixelSpacing)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = directions[0] * across_mm, directions[1] * down_mm
    affine[:3, 2], affine[:3, 3] = (last - first) / (len(headers) - 1), first
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def finish(name: str, mask: BoolArray, headers: list[Any], network_s: float, folder: Path) -> None:
    """Write a small report, and say that the study is done."""
    down_mm, across_mm = (float(value) for value in headers[0].PixelSpacing)
    places = [float(headers[k].ImagePositionPatient[2]) for k in (0, -1)]
    apart_mm = (places[1] - places[0]) / (len(headers) - 1)
    report = {
        "study": name,
        "marked_slices": int(mask.any(axis=(1, 2)).sum()),
        "volume_ml": float(mask.sum()) * down_mm * across_mm * apart_mm / 1000,
        "network_s": network_s,
    }
    (folder / "report.json").write_text(json.dumps(report), encoding="utf-8")
    print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main()
