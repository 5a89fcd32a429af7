"""Results sent on to real receivers: DCMTK, Orthanc by C-STORE and STOW-RS; and the whole way from scanner to PACS."""

from __future__ import annotations

import gc
import http.server
import io
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from edgeseg.scanner import forward
from edgeseg.scanner.destination import Sender, Undelivered, deliver, read_credentials
from edgeseg.scanner.forward import Forwarder
from edgeseg.scanner.incoming import study_name
from edgeseg.scanner.jobs import FILE, Queue
from edgeseg.scanner.monitor import Monitor
from edgeseg.scanner.tls import Tls

Find = Callable[[str], str]
Running = Callable[[list[str], Path], "subprocess.Popen[bytes]"]
SEG = "1.2.840.10008.5.1.4.1.1.66.4"
WAIT_S = 90
# pynetdicom leaves the socket of a connection that failed to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <:ResourceWarning")


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    yield
    gc.collect()


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory, example_dicom: Path, default_engine: Any) -> Path:
    """The example's results."""
    from edgeseg import readers, segment

    (study,) = readers.find_studies(example_dicom)
    output = tmp_path_factory.mktemp("results")
    return segment.segment(study, default_engine, output, segment.Options(("dicom-seg", "report"))).folder


@pytest.fixture
def files(results: Path) -> list[Path]:
    """Their DICOM files."""
    found = sorted(results.glob("*.dcm"))
    assert found
    return found


def _until(happened: Callable[[], Any]) -> Any:
    until = time.monotonic() + WAIT_S
    while not (found := happened()):
        assert time.monotonic() < until
        time.sleep(0.1)
    return found


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def _uid(path: Path) -> str:
    import pydicom

    return str(pydicom.dcmread(path).SOPInstanceUID)


def _pixels(content: bytes) -> bytes:
    import pydicom

    return bytes(pydicom.dcmread(io.BytesIO(content)).PixelData)


# --- one destination, once


def test_storescp(
    files: list[Path], dcmtk: Find, running: Running, free_port: Callable[[], int], tmp_path: Path
) -> None:
    """Which takes Implicit VR alone: what every receiver has to take."""
    port, folder = free_port(), tmp_path / "pacs"
    folder.mkdir()
    running([dcmtk("storescp"), "+xi", "-od", str(folder), "-aet", "PACS", str(port)], tmp_path / "log")
    _until(lambda: _listens(port))
    assert deliver(files, f"PACS@127.0.0.1:{port}", Sender()) == []
    assert {_uid(path) for path in folder.iterdir()} == {_uid(path) for path in files}


def test_storescp_with_tls(
    files: list[Path],
    dcmtk: Find,
    running: Running,
    free_port: Callable[[], int],
    papers: Callable[[str], Any],
    tmp_path: Path,
) -> None:
    port, folder, right, wrong = free_port(), tmp_path / "pacs", papers("right"), papers("wrong")
    folder.mkdir()
    tls = ["+tls", str(right.key), str(right.certificate), "+cf", str(right.ca)]
    running([dcmtk("storescp"), *tls, "-od", str(folder), str(port)], tmp_path / "log")
    _until(lambda: _listens(port))
    own, name = Tls(right.certificate, right.key, right.ca), f"PACS@127.0.0.1:{port}/tls"
    for stranger in (Tls(wrong.certificate, wrong.key, right.ca), Tls(right.certificate, right.key, wrong.ca), Tls()):
        with pytest.raises(Undelivered):
            deliver(files, name, Sender(tls=stranger))
    assert not list(folder.iterdir())
    deliver(files, name, Sender(tls=own))
    assert len(list(folder.iterdir())) == len(files)


def test_dcmqrscp_that_takes_no_stranger(
    files: list[Path], dcmtk: Find, running: Running, free_port: Callable[[], int], tmp_path: Path
) -> None:
    port, database = free_port(), tmp_path / "db"
    database.mkdir()
    (tmp_path / "qr.cfg").write_text(
        f"NetworkTCPPort = {port}\nMaxPDUSize = 16384\nMaxAssociations = 16\nHostTable BEGIN\n"
        "edgeseg = (EDGESEG, localhost, 1)\nHostTable END\nVendorTable BEGIN\nVendorTable END\n"
        f"AETable BEGIN\nQR {database} RW (200, 1024mb) edgeseg\nAETable END\n"
    )
    running([dcmtk("dcmqrscp"), "-c", str(tmp_path / "qr.cfg")], tmp_path / "qr.log")
    _until(lambda: _listens(port))
    with pytest.raises(Undelivered, match="refuses the association"):
        deliver(files, f"NOBODY@127.0.0.1:{port}", Sender())
    deliver(files, f"QR@127.0.0.1:{port}", Sender())
    assert {_uid(path) for path in database.glob("*.dcm")} == {_uid(path) for path in files}


