"""The same images in other files: every transfer syntax, Enhanced DICOM, NIfTI.

Encoders are pydicom's own and its plugins, DCMTK's ``dcmcjpeg`` for JPEG and
``dcmconv`` for big endian, and imagecodecs for HTJ2K.
"""

# mypy: untyped-calls-exclude="SimpleITK,imagecodecs"
from __future__ import annotations

import shutil
import subprocess
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydicom import Dataset

NATIVE = {
    "implicit little endian": "1.2.840.10008.1.2",
    "explicit little endian": "1.2.840.10008.1.2.1",
    "deflated": "1.2.840.10008.1.2.1.99",
    "big endian": "1.2.840.10008.1.2.2",
}
LOSSLESS = {
    "RLE": "1.2.840.10008.1.2.5",
    "JPEG lossless": "1.2.840.10008.1.2.4.57",
    "JPEG lossless, first-order prediction": "1.2.840.10008.1.2.4.70",
    "JPEG-LS": "1.2.840.10008.1.2.4.80",
    "JPEG 2000": "1.2.840.10008.1.2.4.90",
    "HTJ2K": "1.2.840.10008.1.2.4.201",
    "HTJ2K, RPCL": "1.2.840.10008.1.2.4.202",
    "HTJ2K, perhaps lossy": "1.2.840.10008.1.2.4.203",
}
LOSSY = {
    "JPEG baseline": "1.2.840.10008.1.2.4.50",
    "JPEG extended": "1.2.840.10008.1.2.4.51",
    "JPEG-LS, near-lossless": "1.2.840.10008.1.2.4.81",
    "JPEG 2000, lossy": "1.2.840.10008.1.2.4.91",
}
ALL = {**NATIVE, **LOSSLESS, **LOSSY}

_DCMCJPEG = {"57": "+el", "70": "+e1", "50": "+eb", "51": "+ee"}


def missing_encoder(form: str) -> str | None:
    """What has to be installed before files of this form can be written; None where nothing is missing."""
    for tool, used in (("dcmcjpeg", ALL[form].rpartition(".")[2] in _DCMCJPEG), ("dcmconv", form == "big endian")):
        if used and shutil.which(tool) is None:
            return f"{tool} (Debian package dcmtk)"
    return "imagecodecs with OpenJPH" if form.startswith("HTJ2K") and not _writes_htj2k() else None


