"""Which of a study's series serve as FLAIR, as T1 before and as T1 after contrast.

Among series of a kind the highest score is taken, then the most slices; a series that the user names goes before both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from edgeseg.errors import StudyError
from edgeseg.readers.contrast import STATES, contrast_of
from edgeseg.readers.rules import Rules, built_in
from edgeseg.readers.sequences import SeriesFacts, holds, recognise
from edgeseg.types import CHANNELS, ChannelName, ChannelOrigin, Considered, Study

NONE = "none"
"""What --pre and --post take where FLAIR is to stand in."""

_MOST_LISTED = 20
_TITLES: dict[ChannelName, str] = {
    "flair": "FLAIR",
    **{channel: f"T1 {state} contrast" for channel, state in STATES.items()},
}


@dataclass(frozen=True)
class Selection:
    """What a user decides about which series is which.

    Parameters
    ----------
    flair, pre, post
        A series by its number, its SeriesInstanceUID or the digits that reports show, or by a file name, in which
        ``*`` and ``?`` stand for any text; None leaves it to the rules. `NONE` for pre and post: FLAIR stands in.
    rules
        None takes the built-in ones.
    """

    flair: str | None = None
    pre: str | None = None
    post: str | None = None
    rules: Rules | None = None

    def named(self) -> dict[ChannelName, str]:
        """The channels that are not left to the rules."""
        given = {channel: getattr(self, channel) for channel in CHANNELS}
        return {channel: value.strip() for channel, value in given.items() if value is not None}


AUTOMATIC = Selection()


@dataclass(frozen=True)
class Choice:
    """Which of the series given fills which channel.

    Parameters
    ----------
    series
        Positions in the list given; None where FLAIR has to stand in.
    reasons
        As clauses.
    scores
        Points of the series chosen.
    considered
        Every series, in the order given.
    warnings
        Sentences.
    rules
        Which rules chose, as in `Rules.source`.
    """

    series: dict[ChannelName, int | None]
    reasons: dict[ChannelName, str]
    scores: dict[ChannelName, int | None]
    considered: tuple[Considered, ...]
    warnings: tuple[str, ...]
    rules: str


def choose(series: Sequence[SeriesFacts], selection: Selection = AUTOMATIC) -> Choice:
    """Choose FLAIR, T1 before and T1 after contrast among a study's series.

    Parameters
    ----------
    series
        All series of the study.
    selection
        Series that are named go before the rules.

    Returns
    -------
    Choice
        FLAIR always; a T1 is None where there is none.

    Raises
    ------
    StudyError
        No series is FLAIR, or a name fits none: the message lists what was found.
    """
    return _Chooser(series, selection).choice()


def without_named(study: Study, selection: Selection) -> Study:
    """A study whose files say themselves which channel is which (TIFF), without the T1s that a user leaves out.

    Raises
    ------
    StudyError
        A series is named.
    """
    for channel, value in selection.named().items():
        if channel == "flair" or value.lower() != NONE:
            raise StudyError(
                f"--{channel} {value} names a series, and TIFF slices hold all channels in one file: "
                "leave the option out, or leave a T1 out with --pre none or --post none"
            )
        origin = ChannelOrigin("flair", study.channels[channel].series, f"left out with --{channel} {NONE}")
        channels = {**study.channels, channel: origin}
        study = replace(study, channels=channels)
        study = replace(study, pre=None) if channel == "pre" else replace(study, post=None)
    return study


class _Chooser:
    """The choice among one study's series, with what its steps share."""

    def __init__(self, series: Sequence[SeriesFacts], selection: Selection) -> None:
        self.series, self.selection = series, selection
        self.rules = selection.rules or built_in()
        self.kinds = [recognise(facts, self.rules) for facts in series]
        t1s = [(i, series[i]) for i, k in enumerate(self.kinds) if k.kind == "T1"]
        self.contrast = contrast_of(t1s, series, self.rules)
        self.scores = [k.points + self._preferred(i) for i, k in enumerate(self.kinds)]
        self.warnings: list[str] = []

    def choice(self) -> Choice:
        """Named series first, then FLAIR, then the T1s by what speaks for them beside it."""
        named = self._all_named()
        flair = named["flair"] if "flair" in named else self._flair(set(named.values()))
        if self.series[flair].reformatted:
            self.warnings.append("the FLAIR series is reformatted: where the acquired one can be had, give that")
        for i in self.contrast:
            same = _same_plane(self.series[i], self.series[flair])
            self.scores[i] += self.rules.weight("same_plane") * same
        chosen: dict[ChannelName, int | None] = {"flair": flair}
        for channel in STATES:
            if channel in named or channel in self.selection.named():
                chosen[channel] = named.get(channel)
            else:
                chosen[channel] = self._t1(channel, {flair, *named.values()})
        return Choice(
            chosen,
            {channel: self._reason(channel, i) for channel, i in chosen.items()},
            {channel: None if i is None else self.scores[i] for channel, i in chosen.items()},
            self._considered(chosen),
            tuple(self.warnings),
            self.rules.source,
        )

    def _all_named(self) -> dict[ChannelName, int]:
        """Positions of the series that options name; no series may be named twice."""
        named: dict[ChannelName, int] = {}
        for channel, value in self.selection.named().items():
            if value.lower() != NONE or channel == "flair":
                found = self._named(channel, value)
                if found in named.values():
                    other = next(name for name, i in named.items() if i == found)
                    label = self.series[found].label
                    raise StudyError(
                        f"--{other} and --{channel} both name {label}: name another series for one of them"
                    )
                named[channel] = found
        return named

    def _preferred(self, i: int) -> int:
        """Points by which a series goes before others of its kind, FLAIR's plane not counted yet."""
        kind, facts = self.kinds[i].kind, self.series[i]
        points = sum(rule.points for rule in self.rules.prefer if rule.kind == kind and holds(rule, facts))
        return points + (self.contrast[i].points if i in self.contrast else 0)

    def _flair(self, taken: set[int]) -> int:
        found = [i for i, k in enumerate(self.kinds) if k.kind == "FLAIR" and i not in taken]
        if not found:
            raise StudyError(self._no_flair())
        found.sort(key=lambda i: (-self.scores[i], -self.series[i].slices))
        found = [i for i in found if i == found[0] or not self.series[i].reformatted]
        if len(found) > 1:
            others = ", ".join(self.series[i].label for i in found[1:])
            self.warnings.append(
                f"{len(found)} series are FLAIR; {self.series[found[0]].label} was taken, with the highest score and "
                f"then the most slices, and {others} left aside"
            )
        return found[0]

    def _t1(self, channel: ChannelName, taken: set[int]) -> int | None:
        found = [i for i, said in self.contrast.items() if said.state == STATES[channel] and i not in taken]
        return min(found, key=lambda i: (-self.scores[i], -self.series[i].slices), default=None)

    def _named(self, channel: ChannelName, value: str) -> int:
        """The series that an option names; of several the one that the rules speak for most."""
        if value.lower() == NONE:
            raise StudyError("--flair none: FLAIR is what edgeseg segments, so it needs a series; name one")
        found = [i for i, facts in enumerate(self.series) if _fits(value, facts)]
        if not found:
            raise StudyError(f"--{channel} {value} fits none of the study's series. There are: {self._list()}")
        found.sort(key=lambda i: (self._title(i) != _TITLES[channel], -self.scores[i], -self.series[i].slices))
        facts, title = self.series[found[0]], self._title(found[0])
        if len(found) > 1:
            self.warnings.append(
                f"--{channel} fits {len(found)} series; {facts.label} with {facts.slices} slices was taken"
            )
        if title != _TITLES[channel]:
            self.warnings.append(
                f"{facts.label} was named with --{channel}, and by the rules it is no {_TITLES[channel]}: {title}"
            )
        return found[0]

    def _reason(self, channel: ChannelName, i: int | None) -> str:
        if channel in self.selection.named():
            if i is None:
                return f"left out with --{channel} {NONE}"
            agrees = self._title(i) == _TITLES[channel]
            return f"named with --{channel}" + (f"; {self.kinds[i].kind} by {self.kinds[i].reason}" if agrees else "")
        if i is None:
            return f"no T1 {STATES[channel]} contrast among the series"
        if channel == "flair":
            return f"FLAIR by {self.kinds[i].reason}"
        return f"T1 by {self.kinds[i].reason}, {STATES[channel]} contrast by {self.contrast[i].reason}"

    def _considered(self, chosen: dict[ChannelName, int | None]) -> tuple[Considered, ...]:
        channels = {i: channel for channel, i in chosen.items() if i is not None}
        return tuple(
            Considered(facts.label, self._title(i), self.scores[i], facts.slices, channels.get(i))
            for i, facts in enumerate(self.series)
        )

    def _title(self, i: int) -> str:
        return f"T1 {self.contrast[i].state} contrast" if i in self.contrast else self.kinds[i].kind

    def _list(self) -> str:
        listed = [f"{f.label} ({self._title(i)}, {f.slices} slices)" for i, f in enumerate(self.series)]
        more = f"; and {len(listed) - _MOST_LISTED} more" if len(listed) > _MOST_LISTED else ""
        return "; ".join(listed[:_MOST_LISTED]) + more

    def _no_flair(self) -> str:
        names = Counter(self._title(i) for i in range(len(self.series)))
        found = ", ".join(f"{n} x {name}" if n > 1 else name for name, n in names.items())
        return (
            f"no FLAIR among {len(self.series)} series (found: {found}): edgeseg needs a FLAIR series and never "
            f"guesses; add the FLAIR series to the study's folder, or name it with --flair. There are: {self._list()}"
        )


def _same_plane(first: SeriesFacts, second: SeriesFacts) -> bool:
    """Whether two series' slices are parallel within 30 degrees."""
    if first.normal is None or second.normal is None:
        return False
    return abs(sum(a * b for a, b in zip(first.normal, second.normal, strict=True))) > 0.866


def _fits(name: str, facts: SeriesFacts) -> bool:
    """Whether a series is called so: by any of its names, in which case does not count."""
    return any(fnmatchcase(one.lower(), name.lower()) for one in (facts.label, *facts.names))
