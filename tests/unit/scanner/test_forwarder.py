"""What is due is sent, what fails is kept, and one destination that is away holds up no other."""

from __future__ import annotations

import io
import json
import random
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from edgeseg.errors import InputError
from edgeseg.scanner import forward
from edgeseg.scanner.destination import Sender, Undelivered
from edgeseg.scanner.forward import FIRST_S, LONGEST_S, Forwarder, pause_s
from edgeseg.scanner.jobs import FILE, Queue
from edgeseg.scanner.monitor import Monitor

GOOD, AWAY = "GOOD@host:104", "AWAY@host:104"


class Post:
    """In place of the network: notes what is sent; some destinations are away."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sent: list[tuple[str, list[str]]] = []
        self.tried: list[str] = []
        self.away: dict[str, Exception] = {}
        self.warnings: list[str] = []
        self.log = io.StringIO()
        self.folder, self.queue = folder, Queue(folder / FILE)
        self.now = 1000.0
        monkeypatch.setattr(forward, "deliver", self._deliver)
        monkeypatch.setattr(time, "time", lambda: self.now)
        monkeypatch.setattr(random, "uniform", lambda _low, high: high)

    def _deliver(self, files: Sequence[Path], destination: str, _sender: Sender) -> list[str]:
        self.tried.append(destination)
        if error := self.away.get(destination):
            raise error
        self.sent.append((destination, [path.name for path in files]))
        return self.warnings

    def forwarder(self, *destinations: str) -> Forwarder:
        """The forwarder, which is not started: tests call its steps."""
        return Forwarder(self.queue, Monitor(self.log), destinations, Sender())

    def done(self, key: str, *destinations: str) -> Path:
        """A study whose results are to be sent."""
        results = self.folder / key
        results.mkdir()
        for name in ("segmentation.dcm", "report.dcm", "report.json"):
            (results / name).write_text("")
        self.queue.add(key, self.folder, key, "receive")
        job = self.queue.claim()
        assert job is not None
        self.queue.finish(job, results, destinations)
        return results

    def all(self, forwarder: Forwarder) -> int:
        """Try all that is due; returns how much it was."""
        steps = 0
        while forwarder.step():
            steps += 1
            assert steps < 100
        return steps

    @property
    def states(self) -> dict[tuple[str, str], tuple[str, int, str | None]]:
        """Study and destination -> state, tries, error."""
        return {(d.job.key, d.destination): (d.state, d.attempts, d.error) for d in self.queue.deliveries()}

    @property
    def events(self) -> list[str]:
        """Names of the events."""
        return [json.loads(line)["event"] for line in self.log.getvalue().splitlines()]


@pytest.fixture
def post(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Post:
    """A queue, a log and a network that is none."""
    return Post(tmp_path, monkeypatch)


def test_dicom_results_are_sent_once(post: Post) -> None:
    forwarder = post.forwarder(GOOD)
    post.done("a", GOOD)
    assert post.all(forwarder) == 1
    assert post.all(forwarder) == 0
    assert post.sent == [(GOOD, ["report.dcm", "segmentation.dcm"])]
    assert post.states == {("a", GOOD): ("done", 0, None)}


def test_a_destination_that_is_away_is_tried_ever_more_seldom_until_it_is_back(post: Post) -> None:
    forwarder = post.forwarder(AWAY)
    post.done("a", AWAY)
    post.away[AWAY] = Undelivered("cannot be reached")
    pauses = []
    for tries in range(1, 11):
        assert post.all(forwarder) == 1
        assert post.states["a", AWAY] == ("waiting", tries, "cannot be reached")
        (delivery,) = post.queue.deliveries()
        pauses.append(delivery.next_attempt - post.now)
        post.now = delivery.next_attempt - 0.1
        assert post.all(forwarder) == 0
        post.now += 0.2
    assert pauses == [min(FIRST_S * 2**k, LONGEST_S) for k in range(10)]
    post.away.clear()
    assert post.all(forwarder) == 1
    assert len(post.sent) == 1
    assert set(post.events) == {"delivery_postponed", "delivered"}


def test_one_that_is_away_holds_up_no_other_and_is_asked_once_for_all(post: Post) -> None:
    forwarder = post.forwarder(AWAY, GOOD)
    for key in "abcdef":
        post.done(key, AWAY, GOOD)
    post.away[AWAY] = Undelivered("cannot be reached")
    post.all(forwarder)
    assert post.tried.count(AWAY) == 1
    assert len(post.sent) == 6
    post.away.clear()
    post.now += 2 * FIRST_S
    post.all(forwarder)
    assert len(post.sent) == 12
    assert all(state == "done" for state, _, _ in post.states.values())


def test_a_restart_forgets_nothing(post: Post) -> None:
    post.done("a", AWAY)
    post.away[AWAY] = Undelivered("cannot be reached")
    post.all(post.forwarder(AWAY))
    post.away.clear()
    post.now += 2 * FIRST_S
    post.queue = Queue(post.queue.path)
    post.all(post.forwarder(AWAY))
    assert len(post.sent) == 1


def test_a_destination_that_is_not_named_any_more_keeps_its_own(post: Post) -> None:
    post.done("a", "OLD@host:104", GOOD)
    post.all(post.forwarder(GOOD))
    assert post.sent == [(GOOD, ["report.dcm", "segmentation.dcm"])]
    assert post.states["a", "OLD@host:104"] == ("waiting", 0, None)


@pytest.mark.parametrize(
    ("error", "said"),
    [(KeyError("CANARY"), "unexpected KeyError"), (InputError("the TLS files cannot be used"), "TLS files")],
)
def test_whatever_goes_wrong_it_goes_on(post: Post, error: Exception, said: str) -> None:
    forwarder = post.forwarder(AWAY, GOOD)
    post.done("a", AWAY, GOOD)
    post.away[AWAY] = error
    post.all(forwarder)
    assert said in str(post.states["a", AWAY][2])
    assert post.states["a", GOOD][0] == "done"
    assert "CANARY" not in post.log.getvalue()


def test_results_that_are_gone_are_not_the_destinations_fault(post: Post) -> None:
    forwarder = post.forwarder(GOOD)
    results = post.done("a", GOOD)
    for path in results.iterdir():
        path.unlink()
    results.rmdir()
    post.done("b", GOOD)
    post.all(forwarder)
    assert post.states["a", GOOD][2] == "the results are not there any more"
    assert post.states["b", GOOD][0] == "done"


def test_warnings_are_told(post: Post) -> None:
    post.warnings = ["report.dcm: B000"]
    post.done("a", GOOD)
    post.all(post.forwarder(GOOD))
    assert json.loads(post.log.getvalue())["warnings"] == "report.dcm: B000"


def test_pauses_are_spread() -> None:
    assert len({pause_s(3) for _ in range(20)}) == 20
    assert all(FIRST_S * 2 <= pause_s(3) <= FIRST_S * 4 for _ in range(100))
    assert pause_s(10**6) <= LONGEST_S
