"""Who is to have results, and how they are handed over: C-STORE or STOW-RS, once, and one error for all that fails."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import re
import secrets
import socket
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from edgeseg.errors import InputError
from edgeseg.scanner.entity import application_entity
from edgeseg.scanner.tls import Tls, client_context

_DICOM = re.compile(r"(?P<title>[^@\\]{1,16})@(?P<host>\[[^]]+\]|[^:/@]+):(?P<port>\d{1,5})(?P<tls>/tls)?")
_CONNECT_S, _ANSWER_S = 15.0, 120.0
_LONGEST_ANSWER = 4 * 1024**2
_FAILED, _REASON = "00081198", "00081197"


class Undelivered(Exception):
    """A destination does not have the results; the text quotes nothing that it said but codes."""


@dataclass(frozen=True)
class Sender:
    """Who sends.

    Parameters
    ----------
    ae_title
        This host's AE title.
    tls
        Its certificate, and the CA that receivers' certificates are to come from.
    credentials
        Host, or host and port -> value of the Authorization header. Sent over https alone.
    """

    ae_title: str = "EDGESEG"
    tls: Tls = field(default_factory=Tls)
    credentials: Mapping[str, str] = field(default_factory=dict, repr=False)


def check(destination: str) -> None:
    """Refuse what is no destination.

    Raises
    ------
    InputError
        It is neither ``AE@HOST:PORT``, ``AE@HOST:PORT/tls`` nor a web address, or holds a password.
    """
    url = urlsplit(destination)
    if url.scheme in ("https", "http") and url.hostname:
        if url.username or url.password:
            raise InputError(
                "a password in an address is seen by all: put it into a file and name that with --credentials"
            )
        return
    found = _DICOM.fullmatch(destination)
    if not found or not 0 < int(found["port"]) < 65536:
        raise InputError(
            f"{destination} is no destination: AE@HOST:PORT (C-STORE), AE@HOST:PORT/tls or "
            "https://HOST/dicom-web/studies (STOW-RS) is expected"
        )


def deliver(files: Sequence[Path], destination: str, sender: Sender) -> list[str]:
    """Hand files over to a destination.

    Parameters
    ----------
    files
        DICOM files.
    destination
        As `check` takes it.
    sender
        Who sends.

    Returns
    -------
    list of str
        Warnings: codes with which the destination took a file all the same.

    Raises
    ------
    Undelivered
        It does not have all of them. Sending all again does no harm: an instance is known by its UID.
    """
    try:
        if destination.startswith(("https://", "http://")):
            return _stow(files, destination, sender)
        return _store(files, destination, sender)
    except OSError as error:
        raise Undelivered(f"cannot be reached: {error.strerror or type(error).__name__}") from error


def _store(files: Sequence[Path], destination: str, sender: Sender) -> list[str]:
    found = _DICOM.fullmatch(destination)
    if not found:
        raise Undelivered("is no destination")
    association = _associate(files, found, sender)
    try:
        return [warning for path in files if (warning := _store_one(association, path))]
    finally:
        with contextlib.suppress(Exception):
            association.release()


def _associate(files: Sequence[Path], found: re.Match[str], sender: Sender) -> Any:
    import pydicom
    from pydicom.uid import ImplicitVRLittleEndian

    entity = application_entity(sender.ae_title)
    entity.connection_timeout, entity.acse_timeout = _CONNECT_S, _CONNECT_S
    entity.dimse_timeout, entity.network_timeout = _ANSWER_S, _ANSWER_S
    contexts = set()
    for path in files:
        meta = pydicom.filereader.read_file_meta_info(path)
        contexts.add((meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID))
        if not meta.TransferSyntaxUID.is_compressed:  # what every receiver has to know
            contexts.add((meta.MediaStorageSOPClassUID, ImplicitVRLittleEndian))
    for sop_class, syntax in sorted(contexts):
        entity.add_requested_context(sop_class, syntax)
    host, port = found["host"].strip("[]"), int(found["port"])
    address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4][0]
    tls = (client_context(sender.tls), host) if found["tls"] else None
    association = entity.associate(str(address), port, ae_title=found["title"], tls_args=tls)
    if not association.is_established:
        if association.rejected_contexts:
            raise Undelivered(
                "takes no file of these kinds: see that it knows Segmentation and Structured Report storage"
            )
        if association.is_rejected:
            raise Undelivered("refuses the association: see that it knows this host's AE title, and has its own")
        socket.create_connection((str(address), port), _CONNECT_S).close()  # an error says why
        raise Undelivered("is there and does not answer: see whether it wants TLS, and takes this host's certificate")
    return association


def _store_one(association: Any, path: Path) -> str | None:
    from pynetdicom.status import STATUS_SUCCESS, STATUS_WARNING, code_to_category

    try:
        status = association.send_c_store(path).get("Status")
    except ValueError as error:  # no presentation context was accepted for it
        raise Undelivered(f"does not take {path.name}") from error
    except RuntimeError as error:
        raise Undelivered("ended the association") from error
    if status is None:
        raise Undelivered(f"gave no answer to {path.name}")
    category = code_to_category(status)
    if category not in (STATUS_SUCCESS, STATUS_WARNING):
        raise Undelivered(f"refuses {path.name} with status {status:04X}")
    return f"{path.name}: {status:04X}" if category == STATUS_WARNING else None


def _stow(files: Sequence[Path], destination: str, sender: Sender) -> list[str]:
    url = urlsplit(destination)
    body, kind = _multipart([path.read_bytes() for path in files])
    headers = {"Content-Type": kind, "Accept": "application/dicom+json"}
    connection: http.client.HTTPConnection
    if url.scheme == "https":
        context: ssl.SSLContext = client_context(sender.tls)
        connection = http.client.HTTPSConnection(url.netloc, timeout=_ANSWER_S, context=context)
        if secret := sender.credentials.get(url.netloc) or sender.credentials.get(url.hostname or ""):
            headers["Authorization"] = secret
    else:
        connection = http.client.HTTPConnection(url.netloc, timeout=_ANSWER_S)
    with contextlib.closing(connection):
        try:
            # Redirects are not followed: they would take credentials and images to a place that nobody named.
            connection.request("POST", (url.path or "/") + (f"?{url.query}" if url.query else ""), body, headers)
            answer = connection.getresponse()
            return _stowed(answer.status, answer.read(_LONGEST_ANSWER), len(files))
        except http.client.HTTPException as error:
            raise Undelivered(f"does not speak HTTP: {type(error).__name__}") from error


def _multipart(files: Sequence[bytes]) -> tuple[bytes, str]:
    boundary = secrets.token_hex(16)
    part = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
    body = b"".join(piece for file in files for piece in (part, file, b"\r\n")) + f"--{boundary}--\r\n".encode()
    return body, f'multipart/related; type="application/dicom"; boundary={boundary}'


def _stowed(status: int, answer: bytes, files: int) -> list[str]:
    """Judge an answer: 200 is said by some servers when they took only some."""
    if status not in (200, 202):
        raise Undelivered(f"answers {status} {http.client.responses.get(status, '')}".rstrip())
    try:
        said = json.loads(answer)
    except ValueError:
        said = {}
    failed = said.get(_FAILED, {}).get("Value", []) if isinstance(said, dict) else []
    if failed:
        codes = {_code(item) for item in failed}
        raise Undelivered(f"refuses {len(failed)} of {files} files with status {', '.join(sorted(codes))}")
    return [f"{files} files: 202"] if status == 202 else []


def _code(item: Any) -> str:
    try:
        return f"{int(item[_REASON]['Value'][0]):04X}"
    except (KeyError, IndexError, TypeError, ValueError):
        return "unknown"


def read_credentials(path: Path) -> dict[str, str]:
    """Read what opens which host: lines ``HOST Bearer TOKEN`` or ``HOST Basic USER:PASSWORD``; # starts a comment.

    Returns
    -------
    dict
        Host, or host and port -> value of the Authorization header.

    Raises
    ------
    InputError
        The file cannot be read, can be read by others, or holds something else.
    """
    try:
        text, mode = path.read_text(encoding="utf-8"), path.stat().st_mode
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: a text file with a line a host is expected") from error
    if mode & 0o007:
        raise InputError(f"{path} can be read by everyone on this host: chmod 600 it")
    found = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        words = line.split(None, 2)
        if len(words) != 3 or words[1] not in ("Basic", "Bearer") or not words[2].isascii():
            raise InputError(f"line {number} of {path} is neither HOST Bearer TOKEN nor HOST Basic USER:PASSWORD")
        host, scheme, secret = words[0], words[1], words[2].strip()
        found[host] = f"{scheme} {_encoded(secret) if scheme == 'Basic' else secret}"
    return found


def _encoded(secret: str) -> str:
    return base64.b64encode(secret.encode()).decode()
