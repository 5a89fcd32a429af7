"""The rules by which series are recognised: a JSON file, each field checked, which a site can extend or replace.

``edgeseg/configs/sequences.json`` holds the built-in ones; ``docs/sequences.md`` explains every field.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import re
import string
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from edgeseg.errors import ConfigError

KINDS = ("FLAIR", "T1", "T2", "PD", "other", "localizer", "derived image")
PLANES = ("axial", "sagittal", "coronal")
PLACEHOLDERS = ("te", "tr", "ti")
FORMAT = 1

_PATTERNS = ("text", "not_text", "sequence", "not_sequence")
_CODES = ("techniques", "not_techniques")
_RANGES = ("echo_time_ms", "repetition_time_ms", "inversion_time_ms", "slices", "thickness_mm")
_FLAGS = ("derived", "reformatted", "agent")
CONDITIONS = (*_PATTERNS, *_CODES, *_RANGES, *_FLAGS, "plane")
_CONTRAST = ("mixed", "before", "after")
_CONTRAST_POINTS = ("agent", "keyword", "time", "same_plane")
_TOP = ("format", "extends", "enough", "rules", "preferences", "contrast", "contrast_points")
_MOST_POINTS = 100


@dataclass(frozen=True)
class Rule:
    """``points`` for ``kind`` where all conditions of ``when`` hold.

    Parameters
    ----------
    name
        What a site's file replaces it by.
    kind
        One of `KINDS`.
    points
        May be negative.
    says
        Its clause in a report; ``{te}``, ``{tr}`` and ``{ti}`` become the series' times in ms.
    when
        Pairs of a name from `CONDITIONS` and its value: patterns, codes, planes, limits (low, high), a flag, or None
        for a time that is not said.
    """

    name: str
    kind: str
    points: int
    says: str
    when: tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Rules:
    """Everything that decides which series is which.

    Parameters
    ----------
    enough
        Points below which a series is not recognised.
    recognise
        What a series is.
    prefer
        Which of several series of a kind is taken: added to the points that its kind has already.
    contrast
        Patterns by their group: ``mixed`` is taken out of a text first, ``before`` goes before ``after``.
    contrast_points
        Points of a T1 for what says that it is before or after contrast, and for lying in the plane of FLAIR.
    source
        ``"built-in"``, or ``"site"`` and the first digits of the hash of the file's content.
    """

    enough: int
    recognise: tuple[Rule, ...]
    prefer: tuple[Rule, ...]
    contrast: tuple[tuple[str, tuple[str, ...]], ...]
    contrast_points: tuple[tuple[str, int], ...]
    source: str = "built-in"

    def words(self, group: str) -> re.Pattern[str]:
        """The patterns of a contrast group as one."""
        return pattern(dict(self.contrast)[group])

    def weight(self, name: str) -> int:
        """Points for what says that a T1 is before or after contrast."""
        return dict(self.contrast_points)[name]


@functools.cache
def built_in() -> Rules:
    """The rules that are shipped."""
    text = resources.files("edgeseg.configs").joinpath("sequences.json").read_text(encoding="utf-8")
    return _rules(_parsed(text, "the built-in rules"), None, "the built-in rules")


def load(path: Path) -> Rules:
    """Read a site's rules.

    Parameters
    ----------
    path
        JSON. A rule of the same name as a built-in one takes its place, ``null`` removes it, other names are added;
        with ``"extends": false`` none of the built-in ones is kept.

    Raises
    ------
    ConfigError
        The file cannot be read, or a field is unknown, missing or of a wrong value: the message names rule and field.
    """
    try:
        content = path.read_bytes()
        text = content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no UTF-8 text"
        raise ConfigError(f"the rules {path} cannot be read ({reason}): give a JSON file with --rules") from error
    fields = _parsed(text, str(path))
    extends = fields.get("extends", True)
    if not isinstance(extends, bool):
        raise _wrong(str(path), "extends", extends, "true or false")
    rules = _rules(fields, built_in() if extends else None, str(path))
    return replace(rules, source=f"site {hashlib.sha256(content).hexdigest()[:12]}")


@functools.lru_cache(maxsize=256)
def pattern(alternatives: tuple[str, ...]) -> re.Pattern[str]:
    """One regular expression of several alternatives; none matches nothing."""
    return re.compile("|".join(f"(?:{one})" for one in alternatives) or r"(?!)")


def _parsed(text: str, where: str) -> dict[str, Any]:
    try:
        fields = json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where} is no JSON ({error}): mend it there") from error
    if not isinstance(fields, dict):
        raise ConfigError(f"{where} holds {_shown(fields)} where an object with the field rules is expected")
    _check_names(where, fields, _TOP)
    if fields.get("format") != FORMAT or isinstance(fields.get("format"), bool):
        raise _wrong(where, "format", fields.get("format"), str(FORMAT))
    return fields


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object, in which no name may come twice: the later would take the earlier's place without a word."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)} comes twice")
    return found


def _rules(fields: dict[str, Any], base: Rules | None, where: str) -> Rules:
    """A file's content over the rules that it extends; without any, every part has to be there."""
    if base is None and (missing := [n for n in _TOP if n not in fields and n not in ("extends", "preferences")]):
        raise ConfigError(f"{where} lacks the field {missing[0]}: a file that extends no rules needs it")
    enough: Any = fields.get("enough", base.enough if base else None)
    if not _is_whole(enough) or not 1 <= enough <= _MOST_POINTS:
        raise _wrong(where, "enough", enough, f"a whole number from 1 to {_MOST_POINTS}")
    contrast = dict(base.contrast) if base else {}
    given = _object(where, "contrast", fields.get("contrast", {}), _CONTRAST)
    contrast.update({name: _patterns(f"{where}, contrast", name, value) for name, value in given.items()})
    points = dict(base.contrast_points) if base else {}
    for name, value in _object(where, "contrast_points", fields.get("contrast_points", {}), _CONTRAST_POINTS).items():
        points[name] = _points(f"{where}, contrast_points", name, value)
    for part, names, found in (("contrast", _CONTRAST, contrast), ("contrast_points", _CONTRAST_POINTS, points)):
        if absent := [name for name in names if name not in found]:
            raise ConfigError(f"{where}, {part}: lacks the field {absent[0]}")
    return Rules(
        enough,
        _merged(where, "rules", fields, base.recognise if base else ()),
        _merged(where, "preferences", fields, base.prefer if base else ()),
        tuple(contrast.items()),
        tuple(points.items()),
    )


