"""Whether a T1 was acquired before or after contrast: by what it says itself, then by time beside the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from edgeseg.readers.rules import Rules
from edgeseg.readers.sequences import SeriesFacts, plain
from edgeseg.types import ChannelName

State = Literal["before", "after"]
STATES: dict[ChannelName, State] = {"pre": "before", "post": "after"}

_SAME_PROTOCOL = 0.1


@dataclass(frozen=True)
class Contrast:
    """Whether a T1 is before or after contrast, by what, and the points for that."""

    state: State
    reason: str
    points: int


def contrast_of(t1s: list[tuple[int, SeriesFacts]], series: Sequence[SeriesFacts], rules: Rules) -> dict[int, Contrast]:
    """Before or after contrast for each T1: by what it says itself, then by time beside the others."""
    by_time = rules.weight("time")
    agents = not _agent_says_nothing(t1s, series, rules)
    known = {i: said for i, facts in t1s if (said := _said(facts, rules, agents)) is not None}
    open_ones = sorted(((i, facts) for i, facts in t1s if i not in known), key=lambda item: item[1].acquired)
    first_after = min((facts.acquired for i, facts in t1s if i in known and known[i].state == "after"), default="")
    for i, facts in open_ones:
        if first_after and facts.acquired > first_after:
            known[i] = Contrast("after", "acquisition time, later than a T1 with contrast agent", by_time)
        else:
            clause = "no contrast agent being named" + ("" if agents else " but for the whole examination")
            known[i] = Contrast("before", clause, 0)
    states = {said.state for said in known.values()}
    if "after" not in states and len(open_ones) > 1:
        (first, early), (last, late) = open_ones[0], open_ones[-1]
        if early.acquired and early.acquired < late.acquired and _same_protocol(early, late):
            known[first] = Contrast("before", "being the earlier of two T1s of equal protocol", by_time)
            clause = "being the later of two T1s of equal protocol, though no contrast agent is named"
            known[last] = Contrast("after", clause, by_time)
    return known


def _agent_says_nothing(t1s: list[tuple[int, SeriesFacts]], series: Sequence[SeriesFacts], rules: Rules) -> bool:
    """Whether every series names an agent though keywords call some of the T1s, and not all, after contrast.

    Some sites enter the agent for the whole examination, before it is given.
    """
    words = [_said(facts, rules, agents=False) for _, facts in t1s]
    after = [said for said in words if said is not None and said.state == "after"]
    return all(facts.agent for facts in series) and 0 < len(after) < len(t1s) and len(series) > len(t1s)


def _said(facts: SeriesFacts, rules: Rules, agents: bool = True) -> Contrast | None:
    """Before or after contrast by the series' own text and header."""
    text = rules.words("mixed").sub(" ", plain(facts.text))
    keyword = rules.weight("keyword")
    if rules.words("before").search(text):
        return Contrast("before", "a keyword", keyword)
    after = rules.words("after").search(text) is not None
    if agents and facts.agent:
        points = rules.weight("agent") + keyword * after
        return Contrast("after", "the contrast agent that its header names", points)
    return Contrast("after", "a keyword", keyword) if after else None


def _same_protocol(first: SeriesFacts, second: SeriesFacts) -> bool:
    """Whether echo and repetition times agree within a tenth."""
    pairs = (
        (first.echo_time_ms, second.echo_time_ms),
        (first.repetition_time_ms, second.repetition_time_ms),
    )
    return all(a is not None and b is not None and abs(a - b) <= _SAME_PROTOCOL * max(abs(a), abs(b)) for a, b in pairs)
