"""The receiver against real senders: DCMTK, Orthanc and dcmqrscp; and against what no well-behaved sender does."""

from __future__ import annotations

import copy
import ipaddress
import json
import os
import resource
import signal
import socket
import ssl
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeseg.errors import InputError
from edgeseg.scanner import monitor
from edgeseg.scanner.incoming import Incoming, study_name
from edgeseg.scanner.listening import Listening
from edgeseg.scanner.receive import Listener, Receiver
from edgeseg.scanner.tls import Tls

MR, CT, ENHANCED = "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4.1"
IMPLICIT, EXPLICIT, BIG_ENDIAN, DEFLATED = (f"1.2.840.10008.1.2{suffix}" for suffix in ("", ".1", ".2", ".1.99"))
CANARY = "CANARY"
Find = Callable[[str], str]
Running = Callable[[list[str], Path], "subprocess.Popen[bytes]"]


def _instance(folder: Path, number: int, study: str, sop_class: str = MR, side: int = 64) -> Path:
    """Write an image with canaries in its texts."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import generate_uid

    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = EXPLICIT
    dataset.SOPClassUID, dataset.StudyInstanceUID, dataset.Modality = sop_class, study, "MR"
    dataset.SOPInstanceUID, dataset.SeriesInstanceUID = generate_uid(), f"{study}.1"
    dataset.PatientName, dataset.PatientID, dataset.StudyDescription = f"{CANARY}^NAME", f"{CANARY}ID", f"{CANARY}TEXT"
    dataset.InstanceNumber, dataset.Rows, dataset.Columns = number, side, side
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PixelRepresentation = 1, "MONOCHROME2", 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
    pixels = np.random.default_rng(number).integers(0, 4096, (side, side), dtype=np.uint16)
    dataset.PixelData = pixels.tobytes()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{CANARY}-{number}.dcm"
    dataset.save_as(path, enforce_file_format=True)
    return path


@dataclass
class Ward:
    """A receiver, what it noted, and where its files are."""

    incoming: Incoming
    port: int = 0
    notes: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    @property
    def files(self) -> list[Path]:
        """What has been kept."""
        return sorted(self.incoming.root.rglob("*.dcm"))

    def noted(self, name: str) -> list[dict[str, Any]]:
        """Facts of the notes of this name, once there are some."""
        until = time.monotonic() + 20
        while not (found := [facts for noted, facts in self.notes if noted == name]):
            assert time.monotonic() < until, f"{name} is not among {self.notes}"
            time.sleep(0.02)
        return found


@contextmanager
def _receiver(root: Path, listener: Listener | None = None, reserve: int = 0) -> Iterator[Ward]:
    ward = Ward(Incoming(root, reserve))
    with Receiver(listener or Listener(0), ward.incoming, lambda name, **facts: ward.notes.append((name, facts))) as it:
        ward.port = it.port
        yield ward
    assert CANARY not in json.dumps(ward.notes)


@pytest.fixture
def ward(tmp_path: Path) -> Iterator[Ward]:
    """A receiver that takes everyone's images."""
    with _receiver(tmp_path / "in") as found:
        yield found