def test_a_receiver_that_takes_no_segmentations(files: list[Path], free_port: Callable[[], int]) -> None:
    with (
        Peer(free_port(), status=0x0000, sop_class="1.2.840.10008.5.1.4.1.1.4") as port,
        pytest.raises(Undelivered, match="takes no file of these kinds"),
    ):
        deliver(files, f"PACS@127.0.0.1:{port}", Sender())


@pytest.mark.parametrize("status", [0xA700, 0xA900, 0xC001, 0x0124])
def test_a_receiver_that_refuses(files: list[Path], free_port: Callable[[], int], status: int) -> None:
    with Peer(free_port(), status) as port, pytest.raises(Undelivered, match=f"with status {status:04X}") as caught:
        deliver(files, f"PACS@127.0.0.1:{port}", Sender())
    assert "CANARY" not in str(caught.value)


def test_a_receiver_that_warns(files: list[Path], free_port: Callable[[], int]) -> None:
    with Peer(free_port(), 0xB000) as port:
        warnings = deliver(files, f"PACS@127.0.0.1:{port}", Sender())
    assert warnings == [f"{path.name}: B000" for path in files]


class Peer:
    """A receiver by pynetdicom that answers with one status, and a comment that quotes a patient."""

    def __init__(self, port: int, status: int, sop_class: str = "") -> None:
        from pydicom.dataset import Dataset
        from pynetdicom import AE, AllStoragePresentationContexts, evt

        answer = Dataset()
        answer.Status, answer.ErrorComment = status, "CANARY"
        self._entity, self._port = AE("PACS"), port
        if sop_class:
            self._entity.add_supported_context(sop_class)
        else:
            self._entity.supported_contexts = AllStoragePresentationContexts
        self._handlers = [(evt.EVT_C_STORE, lambda _: answer)]

    def __enter__(self) -> int:
        self._entity.start_server(("127.0.0.1", self._port), block=False, evt_handlers=self._handlers)
        return self._port

    def __exit__(self, *_: object) -> None:
        self._entity.shutdown()


@pytest.mark.parametrize(
    "name", ["PACS@127.0.0.1:{}", "PACS@127.0.0.1:{}/tls", "http://127.0.0.1:{}/x", "https://127.0.0.1:{}/x"]
)
@pytest.mark.parametrize("peer", ["nobody", "silent and gone", "noise"])
def test_a_receiver_that_is_away(files: list[Path], free_port: Callable[[], int], name: str, peer: str) -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port)) as server:
        if peer == "nobody":
            server.close()
        else:
            noise = b"" if peer == "silent and gone" else b"\x15\x03HTTP/9 \r\n\r\n" * 10
            threading.Thread(target=_say, args=(server, noise), daemon=True).start()
        with pytest.raises(Undelivered):
            deliver(files, name.format(port), Sender())


def _say(server: socket.socket, noise: bytes) -> None:
    wire, _ = server.accept()
    with wire:
        wire.sendall(noise)


def test_a_host_without_an_address(files: list[Path]) -> None:
    for name in ("PACS@pacs.invalid:104", "https://pacs.invalid/dicom-web/studies"):
        with pytest.raises(Undelivered, match="cannot be reached"):
            deliver(files, name, Sender())


def test_orthanc_by_c_store_and_by_stow(files: list[Path], orthanc: Callable[..., Any]) -> None:
    for name in ("ORTHANC@127.0.0.1:{0.dicom}", "http://127.0.0.1:{0.http}/dicom-web/studies"):
        pacs = orthanc()
        for _ in range(2):  # twice the same does no harm
            assert deliver(files, name.format(pacs), Sender()) == []
        instances = pacs.ask("/instances")
        assert len(instances) == len(files)
        stored = {pacs.ask(f"/instances/{one}/tags?simplify")["SOPInstanceUID"] for one in instances}
        assert stored == {_uid(path) for path in files}


