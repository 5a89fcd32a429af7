"""The systemd units: systemd takes them, they are hardened, and the command line takes what they start."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import typer.main

from edgeseg import cli

UNITS = ("edgeseg-watch.service", "edgeseg-receive.service")
MOST_EXPOSED = 2.0
"""systemd's own scale from 0 (locked away) to 10; a service without hardening has 9.6."""
needs_systemd = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is missing")


@pytest.fixture(params=UNITS)
def unit(request: pytest.FixtureRequest, repository: Path) -> Path:
    """Each unit."""
    return repository / "deploy" / str(request.param)


def _command(unit: Path) -> list[str]:
    (line,) = re.findall(r"^ExecStart=(.*)$", unit.read_text(encoding="utf-8"), re.MULTILINE)
    return shlex.split(line)


@needs_systemd
def test_systemd_takes_it(unit: Path, tmp_path: Path) -> None:
    here = tmp_path / unit.name
    here.write_text(unit.read_text(encoding="utf-8").replace(_command(unit)[0], "/bin/true"), encoding="utf-8")
    run = subprocess.run(["systemd-analyze", "verify", "--man=no", here], capture_output=True, text=True, check=False)
    said = [line for line in run.stderr.splitlines() if unit.name in line]
    assert (run.returncode, said) == (0, [])


@needs_systemd
def test_it_is_hardened(unit: Path) -> None:
    command = ["systemd-analyze", "security", "--offline=true", "--json=short", "--threshold=20", str(unit)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if "unrecognized option" in run.stderr:
        pytest.skip("this systemd-analyze cannot look at a file")
    assert run.returncode == 0, run.stderr
    exposure = sum(float(row["exposure"] or 0) for row in json.loads(run.stdout))
    assert exposure <= MOST_EXPOSED, exposure


def test_the_command_line_takes_what_it_starts(unit: Path) -> None:
    _, name, *arguments = _command(unit)
    command = typer.main.get_command(cli.app).commands[name]  # type: ignore[attr-defined]
    context = command.make_context(name, arguments)
    assert str(context.params["state"]) == f"/var/lib/edgeseg-{name}"
    assert f"StateDirectory=edgeseg-{name}" in unit.read_text(encoding="utf-8")
    context.close()


def test_both_can_run_on_one_host(repository: Path) -> None:
    ports = {re.findall(r"--metrics-port (\d+)", (repository / "deploy" / name).read_text())[0] for name in UNITS}
    assert len(ports) == len(UNITS)
