"""An engine on disk: ``manifest.json``, one network file, ``parity.json``, and perhaps a plan and a signature.

Every file is verified against the manifest's hash before anything of it is parsed, and what was verified is what is
handed on: the bytes, not the path. The signature, where one is asked for, is verified before the manifest is parsed.
"""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from edgeseg import signing
from edgeseg.errors import EngineError, InputError
from edgeseg.manifest import REINSTALL, parse
from edgeseg.types import Manifest, Speed

MANIFEST = "manifest.json"
SIGNATURE = "manifest.sig"
PARITY = "parity.json"
PICTURE = "parity.png"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
DEFAULT_NETWORK = "lgg-unet-efficientnet-lite0"
DEFAULT_ENGINE = f"{DEFAULT_NETWORK}-int8"


def shipped_folder() -> Path:
    """The folder of shipped engines: beside the package in a checkout, inside it in a wheel."""
    package = Path(__file__).resolve().parent
    beside = package.parent / "engines"
    return beside if (package.parent / "pyproject.toml").is_file() else package / "engines"


def shipped_weights(network: str = DEFAULT_NETWORK) -> Path:
    """Path of a shipped network's ``weights.safetensors``; it need not exist."""
    return shipped_folder() / network / "weights.safetensors"


def example_data() -> Path:
    """The repository's example patient in the LGG set's own layout.

    Raises
    ------
    InputError
        When edgeseg was not installed from a checkout.
    """
    folder = Path(__file__).resolve().parent.parent / "examples" / "tiff"
    if not folder.is_dir():
        raise InputError("the example study comes with a checkout of the repository alone: give --data")
    return folder


def shipped() -> list[Path]:
    """Folders of the shipped bundles, sorted by name."""
    return sorted(path.parent for path in shipped_folder().glob(f"*/{MANIFEST}"))


def find(name_or_path: str) -> Path:
    """The folder of a bundle, given its path or the name of a shipped one.

    Raises
    ------
    InputError
        When there is neither.
    """
    places = [Path(name_or_path), shipped_folder() / name_or_path]
    if Path(name_or_path).name == name_or_path:  # a bare name means the shipped one, whatever lies in this folder
        places.reverse()
    for folder in places:
        if (folder / MANIFEST).is_file():
            return folder
    names = ", ".join(path.name for path in shipped()) or "none"
    raise InputError(f"no engine {name_or_path}: give a bundle's folder or the name of a shipped one ({names})")


def read(folder: Path, public_key: Path | None = None, backend: str | None = None) -> tuple[Manifest, bytes]:
    """The manifest and the verified bytes that a backend runs: the network file's or the plan's. All are verified.

    Parameters
    ----------
    folder
        The bundle.
    public_key
        As in `read_manifest`.
    backend
        Which backend asks; None means the first of the manifest's runtimes.

    Raises
    ------
    EngineError
        When something is missing, of another format, not signed, or its hash is not the manifest's.
    InputError
        When there is no such key.
    """
    manifest = read_manifest(folder, public_key)
    contents = {name: read_file(folder, manifest, name) for name in (manifest.file, *manifest.files)}
    if manifest.plan is not None and (backend or manifest.runtimes[0]) == manifest.plan["runtime"]:
        return manifest, contents[manifest.plan["file"]]
    return manifest, contents[manifest.file]


def read_manifest(folder: Path, public_key: Path | None = None) -> Manifest:
    """The manifest alone; no other file but its signature is looked at.

    Parameters
    ----------
    folder
        The bundle.
    public_key
        PEM file of the Ed25519 key whose signature the bundle has to have: it is checked before a byte is parsed. None
        asks for no signature.

    Raises
    ------
    EngineError
        When it is missing, not signed by this key, or not what `edgeseg.manifest.parse` takes.
    InputError
        When there is no such key.
    """
    content = _bytes(folder, MANIFEST)
    if public_key is not None:
        _check_signature(folder, content, public_key)
    return parse(content, folder.name)


def read_file(folder: Path, manifest: Manifest, name: str) -> bytes:
    """The verified bytes of one of the bundle's files.

    Raises
    ------
    EngineError
        When the manifest has no such file, or its hash is another.
    """
    hashes = {manifest.file: manifest.sha256, **manifest.files}
    if name not in hashes:
        raise EngineError(f"the manifest of the bundle {folder.name} has no hash of {name}: {REINSTALL}")
    content = _bytes(folder, name)
    found = _sha256(content)
    if found != hashes[name]:
        raise EngineError(
            f"the bundle {folder.name} is damaged: {name} has the SHA-256 {found[:12]}..., its manifest says "
            f"{hashes[name][:12]}...: {REINSTALL}"
        )
    return content


