"""Three steps at the same time: in order, never far ahead, and nothing left behind when the line ends early."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterable

import pytest

from edgeseg.pipeline import AHEAD, BEHIND, overlapped


class _Steps:
    """Steps that note what they do; `hold` stops the network, and `hold_after` the last step, until it is set."""

    def __init__(self, fail: dict[str, int] | None = None) -> None:
        self.asked: list[int] = []
        self.begun: list[int] = []
        self.within_: list[int] = []
        self.discarded: list[int] = []
        self.threads: dict[str, set[str]] = {"before": set(), "within": set(), "after": set()}
        self.stop = threading.Event()
        self.met = threading.Barrier(3, timeout=20)
        self.meet = False
        self._fail = fail or {}

    def source(self, count: int) -> Iterable[int]:
        for number in range(count):
            self.asked.append(number)
            yield number

    def before(self, thing: int) -> int:
        self._note("before", thing)
        self.begun.append(thing)
        return thing

    def within(self, thing: int) -> None:
        self._note("within", thing)
        self.within_.append(thing)

    def after(self, thing: int) -> int:
        self._note("after", thing)
        return thing * 10

    def run(self, count: int) -> Generator[int, None, None]:
        return overlapped(self.source(count), self.before, self.within, self.after, self.discarded.append, self.stop)

    def _note(self, step: str, thing: int) -> None:
        self.threads[step].add(threading.current_thread().name)
        if self.meet and thing == {"before": 2, "within": 1, "after": 0}[step]:
            self.met.wait()
        if self._fail.get(step) == thing:
            raise KeyboardInterrupt if step == "within" else ValueError(step)


def _threads() -> list[str]:
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name.startswith(("before", "after"))]


def test_everything_comes_out_in_order() -> None:
    steps = _Steps()
    assert list(steps.run(20)) == [10 * number for number in range(20)]
    assert steps.begun == steps.within_ == list(range(20))
    assert not steps.discarded


def test_nothing_goes_in_and_nothing_comes_out() -> None:
    assert list(_Steps().run(0)) == []


def test_three_steps_are_at_work_at_the_same_time() -> None:
    steps = _Steps()
    steps.meet = True
    assert list(steps.run(3)) == [0, 10, 20], "the barrier lets none pass before the three meet"
    assert steps.threads["within"] == {threading.current_thread().name}
    assert len(steps.threads["before"] | steps.threads["after"] | steps.threads["within"]) == 3


def test_no_step_gets_far_ahead() -> None:
    steps = _Steps()
    line = steps.run(100)
    next(line)
    assert len(steps.asked) <= AHEAD + BEHIND + 3
    line.close()


def test_a_caller_that_stops_leaves_nothing_behind() -> None:
    steps = _Steps()
    line = steps.run(100)
    assert next(line) == 0
    line.close()
    assert steps.stop.is_set()
    ended = len(steps.within_)
    assert steps.discarded == steps.begun[ended:]
    assert not _threads()


def test_control_c_in_the_network_lets_go_of_all_that_was_begun() -> None:
    steps = _Steps({"within": 3})
    with pytest.raises(KeyboardInterrupt):
        list(steps.run(100))
    assert sorted(steps.discarded) == steps.begun[3:]
    assert 3 in steps.discarded
    assert not _threads()


@pytest.mark.parametrize("step", ["before", "after"])
def test_what_a_step_raises_ends_the_line(step: str) -> None:
    steps = _Steps({step: 2})
    with pytest.raises(ValueError, match=step):
        list(steps.run(100))
    assert not _threads()
