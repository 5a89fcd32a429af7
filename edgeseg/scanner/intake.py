"""Received studies into the queue, each when it has been quiet for a while, and out of the folder when done."""

from __future__ import annotations

import time
from pathlib import Path

from edgeseg.errors import OutputError
from edgeseg.scanner.incoming import Incoming
from edgeseg.scanner.jobs import Queue
from edgeseg.scanner.monitor import Monitor

POLL_S = 1.0
_TIDY_S = 60.0


class Intake:
    """Looks at the folder of received studies.

    Parameters
    ----------
    incoming, queue, monitor
        Where studies arrive, where they go, and what is told of them.
    quiet_s
        Seconds without a new instance after which a study counts as complete.
    keep_s
        Seconds after which a study that is done or has failed is removed.
    """

    def __init__(self, incoming: Incoming, queue: Queue, monitor: Monitor, quiet_s: float, keep_s: float) -> None:
        self._incoming, self._queue, self._monitor = incoming, queue, monitor
        self._quiet_s, self._keep_s = quiet_s, keep_s
        self._tidied = float("-inf")

    def scan(self) -> bool:
        """Queue what is complete and remove what is old. Returns True: there is nothing to wait for.

        Raises
        ------
        OutputError
            When the queue cannot be written to, or the folder not read. What has arrived stays and is queued later.
        """
        now = time.time()
        try:
            for study in self._incoming.quiet(self._quiet_s, now):
                if self._queue.add(study.key, study.folder, study.digest, "receive"):
                    self._monitor.event("study_queued", study=study.key, files=study.files)
            if time.monotonic() - self._tidied > _TIDY_S:
                self._tidied = time.monotonic()
                self._tidy(now)
        except OSError as error:
            raise OutputError(f"cannot look at what was received: {error.strerror}") from error
        return True

    def _tidy(self, now: float) -> None:
        busy = {job.folder for state in ("waiting", "running") for job in self._queue.jobs(state)}
        if removed := self._incoming.remove_older(self._keep_s, now, lambda folder: folder not in busy):
            self._monitor.event("studies_removed", studies=removed)


def folder(state: Path) -> Path:
    """Where a state folder's received studies lie."""
    return state.absolute() / "incoming"
