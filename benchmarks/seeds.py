"""Small valid inputs of every kind, which `fuzz.py` damages."""

# mypy: untyped-calls-exclude="SimpleITK"
from __future__ import annotations

import io
import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import forms
import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from pydicom import Dataset

REPOSITORY = Path(__file__).resolve().parent.parent
EXAMPLE = REPOSITORY / "examples" / "dicom" / "example-study"
SLICES, STRIDE = 6, 8
"""Slices of a small series, and how many pixels of the example make one of its own: 32 x 32 are left."""


@dataclass(frozen=True)
class Seed:
    """A valid input: a folder, and the file in it that is damaged.

    Parameters
    ----------
    folder
        What is given to edgeseg.
    victim
        The file that is replaced.
    content
        Its bytes.
    hot
        Places in it where damage does most: values and lengths of a header.
    packed
        Whether the file is gzip, and what is damaged is its content.
    """

    folder: Path
    victim: Path
    content: bytes
    hot: tuple[int, ...] = ()
    packed: bool = False


def small_series(
    folder: Path,
    name: str = "flair",
    series: str = "",
    change: Callable[[Dataset, int], None] | None = None,
    **elements: Any,
) -> Path:
    """Write a part of the example's series, of every eighth pixel: 6 slices of 32 x 32, named by their order.

    Parameters
    ----------
    folder
        Where to write.
    name
        The example's series: ``flair``, ``pre`` or ``post``.
    series
        A number that UIDs and series number are made of; "" keeps the example's.
    change
        Called with each dataset and its number, from the feet to the head, before it is written.
    elements
        DICOM elements to set in all of them.
    """
    import pydicom

    folder.mkdir(parents=True, exist_ok=True)
    for number, path in enumerate(forms.in_place(EXAMPLE / name)[4 : 4 + SLICES]):
        dataset = pydicom.dcmread(path)
        if dataset.file_meta.TransferSyntaxUID.is_compressed:
            dataset.decompress(generate_instance_uid=False)
        pixels = dataset.pixel_array[::STRIDE, ::STRIDE]
        dataset.Rows, dataset.Columns = pixels.shape
        dataset.PixelData = pixels.tobytes()
        dataset.PixelSpacing = [float(v) * STRIDE for v in dataset.PixelSpacing]
        if series:
            dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{series}.{number + 1}"
            dataset.SeriesInstanceUID, dataset.SeriesNumber = f"1.2.3.{series}", series
        for keyword, value in elements.items():
            setattr(dataset, keyword, value)
        if change is not None:
            change(dataset, number)
        dataset.save_as(folder / f"{series}{number}", enforce_file_format=True)
    return folder


def dicom(root: Path) -> list[Seed]:
    """A small FLAIR series as Enhanced MR in every transfer syntax, slice by slice, and beside a T1."""
    plain = small_series(root / "plain")
    whole = forms.enhanced(sorted(plain.iterdir()), root / "enhanced" / "enhanced", _philips_frame)
    seeds = [_seed(whole.parent, whole)]
    for number, form in enumerate(forms.ALL):
        if forms.missing_encoder(form) is None:
            folder = root / f"form-{number}"
            forms.convert(whole, folder / "enhanced", form)  # one file a study: inputs a second count
            seeds.append(_seed(folder, folder / "enhanced"))
    for number, form in enumerate(("implicit little endian", "deflated", "JPEG extended", "JPEG 2000")):
        if forms.missing_encoder(form) is None:
            folder = forms.convert_folder(plain, root / f"classic-{number}", form)
            seeds.append(_seed(folder, folder / "2"))
    seeds.append(_seed(_vendors_own(plain, root / "vendor"), root / "vendor" / "2"))
    shutil.copytree(plain, root / "both" / "flair")
    t1 = small_series(root / "both" / "t1", "pre")
    seeds.append(_seed(root / "both", t1 / "2"))
    bare = shutil.copytree(plain, root / "bare")
    for path in bare.iterdir():
        path.write_bytes(path.read_bytes()[132:])
    seeds.append(_seed(bare, bare / "2"))
    return seeds


def dicomdir(root: Path) -> list[Seed]:
    """A DICOMDIR of a small series."""
    from pydicom.fileset import FileSet

    files = FileSet()
    for path in sorted(small_series(root / "loose", "flair").iterdir()):
        files.add(path)
    files.write(root / "disk")
    return [_seed(root / "disk" / "DICOMDIR", root / "disk" / "DICOMDIR")]


def tiff(root: Path) -> list[Seed]:
    """A folder of RGB slices, in the forms that TIFF has."""
    pixels = np.asarray(Image.open(next((REPOSITORY / "examples" / "tiff").rglob("*_12.tif"))))[::STRIDE, ::STRIDE]
    ways: list[dict[str, Any]] = [
        *({"compression": name} for name in ("raw", "tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits")),
        {"big_tiff": True},
        {"append_images": [Image.fromarray(pixels)], "save_all": True},
    ]
    seeds = []
    for number, way in enumerate(ways):
        folder = root / f"tiff-{number}"
        folder.mkdir(parents=True)
        for k in range(1, 5):
            Image.fromarray(pixels).save(folder / f"head_{k}.tif", **(way if k == 2 else {}))
        seeds.append(_seed(folder, folder / "head_2.tif", hot=range(200)))
    return seeds


