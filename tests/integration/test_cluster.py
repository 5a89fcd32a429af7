"""`edgeseg infer --cluster`: the plain command's outcomes, machines that die, and no way in. Ray stays on loopback."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from edgeseg import cluster, readers, results, segment
from edgeseg.errors import EngineError, InputError, StudyError

QUICK = segment.Options(("masks", "report"))
FORMATS = ("--format", "masks", "--format", "report")
SOON = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 3}
"""A dead machine is found dead in two seconds, not in twenty; one that is slow to answer has ten."""


@pytest.fixture(scope="module", autouse=True)
def _on_loopback() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        yield


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[Any]:
    """Three machines: one where the run is begun, without cores to work with, and two workers' with a core each."""
    pytest.importorskip("ray", reason="the [cluster] extra is not installed")
    from ray import cloudpickle
    from ray.cluster_utils import Cluster

    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import this file
    machines = Cluster()
    try:
        machines.add_node(num_cpus=0, _system_config=SOON, **_here())
        for _ in range(2):
            machines.add_node(num_cpus=1, **_here())
        yield machines
    finally:
        machines.shutdown()
        cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def _here() -> dict[str, Any]:
    """On loopback, small. Without ports Ray waits 15 s for its agents to find some: a busy machine takes more."""
    ports = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port", "runtime_env_agent_port")
    with ExitStack() as taken:
        probes = [taken.enter_context(socket.socket()) for _ in ports]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        free = {name: probe.getsockname()[1] for name, probe in zip(ports, probes, strict=True)}
    return {"node_ip_address": "127.0.0.1", "include_dashboard": False, "object_store_memory": 80_000_000, **free}


@pytest.fixture
def archive(tmp_path: Path, example_tiff: Path) -> Path:
    """Four studies of three slices; the second lacks the one in the middle of five."""
    for name in ("a", "b-bad", "c", "d"):
        (tmp_path / "in" / name).mkdir(parents=True)
        for k in (12, 16) if name == "b-bad" else (13, 14, 15):
            shutil.copy(example_tiff / f"{example_tiff.name}_{k}.tif", tmp_path / "in" / name)
    return tmp_path / "in"


def _told(report: dict[str, Any]) -> dict[str, Any]:
    """A report without what hangs on the moment."""
    return {key: value for key, value in report.items() if key not in ("timings_ms", "folder")}


def test_outcomes_are_those_of_the_plain_command(
    ray_cluster: Any, archive: Path, tmp_path: Path, edgeseg: Callable[..., Any]
) -> None:
    shared = edgeseg("infer", archive, "-o", "shared", *FORMATS, "--cluster", ray_cluster.address, "--json")
    plain = edgeseg("infer", archive, "-o", "plain", *FORMATS, "--json")
    assert shared.code == plain.code == 3
    told = [{one["study"]["name"]: _told(one) for one in run.json["studies"]} for run in (shared, plain)]
    assert told[0] == told[1]
    assert sorted(told[0]) == ["a", "c", "d"]
    assert shared.json["failed"] == plain.json["failed"]
    assert shared.err.splitlines()[-1] == plain.err.splitlines()[-1]
    here = tmp_path / "here"
    masks = [path.relative_to(here / "shared") for path in sorted((here / "shared").rglob("*.tif"))]
    assert len(masks) == 9
    assert [(here / "shared" / path).read_bytes() for path in masks] == [
        (here / "plain" / path).read_bytes() for path in masks
    ]
    assert sorted(path.name for path in (here / "shared").iterdir()) == ["a", "c", "d"]

    again = edgeseg("infer", archive, "-o", "plain", *FORMATS, "--cluster", ray_cluster.address, "--json")
    assert {one["folder"]: one["already_done"] for one in again.json["studies"]} == {
        f"plain/{name}": True for name in ("a", "c", "d")
    }


def _workers(address: str, open_engine: Callable[..., Any] | None = None, cores: int = 1) -> cluster.Workers:
    """Workers for the default engine, or for what a test has in its place."""
    workers = cluster.workers(address, cores)
    return replace(workers, open_engine=open_engine) if open_engine else workers


def _tell_cores(folder: Path, threads: int) -> None:
    """Say which cores this worker has while the other one has its own."""
    (folder / str(os.getpid())).touch()
    while len(list(folder.iterdir())) < 2:
        time.sleep(0.01)
    raise InputError(f"{threads} thread on {sorted(os.sched_getaffinity(0))}")


def test_each_worker_has_a_core_of_its_own(ray_cluster: Any, archive: Path, tmp_path: Path) -> None:
    found, told = readers.find_studies(archive), list[str]()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        pytest.skip("one core: there is nothing to share")
    (tmp_path / "met").mkdir()
    workers = _workers(ray_cluster.address, partial(_tell_cores, tmp_path / "met"))
    with pytest.raises(InputError, match="1 thread on"):
        list(cluster.run(found, workers, tmp_path / "out", warn=told.append))
    assert len(told) == 2
    assert set(told) <= {f"1 thread on [{core}]; its worker is left out" for core in cores}
    assert not (tmp_path / "out").exists()


class _Broken:
    """An engine that takes the process with it as soon as it is used."""

    def __getattr__(self, name: str) -> None:
        os._exit(1)


