"""A DICOM file's pixels: decoded, freed of what is not the image, and in the scanner's units."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeseg.errors import StudyError
from edgeseg.readers import apart, plain
from edgeseg.readers.assembly import UnreadableFile
from edgeseg.readers.headers import Patient, numbers, read_header
from edgeseg.readers.limits import MOST_VOXELS
from edgeseg.types import FloatArray

if TYPE_CHECKING:
    from pydicom import Dataset
    from pydicom.uid import UID

_LOSSY = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.81")
"""Transfer syntaxes that always lose something: JPEG baseline and extended, JPEG-LS near-lossless."""
_PERHAPS_LOSSY = ("1.2.840.10008.1.2.4.91", "1.2.840.10008.1.2.4.203")
"""JPEG 2000 and HTJ2K without a promise: a header can say that nothing was lost."""
_EXTENDED = "1.2.840.10008.1.2.4.51"
PLUGINS = ("pydicom", "pyjpegls", "pylibjpeg", "pillow", "gdcm")
"""Decoders in the order in which they are tried, each on its own syntaxes (``benchmarks/decoding.py``).

pydicom's own is for RLE: pylibjpeg-rle takes a sixth of its time, and panics on damaged frames, with a page of trace.
"""
_PHILIPS = (0x2005, "Philips MR Imaging DD 001", 0x0E)
_PHILIPS_FRAME = (0x2005, "Philips MR Imaging DD 005", 0x0F)
_BLOCKS = range(0x10, 0x100)
_TAGS: tuple[str | int, ...] = (
    *(
        "SamplesPerPixel",
        "PhotometricInterpretation",
        "NumberOfFrames",
        "Rows",
        "Columns",
        "BitsAllocated",
        "BitsStored",
    ),
    *("PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit", "LossyImageCompression"),
    *("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "RealWorldValueMappingSequence"),
    *((_PHILIPS[0] << 16) + block for block in _BLOCKS),
    *((_PHILIPS[0] << 16) + (block << 8) + _PHILIPS[2] for block in _BLOCKS),
)
"""What has to be known of a file of one image to make its pixels the scanner's values."""


@dataclass(frozen=True)
class _Meaning:
    """What a frame's stored values mean.

    Parameters
    ----------
    rescale
        Slope and intercept; None where there are none, or a table in their place.
    padding
        The least and the largest value that stand for no value.
    factor
        See `FramesOf.frame`.
    """

    rescale: tuple[float, float] | None
    padding: tuple[int, int] | None
    factor: float | None


@dataclass(frozen=True)
class PixelHeader:
    """What a file says of its pixels. The files of a series mostly say the same, and then share it.

    Parameters
    ----------
    dataset
        The elements that it says it with.
    lossy
        Name of the compression where it lost something, else None.
    layout
        Of plain pixels.
    meanings
        Of the frames that were looked at already.
    """

    dataset: Dataset
    lossy: str | None
    layout: plain.Layout | None = None
    meanings: dict[int | None, _Meaning] = field(default_factory=dict)

    def meaning(self, index: int | None) -> _Meaning:
        """Of one frame; raises whatever pydicom makes of a malformed value."""
        if index not in self.meanings:
            self.meanings[index] = _meaning(self.dataset, index)
        return self.meanings[index]


Known = dict[tuple[object, ...], PixelHeader]
"""Headers of plain files by the elements that they are made of."""


class FramesOf:
    """The frames of one DICOM file, in the scanner's units.

    Parameters
    ----------
    path
        The file.
    file
        As it was read already, if it was.
    known
        Headers of plain files are taken from here and put here.

    Raises
    ------
    UnreadableFile
        The pixels cannot be decoded, or are not those of a grey image as acquired.
    """

    def __init__(self, path: Path, file: plain.PlainFile | None = None, known: Known | None = None) -> None:
        self._path = path
        self._header, self._stored = _decoded(path, file, {} if known is None else known)
        self.lossy = self._header.lossy
        """Name of the compression where it lost something, else None."""

    def frame(self, index: int | None, values: FloatArray) -> float | None:
        """Put one frame into a volume, and say by how much it was scaled for display.

        Parameters
        ----------
        index
            Its number in the file, from 0; None for a file of a single image.
        values
            (row, column) float32: is filled, with rescale slope and intercept applied.

        Returns
        -------
        float or None
            On Philips scanners: the values divided by it are what was measured (Chenevert et al. 2014, PMC3998685).
            None where the header does not say it.

        Raises
        ------
        UnreadableFile
            The header's scaling cannot be applied, or the file holds fewer or other pixels than it says.
        """
        stored, position = self._stored, index or 0
        frames = 1 if stored.ndim == 2 else len(stored)
        if position >= frames:
            raise UnreadableFile(self._path, f"has {frames} frames and says that it has more: export the series again")
        raw = stored if stored.ndim == 2 else stored[position]
        if raw.shape != values.shape:
            raise UnreadableFile(self._path, "has pixels of another size than its header says: export it again")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                meaning = self._header.meaning(index)
                values[...] = _scaled(self._header.dataset, raw, meaning.rescale)
                if meaning.padding is not None:
                    _fill_padding(raw, values, *meaning.padding)
        except Exception as error:  # pydicom raises whatever a malformed value makes it raise
            problem = "has a rescale slope, an intercept or a table that cannot be applied: export the series again"
            raise UnreadableFile(self._path, problem) from error
        if not np.isfinite(values).all():
            problem = "holds values that are not finite once its rescale slope and intercept are applied"
            raise UnreadableFile(self._path, f"{problem}: export the series again")
        return meaning.factor


