"""Training data as a table: one row an image, with its class and its run-length mask (Parquet, or CSV)."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from edgeseg.errors import BackendMissing, InputError
from edgeseg.readers import runlength
from edgeseg.types import BoolArray, ByteArray

SIZE_PX = 256
"""Height and width that images and masks are brought to."""

PATIENT = "patient"
"""Column that is read besides those named, where a table has it."""

LONGEST_SHOWN = 80
"""Characters of a value that an error shows."""

_FORMATS = ("PNG", "TIFF", "JPEG", "BMP")
_MODES = ("RGB", "RGBA", "P", "L", "LA")


@dataclass(frozen=True)
class Columns:
    """Names of the table's columns.

    Parameters
    ----------
    image
        File name of the image, with its ending.
    classes
        Class, or list of classes, of the row's masks.
    mask
        Run-length mask, or list of them: one for each class.
    group
        What must stay in one fold; None when every image stands for itself.
    """

    image: str
    classes: str
    mask: str
    group: str | None


@dataclass(frozen=True)
class Rows:
    """What a table and its images hold, one entry for each image, in order of first appearance.

    Parameters
    ----------
    images
        File names, as in the table.
    slices
        uint8 (slice, 3, 256, 256), 0..255: the image's red, green and blue, which are pre, FLAIR and post.
    masks
        bool (slice, 256, 256): the masks of all classes of the image, joined.
    groups
        The group column as text; the file name when there is no group column.
    patients
        The column ``patient`` as text; None when the table has none.
    """

    images: tuple[str, ...]
    slices: ByteArray
    masks: BoolArray
    groups: tuple[str, ...]
    patients: tuple[str, ...] | None


@dataclass
class _Entry:
    """One image's rows, gathered: its masks' texts by class, and what the label columns say of it."""

    drawn: list[tuple[str, str]]
    labels: dict[str, set[str]]


def read(
    table: Path,
    images: Path | None,
    columns: Columns,
    order: runlength.Order = "column",
    base: runlength.Base = 1,
) -> Rows:
    """Read a table and the images that it names.

    Parameters
    ----------
    table
        Parquet, or CSV where the name ends in ``.csv``.
    images
        Folder of the images; None takes the table's own folder, or ``images`` in it.
    columns
        Names of the table's columns.
    order, base
        How the run-length masks count pixels.

    Returns
    -------
    Rows
        Images and masks at 256 x 256: bilinear where an image is of another size, nearest for its mask.

    Raises
    ------
    InputError
        When the table cannot be read, lacks columns or rows, contradicts itself, names files that are not there, or
        when images or masks cannot be read: how many of each, and the first of them.
    BackendMissing
        When pyarrow is not installed.
    """
    named = [columns.image, columns.classes, columns.mask, *([columns.group] if columns.group else [])]
    values = _read_columns(table, named)
    labels = [name for name in dict.fromkeys((columns.group, PATIENT)) if name and name in values]
    entries, faults = _gather(values, columns, labels)
    folder = _folder(table, images, entries)
    if missing := _missing(folder, entries):
        faults.append(missing)
    if faults:
        raise InputError(f"{table} cannot be trained on: " + "; ".join(faults))
    names = tuple(entries)
    slices, masks = _read_slices(table, folder, entries, order, base)
    groups = _label(entries, columns.group) if columns.group else names
    return Rows(names, slices, masks, groups, _label(entries, PATIENT) if PATIENT in values else None)


def _label(entries: dict[str, _Entry], name: str) -> tuple[str, ...]:
    return tuple(next(iter(entry.labels[name])) for entry in entries.values())


def _read_columns(table: Path, named: list[str]) -> dict[str, list[Any]]:
    """The named columns, and ``patient`` where the table has it, as Python values."""
    try:
        import pyarrow as pa
        from pyarrow import csv, parquet
    except ImportError as error:
        raise BackendMissing("tables need pyarrow: pip install 'edgeseg[train]'") from error
    if not table.is_file():
        raise InputError(f"there is no table at {table}: give a Parquet file, or a CSV file whose name ends in .csv")
    try:
        if table.suffix.lower() == ".csv":
            text = csv.ConvertOptions(
                column_types=dict.fromkeys([*named, PATIENT], pa.string()), strings_can_be_null=True
            )
            found = csv.read_csv(table, convert_options=text)
            wanted = _wanted(table, named, found.column_names)
        else:
            with parquet.ParquetFile(table) as file:
                wanted = _wanted(table, named, file.schema_arrow.names)
                found = file.read(columns=wanted)
        values = {name: found.column(name).to_pylist() for name in wanted}
    except (pa.ArrowException, OSError, ValueError) as error:
        kind = "CSV" if table.suffix.lower() == ".csv" else "Parquet"
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise InputError(f"{table} cannot be read as a {kind} table ({reason}): write or copy it again") from error
    if not found.num_rows:
        raise InputError(f"{table} has its columns but no rows, where one for each image is expected: write it again")
    return values


def _wanted(table: Path, named: list[str], has: list[str]) -> list[str]:
    """Columns to read, after a look at which there are."""
    if missing := [name for name in dict.fromkeys(named) if name not in has]:
        raise InputError(
            f"{table} has no column {', '.join(missing)}; its columns are {', '.join(has) or 'none'}: "
            "name the columns as the table does"
        )
    wanted = list(dict.fromkeys([*named, *([PATIENT] if PATIENT in has else [])]))
    if twice := [name for name in wanted if has.count(name) > 1]:
        raise InputError(f"{table} has {has.count(twice[0])} columns {twice[0]}: leave one of them")
    return wanted


def _gather(values: dict[str, list[Any]], columns: Columns, labels: list[str]) -> tuple[dict[str, _Entry], list[str]]:
    """Bring the rows of an image together; and what is wrong with the rows, as sentences."""
    entries: dict[str, _Entry] = {}
    nameless, uneven, repeated = [], [], []
    for row, (image, classes, masks) in enumerate(
        zip(values[columns.image], values[columns.classes], values[columns.mask], strict=True), start=1
    ):
        if not isinstance(image, str) or not image.strip():
            nameless.append(f"row {row}")
            continue
        drawn = _pairs(classes, masks)
        if drawn is None:
            uneven.append(f"{image} with {len(_listed(classes))} classes and {len(_listed(masks))} masks")
            continue
        entry = entries.setdefault(image, _Entry([], {name: set() for name in labels}))
        repeated += [f"{image} in row {row}" for k, pair in enumerate(drawn) if pair in entry.drawn + drawn[:k]]
        entry.drawn += drawn
        for name in labels:
            entry.labels[name].add("" if values[name][row - 1] is None else str(values[name][row - 1]))
    faults = [
        _fault(nameless, f"rows without a file name in {columns.image}", "and every row needs one"),
        _fault(uneven, "rows with lists of unlike length", "so give a mask for each class"),
        _fault(repeated, "rows that repeat an image, class and mask", "so leave one of each"),
    ]
    for name in labels:
        told = [(image, entry.labels[name]) for image, entry in entries.items()]
        faults.append(_fault([i for i, t in told if "" in t], f"images without a {name}", "so fill the column"))
        several = [f"{i} with {' and '.join(sorted(t)[:2])}" for i, t in told if len(t - {""}) > 1]
        faults.append(_fault(several, f"images with more than one {name}", "so give all rows of an image the same"))
    return entries, [fault for fault in faults if fault]


def _pairs(classes: object, masks: object) -> list[tuple[str, str]] | None:
    """Class and mask of everything that a row draws, as text; None when its lists are of unlike length."""
    both = [classes], [masks]
    if isinstance(classes, list) or isinstance(masks, list):
        both = _listed(classes), _listed(masks)
    if len(both[0]) != len(both[1]):
        return None
    texts = [["" if v is None or v != v else str(v).strip() for v in values] for values in both]
    return list(zip(*texts, strict=True)) or [("", "")]


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _fault(found: Iterable[str], what: str, mend: str) -> str:
    """``rows ...: 4 (first, second, third, ...), mend``; empty when nothing was found."""
    listed = [one if len(one) <= LONGEST_SHOWN else f"{one[:LONGEST_SHOWN]}..." for one in found]
    shown = ", ".join(listed[:3]) + (", ..." if len(listed) > 3 else "")
    return f"{what}: {len(listed)} ({shown}), {mend}" if listed else ""


def _folder(table: Path, images: Path | None, entries: Iterable[str]) -> Path:
    """The folder given, or the likelier one of the two beside the table."""
    if images is not None:
        if not images.is_dir():
            raise InputError(f"there is no folder of images at {images}: give the one that holds the table's images")
        return images
    names = list(entries)
    places = (table.parent / "images", table.parent)
    return max(places, key=lambda place: (sum(_is_file(place / name) for name in names), place.is_dir()))


def _missing(folder: Path, entries: Iterable[str]) -> str:
    """How many images are not in the folder, and whether an ending is all they lack."""
    absent = [name for name in entries if not _is_file(folder / name)]
    if not absent:
        return ""
    whole = folder / absent[0]
    near = whole.parent.iterdir() if whole.parent.is_dir() else ()
    mend = f"not in {folder}: give the folder that holds them, and file names with their ending"
    if found := next((path.name for path in near if path.stem == whole.name), None):
        mend = f"as {whole.name} lacks its ending (the file is {found}): write file names with their ending"
    return _fault(absent, "images that are missing", mend)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # longer than a file name can be, as when another column is taken for the images'
        return False


def _read_slices(
    table: Path, folder: Path, entries: dict[str, _Entry], order: runlength.Order, base: runlength.Base
) -> tuple[ByteArray, BoolArray]:
    """Images uint8 (slice, 3, 256, 256) and masks bool (slice, 256, 256)."""
    slices = np.empty((len(entries), 3, SIZE_PX, SIZE_PX), np.uint8)
    masks = np.zeros((len(entries), SIZE_PX, SIZE_PX), np.bool_)
    unreadable, undecodable = [], []
    for k, (name, entry) in enumerate(entries.items()):
        try:
            image = _open(folder / name)
        except InputError as error:
            unreadable.append(f"{name}: {error}")
            continue
        slices[k] = np.moveaxis(np.asarray(_resized(image, Image.Resampling.BILINEAR)), -1, 0)
        shape = image.height, image.width
        for kind, text in entry.drawn:
            try:
                mask = runlength.decode(text, shape, order, base)
            except InputError as error:
                undecodable.append(f"{name}{f', class {kind}' if kind else ''}: {error}")
                continue
            drawn = Image.fromarray(mask.astype(np.uint8))
            masks[k] |= np.asarray(_resized(drawn, Image.Resampling.NEAREST)) > 0
    faults = [
        f"{what}: {len(found)}, the first is {found[0]}"
        for what, found in (("images that cannot be read", unreadable), ("masks that cannot be decoded", undecodable))
        if found
    ]
    if faults:
        raise InputError(f"{table} cannot be trained on: " + "; ".join(faults))
    return slices, masks


def _resized(image: Image.Image, how: Image.Resampling) -> Image.Image:
    return image if image.size == (SIZE_PX, SIZE_PX) else image.resize((SIZE_PX, SIZE_PX), how)


def _open(path: Path) -> Image.Image:
    """One image as RGB; grey ones fill all three channels."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a damaged file Pillow warns besides, and the error says enough
            with Image.open(path, formats=_FORMATS) as image:
                if image.mode in _MODES and getattr(image, "n_frames", 1) == 1:
                    rgb: Image.Image = image.convert("RGB")
                    return rgb
                pages, mode = getattr(image, "n_frames", 1), image.mode
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"it is damaged or no image of {', '.join(_FORMATS)} ({error}): copy it again") from error
    found = f"{pages} pages" if pages > 1 else f"pixels of mode {mode}"
    raise InputError(f"it has {found}, where one 8-bit RGB or grey image is expected: export it again")
