"""A signed client of the sandbox, written apart from the daemon's own."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import requests
import websocket
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from base.sandbox.server import SandboxServer

TIMEOUT_S = 5.0
API = "/trade-api/v2"
ORDERS = "/portfolio/events/orders"


class Client:
    """REST and WebSocket calls with good signatures, and bad ones on request."""

    def __init__(self, server: SandboxServer, now: Callable[[], float] = time.time) -> None:
        self.server = server
        self._now = now
        self._key = serialization.load_pem_private_key(server.key_file.read_bytes(), None)
        self._http = requests.Session()
        self._http.trust_env = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def headers(self, method: str, path: str, *, skew_s: float = 0.0) -> dict[str, str]:
        stamp = str(int((self._now() + skew_s) * 1000))
        message = f"{stamp}{method}{path}".encode()
        if isinstance(self._key, RSAPrivateKey):
            pss = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=32)
            signature = self._key.sign(message, pss, hashes.SHA256())
        else:
            signature = self._key.sign(message)
        return {
            "KALSHI-ACCESS-KEY": self.server.key_id,
            "KALSHI-ACCESS-TIMESTAMP": stamp,
            "KALSHI-ACCESS-SIGNATURE": base64.b64encode(signature).decode(),
        }

    def call(
        self, method: str, path: str, body: object = None, *, headers: dict[str, str] | None = None
    ) -> requests.Response:
        signed = self.headers(method, API + path.partition("?")[0]) if headers is None else headers
        return self._http.request(
            method, self.server.rest_url + path, json=body, headers=signed, timeout=TIMEOUT_S
        )

    def get(self, path: str) -> Any:
        answer = self.call("GET", path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def order(self, ticker: str, side: str, count: str, price: str, **fields: object) -> requests.Response:
        return self.call("POST", ORDERS, order_body(ticker, side, count, price, **fields))

    def batch(self, *bodies: dict[str, object]) -> requests.Response:
        return self.call("POST", ORDERS + "/batched", {"orders": list(bodies)})

    def stream(self, *, headers: dict[str, str] | None = None) -> StreamClient:
        signed = self.headers("GET", "/trade-api/ws/v2") if headers is None else headers
        return StreamClient(
            websocket.create_connection(
                self.server.ws_url, header=[f"{k}: {v}" for k, v in signed.items()], timeout=TIMEOUT_S
            )
        )


def order_body(ticker: str, side: str, count: str, price: str, **fields: object) -> dict[str, object]:
    return {
        "ticker": ticker,
        "side": side,
        "count": count,
        "price": price,
        "time_in_force": "immediate_or_cancel",
        "self_trade_prevention_type": "taker_at_cross",
        **fields,
    }


class StreamClient:
    """One socket; `expect` reads on until a frame of a type has come."""

    def __init__(self, socket: websocket.WebSocket) -> None:
        self.socket = socket
        self.seen: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close(timeout=1)

    def send(self, command: object) -> None:
        self.socket.send(command if isinstance(command, str) else json.dumps(command))

    def subscribe(self, *channels: str, command_id: int = 1, **params: object) -> None:
        self.send({"id": command_id, "cmd": "subscribe", "params": {"channels": list(channels), **params}})

    def receive(self) -> dict[str, Any]:
        frame: dict[str, Any] = json.loads(self.socket.recv())
        self.seen.append(frame)
        return frame

    def expect(self, kind: str) -> dict[str, Any]:
        for _ in range(500):
            frame = self.receive()
            if frame["type"] == kind:
                return frame
        raise AssertionError(f"no {kind} among 500 frames")