def _decoded(path: Path, file: plain.PlainFile | None, known: Known) -> tuple[PixelHeader, Any]:
    """A file's header, and its pixels as stored, (row, column) or (frame, row, column)."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return (file and _plainly_decoded(file, known)) or _decoded_by_pydicom(path)
    except StudyError:
        raise
    except Exception as error:  # decoders raise whatever they like
        problem = "has a header that can be read and pixels that cannot (truncated or damaged)"
        raise UnreadableFile(path, f"{problem}: copy or export the file again") from error


def _plainly_decoded(file: plain.PlainFile, known: Known) -> tuple[PixelHeader, Any] | None:
    """The same for a file of one image without compression; None for others."""
    if file.pixels is None:
        return None
    tags = numbers(_TAGS)
    said = (file.implicit, *file.said(tags))
    if (header := known.get(said)) is None:
        dataset = file.dataset(tags)
        _check_kind(file.path, dataset)
        header = known[said] = PixelHeader(dataset, _lost_earlier(dataset), plain.layout_of(dataset))
    stored = file.stored(header.layout)
    return None if stored is None else (header, stored)


def _decoded_by_pydicom(path: Path) -> tuple[PixelHeader, Any]:
    import pydicom

    if read_header(path, ("StudyInstanceUID",)) is None:  # too large, or it inflates beyond all measure
        raise UnreadableFile(path, "cannot be read any more: copy or export the file again")
    with Patient(path) as file:
        dataset = pydicom.dcmread(file, force=True)
    _name_syntax(dataset)
    _check_kind(path, dataset)
    return PixelHeader(dataset, _lossy(dataset)), _stored(path, dataset)


def _lossy(dataset: Dataset) -> str | None:
    from pydicom.uid import UID

    syntax = UID(str(dataset.file_meta.TransferSyntaxUID))
    said = str(dataset.get("LossyImageCompression") or "")
    if syntax.is_compressed and (syntax in _LOSSY or said == "01" or (syntax in _PERHAPS_LOSSY and said != "00")):
        return str(syntax.name)
    return _lost_earlier(dataset)


def _lost_earlier(dataset: Dataset) -> str | None:
    """What pixels lost before they were stored as they are."""
    return "an earlier step" if str(dataset.get("LossyImageCompression") or "") == "01" else None


def _name_syntax(dataset: Dataset) -> None:
    """Give a file without file meta information the transfer syntax that it was found to be in."""
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    if "TransferSyntaxUID" in getattr(dataset, "file_meta", ()):
        return
    implicit, little = dataset.original_encoding
    explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit


def _check_kind(path: Path, dataset: Dataset) -> None:
    """Refuse what is no grey image of a size that fits, before its pixels are decoded."""
    if int(dataset.get("SamplesPerPixel") or 1) != 1:
        raise UnreadableFile(path, "is a colour image, not an MR image as acquired: export the original series")
    photometric = str(dataset.get("PhotometricInterpretation") or "MONOCHROME2").strip()
    if photometric != "MONOCHROME2":
        problem = (
            "is stored as MONOCHROME1, and whether its values or only their display are inverted is not said"
            if photometric == "MONOCHROME1"
            else "is stored in colours, not as grey values"
        )
        raise UnreadableFile(path, f"{problem}: export it as MONOCHROME2")
    voxels = int(dataset.Rows) * int(dataset.Columns) * int(dataset.get("NumberOfFrames") or 1)
    if voxels > MOST_VOXELS:
        most = f"{MOST_VOXELS / 1e6:.0f} million at most: export the series as it was acquired"
        raise UnreadableFile(path, f"says that it holds {voxels / 1e6:.0f} million voxels, and edgeseg takes {most}")


def _stored(path: Path, dataset: Dataset) -> Any:
    """Pixels as stored, by the first decoder that there is for the transfer syntax."""
    from pydicom.pixels import pixel_array
    from pydicom.uid import UID

    syntax = UID(str(dataset.file_meta.TransferSyntaxUID))
    if not syntax.is_compressed:
        return dataset.pixel_array
    available = _available(syntax)
    if syntax == _EXTENDED and int(dataset.BitsStored) > 8:
        available = tuple(plugin for plugin in available if plugin == "gdcm")
    for plugin in PLUGINS:
        if plugin in available:
            return apart.decode(path) if plugin == "gdcm" else pixel_array(dataset, decoding_plugin=plugin)
    name = "something unknown" if syntax.is_private or syntax.name == syntax else syntax.name
    problem = f"is compressed as {name}, which edgeseg cannot decode here"
    raise UnreadableFile(path, f"{problem}: export it as Explicit VR Little Endian")


def _available(syntax: UID) -> tuple[str, ...]:
    """Decoders for a transfer syntax. GDCM is looked for without importing it: it runs in a process of its own."""
    from pydicom.pixels.decoders import gdcm
    from pydicom.pixels.decoders.base import get_decoder

    by_gdcm = ("gdcm",) if syntax in gdcm.DECODER_DEPENDENCIES and PathFinder.find_spec("gdcm") else ()
    try:
        return (*get_decoder(syntax).available_plugins, *by_gdcm)
    except NotImplementedError:
        return ()


def _meaning(dataset: Dataset, index: int | None) -> _Meaning:
    """What a header says of a frame: its own rescale, else the dataset's, else the real world's; padding; display."""
    own, scale = _rescale(dataset, index), _philips_scale(dataset, index)
    slope = own[0] if own else 1.0
    first, last = dataset.get("PixelPaddingValue"), dataset.get("PixelPaddingRangeLimit")
    padding = None
    if isinstance(first, int):
        last = last if isinstance(last, int) else first
        padding = (min(first, last), max(first, last))
    factor = slope * scale if scale is not None and slope > 0 else None
    return _Meaning(own or _real_world(dataset, index), padding, factor)


def _scaled(dataset: Dataset, stored: Any, rescale: tuple[float, float] | None) -> Any:
    """Stored values -> the scanner's units."""
    from pydicom.pixels.processing import apply_modality_lut

    if rescale is None:
        return apply_modality_lut(stored, dataset)
    return stored if rescale == (1.0, 0.0) else stored * rescale[0] + rescale[1]