def _run(*command: str | Path | int, check: bool = True) -> str:
    """Run a program and return what it said."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=120)
    said = done.stdout + done.stderr
    assert not check or done.returncode == 0, said
    return said


@pytest.fixture
def storescu(dcmtk: Find) -> Callable[..., str]:
    """Send files with DCMTK; returns its log."""
    program = dcmtk("storescu")

    def send(port: int, *words: str | Path, check: bool = True) -> str:
        return _run(program, "-v", "-nh", *words[:-1], "127.0.0.1", port, "+sd", words[-1], check=check)

    return send


def _pixels(path: Path) -> bytes:
    return bytes(_read(path).PixelData)


# --- senders that behave


def test_echo(ward: Ward, dcmtk: Find) -> None:
    assert "Received Echo Response (Success)" in _run(dcmtk("echoscu"), "-v", "127.0.0.1", ward.port)


def test_storescu(ward: Ward, storescu: Callable[..., str], tmp_path: Path) -> None:
    sent = [_instance(tmp_path / "out", number, "1.2.3") for number in range(8)]
    said = storescu(ward.port, tmp_path / "out")
    assert said.count("Received Store Response (Success)") == 8
    assert {_pixels(path) for path in ward.files} == {_pixels(path) for path in sent}
    assert {path.parent.name for path in ward.files} == {study_name("1.2.3")}
    assert _read(ward.files[0]).PatientName == f"{CANARY}^NAME"
    assert ward.noted("instances_received")[0]["instances"] == 8
    storescu(ward.port, tmp_path / "out")
    assert len(ward.files) == 8  # the same once more


def test_every_transfer_syntax_that_dcmsend_offers(ward: Ward, dcmtk: Find, example_dicom: Path) -> None:
    """The example's series are in RLE, JPEG-LS and Explicit VR."""
    _run(dcmtk("dcmsend"), "+sd", "+r", "--decompress-never", "127.0.0.1", ward.port, example_dicom)
    sent = {_read(path).SOPInstanceUID: path for path in example_dicom.rglob("*.dcm")}
    assert len(ward.files) == len(sent) == 45
    for path in ward.files:
        found, source = _read(path), _read(sent[_read(path).SOPInstanceUID])
        assert found.file_meta.TransferSyntaxUID == source.file_meta.TransferSyntaxUID
        assert found.PixelData == source.PixelData


@pytest.mark.parametrize("syntax", [IMPLICIT, BIG_ENDIAN, DEFLATED])
def test_other_encodings(ward: Ward, storescu: Callable[..., str], tmp_path: Path, syntax: str) -> None:
    sent = _read(_instance(tmp_path / "out", 1, "1.2.3"))
    if syntax == BIG_ENDIAN:  # DCMTK leaves the choice to the receiver
        sent = _as_big_endian(sent)
        assert _statuses(ward.port, sent, syntax=syntax) == [0]
    else:
        sent.file_meta.TransferSyntaxUID = syntax
        sent.save_as(tmp_path / "out" / f"{CANARY}-1.dcm", implicit_vr=syntax == IMPLICIT)
        options = ("-xi",) if syntax == IMPLICIT else ("-xd",)
        storescu(ward.port, *options, tmp_path / "out")
    (path,) = ward.files
    found = _read(path)
    assert found.file_meta.TransferSyntaxUID == syntax
    assert (found.pixel_array == sent.pixel_array).all()


def _as_big_endian(dataset: Any) -> Any:
    from pydicom.dataset import Dataset

    pixels = dataset.pixel_array
    turned = Dataset()
    turned.update({element.tag: element for element in dataset})
    turned.file_meta = dataset.file_meta
    turned.file_meta.TransferSyntaxUID = BIG_ENDIAN
    turned.PixelData = pixels.astype(">u2").tobytes()
    buffer = BytesIO()
    turned.save_as(buffer, enforce_file_format=True)
    buffer.seek(0)
    return _read(buffer)


def _read(file: Path | BytesIO) -> Any:
    import pydicom

    return pydicom.dcmread(file)


def test_enhanced_mr(ward: Ward, storescu: Callable[..., str], tmp_path: Path) -> None:
    _instance(tmp_path / "out", 1, "1.2.3", ENHANCED)
    assert "Received Store Response (Success)" in storescu(ward.port, tmp_path / "out")


def test_dcmqrscp_moves_a_study_here(
    ward: Ward,
    storescu: Callable[..., str],
    dcmtk: Find,
    running: Running,
    free_port: Callable[[], int],
    tmp_path: Path,
) -> None:
    port, database = free_port(), tmp_path / "db"
    database.mkdir()
    (tmp_path / "qr.cfg").write_text(
        f"NetworkTCPPort = {port}\nMaxPDUSize = 16384\nMaxAssociations = 16\nHostTable BEGIN\n"
        f"edgeseg = (EDGESEG, 127.0.0.1, {ward.port})\nHostTable END\nVendorTable BEGIN\nVendorTable END\n"
        f"AETable BEGIN\nQR {database} RW (200, 1024mb) ANY\nAETable END\n"
    )
    running([dcmtk("dcmqrscp"), "-c", str(tmp_path / "qr.cfg")], tmp_path / "qr.log")
    _until_listening(port)
    for number in range(5):
        _instance(tmp_path / "out", number, "1.2.3")
    storescu(port, "-aec", "QR", tmp_path / "out")
    keys = ("-k", "QueryRetrieveLevel=STUDY", "-k", "StudyInstanceUID=1.2.3")
    _run(dcmtk("movescu"), "-S", "-aec", "QR", "-aem", "EDGESEG", *keys, "127.0.0.1", port)
    assert len(ward.files) == 5


