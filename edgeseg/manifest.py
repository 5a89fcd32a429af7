"""``manifest.json``: its bytes to a `Manifest`, every field checked against the type and the values it may have.

Types, and which fields may be missing, are those of the dataclasses in `edgeseg.types`: a field that is added there is
checked here without a line. What a type does not say is a line of `_rules`.
"""

from __future__ import annotations

import json
import re
import types
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from edgeseg.errors import EngineError
from edgeseg.types import Manifest

FORMAT = 2
READABLE = (1, FORMAT)
"""Format 1 had no hashes but the network file's: all that it lacks has a default."""
REINSTALL = "install edgeseg again, or build the engine again with edgeseg build-engine"

_PLAIN = re.compile(r"\w[\w.-]*", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_VERSION = re.compile(r"\d+(\.\w+)+", re.ASCII)
_WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
_T = TypeVar("_T")


class _FieldError(ValueError):
    """A field with a value that it cannot have."""

    def __init__(self, place: str, found: object, expected: str) -> None:
        super().__init__(f"{place} is {json.dumps(found)[:60]}, expected {expected}")
        self.place = place


def parse(content: bytes, name: str) -> Manifest:
    """The manifest that these bytes are.

    Parameters
    ----------
    content
        Of ``manifest.json``.
    name
        Of the bundle, for the message.

    Raises
    ------
    EngineError
        When it is no JSON object, of a format that this version does not know, or when a field is missing, unknown, of
        another type, or has a value that no engine can have.
    """
    try:
        raw = json.loads(content.decode("utf-8"), parse_constant=_refuse)
        if not isinstance(raw, dict):
            raise _FieldError("it", raw, "an object")
        _check_format(raw, name)
        manifest = _object(Manifest, {**raw, "format": FORMAT}, "")
        _check_values(manifest)
    except (ValueError, RecursionError) as error:
        remedy = REINSTALL
        if isinstance(error, _FieldError) and error.place.startswith("preprocessing"):
            remedy = f"build it for this edgeseg with edgeseg build-engine WEIGHTS --{raw.get('precision')} -o FOLDER"
        raise EngineError(f"the bundle {name} has no usable manifest.json ({error}): {remedy}") from error
    return manifest


def _refuse(constant: str) -> None:
    raise ValueError(f"it holds {constant}, expected numbers that are finite")


def _check_format(raw: dict[str, Any], name: str) -> None:
    found = raw.get("format")
    if type(found) is int and found > FORMAT:
        raise EngineError(
            f"the bundle {name} has the format {found}, this edgeseg reads up to {FORMAT}: "
            "upgrade it with pip install --upgrade edgeseg"
        )
    if type(found) is not int or found not in READABLE:
        raise _FieldError("format", found, " or ".join(map(str, READABLE)))


def _object(kind: type[_T], raw: object, place: str) -> _T:
    """A dataclass of its fields; ``place`` leads to it, with a dot at the end, and is empty for the manifest itself."""
    if not isinstance(raw, dict):
        raise _FieldError(place.rstrip("."), raw, "an object")
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(raw.keys() - known.keys()):
        raise _FieldError(place + unknown[0], raw[unknown[0]], "no such field")
    for name, field in known.items():
        if name not in raw and field.default is MISSING and field.default_factory is MISSING:
            raise ValueError(f"{place}{name} is missing")
    hints = get_type_hints(kind)
    return kind(**{name: _value(hints[name], value, place + name) for name, value in raw.items()})


def _value(kind: Any, value: Any, place: str) -> Any:
    """A JSON value as the type that the dataclass's annotation names."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        (inner,) = [part for part in parts if part is not types.NoneType]
        return None if value is None else _value(inner, value, place)
    if origin is Literal:
        if not any(value == part and type(value) is type(part) for part in parts):
            raise _FieldError(place, value, " or ".join(json.dumps(part) for part in parts))
        return value
    if origin is tuple:
        if not isinstance(value, list):
            raise _FieldError(place, value, "a list")
        return tuple(_value(parts[0], item, f"{place}[{k}]") for k, item in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            raise _FieldError(place, value, "an object")
        return {key: _value(parts[1], item, f"{place}.{key}") for key, item in value.items()}
    if is_dataclass(kind):
        return _object(kind, value, f"{place}.")  # type: ignore[arg-type]
    if kind is float and type(value) is int:
        return float(value)
    if kind is not Any and type(value) is not kind:
        raise _FieldError(place, value, _WORDS[kind])
    return value


def _check_values(manifest: Manifest) -> None:
    """Raise for a value that no engine can have: a changed byte here changes masks."""
    for place, found, well, expected in _rules(manifest):
        if not well:
            raise _FieldError(place, found, expected)


def _rules(manifest: Manifest) -> list[tuple[str, object, bool, str]]:
    """Each field that its type says too little of: place, what was found, whether it may be, what is expected."""
    size, threshold = manifest.preprocessing.size_px, manifest.threshold
    hashes = {"sha256": manifest.sha256, "weights_sha256": manifest.weights_sha256}
    hashes |= {f"files.{name}": value for name, value in manifest.files.items()}
    names = ["manifest.json", "manifest.sig", manifest.file, *manifest.files]
    return [
        ("file", manifest.file, _is_plain(manifest.file), "the name of a file inside the bundle"),
        *(("files", name, _is_plain(name), "names of files inside the bundle") for name in manifest.files),
        ("files", sorted(manifest.files), len(set(names)) == len(names), "other files than manifest and network"),
        *((place, value, bool(_SHA256.fullmatch(value)), "a SHA-256 in hex") for place, value in hashes.items()),
        ("preprocessing.size_px", size, size > 0, "a number above 0"),
        ("threshold", threshold, 0 < threshold < 1, "a number above 0 and below 1"),
        ("runtimes", list(manifest.runtimes), bool(manifest.runtimes), "at least one"),
        ("input", manifest.input, _takes(manifest.input, "uint8", 3, size), f"uint8 [batch, 3, {size}, {size}]"),
        ("output", manifest.output, _takes(manifest.output, "float32", 1, size), f"float32 [batch, 1, {size}, {size}]"),
        *_plan_rules(manifest),
    ]


def _plan_rules(manifest: Manifest) -> list[tuple[str, object, bool, str]]:
    """What a plan's loading and refusing look at."""
    if manifest.plan is None:
        return []
    names = ("file", "sha256", "runtime", "version", "max_batch", "dla_core", "capabilities")
    file, sha256, runtime, version, batch, core, capabilities = (manifest.plan.get(name) for name in names)
    texts = isinstance(capabilities, list) and all(isinstance(one, str) for one in capabilities)
    hashed = isinstance(file, str) and manifest.files.get(file) == sha256
    numbered = isinstance(version, str) and bool(_VERSION.fullmatch(version))
    flags = {f"plan.{name}": manifest.plan.get(name) for name in ("version_compatible", "hardware_compatible")}
    return [
        ("plan.file", file, isinstance(file, str) and file in manifest.files, "one of the files"),
        ("plan.sha256", sha256, hashed, "the hash that files has of it"),
        ("plan.runtime", runtime, runtime in manifest.runtimes, "one of the runtimes"),
        ("plan.version", version, numbered, "a version"),
        ("plan.max_batch", batch, type(batch) is int and batch > 0, "a whole number above 0"),
        ("plan.dla_core", core, core is None or (type(core) is int and core >= 0), "a whole number or nothing"),
        ("plan.capabilities", capabilities, texts, "a list of texts"),
        *((place, value, type(value) is bool, _WORDS[bool]) for place, value in flags.items()),
    ]


def _is_plain(name: str) -> bool:
    """Whether a name stays in its folder on every system."""
    return bool(_PLAIN.fullmatch(name))


def _takes(tensor: dict[str, Any], dtype: str, channels: int, size: int) -> bool:
    shape = tensor.get("shape")
    return tensor.get("dtype") == dtype and isinstance(shape, list) and shape[1:] == [channels, size, size]
