"""The JSON file beside a NIfTI file, as dcm2niix and BIDS have it: what it says of a series.

Times are in seconds there. A sidecar that cannot be used, or a value in it, is a problem to be told, and no error: the
image may still be recognised by its name.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LARGEST_BYTES = 16 << 20
_LONGEST_S = {"EchoTime": 2.0, "RepetitionTime": 100.0, "InversionTime": 20.0}
"""A longer time is in ms, or of another thing: in s no sequence has it."""
_TITLES = {"EchoTime": "echo time", "RepetitionTime": "repetition time", "InversionTime": "inversion time"}
_AGENTS = ("ContrastBolusIngredient", "ContrastBolusAgent")
NO_AGENT = frozenset(("", "no", "none", "n", "0", "nil", "without"))
"""What stands in the contrast agent's place where there is none."""


@dataclass(frozen=True)
class Sidecar:
    """A sidecar's content; empty where there is none.

    Parameters
    ----------
    fields
        As parsed.
    problems
        What is wrong with it, each as the rest of a sentence that begins with the sidecar. No text is quoted from it.
    """

    fields: dict[str, Any] = field(default_factory=dict)
    problems: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """Series description, or the protocol's name: searched, never quoted."""
        return self._text("SeriesDescription") or self._text("ProtocolName")

    @property
    def sequence(self) -> str:
        """The vendor's names of the sequence: searched, never quoted."""
        return " ".join(self._text(key) for key in ("SequenceName", "PulseSequenceName", "PulseSequenceDetails"))

    @property
    def techniques(self) -> tuple[str, ...]:
        """ScanningSequence's codes."""
        return tuple(self._listed("ScanningSequence"))

    @property
    def image_type(self) -> tuple[str, ...]:
        """ImageType's values, in capitals."""
        value = self.fields.get("ImageType")
        items = value if isinstance(value, list) else str(value or "").split("\\")
        return tuple(str(item).strip().upper() for item in items)

    @property
    def agent(self) -> bool | None:
        """Whether a contrast agent is named."""
        return any(self._text(key).strip().lower() not in NO_AGENT for key in _AGENTS) or None

    @property
    def acquired(self) -> str:
        """When the series was acquired, as text that sorts by time; anonymised sidecars say the time of day alone."""
        whole = self._text("AcquisitionDateTime")
        if whole:
            return whole
        hours, *rest = self._text("AcquisitionTime").split(":")
        return ":".join((hours.rjust(2, "0"), *rest)) if hours else ""

    @property
    def names(self) -> tuple[str, ...]:
        """What a user may call the series by: its number, its UID."""
        number = self.fields.get("SeriesNumber")
        uid = self._text("SeriesInstanceUID")
        whole = isinstance(number, int) and not isinstance(number, bool)
        return (*((str(number),) if whole else ()), *((uid,) if uid else ()))

    @property
    def study(self) -> str:
        """StudyInstanceUID, or "": dcm2niix leaves it out unless it is told to keep it."""
        return self._text("StudyInstanceUID")

    def time_ms(self, key: str) -> float | None:
        """A time, in ms; None where it is missing or unusable."""
        value = self.fields.get(key)
        return float(value) * 1000.0 if value is not None and _is_time(key, value) else None

    def _text(self, key: str) -> str:
        value = self.fields.get(key)
        return value if isinstance(value, str) else ""

    def _listed(self, key: str) -> list[str]:
        """A list, which dcm2niix writes as a list, or as text with underscores or backslashes."""
        value = self.fields.get(key)
        items = value if isinstance(value, list) else str(value or "").replace("\\", "_").split("_")
        return [str(item) for item in items if item]


def read(image: Path) -> Sidecar:
    """Read the JSON file of an image's name.

    Parameters
    ----------
    image
        A .nii or .nii.gz file.

    Returns
    -------
    Sidecar
        Empty where there is none; with its problems where it cannot be used.
    """
    path = path_of(image)
    try:
        if path.stat().st_size > LARGEST_BYTES:
            return Sidecar(problems=(f"is larger than {LARGEST_BYTES >> 20} MB, so it is none: it was left aside",))
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return Sidecar()
    except OSError as error:
        return Sidecar(problems=(f"cannot be opened ({error.strerror}): it was left aside",))
    except (ValueError, RecursionError):
        return Sidecar(problems=("is damaged, no JSON: it was left aside, so convert the series again",))
    if not isinstance(content, dict):
        return Sidecar(problems=("holds no object of fields: it was left aside, so convert the series again",))
    return Sidecar(content, tuple(_problems(content)))


def path_of(image: Path) -> Path:
    """Where a .nii or .nii.gz file's sidecar lies, be it there or not."""
    return image.parent / f"{image.name.removesuffix('.gz').removesuffix('.nii')}.json"


def _problems(content: dict[str, Any]) -> list[str]:
    return [
        f"has no {_TITLES[key]} in seconds (0 to {longest:g}) where one is expected: it was left aside"
        for key, longest in _LONGEST_S.items()
        if content.get(key) is not None and not _is_time(key, content[key])
    ]


def _is_time(key: str, value: Any) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and bool(0 <= value <= _LONGEST_S[key])
