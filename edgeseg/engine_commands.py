"""The commands about engines that are built already: list them, sign them, export them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from edgeseg.build_commands import Json as _Json
from edgeseg.console import Console

if TYPE_CHECKING:
    from edgeseg.types import Manifest

Bundles = Annotated[
    Optional[list[str]],  # noqa: UP045  Typer reads annotations at run time on Python 3.10
    typer.Argument(metavar="BUNDLE", help="Bundles' folders or names; the shipped ones without them."),
]
RequireSignature = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(
        "--require-signature", metavar="PUBLIC_KEY_FILE", help="Refuse a bundle that this Ed25519 key has not signed."
    ),
]

SiteRules = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option("--rules", metavar="FILE", help="A site's own rules for which series is which (JSON)."),
]


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    for command in (engines, sign, export_triton):
        app.command()(command)


def engines(
    folders: Bundles = None,
    public_key: RequireSignature = None,
    as_json: _Json = False,
) -> None:
    """List engines: precision, size, runtimes, parity, signature, speed."""
    from edgeseg import bundle

    console = Console(as_json)
    listed = []
    for folder in [bundle.find(name) for name in folders or ()] or bundle.shipped():
        manifest, content = bundle.read(folder, public_key)
        listed.append((folder, manifest, len(content) / 1e6, bundle.is_signed(folder)))
    if as_json:
        console.result(
            {
                "engines": [
                    {**bundle.to_json(manifest), "folder": str(folder), "size_mb": round(size, 3), "signed": signed}
                    for folder, manifest, size, signed in listed
                ]
            }
        )
        return
    rows = [
        [
            f"{manifest.name}\n  {', '.join(manifest.runtimes)}",
            manifest.precision,
            f"{size:.1f}",
            _parity(manifest),
            "yes" if signed else "no",
            f"{manifest.speed.slices_per_second:.0f}" if manifest.speed else "-",
        ]
        for _, manifest, size, signed in listed
    ]
    console.table("Engines", ["name, runtimes", "weights", "MB", "parity", "signed", "slices/s"], rows)


def _parity(manifest: Manifest) -> str:
    """Mean agreement and verdict, one below the other."""
    if manifest.parity is None:
        return "-\nnever"
    return f"{manifest.parity.agreement.mean:.4f}\n{'passed' if manifest.parity.passed else 'failed'}"


def sign(
    engine: Annotated[str, typer.Argument(metavar="BUNDLE", help="A bundle's folder or the name of a shipped one.")],
    key: Annotated[Path, typer.Option("--key", metavar="FILE", help="Ed25519 private key, PEM, without a password.")],
    as_json: _Json = False,
) -> None:
    """Sign a bundle: manifest.sig, over the manifest and so over the hash of every file."""
    from edgeseg import bundle

    console = Console(as_json)
    signature = bundle.sign(bundle.find(engine), key)
    if as_json:
        console.result({"signature": str(signature)})
    else:
        console.say(f"Signature: {signature}")


def export_triton(
    engine: Annotated[str, typer.Argument(metavar="BUNDLE", help="A bundle's folder or the name of a shipped one.")],
    repository: Annotated[
        Path, typer.Argument(metavar="DIR", help="Triton's model repository; may hold other models.")
    ],
    platform: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="tensorrt, onnx or openvino. [default: the first of them that the bundle is for]"),
    ] = None,
    allow_unverified: Annotated[bool, typer.Option(help="Export an engine that has not passed parity.")] = False,
    public_key: RequireSignature = None,
    as_json: _Json = False,
) -> None:
    """Write an engine as a model of Triton Inference Server, for edgeseg infer --triton."""
    from edgeseg import bundle, model_repository

    console = Console(as_json)
    found = model_repository.export(bundle.find(engine), repository, platform, allow_unverified, public_key)
    if as_json:
        told = {"folder": str(found.folder), "platform": found.platform}
        console.result({**told, "name": found.manifest.name, "sha256": found.manifest.sha256})
    else:
        console.say(f"Model for Triton's {found.platform}: {found.folder}")