def convert(source: Path, target: Path, form: str) -> None:
    """Write a DICOM file again in another transfer syntax, with the same SOPInstanceUID.

    Parameters
    ----------
    source
        Any file that pydicom decodes.
    target
        Where to write.
    form
        A key of `ALL`.
    """
    import pydicom

    syntax = ALL[form]
    code = syntax.rpartition(".")[2]
    dataset = pydicom.dcmread(source)
    if dataset.file_meta.TransferSyntaxUID.is_compressed:
        dataset.decompress(generate_instance_uid=False)
    target.parent.mkdir(parents=True, exist_ok=True)
    if code in _DCMCJPEG or form == "big endian":
        plain = target.with_name(target.name + ".plain")
        _save_native(dataset, plain, NATIVE["explicit little endian"])
        options = ["dcmconv", "+tb"] if form == "big endian" else ["dcmcjpeg", _DCMCJPEG[code], "-q", "+un"]
        subprocess.run([*options, plain, target], check=True, stderr=subprocess.DEVNULL)
        plain.unlink()
    elif form in NATIVE:
        _save_native(dataset, target, syntax)
    elif form.startswith("HTJ2K"):
        _as_htj2k(dataset, syntax)
        dataset.save_as(target, enforce_file_format=True)
    else:
        loss: dict[str, Any] = {"j2k_cr": [2]} if code == "91" else {"jls_error": 2} if code == "81" else {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset.compress(syntax, generate_instance_uid=False, **loss)
        dataset.save_as(target, enforce_file_format=True)


def convert_folder(source: Path, target: Path, form: str) -> Path:
    """Write every file below a folder in another transfer syntax."""
    for path in sorted(file for file in source.rglob("*") if file.is_file()):
        convert(path, target / path.relative_to(source), form)
    return target


def enhanced(files: Sequence[Path], target: Path, change: Callable[[Dataset, int], None] | None = None) -> Path:
    """Write single-frame MR images of one series as an Enhanced MR image.

    Parameters
    ----------
    files
        The series, in any order.
    target
        Where to write.
    change
        Called with the per-frame functional groups and the number of each frame.
    """
    import pydicom
    from pydicom.uid import EnhancedMRImageStorage, ExplicitVRLittleEndian

    frames = [pydicom.dcmread(file) for file in files]
    first = frames[0]
    made = pydicom.Dataset()
    made.update({element.tag: element for element in first if element.tag.group in (0x8, 0x10, 0x20)})
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "SliceLocation", "ImageType"):
        if keyword in made:
            delattr(made, keyword)
    made.SOPClassUID, made.SOPInstanceUID = EnhancedMRImageStorage, f"{first.SeriesInstanceUID}.9"
    made.file_meta = pydicom.dataset.FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    made.ImageType = ["ORIGINAL", "PRIMARY", "T2", "NONE"]
    for keyword in (
        *("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "SamplesPerPixel"),
        "PhotometricInterpretation",
    ):
        setattr(made, keyword, first[keyword].value)
    made.NumberOfFrames = len(frames)
    made.SharedFunctionalGroupsSequence = [_shared(first)]
    made.PerFrameFunctionalGroupsSequence = [_per_frame(frame, number) for number, frame in enumerate(frames)]
    for number, groups in enumerate(made.PerFrameFunctionalGroupsSequence):
        if change is not None:
            change(groups, number)
    made.PixelData = b"".join(frame.pixel_array.tobytes() for frame in frames)
    target.parent.mkdir(parents=True, exist_ok=True)
    made.save_as(target, enforce_file_format=True)
    return target


def nifti(files: Sequence[Path], target: Path) -> Path:
    """Write a series as NIfTI, through SimpleITK's own DICOM reader."""
    import SimpleITK

    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames([str(file) for file in files])
    target.parent.mkdir(parents=True, exist_ok=True)
    SimpleITK.WriteImage(reader.Execute(), str(target))
    return target


def in_place(folder: Path) -> list[Path]:
    """A folder's files from the feet to the head."""
    import pydicom

    place = {
        file: float(pydicom.dcmread(file, stop_before_pixels=True).ImagePositionPatient[2]) for file in folder.iterdir()
    }
    return sorted(place, key=lambda file: place[file])


def item(**elements: Any) -> Dataset:
    """A dataset with these elements, as for a sequence."""
    import pydicom

    made = pydicom.Dataset()
    for keyword, value in elements.items():
        setattr(made, keyword, value)
    return made


def _writes_htj2k() -> bool:
    """Whether imagecodecs is there and has HTJ2K, which its releases for Python 3.10 lack."""
    try:
        import imagecodecs

        return bool(imagecodecs.HTJ2K.available)
    except (ImportError, AttributeError):
        return False


def _save_native(dataset: Dataset, target: Path, syntax: str) -> None:
    from pydicom.uid import UID

    uid = UID(syntax)
    dataset.file_meta.TransferSyntaxUID = uid
    dataset["PixelData"].VR = "OW"
    dataset.save_as(target, implicit_vr=uid.is_implicit_VR, little_endian=uid.is_little_endian)


def _as_htj2k(dataset: Dataset, syntax: str) -> None:
    """Compress with OpenJPH, whose progression is RPCL unless it is told otherwise."""
    import imagecodecs
    from pydicom.encaps import encapsulate

    pixels = dataset.pixel_array
    frames = [pixels] if pixels.ndim == 2 else list(pixels)
    dataset.PixelData = encapsulate([imagecodecs.htj2k_encode(frame, reversible=True) for frame in frames])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = syntax


def _shared(first: Dataset) -> Dataset:
    shared = item(
        MREchoSequence=[item(EffectiveEchoTime=float(first.EchoTime))],
        MRTimingAndRelatedParametersSequence=[item(RepetitionTime=float(first.RepetitionTime))],
        PixelMeasuresSequence=[item(PixelSpacing=first.PixelSpacing, SliceThickness=first.get("SliceThickness"))],
        PlaneOrientationSequence=[item(ImageOrientationPatient=first.ImageOrientationPatient)],
    )
    if first.get("InversionTime"):
        shared.MRModifierSequence = [item(InversionRecovery="YES", InversionTimes=[float(first.InversionTime)])]
    return shared


def _per_frame(frame: Dataset, number: int) -> Dataset:
    return item(
        FrameContentSequence=[item(StackID="1", InStackPositionNumber=number + 1)],
        PlanePositionSequence=[item(ImagePositionPatient=frame.ImagePositionPatient)],
        PixelValueTransformationSequence=[
            item(
                RescaleSlope=frame.get("RescaleSlope", 1),
                RescaleIntercept=frame.get("RescaleIntercept", 0),
                RescaleType="US",
            )
        ],
        MRImageFrameTypeSequence=[item(FrameType=["ORIGINAL", "PRIMARY", "T2", "NONE"])],
    )
