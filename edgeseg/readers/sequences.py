"""Which series is which: FLAIR, T1 before and after contrast, from sequence physics and text.

`RULES` is a literal table: each rule that holds gives points to a kind, and the kind with the most points wins if it
has `ENOUGH` and no other kind has as many: a tie is no answer. A reason names the rules that held, with numbers and
keywords of this file: nothing is copied from headers, so no name can leak into a report.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from edgeseg.errors import StudyError
from edgeseg.types import ChannelName

Kind = Literal["FLAIR", "T1", "T2", "PD", "other"]

ENOUGH = 3
"""Points below which a series is not recognised."""
FEWEST_SLICES = 5
"""A series of fewer slices is a localizer."""


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
        Description, protocol, sequence name or file name: searched for keywords, never quoted.
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
        Whether it was computed from other images (reformatted, ADC, subtraction).
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


@dataclass(frozen=True)
class Recognised:
    """A series' kind, its points, and why, as a clause."""

    kind: Kind | Literal["localizer", "derived image", "series that was not recognised"]
    points: int
    reason: str


@dataclass(frozen=True)
class Choice:
    """Which of the series given fills which channel: positions in that list, reasons as clauses, and warnings."""

    series: dict[ChannelName, int | None]
    reasons: dict[ChannelName, str]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Rule:
    """``points`` for ``kind`` where ``holds``; ``says`` is a template over `_numbers`."""

    kind: Kind
    points: int
    says: str
    holds: Callable[[SeriesFacts], bool]


def _between(value: float | None, low: float, high: float = float("inf")) -> bool:
    return value is not None and low <= value <= high


def _keywords(pattern: str) -> Callable[[SeriesFacts], bool]:
    search = re.compile(pattern).search
    return lambda facts: search(_plain(facts.text)) is not None


_FLAIR_WORDS = _keywords(r"flair|dark ?fluid|\bt2f\b")
_T2_WORDS = _keywords(r"t2(?!\d)")
_T1_WORDS = _keywords(r"t1(?!\d)|mp ?rage|bravo|f?spgr|vibe|\btfl")
_OTHER_WORDS = _keywords(
    r"dwi|dti|diff|trace|\badc\b|\beadc\b|\bswi|swan|venbold|\btof\b|\bmra\b|\bmrv\b|angio|perf|\bdsc\b|\bdce\b|"
    r"\basl\b|fmri|bold|field ?map|phase|\bstir\b|spectro|\bmrs\b|t2 ?(\*|star)|hemo|ciss|fiesta|\bsubtr|"
    r"\bdir\b|double ?inversion|calib|\bcal\b|^(?!.*(flair|t[12])).*\basset\b|sense ?ref|\bref(erence)? ?scan|\bb1 ?map"
)
_LOCALIZER_WORDS = _keywords(r"locali[sz]er|\bloc\b|scout|survey|pilot|3 ?plane|smartbrain")

RULES: tuple[Rule, ...] = (
    Rule(
        "FLAIR",
        4,
        "inversion time {ti} ms, echo time {te} ms and repetition time {tr} ms",
        lambda f: (
            _between(f.inversion_time_ms, 1500, 3000)
            and _between(f.echo_time_ms, 70)
            and _between(f.repetition_time_ms, 4000)
        ),
    ),
    Rule(
        "FLAIR",
        3,
        "inversion recovery with echo time {te} ms and repetition time {tr} ms",
        lambda f: (
            "IR" in f.techniques
            and f.inversion_time_ms is None
            and _between(f.echo_time_ms, 70)
            and _between(f.repetition_time_ms, 6000)
        ),
    ),
    Rule("FLAIR", 3, "the keyword flair", _FLAIR_WORDS),
    Rule("FLAIR", -6, "a short inversion time", lambda f: _between(f.inversion_time_ms, 1, 1400)),
    Rule("FLAIR", -6, "a short echo time", lambda f: _between(f.echo_time_ms, 0, 30)),
    Rule(
        "T1",
        4,
        "inversion time {ti} ms and echo time {te} ms",
        lambda f: _between(f.inversion_time_ms, 300, 1300) and _between(f.echo_time_ms, 0, 30),
    ),
    Rule(
        "T1",
        3,
        "echo time {te} ms and repetition time {tr} ms",
        lambda f: _between(f.echo_time_ms, 0, 30) and _between(f.repetition_time_ms, 0, 1200),
    ),
    Rule("T1", 3, "the keyword T1", _T1_WORDS),
    Rule("T1", -6, "a long echo time", lambda f: _between(f.echo_time_ms, 40)),
    Rule(
        "T2",
        3,
        "echo time {te} ms and repetition time {tr} ms without inversion",
        lambda f: (
            _between(f.echo_time_ms, 60)
            and _between(f.repetition_time_ms, 2000)
            and not f.inversion_time_ms
            and "IR" not in f.techniques
            and not _FLAIR_WORDS(f)
        ),
    ),
    Rule("T2", 3, "the keyword T2", lambda f: _T2_WORDS(f) and not _FLAIR_WORDS(f)),
    Rule(
        "PD",
        3,
        "echo time {te} ms and repetition time {tr} ms",
        lambda f: (
            _between(f.echo_time_ms, 0, 45)
            and _between(f.repetition_time_ms, 1800)
            and not f.inversion_time_ms
            and not _T1_WORDS(f)
        ),
    ),
    Rule("other", 9, "a keyword of diffusion, susceptibility, angiography, calibration or the like", _OTHER_WORDS),
    Rule("other", 4, "echo-planar imaging", lambda f: "EP" in f.techniques),
    Rule(
        "other",
        5,
        "a gradient echo with echo time {te} ms",
        lambda f: "GR" in f.techniques and _between(f.echo_time_ms, 15),
    ),
)

