"""The same by MONAI: its transforms for DICOM, its inferer over slices, its writer; the SEG by highdicom.

    python benchmarks/with_monai.py ARCHIVE OUTPUT --network lgg-unet-resnet34 [--threads 2]

A peer for `benchmarks/peers.py`; needs ``pip install monai``. Weights, rule of intensities and threshold are
edgeseg's. Four slices go through the network at once, as in edgeseg.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from plain import SIZE_PX, THRESHOLD, finish, parse, studies, without_islands, write_seg

from edgeseg import bundle, model, preprocess
from edgeseg.types import CHANNELS

TOGETHER = 4


def main() -> None:
    """Segment every study of an archive, or one; a line of JSON for each."""
    import torch
    from monai.data import NibabelWriter
    from monai.inferers import SliceInferer
    from monai.transforms import Activations, AsDiscrete, Compose

    arguments = parse(__doc__)
    torch.set_num_threads(arguments.threads)
    network = model.runnable(*model.load(bundle.shipped_weights(arguments.network)))
    load, after = _transforms(), Compose([Activations(sigmoid=True), AsDiscrete(threshold=THRESHOLD)])
    inferer = SliceInferer(roi_size=(SIZE_PX, SIZE_PX), spatial_dim=2, sw_batch_size=TOGETHER)
    for study in studies(arguments.archive):
        headers = _headers(study / "flair")
        given = load({name: str(study / name) for name in CHANNELS})
        began = time.perf_counter()
        with torch.inference_mode():
            logits = inferer(given["image"].as_tensor()[None], network)[0].transpose(1, 2)
        network_s = time.perf_counter() - began
        found = after(_resized(logits, given["grid"]))[0].numpy().astype(np.bool_)  # (column, row, slice)
        mask = without_islands(found)
        folder = arguments.output / study.name
        folder.mkdir(parents=True)
        in_slices = np.ascontiguousarray(mask.transpose(2, 1, 0))
        write_seg(in_slices, headers, folder / "segmentation.dcm")
        writer = NibabelWriter(output_dtype=np.uint8)
        writer.set_data_array(mask.astype(np.uint8), channel_dim=None)
        writer.set_metadata({"affine": given["affine"]}, resample=False)
        writer.write(folder / "mask.nii.gz")
        finish(study.name, in_slices, headers, network_s, folder)


def _transforms() -> Any:
    """Folders of three series to one image (channel, row, column, slice), 0..255, and the grid that it came from.

    MONAI's own order is (column, row, slice): the network was trained on slices the other way round.
    """
    from monai.transforms import (
        Compose,
        ConcatItemsd,
        EnsureChannelFirstd,
        Lambda,
        Lambdad,
        LoadImaged,
        Resized,
        Transposed,
    )

    def rule(name: Any) -> Any:
        def apply(image: Any) -> Any:
            values = preprocess.normalise(np.asarray(image, dtype=np.float32), name)
            return type(image)(preprocess.to_bytes(values).astype(np.float32), meta=image.meta)

        return Lambdad(name, apply, track_meta=True)

    def with_grid(item: Any) -> Any:
        return {**item, "grid": tuple(item["flair"].shape[1:]), "affine": item["flair"].affine}

    return Compose(
        [
            LoadImaged(CHANNELS, reader="PydicomReader"),
            EnsureChannelFirstd(CHANNELS),
            *(rule(name) for name in CHANNELS),
            Lambda(with_grid),
            Resized(CHANNELS, spatial_size=(SIZE_PX, SIZE_PX, -1), mode="trilinear"),
            ConcatItemsd(CHANNELS, name="image"),
            Transposed("image", (0, 2, 1, 3)),
        ]
    )


def _resized(logits: Any, grid: tuple[int, ...]) -> Any:
    """Logits (1, column, row, slice) on the FLAIR grid."""
    from monai.transforms import Resize

    return Resize(grid, mode="trilinear")(logits)


def _headers(folder: Path) -> list[Any]:
    """The FLAIR series' headers in slice order, which a SEG refers to."""
    import pydicom

    found = [pydicom.dcmread(path) for path in folder.glob("*.dcm")]
    return sorted(found, key=lambda header: float(header.ImagePositionPatient[2]))


if __name__ == "__main__":
    main()
