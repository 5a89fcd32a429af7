"""Round trip through a real PACS: Orthanc takes source and results, finds them, and gives them back as they were."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgeseg import readers, segment

PLUGIN_FOLDERS = (Path("/usr/share/orthanc/plugins"), Path("/usr/lib/orthanc"))
RESULTS = {"segmentation.dcm": "SEG", "report.dcm": "SR", "secondary-capture.dcm": "OT"}
PROPOSED = {"1.2.840.10008.1.2.1": "-xe", "1.2.840.10008.1.2.5": "-xr", "1.2.840.10008.1.2.4.80": "-xt"}
"""The example's transfer syntaxes (explicit little endian, RLE, JPEG-LS), and how storescu is told to propose them."""

START_S = 60


def _tool(name: str) -> str:
    """Return DCMTK's tool, not pynetdicom's of the same name."""
    for folder in ("/usr/bin", "/usr/local/bin"):
        if found := shutil.which(name, path=folder):
            return found
    pytest.skip(f"DCMTK's {name} is missing: apt-get install dcmtk")


def _run(tool: str, *arguments: str) -> None:
    """Run one of DCMTK's tools; what it complains of is the failure."""
    result = subprocess.run([_tool(tool), *arguments], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, f"{tool}: {result.stdout}{result.stderr}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Orthanc:
    """A running server."""

    http: int
    dicom: int

    def get(self, path: str, accept: str = "application/json") -> bytes:
        """Return what a URL holds."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.http}{path}", headers={"Accept": accept})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return bytes(answer.read())

    def json(self, path: str) -> Any:
        """Return what a URL holds, as JSON."""
        return json.loads(self.get(path))

    def store(self, files: list[Path]) -> None:
        """Send files by C-STORE as they are, with DCMTK: one association for each way of compression."""
        import pydicom

        for syntax, option in PROPOSED.items():
            some = [str(file) for file in files if pydicom.dcmread(file).file_meta.TransferSyntaxUID == syntax]
            if some:
                _run("storescu", "-R", option, "-aec", "ORTHANC", "127.0.0.1", str(self.dicom), *some)

    def stow(self, files: list[Path]) -> Any:
        """Send files by STOW-RS; return the answer."""
        boundary = b"edgeseg-boundary"
        parts = [
            b"--" + boundary + b"\r\nContent-Type: application/dicom\r\n\r\n" + file.read_bytes() + b"\r\n"
            for file in files
        ]
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.http}/dicom-web/studies",
            data=b"".join(parts) + b"--" + boundary + b"--\r\n",
            headers={
                "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary.decode()}',
                "Accept": "application/dicom+json",
            },
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.loads(answer.read())

    def find(self, study_uid: str, folder: Path) -> dict[str, int]:
        """Query by C-FIND, with DCMTK: modality of each series -> its instances."""
        keys = ("SeriesInstanceUID", "Modality", "NumberOfSeriesRelatedInstances")
        query = ("QueryRetrieveLevel=SERIES", f"StudyInstanceUID={study_uid}", *keys)
        asked = [part for key in query for part in ("-k", key)]
        _run("findscu", "-S", "-X", "-aec", "ORTHANC", "-od", str(folder), *asked, "127.0.0.1", str(self.dicom))
        found: dict[str, int] = {}
        for answer in _datasets(folder):
            number = int(answer.NumberOfSeriesRelatedInstances)
            found[answer.Modality] = found.get(answer.Modality, 0) + number
        return found

    def retrieve_by_c_get(self, study_uid: str, folder: Path) -> list[Any]:
        """Return the study's objects, fetched by C-GET with DCMTK."""
        keys = ("-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={study_uid}")
        _run("getscu", "-S", "-aec", "ORTHANC", "-od", str(folder), *keys, "127.0.0.1", str(self.dicom))
        return _datasets(folder)

    def retrieve_by_wado(self, study_uid: str, folder: Path) -> list[Any]:
        """Return the study's objects, fetched by WADO-RS."""
        accept = 'multipart/related; type="application/dicom"; transfer-syntax=*'
        body = self.get(f"/dicom-web/studies/{study_uid}", accept)
        boundary = body[: body.index(b"\r\n")]
        for number, part in enumerate(body.split(boundary)[1:-1]):
            (folder / f"{number}.dcm").write_bytes(part[part.index(b"\r\n\r\n") + 4 : -2])
        return _datasets(folder)


def _datasets(folder: Path) -> list[Any]:
    import pydicom

    return [pydicom.dcmread(path, force=True) for path in sorted(folder.iterdir())]


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[Orthanc]:
    """An empty Orthanc on free ports, with its DICOMweb plugin."""
    binary = shutil.which("Orthanc", path="/usr/sbin:/usr/bin:/usr/local/sbin")
    plugins = [path for folder in PLUGIN_FOLDERS for path in folder.glob("libOrthancDicomWeb.so*")]
    if binary is None or not plugins:
        pytest.skip("Orthanc or its DICOMweb plugin is missing: apt-get install orthanc orthanc-dicomweb")
    server = Orthanc(_free_port(), _free_port())
    folder = tmp_path / "orthanc"
    folder.mkdir()
    settings = {
        "StorageDirectory": str(folder),
        "IndexDirectory": str(folder),
        "HttpPort": server.http,
        "DicomPort": server.dicom,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomAlwaysAllowFind": True,
        "DicomAlwaysAllowGet": True,
        "Plugins": [str(plugins[0])],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    (folder / "orthanc.json").write_text(json.dumps(settings), encoding="utf-8")
    with (folder / "log").open("w", encoding="utf-8") as log:
        process = subprocess.Popen([binary, str(folder / "orthanc.json")], stdout=log, stderr=log)
        try:
            _wait(server, process, folder / "log")
            yield server
        finally:
            process.terminate()
            process.wait(timeout=30)


def _wait(server: Orthanc, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until the server answers."""
    until = time.monotonic() + START_S
    while time.monotonic() < until and process.poll() is None:
        try:
            server.get("/system")
            return
        except OSError:
            time.sleep(0.1)
    pytest.fail(f"Orthanc did not start: {log.read_text(encoding='utf-8')[-2000:]}")


@dataclass(frozen=True)
class Sent:
    """What is stored: the example's images, and edgeseg's results of them, by their UIDs."""

    files: list[Path]
    study_uid: str
    results: dict[str, Any]
    folder: Path


@pytest.fixture(scope="module")
def sent(example_dicom: Path, default_engine: segment.OpenEngine, tmp_path_factory: pytest.TempPathFactory) -> Sent:
    """The example study, segmented by the default engine."""
    import pydicom

    (files,) = readers.find_studies(example_dicom)
    options = segment.Options(formats=("dicom-seg", "dicom-sr", "secondary-capture"))
    result = segment.segment(files, default_engine, tmp_path_factory.mktemp("results"), options)
    assert set(result.files) == set(RESULTS)
    results = {name: pydicom.dcmread(result.folder / name) for name in RESULTS}
    images = sorted(path for path in example_dicom.rglob("*") if path.is_file())
    return Sent([*images, *(result.folder / name for name in RESULTS)], result.study.uid, results, result.folder)


def _assert_same(retrieved: list[Any], sent: Sent) -> None:
    """Compare every attribute of every object, pixels included, with what was sent."""
    import pydicom

    by_uid = {dataset.SOPInstanceUID: dataset for dataset in retrieved}
    assert len(by_uid) == len(retrieved) == len(sent.files)
    for path in sent.files:
        original = pydicom.dcmread(path)
        back = by_uid[original.SOPInstanceUID]
        if "PixelData" in original:
            np.testing.assert_array_equal(back.pixel_array, original.pixel_array)
            if back.file_meta.TransferSyntaxUID != original.file_meta.TransferSyntaxUID:  # the server unpacked it
                del back.PixelData, original.PixelData
        assert back == original, path.name


def test_c_store_c_find_c_get(orthanc: Orthanc, sent: Sent, tmp_path: Path) -> None:
    """Stored, queried and fetched by DIMSE; the SEG's mask is the one that was sent, voxel for voxel."""
    orthanc.store(sent.files)
    for name in ("found", "fetched"):
        (tmp_path / name).mkdir()
    images = len(sent.files) - len(RESULTS)
    assert orthanc.find(sent.study_uid, tmp_path / "found") == {"MR": images, "SEG": 1, "SR": 1, "OT": 1}
    fetched = orthanc.retrieve_by_c_get(sent.study_uid, tmp_path / "fetched")
    _assert_same(fetched, sent)
    (seg,) = (dataset for dataset in fetched if dataset.Modality == "SEG")
    assert seg.pixel_array.any()
    np.testing.assert_array_equal(seg.pixel_array, sent.results["segmentation.dcm"].pixel_array)


def test_stow_qido_wado(orthanc: Orthanc, sent: Sent, tmp_path: Path) -> None:
    """The same by DICOMweb."""
    answer = orthanc.stow(sent.files)
    assert len(answer["00081199"]["Value"]) == len(sent.files)
    assert not answer.get("00081198", {}).get("Value"), answer["00081198"]
    series = orthanc.json(f"/dicom-web/studies/{sent.study_uid}/series")
    found = {item["0020000E"]["Value"][0]: item["00080060"]["Value"][0] for item in series}
    for name, modality in RESULTS.items():
        assert found[sent.results[name].SeriesInstanceUID] == modality
    assert list(found.values()).count("MR") == len(found) - len(RESULTS)
    (tmp_path / "fetched").mkdir()
    _assert_same(orthanc.retrieve_by_wado(sent.study_uid, tmp_path / "fetched"), sent)


def test_the_same_bytes_are_stored_once(orthanc: Orthanc, sent: Sent) -> None:
    """A second run's results are known already, whichever way they come."""
    orthanc.store(sent.files)
    once = orthanc.json("/statistics")
    results = [sent.folder / name for name in RESULTS]
    orthanc.store(results)
    orthanc.stow(results)
    assert orthanc.json("/statistics") == once
    assert (once["CountPatients"], once["CountStudies"]) == (1, 1)
    assert once["CountInstances"] == len(sent.files)


def test_orthanc_renders_what_was_drawn(orthanc: Orthanc, sent: Sent) -> None:
    """Every frame of the secondary capture as it was made, and the SEG's frames as pictures."""
    orthanc.store([sent.folder / name for name in RESULTS])
    for name in ("secondary-capture.dcm", "segmentation.dcm"):
        dataset = sent.results[name]
        identifier = _identifier(orthanc, dataset)
        for index, frame in enumerate(dataset.pixel_array):
            with Image.open(
                BytesIO(orthanc.get(f"/instances/{identifier}/frames/{index}/preview", "image/png"))
            ) as png:
                shown = np.asarray(png)
            if name == "secondary-capture.dcm":
                np.testing.assert_array_equal(shown, frame)
            else:
                np.testing.assert_array_equal(shown > 0, frame > 0)


def _identifier(orthanc: Orthanc, dataset: Any) -> str:
    """Return Orthanc's own name of an instance."""
    (found,) = (
        name
        for name in orthanc.json("/instances")
        if orthanc.json(f"/instances/{name}")["MainDicomTags"]["SOPInstanceUID"] == dataset.SOPInstanceUID
    )
    return str(found)
