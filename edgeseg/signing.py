"""Ed25519 signatures of bytes, with keys in PEM files, as ``openssl genpkey -algorithm ed25519`` makes them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgeseg.errors import BackendMissing, InputError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

_MAKE = "make one with openssl genpkey -algorithm ed25519 -out key.pem"
_MAKE_PUBLIC = "make it from the private one with openssl pkey -in key.pem -pubout -out public.pem"


def sign(content: bytes, key_file: Path) -> bytes:
    """The signature, 64 bytes, of ``content``.

    Parameters
    ----------
    content
        What is signed.
    key_file
        A PEM file with an Ed25519 private key without a password.

    Raises
    ------
    InputError
        When the file holds no such key.
    BackendMissing
        When the extra ``signing`` is not installed.
    """
    return _private_key(key_file).sign(content)


def is_signed(content: bytes, signature: bytes, key_file: Path) -> bool:
    """Whether ``signature`` is that of ``content`` by the private key of this public one.

    Parameters
    ----------
    content, signature
        What was signed, and what `sign` returned.
    key_file
        A PEM file with an Ed25519 public key.

    Raises
    ------
    InputError
        When the file holds no such key.
    BackendMissing
        When the extra ``signing`` is not installed.
    """
    key = _public_key(key_file)
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(signature, content)
    except InvalidSignature:
        return False
    return True


def _private_key(path: Path) -> Ed25519PrivateKey:
    _import()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    content = _read(path, "private", _MAKE)
    try:
        key = load_pem_private_key(content, password=None)
    except TypeError as error:
        raise InputError(f"the key {path} has a password: give one without, such as {_MAKE[9:]}") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InputError(f"{path} holds no private key in PEM: {_MAKE}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise InputError(f"{path} holds a key of another kind than Ed25519: {_MAKE}")
    return key


def _public_key(path: Path) -> Ed25519PublicKey:
    _import()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    content = _read(path, "public", _MAKE_PUBLIC)
    try:
        key = load_pem_public_key(content)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InputError(f"{path} holds no public key in PEM: {_MAKE_PUBLIC}") from error
    if not isinstance(key, Ed25519PublicKey):
        raise InputError(f"{path} holds a key of another kind than Ed25519: give the signer's own")
    return key


def _import() -> None:
    try:
        import cryptography  # noqa: F401
    except ImportError as error:
        raise BackendMissing(f"signatures need {error.name}: pip install 'edgeseg[signing]'") from error


def _read(path: Path, kind: str, remedy: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"no readable {kind} key at {path} ({error.strerror}): {remedy}") from error
