"""Items of DICOM sequences as the bytes of a file: what pydicom writes, in a tenth of its time.

A SEG has a dozen attributes for each frame: to make and write them takes pydicom longer than everything else of the
file.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydicom import Dataset

_ITEM = 0xFFFE, 0xE000
_NUMBERS = {"US": "H", "UL": "I"}


def encoded(**attributes: Any) -> bytes:
    """Return an item as explicit little endian, its attributes in the order of their tags.

    Parameters
    ----------
    attributes
        By keyword: a text or a number, a list of them where the attribute takes several, or for a sequence the list of
        its items, encoded. Decimals are spelled as pydicom read them; texts are Latin letters.
    """
    content = b"".join(_element(*_known(keyword), attributes[keyword]) for keyword in sorted(attributes, key=_known))
    return struct.pack("<HHI", *_ITEM, len(content)) + content


def set_items(dataset: Dataset, keyword: str, items: Iterable[bytes]) -> None:
    """Give a dataset a sequence of encoded items; pydicom reads them when they are asked for.

    The dataset counts as one that was read from such a file, or pydicom would read and write the items anew.
    """
    from pydicom.charset import convert_encodings
    from pydicom.dataelem import RawDataElement
    from pydicom.tag import Tag

    character_set = convert_encodings(dataset.get("SpecificCharacterSet"))
    dataset.set_original_encoding(is_implicit_vr=False, is_little_endian=True, character_encoding=character_set)
    content = b"".join(items)
    tag = Tag(keyword)
    dataset[tag] = RawDataElement(tag, "SQ", len(content), content, 0, is_implicit_VR=False, is_little_endian=True)


@cache
def _known(keyword: str) -> tuple[int, str]:
    """Return an attribute's tag and value representation."""
    from pydicom.datadict import dictionary_VR
    from pydicom.tag import Tag

    return int(Tag(keyword)), dictionary_VR(keyword)


def _element(tag: int, kind: str, value: Any) -> bytes:
    """Return an attribute with its header: that of a sequence is longer."""
    place = tag >> 16, tag & 0xFFFF, kind.encode()
    if kind == "SQ":
        content = b"".join(value)
        return struct.pack("<HH2sHI", *place, 0, len(content)) + content
    values = [value] if isinstance(value, str | int) else list(value)
    if kind in _NUMBERS:
        content = struct.pack(f"<{len(values)}{_NUMBERS[kind]}", *values)
    else:
        content = "\\".join(str(getattr(one, "original_string", one)) for one in values).encode("latin-1")
        content += (b"\0" if kind == "UI" else b" ") * (len(content) % 2)
    return struct.pack("<HH2sH", *place, len(content)) + content
