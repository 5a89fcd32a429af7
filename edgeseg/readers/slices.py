"""The calibration and parity slices that edgeseg ships: network input, drawn masks, and the model's recorded masks."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from edgeseg import preprocess
from edgeseg.errors import InputError
from edgeseg.readers import discovery
from edgeseg.types import CHANNELS, BoolArray, ByteArray, Preprocessing

INDEX = "index.json"
SLICES = "slices"
FORMAT = 1
CALIBRATION_SLICES = 128
Use = Literal["calibration", "parity"]


@dataclass(frozen=True)
class Slices:
    """Slices of several patients, each patient's together and in order.

    Parameters
    ----------
    names, patients
        One of each a slice.
    slices
        uint8 (slice, channel, 256, 256), 0..255: what an engine is given.
    drawn
        bool (slice, 256, 256): drawn masks; None for calibration slices, which need none.
    """

    names: tuple[str, ...]
    patients: tuple[str, ...]
    slices: ByteArray
    drawn: BoolArray | None

    def digest(self) -> str:
        """SHA-256 of the network input, as hex digits."""
        return hashlib.sha256(np.ascontiguousarray(self.slices).tobytes()).hexdigest()


def shipped_folder() -> Path:
    """The folder of shipped slices: beside the package in a checkout, inside it in a wheel."""
    package = Path(__file__).resolve().parent.parent
    beside = package.parent / "calibration"
    return beside if (package.parent / "pyproject.toml").is_file() else package / "calibration"


def read(use: Use, preprocessing: Preprocessing, folder: Path | None = None) -> Slices:
    """Read the shipped slices of one use as network input; every file is checked against the index's hash first.

    Parameters
    ----------
    use
        ``calibration`` (INT8 ranges arise from them) or ``parity`` (the gate reads them, and nothing else does).
    preprocessing
        What the network takes: values by the intensity rule of each volume, or as they are stored.
    folder
        With ``index.json`` and ``slices/``; None is the shipped one.

    Raises
    ------
    InputError
        When the folder is missing, damaged, or not what the index says.
    """
    folder = folder or shipped_folder()
    rows = [row for row in read_index(folder)["slices"] if row["use"] == use]
    drawn = np.stack([_drawn(folder, row) for row in rows]) if use == "parity" else None
    return Slices(
        tuple(row["name"] for row in rows),
        tuple(row["patient"] for row in rows),
        np.stack([_input(folder, row, preprocessing) for row in rows]),
        drawn,
    )


def of_studies(path: Path, preprocessing: Preprocessing, most: int = CALIBRATION_SLICES) -> Slices:
    """Slices of one's own studies, evenly spread over each, as many of one study as of another.

    Parameters
    ----------
    path
        A study, or a folder of studies: DICOM, TIFF or NIfTI.
    preprocessing
        What the network takes.
    most
        How many slices to take in all, at most.

    Raises
    ------
    StudyError
        When there is no study, or one cannot be read: it is CT, or has no FLAIR.
    """
    studies = discovery.find_studies(path)[:most]
    names: list[str] = []
    patients: list[str] = []
    parts: list[ByteArray] = []
    for number, files in enumerate(studies):
        share = most // len(studies) + (number < most % len(studies))
        given = preprocess.to_network(discovery.read_study(files), preprocessing).slices
        count = min(share, len(given))
        spread = ((np.arange(count) + 0.5) * len(given) / count).astype(int)  # the middle of each part: no end slices
        names += [f"{files.name}_{k + 1}" for k in spread]
        patients += [files.name] * len(spread)
        parts.append(given[spread])
    return Slices(tuple(names), tuple(patients), np.concatenate(parts), None)


def read_index(folder: Path) -> dict[str, Any]:
    """The index of a folder of slices.

    Raises
    ------
    InputError
        When it is missing, or not an index that this edgeseg reads.
    """
    try:
        content = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"no index of slices at {folder / INDEX}: install edgeseg again, or give --data") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT or not content.get("slices"):
        raise InputError(f"{folder / INDEX} is no index that this edgeseg reads: install edgeseg again")
    return content


def verified(path: Path, sha256: str) -> bytes:
    """A file's bytes, if they have this hash.

    Raises
    ------
    InputError
        When the file is missing or has another hash.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} is missing ({error.strerror}): install edgeseg again") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise InputError(f"{path} is not the file that {INDEX} names (its SHA-256 differs): install edgeseg again")
    return content


def _input(folder: Path, row: dict[str, Any], preprocessing: Preprocessing) -> ByteArray:
    content = verified(folder / SLICES / f"{row['name']}.webp", row["image_sha256"])
    with Image.open(io.BytesIO(content)) as image:
        stored: ByteArray = np.asarray(image.convert("RGB"), dtype=np.uint8).transpose(2, 0, 1)
    if preprocessing.intensity == "stored":
        return stored
    flair = CHANNELS.index("flair")
    own = [k if rule else flair for k, rule in enumerate(row["rules"])]  # FLAIR stands in for a missing sequence
    values = [preprocess.scaled(stored[k].astype(np.float32), *row["rules"][k]) for k in own]
    return np.stack([preprocess.to_bytes(channel) for channel in values])


def _drawn(folder: Path, row: dict[str, Any]) -> BoolArray:
    if row["mask_sha256"] is None:
        return np.zeros((256, 256), np.bool_)
    content = verified(folder / SLICES / f"{row['name']}_mask.png", row["mask_sha256"])
    with Image.open(io.BytesIO(content)) as image:
        drawn: BoolArray = np.asarray(image.convert("L"), dtype=np.uint8) > 0
    return drawn
