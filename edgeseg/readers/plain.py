"""Plain DICOM files read at once: little endian, the length of every element said, nothing odd before the pixels.

That is what most scanners write. Anything else is left to pydicom, which copes with it and takes several times as long;
what is taken here gives the very datasets and pixels that pydicom gives.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from struct import Struct, error
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from pydicom import Dataset
    from pydicom.dataelem import DataElement
    from pydicom.tag import BaseTag

_HEADS = (1 << 13, 1 << 16)
"""Bytes in which a plain file's header ends: most in the first, all in the second."""
_MOST_ELEMENTS = 2000
_META, _SYNTAX = 0x0002, 0x0010
_CHARACTER_SET, _REPRESENTATION = 0x00080005, 0x00280103
_BESIDE_PIXELS, _PIXELS = 0x7FE00000, 0x7FE00010
_STUDY = 0x0020000D
_UID = re.compile(rb"[0-9.]+")
_PRIVATE = 0x00010000
"""What a private tag's group number has and no other's."""
_UNDEFINED = 0xFFFFFFFF
_IMPLICIT, _EXPLICIT = b"1.2.840.10008.1.2", b"1.2.840.10008.1.2.1"
_COMPRESSED = (b"1.2.840.10008.1.2.4.", b"1.2.840.10008.1.2.5")
"""What these begin with have headers in explicit little endian, too."""
_SHORT = frozenset(b"AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US".split())
_LONG = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_KINDS = {(8, 0): "u1", (8, 1): "i1", (16, 0): "<u2", (16, 1): "<i2", (32, 0): "<u4", (32, 1): "<i4"}
_explicit, _implicit, _length = (Struct(form).unpack_from for form in ("<HH2sH", "<HHL", "<L"))

Element = tuple[int, "str | None", bytes, int]
"""An element as it lies in a file: tag, VR (None where that is implicit), value, and where the value begins."""
Converted = dict[tuple[Any, ...], "DataElement"]
"""Elements by everything that their value hangs on: the slices of a series repeat most of them."""


@dataclass(frozen=True)
class Layout:
    """How the pixels of a file of one image lie in it: their type, and the values that the bits in use hold."""

    rows: int
    columns: int
    kind: np.dtype[np.integer[Any]]
    limits: tuple[int, int]


@dataclass(frozen=True)
class PlainFile:
    """A file's elements as they lie in it, and where its pixels begin.

    Parameters
    ----------
    path
        The file.
    implicit
        Whether the file leaves out what kind of value each element has (implicit VR).
    elements
        Those before the pixels, by ascending tag.
    pixels
        First byte and number of bytes of the pixels; None where there are none, or compressed ones.
    """

    path: Path
    implicit: bool
    elements: tuple[Element, ...]
    pixels: tuple[int, int] | None

    def dataset(self, tags: Collection[int] | None = None, converted: Converted | None = None) -> Dataset:
        """The elements before the pixels as pydicom's dataset, equal to what `pydicom.dcmread` gives.

        Parameters
        ----------
        tags
            The elements wanted; the character set always comes along. None takes all.
        converted
            Converted elements are taken from here and put here, so the dataset may only be read then. What cannot be
            converted is left for whoever asks for it.
        """
        from pydicom.charset import convert_encodings, default_encoding
        from pydicom.dataelem import convert_raw_data_element
        from pydicom.dataset import Dataset

        raw = self._raw(tags)
        scope = (self.implicit, *(getattr(raw.get(tag), "value", None) for tag in (_CHARACTER_SET, _REPRESENTATION)))
        keys: dict[Any, tuple[Any, ...]] = {}
        if converted is not None:
            keys = {tag: (scope, tag, one.VR, one.value) for tag, one in raw.items() if not tag & _PRIVATE}
            raw.update((tag, converted[key]) for tag, key in keys.items() if key in converted)
        encoding: Any = default_encoding
        if _CHARACTER_SET in raw:
            said = raw[_CHARACTER_SET]
            encoding = convert_encodings((convert_raw_data_element(said) if isinstance(said, tuple) else said).value)
        dataset = Dataset(raw)
        dataset.set_original_encoding(self.implicit, True, encoding)
        for tag, key in keys.items():
            if converted is not None and key not in converted:
                with suppress(Exception):  # pydicom raises whatever a value's conversion does
                    converted[key] = dataset[tag]
        return dataset

    def values(self, names: Mapping[int, str], converted: Converted) -> dict[str, Any]:
        """Values of elements, by what they are called here; those that cannot be converted are left out.

        Parameters
        ----------
        names
            Name by tag, of standard elements.
        converted
            As in `dataset`; only what it does not hold is given to pydicom.
        """
        wanted = {tag: (vr, value) for tag, vr, value, _ in self.elements if tag in names or tag == _CHARACTER_SET}
        scope = (self.implicit, wanted.get(_CHARACTER_SET))
        keys = {tag: (scope, tag, *said) for tag, said in wanted.items()}
        unseen = {tag for tag, key in keys.items() if key not in converted}
        if unseen:
            dataset = self.dataset(unseen)
            for tag in unseen:
                with suppress(Exception):  # pydicom raises whatever a value's conversion does
                    converted[keys[tag]] = dataset[tag_of(tag)]
        found = ((tag, converted.get(key)) for tag, key in keys.items() if tag in names)
        return {names[tag]: element.value for tag, element in found if element is not None}

    def said(self, tags: Collection[int]) -> tuple[tuple[int, str | None, bytes], ...]:
        """Tag, VR and value of those elements of ``tags`` that there are, and of the character set."""
        return tuple(one[:3] for one in self.elements if one[0] in tags or one[0] == _CHARACTER_SET)

    def _raw(self, tags: Collection[int] | None) -> dict[Any, Any]:
        from pydicom.dataelem import RawDataElement

        return {
            (key := tag_of(tag)): RawDataElement(key, vr, len(value), value, place, self.implicit, True)
            for tag, vr, value, place in self.elements
            if tags is None or tag in tags or tag == _CHARACTER_SET
        }

    def stored(self, layout: Layout | None) -> npt.NDArray[np.integer[Any]] | None:
        """The pixels as they are stored, (row, column), as pydicom's ``pixel_array`` gives them.

        Parameters
        ----------
        layout
            By the file's dataset.

        Returns
        -------
        array or None
            None where they are not plain: several frames or samples, bits beyond those that are used, another length.
        """
        if self.pixels is None or layout is None:
            return None
        start, length = self.pixels
        count = layout.rows * layout.columns
        if length != count * layout.kind.itemsize:
            return None
        stored = np.fromfile(self.path, layout.kind, count, offset=start)
        low, high = layout.limits
        if stored.size != count or stored.min(initial=0) < low or stored.max(initial=0) > high:
            return None
        return stored.reshape(layout.rows, layout.columns)


