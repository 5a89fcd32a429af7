"""DICOM's storage service: MR instances from the peers that are allowed, acknowledged when they are on the disk.

pynetdicom speaks the protocol. What is added here bounds what a peer can cost: sizes of PDUs and messages, requests
that do not wait for answers, and the time for a TLS handshake or for half a PDU. An instance's bytes are kept as they
came; of its dataset only the first elements are read, for what it is and to which study it belongs.
"""

from __future__ import annotations

import errno
import functools
import io
import ipaddress
import queue
import select
import ssl
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from edgeseg.errors import InputError
from edgeseg.scanner.entity import VERIFICATION, application_entity, transfer_syntaxes
from edgeseg.scanner.incoming import Incoming
from edgeseg.scanner.instance import Unreadable, file_header, identify, read_whole
from edgeseg.scanner.tls import Tls, server_context

MR_CLASSES = (
    "1.2.840.10008.5.1.4.1.1.4",  # MR Image Storage
    "1.2.840.10008.5.1.4.1.1.4.1",  # Enhanced MR Image Storage
    "1.2.840.10008.5.1.4.1.1.4.4",  # Legacy Converted Enhanced MR Image Storage
)
SUCCESS, NOT_SUPPORTED, NO_RESOURCES, MISMATCH, NOT_UNDERSTOOD = 0x0000, 0x0122, 0xA700, 0xA900, 0xC000
PDU_BYTES = 128 * 1024
"""Longest PDU that peers are asked for; DCMTK sends no longer ones."""
_PDU_LIMIT = 1024**2
"""Longest PDU that is read: other kinds than data have no negotiated length."""
_COMMAND_LIMIT = 64 * 1024
_HANDSHAKE_S, _STALLED_S, _IDLE_S = 15.0, 60.0, 300.0
_WAIT_S = 0.01

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Note = Callable[..., None]
"""Takes an event's name and its facts, as keywords: no patient data, only peers, sizes, counts and statuses."""


@dataclass(frozen=True)
class Listener:
    """Who may send, and how much.

    Parameters
    ----------
    port
        TCP port; 0 takes a free one.
    ae_title
        The receiver's own title.
    titles
        Calling AE titles that are allowed; all when empty.
    networks
        Networks from which connections are taken; all when empty.
    tls
        With it, TLS alone is spoken.
    associations
        How many there may be at once.
    instance_bytes
        The largest instance that is taken. Each association holds at most one in memory.
    """

    port: int
    ae_title: str = "EDGESEG"
    titles: tuple[str, ...] = ()
    networks: tuple[Network, ...] = ()
    tls: Tls | None = None
    associations: int = 10
    instance_bytes: int = 256 * 1024**2


