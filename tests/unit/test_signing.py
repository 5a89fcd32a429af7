"""Signatures: what a key signed, keys that are none, and that openssl and edgeseg agree."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgeseg import signing
from edgeseg.errors import BackendMissing, InputError

Keys = list[tuple[Path, Path]]
CONTENT = b"manifest"


def test_a_signature_is_that_of_its_key_and_content(signing_keys: Keys) -> None:
    (private, public), (_, other) = signing_keys
    signature = signing.sign(CONTENT, private)
    assert len(signature) == 64
    assert signing.is_signed(CONTENT, signature, public)
    assert not signing.is_signed(CONTENT, signature, other)
    assert not signing.is_signed(CONTENT + b" ", signature, public)
    assert not signing.is_signed(CONTENT, b"", public)


@pytest.mark.parametrize(
    "content", [b"", b"nonsense", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
)
def test_a_file_that_holds_no_key(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(content)
    with pytest.raises(InputError, match="no private key in PEM: make one with openssl genpkey"):
        signing.sign(CONTENT, path)
    with pytest.raises(InputError, match="no public key in PEM: make it from the private one"):
        signing.is_signed(CONTENT, b"", path)


def test_one_key_for_the_other(signing_keys: Keys) -> None:
    private, public = signing_keys[0]
    with pytest.raises(InputError, match="no private key"):
        signing.sign(CONTENT, public)
    with pytest.raises(InputError, match="no public key"):
        signing.is_signed(CONTENT, b"", private)


def test_a_missing_key(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no readable private key at .*none\.pem \(No such file"):
        signing.sign(CONTENT, tmp_path / "none.pem")
    with pytest.raises(InputError, match="no readable public key"):
        signing.is_signed(CONTENT, b"", tmp_path)


def test_a_key_of_another_kind_or_with_a_password(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        NoEncryption,
        PrivateFormat,
        PublicFormat,
    )

    path = tmp_path / "key.pem"
    curve = ec.generate_private_key(ec.SECP256R1())
    path.write_bytes(curve.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(InputError, match="another kind than Ed25519"):
        signing.sign(CONTENT, path)
    path.write_bytes(curve.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    with pytest.raises(InputError, match="another kind than Ed25519"):
        signing.is_signed(CONTENT, b"", path)
    locked = BestAvailableEncryption(b"secret")
    path.write_bytes(ed25519.Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked))
    with pytest.raises(InputError, match="has a password"):
        signing.sign(CONTENT, path)


def test_without_the_package(signing_keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(BackendMissing, match=r"edgeseg\[signing\]"):
        signing.sign(CONTENT, signing_keys[0][0])
    with pytest.raises(BackendMissing, match=r"edgeseg\[signing\]"):
        signing.is_signed(CONTENT, b"", signing_keys[0][1])


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_the_documented_commands(tmp_path: Path) -> None:
    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=tmp_path, check=True, capture_output=True)

    (tmp_path / "manifest.json").write_bytes(CONTENT)
    openssl("genpkey", "-algorithm", "ed25519", "-out", "key.pem")
    openssl("pkey", "-in", "key.pem", "-pubout", "-out", "public.pem")
    signature = signing.sign(CONTENT, tmp_path / "key.pem")
    (tmp_path / "manifest.sig").write_bytes(signature)
    assert signing.is_signed(CONTENT, signature, tmp_path / "public.pem")
    given = ("-in", "manifest.json", "-sigfile", "manifest.sig")
    openssl("pkeyutl", "-verify", "-pubin", "-inkey", "public.pem", "-rawin", *given)