def _rescale(dataset: Dataset, index: int | None) -> tuple[float, float] | None:
    """Rescale slope and intercept of a frame, else of the file."""
    for item in (*_items(dataset, index, "PixelValueTransformationSequence"), dataset):
        if item.get("RescaleSlope") is not None:
            return float(item.RescaleSlope), float(item.get("RescaleIntercept") or 0.0)
    return None


def _real_world(dataset: Dataset, index: int | None) -> tuple[float, float] | None:
    """Slope and intercept of the real world value mapping, where that is all that there is."""
    if dataset.get("ModalityLUTSequence"):
        return None
    mappings = (
        *_items(dataset, index, "RealWorldValueMappingSequence"),
        *(dataset.get("RealWorldValueMappingSequence") or ()),
    )
    for item in mappings[:1]:
        if item.get("RealWorldValueSlope"):
            return float(item.RealWorldValueSlope), float(item.get("RealWorldValueIntercept") or 0.0)
    return None


def _philips_scale(dataset: Dataset, index: int | None) -> float | None:
    """Philips' scale slope: the file's own, or the one in a frame's private sequence."""
    places = [dataset]
    if index is not None:
        groups = dataset.get("PerFrameFunctionalGroupsSequence") or ()
        places = [item for group in groups[index : index + 1] for item in _private(group, _PHILIPS_FRAME) or ()]
    for place in places:
        value = _private(place, _PHILIPS)
        if isinstance(value, (int, float)) and np.isfinite(value) and value > 0:
            return float(value)
    return None


def _private(dataset: Dataset, address: tuple[int, str, int]) -> Any:
    """Value of a private element, or None."""
    group, creator, element = address
    tags = dataset.keys()
    if not any(tag >> 16 == group for tag in tags):  # pydicom takes its time to find that out
        return None
    try:
        return dataset.private_block(group, creator)[element].value
    except Exception:  # it is not there, or not what pydicom's dictionary says
        return None


def _items(dataset: Dataset, index: int | None, keyword: str) -> Sequence[Any]:
    """Items of a frame's functional group: its own, then the shared one."""
    if index is None:
        return ()
    own = (dataset.get("PerFrameFunctionalGroupsSequence") or ())[index : index + 1]
    shared = (dataset.get("SharedFunctionalGroupsSequence") or ())[:1]
    return [item for groups in (*own, *shared) for item in groups.get(keyword) or ()]


def _fill_padding(stored: Any, values: FloatArray, first: int, last: int) -> None:
    """Put the smallest value of the image in place of padding, which lies far outside the image's own range."""
    padding = (stored >= first) & (stored <= last)
    if padding.any() and not padding.all():
        values[padding] = values[~padding].min()