@pytest.fixture
def behind_tls(papers: Callable[[str], Any]) -> Iterator[Callable[[int], int]]:
    """Put TLS in front of a port, as a hospital's web server does for its PACS; returns the new port."""
    own, servers = papers("own"), list[socket.socket]()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own.certificate, own.key)

    def serve(server: socket.socket, port: int) -> None:
        with suppress(OSError):
            while True:
                raw, _ = server.accept()
                with suppress(OSError):
                    _join(context.wrap_socket(raw, server_side=True), socket.create_connection(("127.0.0.1", port)))

    def begin(port: int) -> int:
        server = socket.create_server(("127.0.0.1", 0))
        servers.append(server)
        threading.Thread(target=serve, args=(server, port), daemon=True).start()
        return int(server.getsockname()[1])

    yield begin
    for server in servers:
        server.shutdown(socket.SHUT_RDWR)
        server.close()


def _join(wire: socket.socket, plain: socket.socket) -> None:
    with wire, plain:
        back = threading.Thread(target=_pump, args=(plain, wire))
        back.start()
        _pump(wire, plain)
        back.join()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while content := source.recv(65536):
            sink.sendall(content)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


def test_orthanc_over_https_lets_in_who_has_the_password(
    files: list[Path],
    orthanc: Callable[..., Any],
    behind_tls: Callable[[int], int],
    papers: Callable[[str], Any],
    tmp_path: Path,
) -> None:
    pacs = orthanc(wait=False, AuthenticationEnabled=True, RegisteredUsers={"edgeseg": "geheim"})
    _until(lambda: _listens(pacs.http))
    port = behind_tls(pacs.http)
    name, tls = f"https://127.0.0.1:{port}/dicom-web/studies", Tls(ca=tmp_path / "own" / "ca.pem")
    file = tmp_path / "credentials"
    file.touch(0o600)
    file.write_text("127.0.0.1 Basic edgeseg:geheim\n")
    right = read_credentials(file)
    for wrong in ({}, {"elsewhere": right["127.0.0.1"]}, {"127.0.0.1": "Bearer geheim"}):
        with pytest.raises(Undelivered, match="answers 401 Unauthorized"):
            deliver(files, name, Sender(tls=tls, credentials=wrong))
    with pytest.raises(Undelivered, match="CERTIFICATE_VERIFY_FAILED"):
        deliver(files, name, Sender(tls=Tls(ca=papers("other").ca), credentials=right))
    assert deliver(files, name, Sender(tls=tls, credentials=right)) == []
    asked = urllib.request.Request(
        f"http://127.0.0.1:{pacs.http}/instances", headers={"Authorization": right["127.0.0.1"]}
    )
    with urllib.request.urlopen(asked, timeout=30) as answer:
        assert len(json.load(answer)) == len(files)


@pytest.fixture
def web() -> Iterator[tuple[str, list[tuple[dict[str, str], bytes]], list[int]]]:
    """A web server that notes what it is sent: its address, requests, and the statuses to answer with, in turn."""
    requests: list[tuple[dict[str, str], bytes]] = []
    statuses: list[int] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            requests.append((dict(self.headers), body))
            self.send_response(statuses.pop(0))
            self.send_header("Location", f"http://127.0.0.1:{self.server.server_address[1]}/elsewhere")  # type: ignore[index]
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/studies", requests, statuses
    server.shutdown()
    server.server_close()


def test_the_request_is_what_dicomweb_asks_for(files: list[Path], web: Any) -> None:
    address, requests, statuses = web
    statuses.append(200)
    deliver(files, address, Sender(credentials={"127.0.0.1": "Bearer geheim"}))
    ((headers, body),) = requests
    assert "Authorization" not in headers  # not without TLS
    found = re.fullmatch(r'multipart/related; type="application/dicom"; boundary=(\w+)', headers["Content-Type"])
    assert found
    assert headers["Accept"] == "application/dicom+json"
    parts = body.split(f"--{found[1]}".encode())
    assert (parts[0], parts[-1]) == (b"", b"--\r\n")
    head = b"\r\nContent-Type: application/dicom\r\n\r\n"
    assert parts[1:-1] == [head + path.read_bytes() + b"\r\n" for path in files]


def test_a_redirect_is_not_followed(files: list[Path], web: Any) -> None:
    address, requests, statuses = web
    statuses.append(307)
    with pytest.raises(Undelivered, match="answers 307"):
        deliver(files, address, Sender())
    assert len(requests) == 1


