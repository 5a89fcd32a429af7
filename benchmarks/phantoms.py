"""Phantoms of known place and volume, from files through reader and network input and back to a mask.

    python benchmarks/phantoms.py [--coarse] [--json FILE]

A head holds one bright, tilted, asymmetric ellipsoid away from its middle. It is written as series of many planes,
grids and orders, each voxel holding its share of the ellipsoid; a threshold on the network's FLAIR channel stands in
for the network. The true mask is that of the voxels that lie in the ellipsoid by half or more. What comes back is
compared with it: volume, centre of mass in mm, and how far from the ellipsoid's surface the centres of wrong voxels
lie, as a part of a voxel (or of the network's pixel, where that is larger). How far the true mask's own volume is from
the ellipsoid's, which is the grid's doing, is given apart.
"""

# ruff: noqa: TID253 - a script of its own, and no part of the edge path

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import EnhancedMRImageStorage, ExplicitVRLittleEndian, MRImageStorage

from edgeseg import preprocess, readers
from edgeseg.readers import geometry
from edgeseg.types import BoolArray, FloatArray, Geometry, Preprocessing, Study, Vector, Volume

HEAD_MM, HEAD_CENTRE = np.array([75.0, 92.0, 68.0]), np.array([3.0, -5.0, 8.0])
AXES_MM, CENTRE = np.array([26.0, 18.0, 14.0]), np.array([24.0, 17.0, 26.0])
"""Half-axes in mm and centre, LPS: 27.4 ml, to the left, behind and above the middle."""
OUTSIDE, TISSUE, ABNORMAL = 2, 100, 260
SAMPLES = 5
"""Along each axis of a voxel, to find its share of the ellipsoid."""
THICK_MM = 2.5
"""Slices farther apart show their middle: shares over a thick slice are near a half over wide flat parts of a surface,
and what a threshold makes of these is no matter of geometry."""

AXIAL, SAGITTAL, CORONAL = (1.0, 0, 0, 0, 1, 0), (0.0, 1, 0, 0, 0, -1), (1.0, 0, 0, 0, 0, -1)


@dataclass(frozen=True)
class Form:
    """How a phantom is acquired and stored.

    Parameters
    ----------
    name
        For the table.
    shape, spacing_mm
        Slices, rows and columns.
    plane
        Image Orientation before turning: row's and column's direction.
    turn_deg
        Turns about x, y and z of the patient.
    kind
        How it is written.
    reversed_order
        Whether instances are numbered against the slice normal.
    """

    name: str
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    plane: tuple[float, ...] = AXIAL
    turn_deg: tuple[float, float, float] = (0.0, 0.0, 0.0)
    kind: str = "classic"
    reversed_order: bool = False


THIN = (176, 256, 256), (1.0, 1.0, 1.0)
THICK = (26, 256, 256), (5.5, 0.9375, 0.9375)
FORMS: tuple[Form, ...] = (
    Form("axial", *THICK),
    Form("axial, reversed order", *THICK, reversed_order=True),
    Form("axial, feet first and prone", *THICK, plane=(-1.0, 0, 0, 0, -1, 0)),
    Form("axial, 512 x 512", (26, 512, 512), (5.5, 0.46875, 0.46875)),
    Form("axial, anisotropic pixels", (32, 192, 256), (4.5, 1.25, 0.9)),
    Form("axial, tilted 17 degrees", *THICK, turn_deg=(17, 0, 0)),
    Form("axial, turned about all axes", *THICK, turn_deg=(12, -8, 15)),
    Form("axial, 1 mm", (150, 256, 224), (1.0, 1.0, 1.0)),
    Form("sagittal 3D", *THIN, plane=SAGITTAL),
    Form("sagittal 3D, turned about all axes", *THIN, plane=SAGITTAL, turn_deg=(6, -9, 5)),
    Form("sagittal 3D, anisotropic", (160, 224, 256), (1.2, 1.0, 0.9), plane=SAGITTAL),
    Form("coronal 3D", (210, 192, 224), (1.1, 1.0, 1.0), plane=CORONAL),
    Form("coronal, thick", (44, 256, 256), (5.0, 0.9, 0.9), plane=CORONAL),
    Form("sagittal, thick", (38, 256, 256), (5.0, 0.9, 0.9), plane=SAGITTAL),
    Form("oblique 40 degrees", *THICK, turn_deg=(40, 0, 0)),
    Form("oblique 3D, 35 degrees", *THIN, plane=SAGITTAL, turn_deg=(35, 0, 0)),
    Form("Enhanced, axial", *THICK, kind="enhanced"),
    Form("Enhanced, sagittal 3D", *THIN, plane=SAGITTAL, turn_deg=(0, -7, 4), kind="enhanced"),
    Form("NIfTI, sagittal 3D", *THIN, plane=SAGITTAL, turn_deg=(5, 0, -6), kind="nifti"),
    Form("NIfTI, axial", *THICK, turn_deg=(-14, 0, 3), kind="nifti"),
)


