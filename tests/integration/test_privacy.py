"""No text of a DICOM study's headers, files or folders reaches an output, but where DICOM itself or the user wants it.

A canary is planted in every text attribute that DICOM knows, in sequences and private elements, in names of files and
folders; then every byte that comes out is searched: files, their names, both streams, JSON; of studies that fail too.
"""

from __future__ import annotations

import gzip
import io
import logging
import re
import shutil
import struct
import sys
from base64 import b64decode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgeseg import cli, readers

FOLDER, PERSON = "CANARY^JOHN 19370911", "CANARY^JÖRN"
SECRETS = re.compile(r"canary|j.{1,2}rn\b|1937[-./]?09[-./]?11|087Y|031337", re.IGNORECASE)
NUMBER = "7171717"
TEXTS = {"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"}
OTHERS = {"AS": "087Y", "DA": "19370911", "DT": "19370911031337.42", "TM": "031337.42"}
KEPT = {
    *("ImageType", "Modality", "PhotometricInterpretation", "ScanningSequence", "SpecificCharacterSet"),
    *("ContrastBolusAgent", "EchoPulseSequence", "EchoPlanarPulseSequence", "InversionRecovery"),
}
"""What tells an MR image and its sequence: another value would make it another one."""
PATIENT_AND_STUDY = {
    *("PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "PatientAge"),
    *("AccessionNumber", "ReferringPhysicianName", "StudyID", "StudyDate", "StudyTime", "StudyDescription"),
}
DERIVED_DATES = {
    *("ContentDate", "ContentTime", "SeriesDate", "SeriesTime", "InstanceCreationDate", "InstanceCreationTime"),
    *("AcquisitionDate", "AcquisitionTime", "DateTime", "ObservationDateTime", "VerificationDateTime"),
}
"""Dates of the results, which are the source's."""

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """`edgeseg infer` in this process: its exit code, and what it and the libraries below it printed and logged."""
    log = io.StringIO()
    handler = logging.StreamHandler(log)

    def infer(*arguments: str | Path) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["edgeseg", "infer", *map(str, arguments)])
        code: Any = 0
        try:
            cli.main()
        except SystemExit as exit_:
            code = exit_.code or 0
        printed = "".join(capfd.readouterr()) + log.getvalue()
        log.truncate(0)
        return code, printed

    logging.getLogger().addHandler(handler)  # as a service has one that writes everything down
    yield infer
    logging.getLogger().removeHandler(handler)


def _texts(within: Any = None) -> Iterator[tuple[int, str, str]]:
    """Tag, VR and canary of every text attribute that DICOM knows, but those that are kept."""
    from pydicom.datadict import DicomDictionary

    for tag, (vr, multiplicity, _, _, keyword) in DicomDictionary.items():
        if tag >> 16 in (0x0000, 0x0002, 0x0004, 0xFFFE) or keyword in KEPT or (within and keyword not in within):
            continue
        if vr in TEXTS:
            value = f"CANARY{tag:08X}"
            yield tag, vr, f"http://{value}" if vr == "UR" else PERSON if vr == "PN" else value
        elif vr in OTHERS:
            yield tag, vr, OTHERS[vr]
        elif vr in ("IS", "DS") and tag >> 16 in (0x0008, 0x0010, 0x0032, 0x0038, 0x0040) and multiplicity == "1":
            yield tag, vr, NUMBER


