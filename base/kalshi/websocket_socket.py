"""The socket under the stream: opened with TLS, and no frame without a bound."""

from __future__ import annotations

import socket
from typing import Any
from urllib.parse import SplitResult

import websocket

from base.kalshi.transport import tls_context

CONNECT_TIMEOUT_S = 10.0
FRAME_BYTES_MAX = 16 * 1024 * 1024
"""A frame that announces more is refused before a byte of it is read (the exchange's limit is 64 MiB);
so is a message that grows beyond it in fragments."""


def open_socket(url: SplitResult, ca_file: str) -> socket.socket:
    """A TCP connection, wrapped where the address asks for TLS; that handshake is left to the caller, who
    can first see to it that somebody is able to end it."""
    context = tls_context(ca_file) if url.scheme == "wss" else None
    host = url.hostname or ""
    sock = socket.create_connection((host, url.port or (443 if context else 80)), CONNECT_TIMEOUT_S)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if context is None:
            return sock
        return context.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
    except (OSError, ValueError):
        sock.close()
        raise


def bound_frames(ws: Any) -> None:
    """Refuse frames whose header announces more than `FRAME_BYTES_MAX`.

    The library has no limit of its own: a header of 1 TiB was measured to take 1.5 GB in five seconds.
    """
    read_exactly = ws.frame_buffer.recv_strict
    add_fragment = ws.cont_frame.add

    def read_bounded(count: int) -> bytes:
        if count > FRAME_BYTES_MAX:
            raise websocket.WebSocketPayloadException(f"frame of {count} bytes")
        data: bytes = read_exactly(count)
        return data

    def add_bounded(frame: Any) -> None:
        add_fragment(frame)
        size = len(ws.cont_frame.cont_data[1])
        if size > FRAME_BYTES_MAX:
            raise websocket.WebSocketPayloadException(f"message of more than {size} bytes")

    ws.frame_buffer.recv_strict = read_bounded
    ws.cont_frame.add = add_bounded


def close_code(data: bytes) -> str:
    return str(int.from_bytes(data[:2], "big")) if len(data) >= 2 else "no code"