def _merged(where: str, part: str, fields: dict[str, Any], base: tuple[Rule, ...]) -> tuple[Rule, ...]:
    """A part's rules over those that it extends, each in the place of the one of its name."""
    rules = {rule.name: rule for rule in base}
    for name, value in _object(where, part, fields.get(part, {})).items():
        if value is not None:
            rules[name] = _rule(f"{where}, rule {name}", name, value)
        elif rules.pop(name, None) is None:
            raise ConfigError(f"{where}, rule {name}: null removes a rule of that name, and there is none in {part}")
    return tuple(rules.values())


def _rule(where: str, name: str, value: Any) -> Rule:
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: is {_shown(value)}, where an object with kind, points, says and when is expected")
    needed = ("kind", "points", "says", "when")
    _check_names(where, value, needed)
    for field in needed:
        if field not in value:
            raise ConfigError(f"{where}: lacks the field {field}")
    if value["kind"] not in KINDS:
        raise _wrong(where, "kind", value["kind"], f"one of {', '.join(KINDS)}")
    when = _object(where, "when", value["when"], CONDITIONS)
    if not when:
        raise ConfigError(f"{where}: the field when is empty, so it would hold for every series: name a condition")
    return Rule(
        name,
        value["kind"],
        _points(where, "points", value["points"]),
        _says(where, value["says"]),
        tuple((field, _condition(where, field, given)) for field, given in when.items()),
    )


def _condition(where: str, field: str, value: Any) -> Any:
    """A condition's value, checked, as something hashable."""
    if field in _PATTERNS:
        return _patterns(where, field, value)
    if field in _FLAGS:
        if not isinstance(value, bool):
            raise _wrong(where, field, value, "true or false")
        return value
    if field in _RANGES:
        return _limits(where, field, value)
    wanted = f"a list of {', '.join(PLANES)}" if field == "plane" else "a list of codes, such as SE, IR, GR or EP"
    texts = isinstance(value, list) and value and all(isinstance(one, str) and one for one in value)
    if not texts or (field == "plane" and not set(value) <= set(PLANES)):
        raise _wrong(where, field, value, wanted)
    return tuple(value)


def _limits(where: str, field: str, value: Any) -> tuple[float, float] | None:
    if value is None:
        return None
    whole = isinstance(value, list) and len(value) == 2 and all(one is None or _is_number(one) for one in value)
    if whole and value != [None, None]:
        low, high = -math.inf if value[0] is None else value[0], math.inf if value[1] is None else value[1]
        if low <= high:
            return float(low), float(high)
    raise _wrong(where, field, value, "[lowest, highest] with null for no limit, or null where it is not said")


def _patterns(where: str, field: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(one, str) and one for one in value):
        raise _wrong(where, field, value, "a list of regular expressions")
    for one in value:
        try:
            re.compile(one)
        except (re.error, RecursionError, OverflowError) as error:
            raise ConfigError(f"{where}: {field} has {_shown(one)}, no regular expression ({error})") from error
    return tuple(value)


def _says(where: str, value: Any) -> str:
    wanted = "a text in which only {te}, {tr} and {ti} stand in braces"
    if not isinstance(value, str) or not value:
        raise _wrong(where, "says", value, wanted)
    try:
        parts = list(string.Formatter().parse(value))
    except ValueError as error:
        raise _wrong(where, "says", value, wanted) from error
    if any(name is not None and (name not in PLACEHOLDERS or form or how) for _, name, form, how in parts):
        raise _wrong(where, "says", value, wanted)
    return value


def _points(where: str, field: str, value: Any) -> int:
    if not _is_whole(value) or abs(value) > _MOST_POINTS:
        raise _wrong(where, field, value, f"a whole number from -{_MOST_POINTS} to {_MOST_POINTS}")
    return int(value)


def _object(where: str, field: str, value: Any, names: tuple[str, ...] = ()) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(where, field, value, "an object")
    if names:
        _check_names(f"{where}, {field}", value, names)
    return value


def _check_names(where: str, fields: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for name in fields:
        if name not in known:
            raise ConfigError(f"{where}: the field {_shown(name)} is unknown: there are {', '.join(known)}")


def _wrong(where: str, field: str, value: Any, wanted: str) -> ConfigError:
    return ConfigError(f"{where}: {field} is {_shown(value)}, where {wanted} is expected")


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
