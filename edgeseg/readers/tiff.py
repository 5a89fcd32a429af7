"""A folder of TIFF slices, named as the LGG set names them: ``<patient>_<n>.tif`` beside ``<patient>_<n>_mask.tif``."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from edgeseg.errors import StudyError
from edgeseg.readers.limits import LARGEST_FILE, MOST_VOXELS
from edgeseg.types import CHANNELS, ByteArray, ChannelName, ChannelOrigin, Study, Volume

SUFFIXES = (".tif", ".tiff")
NAMING = "<patient>_<slice number>.tif"

_NUMBERED = re.compile(r"^(?:(?P<patient>.*)_)?(?P<number>\d+)$")
_BITS_PER_SAMPLE = 258
_TITLES: dict[ChannelName, str] = {
    "pre": "T1 before contrast",
    "flair": "FLAIR",
    "post": "T1 after contrast",
}


def read_study(name: str, files: Sequence[Path]) -> Study:
    """Read one folder of TIFF slices.

    Parameters
    ----------
    name
        Name of the study, used as its uid too.
    files
        The folder's TIFF files; masks among them are ignored.

    Returns
    -------
    Study
        FLAIR and what T1 there is, (slice, row, column) float32, 0..255, in the order of the slice numbers and
        without geometry. A T1 whose channel is a copy of FLAIR, or blank, is None.

    Raises
    ------
    StudyError
        The files are not 8-bit slices of equal size, numbered without a gap.
    """
    images = ordered_images(files)
    slices = read_slices(images)
    if not np.ptp(slices[..., CHANNELS.index("flair")]):
        raise StudyError(
            f"{images[0].parent} has a blank FLAIR channel in all {len(images)} slices: "
            "give RGB slices whose channels are T1 before contrast, FLAIR, T1 after contrast"
        )
    ids = tuple(path.stem for path in images)
    volumes: dict[ChannelName, Volume | None] = {}
    origins: dict[ChannelName, ChannelOrigin] = {}
    for position, channel in enumerate(CHANNELS):
        origins[channel] = origin = _origin(slices, position)
        own = origin.filled_with == "own"
        volumes[channel] = Volume(slices[..., position].astype(np.float32), None, ids) if own else None
    flair = volumes["flair"]
    if flair is None:  # pragma: no cover - _origin always keeps FLAIR
        raise StudyError(f"{images[0].parent} holds no FLAIR")
    return Study(
        uid=name,
        name=name,
        source="tiff",
        flair=flair,
        pre=volumes["pre"],
        post=volumes["post"],
        channels=origins,
    )


def ordered_images(files: Sequence[Path]) -> tuple[Path, ...]:
    """Leave masks out and put the slices in the order of their numbers.

    Raises
    ------
    StudyError
        There are masks only, a name without a slice number, two patients in one folder, a number that comes twice,
        or a number that is missing.
    """
    images = [path for path in files if not is_mask(path)]
    if not images:
        where = files[0].parent if files else "the folder"
        raise StudyError(
            f"{where} holds only masks (*_mask.tif): give the folder with the images themselves, named {NAMING}"
        )
    patients = sorted({_parse(path)[0] for path in images})
    if len(patients) > 1:
        raise StudyError(
            f"{images[0].parent} holds slices of {len(patients)} patients or series ({patients[0]}, {patients[1]}"
            f"{', ...' if len(patients) > 2 else ''}): put each into a folder of its own"
        )
    images.sort(key=slice_number)
    numbers = [slice_number(path) for path in images]
    for before, after, path in zip(numbers, numbers[1:], images[1:], strict=False):
        if after == before:
            raise StudyError(f"{path.parent} holds slice number {after} twice: remove one of the two files")
        if after > before + 1:
            missing = str(before + 1) if after == before + 2 else f"{before + 1} to {after - 1}"
            raise StudyError(
                f"{path.parent} has slices {numbers[0]} to {numbers[-1]}, but number {missing} is missing: "
                "copy the whole series again"
            )
    return tuple(images)


def read_slices(files: Sequence[Path]) -> ByteArray:
    """Read slices in the order given.

    Parameters
    ----------
    files
        8-bit RGB (T1 before contrast, FLAIR, T1 after contrast) or greyscale (FLAIR) TIFF files, without masks.

    Returns
    -------
    ndarray
        (slice, row, column, 3), uint8, 0..255: T1 before contrast, FLAIR, T1 after contrast. A greyscale slice
        fills all three.

    Raises
    ------
    StudyError
        A file cannot be read, is not 8-bit RGB or greyscale, is a mask, or differs in size or kind from the first.
    """
    slices: list[ByteArray] = []
    for path in files:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a damaged file Pillow warns besides, and the error says enough
            pixels = _read_image(path)
        if slices and pixels.ndim != slices[0].ndim:
            kinds = {2: "greyscale", 3: "RGB"}
            raise StudyError(
                f"{path} is {kinds[pixels.ndim]} and {files[0].name} is {kinds[slices[0].ndim]}, so one of them is a "
                "mask or of another series: give slices of one kind"
            )
        if slices and pixels.shape != slices[0].shape:
            raise StudyError(
                f"{path} has {_size(pixels)} pixels and {files[0].name} has {_size(slices[0])}: "
                "the slices of a series must be of equal size, so leave the odd ones out or export them again"
            )
        slices.append(pixels)
        if len(slices) * pixels.size > MOST_VOXELS * 3:
            raise StudyError(
                f"{path.parent} holds more than {MOST_VOXELS / 1e6:.0f} million pixels: give the slices of one series"
            )
    stacked = np.stack(slices)
    return np.repeat(stacked[..., np.newaxis], 3, axis=3) if stacked.ndim == 3 else stacked


def slice_number(path: Path) -> int:
    """Slice number that a file's name ends in: ``TCGA_CS_4941_19960909_12.tif`` is 12.

    Raises
    ------
    StudyError
        The name does not end in ``_<number>``.
    """
    return _parse(path)[1]


def is_mask(path: Path) -> bool:
    """Whether a file is a mask by its name (``..._mask.tif``)."""
    return path.stem.lower().endswith("_mask")


def _parse(path: Path) -> tuple[str, int]:
    """Patient and slice number of a file's name."""
    match = _NUMBERED.match(path.stem)
    if match is None:
        raise StudyError(
            f"{path} has no slice number in its name: name the slices {NAMING} (for example case_1.tif, case_2.tif)"
        )
    return match["patient"] or "", int(match["number"])


