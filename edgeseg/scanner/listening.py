"""The receiver in a process of its own: what computes does not slow what arrives, and does not take it down."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from edgeseg.errors import EdgesegError
from edgeseg.scanner.incoming import Incoming
from edgeseg.scanner.monitor import Monitor
from edgeseg.scanner.receive import Listener, Receiver

_AGAIN_S = 2.0
_READY, _FAILED, _NOTE = "ready", "failed", "note"


class Listening:
    """A receiver's process, from the with-statement's begin to its end; begun again should it end before.

    It ends with this process, however that ends.

    Parameters
    ----------
    listener
        Who may send, and how much.
    folder
        Where instances are kept.
    monitor
        What is told of it.

    Raises
    ------
    EdgesegError
        What `Receiver` raises.
    """

    def __init__(self, listener: Listener, folder: Path, monitor: Monitor) -> None:
        self._listener, self._folder, self._monitor = listener, folder, monitor
        self._ending = threading.Event()
        self._begin()
        self._thread = threading.Thread(target=self._attend, name="listening", daemon=True)
        self._thread.start()

    def __enter__(self) -> Listening:
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._connection.send(None)
        self._thread.join(timeout=10)
        self._process.join(timeout=10)
        self._process.kill()

    @property
    def pid(self) -> int:
        """Number of the process that receives now."""
        return self._process.pid or 0

    def _begin(self) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would copy the engine's threads half
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_receive, args=(self._listener, self._folder, theirs), name="edgeseg-receive", daemon=True
        )
        self._process.start()
        theirs.close()
        try:
            kind, said = self._connection.recv()
            while kind == _NOTE:  # a peer was there at once
                self._tell(*said)
                kind, said = self._connection.recv()
        except EOFError as error:
            raise EdgesegError(
                "the receiver's process ended as soon as it had begun: its error stands above"
            ) from error
        if kind == _FAILED:
            self._process.join()
            raise said
        self.port: int = said
        self._monitor.trouble = None
        self._monitor.event("listening", port=said, ae_title=self._listener.ae_title)

    def _attend(self) -> None:
        """Pass on what the process says; begin it again when it has ended."""
        while not self._ending.is_set():
            try:
                self._tell(*self._connection.recv()[1])
            except (EOFError, OSError):
                if self._ending.is_set():
                    return
                self._process.join(timeout=_AGAIN_S)
                self._monitor.trouble = "the receiver has ended and is begun again"
                self._monitor.event("receiver_ended", code=self._process.exitcode)
                self._begin_again()

    def _begin_again(self) -> None:
        while not self._ending.wait(_AGAIN_S):
            try:
                self._begin()
                return
            except (EdgesegError, OSError) as error:
                self._monitor.event("receiver_cannot_begin", reason=type(error).__name__)

    def _tell(self, name: str, facts: dict[str, Any]) -> None:
        self._monitor.event(name, **facts)
        if name == "instances_received":
            self._monitor.count("edgeseg_instances_received_total", facts["instances"])
        elif name == "instance_refused":
            self._monitor.count("edgeseg_instances_refused_total", status=facts["status"])


def _receive(listener: Listener, folder: Path, connection: Connection) -> None:
    """The process: receives until it is told to end, or the other end is gone."""
    # A terminal and systemd may signal both processes: the other one decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sending = threading.Lock()

    def note(name: str, **facts: Any) -> None:
        with sending:
            connection.send((_NOTE, (name, facts)))

    try:
        _let_pass()
        receiver = Receiver(listener, Incoming(folder), note)
    except EdgesegError as error:
        connection.send((_FAILED, error))
        return
    with sending:
        connection.send((_READY, receiver.port))
    try:
        connection.recv()
        receiver.close()
    except EOFError:
        pass
    os._exit(0)  # whatever threads of peers still do: nothing that was acknowledged hangs on them


def _let_pass() -> None:
    """Have pydicom take commands as they come: it would warn of a UID with a leading zero, and quote it."""
    from pydicom import config

    config.settings.reading_validation_mode = config.IGNORE
    config.settings.writing_validation_mode = config.IGNORE