def _until_listening(port: int) -> None:
    until = time.monotonic() + 30
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            assert time.monotonic() < until
            time.sleep(0.1)


def test_orthanc_sends_a_study_here(ward: Ward, orthanc: Callable[..., Any], tmp_path: Path) -> None:
    pacs = orthanc(DicomModalities={"edgeseg": ["EDGESEG", "127.0.0.1", ward.port]})
    for number in range(5):
        pacs.ask("/instances", _instance(tmp_path / "out", number, "1.2.3").read_bytes())
    pacs.ask("/modalities/edgeseg/echo", b"{}")
    said = pacs.ask("/modalities/edgeseg/store", json.dumps(pacs.ask("/studies")).encode())
    assert said["InstancesCount"] == 5
    assert said["FailedInstancesCount"] == 0
    assert len(ward.files) == 5
    assert ward.noted("instances_received")[0]["peer"] == "ORTHANC"


def test_four_at_once(ward: Ward, dcmtk: Find, tmp_path: Path) -> None:
    for number in range(80):
        _instance(tmp_path / f"out{number % 4}", number, f"1.2.{number % 4}")
    commands = [[dcmtk("storescu"), "127.0.0.1", str(ward.port), "+sd", str(tmp_path / f"out{k}")] for k in range(4)]
    senders = [subprocess.Popen(command) for command in commands]
    assert [sender.wait(60) for sender in senders] == [0, 0, 0, 0]
    assert len(ward.files) == 80


# --- who may not


def test_a_title_that_is_not_allowed(storescu: Callable[..., str], tmp_path: Path) -> None:
    with _receiver(tmp_path / "in", Listener(0, titles=("SCANNER1", "SCANNER2"))) as ward:
        _instance(tmp_path / "out", 1, "1.2.3")
        said = storescu(ward.port, "-aet", "STRANGER", tmp_path / "out", check=False)
        assert "Reason: Calling AE Title Not Recognized" in said
        assert ward.noted("association_rejected")[0]["peer"] == "STRANGER"
        assert not ward.files
        storescu(ward.port, "-aet", "SCANNER2", tmp_path / "out")
        assert len(ward.files) == 1


def test_a_network_that_is_not_allowed(storescu: Callable[..., str], tmp_path: Path) -> None:
    foreign = (ipaddress.ip_network("10.1.0.0/16"), ipaddress.ip_network("fd00::/8"))
    _instance(tmp_path / "out", 1, "1.2.3")
    with _receiver(tmp_path / "in", Listener(0, networks=foreign)) as ward:
        storescu(ward.port, tmp_path / "out", check=False)
        assert ward.noted("connection_refused")[0] == {"address": "127.0.0.1", "reason": "network not allowed"}
        assert not ward.files
    own = ipaddress.ip_network("127.0.0.0/8")
    with _receiver(tmp_path / "in", Listener(0, networks=(*foreign, own))) as ward:
        storescu(ward.port, tmp_path / "out")
        assert len(ward.files) == 1


def test_images_that_are_not_mr(ward: Ward, storescu: Callable[..., str], tmp_path: Path) -> None:
    _instance(tmp_path / "out", 1, "1.2.3", CT)
    said = storescu(ward.port, tmp_path / "out", check=False)
    assert "No presentation context for: (CT)" in said
    assert not ward.files


def test_one_association_more_than_allowed(dcmtk: Find, tmp_path: Path) -> None:
    with _receiver(tmp_path / "in", Listener(0, associations=2)) as ward:
        held = [_associated(ward.port) for _ in range(2)]
        said = _run(dcmtk("echoscu"), "127.0.0.1", ward.port, check=False)
        assert "Local Limit Exceeded" in said
        for association in held:
            association.release()
        until = time.monotonic() + 20
        while _run(dcmtk("echoscu"), "127.0.0.1", ward.port, check=False):
            assert time.monotonic() < until


