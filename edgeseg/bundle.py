"""An engine on disk: a folder with ``manifest.json``, one network file, ``parity.json``, and perhaps a plan.

Network file and plan are verified against the manifest's hashes before anything of them is parsed, and what was
verified is what is handed on: the bytes, not the path.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgeseg.errors import EngineError, InputError
from edgeseg.types import Agreement, Manifest, ParityReport, Preprocessing

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


def read(folder: Path, backend: str | None = None) -> tuple[Manifest, bytes]:
    """The manifest and the verified bytes that a backend runs: the network file's, or the plan's.

    Parameters
    ----------
    folder
        Of the bundle.
    backend
        Which backend asks; None means the first of the manifest's runtimes.

    Raises
    ------
    EngineError
        When something is missing, of another format, or its hash is not the manifest's.
    """
    manifest = read_manifest(folder)
    content = _verified(folder, manifest.file, manifest.sha256)
    if manifest.plan is None:
        return manifest, content
    plan = _verified(folder, manifest.plan["file"], manifest.plan["sha256"])
    return manifest, plan if (backend or manifest.runtimes[0]) == manifest.plan["runtime"] else content


def _verified(folder: Path, name: str, sha256: str) -> bytes:
    try:
        content = (folder / name).read_bytes()
    except OSError as error:
        raise EngineError(f"the bundle {folder.name} has no readable {name}: {_REINSTALL}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise EngineError(
            f"the bundle {folder.name} is damaged: {name} has the SHA-256 {found[:12]}..., its manifest says "
            f"{sha256[:12]}...: {_REINSTALL}"
        )
    return content


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
    for name in (manifest.file, *([manifest.plan["file"]] if manifest.plan else [])):
        if not isinstance(name, str) or Path(name).name != name:
            raise EngineError(f"the bundle {folder.name} names a file outside itself ({name}): do not use it")
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
        "plan": fields.get("plan") is None or _is_plan(fields["plan"], fields["runtimes"]),
        "verified_on_device": isinstance(fields.get("verified_on_device", True), bool),
    }
    wrong = [name for name, well in wanted.items() if not well]
    if wrong:
        raise ValueError(f"{wrong[0]} has a value that no engine can have")


def _is_plan(facts: dict[str, Any], runtimes: tuple[str, ...]) -> bool:
    """Whether what a plan's loading and refusing look at is there."""
    texts = all(isinstance(facts[name], str) for name in ("file", "sha256", "version"))
    flags = all(isinstance(facts[name], bool) for name in ("version_compatible", "hardware_compatible"))
    numbers = isinstance(facts["max_batch"], int) and facts["max_batch"] > 0
    core = facts["dla_core"] is None or isinstance(facts["dla_core"], int)
    return (
        texts
        and flags
        and numbers
        and core
        and isinstance(facts["capabilities"], list)
        and facts["runtime"] in runtimes
    )


def write(folder: Path, manifest: Manifest, content: bytes, others: Mapping[str, bytes] | None = None) -> None:
    """Write a bundle; the manifest comes last, so a folder with a manifest is whole.

    Parameters
    ----------
    folder, manifest, content
        Where it goes, what it says of itself, and the network file.
    others
        Further files by name: the plan that the manifest names.

    Raises
    ------
    EngineError
        When ``content`` or ``plan`` is not what the manifest's hash says.
    InputError
        When the folder cannot be written.
    """
    if hashlib.sha256(content).hexdigest() != manifest.sha256:
        raise EngineError("the manifest's hash is not that of the network file")
    others = others or {}
    if manifest.plan is not None:
        plan = others.get(manifest.plan["file"], b"")
        if hashlib.sha256(plan).hexdigest() != manifest.plan["sha256"]:
            raise EngineError("the manifest's hash is not that of the plan")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for earlier in (MANIFEST, PARITY):
            (folder / earlier).unlink(missing_ok=True)
        _replace(folder / manifest.file, content)
        for name, file in others.items():
            _replace(folder / name, file)
        if manifest.parity is not None:
            _replace(folder / PARITY, _json(asdict(manifest.parity)))
        _replace(folder / MANIFEST, _json(to_json(manifest)))
    except OSError as error:
        raise InputError(
            f"cannot write the bundle to {folder} ({error.strerror}): give another folder with -o"
        ) from error


def confirm(folder: Path, manifest: Manifest) -> None:
    """Write the manifest anew: its plan has passed parity where it runs.

    Raises
    ------
    InputError
        When the folder cannot be written.
    """
    try:
        if manifest.parity is not None:
            _replace(folder / PARITY, _json(asdict(manifest.parity)))
        _replace(folder / MANIFEST, _json(to_json(manifest)))
    except OSError as error:
        raise InputError(f"cannot write to {folder} ({error.strerror}): check a copy of the bundle") from error


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