def nifti(root: Path) -> list[Seed]:
    """FLAIR beside a T1, as NIfTI-1 and gzip, with sidecars."""
    import SimpleITK

    flair, t1 = (sorted(small_series(root / name, name).iterdir()) for name in ("flair", "pre"))
    seeds = []
    for suffix in (".nii", ".nii.gz"):
        folder = root / f"folder{suffix}"
        forms.nifti(flair, folder / f"head_flair{suffix}")
        if suffix == ".nii":
            forms.nifti(t1, folder / "head_t1.nii")
        (folder / "head_flair.json").write_text(json.dumps({"EchoTime": 0.12, "RepetitionTime": 9, "InversionTime": 2}))
        victim = folder / f"head_flair{suffix}"
        seeds.append(_seed(folder, victim, hot=range(348)))
        if suffix == ".nii.gz":
            seeds.append(_seed(folder, folder / "head_flair.json"))
            seeds.append(
                Seed(folder, victim, (root / "folder.nii" / "head_flair.nii").read_bytes(), tuple(range(348)), True)
            )
    image = SimpleITK.ReadImage(str(root / "folder.nii" / "head_flair.nii"))
    for kind in (SimpleITK.sitkUInt8, SimpleITK.sitkFloat64):
        victim = root / f"kind-{kind}" / "flair.nii"
        victim.parent.mkdir()
        SimpleITK.WriteImage(SimpleITK.Cast(image, kind), str(victim))
        seeds.append(_seed(victim.parent, victim, hot=range(348)))
    return seeds


def archive(root: Path) -> list[Seed]:
    """Zip archives of a DICOM series and of TIFF slices."""
    tiff(root / "tiff")
    seeds = []
    for number, folder in enumerate((small_series(root / "series", "flair"), root / "tiff" / "tiff-0")):
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED if number else zipfile.ZIP_STORED) as file:
            for path in sorted(folder.iterdir()):
                file.write(path, f"study/{path.name}")
        victim = root / f"archive-{number}" / "study.zip"
        victim.parent.mkdir()
        victim.write_bytes(content.getvalue())
        seeds.append(_seed(victim, victim, hot=range(len(content.getvalue()) - 500, len(content.getvalue()))))
    return seeds


def manifest(root: Path) -> list[Seed]:
    """Manifests of the shipped engines."""
    seeds = []
    for path in sorted((REPOSITORY / "engines").glob("*/manifest.json")):
        folder = root / path.parent.name
        folder.mkdir(parents=True)
        seeds.append(_seed(folder, Path(shutil.copy(path, folder))))
    return seeds


def configuration(root: Path) -> list[Seed]:
    """Training configurations."""
    seeds = []
    for path in (
        REPOSITORY / "edgeseg" / "configs" / "published-run.yaml",
        REPOSITORY / "benchmarks" / "five_folds.yaml",
    ):
        root.mkdir(parents=True, exist_ok=True)
        copy = Path(shutil.copy(path, root))
        seeds.append(_seed(copy, copy))
    return seeds


def _seed(folder: Path, victim: Path, hot: range | None = None) -> Seed:
    return Seed(folder, victim, victim.read_bytes(), _places(victim) if hot is None else tuple(hot))


def _places(path: Path) -> tuple[int, ...]:
    """Where a DICOM file's elements begin, with their lengths and first bytes of value."""
    import pydicom

    try:
        dataset = pydicom.dcmread(path, force=path.suffix == "")
    except Exception:  # no DICOM
        return ()
    starts = [getattr(dataset.get_item(tag), "value_tell", 0) for tag in dataset.keys()]  # noqa: SIM118
    starts += [getattr(element, "file_tell", 0) or 0 for element in dataset]
    return tuple(start + k for start in starts if start for k in range(-8, 6))


def _vendors_own(source: Path, folder: Path) -> Path:
    """The series with Philips' scale, rescale values, padding and several acquisitions."""
    import pydicom

    folder.mkdir(parents=True)
    for number, path in enumerate(sorted(source.iterdir())):
        dataset = pydicom.dcmread(path)
        _philips(dataset, 0.5 + number)
        dataset.RescaleSlope, dataset.RescaleIntercept, dataset.AcquisitionNumber = 1.5, -3, 1
        dataset.add_new(0x00280120, "US", 0)
        dataset.save_as(folder / path.name, enforce_file_format=True)
    return folder


def _philips(dataset: Dataset, scale: float) -> None:
    dataset.private_block(0x2005, "Philips MR Imaging DD 001", create=True).add_new(0x0E, "FL", scale)


def _philips_frame(groups: Dataset, number: int) -> None:
    own = forms.item()
    _philips(own, 0.5 + number)
    groups.private_block(0x2005, "Philips MR Imaging DD 005", create=True).add_new(0x0F, "SQ", [own])
