"""Where the cache lies, and when it is not trusted."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgeseg import cache


def test_the_variable_moves_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "mine"))
    assert cache.folder("things") == tmp_path / "mine" / "things"


@pytest.mark.parametrize("value", ["off", "OFF", ""])
def test_the_variable_turns_it_off(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.VARIABLE, value)
    assert cache.folder("things") is None
    assert cache.own_folder("things") is None


def test_without_the_variable_it_is_where_caches_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(cache.VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.folder("things") == tmp_path / "edgeseg" / "things"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.folder("things") == tmp_path / ".cache" / "edgeseg" / "things"


def test_an_own_folder_is_made_for_nobody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "new"))
    own = cache.own_folder("things")
    assert own is not None
    assert own.stat().st_mode & 0o777 == 0o700
    assert cache.own_folder("things") == own


@pytest.mark.parametrize("mode", [0o750, 0o707, 0o777])
def test_a_folder_open_to_others_is_refused(mode: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path))
    (tmp_path / "things").mkdir()
    (tmp_path / "things").chmod(mode)
    assert cache.own_folder("things") is None


def test_somebody_elses_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path))
    somebody = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: somebody)
    assert cache.own_folder("things") is None


def test_a_link_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path))
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "things").symlink_to(tmp_path / "elsewhere")
    assert cache.own_folder("things") is None


def test_where_no_folder_can_be_made_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "file"))
    assert cache.own_folder("things") is None
