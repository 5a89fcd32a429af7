"""Destinations' names, credentials, and what answers mean."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeseg.errors import InputError
from edgeseg.scanner import destination
from edgeseg.scanner.destination import Sender, Undelivered, check, read_credentials


@pytest.mark.parametrize(
    "name",
    [
        *("PACS@10.1.2.3:104", "MY PACS@pacs.example.org:11112", "A@[fd00::1]:104", "PACS@pacs:104/tls"),
        *("https://pacs.example.org/dicom-web/studies", "http://localhost:8042/dicom-web/studies"),
    ],
)
def test_destinations(name: str) -> None:
    check(name)


@pytest.mark.parametrize(
    "name",
    [
        *("", "PACS", "PACS@host", "PACS@host:0", "PACS@host:65536", "@host:104", "A" * 17 + "@host:104", "host:104"),
        *("ftp://host/x", "https:///x", "PACS@host:104/ssl", "PACS@host:104 "),
    ],
)
def test_what_is_no_destination(name: str) -> None:
    with pytest.raises(InputError, match="AE@HOST:PORT"):
        check(name)


def test_a_password_on_the_command_line_is_refused_and_not_repeated() -> None:
    with pytest.raises(InputError, match="--credentials") as caught:
        check("https://user:geheim@pacs.example.org/dicom-web/studies")
    assert "geheim" not in str(caught.value)


def _write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return path


def test_credentials(tmp_path: Path) -> None:
    text = "# PACS\n\npacs.example.org Basic edgeseg:a b:c\nother:8443\tBearer  abc.def==\n"
    found = read_credentials(_write(tmp_path / "credentials", text))
    assert found == {"pacs.example.org": "Basic ZWRnZXNlZzphIGI6Yw==", "other:8443": "Bearer abc.def=="}
    assert "abc" not in repr(Sender(credentials=found))


@pytest.mark.parametrize(
    ("text", "mode", "said"),
    [
        ("host secret\n", 0o600, "line 1 of"),
        ("host Digest secret\n", 0o600, "line 1 of"),
        ("# ok\nhost Bearer sécret\n", 0o600, "line 2 of"),
        ("host Bearer geheim\n", 0o644, "chmod 600"),
    ],
)
def test_credentials_that_cannot_be_used(tmp_path: Path, text: str, mode: int, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        read_credentials(_write(tmp_path / "credentials", text, mode))
    assert "secret" not in str(caught.value)


def test_credentials_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_credentials(tmp_path / "none")


def _answer(*reasons: int) -> bytes:
    failed = [{"00081197": {"vr": "US", "Value": [reason]}} for reason in reasons]
    return json.dumps({"00081198": {"vr": "SQ", "Value": failed}} if failed else {}).encode()


def test_answers_that_mean_taken() -> None:
    assert destination._stowed(200, _answer(), 2) == []
    assert destination._stowed(200, b"", 2) == []
    assert destination._stowed(202, _answer(), 2) == ["2 files: 202"]


@pytest.mark.parametrize(
    ("status", "answer", "said"),
    [
        (200, _answer(0xA900, 0x0110), "refuses 2 of 2 files with status 0110, A900"),
        (202, b'{"00081198": {"Value": [{"00081197": {}}]}}', "status unknown"),
        (409, _answer(0xA900), "answers 409 Conflict"),
        (401, b"CANARY", "answers 401 Unauthorized"),
        (301, b"", "answers 301 Moved Permanently"),
        (599, b"", "answers 599"),
    ],
)
def test_answers_that_mean_refused(status: int, answer: bytes, said: str) -> None:
    with pytest.raises(Undelivered, match=said) as caught:
        destination._stowed(status, answer, 2)
    assert "CANARY" not in str(caught.value)
