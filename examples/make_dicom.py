"""Write a folder of LGG slices as a DICOM study of three series: T1 before contrast, FLAIR, T1 after contrast.

    python examples/make_dicom.py examples/tiff/TCGA_HT_7884_19980913 examples/dicom/example-study

Everything that says who, where and when is made up; so are the physics and the geometry, which the set does not state
(see examples/README.md). The same slices give the same bytes. Needs numpy, pillow and pydicom only.
"""

# ruff: noqa: TID253 - a script of its own, and no part of the edge path

from __future__ import annotations

import argparse
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, JPEGLSLossless, MRImageStorage, RLELossless

PIXEL_MM = 0.9375
SLICE_DISTANCE_MM = 6.0
SLICE_THICKNESS_MM = 5.0
ORIGIN_MM = (-119.53125, -119.53125, -12.0)
IMPLEMENTATION = "1"


@dataclass(frozen=True)
class Sequence:
    """One series: where its pixels are in the RGB slices, how they are scaled, and the physics to write."""

    folder: str
    channel: int
    number: int
    description: str
    factor: int
    syntax: UID
    time: str
    scanning: list[str]
    variant: str
    sequence_name: str
    echo_ms: float
    repetition_ms: float
    inversion_ms: float | None = None
    agent: str | None = None


SEQUENCES = (
    Sequence(
        *("pre", 0, 2, "AX T1", 3, JPEGLSLossless, "101000.000000"),
        *(["SE"], "NONE", "se2d1", 14.0, 500.0),
    ),
    Sequence(
        *("flair", 1, 3, "AX FLAIR", 4, ExplicitVRLittleEndian, "101500.000000"),
        *(["SE", "IR"], "SK", "tir2d1_16", 120.0, 9000.0, 2200.0),
    ),
    Sequence(
        *("post", 2, 4, "AX T1 POST", 5, RLELossless, "102500.000000"),
        *(["SE"], "NONE", "se2d1", 14.0, 500.0, None, "GADOLINIUM, synthetic entry"),
    ),
)


def main() -> None:
    """Parse two folders and write the study."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("slices", type=Path, help="folder of <patient>_<n>.tif, 8-bit RGB")
    parser.add_argument("study", type=Path, help="folder to write pre/, flair/ and post/ into")
    arguments = parser.parse_args()
    slices = read_slices(arguments.slices)
    for sequence in SEQUENCES:
        write_series(slices[..., sequence.channel], sequence, arguments.study / sequence.folder)


def read_slices(folder: Path) -> npt.NDArray[np.uint8]:
    """All slices of a folder in the order of their numbers, (slice, row, column, channel) uint8."""
    files = [path for path in folder.glob("*.tif") if not path.stem.endswith("_mask")]
    files.sort(key=lambda path: int(path.stem.rsplit("_", 1)[1]))
    return np.stack([np.asarray(Image.open(path), dtype=np.uint8) for path in files])


def write_series(voxels: npt.NDArray[np.uint8], sequence: Sequence, folder: Path) -> None:
    """Write (slice, row, column) as one file a slice, lowest slice first, under names that are not in that order."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, pixels in enumerate(voxels):
        uid = make_uid(sequence.folder, str(index))
        dataset = describe(sequence, index, uid)
        add_pixels(dataset, pixels.astype(np.uint16) * sequence.factor)
        if sequence.syntax.is_compressed:
            plugin = "pydicom" if sequence.syntax == RLELossless else "pyjpegls"
            dataset.compress(sequence.syntax, encoding_plugin=plugin, generate_instance_uid=False)
        name = hashlib.sha256(uid.encode()).hexdigest()[:8]
        dataset.save_as(folder / f"IM{name}.dcm", enforce_file_format=True)


def make_uid(*parts: str) -> UID:
    """A UID under the root 2.25 that hangs on its parts alone."""
    digest = hashlib.sha256("/".join(("edgeseg example study", *parts)).encode()).digest()
    return UID(f"2.25.{int.from_bytes(digest[:15], 'big')}")