def _bytes(folder: Path, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except OSError as error:
        raise EngineError(f"the bundle {folder.name} has no readable {name} ({error.strerror}): {REINSTALL}") from error


def is_signed(folder: Path) -> bool:
    """Whether the bundle has a signature; whose, `read` with a key tells."""
    return (folder / SIGNATURE).is_file()


def _check_signature(folder: Path, content: bytes, public_key: Path) -> None:
    signature = _bytes(folder, SIGNATURE) if is_signed(folder) else None
    if signature is None or not signing.is_signed(content, signature, public_key):
        found = "is not signed" if signature is None else f"is not signed by {public_key}, or was changed since"
        raise EngineError(
            f"the bundle {folder.name} {found}: get it from its maker again, or sign it with edgeseg sign"
        )


def sign(folder: Path, private_key: Path) -> Path:
    """Sign a whole bundle: its manifest, which holds the hash of every file. Returns the signature's path.

    Parameters
    ----------
    folder
        The bundle.
    private_key
        As in `edgeseg.signing.sign`.

    Raises
    ------
    EngineError
        When the bundle is damaged.
    InputError
        When there is no such key, or the signature cannot be written.
    BackendMissing
        When the extra ``signing`` is not installed.
    """
    read(folder)
    signature = signing.sign(_bytes(folder, MANIFEST), private_key)
    try:
        _replace(folder / SIGNATURE, signature)
    except OSError as error:
        raise InputError(f"cannot write to {folder} ({error.strerror}): sign a copy of the bundle") from error
    return folder / SIGNATURE


def write(folder: Path, manifest: Manifest, content: bytes, others: Mapping[str, bytes] | None = None) -> Manifest:
    """Write a bundle; the manifest comes last, so a folder with a manifest is whole. Returns the manifest as written.

    Parameters
    ----------
    folder
        Where it goes; an earlier bundle's files are dropped once the new ones are on disk.
    manifest
        Its ``files`` are filled in here.
    content
        The network file.
    others
        Further files, by name: the plan that the manifest names, the gate's picture. ``parity.json`` is written from
        the manifest.

    Raises
    ------
    EngineError
        When ``content`` or the plan is not what the manifest's hash says, or the disk is full.
    InputError
        When the folder cannot be written.
    """
    if _sha256(content) != manifest.sha256:
        raise EngineError("the manifest's hash is not that of the network file")
    others = dict(others or {})
    if manifest.plan is not None and _sha256(others.get(manifest.plan["file"], b"")) != manifest.plan["sha256"]:
        raise EngineError("the manifest's hash is not that of the plan")
    if manifest.parity is not None:
        others[PARITY] = _json(asdict(manifest.parity))
    manifest = replace(manifest, files={name: _sha256(others[name]) for name in sorted(others)})
    files = {manifest.file: content, **others, MANIFEST: _json(to_json(manifest))}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _stage(folder, files)
        for earlier in (MANIFEST, SIGNATURE, *_earlier(folder)):
            (folder / earlier).unlink(missing_ok=True)
        for name in files:
            _partial(folder / name).replace(folder / name)
    except OSError as error:
        if error.errno in _FULL:
            needed = sum(map(len, files.values())) / 1e6
            raise EngineError(
                f"the disk is full: the bundle in {folder} needs {needed:.0f} MB, and an earlier one there is as it "
                "was; free room, or give another folder with -o"
            ) from error
        raise InputError(
            f"cannot write the bundle to {folder} ({error.strerror}): give another folder with -o"
        ) from error
    return manifest


def record_speed(folder: Path, speed: Speed) -> None:
    """Write into the manifest how fast the engine is.

    Raises
    ------
    EngineError
        When the bundle is damaged.
    InputError
        When it is signed, which this would undo, or cannot be written.
    """
    check_recordable(folder)
    manifest, _ = read(folder)
    try:
        _replace(folder / MANIFEST, _json(to_json(replace(manifest, speed=speed))))
    except OSError as error:
        raise InputError(
            f"cannot write to {folder} ({error.strerror}): record the speed of a copy of the bundle"
        ) from error


def check_recordable(folder: Path) -> None:
    """Raise InputError for a bundle whose signature a recorded speed would undo."""
    if is_signed(folder):
        raise InputError(f"{folder.name} is signed, and its speed would undo that: leave out --record, or sign later")


def confirm(folder: Path, manifest: Manifest, picture: Mapping[str, bytes]) -> None:
    """Write a bundle anew with another verdict: its plan has passed parity where it runs.

    Parameters
    ----------
    folder
        The bundle.
    manifest
        As it was read, but for the verdict.
    picture
        The verdict's picture, by its name; it takes the earlier one's place.

    Raises
    ------
    EngineError
        When the bundle is damaged, or the disk is full.
    InputError
        When the bundle is signed, which this would undo, or cannot be written.
    """
    check_confirmable(folder)
    kept = {name: read_file(folder, manifest, name) for name in manifest.files if name not in (PARITY, PICTURE)}
    write(folder, manifest, read_file(folder, manifest, manifest.file), {**kept, **picture})


def check_confirmable(folder: Path) -> None:
    """Raise InputError for a bundle whose signature the note that its plan has passed would undo."""
    if is_signed(folder):
        raise InputError(
            f"{folder.name} is signed, and the note that its plan has passed here would undo that: check a copy "
            f"without {SIGNATURE}, and sign that"
        )


def to_json(manifest: Manifest) -> dict[str, Any]:
    """Plain values, as ``manifest.json`` holds them."""
    return asdict(manifest)


def _earlier(folder: Path) -> tuple[str, ...]:
    """Files of the bundle that is in the folder, if there is one."""
    try:
        manifest = read_manifest(folder)
    except EngineError:
        return PARITY, PICTURE
    return manifest.file, *manifest.files


def _replace(path: Path, content: bytes) -> None:
    _stage(path.parent, {path.name: content})
    _partial(path).replace(path)


def _stage(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write every file beside its place, or none."""
    try:
        for name, content in files.items():
            _partial(folder / name).write_bytes(content)
    except OSError:
        for name in files:
            _partial(folder / name).unlink(missing_ok=True)
        raise


def _partial(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, as hex digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()
