from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib import util
from pathlib import Path
from typing import Any

import pytest
from conftest import Edgeseg
from kserve_server import Server, serving

from edgeseg import bundle, segment
from edgeseg.backends import Engine

pytest.importorskip("tritonclient.http", reason="the [triton] extra is not installed")
STUDY = "TCGA_HT_7884_19980913"
DEVICE = "GPU of the server, through onnxruntime"


def _exported(edgeseg: Edgeseg, repository: Path) -> dict[str, Any]:
    """What `edgeseg export-triton` configures, as a Triton with a GPU would say it in JSON."""
    schema = pytest.importorskip("tritonclient.grpc.model_config_pb2", reason="Triton's schema comes with its client")
    from google.protobuf import json_format, text_format

    told = edgeseg("export-triton", bundle.DEFAULT_ENGINE, repository, "--json").json
    assert (told["name"], told["platform"]) == (bundle.DEFAULT_ENGINE, "onnx")
    written = (Path(told["folder"]) / "config.pbtxt").read_text(encoding="utf-8")
    config: dict[str, Any] = json_format.MessageToDict(
        text_format.Parse(written, schema.ModelConfig()), preserving_proto_field_name=True
    )
    return {**config, "instance_group": [{"kind": "KIND_GPU", "count": 1, "gpus": [0]}]}