def _planted(source: Path, texts: list[tuple[int, str, str]]) -> Any:
    """A file's dataset with canaries in its own attributes, in others, in sequences, privately, and in its meta."""
    import pydicom
    from pydicom import Dataset

    dataset = pydicom.dcmread(source)
    described = str(dataset.SeriesDescription)
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.preamble = b"CANARY PREAMBLE".ljust(128)
    dataset.file_meta.SourceApplicationEntityTitle = "CANARY_AE"
    dataset.file_meta.ImplementationVersionName = "CANARY_VERSION"
    for tag, vr, value in texts:
        dataset.add_new(tag, vr, value)
    dataset.SeriesDescription = f"{described} CANARY"
    item = Dataset()
    for tag, vr, value in texts[:: max(1, len(texts) // 60)]:
        item.add_new(tag, vr, value)
    item.PatientName = item.PersonName = PERSON
    item.CodeValue, item.CodeMeaning = "CANARY", "CANARY"
    inner = Dataset()
    inner.OtherPatientIDsSequence = [item]
    for keyword in ("RequestAttributesSequence", "OtherPatientIDsSequence", "ReferencedPatientSequence"):
        setattr(dataset, keyword, [item, inner])
    for group in (0x0009, 0x0019, 0x0029, 0x0051):
        block = dataset.private_block(group, "CANARY PRIVATE", create=True)
        block.add_new(1, "LO", "CANARY")
        block.add_new(2, "UN", b"CANARY")
        block.add_new(3, "SQ", [item])
    return dataset


def _plant(example: Path, folder: Path, texts: list[tuple[int, str, str]]) -> None:
    """The example study with canaries, in folders and files that have names like them."""
    for source in sorted(example.glob("*/*.dcm")):
        place = folder / f"CANARY {source.parent.name}" / f"CANARY^JOHN-{source.stem}.dcm"
        place.parent.mkdir(parents=True, exist_ok=True)
        _planted(source, texts).save_as(place)


@pytest.fixture(scope="module")
def whole(example_dicom: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example study with a canary in every text attribute."""
    texts = list(_texts())
    assert len(texts) > 1500
    assert {vr for _, vr, _ in texts} == {*TEXTS, *OTHERS, "IS", "DS"}
    folder = tmp_path_factory.mktemp("whole") / FOLDER
    _plant(example_dicom, folder, texts)
    return folder


@pytest.fixture(scope="module")
def planted(example_dicom: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example study with canaries in the attributes that studies usually have."""
    usual = {
        *("PatientName", "PatientID", "PatientBirthDate", "OtherPatientIDs", "PatientComments", "InstitutionName"),
        *("StudyDescription", "ProtocolName", "SequenceName", "StationName", "OperatorsName", "ImageComments"),
        *("AccessionNumber", "StudyID", "StudyDate", "StudyTime", "BodyPartExamined", "PatientAge"),
    }
    folder = tmp_path_factory.mktemp("planted") / FOLDER
    _plant(example_dicom, folder, list(_texts(usual)))
    return folder


# --- what is searched


def _check(output: Path, printed: str) -> None:
    """Nothing in what was printed, in names of files and folders, or in their content."""
    assert not _found(printed), printed
    for path in sorted(output.rglob("*")) if output.exists() else ():
        assert not _found(path.relative_to(output).as_posix())
        for part in _contents(path) if path.is_file() else ():
            assert not _found(part), path.name


def _found(text: str) -> list[str]:
    return [*SECRETS.findall(text), *re.findall(rf"\b{NUMBER}\b", text)]


def _contents(path: Path) -> Iterator[str]:
    """A file's content as text, and what is packed inside it."""
    content = path.read_bytes()
    if path.suffix == ".dcm":
        yield from _dicom_texts(path)
        return
    if path.suffix != ".png":
        yield content.decode("latin-1")
    if path.suffix == ".gz":
        yield gzip.decompress(content).decode("latin-1")
    elif path.suffix == ".png":
        yield from _png_texts(content)
        with Image.open(path) as picture:
            yield repr((picture.info, picture.getexif()))
    elif path.suffix == ".html":
        for picture in re.findall(r"[A-Za-z0-9+/]{200,}={0,2}", content.decode()):
            image = Image.open(io.BytesIO(b64decode(picture)))
            yield repr((image.info, image.getexif()))


def _png_texts(content: bytes) -> Iterator[str]:
    """Every chunk but those of the compressed picture, in which any few letters turn up by chance."""
    place = 8
    while place < len(content):
        length, kind = struct.unpack_from(">I4s", content, place)
        if kind != b"IDAT":
            yield content[place : place + length + 12].decode("latin-1")
        place += length + 12


def _dicom_texts(path: Path) -> Iterator[str]:
    """Every element's value but those of patient and study, which DICOM wants in whatever belongs to the study."""
    import pydicom

    dataset = pydicom.dcmread(path)
    for part in (dataset.file_meta, dataset):
        for element in part.iterall():
            if element.VR != "SQ" and element.keyword not in PATIENT_AND_STUDY | DERIVED_DATES:
                value = element.value.decode("latin-1") if isinstance(element.value, bytes) else str(element.value)
                yield f"{element.tag} {value}"
    yield path.read_bytes()[:128].decode("latin-1")


def test_the_search_finds_what_is_there(planted: Path, tmp_path: Path) -> None:
    victim = tmp_path / "out" / "copy.dcm"
    victim.parent.mkdir()
    shutil.copy(next(planted.rglob("*.dcm")), victim)
    with pytest.raises(AssertionError):
        _check(victim.parent, "")
    for printed in (FOLDER, "born 1937-09-11", PERSON, f"id {NUMBER}", "aged 087Y"):
        with pytest.raises(AssertionError):
            _check(tmp_path / "nowhere", printed)


# --- a study that is done


def test_a_study_that_would_tell_everything(whole: Path, example_dicom: Path, tmp_path: Path, run: Run) -> None:
    code, printed = run(whole, "-o", tmp_path / "out")
    assert code == 0
    (folder,) = (tmp_path / "out").iterdir()
    assert {"report.json", "report.html", "mask.nii.gz", "segmentation.dcm"} <= {path.name for path in folder.iterdir()}
    _check(tmp_path / "out", printed)
    assert f"Report: {folder}/report.html" in " ".join(printed.split())
    run(example_dicom, "-o", tmp_path / "plain")
    assert (tmp_path / "plain" / folder.name / "mask.nii.gz").read_bytes() == (folder / "mask.nii.gz").read_bytes()


def test_json_and_a_batch_with_failures(planted: Path, tmp_path: Path, run: Run) -> None:
    for name in ("a", "b", "c"):
        shutil.copytree(planted, tmp_path / FOLDER / f"CANARY {name}")
    _other_study(tmp_path / FOLDER / "CANARY b", "1.2.3")
    _other_study(tmp_path / FOLDER / "CANARY c", "1.2.4")
    _without_flair(tmp_path / FOLDER / "CANARY b")
    _unreadable(tmp_path / FOLDER / "CANARY c")
    for arguments in ((), ("--json",)):
        code, printed = run(tmp_path / FOLDER, "-o", tmp_path / "out", *arguments)
        assert code == 3
        assert "no FLAIR among 2 series" in printed
        assert "4 of 5 studies are not done" in " ".join(printed.split())
        _check(tmp_path / "out", printed)


@pytest.mark.parametrize("arguments", [(), ("--json",)])
def test_identified_names_patient_and_folder(
    arguments: tuple[str, ...], planted: Path, tmp_path: Path, run: Run
) -> None:
    shutil.copytree(planted, tmp_path / FOLDER / "CANARY good")
    shutil.copytree(planted, tmp_path / FOLDER / "CANARY bad")
    _other_study(tmp_path / FOLDER / "CANARY bad", "1.2.3")
    _without_flair(tmp_path / FOLDER / "CANARY bad")
    code, printed = run(tmp_path / FOLDER, "-o", tmp_path / "out", "--identified", *arguments)
    assert code == 3
    assert str(tmp_path / FOLDER / "CANARY bad") in printed.replace("\n", "") or arguments
    assert "CANARY bad" in printed
    (folder,) = (tmp_path / "out").iterdir()
    assert not _found(folder.name)  # the file's name stays as it is
    for name in ("report.json", "report.html"):
        text = (folder / name).read_text(encoding="utf-8")
        assert PERSON in text
        assert "19370911" in text
        assert "CANARY00081010" not in text  # the station's name is nobody's business


# --- studies that fail, or nearly: each error and each warning is where a name gets out


def _files(folder: Path, series: str) -> list[Path]:
    return sorted((folder / f"CANARY {series}").iterdir())


def _change(path: Path, **elements: Any) -> None:
    import pydicom

    dataset = pydicom.dcmread(path)
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    dataset.save_as(path)


def _other_study(folder: Path, uid: str) -> None:
    for path in folder.rglob("*.dcm"):
        _change(path, StudyInstanceUID=uid)


def _write_bytes_into(path: Path, keyword: str, value: str, written: bytes) -> None:
    """Give an element a value that pydicom would refuse to write."""
    _change(path, **{keyword: value})
    content = path.read_bytes()
    assert content.count(value.encode()) == 1
    path.write_bytes(content.replace(value.encode(), written.ljust(len(value))))


def _broken_pixels(folder: Path) -> None:
    victim = _files(folder, "flair")[4]
    victim.write_bytes(victim.read_bytes()[:-9000])


def _missing_slice(folder: Path) -> None:
    import pydicom

    places = {path: float(pydicom.dcmread(path).ImagePositionPatient[2]) for path in _files(folder, "flair")}
    sorted(places, key=lambda path: places[path])[7].unlink()


def _without_flair(folder: Path) -> None:
    shutil.rmtree(folder / "CANARY flair")


def _unreadable(folder: Path) -> None:
    for path in folder.rglob("*.dcm"):
        path.write_bytes(path.read_bytes()[:200])


def _half_unreadable(folder: Path) -> None:
    for path in _files(folder, "flair")[:3]:
        path.write_bytes(path.read_bytes()[:200])


def _unknown_modality(folder: Path) -> None:
    for path in folder.rglob("*.dcm"):
        _change(path, Modality="CANARY")


def _rescale_that_is_no_number(folder: Path) -> None:
    for path in _files(folder, "flair"):
        _change(path, RescaleIntercept=0)
        _write_bytes_into(path, "RescaleSlope", "98765432101", b"CANARY")


def _place_that_is_no_number(folder: Path) -> None:
    for path in _files(folder, "flair"):
        _write_bytes_into(path, "ImagePositionPatient", "98765432101\\1\\2", b"CANARY\\CANARY")


def _unknown_syntax(folder: Path) -> None:
    import pydicom

    for path in _files(folder, "flair"):
        dataset = pydicom.dcmread(path)
        dataset.file_meta.TransferSyntaxUID = "1.2.826.0.1.3680043.8.498.7171717"
        dataset.save_as(path, implicit_vr=False, little_endian=True)


def _colours(folder: Path) -> None:
    for path in _files(folder, "flair"):
        _change(path, SamplesPerPixel=3, PhotometricInterpretation="CANARY")


def _text_in_place_of_images(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "CANARY^JOHN.dcm").write_text("Dear colleague, CANARY JOHN was here.")


def _nothing(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def _gone(folder: Path) -> None:
    shutil.rmtree(folder)


FAILURES: list[tuple[Callable[[Path], None], str]] = [
    (_broken_pixels, "one file has a header that can be read and pixels that cannot"),
    (_missing_slice, "a slice missing between slices 7 and 8"),
    (_without_flair, "no FLAIR among 2 series"),
    (_unreadable, "one file is DICOM, but truncated"),
    (_half_unreadable, "3 files are not DICOM, or truncated"),
    (_unknown_modality, "no MR images found"),
    (_rescale_that_is_no_number, "rescale slope"),
    (_place_that_is_no_number, "no FLAIR among 2 series"),
    (_unknown_syntax, "pixels that cannot"),
    (_colours, "no FLAIR among 3 series"),
    (_text_in_place_of_images, "one file is a text file"),
    (_nothing, "the folder is empty"),
    (_gone, "the folder does not exist"),
]


@pytest.mark.parametrize(("damage", "said"), FAILURES, ids=[case[0].__name__.strip("_") for case in FAILURES])
def test_a_study_that_cannot_be_used_stays_nameless(
    damage: Callable[[Path], None], said: str, planted: Path, tmp_path: Path, run: Run
) -> None:
    shutil.copytree(planted, tmp_path / FOLDER)
    damage(tmp_path / FOLDER)
    code, printed = run(tmp_path / FOLDER, "-o", tmp_path / "out")
    assert code == 2
    assert said in " ".join(printed.split())
    _check(tmp_path / "out", printed)
    code, printed = run(tmp_path / FOLDER, "-o", tmp_path / "out", "--identified")
    assert code == 2
    assert said.removeprefix("one file ").removeprefix("the folder ") in " ".join(printed.split())


def test_an_output_folder_inside_the_study(planted: Path, tmp_path: Path, run: Run) -> None:
    shutil.copytree(planted, tmp_path / FOLDER)
    code, printed = run(tmp_path / FOLDER, "-o", tmp_path / FOLDER / "out")
    assert code == 2
    _check(tmp_path / "nowhere", printed)
    code, printed = run(tmp_path / FOLDER, "-o", tmp_path / FOLDER / "out", "--identified")
    assert FOLDER in printed


def test_warnings_stay_nameless(planted: Path, tmp_path: Path, run: Run) -> None:
    """A T1 that cannot be read, one in another place, and a file that is none."""
    shutil.copytree(planted, tmp_path / FOLDER)
    victim = _files(tmp_path / FOLDER, "pre")[4]
    victim.write_bytes(victim.read_bytes()[:-9000])
    for path in _files(tmp_path / FOLDER, "post"):
        _change(path, ImagePositionPatient=[500, 500, float(np.random.default_rng(0).uniform(0, 1))])
    (tmp_path / FOLDER / "CANARY^JOHN.dcm").write_text("CANARY")
    code, printed = run(tmp_path / FOLDER, "-o", tmp_path / "out")
    assert code == 0
    assert "warning:" in printed
    assert "was left out" in printed
    _check(tmp_path / "out", printed)


def test_an_error_that_nobody_foresaw(planted: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its text may quote whatever it met."""

    def broken(*_: object, **__: object) -> None:
        raise ValueError(f"cannot convert {PERSON} in {planted}")

    monkeypatch.setattr(readers, "read_study", broken)
    code, printed = run(planted, "-o", tmp_path / "out")
    assert code == 1
    assert "unexpected ValueError" in printed
    _check(tmp_path / "out", printed)
    assert PERSON in run(planted, "-o", tmp_path / "out", "--identified")[1]
