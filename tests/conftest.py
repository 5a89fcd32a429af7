"""What every test may ask for: the examples, a small synthetic LGG set, and the shipped engine."""

from __future__ import annotations

import datetime
import ipaddress
import json
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgeseg import build, bundle, cache, cli, segment
from edgeseg.readers import recorded, slices
from edgeseg.types import BoolArray, ByteArray, Manifest

REPOSITORY = Path(__file__).resolve().parent.parent
PATIENTS = 6
SLICES = 5
PARITY_PATIENTS = 8
"""Of the 15: two slices with an abnormality and one without from each, 24 in all."""
FP16_ENGINE = f"{bundle.DEFAULT_NETWORK}-fp16"
TINY = ("Linknet", "tu-test_resnet")
TINY_PATIENTS = ("TCGA_XX_0000_20000101", "TCGA_XX_0001_20000101")


def pytest_configure() -> None:
    """Let programs that tests start be interrupted, even where the suite runs in a background that ignores SIGINT."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests leave the user's cache alone, and those of one run share one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(cache.VARIABLE, str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def repository() -> Path:
    """The checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def example_tiff() -> Path:
    """The example patient as TIFF slices."""
    return REPOSITORY / "examples" / "tiff" / "TCGA_HT_7884_19980913"


@pytest.fixture(scope="session")
def example_dicom() -> Path:
    """The same patient as three DICOM series."""
    return REPOSITORY / "examples" / "dicom" / "example-study"


@pytest.fixture(scope="session")
def dicom_errors() -> Callable[[Path], list[str]]:
    """What David Clunie's validator calls an error in a DICOM file."""
    tool = shutil.which("dciodvfy")
    if tool is None:
        pytest.skip("dciodvfy is missing: apt-get install dicom3tools")

    def errors(path: Path) -> list[str]:
        result = subprocess.run([tool, str(path)], capture_output=True, text=True, timeout=60)
        lines = (result.stdout + result.stderr).splitlines()
        assert not [line for line in lines if "unrecognized" in line.lower()], "the validator does not know the class"
        return [line for line in lines if line.startswith("Error")]

    return errors


@pytest.fixture(scope="session")
def default_engine() -> Iterator[segment.OpenEngine]:
    """The shipped default engine, opened once."""
    with segment.open_engine() as opened:
        yield opened


@pytest.fixture(scope="session")
def lgg_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic LGG set: 6 patients of 5 slices each; slices 2, 3 and 4 have a bright FLAIR blob and its mask."""
    root = tmp_path_factory.mktemp("lgg")
    for number in range(PATIENTS):
        name = f"TCGA_XX_{number:04d}_20000101"
        folder = root / "kaggle_3m" / name
        folder.mkdir(parents=True)
        for k in range(1, SLICES + 1):
            image, mask = _head(np.random.default_rng((number, k)), abnormal=1 < k < SLICES)
            Image.fromarray(image).save(folder / f"{name}_{k}.tif")
            Image.fromarray(mask.astype(np.uint8) * 255).save(folder / f"{name}_{k}_mask.tif")
    return root


def _head(draw: np.random.Generator, abnormal: bool) -> tuple[ByteArray, BoolArray]:
    """An elliptic head, uint8 (256, 256, 3) pre, FLAIR, post, and the mask of a blob that is bright in FLAIR."""
    rows, columns = np.mgrid[:256, :256]
    head = ((rows - 128) / 100) ** 2 + ((columns - 128) / 80) ** 2 < 1
    row, column = 128 + draw.integers(-40, 41, 2)
    blob = ((rows - row) / 22) ** 2 + ((columns - column) / 16) ** 2 < 1
    mask = blob & abnormal
    image = np.stack([head * 80.0, head * 90.0 + mask * 120.0, head * 100.0], axis=-1)
    image += head[..., None] * draw.normal(0, 6, image.shape)
    return image.clip(0, 255).astype(np.uint8), mask


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a small network, drawn at random, whose threshold lies where it marks some pixels of any image."""
    import torch

    from edgeseg import model

    torch.manual_seed(5)
    network = model.build(*TINY)
    slices = torch.stack([torch.from_numpy(_head(np.random.default_rng(k), abnormal=True)[0]) for k in range(4)])
    slices = slices.permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        for _ in range(20):
            network.train()(slices)  # batch normalisation finds the images' own mean and variance
        logits = network.eval()(slices)
        network.get_parameter("segmentation_head.0.bias").sub_(logits.flatten()[::50].quantile(0.97))
    path = tmp_path_factory.mktemp("tiny") / "weights.safetensors"
    facts = {"name": "tiny", "architecture": TINY[0], "encoder": TINY[1], "intensity": "stored", "threshold": "0.5"}
    model.save_weights(network, path, facts)
    return path


