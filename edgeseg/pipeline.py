"""Many things through three steps that run at the same time: before, within and after the network.

::

    before  |  study 3  |  study 4  |  study 5        a thread
    within  |  study 2  |  study 3  |  study 4        the caller's thread
    after   |  study 1  |  study 2  |  study 3        a thread

Each step takes one thing at a time, in the order given, and no step gets far ahead of the next: memory does not hang on
how much comes in. More threads would gain nothing: Python runs one of them at a time, while the network needs none.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

AHEAD = 2
"""Things that may have been begun before the network is ready for them: one that waits for it, one in the making."""
BEHIND = 2
"""Things that may have left the network and are not finished."""

Given = TypeVar("Given")
Begun = TypeVar("Begun")
Done = TypeVar("Done")


def overlapped(
    things: Iterable[Given],
    before: Callable[[Given], Begun],
    within: Callable[[Begun], None],
    after: Callable[[Begun], Done],
    discard: Callable[[Begun], None],
    stop: threading.Event,
) -> Generator[Done, None, None]:
    """Take things through three steps, each at work on another one.

    Parameters
    ----------
    things
        What goes in; the next one is asked for when there is room for it.
    before, within, after
        The steps. What one of them raises ends the line.
    discard
        Called with what was begun and will not be finished: the caller stops, something is raised, or it is Ctrl-C.
    stop
        Set when the line ends, so that a step that waits for somebody else gives up.

    Yields
    ------
    Done
        What ``after`` returned, in the order of ``things``.
    """
    coming: deque[Future[Begun]] = deque()
    leaving: deque[Future[Done]] = deque()
    inside: Begun | None = None
    source = iter(things)
    with ThreadPoolExecutor(1, "before") as first, ThreadPoolExecutor(1, "after") as last:
        try:
            while _fill(coming, source, first, before) or leaving:
                if coming:
                    inside = coming[0].result()
                    coming.popleft()
                    _fill(coming, source, first, before)
                    within(inside)
                    leaving.append(last.submit(after, inside))
                    inside = None
                while leaving and (len(leaving) > BEHIND or leaving[0].done() or not coming):
                    yield leaving.popleft().result()
        finally:
            stop.set()
            first.shutdown(cancel_futures=True)
            begun = [one.result() for one in coming if not one.cancelled() and one.exception() is None]
            for one in (*begun, *([] if inside is None else [inside])):
                discard(one)


def _fill(
    coming: deque[Future[Begun]],
    source: Iterator[Given],
    first: ThreadPoolExecutor,
    before: Callable[[Given], Begun],
) -> bool:
    """Begin what there is room for; False when nothing is on its way to the network any more."""
    while len(coming) < AHEAD:
        try:
            thing = next(source)
        except StopIteration:
            break
        coming.append(first.submit(before, thing))
    return bool(coming)