class Receiver:
    """The service, from the with-statement's begin to its end.

    Parameters
    ----------
    listener
        Who may send, and how much.
    incoming
        Where instances are kept.
    note
        Told of what happens; called from several threads.

    Raises
    ------
    BackendMissing
        pynetdicom is not installed.
    InputError
        The port cannot be listened on, an AE title or a TLS file cannot be used.
    """

    def __init__(self, listener: Listener, incoming: Incoming, note: Note) -> None:
        self._listener, self._incoming, self._note = listener, incoming, note
        self._received: dict[Any, list[int]] = {}
        self._server = self._open()
        incoming.recover(read_whole)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, name="receive", daemon=True)
        self._thread.start()

    def __enter__(self) -> Receiver:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Take no more associations and end those that are open; what was not acknowledged is sent again."""
        self._server.shutdown()
        self._thread.join()
        for association in self._server.active_associations:
            association.abort()

    def is_alive(self) -> bool:
        """Whether connections are still taken."""
        return self._thread.is_alive()

    def _open(self) -> Any:
        """The server, bound to its port."""
        entity = application_entity(self._listener.ae_title)
        from pynetdicom import evt

        entity.maximum_pdu_size, entity.maximum_associations = PDU_BYTES, self._listener.associations
        entity.network_timeout, entity.acse_timeout = _IDLE_S, _HANDSHAKE_S
        entity.require_calling_aet = list(self._listener.titles)
        entity.add_supported_context(VERIFICATION)
        for sop_class in MR_CLASSES:
            entity.add_supported_context(sop_class, transfer_syntaxes())
        handlers = [
            (evt.EVT_CONN_OPEN, self._opened),
            (evt.EVT_CONN_CLOSE, self._closed),
            (evt.EVT_REJECTED, self._rejected),
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_C_ECHO, lambda _event: SUCCESS),
        ]
        server_class = _server_class(self._listener, self._note)
        try:
            server = entity.make_server(("", self._listener.port), evt_handlers=handlers, server_class=server_class)
        except OSError as error:
            raise InputError(
                f"port {self._listener.port} cannot be listened on ({error.strerror}): give a free one with --port"
            ) from error
        entity._servers.append(server)  # as start_server() does: shutdown() takes it from there
        return server

    def _opened(self, event: Any) -> None:
        """Bound what is read from a connection, and serve it without a detour."""
        event.assoc.dimse.msg_queue = _Straight(event.assoc)
        event.assoc.dul.socket.__class__ = _wire_class(self._listener.instance_bytes)
        self._received[event.assoc] = [0, 0]

    def _closed(self, event: Any) -> None:
        instances, size = self._received.pop(event.assoc, (0, 0))
        if instances:
            self._note("instances_received", **_peer(event.assoc), instances=instances, bytes=size)

    def _rejected(self, event: Any) -> None:
        self._note("association_rejected", **_peer(event.assoc))

    def _store(self, event: Any) -> Any:
        """Keep an instance. What is returned is the status that the sender gets."""
        try:
            size = self._keep(event)
        except _Refused as refusal:
            status, reason = refusal.status, str(refusal)
        except Unreadable as error:
            status, reason = NOT_UNDERSTOOD, str(error)
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            status, reason = NO_RESOURCES, "disk full" if full else f"cannot write: {error.strerror}"
        except Exception as error:  # nothing that a peer sends may end the service
            status, reason = NOT_UNDERSTOOD, type(error).__name__
        else:
            counts = self._received.setdefault(event.assoc, [0, 0])
            counts[0], counts[1] = counts[0] + 1, counts[1] + size
            return SUCCESS
        self._note("instance_refused", **_peer(event.assoc), status=f"{status:04X}", reason=reason)
        return _status(status, reason)

    def _keep(self, event: Any) -> int:
        """Check an instance against what its request says, and put it on the disk. Returns its bytes."""
        request, context = event.request, event.context
        if isinstance(request.DataSet, _TooLarge):
            raise _Refused(NO_RESOURCES, f"larger than {self._listener.instance_bytes} bytes")
        if request.AffectedSOPClassUID != context.abstract_syntax:
            raise _Refused(NOT_SUPPORTED, "SOP class of another presentation context")
        dataset = request.DataSet.getbuffer()
        found = identify(dataset, context.transfer_syntax)
        if found.sop_class != request.AffectedSOPClassUID:
            raise _Refused(MISMATCH, "dataset's SOP class is not the request's")
        if found.uid != request.AffectedSOPInstanceUID:
            raise _Refused(MISMATCH, "dataset's SOP instance is not the request's")
        header = file_header(found, context.transfer_syntax, dataset.nbytes)
        return self._incoming.store(found.study, found.uid, (header, dataset))


def network(text: str) -> Network:
    """Read a network, as 10.1.0.0/16, or a single address.

    Raises
    ------
    InputError
        It is neither.
    """
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise InputError(f"{text} is no network ({error}): 10.1.0.0/16 or a single address is expected") from error


class _Refused(Exception):
    """An instance that is not kept, and the status that says so."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class _Straight(queue.Queue[Any]):
    """Where an association's requests wait for its second thread: here C-STORE is served by the first one, which reads.

    Each thread looks for the other one's work every millisecond, and later on a busy machine: that cost a third of the
    speed. While an instance is written nothing is read, so a peer that does not wait for answers is slowed down.
    """

    def __init__(self, association: Any) -> None:
        super().__init__()
        self._association = association
        self._contexts: set[int] = set()

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Serve a request to store MR images; whatever else it is goes pynetdicom's way."""
        context, request = item
        if (
            request.msg_type != "C-STORE"
            or request.AffectedSOPClassUID not in MR_CLASSES
            or not self._accepted(context)
        ):
            super().put(item, block, timeout)
        else:
            self._association._serve_request(request, context)

    def _accepted(self, context: int) -> bool:
        """Whether a request's presentation context was accepted, which the other thread may be about to do."""
        if not self._contexts:
            until = time.monotonic() + _HANDSHAKE_S
            while not self._association.is_established and time.monotonic() < until:
                time.sleep(0.001)
            self._contexts = {found.context_id for found in self._association.accepted_contexts}
        return context in self._contexts


