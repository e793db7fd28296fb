"""Who may read the page and the API: host names, methods and the token. Pure."""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

READ_METHODS = frozenset({"GET", "HEAD"})
OPEN_PATH = "/healthz"
"""The one path without a token: load balancers and watchdogs ask it."""

_HOST_HEADER = re.compile(r"(?P<name>\[[0-9A-Fa-f:.%]+\]|[^\s:\[\]/@]+)(?::[0-9]{1,5})?")


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request gets no answer; `message` tells the user what to do."""

    status: int
    message: str
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class AccessPolicy:
    """The rules of one server; `host` and `token` are UI_HOST and UI_TOKEN ("" = no token)."""

    host: str
    token: str

    def refuse(self, method: str, path: str, host: str, authorization: str) -> Refusal | None:
        """Judge one request by its method, path, Host and Authorization headers; None lets it pass."""
        if not self._knows_host(host):
            return Refusal(
                421,
                "This server does not answer to the host name of this address: open it by IP address or as "
                "localhost, or set UI_HOST to the name that you use.",
            )
        if method not in READ_METHODS:
            return Refusal(405, "Read-only: use GET or HEAD.", (("Allow", "GET, HEAD"),))
        if self.token and path != OPEN_PATH and not self._carries_token(authorization):
            return Refusal(
                401,
                "Give UI_TOKEN as the password (any user name), or send 'Authorization: Bearer <token>'.",
                (("WWW-Authenticate", 'Basic realm="Backstop", charset="UTF-8"'),),
            )
        return None

    def _knows_host(self, header: str) -> bool:
        # A web page of a stranger can let its own name resolve to this machine and then read us as its
        # own origin (DNS rebinding). It cannot choose the Host header, so names that are not ours end
        # here. An IP address in Host was typed, not resolved: it is safe wherever we listen publicly.
        match = _HOST_HEADER.fullmatch(header)
        if match is None:
            return False
        name = match["name"].strip("[]").lower()
        if is_loopback(name) or name == self.host.strip("[]").lower():
            return True
        return not is_loopback(self.host) and _address(name) is not None

    def _carries_token(self, authorization: str) -> bool:
        scheme, _, credentials = authorization.partition(" ")
        # Header text reaches WSGI as latin-1 (PEP 3333); the bytes underneath are what was sent.
        sent = credentials.strip().encode("latin-1", "replace")
        if scheme.lower() == "basic":
            try:
                _, _, sent = base64.b64decode(sent, validate=True).partition(b":")
            except binascii.Error:
                return False
        elif scheme.lower() != "bearer":
            return False
        return hmac.compare_digest(sent, self.token.encode("utf-8"))


def is_loopback(host: str) -> bool:
    """Tell whether only programs of this machine can reach `host` (a name or an address)."""
    address = _address(host)
    return address.is_loopback if address is not None else host.lower() == "localhost"


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(text.strip("[]"))
    except ValueError:
        return None