def _read_image(path: Path) -> ByteArray:
    """One slice, (row, column, 3) or (row, column) uint8."""
    if path.stat().st_size > LARGEST_FILE:
        raise StudyError(
            f"{path} has {path.stat().st_size / (1 << 30):.1f} GB, and edgeseg takes files of {LARGEST_FILE >> 30} GB "
            "at most: give one slice a file"
        )
    try:
        with Image.open(path, formats=("TIFF",)) as image:
            frames = getattr(image, "n_frames", 1)
            mode = image.mode
            if frames == 1 and mode in ("RGB", "L"):
                pixels: ByteArray = np.array(image, dtype=np.uint8)
                return _checked(path, pixels)
    except StudyError:
        raise
    except Exception as error:  # of a damaged file Pillow raises whatever it likes
        bits = _bits_per_sample(path)
        if not bits or bits == 8:
            raise StudyError(
                f"{path} cannot be read as a TIFF image (truncated, or not a TIFF): copy or export it again"
            ) from error
        mode, frames = f"{bits}-bit", 1
    raise StudyError(_refusal(path, mode, frames))


def _refusal(path: Path, mode: str, frames: int) -> str:
    """Why an image that can be read cannot be used."""
    if frames > 1:
        return f"{path} holds {frames} pages: save each slice as a file of its own, named {NAMING}"
    if mode == "1":
        return f"{path} is a black-and-white image, so a mask: give the images themselves"
    bits = {"F": "32-bit float", "I": "32-bit"}.get(mode, "16-bit" if mode.startswith("I;16") else mode)
    return (
        f"{path} is a {bits} TIFF and edgeseg reads 8-bit RGB or greyscale ones: "
        "export it with 8 bits a channel, or give the original DICOM files"
    )


def _checked(path: Path, pixels: ByteArray) -> ByteArray:
    """Refuse a mask in place of an image."""
    used = np.flatnonzero(np.bincount(pixels.ravel(), minlength=256))
    if used.tolist() == [0, 255]:
        raise StudyError(
            f"{path} holds only the values 0 and 255, so it is a mask and no image: "
            f"give the images, and name masks {NAMING.replace('.tif', '_mask.tif')}"
        )
    return pixels


def _origin(slices: ByteArray, position: int) -> ChannelOrigin:
    """How a channel is filled: by itself, or by FLAIR where it is a copy of FLAIR or blank."""
    channel, flair = slices[..., position], slices[..., CHANNELS.index("flair")]
    title, series = _TITLES[CHANNELS[position]], f"channel {position + 1} of 3"
    if CHANNELS[position] == "flair":
        return ChannelOrigin("own", series, "the second channel of the file is FLAIR")
    if np.array_equal(channel, flair):
        return ChannelOrigin("flair", series, f"{title} is missing: the file holds a copy of FLAIR in its place")
    if not np.ptp(channel):
        return ChannelOrigin("flair", series, f"{title} is missing: its channel is blank in all slices")
    return ChannelOrigin("own", series, f"the file's channel {position + 1} is {title}")


def _size(pixels: ByteArray) -> str:
    return f"{pixels.shape[1]} x {pixels.shape[0]}"


def _bits_per_sample(path: Path) -> int | None:
    """Bits of a sample as the TIFF's own header says, for files that Pillow does not open; None if unreadable."""
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    try:
        with path.open("rb") as file:
            header = file.read(8)
            directory: Any = ImageFileDirectory_v2(header)
            file.seek(directory.next)
            directory.load(file)
            bits = directory.get(_BITS_PER_SAMPLE)
    except Exception:  # a damaged header raises whatever it likes, and the caller reports the file anyway
        return None
    return int(max(bits)) if isinstance(bits, tuple) else bits
