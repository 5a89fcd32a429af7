"""What a host is to DICOM: its application entity, and what it speaks."""

from __future__ import annotations

import logging
from typing import Any

from edgeseg.errors import BackendMissing, InputError

VERIFICATION = "1.2.840.10008.1.1"


def application_entity(ae_title: str) -> Any:
    """Entity of this title; pynetdicom's log, which quotes what peers send, stays silent.

    Raises
    ------
    BackendMissing
        pynetdicom is not installed.
    InputError
        The title is none.
    """
    try:
        from pynetdicom import AE, _config
    except ImportError as error:
        raise BackendMissing("receiving and sending DICOM need pynetdicom: pip install 'edgeseg[scanner]'") from error
    _config.LOG_HANDLER_LEVEL = "none"
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)
    try:
        return AE(ae_title)
    except (TypeError, ValueError) as error:
        raise InputError(f"{ae_title!r} is no AE title: up to 16 letters and digits are expected") from error


def transfer_syntaxes() -> list[str]:
    """UIDs of the transfer syntaxes whose pixels can be decoded here, the uncompressed ones first."""
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import AllTransferSyntaxes, ExplicitVRLittleEndian

    def decodable(syntax: Any) -> bool:
        try:
            return bool(get_decoder(syntax).is_available)
        except NotImplementedError:
            return False

    found = [syntax for syntax in AllTransferSyntaxes if decodable(syntax)]
    return sorted(found, key=lambda syntax: (syntax.is_compressed, syntax != ExplicitVRLittleEndian))
