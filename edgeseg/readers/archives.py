"""Zip archives of studies: what they hold is unpacked into a private folder, within limits, and gone afterwards."""

from __future__ import annotations

import shutil
import stat
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from edgeseg.errors import StudyError

SUFFIX = ".zip"
MOST_FILES = 100_000
MOST_BYTES = 8 << 30
"""Bytes that an archive may hold when it is unpacked."""
MOST_RATIO, RATIO_FROM = 200, 256 << 20
"""How many times larger than itself an archive may become, where it becomes larger than so many bytes."""

_ENCRYPTED = 0x1
_CHUNK = 1 << 20


@contextmanager
def unpacked(archive: Path) -> Iterator[Path]:
    """Unpack an archive into a folder of its own, which only this user may read and which is gone at the end.

    Parameters
    ----------
    archive
        A zip file. Archives inside it stay packed.

    Yields
    ------
    Path
        The folder, in the system's place for temporary files.

    Raises
    ------
    StudyError
        The archive is damaged or encrypted, larger than the limits above, or holds a link or a name that climbs out
        of it; or there is no room to unpack it.
    """
    try:
        folder = Path(tempfile.mkdtemp(prefix="edgeseg-"))
    except OSError as error:
        raise _no_room(archive, error) from error
    try:
        _unpack(archive, folder)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _unpack(archive: Path, folder: Path) -> None:
    try:
        with zipfile.ZipFile(archive) as file:
            members = [member for member in file.infolist() if not member.is_dir()]
            _check(archive, members)
            for member in members:
                _extract(file, member, folder)
    except StudyError:
        raise
    except OSError as error:
        raise _no_room(archive, error) from error
    except Exception as error:  # of a damaged archive zipfile raises whatever it likes
        raise _unusable(
            archive,
            "cannot be unpacked (damaged, or packed in a way that Python's zipfile does not know): copy it "
            "again, or unpack it yourself and give the folder",
        ) from error


def _no_room(archive: Path, error: OSError) -> StudyError:
    return _unusable(
        archive,
        f"cannot be unpacked to {tempfile.gettempdir()} ({error.strerror or error}): make room there, or "
        "name another folder in the environment variable TMPDIR",
    )


def _check(archive: Path, members: list[zipfile.ZipInfo]) -> None:
    """Refuse an archive by its table of contents, before anything of it is written."""
    if len(members) > MOST_FILES:
        raise _unusable(archive, f"holds {len(members)} files, and edgeseg takes {MOST_FILES} at most: split it")
    size, packed = (
        (sum(sizes) for sizes in zip(*((m.file_size, m.compress_size) for m in members), strict=True))
        if (members)
        else (0, 0)
    )
    if size > MOST_BYTES:
        most = f"{MOST_BYTES >> 30} GB at most"
        raise _unusable(archive, f"holds {size / (1 << 30):.1f} GB unpacked, and edgeseg takes {most}: split it")
    if size > RATIO_FROM and size > MOST_RATIO * packed:
        raise _unusable(
            archive,
            f"would become {size // max(1, packed)} times larger, which no images do: unpack it yourself and "
            "give the folder, if you trust it",
        )
    for member in members:
        if member.flag_bits & _ENCRYPTED:
            raise _unusable(archive, "is encrypted: unpack it yourself and give the folder")
        if _leaves(member):
            raise _unusable(
                archive, "holds a link, or a name that climbs out of the archive: do not trust it, and ask its sender"
            )


def _leaves(member: zipfile.ZipInfo) -> bool:
    """Whether a member is a link or another special file, or its name leads out of the archive."""
    mode = member.external_attr >> 16
    parts = PurePosixPath(member.filename.replace("\\", "/")).parts
    special = bool(stat.S_IFMT(mode)) and not stat.S_ISREG(mode)
    return special or not parts or ".." in parts or parts[0] == "/" or parts[0].endswith(":")


def _extract(file: zipfile.ZipFile, member: zipfile.ZipInfo, folder: Path) -> None:
    """Write one member, no more of it than the table of contents says."""
    place = folder.joinpath(*PurePosixPath(member.filename.replace("\\", "/")).parts)
    place.parent.mkdir(parents=True, exist_ok=True)
    left = member.file_size
    with file.open(member) as source, place.open("xb") as target:
        while left > 0 and (chunk := source.read(min(_CHUNK, left))):
            target.write(chunk)
            left -= len(chunk)


def _unusable(archive: Path, said: str) -> StudyError:
    """Say what is wrong with an archive; only the second of the two sentences names it."""
    return StudyError(f"the archive {said}", f"{archive} {said}")
