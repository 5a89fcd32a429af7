"""What runs on a machine of a Ray cluster: a worker that holds the engine, pinned to cores of its own; and the way in.

A worker's process has the machine's cores to itself only if nothing else is at work there: Ray counts cores, and pins
nobody to them. Two networks of one thread on two cores are no faster than one until each is pinned.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeseg import __version__, batch, lean, machine, readers, segment
from edgeseg.errors import BackendMissing, EdgesegError, InputError

_ANSWER_S = 5
"""How long a cluster may take to answer."""
_OBJECT_STORE_BYTES = 100_000_000
"""Reports alone travel through Ray."""


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """Ray, connected to a cluster; it goes with the with-statement, and so does everything begun on it.

    Parameters
    ----------
    address
        ``auto``, ``host:port``, or ``local`` to begin a cluster of this machine alone.

    Raises
    ------
    BackendMissing
        When Ray is not installed.
    InputError
        When there is no cluster, or this machine does not belong to it.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would send statistics to its makers
    if address == "local":  # by this name Ray lets a cluster stay on loopback; else it listens to the whole network
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    lean.needed()
    try:
        import ray
    except ImportError as error:
        raise BackendMissing(f"Ray is not installed ({error}): pip install 'edgeseg[cluster]'") from error
    try:
        _begin(ray, address)
    except Exception as error:  # Ray raises many kinds
        reason = " ".join(str(error).split()).partition(". ")[0].rstrip(".")
        if address == "local":
            raise InputError(f"Ray does not begin on this machine ({reason}): leave --cluster out") from error
        raise InputError(
            f"there is no Ray cluster to work on at {address} ({reason}): run this on a machine of the cluster, with "
            "auto or the HOST:PORT that ray start gave, or take local"
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _begin(ray: Any, address: str) -> None:
    # Ray prints what befalls its machines on standard output, which is for results.
    ray._private.worker._worker_logs_enabled = False
    quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address == "local":
        ray.init(
            address="local",
            num_cpus=machine.cores(),
            object_store_memory=_OBJECT_STORE_BYTES,
            include_dashboard=False,
            **quiet,
        )
        return
    found = ray._private.services.canonicalize_bootstrap_address_or_die(address)
    # Where nobody answers, or somebody else, Ray would try for a quarter of an hour.
    host, _, port = found.rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_S).close()
    ray._raylet.GcsClient(address=found)
    ray.init(address=found, **quiet)


@dataclass(frozen=True)
class Task:
    """What every worker is told.

    Parameters
    ----------
    open_engine
        Opens the engine, given ``threads``.
    archive, proof
        Paths that the worker has to see: of a study, and a folder in ``output`` that the run has made.
    output, options, again
        As in `edgeseg.batch.one`.
    version
        Of edgeseg.
    """

    open_engine: Callable[..., Any]
    archive: Path
    proof: Path
    output: Path
    options: segment.Options = segment.DEFAULTS
    again: bool = False
    version: str = __version__

    def check(self) -> None:
        """See that this machine can do it.

        Raises
        ------
        InputError
            When it does not see the files, or has another edgeseg.
        """
        here = f"the machine {socket.gethostname()} of the cluster"
        if __version__ != self.version:
            raise InputError(f"{here} has edgeseg {__version__}, not {self.version}: install the same everywhere")
        for what, path in (("archive", self.archive), ("output folder", self.proof)):
            if not path.exists():
                remedy = "archive and output have to lie on a file system that all machines share, at the same path"
                folder = self.archive if what == "archive" else self.output
                said = f"{here} does not see the {what}"
                raise InputError(f"{said}: {remedy}", f"{said} {folder}: {remedy}")


class Worker:
    """A process on a machine of the cluster, with cores of its own and the engine.

    Parameters
    ----------
    cores
        How many.
    """

    def __init__(self, cores: int) -> None:
        self._cores = cores
        self._claims = pin(cores)  # before the runtime is loaded, which counts its cores then
        self._stack = ExitStack()

    def open(self, task: Task) -> EdgesegError | None:
        """Open the engine; gives the error where that cannot be."""
        try:
            task.check()
            self._opened = self._stack.enter_context(task.open_engine(threads=self._cores))
        except EdgesegError as error:
            return error
        self._task = task
        return None

    def segment(self, files: readers.StudyFiles) -> batch.Outcome:
        """Segment a study."""
        task = self._task
        return batch.one(files, self._opened, task.output, task.options, again=task.again)


def pin(cores: int) -> list[socket.socket]:
    """Keep this thread, and those that it begins, to cores that no other worker of this machine has.

    Parameters
    ----------
    cores
        How many.

    Returns
    -------
    list of socket
        The claims, each a name that one process of a machine can have at a time: they end with the process. Empty where
        fewer cores are free, or the system does not pin: the process stays as it is then.
    """
    if not hasattr(os, "sched_setaffinity"):
        return []
    claims: dict[int, socket.socket] = {}
    for core in sorted(os.sched_getaffinity(0)):
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            claim.bind(f"\0edgeseg-core-{core}")
        except OSError:
            claim.close()
            continue
        claims[core] = claim
        if len(claims) == cores:
            os.sched_setaffinity(0, claims)
            return list(claims.values())
    for claim in claims.values():
        claim.close()
    return []