def layout_of(dataset: Dataset) -> Layout | None:
    """Layout of pixels by what a dataset says of them; None where they are not one image of whole numbers."""
    said = [dataset.get(name) for name in ("Rows", "Columns", "BitsAllocated", "BitsStored", "PixelRepresentation")]
    if not all(isinstance(value, int) for value in said):
        return None
    rows, columns, allocated, used, signed = said
    kind = _KINDS.get((allocated, signed))
    alone = (dataset.get("SamplesPerPixel"), dataset.get("NumberOfFrames") or 1) == (1, 1)
    if kind is None or not alone or not 0 < used <= allocated:
        return None
    limits = (-(1 << used - 1), (1 << used - 1) - 1) if signed else (0, (1 << used) - 1)
    return Layout(rows, columns, np.dtype(kind), limits)


def study_uid(path: Path) -> str | None:
    """StudyInstanceUID of a file that is plain up to there; None of any other."""
    file = read(path, _STUDY)
    tag, _, value, _ = file.elements[-1] if file and file.elements else (0, None, b"", 0)
    uid = value.rstrip(b"\0 ")
    return uid.decode() if tag == _STUDY and _UID.fullmatch(uid) else None


def read(path: Path, last: int = _PIXELS) -> PlainFile | None:
    """Read a file, all but its pixels; None where it is not plain.

    Parameters
    ----------
    path
        The file.
    last
        Tag of the last element that is wanted.

    Raises
    ------
    OSError
        When it cannot be opened.
    """
    content = b""
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        for head in _HEADS:
            content += file.read(head - len(content))
            if (found := _parsed(path, content, size, last)) or len(content) < head:
                return found
    return None


def _parsed(path: Path, content: bytes, size: int, last: int) -> PlainFile | None:
    """What a file's beginning says, or None where it is not plain, or goes on beyond it."""
    if content[128:132] != b"DICM":
        return None
    try:
        syntax, start = _syntax(content)
        if syntax not in (_IMPLICIT, _EXPLICIT) and not syntax.startswith(_COMPRESSED):
            return None
        return _walk(path, content, start, size, syntax == _IMPLICIT, last)
    except error:  # the header goes on beyond what was read
        return None


@lru_cache(maxsize=4096)
def tag_of(number: int) -> BaseTag:
    """A tag, the same object each time: two of them are slow to compare."""
    from pydicom.tag import BaseTag

    return BaseTag(number)


def _syntax(content: bytes) -> tuple[bytes, int]:
    """Transfer syntax by the file meta information, and where that ends."""
    place, syntax = 132, b""
    while True:
        group, element, vr, length = _explicit(content, place)
        if group != _META:
            return syntax, place
        start = place + 8
        if vr in _LONG:
            (length,) = _length(content, start)
            start += 4
        elif vr not in _SHORT:
            return b"", place
        place = start + length
        if element == _SYNTAX:
            syntax = content[start:place].rstrip(b"\0 ")


def _walk(path: Path, content: bytes, place: int, size: int, implicit: bool, wanted: int) -> PlainFile | None:
    """The elements up to the pixels, or None where one of them is not plain."""
    elements: list[Element] = []
    if implicit and content[place + 4 : place + 6].isalpha():  # the syntax that is said is not the one that is meant
        return None
    last = _META << 16 | 0xFFFF
    while place < size:
        vr = None
        if implicit:
            group, number, length = _implicit(content, place)
            start = place + 8
        else:
            group, number, code, length = _explicit(content, place)
            start = place + 8
            if code in _LONG:
                (length,) = _length(content, start)
                start += 4
            elif code not in _SHORT:
                return None
            vr = code.decode()
        tag = group << 16 | number
        if tag == _PIXELS and tag > last:
            native = start + length <= size
            return PlainFile(path, implicit, tuple(elements), (start, length) if native else None)
        if tag <= last or tag >= _BESIDE_PIXELS or length == _UNDEFINED:
            return None
        if start + length > len(content) or len(elements) >= _MOST_ELEMENTS:
            return None
        elements.append((tag, vr, content[start : start + length], start))
        last, place = tag, start + length
        if tag >= wanted:
            break
    return PlainFile(path, implicit, tuple(elements), None)
