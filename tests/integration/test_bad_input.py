"""What cannot be used, through the real command line: one clear sentence, the exit code, and no output left."""

# mypy: untyped-calls-exclude="SimpleITK"
from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeseg import bundle, cli

Make = Callable[[Path, Path, Path], None]
"""(folder to fill, TIFF example, DICOM example)"""


def _run(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    """`edgeseg infer` in this process; its exit code."""
    monkeypatch.setattr(sys, "argv", ["edgeseg", "infer", *map(str, arguments)])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert isinstance(exit_.value.code, int)
    return exit_.value.code


def _slices(example: Path) -> list[Path]:
    return sorted(example.glob("*[0-9].tif"), key=lambda path: int(path.stem.split("_")[-1]))


def _copy_dicom(example: Path, folder: Path, *series: str) -> list[Path]:
    """Copy series; the files of the last one, from the feet to the head."""
    import pydicom

    for name in series:
        shutil.copytree(example / name, folder / name)
    return sorted(
        (folder / series[-1]).iterdir(),
        key=lambda path: float(pydicom.dcmread(path, stop_before_pixels=True).ImagePositionPatient[2]),
    )


def _empty(_folder: Path, _tiff: Path, _dicom: Path) -> None:
    pass


def _gone(folder: Path, _tiff: Path, _dicom: Path) -> None:
    folder.rmdir()


def _truncated_dicom(folder: Path, _tiff: Path, dicom: Path) -> None:
    victim = _copy_dicom(dicom, folder, "pre", "post", "flair")[4]
    victim.write_bytes(victim.read_bytes()[:-9000])


def _truncated_header(folder: Path, _tiff: Path, dicom: Path) -> None:
    for path in _copy_dicom(dicom, folder, "flair"):
        path.write_bytes(path.read_bytes()[:200])


def _random_bytes(folder: Path, _tiff: Path, _dicom: Path) -> None:
    (folder / "scan.dcm").write_bytes(np.random.default_rng(0).bytes(4000))


def _text_as_dicom(folder: Path, _tiff: Path, _dicom: Path) -> None:
    (folder / "scan.dcm").write_text("Dear colleague, please find the images enclosed.\n")


def _other_files(folder: Path, _tiff: Path, _dicom: Path) -> None:
    (folder / "letter.pdf").write_bytes(b"%PDF")
    (folder / "photo.jpg").write_bytes(b"\xff\xd8")


def _ct(folder: Path, _tiff: Path, _dicom: Path) -> None:
    from pydicom.data import get_testdata_file

    shutil.copy(str(get_testdata_file("CT_small.dcm", download=False)), folder)


def _mr_small(folder: Path, _tiff: Path, _dicom: Path) -> None:
    from pydicom.data import get_testdata_file

    shutil.copy(str(get_testdata_file("MR_small.dcm", download=False)), folder)


def _mr_truncated(folder: Path, _tiff: Path, _dicom: Path) -> None:
    from pydicom.data import get_testdata_file

    shutil.copy(str(get_testdata_file("MR_truncated.dcm", download=False)), folder)


def _t1_only(folder: Path, _tiff: Path, dicom: Path) -> None:
    _copy_dicom(dicom, folder, "pre", "post")


def _unequal_tiff(folder: Path, tiff: Path, _dicom: Path) -> None:
    for path in _slices(tiff):
        shutil.copy(path, folder)
    odd = folder / _slices(tiff)[3].name
    Image.open(odd).resize((200, 240)).save(odd)


def _unequal_dicom(folder: Path, _tiff: Path, dicom: Path) -> None:
    import pydicom

    odd = _copy_dicom(dicom, folder, "flair")[3]
    dataset = pydicom.dcmread(odd)
    dataset.PixelData = dataset.pixel_array[:128].tobytes()
    dataset.Rows = 128
    dataset.save_as(odd)


def _missing_tiff(folder: Path, tiff: Path, _dicom: Path) -> None:
    for path in _slices(tiff):
        shutil.copy(path, folder)
    (folder / _slices(tiff)[3].name).unlink()


def _missing_dicom(folder: Path, _tiff: Path, dicom: Path) -> None:
    _copy_dicom(dicom, folder, "flair")[7].unlink()


def _masks_only(folder: Path, tiff: Path, _dicom: Path) -> None:
    for path in tiff.glob("*_mask.tif"):
        shutil.copy(path, folder)


def _mask_as_image(folder: Path, tiff: Path, _dicom: Path) -> None:
    for k, path in enumerate(_slices(tiff), 1):
        shutil.copy(path, folder / f"head_{k}.tif")
    shutil.copy(tiff / f"{tiff.name}_10_mask.tif", folder / "head_5.tif")


def _empty_mask_as_image(folder: Path, tiff: Path, dicom: Path) -> None:
    _mask_as_image(folder, tiff, dicom)
    shutil.copy(tiff / f"{tiff.name}_13_mask.tif", folder / "head_5.tif")


def _sixteen_bit(folder: Path, _tiff: Path, _dicom: Path) -> None:
    for k in range(6):
        Image.fromarray(np.full((64, 64), 300 * k, np.uint16)).save(folder / f"head_{k}.tif")


def _broken_tiff(folder: Path, tiff: Path, _dicom: Path) -> None:
    for path in _slices(tiff):
        shutil.copy(path, folder)
    victim = folder / _slices(tiff)[2].name
    victim.write_bytes(victim.read_bytes()[:3000])


def _no_numbers(folder: Path, tiff: Path, _dicom: Path) -> None:
    shutil.copy(_slices(tiff)[0], folder / "axial.tif")


def _four_dimensions(folder: Path, _tiff: Path, _dicom: Path) -> None:
    import SimpleITK

    SimpleITK.WriteImage(SimpleITK.Image([16, 16, 8, 3], SimpleITK.sitkFloat32), str(folder / "flair.nii.gz"))


def _broken_nifti(folder: Path, _tiff: Path, _dicom: Path) -> None:
    (folder / "flair.nii.gz").write_bytes(b"\x1f\x8b no gzip")


def _unnamed_nifti(folder: Path, _tiff: Path, _dicom: Path) -> None:
    import SimpleITK

    SimpleITK.WriteImage(SimpleITK.Image([16, 16, 8], SimpleITK.sitkFloat32), str(folder / "head.nii.gz"))


def _blank(folder: Path, _tiff: Path, _dicom: Path) -> None:
    for k in range(5):
        Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(folder / f"head_{k}.tif")


def _climbing_zip(folder: Path, _tiff: Path, _dicom: Path) -> None:
    with zipfile.ZipFile(folder / "study.zip", "w") as archive:
        archive.writestr("../../scan.dcm", "")


def _truncated_zip(folder: Path, tiff: Path, _dicom: Path) -> None:
    content = Path(shutil.make_archive(str(folder / "study"), "zip", tiff)).read_bytes()
    (folder / "study.zip").write_bytes(content[:-100])


def _large_dicom(folder: Path, _tiff: Path, dicom: Path) -> None:
    victim = _copy_dicom(dicom, folder, "flair")[4]
    os.truncate(victim, 4 << 30)


def _mosaics(folder: Path, _tiff: Path, dicom: Path) -> None:
    import pydicom

    for path in _copy_dicom(dicom, folder, "flair"):
        dataset = pydicom.dcmread(path)
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]
        dataset.save_as(path)


