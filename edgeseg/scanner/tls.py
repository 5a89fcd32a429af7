"""TLS for what is received and sent: version 1.2 at least, and both ends show certificates where a CA is given."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from edgeseg.errors import InputError


@dataclass(frozen=True)
class Tls:
    """Files of one host's identity, all PEM.

    Parameters
    ----------
    certificate, key
        This host's certificate, with what leads to its CA, and its private key, without a password.
    ca
        The CA whose certificates are taken. Without it a receiver asks senders for none, and a sender goes by the
        system's CAs.
    """

    certificate: Path | None = None
    key: Path | None = None
    ca: Path | None = None


def server_context(tls: Tls) -> ssl.SSLContext:
    """What a receiver needs; senders have to show a certificate of the CA where one is given.

    Raises
    ------
    InputError
        A file is missing or is not what it should be.
    """
    if tls.certificate is None or tls.key is None:
        raise InputError("TLS needs this host's certificate and its key: give --tls-certificate and --tls-key")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _load(context, tls)
    if tls.ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(tls: Tls) -> ssl.SSLContext:
    """What a sender needs: the receiver's certificate has to hold its host's name and come from the CA.

    Raises
    ------
    InputError
        A file is missing or is not what it should be.
    """
    if (tls.certificate is None) != (tls.key is None):
        raise InputError("a certificate and its key go together: give both --tls-certificate and --tls-key")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if tls.ca is None:
        context.load_default_certs()
    _load(context, tls)
    return context


def _load(context: ssl.SSLContext, tls: Tls) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    for path in (tls.certificate, tls.key, tls.ca):
        if path is not None and not path.is_file():
            raise InputError(f"{path} is not there: a PEM file is expected")
    try:
        if tls.certificate is not None:
            context.load_cert_chain(tls.certificate, tls.key, password=_no_password)
        if tls.ca is not None:
            context.load_verify_locations(tls.ca)
    except (ssl.SSLError, OSError) as error:
        raise InputError(
            f"the TLS files cannot be used ({error}): PEM files are expected, and a key that belongs to the "
            "certificate and has no password"
        ) from error


def _no_password() -> str:
    """In place of OpenSSL's question on the terminal, which a service cannot answer."""
    return ""
