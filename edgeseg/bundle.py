"""An engine on disk: a folder with ``manifest.json``, one network file, and ``parity.json``.

A network file is verified against the manifest's hash before anything of it is parsed, and what was verified is what
is handed on: the bytes, not the path.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgeseg import verdict
from edgeseg.errors import EngineError, InputError
from edgeseg.types import Agreement, Manifest, ParityReport, Part, Preprocessing

MANIFEST = "manifest.json"
PARITY = "parity.json"
FORMAT = 1
DEFAULT_NETWORK = "lgg-unet-efficientnet-lite0"
DEFAULT_ENGINE = f"{DEFAULT_NETWORK}-fp16"


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


def read(folder: Path) -> tuple[Manifest, bytes]:
    """The manifest and the verified bytes of the network file.

    Raises
    ------
    EngineError
        When something is missing, of another format, or its hash is not the manifest's.
    """
    manifest = read_manifest(folder)
    path = folder / manifest.file
    try:
        content = path.read_bytes()
    except OSError as error:
        raise EngineError(f"the bundle {folder.name} has no readable {manifest.file}: {_REINSTALL}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != manifest.sha256:
        raise EngineError(
            f"the bundle {folder.name} is damaged: {manifest.file} has the SHA-256 {found[:12]}..., its manifest says "
            f"{manifest.sha256[:12]}...: {_REINSTALL}"
        )
    return manifest, content


_REINSTALL = "install edgeseg again, or build the engine again with edgeseg build-engine"


def read_manifest(folder: Path) -> Manifest:
    """The manifest alone; the network file is not looked at.

    Raises
    ------
    EngineError
        When it is missing, unreadable or of a format that this version does not know.
    """
    try:
        raw: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if raw.get("format") != FORMAT:
            raise EngineError(
                f"the bundle {folder.name} has the format {raw.get('format')}, this edgeseg reads {FORMAT}: "
                "build the engine again with edgeseg build-engine"
            )
        manifest = _from_json(raw)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise EngineError(f"the bundle {folder.name} has no usable {MANIFEST} ({error}): {_REINSTALL}") from error
    if not isinstance(manifest.file, str) or Path(manifest.file).name != manifest.file:
        raise EngineError(f"the bundle {folder.name} names a file outside itself ({manifest.file}): do not use it")
    return manifest


def _from_json(raw: dict[str, Any]) -> Manifest:
    fields = dict(raw)
    fields["runtimes"] = tuple(fields["runtimes"])
    fields["preprocessing"] = Preprocessing(**fields["preprocessing"])
    _check_values(fields)
    if fields["parity"] is not None:
        parity = dict(fields["parity"])
        parity["agreement"] = Agreement(**parity["agreement"])
        parity["failures"] = tuple(parity["failures"])
        for name in ("lost", "invented"):
            parity[name] = tuple(Part(**part) for part in parity.get(name, ()))
        for name, kind in verdict.PARTS.items():
            parity[name] = kind(**parity[name]) if parity.get(name) else None
        fields["parity"] = ParityReport(**parity)
    return Manifest(**fields)


def _check_values(fields: dict[str, Any]) -> None:
    """Raise ValueError for a value that no engine can have: a changed byte here changes masks."""
    preprocessing: Preprocessing = fields["preprocessing"]
    size = preprocessing.size_px
    threshold = fields["threshold"]
    wanted = {
        "precision": fields["precision"] in ("fp32", "fp16", "int8"),
        "inference_precision": fields["inference_precision"] in ("f32", "f16", "bf16"),
        "threshold": isinstance(threshold, float) and 0 < threshold < 1,
        "preprocessing.intensity": preprocessing.intensity in ("volume", "stored"),
        "preprocessing.size_px": isinstance(size, int) and list(fields["input"]["shape"][1:]) == [3, size, size],
        "output": list(fields["output"]["shape"][1:]) == [1, size, size],
        "runtimes": bool(fields["runtimes"]),
    }
    wrong = [name for name, well in wanted.items() if not well]
    if wrong:
        raise ValueError(f"{wrong[0]} has a value that no engine can have")


def write(folder: Path, manifest: Manifest, content: bytes) -> None:
    """Write a bundle; the manifest comes last, so a folder with a manifest is whole.

    Raises
    ------
    EngineError
        When ``content`` is not what the manifest's hash says.
    InputError
        When the folder cannot be written.
    """
    if hashlib.sha256(content).hexdigest() != manifest.sha256:
        raise EngineError("the manifest's hash is not that of the network file")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for earlier in (MANIFEST, PARITY):
            (folder / earlier).unlink(missing_ok=True)
        _replace(folder / manifest.file, content)
        if manifest.parity is not None:
            _replace(folder / PARITY, _json(asdict(manifest.parity)))
        _replace(folder / MANIFEST, _json(to_json(manifest)))
    except OSError as error:
        raise InputError(
            f"cannot write the bundle to {folder} ({error.strerror}): give another folder with -o"
        ) from error


def to_json(manifest: Manifest) -> dict[str, Any]:
    """Plain values, as ``manifest.json`` holds them."""
    return asdict(manifest)


def _replace(path: Path, content: bytes) -> None:
    partial = path.with_name(path.name + ".part")
    partial.write_bytes(content)
    partial.replace(path)


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, as hex digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()