def main() -> None:
    """Print the table and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--coarse", action="store_true", help="voxels of twice the size in the plane: quicker")
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "phantoms.json")
    arguments = parser.parse_args()
    figures: dict[str, Any] = {"true_ml": round(true_ml(), 3), "coarse": arguments.coarse, "forms": []}
    for form in FORMS:
        with tempfile.TemporaryDirectory() as folder:
            found = measure(coarser(form) if arguments.coarse else form, Path(folder))
        figures["forms"].append({"form": form.name, **found})
        print(f"{form.name:36}", *(f"{key} {value:<9g}" for key, value in found.items()), flush=True)
    arguments.json.parent.mkdir(exist_ok=True)
    arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def measure(form: Form, folder: Path) -> dict[str, Any]:
    """Write a phantom, take it the whole way, and compare what comes back with the truth."""
    study = read(write(form, folder))
    mask, pixel_mm = segment(study)
    grid = study.flair.geometry
    if grid is None:
        raise ValueError(f"{form.name} was read without a geometry")
    places = grid.position_mm(np.argwhere(mask).astype(np.float64))
    true = share(grid, (mask.shape[0], mask.shape[1], mask.shape[2])) >= 0.5
    off_mm = places.mean(axis=0) - grid.position_mm(np.argwhere(true).astype(np.float64)).mean(axis=0)
    wrong = grid.position_mm(np.argwhere(mask != true).astype(np.float64))
    far_mm = float(np.abs(surface_mm(wrong)).max()) if len(wrong) else 0.0
    return {
        "ml": _short(mask.sum() * grid.voxel_ml),
        "volume_percent": _short(100 * (mask.sum() / true.sum() - 1)),
        "grid_percent": _short(100 * (true.sum() * grid.voxel_ml / true_ml() - 1)),
        "centre_off_mm": _short(np.linalg.norm(off_mm)),
        "centre_off_voxels": _short(np.abs(off_mm @ grid.direction / grid.spacing_mm).max()),
        "wrong_voxels": int((mask != true).sum()),
        "of_voxels": int(true.sum()),
        "wrong_at_most_mm": _short(far_mm),
        "wrong_at_most_voxels": _short(far_mm / max(pixel_mm, float(grid.spacing_mm.max()))),
    }


def read(path: Path) -> Study:
    """The one study of a folder."""
    (files,) = readers.find_studies(path)
    return readers.read_study(files)


def segment(study: Study) -> tuple[BoolArray, float]:
    """The mask (slice, row, column) of a threshold half way up to the brightest, and the network's pixel in mm."""
    given = preprocess.to_network(study, Preprocessing())
    flair = given.slices[:, 1:2].astype(np.float32)
    tissue, brightest = np.median(flair[flair > 20]), np.percentile(flair[flair > 20], 99.99)
    logits = (flair - (tissue + brightest) / 2) / 16
    grid = study.flair.geometry
    axis = given.mapping.axes[1]
    rows_mm = 1.0 if grid is None else float(grid.spacing_mm[axis]) * study.flair.voxels.shape[axis]
    mask = preprocess.to_segmentation(logits, study, given.mapping, 0.5).mask
    return mask, rows_mm / given.mapping.height_px


