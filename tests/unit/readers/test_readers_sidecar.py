"""Folders as dcm2niix and BIDS converters leave them: sidecars, whole and damaged."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeseg.errors import StudyError
from edgeseg.readers import Selection, find_studies, nifti, read_study, sidecar
from edgeseg.readers.sequences import recognise
from edgeseg.types import Study

FLAIR: dict[str, Any] = {
    **{"Modality": "MR", "MagneticFieldStrength": 3, "Manufacturer": "Siemens", "SeriesNumber": 5},
    **{"SeriesDescription": "t2_space_da-fl_sag", "ProtocolName": "t2_space_da-fl_sag", "ScanningSequence": "SE_IR"},
    **{"SequenceName": "_spcir_278ns", "ImageType": ["ORIGINAL", "PRIMARY", "M", "ND", "NORM"]},
    **{"EchoTime": 0.388, "RepetitionTime": 5, "InversionTime": 1.8, "AcquisitionTime": "9:58:01.115000"},
    **{"ConversionSoftware": "dcm2niix", "ConversionSoftwareVersion": "v1.0.20230411"},
}
T1: dict[str, Any] = {
    **{
        "SeriesNumber": 3,
        "SeriesDescription": "t1_mprage",
        "ScanningSequence": "GR_IR",
        "SequenceName": "_tfl3d1_16ns",
    },
    **{"EchoTime": 0.00226, "RepetitionTime": 2.3, "InversionTime": 0.9, "AcquisitionTime": "09:40:11.2"},
    "ImageType": ["ORIGINAL", "PRIMARY", "M", "ND"],
}
POST = {**T1, "SeriesNumber": 12, "AcquisitionTime": "10:20:30.0", "ContrastBolusIngredient": "GADOLINIUM"}


def _image(path: Path) -> None:
    import SimpleITK as sitk

    s, r, c = np.indices((8, 20, 24))
    inside = ((s - 3.5) / 4) ** 2 + ((r - 9) / 8) ** 2 + ((c - 12) / 9) ** 2 < 1
    texture = np.random.default_rng(0).integers(-8, 8, inside.shape)
    image = sitk.GetImageFromArray(np.where(inside, 300 + 20 * r + 7 * c * (s > 3) + texture, 2).astype(np.int16))
    image.SetSpacing((2.0, 3.0, 6.0))
    sitk.WriteImage(image, str(path))


def _write(folder: Path, **named: dict[str, Any] | bytes | None) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in named.items():
        _image(folder / f"{name}.nii.gz")
        if content is not None:
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            (folder / f"{name}.json").write_bytes(data)
    return folder


def _read(folder: Path, selection: Selection = Selection()) -> Study:  # noqa: B008
    (files,) = find_studies(folder)
    return read_study(files, selection)


def _chosen(study: Study) -> dict[str, str]:
    return {channel: origin.series for channel, origin in study.channels.items()}


def test_a_dcm2niix_folder_is_told_apart_by_sidecars_alone(tmp_path: Path) -> None:
    study = _read(_write(tmp_path / "case", **{"5": FLAIR, "3": T1, "12": POST}))
    assert _chosen(study) == {"flair": "5.nii.gz", "pre": "3.nii.gz", "post": "12.nii.gz"}
    assert "inversion time 1800 ms, echo time 388 ms and repetition time 5000 ms" in study.channels["flair"].reason
    assert "the contrast agent that its header names" in study.channels["post"].reason
    assert not study.warnings
    assert {one.series: one.channel for one in study.considered}["12.nii.gz"] == "post"


def test_series_are_named_by_number_file_or_pattern(tmp_path: Path) -> None:
    folder = _write(tmp_path / "case", **{"a_5": FLAIR, "b_3": T1, "c_12": POST})
    assert _chosen(_read(folder, Selection(pre="12", post="b_3")))["pre"] == "c_12.nii.gz"
    assert _chosen(_read(folder, Selection(post="C_*.nii.gz")))["post"] == "c_12.nii.gz"
    with pytest.raises(StudyError, match="--post 4 fits none"):
        _read(folder, Selection(post="4"))


def test_time_of_day_orders_two_t1s_even_without_a_leading_zero(tmp_path: Path) -> None:
    early, late = {**T1, "AcquisitionTime": "9:40:11"}, {**T1, "AcquisitionTime": "10:02:00.5"}
    study = _read(_write(tmp_path / "case", flair=None, x=late, y=early))
    assert _chosen(study) == {"flair": "flair.nii.gz", "pre": "y.nii.gz", "post": "x.nii.gz"}


def test_bids_names(tmp_path: Path) -> None:
    names = ("FLAIR", "T1w", "T2w", "ce-gadolinium_T1w", "acq-2D_T2starw")
    study = _read(_write(tmp_path / "anat", **{f"sub-01_ses-1_{name}": {} for name in names}))
    assert _chosen(study) == {
        "flair": "sub-01_ses-1_FLAIR.nii.gz",
        "pre": "sub-01_ses-1_T1w.nii.gz",
        "post": "sub-01_ses-1_ce-gadolinium_T1w.nii.gz",
    }


@pytest.mark.parametrize(
    ("names", "study"),
    [
        (("sub-01_acq-2D_FLAIR", "sub-01_acq-3D_FLAIR"), ""),
        (("axial", "sagittal"), "1.2.3"),
    ],
)
def test_two_flairs_of_one_patient_are_a_choice(tmp_path: Path, names: tuple[str, str], study: str) -> None:
    found = _read(_write(tmp_path / "case", **{name: {**FLAIR, "StudyInstanceUID": study} for name in names}))
    assert "2 series are FLAIR" in found.warnings[0]


def test_two_flairs_of_perhaps_two_patients_are_refused_until_one_is_named(tmp_path: Path) -> None:
    folder = _write(tmp_path / "case", p1_flair={}, p2_flair={})
    with pytest.raises(StudyError, match="or name the one to take with --flair"):
        _read(folder)
    study = _read(folder, Selection(flair="p2_*"))
    assert study.channels["flair"].series == "p2_flair.nii.gz"


@pytest.mark.parametrize("types", [["DERIVED", "SECONDARY"], ["DERIVED", "PRIMARY", "ADC"], "DERIVED\\SECONDARY\\MIP"])
def test_derived_images_are_left_aside(tmp_path: Path, types: Any) -> None:
    study = _read(_write(tmp_path / "case", one=FLAIR, two={**FLAIR, "ImageType": types}))
    assert study.channels["flair"].series == "one.nii.gz"


@pytest.mark.parametrize("name", ["s5_ph", "s5_real", "s5_imaginary", "flair_mask"])
def test_phase_images_and_masks_are_left_aside_by_name(tmp_path: Path, name: str) -> None:
    _write(tmp_path, **{name: FLAIR})
    assert recognise(nifti.series_facts(tmp_path / f"{name}.nii.gz")).kind == "derived image"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is damaged, no JSON"),
        (b'{"EchoTime": 0.1', "is damaged, no JSON"),
        (b"\xff\xfe{}", "is damaged, no JSON"),
        (b"[" * 200_000, "is damaged, no JSON"),
        (b"[1, 2]", "holds no object of fields"),
        (b'{"EchoTime": 120}', r"has no echo time in seconds \(0 to 2\)"),
        (b'{"RepetitionTime": 9000}', "has no repetition time in seconds"),
        (b'{"EchoTime": NaN}', "has no echo time in seconds"),
        (b'{"InversionTime": "ZEBRA"}', "has no inversion time in seconds"),
        (b'{"InversionTime": -Infinity}', "has no inversion time in seconds"),
        (b'{"EchoTime": ' + b"9" * 400 + b"}", "has no echo time in seconds"),
        (b'{"EchoTime": [0.1]}', "has no echo time in seconds"),
    ],
)
def test_a_damaged_sidecar_is_a_warning(tmp_path: Path, content: bytes, said: str) -> None:
    study = _read(_write(tmp_path / "case", flair=content, t1=None))
    assert _chosen(study)["pre"] == "t1.nii.gz"
    (warning,) = study.warnings
    assert warning.startswith("the JSON sidecar of flair.nii.gz ")
    assert "ZEBRA" not in warning
    assert re.search(said, warning)


@pytest.mark.parametrize(
    "content",
    [
        {"ImageType": 7, "ScanningSequence": {"a": 1}, "SeriesDescription": ["x"], "SeriesNumber": "5"},
        {"AcquisitionTime": 12, "ContrastBolusAgent": None, "SequenceName": 3, "EchoTime": None},
        {"SeriesNumber": True, "SeriesInstanceUID": 1.5, "StudyInstanceUID": []},
    ],
)
def test_fields_of_a_wrong_kind_say_nothing(tmp_path: Path, content: dict[str, Any]) -> None:
    study = _read(_write(tmp_path / "case", flair=content))
    assert not study.warnings


def test_a_byte_order_mark_is_no_damage(tmp_path: Path) -> None:
    _write(tmp_path, x=b"\xef\xbb\xbf" + json.dumps(FLAIR).encode())
    assert sidecar.read(tmp_path / "x.nii.gz").fields == FLAIR


def test_a_huge_sidecar_is_left_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sidecar, "LARGEST_BYTES", 10)
    _write(tmp_path, x=FLAIR)
    assert "is larger than" in sidecar.read(tmp_path / "x.nii.gz").problems[0]


def test_reports_quote_nothing_of_a_sidecar(tmp_path: Path) -> None:
    told = {**FLAIR, "SeriesDescription": "flair ZEBRA^CANARY", "PatientName": "ZEBRA^CANARY", "ProtocolName": "ZEBRA"}
    study = _read(_write(tmp_path / "case", x=told))
    assert "ZEBRA" not in repr((study.channels, study.considered, study.warnings, study.rules))
