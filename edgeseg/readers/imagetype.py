"""What DICOM's ImageType says of an image, in headers and in sidecars."""

from __future__ import annotations

from collections.abc import Collection

_REFORMATTED = frozenset(("MPR", "CSA MPR", "MPR_CURVED", "REFORMATTED", "RESAMPLED"))
_DERIVED = frozenset(
    (
        *("ADC", "EADC", "FA", "TRACEW", "MIP", "CSA MIP", "MNIP", "MIN IP", "PROJECTION IMAGE", "SUBTRACTION", "SUB"),
        *("PHASE MAP", "PHASE", "P", "REAL", "R", "IMAGINARY", "I"),
        *("SYNTHETIC", "T1 MAP", "T2 MAP", "FAT", "CBF", "CBV", "RCBF", "RCBV", "MTT", "TTP", "SCREEN SAVE"),
    )
)


def is_reformatted(types: Collection[str]) -> bool:
    """Whether ImageType's values, in capitals, are those of a series resampled onto other planes, and no projection."""
    return bool(_REFORMATTED.intersection(types)) and not _DERIVED.intersection(types)


def is_derived(types: Collection[str]) -> bool:
    """Whether they are those of an image computed from others, or of no image as acquired at all."""
    if _DERIVED.intersection(types):
        return True
    return {"DERIVED", "SECONDARY"} <= set(types) and not is_reformatted(types)
