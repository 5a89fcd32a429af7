"""What studies a path holds: DICOM by StudyInstanceUID, TIFF and NIfTI by folder.

One bad study does not keep the others from being found: what is wrong with a study is said when it is read.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from edgeseg.errors import StudyError
from edgeseg.readers import archives, dicomdir, nifti, tiff
from edgeseg.readers.choice import AUTOMATIC, Selection, without_named
from edgeseg.readers.folders import holds_results, kind_of, walk
from edgeseg.readers.headers import study_uid
from edgeseg.readers.limits import LARGEST_FILE
from edgeseg.types import Study

_WANTED = (
    "give a folder with DICOM files, with TIFF slices (<patient>_<n>.tif), with NIfTI files, or a zip archive of one"
)
_RESULTS = "holds results of edgeseg, not a study"
_LONGEST_NAME = 200
"""Bytes of a study's name; folders can have 255."""
_DICOM_ENDINGS = (".dcm", ".dicom", ".ima")


@dataclass(frozen=True)
class StudyFiles:
    """The files of one study.

    Parameters
    ----------
    name
        Name of the study's output folder, unlike that of any other study found with it: `_unique` says how.
    kind
        Kind of files.
    root
        Folder that holds them.
    files
        The files, sorted by path; of a study in an archive, the archive.
    uid
        StudyInstanceUID for DICOM ("" where no file says it), the folder's name otherwise.
    warnings
        Sentences on files that were skipped, without their names: warnings reach reports.
    skipped
        The files that were skipped.
    inside
        Folder in the archive ``root`` that holds the study; None where it is in no archive.
    problem
        Why the study cannot be read: reading it raises this. None where nothing is known against it.
    """

    name: str
    kind: Literal["dicom", "tiff", "nifti"]
    root: Path
    files: tuple[Path, ...]
    uid: str
    warnings: tuple[str, ...] = ()
    skipped: tuple[Path, ...] = ()
    inside: str | None = None
    problem: StudyError | None = None


def find_studies(path: Path) -> list[StudyFiles]:
    """Find the studies in a folder, or in a folder of several studies.

    Parameters
    ----------
    path
        A folder with any mix of kinds at any depth, a single image file, a zip archive, or a DICOMDIR.

    Returns
    -------
    list of StudyFiles
        Sorted by folder; at least one.

    Raises
    ------
    StudyError
        The path is missing, or holds nothing that can be read: the message names what was found.
    """
    if not path.exists():
        raise _unusable(path, f"does not exist: {_WANTED}")
    if path.is_file() and path.name.lower() == dicomdir.NAME:
        return _listed(path)
    files = [path] if path.is_file() else list(walk(path))
    if not files:
        raise _unusable(path, f"{_RESULTS if holds_results(path) else 'is empty'}: {_WANTED}")
    studies, unreadable = _group(files, path)
    for archive in (file for file in files if kind_of(file) == "zip"):
        known = {study.uid for study in studies if study.kind == "dicom"}
        studies += [study for study in _archived(archive, path) if study.kind != "dicom" or study.uid not in known]
    if not studies:
        raise _nothing(path, files, unreadable)
    if path.is_file() and studies[0].kind == "nifti" and studies[0].inside is None:
        studies = [replace(studies[0], name=nifti_name(path), uid=nifti_name(path))]
    return _unique(sorted(studies, key=lambda s: (str(s.root), s.kind, s.name)), path)


def _group(files: Sequence[Path], given: Path) -> tuple[list[StudyFiles], list[Path]]:
    """Studies among files that lie on the disk, and the files that should be DICOM and are not."""
    folders: dict[tuple[Literal["tiff", "nifti"], Path], list[Path]] = {}
    candidates = []
    for file in files:
        kind = kind_of(file)
        if kind == "dicom":
            candidates.append(file)
        elif kind == "tiff" or kind == "nifti":
            folders.setdefault((kind, file.parent), []).append(file)
    studies, unreadable = _dicom_studies(candidates)
    for (kind, folder), members in folders.items():
        name = folder.resolve().name or "study"
        studies.append(StudyFiles(name, kind, folder, tuple(members), name))
    if studies:
        studies += _damaged(unreadable, [study.root for study in studies], given)
    return studies, unreadable


def _archived(archive: Path, given: Path) -> list[StudyFiles]:
    """The studies in an archive; one that says why where it cannot be unpacked."""
    try:
        with archives.unpacked(archive) as folder:
            found, _ = _group(list(walk(folder)), folder)
    except StudyError as error:
        name = f"unreadable-{_path_digits(archive, given)}"
        return [StudyFiles(name, "dicom", archive, (archive,), "", problem=error)]
    studies = []
    for study in found:
        inside = study.root.relative_to(folder).as_posix()
        alone = sum(one.kind == study.kind for one in found) == 1
        name = study.name if study.kind == "dicom" else "_".join((archive.stem, *(() if alone else Path(inside).parts)))
        uid = study.uid if study.kind == "dicom" else name
        problem = None if study.problem is None else _elsewhere(study.problem, folder, archive)
        studies.append(
            replace(study, name=name, uid=uid, root=archive, files=(archive,), inside=inside, problem=problem)
        )
    return studies


