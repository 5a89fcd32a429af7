"""Secondary capture: a colour frame a slice, with the outline on the marked ones, that any viewer opens."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgeseg import readers
from edgeseg.types import Segmentation, Study
from edgeseg.writers import ReportFacts, default_formats, write
from edgeseg.writers.display import OUTLINE

FACTS = ReportFacts(engine={"name": "test-fp32", "sha256": "ab" * 32}, preprocessing={}, threshold=0.5)
MARKED = 6


@pytest.fixture(scope="module")
def study(example_dicom: Path) -> Study:
    """The example patient: 15 slices of 256 x 256, axial."""
    (files,) = readers.find_studies(example_dicom)
    return readers.read_study(files)


@pytest.fixture(scope="module")
def path(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The secondary capture of one marked slice, on the patient's left."""
    folder = tmp_path_factory.mktemp("capture")
    mask = np.zeros(study.flair.voxels.shape, dtype=bool)
    mask[MARKED, 100:130, 150:180] = True
    areas = tuple(int(area) for area in mask.sum(axis=(1, 2)))
    found = Segmentation(mask, mask.astype(np.float32), areas, 1.0, None)
    assert write(found, study, ["secondary-capture"], folder, FACTS) == ["secondary-capture.dcm"]
    return folder / "secondary-capture.dcm"


def _amber(frame: Any) -> Any:
    return (np.abs(frame.astype(int) - OUTLINE) < 12).all(axis=-1)


def test_it_is_valid(path: Path, dicom_errors: Callable[[Path], list[str]]) -> None:
    """The validator knows the class and finds no error."""
    assert dicom_errors(path) == []


def test_it_says_what_it_is(path: Path, study: Study) -> None:
    """Class, no text that identifies the patient, derived from every image of the series, in the same study."""
    import pydicom

    capture = pydicom.dcmread(path)
    assert capture.SOPClassUID.name == "Multi-frame True Color Secondary Capture Image Storage"
    assert (capture.BurnedInAnnotation, capture.ImageType[0]) == ("NO", "DERIVED")
    assert capture.StudyInstanceUID == study.uid
    sources = [item.ReferencedSOPInstanceUID for item in capture.SourceImageSequence]
    assert sources == list(study.flair.instance_ids)
    assert capture.ReferencedSeriesSequence[0].SeriesInstanceUID == study.headers[0].SeriesInstanceUID
    assert "research" in capture.DerivationDescription
    assert list(capture.PageNumberVector) == list(range(1, 16))


def test_the_marked_slice_alone_has_an_outline(path: Path) -> None:
    """Square pixels, all frames alike, and amber around what was marked: on the picture's right, the patient's left."""
    import pydicom

    frames = pydicom.dcmread(path).pixel_array
    assert frames.shape == (15, 510, 480, 3)
    assert [index for index, frame in enumerate(frames) if _amber(frame).any()] == [MARKED]
    rows, columns = np.nonzero(_amber(frames[MARKED]))
    scale = 480 / 256
    expected = np.array([100, 130, 150, 180]) * scale
    assert np.array([rows.min(), rows.max(), columns.min(), columns.max()]) == pytest.approx(expected, abs=3)


def test_dcmtk_renders_the_same_picture(path: Path, tmp_path: Path) -> None:
    """A foreign reader shows the frame as it was drawn."""
    import pydicom

    tool = shutil.which("dcm2pnm")
    if tool is None:
        pytest.skip("dcm2pnm is missing: apt-get install dcmtk")
    picture = tmp_path / "frame.ppm"
    command = [tool, "--write-raw-pnm", "--frame", str(MARKED + 1), str(path), str(picture)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    with Image.open(picture) as shown:
        np.testing.assert_array_equal(np.asarray(shown), pydicom.dcmread(path).pixel_array[MARKED])


def test_it_is_made_on_request_alone(study: Study) -> None:
    """It weighs more than everything else."""
    assert "secondary-capture" not in default_formats(study)
