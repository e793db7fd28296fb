"""What both HTTP connections stand on: total deadlines on sockets, and whom TLS trusts.

A socket time-out bounds each receive, not the call: a server that trickles one byte a second keeps a
request with a time-out of 1 s alive for as long as it likes, in the headers as well as in the body.
"""

from __future__ import annotations

import io
import socket
import ssl
from typing import Any

import certifi

from base.clock import Clock

CA_FILE: str = certifi.where()
"""The certificate authorities that the exchange's certificate is checked against, whatever the environment
says (`SSL_CERT_FILE` and `REQUESTS_CA_BUNDLE` are ignored)."""


def tls_context(ca_file: str = CA_FILE) -> ssl.SSLContext:
    """A client context that verifies certificate and host name, TLS 1.2 or newer."""
    context = ssl.create_default_context(cafile=ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


class Deadline:
    """The moment by which a connection's current call must be over, and whether its bytes began to leave.

    Owned by the one thread that owns the connection.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._at = clock.monotonic()
        self.has_sent = False

    def start(self, seconds: float) -> None:
        """Begin a new call that may take `seconds`."""
        self._at = self._clock.monotonic() + seconds
        self.has_sent = False

    def remaining_s(self) -> float:
        return self._at - self._clock.monotonic()

    def require_s(self) -> float:
        """Seconds left, more than none. Raises TimeoutError when the time is up."""
        remaining_s = self.remaining_s()
        if remaining_s <= 0:
            raise TimeoutError("the total deadline of the call has passed")
        return remaining_s


class BoundedSocket:
    """A connected socket whose every send and receive ends by the deadline.

    Stands in for the socket inside `http.client` and urllib3; everything else goes to the real one.
    """

    def __init__(self, sock: socket.socket, deadline: Deadline) -> None:
        self._sock = sock
        self._deadline = deadline
        self._timeout_s = sock.gettimeout()

    def settimeout(self, timeout_s: float | None) -> None:
        self._timeout_s = timeout_s
        self._sock.settimeout(timeout_s)

    def sendall(self, data: Any) -> None:
        self._arm()
        self._deadline.has_sent = True
        self._sock.sendall(data)

    def send(self, data: Any) -> int:
        self._arm()
        self._deadline.has_sent = True
        return self._sock.send(data)

    def makefile(self, mode: str, buffering: int | None = None) -> io.BufferedReader:
        assert mode == "rb", "responses are read as bytes"
        return io.BufferedReader(_BoundedReader(self._sock.makefile("rb", buffering=0), self))

    def _arm(self) -> None:
        """Give the next system call what is left of the deadline, at most the idle time-out."""
        remaining_s = self._deadline.require_s()
        self._sock.settimeout(remaining_s if self._timeout_s is None else min(self._timeout_s, remaining_s))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


class _BoundedReader(io.RawIOBase):
    def __init__(self, raw: io.RawIOBase, owner: BoundedSocket) -> None:
        super().__init__()
        self._raw = raw
        self._owner = owner

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._owner._arm()
        return self._raw.readinto(buffer)

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
            super().close()