@pytest.fixture(scope="session")
def tiny_bundle(tiny_weights: Path, lgg_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small network's FP32 bundle, checked on two patients of the synthetic set."""
    folder = tmp_path_factory.mktemp("bundles") / "tiny-fp32"
    build.build_engine(tiny_weights, "fp32", lgg_folder, folder, patients=TINY_PATIENTS)
    return folder


@pytest.fixture(scope="session")
def tiny_bundle_fp16(tiny_weights: Path, lgg_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small network's FP16 bundle, checked on two patients of the synthetic set."""
    folder = tmp_path_factory.mktemp("bundles") / "tiny-fp16"
    build.build_engine(tiny_weights, "fp16", lgg_folder, folder, patients=TINY_PATIENTS)
    return folder


@pytest.fixture
def signing_keys(tmp_path: Path) -> list[tuple[Path, Path]]:
    """Private and public key's file of two pairs of Ed25519 keys: ``one`` and ``two``."""
    return [_pair_of_keys(tmp_path, name) for name in ("one", "two")]


def _pair_of_keys(folder: Path, name: str) -> tuple[Path, Path]:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    key = Ed25519PrivateKey.generate()
    private, public = folder / f"{name}.pem", folder / f"{name}-public.pem"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, public


@pytest.fixture(scope="session")
def shipped() -> tuple[Manifest, bytes]:
    """The default network with its weights in FP16."""
    return bundle.read(bundle.find(FP16_ENGINE))


@pytest.fixture(scope="session")
def few(shipped: tuple[Manifest, bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as ``calibration/`` is, with 24 of the parity slices and their recorded masks."""
    manifest, source, folder = shipped[0], slices.shipped_folder(), tmp_path_factory.mktemp("calibration")
    index = slices.read_index(source)
    rows = [row for row in index["slices"] if row["use"] == "parity"]
    chosen: list[dict[str, Any]] = []
    for patient in list(dict.fromkeys(row["patient"] for row in rows))[:PARITY_PATIENTS]:
        own = [row for row in rows if row["patient"] == patient]
        drawn = [row for row in own if row["abnormal_px"]]
        kept = (drawn[len(drawn) // 3], drawn[2 * len(drawn) // 3], next(r for r in own if not r["abnormal_px"]))
        chosen += [row for row in own if row in kept]
    (folder / slices.SLICES).mkdir()
    for row in chosen:
        for path in (source / slices.SLICES).glob(f"{row['name']}[._]*"):
            shutil.copy(path, folder / slices.SLICES)
    (folder / slices.INDEX).write_text(json.dumps({**index, "slices": chosen}), encoding="utf-8")
    whole, part = slices.read("parity", manifest.preprocessing), slices.read("parity", manifest.preprocessing, folder)
    key = recorded.Key(manifest.weights_sha256, manifest.threshold, manifest.preprocessing, whole.digest())
    found = recorded.read(key)
    masks = found.masks[[whole.names.index(name) for name in part.names]]
    own_key = replace(key, slices_sha256=part.digest())
    recorded.write(folder, {manifest.network: (own_key, recorded.Recorded(masks, found.runtime))})
    return folder


# --- programs of others


@pytest.fixture(scope="session")
def dcmtk() -> Callable[[str], str]:
    """Path of one of DCMTK's programs; pynetdicom installs some of the same names beside Python."""

    def find(name: str) -> str:
        found = shutil.which(name, path="/usr/bin:/usr/local/bin:/opt/homebrew/bin")
        if found is None:
            pytest.skip(f"DCMTK's {name} is missing: apt-get install dcmtk")
        return found

    return find


@pytest.fixture
def free_port() -> Callable[[], int]:
    """A TCP port that nobody listens on."""

    def find() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return int(probe.getsockname()[1])

    return find


@pytest.fixture
def running() -> Iterator[Callable[[list[str], Path], subprocess.Popen[bytes]]]:
    """Begin a program whose output goes to a file; it is ended with the test."""
    with ExitStack() as stack:

        @contextmanager
        def program(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
            with log.open("wb") as output:
                process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=log.parent)
                try:
                    yield process
                finally:
                    process.terminate()
                    with suppress(subprocess.TimeoutExpired):
                        process.wait(20)
                    process.kill()
                    process.wait()

        yield lambda command, log: stack.enter_context(program(command, log))


@dataclass(frozen=True)
class Orthanc:
    """A PACS that runs."""

    dicom: int
    http: int
    aet: str = "ORTHANC"

    def ask(self, path: str, body: bytes | None = None) -> Any:
        """Ask its REST interface: GET, or POST where there is a body."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.http}{path}", data=body)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def wait(self) -> None:
        """Wait until it answers."""
        until = time.monotonic() + 60
        while True:
            try:
                self.ask("/system")
                return
            except OSError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.1)


@pytest.fixture
def orthanc(
    running: Callable[[list[str], Path], subprocess.Popen[bytes]], free_port: Callable[[], int], tmp_path: Path
) -> Callable[..., Orthanc]:
    """Begin an Orthanc, with DICOMweb, from parts of its configuration; with ``wait`` False it has not answered yet."""
    program = shutil.which("Orthanc", path="/usr/sbin:/usr/bin:/usr/local/bin")
    plugin = next(Path("/usr/share/orthanc/plugins").glob("libOrthancDicomWeb.so*"), None)
    if program is None or plugin is None:
        pytest.skip("Orthanc or its DICOMweb plugin is missing: apt-get install orthanc orthanc-dicomweb")

    def begin(wait: bool = True, **more: Any) -> Orthanc:
        server = Orthanc(free_port(), free_port())
        folder = tmp_path / f"orthanc-{server.http}"
        folder.mkdir()
        settings = {
            "Name": "test",
            "StorageDirectory": str(folder / "db"),
            "IndexDirectory": str(folder / "db"),
            "Plugins": [str(plugin)],
            "DicomAet": server.aet,
            "DicomPort": server.dicom,
            "HttpPort": server.http,
            "RemoteAccessAllowed": True,
            "AuthenticationEnabled": False,
            "DicomCheckCalledAet": False,
            "DicomAlwaysAllowStore": True,
            "OverwriteInstances": False,
            **more,
        }
        (folder / "orthanc.json").write_text(json.dumps(settings))
        running([program, str(folder / "orthanc.json")], folder / "log")
        if wait:
            server.wait()
        return server

    return begin


@dataclass(frozen=True)
class Papers:
    """A CA and certificates by it: files."""

    ca: Path
    certificate: Path
    key: Path


@pytest.fixture
def papers(tmp_path: Path) -> Callable[[str], Papers]:
    """A new CA with a certificate for this host, good for servers and clients, in a subfolder of this name."""
    return lambda name: _papers(tmp_path / name)


def _papers(folder: Path) -> Papers:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    folder.mkdir()
    now = datetime.datetime.now(datetime.timezone.utc)
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    names = [x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]) for name in ("test CA", "127.0.0.1")]
    for k, name in enumerate(("ca", "host")):
        builder = x509.CertificateBuilder(names[0], names[k], keys[k].public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(now - datetime.timedelta(hours=1))
        builder = builder.not_valid_after(now + datetime.timedelta(hours=1))
        builder = builder.add_extension(x509.BasicConstraints(ca=k == 0, path_length=None), critical=True)
        address = x509.SubjectAlternativeName(
            [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")]
        )
        builder = builder.add_extension(address, critical=False)
        signed = builder.sign(keys[0], hashes.SHA256())
        (folder / f"{name}.pem").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    plain = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(keys[1].private_bytes(*plain))
    return Papers(folder / "ca.pem", folder / "host.pem", folder / "key.pem")


# --- the command line


@dataclass(frozen=True)
class Run:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output, which has to be JSON and nothing else."""
        return json.loads(self.out)


Edgeseg = Callable[..., Run]


@pytest.fixture
def edgeseg(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Edgeseg:
    """`edgeseg` in this process, from an empty working folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def run(*arguments: str | Path) -> Run:
        monkeypatch.setattr(sys, "argv", ["edgeseg", *map(str, arguments)])
        code: Any = 0
        try:
            cli.main()
        except SystemExit as exit_:
            code = exit_.code or 0
        printed = capsys.readouterr()
        return Run(code, printed.out, printed.err)

    return run