def _listed(path: Path) -> list[StudyFiles]:
    """The studies that a DICOMDIR lists, with a warning where some of the files are gone."""
    listed = dicomdir.listed_files(path)
    studies, unreadable = _dicom_studies(listed.files)
    if not studies:
        raise _nothing(path, listed.files, unreadable)
    found = []
    for study in studies:
        gone = listed.missing.pop(study.uid, 0)
        note = f"{gone} of {gone + len(study.files)} files that the DICOMDIR lists for the study are missing"
        found.append(replace(study, warnings=(*study.warnings, *((note,) if gone else ()))))
    for uid, gone in listed.missing.items():
        problem = _unusable(path, f"lists {gone} files of a study, and none of them is there: copy the whole disk")
        found.append(StudyFiles(_hashed(uid), "dicom", path.parent, (), "", problem=problem))
    return _unique(sorted(found, key=lambda s: (str(s.root), s.kind, s.name)), path)


def read_study(files: StudyFiles, selection: Selection = AUTOMATIC) -> Study:
    """Read a study that was found.

    Parameters
    ----------
    files
        As `find_studies` gave it.
    selection
        Which series the user named, and the rules for the others.

    Returns
    -------
    Study
        FLAIR, and the T1s on its grid.

    Raises
    ------
    StudyError
        The images are unreadable, incomplete, or hold no FLAIR.
    """
    from edgeseg.readers import dicom

    if files.problem is not None:
        raise files.problem
    if files.inside is not None:
        return _read_archived(files, selection)
    if files.kind == "dicom":
        return dicom.read_study(files.name, files.uid, files.files, files.warnings, files.skipped, selection)
    if files.kind == "tiff":
        return without_named(tiff.read_study(files.name, files.files), selection)
    return nifti.read_study(files.name, files.files, selection)


def _read_archived(files: StudyFiles, selection: Selection) -> Study:
    """Unpack an archive again, read one of its studies, and clean up."""
    with archives.unpacked(files.root) as folder:
        found, _ = _group(list(walk(folder)), folder)
        for study in found:
            if study.kind == files.kind and study.root == folder / str(files.inside):
                if study.kind == "dicom" and study.uid != files.uid:
                    continue
                try:
                    return read_study(replace(study, name=files.name, uid=files.uid), selection)
                except StudyError as error:
                    raise _elsewhere(error, folder, files.root) from error
    raise _unusable(files.root, "has changed since its studies were looked for: run edgeseg again")


def _elsewhere(error: StudyError, folder: Path, archive: Path) -> StudyError:
    """Say of an archive what was said of the temporary folder that it was unpacked to."""
    said = (sentence.replace(str(folder), str(archive)) for sentence in (str(error), error.identified))
    return StudyError(*said)


def nifti_name(path: Path) -> str:
    """Name of a study that is a single NIfTI file."""
    return path.name.removesuffix(".gz").removesuffix(".nii")


def _dicom_studies(candidates: Sequence[Path]) -> tuple[list[StudyFiles], list[Path]]:
    """DICOM files by study, and the files that cannot be read as DICOM."""
    found: dict[str, list[Path]] = {}
    unreadable = []
    for path in candidates:
        uid = study_uid(path)
        if uid is None:
            unreadable.append(path)
        else:
            found.setdefault(uid, []).append(path)
    studies = []
    for uid, members in found.items():
        root = Path(os.path.commonpath([str(member.parent) for member in members]))
        skipped = tuple(path for path in unreadable if root in path.parents)
        notes = (_skipped(len(skipped)),) if skipped else ()
        studies.append(StudyFiles(_hashed(uid), "dicom", root, tuple(members), uid, notes, skipped))
    return studies, unreadable


