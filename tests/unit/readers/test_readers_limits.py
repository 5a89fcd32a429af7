"""Files that ask for more than a study is worth: refused or left aside before they are read, in little memory."""

from __future__ import annotations

import os
import resource
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import seeds

from edgeseg.errors import StudyError
from edgeseg.readers import find_studies, headers, read_study
from edgeseg.types import Study

BYTES = 128 << 20
"""What the reading of a small study may take."""


@pytest.fixture(autouse=True)
def little_memory() -> Iterator[None]:
    """Measure by how much the peak of the process' memory grows."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < BYTES


def _read(path: Path) -> Study:
    (files,) = find_studies(path)
    return read_study(files)


def _sparse(path: Path, start: bytes, size: int = 4 << 30) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(start)
    os.truncate(path, size)
    return path


@pytest.mark.parametrize("size", [4 << 30, 900 << 20])
@pytest.mark.parametrize("start", [b"", bytes(128) + b"DICM", b"\x08\x00\x05\x00"])
def test_a_dicom_file_of_zeros_is_left_aside(
    start: bytes, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(headers, "MOST_READS", 50_000)
    seeds.small_series(tmp_path)
    _sparse(tmp_path / "large.dcm", start, size)
    study = _read(tmp_path)
    assert study.warnings == ("1 file is not DICOM, or truncated, or too large, and left aside",)


def test_a_slice_of_4_gb_is_refused_by_its_size(tmp_path: Path) -> None:
    path = seeds.small_series(tmp_path / "study") / "0"
    alone = tmp_path / "alone" / "0.dcm"
    with pytest.raises(StudyError, match=r"one file has 4.0 GB, and edgeseg takes files of 1 GB at most"):
        _read(_sparse(alone, path.read_bytes()))


def test_tiff_and_nifti_of_4_gb_are_refused(tmp_path: Path) -> None:
    tiff = next((seeds.REPOSITORY / "examples" / "tiff").rglob("*_12.tif"))
    _sparse(tmp_path / "tiff" / "head_1.tif", tiff.read_bytes())
    with pytest.raises(StudyError, match=r"has 4.0 GB, and edgeseg takes files of 1 GB"):
        _read(tmp_path / "tiff")
    header = _nifti_header((2048, 2048, 500))
    with pytest.raises(StudyError, match="holds 2097 million voxels, and edgeseg takes 134 million"):
        _read(_sparse(tmp_path / "nifti" / "flair.nii", header))


def _nifti_header(shape: tuple[int, int, int]) -> bytes:
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, 3, *shape, 1, 1, 1, 1)
    struct.pack_into("<2h", header, 70, 4, 16)
    struct.pack_into("<8f", header, 76, 1, 1, 1, 1, 1, 1, 1, 1)
    struct.pack_into("<f", header, 108, 352)
    header[344:348] = b"n+1\0"
    return bytes(header)


def test_a_gzip_that_never_ends_is_read_as_far_as_the_header_says(tmp_path: Path) -> None:
    import gzip

    voxels = np.random.default_rng(0).integers(1, 500, (6, 32, 32), dtype=np.int16).tobytes()
    with gzip.open(tmp_path / "flair.nii.gz", "wb", compresslevel=1) as file:
        file.write(_nifti_header((32, 32, 6)) + voxels)
        for _ in range(200):
            file.write(bytes(1 << 20))
    assert _read(tmp_path).flair.voxels.shape == (6, 32, 32)


def test_a_deflated_file_that_inflates_beyond_measure_is_left_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import forms

    monkeypatch.setattr(headers, "LARGEST_FILE", 64 << 20)
    plain = seeds.small_series(tmp_path / "plain")
    study = forms.convert_folder(plain, tmp_path / "deflated", "deflated")
    content = (study / "0").read_bytes()
    start = 144 + int.from_bytes(content[140:144], "little")
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = content[:start] + packer.compress(zlib.decompress(content[start:], -zlib.MAX_WBITS))
    with (study / "bomb").open("wb") as file:
        file.write(bomb)
        for _ in range(65):
            file.write(packer.compress(bytes(1 << 20)))
        file.write(packer.flush())
    assert _read(study).warnings == ("1 file is not DICOM, or truncated, or too large, and left aside",)


def test_an_element_that_says_it_is_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The echo time of one slice says that it has half a GB, in a file that has as many bytes."""
    monkeypatch.setattr(headers, "MOST_READS", 50_000)
    path = seeds.small_series(tmp_path) / "2"
    content = bytearray(path.read_bytes())
    at = content.index(b"\x18\x00\x81\x00DS")  # (0018,0081) EchoTime, explicit VR
    content[at + 4 : at + 8] = b"UN\0\0"
    content[at + 8 : at + 8] = struct.pack("<I", 500 << 20)
    _sparse(path, bytes(content), 600 << 20)
    with pytest.raises(StudyError):
        _read(tmp_path)


@pytest.mark.parametrize("elements", [{"Rows": 65535, "Columns": 65535}, {"Rows": 65535, "NumberOfFrames": 2**31 - 1}])
def test_a_header_that_says_that_there_is_more_than_fits(elements: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"edgeseg takes 134 million|pixels that cannot"):
        _read(seeds.small_series(tmp_path, **elements))


def test_a_pipe_in_the_folder_keeps_nobody_waiting(tmp_path: Path) -> None:
    seeds.small_series(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    assert not _read(tmp_path).warnings
