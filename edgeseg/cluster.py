"""Many studies on a Ray cluster: workers that hold the engine take one study after the other.

::

    run: connect -> a worker for each group of cores or GPU -> each opens the engine
         -> a study for each worker that is free -> its outcome -> the next study

A worker does to a study what `edgeseg.batch` does. No more studies are under way than there are workers; a study whose
worker died goes back to the head of the line, and a new worker is asked for.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

from edgeseg import backends, batch, bundle, readers, results, segment
from edgeseg.cluster_node import Task, Worker, connected
from edgeseg.errors import EdgesegError, EngineError, InputError, OutputError, StudyError

TRIES = 3
"""Workers that may die on a study, or one after the other in one place before the engine runs."""
_LOOK_S = 5.0
"""Between looks at whether any machine is left, while nothing is under way."""


@dataclass(frozen=True)
class Workers:
    """Where workers run, and what each of them holds.

    Parameters
    ----------
    address
        Of the cluster, as Ray has it: ``auto``, ``host:port``, or ``local`` to begin one of this machine alone.
    open_engine
        Opens the engine on a worker: `edgeseg.segment.open_engine` with all arguments but ``threads``.
    cores
        Cores of a worker.
    gpu
        Whether a worker has a GPU of its own.
    """

    address: str
    open_engine: Callable[..., Any]
    cores: int = 1
    gpu: bool = False


def workers(
    address: str,
    cores: int,
    name: str = bundle.DEFAULT_ENGINE,
    backend: str | None = None,
    device: str = "auto",
    allow_unverified: bool = False,
    public_key: Path | None = None,
) -> Workers:
    """Workers for an engine that is sound where the run is begun; each of them verifies it again.

    Parameters
    ----------
    address, cores
        As in `Workers`.
    name, backend, device, allow_unverified, public_key
        As in `edgeseg.segment.open_engine`.

    Raises
    ------
    InputError
        When there is no such bundle, backend or key.
    EngineError
        When the bundle is damaged, or not signed by the key.
    """
    folder = bundle.find(name)
    manifest, _ = bundle.read(folder, public_key, backend)
    found = folder.name if folder in bundle.shipped() else str(folder.absolute())
    key = public_key and public_key.absolute()
    opening = partial(segment.open_engine, found, backend, device, allow_unverified, key)
    return Workers(address, opening, cores, backends.on_gpu(manifest, backend, device))


def run(
    studies: Sequence[readers.StudyFiles],
    workers: Workers,
    output: Path,
    options: segment.Options = segment.DEFAULTS,
    say: segment.Say = lambda _: None,
    warn: segment.Say = lambda _: None,
    again: bool = False,
) -> Generator[batch.Outcome, None, None]:
    """Segment studies on a cluster; the machines share a file system with studies, output and engine.

    Parameters
    ----------
    studies, output, options, again
        As in `edgeseg.batch.run`; at least one study.
    workers
        Where they run, and what each of them holds.
    say
        Called with how far it is.
    warn
        Called with each sentence on a worker that died or was left out.

    Yields
    ------
    Outcome
        One for each study, in the order in which they end. A place that cannot be written to ends the run, its outcome
        comes last.

    Raises
    ------
    BackendMissing
        When Ray is not installed.
    InputError
        When there is no cluster at the address, none with the cores asked for, or no worker sees the studies.
    EdgesegError
        When no worker can open the engine.
    """
    with connected(workers.address) as ray:
        results.sweep(output)
        # What the workers have to see is a folder that nobody else has, so a like path on their own disk is told apart.
        with results.staging(output, f"cluster-{uuid4().hex}") as stage:
            seen = studies[0].root.absolute(), stage.absolute(), output.absolute()
            task = Task(workers.open_engine, *seen, options, again)
            with closing(_Crew(ray, workers, task, len(studies), say, warn)) as crew:
                yield from crew.share_out(studies, output)


@dataclass(frozen=True)
class _Place:
    """A worker, and how many before it died in its place before the engine ran."""

    actor: Any
    deaths: int = 0


class _Crew:
    """The workers of one run, by what they are doing."""

    def __init__(
        self, ray: Any, workers: Workers, task: Task, studies: int, say: segment.Say, warn: segment.Say
    ) -> None:
        self._ray, self._workers, self._task, self._say, self._warn = ray, workers, task, say, warn
        self._opening: dict[Any, _Place] = {}
        self._idle: list[_Place] = []
        self._busy: dict[Any, tuple[_Place, readers.StudyFiles]] = {}
        self._deaths: Counter[str] = Counter()
        self._problem: EdgesegError | None = None
        self._studies, self._ended = studies, 0
        actor = ray.remote(
            num_cpus=workers.cores, num_gpus=int(workers.gpu), max_restarts=0, scheduling_strategy="SPREAD"
        )
        self._actor = actor(Worker)
        for _ in range(min(self._room(), studies)):
            self._hire()

    def share_out(self, studies: Sequence[readers.StudyFiles], output: Path) -> Iterator[batch.Outcome]:
        """Give each worker a study whenever it is free."""
        waiting, last = deque(studies), None
        while waiting or self._busy:
            self._hand_out(waiting)
            ready = self._ready()
            if not ready:
                yield from self._given_up(waiting)
                return
            for reference in ready:
                outcome = self._note(reference, waiting, output)
                if outcome is not None and isinstance(outcome.error, OutputError):
                    last = outcome
                    waiting.clear()
                elif outcome is not None:
                    yield outcome
        if last is not None:
            yield last

    def close(self) -> None:
        """End the workers, and clear away what they were at when the run was stopped."""
        references = list(self._busy)
        for place in [*self._opening.values(), *self._idle, *(place for place, _ in self._busy.values())]:
            self._ray.kill(place.actor)
        if references:
            self._ray.wait(references, num_returns=len(references), timeout=_LOOK_S, fetch_local=False)
            results.sweep(self._task.output)

    def _hire(self, deaths: int = 0) -> None:
        """Ask for a worker: it begins when Ray has room for it."""
        place = _Place(self._actor.remote(self._workers.cores), deaths)
        self._opening[place.actor.open.remote(self._task)] = place

    def _hand_out(self, waiting: deque[readers.StudyFiles]) -> None:
        while waiting and self._idle:
            place, files = self._idle.pop(), waiting.popleft()
            self._busy[place.actor.segment.remote(_absolute(files))] = place, files
        self._say(f"{self._ended} of {self._studies} studies, {len(self._busy)} at work")

    def _ready(self) -> list[Any]:
        """What has ended; empty when nothing can end any more."""
        while references := [*self._opening, *self._busy]:
            ready, _ = self._ray.wait(references, timeout=_LOOK_S, fetch_local=False)
            if ready:
                return list(ready)
            if not self._busy and not self._room():
                break
        return []

    def _note(self, reference: Any, waiting: deque[readers.StudyFiles], output: Path) -> batch.Outcome | None:
        """Take what a worker has to say; None where no study has ended by it."""
        if reference in self._opening:
            self._opened(reference)
            return None
        place, files = self._busy.pop(reference)
        try:
            outcome = _as_given(self._ray.get(reference), files, output)
            self._idle.append(place)
        except self._ray.exceptions.RayError:
            self._replace(place, deaths=0)
            self._deaths[files.name] += 1
            if self._deaths[files.name] < TRIES:
                self._warn(f"{files.name}: its worker died, another one does it")
                waiting.appendleft(files)
                return None
            said = f"{TRIES} workers died on it: there may be too little memory for it on these machines"
            outcome = batch.failed(files, StudyError(said), self._task.options)
        self._ended += 1
        return outcome

    def _opened(self, reference: Any) -> None:
        """A worker has opened the engine, says why not, or has died."""
        place = self._opening.pop(reference)
        try:
            problem = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            remedy = "install the same Python, Ray and edgeseg on every machine"
            problem = EngineError(f"a worker could not begin ({type(error.cause).__name__}): {remedy}")
        except self._ray.exceptions.RayError:
            problem = EngineError(f"{TRIES} workers died while they opened the engine: look into Ray's logs")
            if place.deaths + 1 < TRIES:
                self._replace(place, place.deaths + 1)
                return
        if problem is None:
            self._idle.append(place)
            return
        self._ray.kill(place.actor)
        if self._problem is None or str(self._problem) != str(problem):
            self._warn(f"{problem}; its worker is left out")
        self._problem = self._problem or problem

    def _replace(self, place: _Place, deaths: int) -> None:
        self._ray.kill(place.actor)  # where it was out of reach alone
        self._hire(deaths)

    def _given_up(self, waiting: deque[readers.StudyFiles]) -> Iterator[batch.Outcome]:
        """No worker is left: that is the error, or after the first outcome that of each study that still waits."""
        kind = "core and a GPU" if self._workers.gpu else "core"
        wanted = f"{self._workers.cores} {kind}" if self._workers.cores == 1 else f"{self._workers.cores} cores"
        gone = InputError(f"the cluster has no machine with {wanted} for a worker: start one with ray start")
        problem = self._problem or gone
        if not self._ended:
            raise problem
        for files in waiting:
            yield batch.failed(files, problem, self._task.options)

    def _room(self) -> int:
        """How many workers the machines that live could hold."""
        cores, room = self._workers.cores, 0
        for node in self._ray.nodes():
            if node["Alive"]:
                held = node["Resources"]
                places = int(held.get("CPU", 0) // cores)
                room += min(places, int(held.get("GPU", 0))) if self._workers.gpu else places
        return room


def _absolute(files: readers.StudyFiles) -> readers.StudyFiles:
    """Workers have a working folder of their own."""
    paths, skipped = (tuple(path.absolute() for path in some) for some in (files.files, files.skipped))
    return replace(files, root=files.root.absolute(), files=paths, skipped=skipped)


def _as_given(outcome: batch.Outcome, files: readers.StudyFiles, output: Path) -> batch.Outcome:
    """Paths as the caller gave them."""
    result = outcome.result and replace(outcome.result, folder=output / files.name)
    return replace(outcome, root=outcome.root and files.root, result=result)
