"""A phantom written by pydicom alone must come back from the SEG at its place, read by three foreign readers."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgeseg.types import BoolArray, Geometry, Segmentation, Study, Volume
from edgeseg.writers import ReportFacts, write

Array = npt.NDArray[np.float64]

BLOB_LOW_MM = np.array([12.0, -46.0, 21.0])
BLOB_HIGH_MM = np.array([40.0, -24.0, 39.0])
"""Corners of the blob, LPS: to the left, in front and up of the origin, so that no flip maps it onto itself."""

ROWS, COLUMNS, SLICES = 48, 56, 30
PIXEL_MM, SLICE_MM = (2.0, 2.5), 4.0
FACTS = ReportFacts(engine={"name": "test-fp32", "sha256": "0f" * 32}, preprocessing={}, threshold=0.5)


def _oblique() -> tuple[list[float], list[float]]:
    """Turn the axial axes by 17 degrees about x and 11 about z."""
    a, b = np.deg2rad(17.0), np.deg2rad(11.0)
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    turned = about_z @ about_x
    return np.round(turned[:, 0], 7).tolist(), np.round(turned[:, 1], 7).tolist()


AXES: dict[str, tuple[list[float], list[float]]] = {
    "axial": ([1, 0, 0], [0, 1, 0]),
    "sagittal": ([0, 1, 0], [0, 0, -1]),
    "oblique": _oblique(),
}
"""Direction in which the column index grows, and in which the row index grows (DICOM's order)."""


@dataclass(frozen=True)
class Phantom:
    """A DICOM series on disk, and where its marked pixels lie, by DICOM's own equation."""

    folder: Path
    files: list[Path]
    mask: BoolArray
    geometry: Geometry
    marked_mm: Array

    def study(self) -> Study:
        """Return the study as a reader would: headers in slice order, without pixel data."""
        import pydicom

        headers = tuple(pydicom.dcmread(file, stop_before_pixels=True) for file in self.files)
        ids = tuple(str(header.SOPInstanceUID) for header in headers)
        flair = Volume(self.mask.astype(np.float32), self.geometry, ids)
        return Study(str(headers[0].StudyInstanceUID), "phantom", "dicom", flair, None, None, {}, headers)


def _write_phantom(folder: Path, name: str, descending: bool) -> Phantom:
    """Write the series slice by slice; the coordinates of every pixel are worked out one axis at a time."""
    along_columns, along_rows = (np.array(axis, dtype=np.float64) for axis in AXES[name])
    normal = np.cross(along_columns, along_rows) * (-1.0 if descending else 1.0)
    middle = (SLICES - 1) / 2 * SLICE_MM * normal
    middle += (ROWS - 1) / 2 * PIXEL_MM[0] * along_rows + (COLUMNS - 1) / 2 * PIXEL_MM[1] * along_columns
    origin = np.round(np.array([3.0, -5.0, 10.0]) - middle, 4)
    files, masks, marked = [], [], []
    for index in range(SLICES):
        corner = np.round(origin + index * SLICE_MM * normal, 4)
        grid = np.empty((ROWS, COLUMNS, 3))
        for row in range(ROWS):
            for column in range(COLUMNS):
                grid[row, column] = corner + along_columns * PIXEL_MM[1] * column + along_rows * PIXEL_MM[0] * row
        inside = np.asarray(((grid > BLOB_LOW_MM) & (grid < BLOB_HIGH_MM)).all(axis=2))
        masks.append(inside)
        marked.append(grid[inside])
        files.append(_write_slice(folder / f"{index:03}.dcm", index, corner, [*along_columns, *along_rows], inside))
    direction = np.stack([normal, along_rows, along_columns], axis=1)
    geometry = Geometry(origin, np.array([SLICE_MM, *PIXEL_MM]), direction)
    return Phantom(folder, files, np.stack(masks), geometry, np.concatenate(marked))


def _write_slice(path: Path, index: int, corner: Array, axes: list[float], inside: BoolArray) -> Path:
    """Write one MR image by hand."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

    image = Dataset()
    image.SOPClassUID, image.SOPInstanceUID = MRImageStorage, f"1.2.826.0.1.3680043.8.498.1.{index + 1}"
    image.StudyInstanceUID, image.SeriesInstanceUID = "1.2.826.0.1.3680043.8.498.2", "1.2.826.0.1.3680043.8.498.3"
    image.FrameOfReferenceUID = "1.2.826.0.1.3680043.8.498.4"
    image.Modality, image.SeriesNumber, image.InstanceNumber = "MR", 4, index + 1
    image.PatientName, image.PatientID = "Phantom^Asymmetric", "PHANTOM"
    image.PatientBirthDate, image.PatientSex = "", ""
    image.StudyDate, image.StudyTime, image.StudyID, image.AccessionNumber = "20200102", "030405", "1", ""
    image.ImagePositionPatient = [f"{value:.4f}" for value in corner]
    image.ImageOrientationPatient = [f"{value:.7f}" for value in axes]
    image.PixelSpacing, image.SliceThickness = list(PIXEL_MM), 3.0
    image.Rows, image.Columns = ROWS, COLUMNS
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 12, 11, 0
    image.PixelData = (inside.astype("<u2") * 900 + 100).tobytes()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.save_as(path, enforce_file_format=True)
    return path


@pytest.fixture(scope="module", params=[(name, down) for name in AXES for down in (False, True)], ids=str)
def seg(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Phantom, Path]:
    """Return a phantom and the SEG that edgeseg writes of it."""
    name, descending = request.param
    folder = tmp_path_factory.mktemp("phantom")
    phantom = _write_phantom(folder, name, descending)
    areas = tuple(int(area) for area in phantom.mask.sum(axis=(1, 2)))
    found = Segmentation(phantom.mask, phantom.mask.astype(np.float32), areas, 1.0, None)
    out = tmp_path_factory.mktemp("out")
    assert write(found, phantom.study(), ["dicom-seg"], out, FACTS) == ["segmentation.dcm"]
    return phantom, out / "segmentation.dcm"


def _assert_same_points(found: Array, expected: Array) -> None:
    """Compare two clouds of patient coordinates in mm, whatever their order."""
    assert len(found) == len(expected)
    assert len(expected) > 300
    distances = np.linalg.norm(found[:, None, :] - expected[None, :, :], axis=2)
    assert distances.min(axis=0).max() < 0.01
    assert distances.min(axis=1).max() < 0.01


def test_blob_comes_back_through_pydicom_frames(seg: tuple[Phantom, Path]) -> None:
    """Read frame by frame, with DICOM's equation."""
    import pydicom

    phantom, path = seg
    dataset = pydicom.dcmread(path)
    shared = dataset.SharedFunctionalGroupsSequence[0]
    axes = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, dtype=float)
    row_mm, column_mm = (float(step) for step in shared.PixelMeasuresSequence[0].PixelSpacing)
    points = []
    for frame, pixels in zip(dataset.PerFrameFunctionalGroupsSequence, dataset.pixel_array, strict=True):
        corner = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
        rows, columns = np.nonzero(pixels)
        points.append(corner + np.outer(columns, axes[:3] * column_mm) + np.outer(rows, axes[3:] * row_mm))
    _assert_same_points(np.concatenate(points), phantom.marked_mm)
    assert shared.PixelMeasuresSequence[0].SpacingBetweenSlices == SLICE_MM


