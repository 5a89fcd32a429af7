"""Results sent on: each study's DICOM files to each destination, kept and tried again until it has them."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeseg.errors import EdgesegError
from edgeseg.scanner.destination import Sender, Undelivered, deliver
from edgeseg.scanner.jobs import Delivery, Queue
from edgeseg.scanner.monitor import Monitor

FIRST_S, LONGEST_S = 5.0, 600.0
"""Pause after a destination's first failure, and the longest one."""
_POLL_S = 1.0
_PATIENCE_S = 30.0


@dataclass
class _Rest:
    """A destination that failed: how often in a row, and when it is asked again (seconds since 1970)."""

    failures: int = 0
    until: float = 0.0


class Forwarder:
    """A thread that sends what is due, from the with-statement's begin to its end.

    A destination that fails is left alone for a while that doubles with each failure, and everything for it waits;
    the others go on.

    Parameters
    ----------
    queue, monitor
        What is due, and what is told of it.
    destinations
        The names under which deliveries are in the queue; others' deliveries stay there.
    sender
        Who sends.
    """

    def __init__(self, queue: Queue, monitor: Monitor, destinations: Sequence[str], sender: Sender) -> None:
        self._queue, self._monitor, self._sender = queue, monitor, sender
        self._rests = {destination: _Rest() for destination in destinations}
        self._stop = threading.Event()
        self._well = True
        self._thread = threading.Thread(target=self._run, name="forward", daemon=True)

    def __enter__(self) -> Forwarder:
        if self._rests:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._rests:
            self._thread.join(timeout=_PATIENCE_S)  # what is broken off is sent again

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                busy = self.step()
                self._well = True
            except Exception as error:  # a full disk, most of all: what was sent is sent once more
                busy = False
                if self._well:
                    self._monitor.event("forwarding_paused", reason=type(error).__name__)
                self._well = False
            if not busy:
                self._stop.wait(_POLL_S)

    def step(self) -> bool:
        """Try the delivery that has been due for longest.

        Returns
        -------
        bool
            Whether there was one.

        Raises
        ------
        OutputError
            When the queue cannot be used.
        """
        now = time.time()
        awake = [destination for destination, rest in self._rests.items() if rest.until <= now]
        delivery = self._queue.due_delivery(now, awake)
        if delivery is None:
            return False
        results = delivery.job.results
        if results is None or not results.is_dir():  # the destination is not to blame
            self._postpone(delivery, "the results are not there any more")
            return True
        try:
            files, warnings = self._send(results, delivery.destination)
        except Undelivered as error:
            rest = self._rests[delivery.destination]
            rest.failures += 1
            rest.until = time.time() + pause_s(rest.failures)
            self._postpone(delivery, str(error))
            return True
        self._queue.delivered(delivery)
        self._rests[delivery.destination] = _Rest()
        self._monitor.count("edgeseg_deliveries_total", outcome="delivered")
        names = {"study": delivery.job.key, "to": delivery.destination}
        self._monitor.event("delivered", **names, files=files, warnings="; ".join(warnings) or None)
        return True

    def _send(self, results: Path, destination: str) -> tuple[int, list[str]]:
        """Send a study's results. Returns how many files, and warnings."""
        try:
            files = sorted(results.glob("*.dcm"))
            return len(files), deliver(files, destination, self._sender) if files else []
        except Undelivered:
            raise
        except EdgesegError as error:
            raise Undelivered(str(error)) from error
        except Exception as error:  # whatever a peer says: the thread goes on, and the study is tried again
            raise Undelivered(f"unexpected {type(error).__name__}") from error

    def _postpone(self, delivery: Delivery, reason: str) -> None:
        self._queue.postpone(delivery, time.time() + pause_s(delivery.attempts + 1), reason)
        self._monitor.count("edgeseg_deliveries_total", outcome="postponed")
        facts = {"study": delivery.job.key, "to": delivery.destination, "reason": reason}
        self._monitor.event("delivery_postponed", **facts, attempts=delivery.attempts + 1)


def pause_s(failures: int) -> float:
    """Seconds until the next try: doubled with each failure up to the longest, and spread: hosts should not line up."""
    longest: float = min(LONGEST_S, FIRST_S * 2 ** min(failures - 1, 20))
    return longest * random.uniform(0.5, 1.0)