GIVE = "give a folder with DICOM files"
CASES: list[tuple[Make, str, str]] = [
    (_empty, "the folder is empty", GIVE),
    (_gone, "the folder does not exist", GIVE),
    (_truncated_dicom, "header that can be read and pixels that cannot", "copy or export the file again"),
    (_truncated_header, "truncated in its header .* and 14 more like it", "copy the files again"),
    (_random_bytes, "one file is not DICOM", "copy the files again"),
    (_text_as_dicom, "one file is a text file, not DICOM", GIVE),
    (_other_files, r"2 files were found \(.jpg, .pdf\)", GIVE),
    (_ct, r"only CT images found \(1 file\)", "give the MR study"),
    (_mr_small, "no FLAIR among 1 series", "add the FLAIR series"),
    (_mr_truncated, "no FLAIR among 1 series", "add the FLAIR series"),
    (_t1_only, r"no FLAIR among 2 series \(found: .*T1 before contrast", "add the FLAIR series"),
    (_unequal_tiff, "has 200 x 240 pixels and .* has 256 x 256", "export them again"),
    (_unequal_dicom, "slices of unequal size .256 x 128 and 256 x 256", "export the series again"),
    (_missing_tiff, "has slices 6 to 20, but number 9 is missing", "copy the whole series again"),
    (_missing_dicom, "a slice missing between slices 7 and 8 of 14", "export the whole series again"),
    (_masks_only, "holds only masks", "give the folder with the images"),
    (_mask_as_image, "head_5.tif holds only the values 0 and 255", "give the images"),
    (_empty_mask_as_image, "head_5.tif is greyscale and head_1.tif is RGB", "give slices of one kind"),
    (_sixteen_bit, "head_0.tif is a 16-bit TIFF", "export it with 8 bits"),
    (_broken_tiff, "cannot be read as a TIFF", "copy or export it again"),
    (_no_numbers, "axial.tif has no slice number in its name", "name the slices"),
    (_four_dimensions, "has 16 x 16 x 8 x 3 voxels", "extract the volume that it needs"),
    (_broken_nifti, "cannot be read as NIfTI", "copy or convert it again"),
    (_unnamed_nifti, "no FLAIR among 1 series", "file's name"),
    (_climbing_zip, "holds a link, or a name that climbs out of the archive", "ask its sender"),
    (_truncated_zip, "the archive cannot be unpacked", "copy it again"),
    (
        _large_dicom,
        "a slice missing .* 1 file is not DICOM, or truncated, or too large",
        "export the whole series again",
    ),
    (_mosaics, "15 images are mosaics", "export it as Enhanced MR"),
    (_blank, "blank FLAIR channel in all 5 slices", "give RGB slices"),
]