@contextmanager
def _open_broken(threads: int) -> Iterator[Any]:
    del threads
    yield object.__new__(_Broken)


def _die(threads: int) -> None:
    os._exit(threads)


def test_a_study_that_kills_its_workers_is_given_up(ray_cluster: Any, archive: Path, tmp_path: Path) -> None:
    found, told = readers.find_studies(archive / "a"), list[str]()
    (only,) = cluster.run(found, _workers(ray_cluster.address, _open_broken), tmp_path / "out", warn=told.append)
    assert told == ["a: its worker died, another one does it"] * (cluster.TRIES - 1)
    assert (only.name, only.root) == ("a", archive / "a")
    assert isinstance(only.error, StudyError)
    assert "3 workers died on it" in str(only.error)


def test_workers_that_never_begin_are_given_up(ray_cluster: Any, archive: Path, tmp_path: Path) -> None:
    found = readers.find_studies(archive / "a")
    with pytest.raises(EngineError, match="3 workers died while they opened"):
        list(cluster.run(found, _workers(ray_cluster.address, _die), tmp_path / "out"))


def test_a_machine_that_does_not_see_the_archive(ray_cluster: Any, archive: Path, tmp_path: Path) -> None:
    found = readers.find_studies(archive)
    archive.rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="does not see the archive: archive and output have to lie on") as raised:
        list(cluster.run(found, _workers(ray_cluster.address), tmp_path / "out"))
    assert str(archive) not in str(raised.value)
    assert str(archive) in raised.value.identified


def test_no_machine_has_so_many_cores(ray_cluster: Any, archive: Path, tmp_path: Path) -> None:
    found = readers.find_studies(archive)
    with pytest.raises(InputError, match="no machine with 2 cores for a worker"):
        list(cluster.run(found, _workers(ray_cluster.address, cores=2), tmp_path / "out"))


def test_no_cluster_at_the_address(
    archive: Path, edgeseg: Callable[..., Any], free_port: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="the [cluster] extra is not installed")
    for address in (f"127.0.0.1:{free_port()}", "nonsense", "ray://127.0.0.1:10001"):
        run = edgeseg("infer", archive, "--cluster", address)
        assert run.code == 2
        assert f"there is no Ray cluster to work on at {address}" in " ".join(run.err.split())
    run = edgeseg("infer", archive, "--cores", "2")
    assert run.code == 2
    assert "give --cluster too" in " ".join(run.err.split())
    monkeypatch.setitem(sys.modules, "ray", None)
    run = edgeseg("infer", archive, "--cluster", "auto")
    assert run.code == 4
    assert "pip install 'edgeseg[cluster]'" in " ".join(run.err.split())


def test_ctrl_c_leaves_nothing_behind(ray_cluster: Any, archive: Path, tmp_path: Path) -> None:
    import ray

    output = tmp_path / "out"
    command = [sys.executable, "-c", "from edgeseg.cli import main; main()", "infer", str(archive), "-o", str(output)]
    command += [*FORMATS, "--cluster", ray_cluster.address]
    wide = {**os.environ, "COLUMNS": "500"}  # a path that is broken over two lines names no study
    with (
        results.staging(output, "c"),  # what this worker waits for when it is ended
        subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True, env=wide) as process,
    ):
        lines = iter(process.stderr or ())
        ended: set[str] = set()
        while ended != {"a", "b-bad", "d"}:
            ended |= {"a", "b-bad", "d"} & set(re.findall(r"[\w-]+(?=:)", next(lines)))
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        assert "Traceback" not in "".join(lines)
        assert process.wait(30) == 130
    assert sorted(path.name for path in output.iterdir()) == ["a", "d"]
    ray.init(address=ray_cluster.address, log_to_driver=False)
    until = time.monotonic() + 30
    while (free := ray.available_resources().get("CPU")) != 2 and time.monotonic() < until:
        time.sleep(0.1)
    ray.shutdown()
    assert free == 2


def test_a_machine_dies_and_no_study_is_lost(
    ray_cluster: Any, archive: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    found, told, output = readers.find_studies(archive), list[str](), tmp_path / "out"
    with ExitStack() as held:
        for files in found:  # workers wait for the stages that somebody else holds: no study ends before the machine
            held.enter_context(results.staging(output, files.name))

        def say(progress: str) -> None:
            if progress == "0 of 4 studies, 2 at work" and len(ray_cluster.worker_nodes) == 2:
                ray_cluster.remove_node(min(ray_cluster.worker_nodes, key=str), allow_graceful=False)

        def warn(sentence: str) -> None:
            told.append(sentence)
            held.close()

        outcomes = list(cluster.run(found, _workers(ray_cluster.address), output, QUICK, say, warn))
    assert len(told) == 1
    assert told[0].endswith("its worker died, another one does it")
    assert sorted(outcome.name for outcome in outcomes) == ["a", "b-bad", "c", "d"]
    assert {outcome.name for outcome in outcomes if outcome.error} == {"b-bad"}
    assert sorted(path.name for path in output.iterdir()) == ["a", "c", "d"]
    assert all((output / name / "report.json").is_file() for name in ("a", "c", "d"))
    assert capfd.readouterr().out == ""