@pytest.fixture
def serve(edgeseg: Edgeseg, default_engine: segment.OpenEngine, tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Begin a server of the default engine, configured as exported, in the batches of the engine here."""
    config = {**_exported(edgeseg, tmp_path / "models"), "max_batch_size": default_engine.engine.batch}
    with ExitStack() as stack:
        yield lambda **how: stack.enter_context(
            serving(Server({**config, **how.pop("config", {})}, default_engine.engine, **how))
        )


def _masks(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("masks/*.tif")}


def test_masks_from_a_server_are_the_local_ones_and_the_report_says_where_from(
    serve: Callable[..., Server], edgeseg: Edgeseg, example_tiff: Path
) -> None:
    server = serve()
    away = edgeseg("infer", example_tiff, "-o", "away", "--triton", server.url)
    assert away.code == 0, away.err
    assert edgeseg("infer", example_tiff, "-o", "here").code == 0
    masks = _masks(Path("away") / STUDY)
    assert masks == _masks(Path("here") / STUDY)
    assert len(masks) == sum(server.batches) == 15
    engine = json.loads((Path("away") / STUDY / "report.json").read_text())["engine"]
    assert (engine["runtime"], engine["runtime_version"], engine["device"]) == ("Triton", "2.99.0", DEVICE)
    assert (engine["name"], engine["parity"]) == (bundle.DEFAULT_ENGINE, "passed")


def test_a_server_that_goes_away_costs_a_study_and_no_other(
    serve: Callable[..., Server], edgeseg: Edgeseg, example_tiff: Path
) -> None:
    for name in ("a", "b", "c"):
        folder = Path("studies") / name
        folder.mkdir(parents=True)
        for path in sorted(example_tiff.iterdir())[:4]:  # two slices and their masks
            shutil.copy(path, folder / path.name.replace(STUDY, name))
    asked: list[str] = []

    def away_the_second_time(path: str) -> bytes | None:
        if path.endswith("infer"):
            asked.append(path)
        return b"" if path.endswith("infer") and len(asked) == 2 else None

    server = serve(before=away_the_second_time)
    run = edgeseg("infer", "studies", "--triton", server.url, "--json")
    assert run.code == 3, run.err
    (failed,) = run.json["failed"]
    assert (failed["study"], len(run.json["studies"])) == ("b", 2)
    assert failed["error"].startswith("Triton 2.99.0 failed on (2, 3, 256, 256) slices: the server at 127.0.0.1:")
    assert len(asked) == 3, "nothing is asked twice"
    assert edgeseg("infer", "studies", "--triton", server.url).code == 0
    assert len(asked) == 4, "what is done is left as it is"


@pytest.mark.parametrize(
    ("config", "options", "code", "said"),
    [
        ({"parameters": {}}, [], 5, "is another engine"),
        ({"name": "else"}, [], 5, "has no model lgg-unet-efficientnet-lite0-int8 that is ready"),
        ({"backend": "openvino"}, [], 6, "accept it with --allow-unverified"),
        ({}, ["--device", "cuda"], 2, "leave out --backend and --device"),
        ({}, ["--backend", "openvino"], 2, "leave out --backend and --device"),
    ],
)
def test_what_does_not_fit_is_said_once_and_nothing_is_written(
    config: dict[str, Any],
    options: list[str],
    code: int,
    said: str,
    serve: Callable[..., Server],
    edgeseg: Edgeseg,
    example_tiff: Path,
) -> None:
    run = edgeseg("infer", example_tiff, "--triton", serve(config=config).url, *options)
    assert run.code == code
    assert said in run.err
    assert not Path("edgeseg-output").exists()


def test_an_unverified_precision_can_be_accepted_and_is_reported(
    serve: Callable[..., Server], edgeseg: Edgeseg, example_tiff: Path
) -> None:
    server = serve(config={"backend": "openvino"})
    assert edgeseg("infer", example_tiff, "--triton", server.url, "--allow-unverified", "-o", "away").code == 0
    engine = json.loads((Path("away") / STUDY / "report.json").read_text())["engine"]
    assert (engine["parity"], engine["inference_precision"]) == ("unverified", "the server's choice")


@pytest.mark.parametrize(
    ("url", "code", "said"),
    [("http://127.0.0.1:{port}", 2, "cannot be reached"), ("gpu:8000", 2, "--triton takes http://HOST:PORT")],
)
def test_no_server(
    url: str, code: int, said: str, edgeseg: Edgeseg, example_tiff: Path, free_port: Callable[[], int]
) -> None:
    run = edgeseg("infer", example_tiff, "--triton", url.format(port=free_port()))
    assert run.code == code
    assert said in run.err


def test_without_the_client(edgeseg: Edgeseg, example_tiff: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tritonclient.http", None)
    run = edgeseg("infer", example_tiff, "--triton", "http://127.0.0.1:8000")
    assert run.code == 4
    assert "pip install 'edgeseg[triton]'" in run.err


def test_it_can_be_stopped_while_the_server_says_nothing(example_tiff: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        program = [sys.executable, "-c", "from edgeseg.cli import main; main()", "infer", str(example_tiff)]
        process = subprocess.Popen([*program, "--triton", url], stderr=subprocess.PIPE, text=True, cwd=tmp_path)
        with silent.accept()[0]:
            process.send_signal(signal.SIGINT)
            said = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "Traceback" not in said
    assert "KeyboardInterrupt" not in said
    assert not list(tmp_path.iterdir())


def test_exporting_says_where_the_model_is_and_what_is_wrong(edgeseg: Edgeseg, tmp_path: Path) -> None:
    models = tmp_path / "models"
    run = edgeseg("export-triton", bundle.DEFAULT_ENGINE, models)
    assert run.code == 0
    assert f"Model for Triton's onnx: {models / bundle.DEFAULT_ENGINE}" in run.err.replace("\n", "")
    assert edgeseg("export-triton", bundle.DEFAULT_ENGINE, models).code == 2
    assert edgeseg("export-triton", bundle.DEFAULT_ENGINE, tmp_path / "other", "--platform", "openvino").code == 6
    assert edgeseg("export-triton", "nothing", models).code == 2


# --- the protocol by other people's hands


@pytest.fixture
def kserve(
    edgeseg: Edgeseg,
    running: Callable[[list[str], Path], subprocess.Popen[bytes]],
    free_port: Callable[[], int],
    tmp_path: Path,
) -> str:
    """Address of KServe's server with the default engine behind it."""
    if not util.find_spec("kserve"):
        pytest.skip("KServe's server is missing: pip install kserve")
    config, port = tmp_path / "config.json", free_port()
    config.write_text(json.dumps({**_exported(edgeseg, tmp_path / "models"), "max_batch_size": Engine.batch}))
    program = Path(__file__).with_name("kserve_model.py")
    folder = bundle.find(bundle.DEFAULT_ENGINE)
    arguments = [str(program), str(folder), str(config), "--http_port", str(port)]
    process = running([sys.executable, *arguments], tmp_path / "kserve.log")
    url, until = f"http://127.0.0.1:{port}", time.monotonic() + 120
    while True:
        try:
            urllib.request.urlopen(f"{url}/v2/health/ready", timeout=60).close()
            return url
        except OSError:
            assert process.poll() is None, (tmp_path / "kserve.log").read_text()
            assert time.monotonic() < until
            time.sleep(0.1)


def test_kserves_own_server_gives_the_same_masks(kserve: str, edgeseg: Edgeseg, example_tiff: Path) -> None:
    away = edgeseg("infer", example_tiff, "-o", "away", "--triton", kserve)
    assert away.code == 0, away.err
    assert edgeseg("infer", example_tiff, "-o", "here").code == 0
    assert _masks(Path("away") / STUDY) == _masks(Path("here") / STUDY)
    engine = json.loads((Path("away") / STUDY / "report.json").read_text())["engine"]
    assert (engine["runtime"], engine["device"]) == ("Kserve", DEVICE)
