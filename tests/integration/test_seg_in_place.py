"""Ellipsoids written by pydicom alone, read by edgeseg, come back from its results at their place by foreign readers.

Where every voxel lies is worked out by DICOM's own equation, pixel by pixel, and by nothing of edgeseg.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgeseg import preprocess, readers
from edgeseg.types import BoolArray, Preprocessing, Segmentation, Study
from edgeseg.writers import ReportFacts, write

Array = npt.NDArray[np.float64]
Axes = tuple[list[float], list[float]]

CENTRES_MM = np.array([[18.0, -30.0, 25.0], [-24.0, 12.0, 40.0]])
RADII_MM = np.array([[20.0, 14.0, 17.0], [9.0, 14.0, 11.0]])
"""Two ellipsoids, LPS: no flip and no exchange of axes maps them onto themselves."""

MIDDLE_MM = np.array([3.0, -5.0, 30.0])
FACTS = ReportFacts(engine={"name": "test-fp32", "sha256": "0f" * 32}, preprocessing={}, threshold=0.5)
AXIAL: Axes = ([1, 0, 0], [0, 1, 0])
SAGITTAL: Axes = ([0, 1, 0], [0, 0, -1])
CORONAL: Axes = ([1, 0, 0], [0, 0, -1])


def _turned(axes: Axes, about_x_deg: float, about_z_deg: float) -> Axes:
    a, b = np.deg2rad(about_x_deg), np.deg2rad(about_z_deg)
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    turned = np.round(about_z @ about_x @ np.array(axes).T, 7)
    return turned[:, 0].tolist(), turned[:, 1].tolist()


@dataclass(frozen=True)
class Form:
    """How a phantom is acquired.

    Parameters
    ----------
    axes
        Direction in which the column index grows, and in which the row index grows (DICOM's order).
    shape
        Slices, rows, columns.
    steps_mm
        Distance of slices, rows, columns.
    reversed
        Whether slices are stored against the slice normal.
    frames
        Order in which the slices are frames of one Enhanced MR instance; None for single images.
    """

    axes: Axes
    shape: tuple[int, int, int] = (40, 64, 72)
    steps_mm: tuple[float, float, float] = (3.0, 1.5, 2.0)
    reversed: bool = False
    frames: str | None = None


FORMS = {
    "axial": Form(AXIAL),
    "axial, reversed": Form(AXIAL, reversed=True),
    "sagittal": Form(SAGITTAL),
    "sagittal, reversed": Form(SAGITTAL, reversed=True),
    "coronal": Form(CORONAL),
    "coronal, reversed": Form(CORONAL, reversed=True),
    "oblique": Form(_turned(AXIAL, 17, 11)),
    "oblique, reversed": Form(_turned(SAGITTAL, 9, -14), reversed=True),
    "thick slices": Form(_turned(AXIAL, -12, 4), (20, 112, 96), (6.5, 0.9, 1.3)),
    # The whole mask fills its bytes: ITK leaves the bits of a last byte that is not full unread.
    "rows that fill no byte": Form(AXIAL, (32, 47, 53), (4.0, 2.1, 2.3)),
    "Enhanced": Form(AXIAL, frames="in order"),
    "Enhanced, sagittal, frames shuffled": Form(SAGITTAL, frames="shuffled"),
    "Enhanced, oblique, reversed": Form(_turned(CORONAL, 13, 8), reversed=True, frames="in order"),
}


@dataclass(frozen=True)
class Phantom:
    """A DICOM series on disk.

    Parameters
    ----------
    mask
        Marked voxels, (slice, row, column) as acquired.
    origin_mm, steps_mm
        Where the first voxel lies, and the vectors (3, 3) from voxel to voxel: column k for axis k.
    images
        UID and frame of each slice as acquired.
    """

    folder: Path
    mask: BoolArray
    origin_mm: Array
    steps_mm: Array
    images: list[tuple[str, int | None]]

    def assert_marked(self, points_mm: Array) -> None:
        """Compare points in mm, LPS, with the mask: each lies on a voxel, and they are the marked ones, each once."""
        index = np.linalg.solve(self.steps_mm, (points_mm - self.origin_mm).T).T
        nearest = np.rint(index).astype(int)
        assert np.abs((index - nearest) @ self.steps_mm.T).max() < 0.01
        found = np.zeros(self.mask.shape, dtype=int)
        np.add.at(found, tuple(nearest.T), 1)
        np.testing.assert_array_equal(found, self.mask.astype(int))


def make_phantom(folder: Path, form: Form) -> Phantom:
    """Write the series; the coordinates of every pixel are worked out by DICOM's equation."""
    along_columns, along_rows = (np.array(axis, dtype=np.float64) for axis in form.axes)
    normal = np.cross(along_columns, along_rows) * (-1.0 if form.reversed else 1.0)
    steps = np.stack([normal, along_rows, along_columns], axis=1) * np.array(form.steps_mm)
    origin = np.round(MIDDLE_MM - steps @ (np.array(form.shape) - 1) / 2, 4)
    rows, columns = np.mgrid[: form.shape[1], : form.shape[2]]
    corners, masks = [], []
    for index in range(form.shape[0]):
        corner = np.round(origin + index * steps[:, 0], 4)
        places = corner + rows[..., None] * steps[:, 1] + columns[..., None] * steps[:, 2]
        reach = ((places[..., None, :] - CENTRES_MM) / RADII_MM) ** 2
        masks.append((reach.sum(axis=-1) < 1).any(axis=-1))
        corners.append(corner)
    mask = np.stack(masks)
    assert mask.sum() > 500
    write_all = _write_images if form.frames is None else _write_enhanced
    images = write_all(folder, form, corners, mask)
    return Phantom(folder, mask, origin, steps, images)


def _header(form: Form) -> Any:
    """Return what images of both kinds have: a FLAIR by its times and its name."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    image = Dataset()
    image.StudyInstanceUID, image.SeriesInstanceUID = "1.2.826.0.1.3680043.8.498.2", "1.2.826.0.1.3680043.8.498.3"
    image.FrameOfReferenceUID = "1.2.826.0.1.3680043.8.498.4"
    image.Modality, image.SeriesNumber, image.InstanceNumber = "MR", 4, 1
    image.SeriesDescription, image.ImageType = "FLAIR", ["ORIGINAL", "PRIMARY", "M"]
    image.RepetitionTime, image.EchoTime, image.InversionTime = 9000, 120, 2500
    image.PatientName, image.PatientID = "Phantom^Asymmetric", "PHANTOM"
    image.PatientBirthDate, image.PatientSex = "", ""
    image.StudyDate, image.StudyTime, image.StudyID, image.AccessionNumber = "20200102", "030405", "1", ""
    image.Rows, image.Columns = form.shape[1:]
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 12, 11, 0
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return image


def _pixels(mask: BoolArray) -> bytes:
    return (mask.astype("<u2") * 900 + 100).tobytes()


def _position(corner: Array) -> list[str]:
    return [f"{value:.4f}" for value in corner]


def _orientation(form: Form) -> list[str]:
    return [f"{value:.7f}" for axis in form.axes for value in axis]


def _write_images(folder: Path, form: Form, corners: list[Array], mask: BoolArray) -> list[tuple[str, int | None]]:
    """Write one MR image a slice, by hand."""
    uids = []
    for index, corner in enumerate(corners):
        image = _header(form)
        uids.append(f"1.2.826.0.1.3680043.8.498.1.{index + 1}")
        image.SOPClassUID, image.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.4", uids[-1]
        image.InstanceNumber = index + 1
        image.ImagePositionPatient, image.ImageOrientationPatient = _position(corner), _orientation(form)
        image.PixelSpacing, image.SliceThickness = list(form.steps_mm[1:]), 3.0
        image.PixelData = _pixels(mask[index])
        image.save_as(folder / f"{index:03}.dcm", enforce_file_format=True)
    return [(uid, None) for uid in uids]


def _write_enhanced(folder: Path, form: Form, corners: list[Array], mask: BoolArray) -> list[tuple[str, int | None]]:
    """Write one Enhanced MR instance, by hand: frames in the form's order."""
    from pydicom.dataset import Dataset

    order = np.arange(len(corners))
    if form.frames == "shuffled":
        np.random.default_rng(5).shuffle(order)
    image, shared = _header(form), Dataset()
    image.SOPClassUID, image.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.4.1", "1.2.826.0.1.3680043.8.498.1"
    image.NumberOfFrames = len(order)
    orientation, measures = Dataset(), Dataset()
    orientation.ImageOrientationPatient = _orientation(form)
    measures.PixelSpacing, measures.SliceThickness = list(form.steps_mm[1:]), 3.0
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [orientation], [measures]
    image.SharedFunctionalGroupsSequence, image.PerFrameFunctionalGroupsSequence = [shared], []
    for index in order:
        frame, position = Dataset(), Dataset()
        position.ImagePositionPatient = _position(corners[index])
        frame.PlanePositionSequence = [position]
        image.PerFrameFunctionalGroupsSequence.append(frame)
    image.PixelData = _pixels(mask[order])
    image.save_as(folder / "enhanced.dcm", enforce_file_format=True)
    return [(image.SOPInstanceUID, int(np.flatnonzero(order == index)[0]) + 1) for index in range(len(order))]


def segmented(study: Study) -> Segmentation:
    """Return the bright voxels of a study as edgeseg read it."""
    mask = study.flair.voxels > 500
    areas = tuple(int(area) for area in mask.sum(axis=(1, 2)))
    geometry = study.flair.geometry
    volume_ml = None if geometry is None else sum(areas) * geometry.voxel_ml
    return Segmentation(mask, mask.astype(np.float32), areas, volume_ml, None)


FORMATS = {"dicom-seg": "segmentation.dcm", "dicom-sr": "report.dcm", "secondary-capture": "secondary-capture.dcm"}


@pytest.fixture(scope="module", params=FORMS)
def results(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Phantom, Path, Form]:
    """Return a phantom and the folder with what edgeseg writes of it."""
    form = FORMS[request.param]
    phantom = make_phantom(tmp_path_factory.mktemp("phantom"), form)
    (files,) = readers.find_studies(phantom.folder)
    study = readers.read_study(files)
    out = tmp_path_factory.mktemp("out")
    assert write(segmented(study), study, FORMATS, out, FACTS) == list(FORMATS.values())
    return phantom, out, form


@pytest.fixture
def seg(results: tuple[Phantom, Path, Form]) -> tuple[Phantom, Path]:
    """Return a phantom and its SEG."""
    return results[0], results[1] / "segmentation.dcm"


def test_frames_by_the_equation_of_dicom(seg: tuple[Phantom, Path]) -> None:
    """Read frame by frame; each frame names the image that it was drawn on."""
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
        source = frame.DerivationImageSequence[0].SourceImageSequence[0]
        drawn_on = (source.ReferencedSOPInstanceUID, source.get("ReferencedFrameNumber"))
        np.testing.assert_array_equal(pixels > 0, phantom.mask[phantom.images.index(drawn_on)])
    phantom.assert_marked(np.concatenate(points))
    assert dataset.FrameOfReferenceUID == "1.2.826.0.1.3680043.8.498.4"
    assert dataset.ReferencedSeriesSequence[0].SeriesInstanceUID == "1.2.826.0.1.3680043.8.498.3"
    assert dataset.ContentQualification == "RESEARCH"


def test_highdicom(seg: tuple[Phantom, Path]) -> None:
    """Read as a volume with highdicom's affine."""
    import highdicom

    phantom, path = seg
    volume = highdicom.seg.segread(path).get_volume(combine_segments=True)
    phantom.assert_marked(volume.map_indices_to_reference(np.argwhere(np.asarray(volume.array) > 0)))


def _points_of_image(path: Path) -> Array:
    """Return the marked voxels' patient coordinates in mm by SimpleITK (LPS)."""
    import SimpleITK

    image: Any = SimpleITK.ReadImage(str(path))
    steps = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    marked = np.argwhere(SimpleITK.GetArrayFromImage(image) > 0)[:, ::-1]
    return np.asarray(marked @ steps.T + np.array(image.GetOrigin()))


def test_simpleitk(seg: tuple[Phantom, Path]) -> None:
    """SimpleITK reads the SEG file itself."""
    phantom, path = seg
    phantom.assert_marked(_points_of_image(path))


def test_dcmqi(seg: tuple[Phantom, Path], tmp_path: Path) -> None:
    """Convert with dcmqi's segimage2itkimage to NRRD; SimpleITK reads that."""
    beside = Path(sys.executable).parent / "segimage2itkimage"
    tool = str(beside) if beside.exists() else shutil.which("segimage2itkimage")
    if tool is None:
        pytest.skip("dcmqi's segimage2itkimage is missing: pip install dcmqi")
    phantom, path = seg
    command = [tool, "--inputDICOM", str(path), "--outputDirectory", str(tmp_path), "--outputType", "nrrd"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    (converted,) = sorted(tmp_path.glob("*.nrrd"))
    phantom.assert_marked(_points_of_image(converted))


def test_measurements_are_the_ellipsoids(results: tuple[Phantom, Path, Form]) -> None:
    """The report's volume is that of the voxels, its diameter the longest in the acquired plane, within a pixel."""
    import highdicom

    phantom, out, form = results
    report = highdicom.sr.srread(out / "report.dcm")
    (group,) = report.content.get_volumetric_roi_measurement_groups()
    volume, diameter = group.get_measurements()
    assert volume.value == pytest.approx(phantom.mask.sum() * np.prod(form.steps_mm) / 1000, abs=1e-3)
    assert volume.value == pytest.approx(4 / 3 * np.pi * RADII_MM.prod(axis=1).sum() / 1000, rel=0.01)
    assert diameter.value == pytest.approx(_longest_in_plane_mm(form), abs=np.hypot(*form.steps_mm[1:]))
    (measured_on,) = diameter.referenced_images
    reference = measured_on.ReferencedSOPSequence[0]
    image = (reference.ReferencedSOPInstanceUID, reference.get("ReferencedFrameNumber"))
    assert phantom.mask[phantom.images.index(image)].any()
    (_, series) = group.referenced_segment
    assert series.value == "1.2.826.0.1.3680043.8.498.3"


def _longest_in_plane_mm(form: Form) -> float:
    """Return the longest chord of the ellipsoids in planes like the acquired ones: through the middle of one."""
    angles = np.linspace(0, np.pi, 3600)
    directions = np.outer(np.cos(angles), form.axes[0]) + np.outer(np.sin(angles), form.axes[1])
    return float(max((2 / np.linalg.norm(directions / radii, axis=1)).max() for radii in RADII_MM))


FINER_THAN_THE_NETWORK = Form(SAGITTAL, (45, 300, 340), (2.4, 0.35, 0.4))


@pytest.mark.parametrize("form", [*FORMS.values(), FINER_THAN_THE_NETWORK], ids=[*FORMS, "finer than the network"])
def test_through_the_network_and_back(form: Form, tmp_path: Path) -> None:
    """What is bright in the network's axial slices comes back to the acquired voxels: within half a voxel and 1 %."""
    phantom = make_phantom(tmp_path, form)
    (files,) = readers.find_studies(phantom.folder)
    study = readers.read_study(files)
    given = preprocess.to_network(study, Preprocessing())
    flair = given.slices[:, 1:2].astype(np.float32)
    logits = (flair - flair.max() / 2) / 8
    found = preprocess.to_segmentation(logits, study, given.mapping, 0.5).mask
    drawn = study.flair.voxels > 500
    assert found.sum() / drawn.sum() == pytest.approx(1, abs=0.01)
    moved = np.argwhere(found).mean(axis=0) - np.argwhere(drawn).mean(axis=0)
    assert np.abs(moved).max() < 0.1
    for wrong in np.argwhere(found != drawn):  # half a voxel: a face of it lies on the drawn surface
        s, r, c = wrong
        faces = [
            drawn[s, max(r - 1, 0) : r + 2, c],
            drawn[s, r, max(c - 1, 0) : c + 2],
            drawn[max(s - 1, 0) : s + 2, r, c],
        ]
        assert any(face.any() and not face.all() for face in faces)


@pytest.mark.parametrize("file", FORMATS.values())
def test_dciodvfy_finds_no_error(
    file: str, results: tuple[Phantom, Path, Form], dicom_errors: Callable[[Path], list[str]]
) -> None:
    """David Clunie's validator has no complaint that it calls an error."""
    assert dicom_errors(results[1] / file) == []