def test_tls(storescu: Callable[..., str], papers: Callable[[str], Any], tmp_path: Path) -> None:
    """Only who shows a certificate of the CA gets in, and the receiver shows one too."""
    right, wrong = papers("right"), papers("wrong")
    _instance(tmp_path / "out", 1, "1.2.3")
    listener = Listener(0, tls=Tls(right.certificate, right.key, right.ca))
    with _receiver(tmp_path / "in", listener) as ward:
        with socket.create_connection(("127.0.0.1", ward.port)):  # says nothing: must not hold up the others
            send = storescu
            send(ward.port, "+tls", right.key, right.certificate, "+cf", right.ca, tmp_path / "out")
            assert len(ward.files) == 1
            ward.files[0].unlink()
            stranger = ("+tls", wrong.key, wrong.certificate, "+cf", right.ca)
            for words in (stranger, ("+tla", "+cf", right.ca), ()):  # foreign, no certificate, no TLS
                send(ward.port, *words, tmp_path / "out", check=False)
            said = send(ward.port, "+tls", right.key, right.certificate, "+cf", wrong.ca, tmp_path / "out", check=False)
            assert "Association Request Failed" in said
        assert not ward.files
        reasons = " ".join(str(facts["reason"]) for facts in ward.noted("connection_refused"))
        assert "CERTIFICATE_VERIFY_FAILED" in reasons
        send(ward.port, "+tls", right.key, right.certificate, "+cf", right.ca, tmp_path / "out")


def test_tls_files_that_cannot_be_used(papers: Callable[[str], Any], tmp_path: Path) -> None:
    right, other = papers("a"), papers("b")
    for tls, said in (
        (Tls(right.certificate), "--tls-key"),
        (Tls(right.certificate, tmp_path / "none.pem"), "is not there"),
        (Tls(right.certificate, other.key), "belongs to the"),
        (Tls(right.certificate, right.key, right.key), "cannot be used"),
    ):
        with pytest.raises(InputError, match=said), _receiver(tmp_path / "in", Listener(0, tls=tls)):
            pass


def test_old_tls_is_refused(papers: Callable[[str], Any], tmp_path: Path) -> None:
    own = papers("own")
    with _receiver(tmp_path / "in", Listener(0, tls=Tls(own.certificate, own.key))) as ward:
        context = ssl.create_default_context(cafile=own.ca)
        with (
            socket.create_connection(("127.0.0.1", ward.port)) as raw,
            context.wrap_socket(raw, server_hostname="127.0.0.1") as wire,
        ):
            assert wire.version() in ("TLSv1.2", "TLSv1.3")
        context = ssl.create_default_context(cafile=own.ca)
        context.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.warns(DeprecationWarning, match="TLSv1"):
            context.minimum_version = ssl.TLSVersion.TLSv1
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            context.maximum_version = ssl.TLSVersion.TLSv1_1
        with socket.create_connection(("127.0.0.1", ward.port)) as raw, pytest.raises(ssl.SSLError):
            context.wrap_socket(raw, server_hostname="127.0.0.1")


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with _receiver(tmp_path / "in") as ward, pytest.raises(InputError, match="--port"):
        Receiver(Listener(ward.port), ward.incoming, print)


# --- senders that do not behave


def _associated(port: int, syntax: str = EXPLICIT) -> Any:
    from pynetdicom import AE

    entity = AE("SENDER")
    entity.add_requested_context(MR, syntax)
    association = entity.associate("127.0.0.1", port)
    assert association.is_established
    return association


def _statuses(port: int, *datasets: Any, syntax: str = EXPLICIT) -> list[int]:
    association = _associated(port, syntax)
    try:
        return [int(association.send_c_store(dataset).Status) for dataset in datasets]
    finally:
        association.release()