def test_each_frame_names_the_slice_that_it_was_drawn_on(seg: tuple[Phantom, Path]) -> None:
    """The source image of every frame has the same pixels marked."""
    import pydicom

    phantom, path = seg
    bright = {}
    for file in phantom.files:
        image = pydicom.dcmread(file)
        bright[str(image.SOPInstanceUID)] = image.pixel_array > 500
    dataset = pydicom.dcmread(path)
    assert dataset.FrameOfReferenceUID == "1.2.826.0.1.3680043.8.498.4"
    for frame, pixels in zip(dataset.PerFrameFunctionalGroupsSequence, dataset.pixel_array, strict=True):
        source = frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        np.testing.assert_array_equal(pixels > 0, bright[source])


def test_blob_comes_back_through_highdicom(seg: tuple[Phantom, Path]) -> None:
    """Read as a volume with highdicom's affine."""
    import highdicom

    phantom, path = seg
    volume = highdicom.seg.segread(path).get_volume(combine_segments=True)
    points = volume.map_indices_to_reference(np.argwhere(np.asarray(volume.array) > 0))
    _assert_same_points(np.asarray(points), phantom.marked_mm)


def _points_of_image(path: Path) -> Array:
    """Return the marked voxels' patient coordinates in mm by SimpleITK (LPS)."""
    import SimpleITK

    image: Any = SimpleITK.ReadImage(str(path))
    steps = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    marked = np.argwhere(SimpleITK.GetArrayFromImage(image) > 0)[:, ::-1]
    return np.asarray(marked @ steps.T + np.array(image.GetOrigin()))


def test_blob_comes_back_through_simpleitk(seg: tuple[Phantom, Path]) -> None:
    """SimpleITK reads the SEG file itself."""
    phantom, path = seg
    _assert_same_points(_points_of_image(path), phantom.marked_mm)


def test_blob_comes_back_through_dcmqi(seg: tuple[Phantom, Path], tmp_path: Path) -> None:
    """Convert with dcmqi's segimage2itkimage to NRRD; SimpleITK reads that."""
    beside = Path(sys.executable).parent / "segimage2itkimage"
    tool = str(beside) if beside.exists() else shutil.which("segimage2itkimage")
    if tool is None:
        pytest.skip("dcmqi's segimage2itkimage is missing: pip install dcmqi")
    phantom, path = seg
    command = [tool, "--inputDICOM", str(path), "--outputDirectory", str(tmp_path), "--outputType", "nrrd"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    converted = sorted(tmp_path.glob("*.nrrd"))
    assert len(converted) == 1
    _assert_same_points(_points_of_image(converted[0]), phantom.marked_mm)


def test_dciodvfy_finds_no_error(seg: tuple[Phantom, Path]) -> None:
    """David Clunie's validator has no complaint that it calls an error."""
    tool = shutil.which("dciodvfy")
    if tool is None:
        pytest.skip("dciodvfy is missing: apt-get install dicom3tools")
    result = subprocess.run([tool, str(seg[1])], capture_output=True, text=True, timeout=60)
    lines = (result.stdout + result.stderr).splitlines()
    assert [line for line in lines if line.startswith("Error")] == []
    assert "Segmentation" in lines