# --- the queue and the network together


def _queued(folder: Path, results: Path, *destinations: str) -> Queue:
    queue = Queue(folder / FILE)
    queue.add("study", folder, "digest", "receive")
    job = queue.claim()
    assert job is not None
    queue.finish(job, results, destinations)
    return queue


def test_orthanc_comes_back(
    results: Path,
    files: list[Path],
    orthanc: Callable[..., Any],
    free_port: Callable[[], int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is away when the results are ready; the process is another one when it is back."""
    monkeypatch.setattr(forward, "FIRST_S", 0.2)
    monkeypatch.setattr(forward, "_POLL_S", 0.05)
    dicom, http = free_port(), free_port()
    names = (f"ORTHANC@127.0.0.1:{dicom}", f"http://127.0.0.1:{http}/dicom-web/studies")
    log = io.StringIO()
    queue = _queued(tmp_path, results, *names)
    with queue, Forwarder(queue, Monitor(log), names, Sender()):
        _until(lambda: all(delivery.attempts > 1 for delivery in queue.deliveries()))
    pacs = orthanc(DicomPort=dicom, HttpPort=http, wait=False)
    again = Queue(tmp_path / FILE)
    with again, Forwarder(again, Monitor(log), names, Sender()):
        _until(lambda: all(delivery.state == "done" for delivery in again.deliveries()))
    assert pacs is not None
    with urllib.request.urlopen(f"http://127.0.0.1:{http}/instances", timeout=30) as answer:
        assert len(json.load(answer)) == len(files)


def test_from_the_scanner_to_the_pacs_over_kills(
    orthanc: Callable[..., Any],
    dcmtk: Find,
    free_port: Callable[[], int],
    repository: Path,
    example_dicom: Path,
    tmp_path: Path,
) -> None:
    """DCMTK sends a study; the service is killed when it is queued and when it runs; Orthanc has its SEG in the end."""
    pacs, port = orthanc(), free_port()
    command = [sys.executable, "-c", "from edgeseg.cli import main; main()", "receive", "--port", str(port)]
    command += [
        "--quiet",
        "1",
        "-o",
        str(tmp_path / "out"),
        "--state",
        str(tmp_path / "state"),
        "--format",
        "dicom-seg",
    ]
    command += ["--format", "report", "--send-to", f"ORTHANC@127.0.0.1:{pacs.dicom}", "--allow-ae", "SCANNER"]
    log, environment = tmp_path / "log", {**os.environ, "PYTHONPATH": str(repository)}

    def said(event: str) -> int:
        return log.read_text().count(f'"{event}"')

    def begin() -> subprocess.Popen[bytes]:
        with log.open("ab") as output:
            process = subprocess.Popen(command, stderr=output, env=environment)
        _until(lambda: _listens(port) or process.poll() is not None)
        return process

    service = begin()
    sending = [dcmtk("dcmsend"), "-aet", "SCANNER", "+sd", "+r", "127.0.0.1", str(port), str(example_dicom)]
    subprocess.run(sending, check=True, timeout=120)
    for event in ("study_queued", "study_started"):
        _until(partial(said, event))
        service.send_signal(signal.SIGKILL)
        service.wait()
        _until(lambda: not _listens(port))
        service = begin()
    try:
        _until(lambda: said("delivered"))
    finally:
        service.send_signal(signal.SIGTERM)
        assert service.wait(60) == 0
    (instance,) = [
        one for one in pacs.ask("/instances") if pacs.ask(f"/instances/{one}/simplified-tags")["Modality"] == "SEG"
    ]
    with urllib.request.urlopen(f"http://127.0.0.1:{pacs.http}/instances/{instance}/file", timeout=30) as answer:
        (result,) = (tmp_path / "out").iterdir()
        assert _pixels(answer.read()) == _pixels((result / "segmentation.dcm").read_bytes())
    with Queue(tmp_path / "state" / FILE) as queue:
        (job,) = queue.jobs()
    assert (job.state, job.source, job.key) == ("done", "receive", result.name)
    assert said("study_queued") == 1
    import pydicom

    header = pydicom.dcmread(next(example_dicom.rglob("*.dcm")))
    assert result.name == study_name(header.StudyInstanceUID)
    for text in (str(header.PatientName), str(header.PatientID), header.StudyInstanceUID):
        assert text not in log.read_text()
