"""What a series is, from sequence physics and text.

Each rule that holds gives points to a kind (`edgeseg.readers.rules`), and the kind with the most points wins if it has
enough and no other kind has as many: a tie is no answer. A reason names the rules that held, in the rules' own words
and with numbers: nothing is copied from headers, so no name can leak into a report.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeseg.readers.rules import PLANES, Rule, Rules, built_in, pattern

FEWEST_SLICES = 5
"""Slices that a series needs, whatever the rules say."""
UNKNOWN = "series that was not recognised"

_MINUS_C = re.compile(r"-c(?![\w+-])|(?:(?<![a-z0-9])|(?<=t1)|(?<=t1w))c-(?!\w)")
"""Without contrast by a minus sign, which is no separator there: T1-C, T1 C-."""


@dataclass(frozen=True)
class SeriesFacts:
    """What is known of a series; None where the files do not say it.

    Parameters
    ----------
    label
        What a person finds it by: "series 4 (1a2b3c4d5e6f)", or a file's name.
    slices
        How many there are.
    text
        Description, protocol or file name: searched for keywords, never quoted.
    echo_time_ms, repetition_time_ms, inversion_time_ms
        Times of the sequence, in ms.
    techniques
        ScanningSequence's codes, such as SE, IR, GR, EP.
    agent
        Whether a contrast agent is named.
    acquired
        Date and time as sortable text, or "".
    normal
        Unit vector of the slice normal, LPS.
    derived
        Whether it was computed from other images (ADC, subtraction).
    sequence
        The vendor's own names of the pulse sequence: searched, never quoted.
    reformatted
        Whether it is another series, resampled onto other planes.
    thickness_mm
        Of a slice.
    names
        What a user may call it by besides its label: number and UID, or a file's name.
    """

    label: str
    slices: int
    text: str = ""
    echo_time_ms: float | None = None
    repetition_time_ms: float | None = None
    inversion_time_ms: float | None = None
    techniques: tuple[str, ...] = ()
    agent: bool | None = None
    acquired: str = ""
    normal: tuple[float, float, float] | None = None
    derived: bool = False
    sequence: str = ""
    reformatted: bool = False
    thickness_mm: float | None = None
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Recognised:
    """A series' kind, its points, and why, as a clause."""

    kind: str
    points: int
    reason: str


def recognise(facts: SeriesFacts, rules: Rules | None = None) -> Recognised:
    """Say what a series is.

    Parameters
    ----------
    facts
        What is known of it.
    rules
        None takes the built-in ones.

    Returns
    -------
    Recognised
        The kind with the most points, and the rules that gave them; not recognised where two have as many.
    """
    rules = rules or built_in()
    points: Counter[str] = Counter()
    says: dict[str, list[str]] = {}
    for rule in rules.recognise:
        if holds(rule, facts):
            points[rule.kind] += rule.points
            if rule.points > 0:
                says.setdefault(rule.kind, []).append(rule.says.format(**_numbers(facts)))
    most = max(points.values(), default=0)
    if most < rules.enough:
        return Recognised(UNKNOWN, max(most, 0), "no rule holds")
    kind, *others = (k for k in points if points[k] == most)
    if others:
        return Recognised(UNKNOWN, most, f"as much speaks for {kind} as for {others[0]}")
    return Recognised(kind, most, " and ".join(says[kind]))


def holds(rule: Rule, facts: SeriesFacts) -> bool:
    """Whether all conditions of a rule hold for a series."""
    return all(_condition(name, value, facts) for name, value in rule.when)


def plain(text: str) -> str:
    """Lower case, with the separators of names as blanks: what patterns are searched in."""
    return re.sub(r"[\s_.,;:()\[\]-]+", " ", _MINUS_C.sub(" without contrast ", text.lower()))


def plane(facts: SeriesFacts) -> str | None:
    """Which of the body's planes a series' slices are nearest to: axial, sagittal or coronal; None if not known."""
    if facts.normal is None:
        return None
    nearest = int(np.argmax(np.abs(facts.normal)))
    return {2: PLANES[0], 0: PLANES[1], 1: PLANES[2]}[nearest]


def _condition(name: str, value: Any, facts: SeriesFacts) -> bool:
    negative = name.startswith("not_")
    field = name.removeprefix("not_")
    if field in ("text", "sequence"):
        return (pattern(value).search(plain(getattr(facts, field))) is None) == negative
    if field == "techniques":
        return set(value).isdisjoint(facts.techniques) == negative
    if field == "plane":
        return plane(facts) in value
    found = getattr(facts, field)
    if isinstance(value, bool):
        return bool(found) == value
    if value is None:
        return not found
    return found is not None and bool(value[0] <= found <= value[1])


def _numbers(facts: SeriesFacts) -> dict[str, str]:
    times = (facts.echo_time_ms, facts.repetition_time_ms, facts.inversion_time_ms)
    return {
        name: "unknown" if value is None else f"{value:g}"
        for name, value in zip(("te", "tr", "ti"), times, strict=True)
    }