def test_a_dataset_that_is_not_what_the_request_says(
    ward: Ward, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pynetdicom import association as sending

    path = _instance(tmp_path / "out", 1, "1.2.3")
    encode = sending.encode

    def with_other(tag: str, value: str) -> int:
        def encoded(dataset: Any, *how: Any) -> Any:
            changed = copy.copy(dataset)
            setattr(changed, tag, value)
            return encode(changed, *how)

        with monkeypatch.context() as patch:
            patch.setattr(sending, "encode", encoded)
            return _statuses(ward.port, _read(path))[0]

    assert with_other("SOPClassUID", CT) == 0xA900
    assert with_other("SOPInstanceUID", "9.9") == 0xA900
    assert with_other("StudyInstanceUID", "") == 0xC000
    assert not ward.files
    assert {facts["status"] for facts in ward.noted("instance_refused")} == {"A900", "C000"}
    assert _statuses(ward.port, _read(path)) == [0]


def test_a_request_for_another_class_than_its_context(
    ward: Ward, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pynetdicom import association as sending

    dataset = _read(_instance(tmp_path / "out", 1, "1.2.3", CT))
    association = _associated(ward.port)
    context = association.accepted_contexts[0]
    monkeypatch.setattr(sending.Association, "_get_valid_context", lambda *_, **__: context)
    assert association.send_c_store(dataset).Status == 0x0122
    association.release()
    assert not ward.files


def test_a_uid_that_climbs_out_of_the_folder(ward: Ward, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pynetdicom import association as sending

    dataset = _read(_instance(tmp_path / "out", 1, "1.2.3"))
    encode = sending.encode

    def hostile(found: Any, *how: Any) -> Any:
        content = encode(found, *how)
        return content.replace(b"1.2.3\0", b"../../") if content and len(content) > 1000 else content

    monkeypatch.setattr(sending, "encode", hostile)
    assert _statuses(ward.port, dataset) == [0xC000]
    assert not [
        path for path in tmp_path.rglob("*") if path.is_file() and "out" not in path.parts and path.stat().st_size
    ]


def test_what_is_no_dicom(ward: Ward, dcmtk: Find) -> None:
    for noise in (b"GET / HTTP/1.1\r\n\r\n", bytes(100), struct.pack(">BBI", 1, 0, 0xFFFFFFF0), os.urandom(5000)):
        with socket.create_connection(("127.0.0.1", ward.port)) as wire:
            wire.sendall(noise)
            wire.settimeout(20)
            wire.shutdown(socket.SHUT_WR)
            while wire.recv(4096):
                pass
    _run(dcmtk("echoscu"), "127.0.0.1", ward.port)


def _resident_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[tuple[Listening, Path]]:
    """A receiver in its own process that takes instances of at most 8 MB, and its folder."""
    log = (tmp_path / "log").open("w+")
    with log, Listening(Listener(0, instance_bytes=8_000_000), tmp_path / "in", monitor.Monitor(log)) as found:
        yield found, tmp_path / "in"
    assert CANARY not in (tmp_path / "log").read_text()


def test_an_instance_of_4_gb_is_refused_and_not_held(
    listening: tuple[Listening, Path], dcmtk: Find, tmp_path: Path
) -> None:
    """A sparse file, of which DCMTK sends all 4 GB."""
    service, folder = listening
    path = _instance(tmp_path / "out", 1, "1.2.3")
    dataset = _read(path)
    dataset.PixelData = b""
    dataset.save_as(path)
    size = 0xFFFF0000
    with path.open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(struct.pack("<I", size))
        file.truncate(file.tell() + size)
    _instance(tmp_path / "out", 2, "1.2.3")
    before, peak = _resident_mb(service.pid), 0.0
    command = [dcmtk("storescu"), "-v", "-nh", "127.0.0.1", str(service.port), "+sd", str(tmp_path / "out")]
    sender = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while sender.poll() is None:
        peak = max(peak, _resident_mb(service.pid))
        time.sleep(0.05)
    said = sender.communicate()[0]
    assert "Refused: OutOfResources" in said
    assert said.count("Received Store Response (Success)") == 1  # the association goes on
    assert peak - before < 60
    assert len(list(folder.rglob("*.dcm"))) == 1


def test_the_receiver_begins_again_and_nothing_acknowledged_is_lost(
    listening: tuple[Listening, Path], dcmtk: Find, tmp_path: Path
) -> None:
    service, folder = listening
    waiting = {_instance(tmp_path / "out", number, "1.2.3", side=256) for number in range(120)}
    everything, rounds = set(waiting), 0
    while waiting:
        command = [dcmtk("storescu"), "-v", "127.0.0.1", str(service.port), *map(str, sorted(waiting))]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as sender:
            assert sender.stdout is not None
            current, acknowledged = Path(), 0
            for line in sender.stdout:
                if "Sending file:" in line:
                    current = Path(line.rsplit(": ", 1)[1].strip())
                elif "Received Store Response (Success)" in line:
                    waiting.discard(current)
                    acknowledged += 1
                    if acknowledged == 30 and rounds < 3:
                        os.kill(service.pid, signal.SIGKILL)
        rounds += 1
        assert rounds < 60
        time.sleep(0.2)
    assert rounds > 3
    kept = [_read(path) for path in folder.rglob("*.dcm")]
    assert {dataset.PixelData for dataset in kept} == {_pixels(path) for path in everything}
    assert not any(path.stat().st_size for path in (folder / ".arriving").iterdir())


def test_an_odd_uid_is_taken_without_a_word(
    listening: tuple[Listening, Path], storescu: Callable[..., str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """With a leading zero, as some scanners write them: not to the standard, and no reason to lose an image."""
    path = _instance(tmp_path / "out", 1, "1.2.13")
    path.write_bytes(path.read_bytes().replace(b"1.2.13", b"1.2.03").replace(b".8.498.", b".08.49."))
    storescu(listening[0].port, tmp_path / "out")
    (kept,) = listening[1].rglob("*.dcm")
    assert kept.parent.name == study_name("1.2.03")
    assert _pixels(kept) == _pixels(path)
    assert not capfd.readouterr().err


def test_the_receiver_ends_with_its_parent(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from edgeseg.scanner.listening import Listening;"
        "from edgeseg.scanner.receive import Listener; from edgeseg.scanner.monitor import Monitor;"
        f"service = Listening(Listener(0), Path({str(tmp_path / 'in')!r}), Monitor());"
        "print(service.port, service.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    port, pid = map(int, found.stdout.split())
    until = time.monotonic() + 20
    while Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes():
        assert time.monotonic() < until
        time.sleep(0.05)
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), 1)


def test_what_keeps_the_receiver_from_beginning_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="AE title"):
        Listening(Listener(0, ae_title="A" * 17), tmp_path / "in", monitor.Monitor())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--allow-network", "10.1/33"), "10.1/33 is no network"),
        (("--send-to", "PACS"), "PACS is no destination"),
        (("--send-to", "https://user:geheim@host/studies"), "--credentials"),
        (("--credentials", "none"), "none cannot be read"),
        (("--ae-title", "A" * 17, "--port", "0"), "is no AE title"),
        (("--tls-key", "key.pem", "--port", "0"), "--tls-certificate"),
    ],
)
def test_options_that_cannot_be_used(edgeseg: Callable[..., Any], options: tuple[str, ...], said: str) -> None:
    found = edgeseg("receive", *options)
    assert found.code == 2
    assert said in found.err
    assert "geheim" not in found.err


# --- a full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("a small file system cannot be mounted without root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_answered_and_then_works_again(
    small_disk: Path, storescu: Callable[..., str], tmp_path: Path
) -> None:
    for number in range(8):
        _instance(tmp_path / "out", number, "1.2.3", side=256)
    with _receiver(small_disk / "in") as ward:
        (small_disk / "ballast").write_bytes(bytes(1_500_000))
        said = storescu(ward.port, tmp_path / "out", check=False)
        assert said.count("Refused: OutOfResources") >= 4
        assert said.count("Success") == len(ward.files) >= 1
        assert not any(path.stat().st_size for path in (ward.incoming.root / ".arriving").iterdir())
        assert ward.noted("instance_refused")[0]["reason"] == "disk full"
        (small_disk / "ballast").unlink()
        assert storescu(ward.port, tmp_path / "out").count("Received Store Response (Success)") == 8
        assert {_pixels(path) for path in ward.files} == {_pixels(path) for path in (tmp_path / "out").iterdir()}


def test_the_reserve_is_refused_in_the_same_way(tmp_path: Path, storescu: Callable[..., str]) -> None:
    _instance(tmp_path / "out", 1, "1.2.3")
    with _receiver(tmp_path / "in", replace(Listener(0)), reserve=2**60) as ward:
        assert "Refused: OutOfResources" in storescu(ward.port, tmp_path / "out", check=False)