def write(form: Form, folder: Path) -> Path:
    """Write a form's files, and return the folder."""
    grid = grid_of(form)
    values = np.rint(values_of(grid, form.shape)).astype(np.uint16)
    folder = folder / "phantom_flair"
    folder.mkdir(parents=True)
    if form.kind == "nifti":
        import SimpleITK as sitk

        image = geometry.to_image(Volume(values.astype(np.float32), grid, ()))
        sitk.WriteImage(sitk.Cast(image, sitk.sitkUInt16), str(folder / "flair.nii.gz"))
    elif form.kind == "enhanced":
        _write_enhanced(form, grid, values, folder / "1")
    else:
        _write_classic(form, grid, values, folder)
    return folder


def coarser(form: Form) -> Form:
    """The same with half the rows and columns, and half the slices where these are thin."""
    factors = (2 if form.spacing_mm[0] < 2 else 1, 2, 2)
    shape = [n // k for n, k in zip(form.shape, factors, strict=True)]
    spacing = [mm * k for mm, k in zip(form.spacing_mm, factors, strict=True)]
    return replace(form, shape=(shape[0], shape[1], shape[2]), spacing_mm=(spacing[0], spacing[1], spacing[2]))


def grid_of(form: Form) -> Geometry:
    """A form's grid, its middle near that of the head."""
    axes = np.array(form.plane).reshape(2, 3) @ _turn(form.turn_deg).T
    direction = np.stack([np.cross(axes[0], axes[1]), axes[1], axes[0]], axis=1)
    spacing = np.array(form.spacing_mm)
    middle = direction @ (spacing * (np.array(form.shape) - 1) / 2)
    return Geometry(HEAD_CENTRE + np.array([1.3, -2.1, 0.7]) - middle, spacing, direction)


def values_of(grid: Geometry, shape: tuple[int, int, int]) -> FloatArray:
    """The phantom's voxels, (slice, row, column) float32."""
    head = np.stack([_in_head(grid, shape[1:], k) for k in range(shape[0])])
    values = np.where(head, TISSUE, OUTSIDE) + share(grid, shape) * (ABNORMAL - TISSUE)
    return np.asarray(values, dtype=np.float32)


def share(grid: Geometry, shape: tuple[int, int, int]) -> FloatArray:
    """Which part (0..1) of each voxel lies in the ellipsoid, (slice, row, column) float32."""
    corners = np.array(list(itertools.product((-1, 1), repeat=3))) * (AXES_MM.max() + 1)
    near = ((CENTRE + corners - grid.origin_mm) @ grid.direction) / grid.spacing_mm
    low = np.clip(np.floor(near.min(axis=0)).astype(int) - 1, 0, shape)
    high = np.clip(np.ceil(near.max(axis=0)).astype(int) + 2, 0, shape)
    index = np.stack(np.meshgrid(*(np.arange(a, b) for a, b in zip(low, high, strict=True)), indexing="ij"), axis=-1)
    found = np.zeros(index.shape[:3])
    steps = (np.arange(SAMPLES) + 0.5) / SAMPLES - 0.5
    through = steps if grid.spacing_mm[0] < THICK_MM else np.zeros(1)
    for offset in itertools.product(through, steps, steps):
        found += _level(grid.position_mm(index + np.array(offset))) < 1
    whole = np.zeros(shape, np.float32)
    whole[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = found / (len(through) * SAMPLES**2)
    return whole


def surface_mm(points: Vector) -> Vector:
    """Distance of points (point, 3) from the ellipsoid's surface, in mm, positive outside: right to the first order."""
    inner = (points - CENTRE) @ _tilt()
    level = np.linalg.norm(inner / AXES_MM, axis=1)
    slope = np.linalg.norm(inner / AXES_MM**2, axis=1) / np.maximum(level, 1e-9)
    return np.asarray((level - 1) / np.maximum(slope, 1e-9))


def true_ml() -> float:
    """The ellipsoid's volume in ml."""
    return float(4 / 3 * np.pi * np.prod(AXES_MM) / 1000)


def _level(points: Vector) -> Vector:
    return np.asarray((((points - CENTRE) @ _tilt() / AXES_MM) ** 2).sum(axis=-1))


def _tilt() -> Vector:
    return _turn((20.0, -15.0, 30.0))


def _in_head(grid: Geometry, plane: tuple[int, int], k: int) -> BoolArray:
    """Which pixels of one slice have their centre in the head."""
    index = np.stack(np.meshgrid([k], np.arange(plane[0]), np.arange(plane[1]), indexing="ij"), axis=-1)[0]
    points = (grid.position_mm(index.astype(np.float64)) - HEAD_CENTRE) / HEAD_MM
    return np.asarray((points**2).sum(axis=-1) < 1)


def _turn(angles_deg: Sequence[float]) -> Vector:
    """Rotation about x, then y, then z, shape (3, 3)."""
    turned = np.eye(3)
    for axis, angle in enumerate(np.radians(angles_deg)):
        first, second = (axis + 1) % 3, (axis + 2) % 3
        one = np.eye(3)
        one[first, first] = one[second, second] = np.cos(angle)
        one[first, second], one[second, first] = -np.sin(angle), np.sin(angle)
        turned = one @ turned
    return turned


def _write_classic(form: Form, grid: Geometry, values: Any, folder: Path) -> None:
    for k in range(form.shape[0]):
        number = form.shape[0] - k if form.reversed_order else k + 1
        dataset = _header(MRImageStorage, number, grid, form.shape)
        dataset.ImageType, dataset.InstanceNumber = ["ORIGINAL", "PRIMARY", "M"], number
        dataset.EchoTime, dataset.RepetitionTime, dataset.InversionTime = 120, 9000, 2200
        dataset.ScanningSequence = ["SE", "IR"]
        dataset.ImagePositionPatient = _position(grid, k)
        dataset.ImageOrientationPatient = _orientation(grid)
        dataset.PixelSpacing = [float(mm) for mm in grid.spacing_mm[1:]]
        dataset.PixelData = values[k].tobytes()
        dataset.save_as(folder / f"{(number * 7919) % 10007:05}", enforce_file_format=True)


def _write_enhanced(form: Form, grid: Geometry, values: Any, path: Path) -> None:
    dataset = _header(EnhancedMRImageStorage, 1, grid, form.shape)
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    dataset.NumberOfFrames = form.shape[0]
    shared = _item(
        MREchoSequence=[_item(EffectiveEchoTime=120.0)],
        MRTimingAndRelatedParametersSequence=[_item(RepetitionTime=9000)],
        MRModifierSequence=[_item(InversionTimes=[2200.0], InversionRecovery="YES")],
        PixelMeasuresSequence=[
            _item(
                PixelSpacing=[float(mm) for mm in grid.spacing_mm[1:]],
                SliceThickness=float(grid.spacing_mm[0]),
            )
        ],
        PlaneOrientationSequence=[_item(ImageOrientationPatient=_orientation(grid))],
    )
    dataset.SharedFunctionalGroupsSequence = [shared]
    order = np.random.default_rng(0).permutation(form.shape[0]).tolist()
    dataset.PerFrameFunctionalGroupsSequence = [
        _item(PlanePositionSequence=[_item(ImagePositionPatient=_position(grid, k))]) for k in order
    ]
    dataset.PixelData = values[order].tobytes()
    dataset.save_as(path, enforce_file_format=True)


def _header(sop_class: str, number: int, grid: Geometry, shape: tuple[int, int, int]) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = sop_class, ExplicitVRLittleEndian
    meta.MediaStorageSOPInstanceUID = f"1.2.826.0.1.3680043.8.498.1.{number}"
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, meta.MediaStorageSOPInstanceUID
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.826.0.1.3680043.8.498.2", "1.2.826.0.1.3680043.8.498.3"
    dataset.Modality, dataset.SeriesNumber, dataset.SeriesDescription = "MR", 4, "FLAIR"
    dataset.SliceThickness = float(grid.spacing_mm[0])
    dataset.Rows, dataset.Columns = shape[1:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 0
    return dataset


def _item(**elements: Any) -> pydicom.Dataset:
    item = pydicom.Dataset()
    for keyword, value in elements.items():
        setattr(item, keyword, value)
    return item


def _position(grid: Geometry, k: int) -> list[str]:
    return [f"{mm:.6f}" for mm in grid.position_mm(np.array([float(k), 0.0, 0.0]))]


def _orientation(grid: Geometry) -> list[str]:
    """Direction of a row and of a column, as decimal strings hold them."""
    return [f"{value:.9f}" for value in (*grid.direction[:, 2], *grid.direction[:, 1])]


def _short(value: Any) -> float:
    return float(f"{float(value):.3g}") if abs(value) < 1 else round(float(value), 3)


if __name__ == "__main__":
    main()