_BOTH_WORDS = re.compile(r"\bw(ith)? ?(/|&|\+|and)? ?(w ?/ ?o|wo|without)\b( ?(contrast|gad\w*|gd))?")
"""With and without contrast: says of an examination that it has both, and nothing of a series."""
_CONTRAST_WORDS = (
    (
        "before",
        re.compile(
            r"\bpre\b|\bpre ?(contrast|gad|gd\b|km\b)|\bnon? ?(contrast|gad|gd\b|km\b)|unenhanced|nativ|\bplain\b|"
            r"(\bw ?/ ?o|\bw o|\bwo|without)\b(?! ?(fs\b|fat))|\bsans\b|\bsin\b|\bohne\b|\bt1n\b"
        ),
    ),
    (
        "after",
        re.compile(
            r"post(?! ?-?op|erior)|gado|gadolinium|\bgad\b|gd\b|\+ ?c\b|\bc ?\+|\+ ?gd|\bt1w? ?c\b|t1c[e+]?\b|\bce\b|"
            r"contrast|\bkm\b|enhanced"
        ),
    ),
)
_MINUS_C = re.compile(r"-c(?![\w+-])|(?:(?<![a-z0-9])|(?<=t1)|(?<=t1w))c-(?!\w)")
"""Without contrast by a minus sign, which is no separator there: T1-C, T1 C-."""
_SAME_PROTOCOL = 0.1


def recognise(facts: SeriesFacts) -> Recognised:
    """Say what a series is.

    Parameters
    ----------
    facts
        What is known of it.

    Returns
    -------
    Recognised
        The kind with the most points in `RULES`, and the rules that gave them; not recognised where two have as many.
    """
    if facts.derived:
        return Recognised("derived image", 0, "computed from other images")
    if facts.slices < FEWEST_SLICES or _LOCALIZER_WORDS(facts):
        return Recognised("localizer", 0, f"a localizer, or fewer than {FEWEST_SLICES} slices")
    points: Counter[Kind] = Counter()
    says: dict[Kind, list[str]] = {}
    for rule in RULES:
        if rule.holds(facts):
            points[rule.kind] += rule.points
            if rule.points > 0:
                says.setdefault(rule.kind, []).append(rule.says.format(**_numbers(facts)))
    if not points or max(points.values()) < ENOUGH:
        return Recognised("series that was not recognised", 0, "no rule holds")
    kind, *others = (k for k in points if points[k] == max(points.values()))
    if others:
        return Recognised("series that was not recognised", 0, f"as much speaks for {kind} as for {others[0]}")
    return Recognised(kind, points[kind], " and ".join(says[kind]))


