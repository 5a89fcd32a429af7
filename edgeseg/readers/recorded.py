"""The PyTorch model's masks of the parity slices, recorded where PyTorch was at hand: a reference for machines without.

``calibration/masks/`` holds ``<network>.png`` for each shipped network, one bit a pixel, the slices below each other in
the order of the slices' index, and ``index.json``, which says what they were made with.
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from edgeseg.errors import InputError
from edgeseg.readers import slices
from edgeseg.types import BoolArray, Preprocessing

FOLDER = "masks"
FORMAT = 1


@dataclass(frozen=True)
class Key:
    """What masks depend on: recorded ones are a reference for an engine that has all of it alike.

    Parameters
    ----------
    weights_sha256
        Hash of the network's weights.
    threshold
        Probability, 0..1, at and above which a pixel is marked.
    preprocessing
        How voxels become network input.
    slices_sha256
        `edgeseg.readers.slices.Slices.digest` of the network input.
    """

    weights_sha256: str
    threshold: float
    preprocessing: Preprocessing
    slices_sha256: str


@dataclass(frozen=True)
class Recorded:
    """A network's recorded masks, bool (slice, 256, 256), and the runtime that made them."""

    masks: BoolArray
    runtime: str


def read(key: Key, folder: Path | None = None) -> Recorded:
    """The recorded masks that belong to a network.

    Parameters
    ----------
    key
        What the engine to be compared has.
    folder
        With ``masks/``; None is the shipped one.

    Raises
    ------
    InputError
        When there are none for these weights, they were made with another threshold, preprocessing or other slices, or
        they are missing or damaged.
    """
    folder = folder or slices.shipped_folder()
    row = next((row for row in _rows(folder) if row["weights_sha256"] == key.weights_sha256), None)
    if row is None:
        raise InputError(f"no masks are recorded for the weights {key.weights_sha256[:12]}")
    wanted = asdict(key)
    if other := [name for name in wanted if row[name] != wanted[name]]:
        raise InputError(
            f"the recorded masks of {row['network']} were made with another {other[0]}: theirs is {row[other[0]]}, the "
            f"engine's {wanted[other[0]]}"
        )
    content = slices.verified(folder / FOLDER / f"{row['network']}.png", row["sha256"])
    with Image.open(io.BytesIO(content)) as image:
        strip: BoolArray = np.asarray(image, dtype=np.bool_)
    size = key.preprocessing.size_px
    return Recorded(strip.reshape(-1, size, size), row["runtime"])


def known(folder: Path | None = None) -> dict[str, str]:
    """Names of the networks that masks are recorded of, by the SHA-256 of their weights.

    Raises
    ------
    InputError
        When the index is missing or not one that this edgeseg reads.
    """
    return {row["weights_sha256"]: row["network"] for row in _rows(folder or slices.shipped_folder())}


def _rows(folder: Path) -> list[dict[str, Any]]:
    path = folder / FOLDER / slices.INDEX
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']}")
        rows: list[dict[str, Any]] = content["networks"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"no index of recorded masks at {path} ({error}): install edgeseg again") from error
    return rows


def write(folder: Path, recorded: dict[str, tuple[Key, Recorded]]) -> None:
    """Write the recorded masks of several networks, by their names, and the index; what was there before goes.

    Parameters
    ----------
    folder
        Gets ``masks/``.
    recorded
        Key and masks by the network's name.
    """
    place = folder / FOLDER
    place.mkdir(exist_ok=True)
    for earlier in place.glob("*.png"):
        earlier.unlink()
    rows = []
    for network, (key, found) in sorted(recorded.items()):
        packed = io.BytesIO()
        Image.fromarray(found.masks.reshape(-1, found.masks.shape[-1])).save(packed, "PNG", optimize=True)
        (place / f"{network}.png").write_bytes(packed.getvalue())
        rows.append(
            {
                "network": network,
                **asdict(key),
                "runtime": found.runtime,
                "sha256": hashlib.sha256(packed.getvalue()).hexdigest(),
            }
        )
    content = {"format": FORMAT, "licence": "CC-BY-NC-SA-4.0", "networks": rows}
    (place / slices.INDEX).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
