"""DICOM studies: the example, pydicom's own files, and a phantom that is written here by pydicom alone."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from edgeseg.errors import StudyError
from edgeseg.readers import find_studies, read_study
from edgeseg.types import Study, Vector

if TYPE_CHECKING:
    from pydicom import FileDataset

EXAMPLES = Path(__file__).parents[3] / "examples"
EXAMPLE = EXAMPLES / "dicom" / "example-study"
TIFF = EXAMPLES / "tiff" / "TCGA_HT_7884_19980913"
SHAPE = (8, 20, 24)
SPACING_MM = (6.0, 3.0, 2.0)
PLANES = {
    "axial": (1.0, 0, 0, 0, 1, 0),
    "axial, feet first": (-1.0, 0, 0, 0, 1, 0),
    "axial, upside down": (1.0, 0, 0, 0, -1, 0),
    "sagittal": (0.0, 1, 0, 0, 0, -1),
    "coronal": (1.0, 0, 0, 0, 0, -1),
    "oblique": (0.96, 0.28, 0, -0.28, 0.96, 0),
}


def _phantom(points: Vector) -> Vector:
    """Value at places (..., 3) in mm, LPS: no two of left, posterior and head are alike."""
    x, y, z = np.moveaxis(points, -1, 0)
    head = (x / 40) ** 2 + (y / 40) ** 2 + (z / 40) ** 2 < 1
    left_marker = np.linalg.norm(points - [12.0, 6.0, 9.0], axis=-1) < 9
    return np.asarray(np.where(head, np.round(400 + 3 * x + 2 * y + 4 * z), 1) + 800.0 * left_marker)


def _write_series(
    folder: Path,
    plane: str = "axial",
    *,
    change: Callable[[FileDataset, int], None] | None = None,
    skip: tuple[int, ...] = (),
    series: str = "1",
    study: str = "1.2.3",
    **elements: Any,
) -> Path:
    """Write the phantom as one MR file a slice, in shuffled order of names."""
    folder.mkdir(parents=True, exist_ok=True)
    axes = np.array(PLANES[plane]).reshape(2, 3)
    normal = np.cross(axes[0], axes[1])
    steps = np.stack([normal * SPACING_MM[0], axes[1] * SPACING_MM[1], axes[0] * SPACING_MM[2]])
    corner = -(np.array(SHAPE) - 1) / 2 @ steps
    for n in range(SHAPE[0]):
        index = np.moveaxis(np.indices(SHAPE[1:]), 0, -1)
        points = corner + n * steps[0] + index @ steps[1:]
        dataset = _header(study, series, n)
        dataset.ImagePositionPatient = [f"{v:.6f}" for v in corner + n * steps[0]]
        dataset.ImageOrientationPatient = list(axes.ravel())
        dataset.PixelSpacing = list(SPACING_MM[1:])
        dataset.Rows, dataset.Columns = SHAPE[1:]
        dataset.PixelData = _phantom(points).astype("<u2").tobytes()
        for keyword, value in elements.items():
            setattr(dataset, keyword, value)
        if change is not None:
            change(dataset, n)
        if n not in skip:
            dataset.save_as(folder / f"{series}-{(n * 5) % 8}", enforce_file_format=True)
    return folder


def _header(study: str, series: str, n: int) -> FileDataset:
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = MRImageStorage, ExplicitVRLittleEndian
    meta.MediaStorageSOPInstanceUID = f"{study}.{series}.{n + 1}"
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = MRImageStorage, meta.MediaStorageSOPInstanceUID
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, f"{study}.{series}"
    dataset.Modality, dataset.SeriesNumber, dataset.SeriesDescription = "MR", series, "AX FLAIR"
    dataset.EchoTime, dataset.RepetitionTime, dataset.InversionTime = 120, 9000, 2200
    dataset.ImageType, dataset.ScanningSequence = ["ORIGINAL", "PRIMARY", "OTHER"], ["SE", "IR"]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 0
    return dataset


def _read(path: Path) -> Study:
    (files,) = find_studies(path)
    return read_study(files)


def test_example_holds_what_its_tiff_slices_hold() -> None:
    study, slices = _read(EXAMPLE), _read(TIFF)
    for channel, factor in (("pre", 3), ("flair", 4), ("post", 5)):
        volume, expected = getattr(study, channel), getattr(slices, channel)
        np.testing.assert_array_equal(volume.voxels, expected.voxels * factor)
        assert study.channels[channel].filled_with == "own"  # type: ignore[index]
    assert study.channels["pre"].alignment is not None
    assert study.channels["pre"].alignment.method == "same grid"
    assert len(study.name) == 12
    assert study.uid.startswith("2.25.")
    assert not study.warnings


def test_headers_and_instances_are_in_slice_order() -> None:
    study = _read(EXAMPLE)
    assert [header.InstanceNumber for header in study.headers] == list(range(1, 16))
    assert tuple(header.SOPInstanceUID for header in study.headers) == study.flair.instance_ids
    assert all("PixelData" not in header for header in study.headers)
    assert study.headers[0].PatientName == "Example^Synthetic"
    assert study.flair.geometry is not None
    np.testing.assert_allclose(study.flair.geometry.spacing_mm, [6.0, 0.9375, 0.9375])


@pytest.mark.parametrize("plane", PLANES)
def test_every_voxel_lies_where_the_phantom_has_its_value(tmp_path: Path, plane: str) -> None:
    study = _read(_write_series(tmp_path, plane))
    assert study.flair.geometry is not None
    index = np.moveaxis(np.indices(SHAPE), 0, -1).astype(np.float64)
    np.testing.assert_array_equal(study.flair.voxels, _phantom(study.flair.geometry.position_mm(index)))
    assert np.linalg.det(study.flair.geometry.direction[:, ::-1]) == pytest.approx(1.0)


def test_rescale_is_applied(tmp_path: Path) -> None:
    plain = _read(_write_series(tmp_path / "a"))
    scaled = _read(_write_series(tmp_path / "b", RescaleSlope=2, RescaleIntercept=-10))
    np.testing.assert_array_equal(scaled.flair.voxels, plain.flair.voxels * 2 - 10)


def test_series_are_told_apart_by_content_in_one_folder(tmp_path: Path) -> None:
    _write_series(tmp_path)
    _write_series(tmp_path, series="2", SeriesDescription="t1", EchoTime=14, RepetitionTime=500, InversionTime=None)
    _write_series(tmp_path, "sagittal", series="3", SeriesDescription="localizer")
    _write_series(tmp_path, series="4", ImageType=["DERIVED", "SECONDARY", "MPR"])
    _write_series(tmp_path, series="5", Modality="CT")
    study = _read(tmp_path)
    assert study.channels["flair"].series.startswith("series 1 (")
    assert study.channels["pre"].series.startswith("series 2 (")
    assert not study.warnings


def test_a_localizer_inside_the_flair_series_is_split_off(tmp_path: Path) -> None:
    _write_series(tmp_path / "a")
    _write_series(tmp_path / "b", "sagittal", skip=tuple(range(3, 8)), change=_as_localizer)
    assert _read(tmp_path).flair.voxels.shape == SHAPE


def _as_localizer(dataset: FileDataset, n: int) -> None:
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.9.{n + 1}"


def test_copies_and_text_files_are_left_aside_with_a_warning(tmp_path: Path) -> None:
    _write_series(tmp_path / "a")
    shutil.copy(tmp_path / "a" / "1-0", tmp_path / "a" / "copy of it")
    (tmp_path / "a" / "notes.dcm").write_text("not DICOM at all")
    study = _read(tmp_path)
    assert study.flair.voxels.shape == SHAPE
    assert any("1 file is not DICOM" in warning for warning in study.warnings)
    assert any("1 file is a copy" in warning for warning in study.warnings)


def test_files_without_preamble_are_read(tmp_path: Path) -> None:
    import pydicom

    for path in _write_series(tmp_path / "a").iterdir():
        dataset = pydicom.dcmread(path)
        bare = pydicom.Dataset(dataset)
        (tmp_path / "b").mkdir(exist_ok=True)
        bare.save_as(tmp_path / "b" / path.name, implicit_vr=True, little_endian=True)
    np.testing.assert_array_equal(_read(tmp_path / "b").flair.voxels, _read(tmp_path / "a").flair.voxels)


def _other_size(dataset: FileDataset, n: int) -> None:
    if n == 3:
        dataset.Rows, dataset.PixelData = 10, bytes(10 * SHAPE[2] * 2)


def _same_place(dataset: FileDataset, n: int) -> None:
    if n == 3:
        dataset.ImagePositionPatient[2] = float(dataset.ImagePositionPatient[2]) + SPACING_MM[0]


def _slanted(dataset: FileDataset, n: int) -> None:
    dataset.ImagePositionPatient[0] = float(dataset.ImagePositionPatient[0]) + n


@pytest.mark.parametrize(
    ("arguments", "found", "mend"),
    [
        ({"skip": (4,)}, r"missing between slices 4 and 5 of 7 \(at -3.0 and 9.0 mm", "export the whole series again"),
        ({"change": _other_size}, r"unequal size \(24 x 10 and 24 x 20 pixels", "export the series again"),
        ({"change": _same_place}, r"several images at the same place", "one image for each slice"),
        ({"change": _slanted}, r"do not lie above each other", "export it as acquired"),
        ({"Modality": "CT"}, r"only CT images found \(8 files\)", "give the MR study"),
        ({"Modality": "PT"}, r"no MR images found \(files by modality: 8 PT\)", "give an MR study"),
        (
            {"SeriesDescription": "t1", "EchoTime": 14, "RepetitionTime": 500, "InversionTime": None},
            r"no FLAIR among 1 series \(found: T1 before contrast\)",
            "add the FLAIR series",
        ),
        ({"skip": (0, 1, 2, 3)}, r"found: localizer", "add the FLAIR series"),
        ({"ImageOrientationPatient": None}, r"none says where it lies", "export the original images"),
    ],
)
def test_bad_studies_are_refused(tmp_path: Path, arguments: dict[str, Any], found: str, mend: str) -> None:
    with pytest.raises(StudyError, match=found) as error:
        _read(_write_series(tmp_path, **arguments))
    assert mend in str(error.value)


@pytest.mark.parametrize("folder", ["pre", "flair", "post"])
def test_truncated_pixels_are_refused_in_every_encoding(tmp_path: Path, folder: str) -> None:
    from edgeseg.readers import dicom
    from edgeseg.readers.series import find_series

    for path in (EXAMPLE / folder).iterdir():
        shutil.copy(path, tmp_path)
    victim = max(tmp_path.iterdir(), key=lambda path: path.stat().st_size)
    victim.write_bytes(victim.read_bytes()[: victim.stat().st_size * 2 // 3])
    (series,), _ = find_series(sorted(tmp_path.iterdir()))
    with pytest.raises(StudyError, match=r"pixels that cannot \(truncated or damaged\)") as error:
        dicom.read_volume(dicom.order_frames(series))
    assert str(error.value).startswith("one file has a header")
    assert error.value.identified.startswith(f"{victim} has a header")


def test_a_file_truncated_in_its_header_is_named_beside_the_gap(tmp_path: Path) -> None:
    _write_series(tmp_path)
    victim = tmp_path / "1-4"
    victim.write_bytes(victim.read_bytes()[:400])
    with pytest.raises(StudyError, match=r"slice missing .* 1 file is not DICOM, or truncated, .* aside$") as error:
        _read(tmp_path)
    assert error.value.identified == f"{error.value} (1-4)"


def test_a_broken_t1_leaves_the_study_with_flair(tmp_path: Path) -> None:
    _write_series(tmp_path)
    _write_series(
        tmp_path, series="2", skip=(4,), SeriesDescription="t1", EchoTime=14, RepetitionTime=500, InversionTime=None
    )
    study = _read(tmp_path)
    assert study.pre is None
    assert study.channels["pre"].filled_with == "flair"
    assert "slice missing" in study.warnings[0]


def test_an_unknown_transfer_syntax_is_named(tmp_path: Path) -> None:
    def mpeg(dataset: FileDataset, _: int) -> None:
        from pydicom.encaps import encapsulate

        dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.100"
        dataset.PixelData = encapsulate([b"\0\0"])
        dataset["PixelData"].VR = "OB"

    with pytest.raises(StudyError, match="compressed as MPEG2"):
        _read(_write_series(tmp_path, change=mpeg))


def test_enhanced_multiframe_is_read_by_its_frames(tmp_path: Path) -> None:
    import pydicom
    from pydicom.uid import ExplicitVRLittleEndian

    classic = _write_series(tmp_path / "classic")
    frames = [pydicom.dcmread(path) for path in sorted(classic.iterdir())]
    enhanced = _header("1.2.4", "1", 0)
    for keyword in ("EchoTime", "RepetitionTime", "InversionTime"):
        delattr(enhanced, keyword)
    enhanced.Rows, enhanced.Columns, enhanced.NumberOfFrames = *SHAPE[1:], len(frames)
    shared = pydicom.Dataset()
    shared.MREchoSequence = [_item(EffectiveEchoTime=120.0)]
    shared.MRTimingAndRelatedParametersSequence = [_item(RepetitionTime=9000)]
    shared.MRModifierSequence = [_item(InversionTimes=[2200.0])]
    shared.PixelMeasuresSequence = [_item(PixelSpacing=list(SPACING_MM[1:]))]
    shared.PixelValueTransformationSequence = [_item(RescaleSlope=2, RescaleIntercept=1)]
    enhanced.SharedFunctionalGroupsSequence = [shared]
    enhanced.PerFrameFunctionalGroupsSequence = [
        _item(
            PlanePositionSequence=[_item(ImagePositionPatient=frame.ImagePositionPatient)],
            PlaneOrientationSequence=[_item(ImageOrientationPatient=frame.ImageOrientationPatient)],
        )
        for frame in frames
    ]
    enhanced.PixelData = b"".join(frame.PixelData for frame in frames)
    enhanced.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    enhanced.save_as(tmp_path / "enhanced.dcm", enforce_file_format=True)
    study, expected = _read(tmp_path / "enhanced.dcm"), _read(classic)
    np.testing.assert_array_equal(study.flair.voxels, expected.flair.voxels * 2 + 1)
    assert study.flair.geometry is not None
    assert expected.flair.geometry is not None
    np.testing.assert_allclose(study.flair.geometry.origin_mm, expected.flair.geometry.origin_mm)
    assert len(study.headers) == 1
    assert "inversion time 2200 ms" in study.channels["flair"].reason


def _item(**elements: Any) -> Any:
    import pydicom

    item = pydicom.Dataset()
    for keyword, value in elements.items():
        setattr(item, keyword, value)
    return item


@pytest.mark.parametrize(
    "name",
    [
        *("MR_small_RLE.dcm", "MR_small_bigendian.dcm", "MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm"),
        *("MR_small_implicit.dcm", "MR_small_expb.dcm", "MR_small_padded.dcm"),
    ],
)
def test_pydicoms_own_mr_file_decodes_alike_in_every_transfer_syntax(name: str) -> None:
    from edgeseg.readers import dicom

    np.testing.assert_array_equal(_pixels(dicom, name), _pixels(dicom, "MR_small.dcm"))


def _pixels(dicom: Any, name: str) -> Any:
    from edgeseg.readers.series import find_series

    (series,), _ = find_series([_pydicoms(name)])
    return dicom.read_volume(series.frames)[0].voxels


def _pydicoms(name: str) -> Path:
    import pydicom.data

    return Path(str(pydicom.data.get_testdata_file(name, download=False)))


def test_pydicoms_truncated_file_is_refused() -> None:
    from edgeseg.readers import dicom

    with pytest.raises(StudyError, match=r"a header that can be read and pixels that cannot") as error:
        _pixels(dicom, "MR_truncated.dcm")
    assert "MR_truncated.dcm has" in error.value.identified


def test_pydicoms_localizers_and_projections_are_no_flair() -> None:
    folder = _pydicoms("DICOMDIR").parent / "98892003"
    studies = find_studies(folder)
    assert len(studies) == 3
    for files in studies:
        with pytest.raises(StudyError, match=r"no FLAIR among \d+ series \(found: .*localizer"):
            read_study(files)


def test_pydicoms_ct_study_is_refused() -> None:
    files = find_studies(_pydicoms("DICOMDIR").parent / "98892001")[0]
    with pytest.raises(StudyError, match="only CT images found"):
        read_study(files)