def choose(series: Sequence[SeriesFacts]) -> Choice:
    """Choose FLAIR, T1 before and T1 after contrast among a study's series.

    Parameters
    ----------
    series
        All series of the study.

    Returns
    -------
    Choice
        FLAIR always; a T1 is None where there is none. Of several T1s after contrast, one whose header names the agent
        goes before one that a keyword speaks for.

    Raises
    ------
    StudyError
        No series is FLAIR: the message lists what was found.
    """
    kinds = [recognise(facts) for facts in series]
    contrast = _contrast_of([(i, series[i]) for i, k in enumerate(kinds) if k.kind == "T1"])
    flairs = [i for i, k in enumerate(kinds) if k.kind == "FLAIR"]
    if not flairs:
        raise StudyError(_no_flair(kinds, contrast))
    flairs.sort(key=lambda i: (-kinds[i].points, -series[i].slices))
    flair = flairs[0]
    warnings = []
    if len(flairs) > 1:
        warnings.append(
            f"{len(flairs)} series are FLAIR; {series[flair].label} was taken, with the clearest marks and then the "
            f"most slices, and {', '.join(series[i].label for i in flairs[1:])} left aside"
        )
    chosen: dict[ChannelName, int | None] = {"flair": flair}
    reasons: dict[ChannelName, str] = {"flair": f"FLAIR by {kinds[flair].reason}"}
    for channel, state in (("pre", "before"), ("post", "after")):
        channel_name: ChannelName = "pre" if channel == "pre" else "post"
        found = [i for i, (is_state, _) in contrast.items() if is_state == state]
        found.sort(
            key=lambda i: (
                -(state == "after" and bool(series[i].agent)),
                -_same_plane(series[i], series[flair]),
                -kinds[i].points,
                -series[i].slices,
            )
        )
        chosen[channel_name] = found[0] if found else None
        reasons[channel_name] = (
            f"T1 by {kinds[found[0]].reason}, {state} contrast by {contrast[found[0]][1]}"
            if found
            else f"no T1 {state} contrast among the series"
        )
    return Choice(chosen, reasons, tuple(warnings))


def _contrast_of(t1s: list[tuple[int, SeriesFacts]]) -> dict[int, tuple[Literal["before", "after"], str]]:
    """Before or after contrast for each T1, and why: by what it says itself, then by time beside the others."""
    known: dict[int, tuple[Literal["before", "after"], str]] = {}
    for i, facts in t1s:
        said = _said(facts)
        if said is not None:
            known[i] = said
    open_ones = sorted(((i, facts) for i, facts in t1s if i not in known), key=lambda item: item[1].acquired)
    first_after = min((facts.acquired for i, facts in t1s if i in known and known[i][0] == "after"), default="")
    for i, facts in open_ones:
        if first_after and facts.acquired > first_after:
            known[i] = ("after", "acquisition time, later than a T1 with contrast agent")
        else:
            known[i] = ("before", "no contrast agent being named")
    states = {state for state, _ in known.values()}
    if "after" not in states and len(open_ones) > 1:
        (first, early), (last, late) = open_ones[0], open_ones[-1]
        if early.acquired and early.acquired < late.acquired and _same_protocol(early, late):
            known[first] = ("before", "being the earlier of two T1s of equal protocol")
            known[last] = ("after", "being the later of two T1s of equal protocol, though no contrast agent is named")
    return known


def _said(facts: SeriesFacts) -> tuple[Literal["before", "after"], str] | None:
    """Before or after contrast by the series' own text and header."""
    text = _BOTH_WORDS.sub(" ", _plain(facts.text))
    if _CONTRAST_WORDS[0][1].search(text):
        return "before", "a keyword"
    if facts.agent:
        return "after", "the contrast agent that its header names"
    if _CONTRAST_WORDS[1][1].search(text):
        return "after", "a keyword"
    return None


def _same_protocol(first: SeriesFacts, second: SeriesFacts) -> bool:
    """Whether echo and repetition times agree within a tenth."""
    pairs = (
        (first.echo_time_ms, second.echo_time_ms),
        (first.repetition_time_ms, second.repetition_time_ms),
    )
    return all(a is not None and b is not None and abs(a - b) <= _SAME_PROTOCOL * max(abs(a), abs(b)) for a, b in pairs)


def _same_plane(first: SeriesFacts, second: SeriesFacts) -> bool:
    """Whether two series' slices are parallel within 30 degrees."""
    if first.normal is None or second.normal is None:
        return False
    return abs(sum(a * b for a, b in zip(first.normal, second.normal, strict=True))) > 0.866


def _no_flair(kinds: Sequence[Recognised], contrast: dict[int, tuple[Literal["before", "after"], str]]) -> str:
    names = [f"T1 {contrast[i][0]} contrast" if i in contrast else k.kind for i, k in enumerate(kinds)]
    found = ", ".join(f"{n} x {name}" if n > 1 else name for name, n in Counter(names).items())
    return (
        f"no FLAIR among {len(kinds)} series (found: {found}): edgeseg needs a FLAIR series and never guesses; "
        "add the FLAIR series to the study's folder"
    )


def _numbers(facts: SeriesFacts) -> dict[str, str]:
    def text(value: float | None) -> str:
        return "unknown" if value is None else f"{value:g}"

    return {
        "te": text(facts.echo_time_ms),
        "tr": text(facts.repetition_time_ms),
        "ti": text(facts.inversion_time_ms),
    }


def _plain(text: str) -> str:
    """Lower case, with the separators of names as blanks."""
    return re.sub(r"[\s_.,;:()\[\]-]+", " ", _MINUS_C.sub(" without contrast ", text.lower()))