def describe(sequence: Sequence, index: int, uid: UID) -> FileDataset:
    """Header of one slice."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = MRImageStorage
    meta.MediaStorageSOPInstanceUID = uid
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = make_uid("implementation", IMPLEMENTATION)
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = MRImageStorage, uid
    add_study(dataset)
    add_series(dataset, sequence)
    add_plane(dataset, index)
    return dataset


def add_study(dataset: Dataset) -> None:
    """Patient, study, frame of reference and equipment: all made up."""
    dataset.PatientName = "Example^Synthetic"
    dataset.PatientID = "EDGESEG-EXAMPLE"
    dataset.PatientBirthDate = dataset.PatientSex = ""
    dataset.PatientIdentityRemoved = "YES"
    dataset.DeidentificationMethod = "Public research images under synthetic identifiers"
    dataset.StudyInstanceUID = make_uid("study")
    dataset.FrameOfReferenceUID = make_uid("frame of reference")
    dataset.PositionReferenceIndicator = ""
    dataset.StudyDate = dataset.SeriesDate = dataset.AcquisitionDate = dataset.ContentDate = "20000101"
    dataset.StudyTime = "100000.000000"
    dataset.StudyID = "1"
    dataset.StudyDescription = "MR brain, example for edgeseg"
    dataset.AccessionNumber = dataset.ReferringPhysicianName = ""
    dataset.Manufacturer = "Synthetic"
    dataset.ManufacturerModelName = "edgeseg examples/make_dicom.py"


def add_series(dataset: Dataset, sequence: Sequence) -> None:
    """Series and physics."""
    dataset.Modality = "MR"
    dataset.SeriesInstanceUID = make_uid(sequence.folder)
    dataset.SeriesNumber = sequence.number
    dataset.SeriesDescription = sequence.description
    dataset.SeriesTime = dataset.AcquisitionTime = dataset.ContentTime = sequence.time
    dataset.BodyPartExamined = "BRAIN"
    dataset.PatientPosition = "HFS"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
    dataset.ScanningSequence = sequence.scanning
    dataset.SequenceVariant = sequence.variant
    dataset.ScanOptions = ""
    dataset.MRAcquisitionType = "2D"
    dataset.SequenceName = sequence.sequence_name
    dataset.EchoTime = sequence.echo_ms
    dataset.RepetitionTime = sequence.repetition_ms
    dataset.EchoTrainLength = 16 if sequence.inversion_ms else 1
    dataset.MagneticFieldStrength = 1.5
    if sequence.inversion_ms is not None:
        dataset.InversionTime = sequence.inversion_ms
    if sequence.agent is not None:
        dataset.ContrastBolusAgent = sequence.agent


def add_plane(dataset: Dataset, index: int) -> None:
    """Axial plane; slice 0 is the lowest."""
    x_mm, y_mm, z_mm = ORIGIN_MM
    position_mm = z_mm + index * SLICE_DISTANCE_MM
    dataset.AcquisitionNumber = 1
    dataset.InstanceNumber = index + 1
    dataset.ImagePositionPatient = [x_mm, y_mm, position_mm]
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.SliceLocation = position_mm
    dataset.PixelSpacing = [PIXEL_MM, PIXEL_MM]
    dataset.SliceThickness = SLICE_THICKNESS_MM
    dataset.SpacingBetweenSlices = SLICE_DISTANCE_MM


def add_pixels(dataset: Dataset, pixels: npt.NDArray[np.uint16]) -> None:
    """(row, column) uint16, 12 of 16 bits used, and a window that suits it."""
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = 0
    dataset.WindowCenter, dataset.WindowWidth = 300, 600
    dataset.PixelData = pixels.astype("<u2").tobytes()


if __name__ == "__main__":
    main()