def _hashed(uid: str) -> str:
    """Name of a DICOM study: digits, whatever its StudyInstanceUID holds."""
    return hashlib.sha256(uid.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def _damaged(unreadable: Sequence[Path], roots: Sequence[Path], given: Path) -> list[StudyFiles]:
    """Folders away from every study whose files should be DICOM and are not: reading them says what is wrong.

    No file says which study it belongs to, and the folder's name may be the patient's: digits of its path stand in.
    """
    folders: dict[Path, list[Path]] = {}
    for path in unreadable:
        if path.name.lower().endswith(_DICOM_ENDINGS) and not any(root in path.parents for root in roots):
            folders.setdefault(path.parent, []).append(path)
    digits = {folder: _path_digits(folder, given) for folder in folders}
    return [
        StudyFiles(f"unreadable-{digits[k]}", "dicom", k, tuple(files), "", problem=_nothing(k, files, files))
        for k, files in folders.items()
    ]


def _skipped(count: int) -> str:
    verb = "file is" if count == 1 else "files are"
    return f"{count} {verb} not DICOM, or truncated, or too large, and left aside"


def _nothing(path: Path, files: Sequence[Path], unreadable: Sequence[Path]) -> StudyError:
    """What is there instead of images."""
    if not unreadable and holds_results(path):
        return _unusable(path, f"{_RESULTS}: {_WANTED}")
    if not unreadable and path.suffix.lower() == archives.SUFFIX:
        return _unusable(path, f"was unpacked and holds no MR images: {_WANTED}")
    if not unreadable:
        endings = sorted({file.suffix or "no ending" for file in files})
        found = f"{len(files)} files were found" if len(files) > 1 else "one file was found"
        return _unusable(path, f"holds no MR images, {found} ({', '.join(endings[:5])}): {_WANTED}")
    example = unreadable[0]
    more = f", and {len(unreadable) - 1} more like it" if len(unreadable) > 1 else ""
    said, remedy = "holds no MR images that can be read", f"copy the files again, or {_WANTED}"
    wrong = f"{_diagnosis(example)}{more}"
    return _unusable(path, f"{said} (one file {wrong}): {remedy}", f"{said} ({example.name} {wrong}): {remedy}")


def _unusable(path: Path, said: str, identified: str = "") -> StudyError:
    """Say what is wrong with a folder, or a file; only the second of the two sentences names it."""
    return StudyError(f"the {'file' if path.is_file() else 'folder'} {said}", f"{path} {identified or said}")


def _diagnosis(path: Path) -> str:
    """Why a file is not DICOM."""
    try:
        with path.open("rb") as file:
            start = file.read(512)
        size = path.stat().st_size
    except OSError as error:
        return f"cannot be opened ({error.strerror})"
    if size > LARGEST_FILE:
        return f"has {size / (1 << 30):.1f} GB, and edgeseg takes files of {LARGEST_FILE >> 30} GB at most"
    if not start:
        return "is empty"
    if start[128:132] == b"DICM":
        return "is DICOM, but truncated in its header or without a StudyInstanceUID"
    text = all(byte in b"\t\n\r\f\b" or byte >= 32 for byte in start)
    return "is a text file, not DICOM" if text else "is not DICOM"


def _unique(studies: list[StudyFiles], path: Path) -> list[StudyFiles]:
    """Make names unlike each other.

    A name that several studies share is kept by none: each of them is named by its folder's path below the one that
    was given (``sub-01_anat``), and where that is shared too, digits that hang on path and kind follow it. So a
    study's name hangs on its own path and on whether it is shared, never on order or on which studies share it.
    """
    names = [study.name for study in studies]
    for longer in (_path_name, _digits_name):
        counts = Counter(names)
        names = [longer(study, path) if counts[name] > 1 else name for study, name in zip(studies, names, strict=True)]
    return [replace(study, name=_fitting(name, study, path)) for study, name in zip(studies, names, strict=True)]


def _path_name(study: StudyFiles, path: Path) -> str:
    """The path of a study's folder below the one given, as a name; a DICOM study's own, which quotes no path."""
    if study.kind == "dicom":
        return study.name
    place = study.root if study.inside is None else study.root.parent
    parts = [part for part in Path(os.path.relpath(place, path)).parts if part not in (".", "..")]
    return "_".join(parts if study.inside is None else [*parts, study.name]) or study.name


def _digits_name(study: StudyFiles, path: Path) -> str:
    return f"{_path_name(study, path)}-{_digits(study, path)}"


def _digits(study: StudyFiles, path: Path) -> str:
    return _path_digits(study.root, path, study.kind + study.uid)


def _path_digits(folder: Path, given: Path, more: str = "") -> str:
    """Digits that hang on a folder's path below the one given, and on what else tells a study from others."""
    place = Path(os.path.relpath(folder, given)).as_posix() + more
    return hashlib.sha256(os.fsencode(place)).hexdigest()[:6]


def _fitting(name: str, study: StudyFiles, path: Path) -> str:
    """The name where a folder beside others can have it and a terminal show it; else what is left of it, and digits."""
    printable = "".join(letter if letter.isprintable() else "_" for letter in name)
    if printable == name and name.strip(".") and len(name.encode()) <= _LONGEST_NAME:
        return name
    short = printable.encode()[: _LONGEST_NAME - 7].decode(errors="ignore").strip(".")
    return f"{short or 'study'}-{_digits(study, path)}"
