"""Connections to the API server that are given up at once: nothing of a call comes late."""

import os
import socket
import ssl
import struct

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ConnectionKey
from kubernetes.aio.client import Configuration

from memroute_kube.errors import TIMEOUT, UNREACHABLE, ApiError

# For how long the kernel tries to deliver a call, in seconds, also for a process that is stopped:
# what the operator's Lease lasts longer than its holder writes (10 less 7). Then it is dropped.
UNDELIVERED_SECONDS = 3.0


def no_answer(error: Exception) -> ApiError:
    """No answer at all: too late, or no connection."""
    # A connection that does not come about in time is no connection.
    is_late = isinstance(error, TimeoutError) and not isinstance(
        error, aiohttp.ConnectionTimeoutError
    )
    return ApiError(0, TIMEOUT if is_late else UNREACHABLE, _words(error))


def _words(error: Exception) -> str:
    """What happened, as a person would say it."""
    if isinstance(error, aiohttp.ClientConnectorError):
        why = error.os_error.strerror or str(error.os_error) or type(error.os_error).__name__
        # asyncio: "Connect call failed ('127.0.0.1', 1)", with the number of the real reason.
        why = os.strerror(error.os_error.errno) if error.os_error.errno else why
        return f"cannot connect to {error.host}:{error.port} ({why})"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def open_session(configuration: Configuration) -> aiohttp.ClientSession:
    """A session for calls and watches with these credentials; whoever opens it closes it."""
    connector = _Connector(ssl=_ssl_context(configuration), limit=0, socket_factory=_socket)
    return aiohttp.ClientSession(connector=connector, read_bufsize=2**21)


class _Connector(aiohttp.TCPConnector):
    """A connection whose call is given up is reset at once.

    ``close`` would first send what TLS has to say at an orderly end, and wait for the answer.
    """

    def _release(
        self, key: ConnectionKey, protocol: ResponseHandler, *, should_close: bool = False
    ) -> None:
        if should_close and protocol.transport is not None:
            protocol.transport.abort()
        super()._release(key, protocol, should_close=should_close)


def _socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """A socket that forgets, when it is closed, what the kernel has not delivered.

    A call that is given up while the network is cut would otherwise be sent again by the kernel
    for some minutes, and arrive when nobody stands by it any more.
    """
    family, kind, protocol, *_ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
        milliseconds = int(UNDELIVERED_SECONDS * 1000)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
    return made


def _ssl_context(configuration: Configuration) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
    if configuration.cert_file:
        context.load_cert_chain(configuration.cert_file, keyfile=configuration.key_file)
    if not configuration.verify_ssl:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
