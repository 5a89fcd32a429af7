"""Names of pulse sequences, the standard's and private ones, through files as they are read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from edgeseg.readers import vendors
from edgeseg.readers.headers import TAGS, read_header

if TYPE_CHECKING:
    from pydicom import Dataset


def _saved(path: Path, dataset: Dataset, implicit: bool) -> Path:
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, MRImageStorage

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = MRImageStorage, "1.2.3.4"
    meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    file = FileDataset(str(path), dataset, file_meta=meta, preamble=b"\0" * 128)
    file.SOPClassUID, file.SOPInstanceUID, file.StudyInstanceUID = MRImageStorage, "1.2.3.4", "1.2.3"
    file.save_as(path)
    return path


@pytest.mark.parametrize("implicit", [False, True])
def test_standard_and_private_names(tmp_path: Path, implicit: bool) -> None:
    import pydicom

    dataset = pydicom.Dataset()
    dataset.SequenceName = "*tir2d1_16"
    ge = dataset.private_block(0x0019, "GEMS_ACQU_01", create=True)
    ge.add_new(0x9C, "LO", "cubet2flair")
    ge.add_new(0x9E, "LO", "3dfse")
    philips = dataset.private_block(0x2001, "Philips Imaging DD 001", create=True)
    philips.add_new(0x20, "LO", "TIR")
    header = read_header(_saved(tmp_path / "a", dataset, implicit), TAGS)
    assert header is not None
    assert vendors.sequence_names(header) == "*tir2d1_16 cubet2flair 3dfse TIR"


def test_another_makers_private_elements_are_none_of_ours(tmp_path: Path) -> None:
    import pydicom

    dataset = pydicom.Dataset()
    other = dataset.private_block(0x0019, "SIEMENS MR HEADER", create=True)
    other.add_new(0x9C, "LO", "ZEBRA")
    header = read_header(_saved(tmp_path / "a", dataset, implicit=False), TAGS)
    assert header is not None
    assert vendors.sequence_names(header) == ""