@pytest.mark.parametrize(("make", "found", "mend"), CASES, ids=[case[0].__name__.strip("_") for case in CASES])
def test_a_study_that_cannot_be_used(
    make: Make,
    found: str,
    mend: str,
    tmp_path: Path,
    example_tiff: Path,
    example_dicom: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    study, out = tmp_path / "study", tmp_path / "out"
    study.mkdir()
    make(study, example_tiff, example_dicom)
    before = {path: path.stat() for path in study.rglob("*") if path.is_file()}
    assert _run(monkeypatch, study, "-o", out) == 2
    _check_message(capsys.readouterr().err, found, mend)
    assert not out.exists()
    after = {path: path.stat() for path in study.rglob("*") if path.is_file()}
    assert [(path, now.st_size, now.st_mtime_ns) for path, now in after.items()] == [
        (path, was.st_size, was.st_mtime_ns) for path, was in before.items()
    ]


def _check_message(printed: str, found: str, mend: str) -> None:
    """One line, one or two sentences, no traceback, what was found and how to mend it."""
    lines = [line for line in printed.splitlines() if not line.startswith("Non-commercial")]
    assert len(lines) == 1, printed
    (line,) = lines
    assert line.startswith("error: ")
    assert re.search(found, line), line
    assert mend in line
    assert "Traceback" not in line
    assert "Error(" not in line
    assert not line.endswith((".", ":", ";"))
    assert line.count(". ") <= 1
    said = line.removeprefix("error: ").split(" ")[0]
    assert said.startswith(os.sep) or said[0].islower(), line


@pytest.mark.parametrize("place", ["afile", "afile/below", "/proc/edgeseg-cannot-be-here"])
def test_an_output_folder_that_cannot_be_written(
    place: str,
    tmp_path: Path,
    example_tiff: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "afile").write_text("here first")
    if place.startswith("/") and not Path("/proc/self").exists():
        pytest.skip("no /proc on this system")
    assert _run(monkeypatch, example_tiff, "-o", tmp_path / place) == 2
    _check_message(capsys.readouterr().err, "cannot write to", "give another folder with -o")
    assert (tmp_path / "afile").read_text() == "here first"
    assert [path.name for path in tmp_path.iterdir()] == ["afile"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write to a read-only folder")
def test_a_read_only_output_folder(
    tmp_path: Path, example_tiff: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir(mode=0o500)
    assert _run(monkeypatch, example_tiff, "-o", tmp_path / "out") == 2
    _check_message(capsys.readouterr().err, "cannot write to", "give another folder with -o")


def test_an_output_folder_inside_the_study(
    tmp_path: Path, example_tiff: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(example_tiff, tmp_path / "study")
    assert _run(monkeypatch, tmp_path / "study", "-o", tmp_path / "study" / "out") == 2
    _check_message(capsys.readouterr().err, "lies inside the input", "give a folder outside it with -o")
    assert not (tmp_path / "study" / "out").exists()


def _flip_a_byte(folder: Path) -> None:
    network = folder / "model.onnx"
    content = bytearray(network.read_bytes())
    content[len(content) // 3] ^= 1
    network.write_bytes(content)


def _no_network(folder: Path) -> None:
    (folder / "model.onnx").unlink()


def _half_a_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text((folder / "manifest.json").read_text()[:300])


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (_flip_a_byte, "is damaged: model.onnx has the SHA-256"),
        (_no_network, "has no readable model.onnx"),
        (_half_a_manifest, "has no usable manifest.json"),
    ],
)
def test_a_damaged_bundle(
    damage: Callable[[Path], None],
    found: str,
    tmp_path: Path,
    example_tiff: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(bundle.find(bundle.DEFAULT_ENGINE), tmp_path / "engine")
    damage(tmp_path / "engine")
    assert _run(monkeypatch, example_tiff, "-o", tmp_path / "out", "--engine", tmp_path / "engine") == 5
    _check_message(capsys.readouterr().err, found, "build the engine again")
    assert not (tmp_path / "out").exists()


def test_one_bad_study_among_many(
    tmp_path: Path, example_tiff: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a-letter", "b-ct", "c-head"):
        (tmp_path / "in" / name).mkdir(parents=True)
    _text_as_dicom(tmp_path / "in" / "a-letter", example_tiff, example_tiff)
    _ct(tmp_path / "in" / "b-ct", example_tiff, example_tiff)
    for path in _slices(example_tiff)[:5]:
        shutil.copy(path, tmp_path / "in" / "c-head")
    assert _run(monkeypatch, tmp_path / "in", "-o", tmp_path / "out", "--format", "masks", "--format", "report") == 3
    printed = capsys.readouterr()
    assert re.search(
        r"unreadable-\w{6}: the folder holds no MR images that can be read .one file is a text", printed.err
    )
    assert re.search(r"error: \w{12}: only CT images found", printed.err)
    assert re.search(
        r"2 of 3 studies are not done: unreadable-\w{6}, \w{12} .--identified says in which folders.", printed.err
    )
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["c-head"]
    assert "c-head" in printed.out


def test_no_traceback_in_a_process_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    code = "from edgeseg.cli import main; main()"
    run = subprocess.run(
        [sys.executable, "-c", code, "infer", "study"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert run.returncode == 2
    assert run.stdout == ""
    _check_message(run.stderr, "the folder is empty", GIVE)
    assert [path.name for path in tmp_path.iterdir()] == ["study"]