class _TooLarge(io.BytesIO):
    """In place of a message that has grown too large: what follows is read and dropped, so that it can be answered."""

    def write(self, data: Any, /) -> int:
        return len(data)


@functools.cache
def _wire_class(instance_bytes: int) -> Any:
    """A socket of pynetdicom's, which reads within bounds and waits for what comes."""
    from pynetdicom.transport import AssociationSocket

    class Wire(AssociationSocket):  # type: ignore[misc]
        @property
        def ready(self) -> bool:
            """Whether there is something to read; where there is not, wait a little instead of looking again."""
            wire = self.socket
            if wire is None or not self._is_connected:
                return False
            try:
                pending = isinstance(wire, ssl.SSLSocket) and wire.pending() > 0
                return pending or bool(select.select([wire], [], [], _WAIT_S)[0])
            except (OSError, ValueError):
                self.event_queue.put("Evt17")  # the connection is closed
                return False

        def recv(self, nr_bytes: int) -> bytearray:
            """Read so many bytes; an OSError ends the connection."""
            _check_bounds(self.assoc.dimse, nr_bytes, instance_bytes)
            content = bytearray(nr_bytes)
            view, done = memoryview(content), 0
            while done < nr_bytes and (count := self.socket.recv_into(view[done:])):
                done += count
            return content if done == nr_bytes else content[:done]

    return Wire


def _check_bounds(dimse: Any, size: int, instance_bytes: int) -> None:
    """Refuse what no peer has a reason for with an OSError; drop the rest of an instance that is too large."""
    if size > _PDU_LIMIT:
        raise OSError(errno.EMSGSIZE, "PDU too long")
    if dimse.msg_queue.qsize() > 1:
        raise OSError(errno.EMSGSIZE, "requests that do not wait for answers")
    message = dimse.message
    if message is not None:
        if message.encoded_command_set.tell() > _COMMAND_LIMIT:
            raise OSError(errno.EMSGSIZE, "command too long")
        if message.data_set.tell() > instance_bytes:
            message.data_set = _TooLarge()


def _server_class(listener: Listener, note: Note) -> Any:
    """A server of pynetdicom's with bounds: networks, and a TLS handshake that holds up no other peer."""
    from pynetdicom.transport import RequestHandler, ThreadedAssociationServer

    context: ssl.SSLContext | None = server_context(listener.tls) if listener.tls else None

    class Connection(RequestHandler):  # type: ignore[misc]
        request: Any

        def setup(self) -> None:
            self.request.settimeout(_HANDSHAKE_S)
            if context is not None:
                self.request = context.wrap_socket(self.request, server_side=True)
            self.request.settimeout(_STALLED_S)

    class Server(ThreadedAssociationServer):  # type: ignore[misc]
        daemon_threads = True
        request_queue_size = 64

        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, request_handler=Connection, **named)

        def verify_request(self, _request: Any, client_address: Any) -> bool:
            address = ipaddress.ip_address(client_address[0])
            allowed = not listener.networks or any(address in network for network in listener.networks)
            if not allowed:
                note("connection_refused", address=str(address), reason="network not allowed")
            return allowed

        def handle_error(self, _request: Any, client_address: Any) -> None:
            error = sys.exc_info()[1]
            note("connection_refused", address=client_address[0], reason=f"{type(error).__name__}: {error}")

    return Server


def _peer(association: Any) -> dict[str, str]:
    peer = association.requestor
    return {"peer": str(peer.ae_title or "").strip(), "address": str(peer.address)}


def _status(code: int, reason: str) -> Any:
    """A failure status with its reason, as a response's dataset."""
    from pydicom.dataset import Dataset

    status = Dataset()
    status.Status = code
    status.ErrorComment = reason[:64]
    return status
