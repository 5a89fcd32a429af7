"""Names that scanners give their pulse sequences: the standard's elements, and what GE and Philips keep privately."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydicom import Dataset

STANDARD = ("SequenceName", "PulseSequenceName")
_PRIVATE = (
    (0x0019, "GEMS_ACQU_01", (0x9C, 0x9E)),
    (0x2001, "Philips Imaging DD 001", (0x20,)),
)
"""Group, its creator, and elements: GE's pulse sequence and internal sequence name, Philips's scanning technique."""
_BLOCK = 0x10
"""Where writers put the first private creator of a group, and so what is read of a file."""

PRIVATE_TAGS: tuple[str | int, ...] = (
    *((group << 16) + _BLOCK for group, _, _ in _PRIVATE),
    *((group << 16) + (_BLOCK << 8) + element for group, _, elements in _PRIVATE for element in elements),
)
TAGS: tuple[str | int, ...] = (*STANDARD, *PRIVATE_TAGS)
"""What has to be read of a file's header."""


def sequence_names(header: Dataset) -> str:
    """All names of the pulse sequence that a header holds, joined by blanks; "" where there is none."""
    found = [str(header.get(key) or "") for key in STANDARD]
    for group, creator, elements in _PRIVATE:
        said = header.get((group, _BLOCK))
        if said is not None and str(said.value).strip() == creator:
            found += [_text(header, group, element) for element in elements]
    return " ".join(name for name in found if name)


def _text(header: Dataset, group: int, element: int) -> str:
    """A private element's text; one whose kind the file does not say (implicit VR) is read as bytes."""
    item = header.get((group, (_BLOCK << 8) + element))
    value = None if item is None else item.value
    return value.decode("latin-1").strip("\0 ") if isinstance(value, bytes) else str(value or "")
