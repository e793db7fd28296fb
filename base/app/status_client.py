"""Asks the running daemon's own HTTP server, for the commands `status` and `explain`."""

from __future__ import annotations

import http.client
import ipaddress
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from base.app.config import Config
from base.app.config_values import authority
from base.errors import BotError
from base.ui.document import rows

TIMEOUT_S = 5.0
BYTES_MAX = 32_000_000


class NoAnswerError(BotError):
    """The daemon did not answer, or not with what was asked for; the message says what to do."""


def read_status(config: Config) -> dict[str, Any]:
    """The document of `/api/status`. Raises NoAnswerError."""
    return _get(config, "/api/status")


@dataclass(frozen=True, slots=True)
class Evaluations:
    """The last evaluations of one position's rules and its exits, both oldest first; `trading_mode` is ""
    where it is not told."""

    rows: list[dict[str, Any]]
    trading_mode: str
    exits: list[Mapping[str, Any]] = field(default_factory=list)


def read_evaluations(config: Config, ticker: str) -> Evaluations:
    """What `/api/explain` says of a ticker. Raises NoAnswerError."""
    document = _get(config, f"/api/explain/{quote(ticker, safe='')}")
    looks = document.get("rows")
    if not isinstance(looks, list):
        raise NoAnswerError("the daemon's answer holds no evaluations; run the same version of both")
    return Evaluations(looks, str(document.get("trading_mode") or ""), rows(document.get("exits")))


def _get(config: Config, path: str) -> dict[str, Any]:
    host = _reachable(config.ui_host)
    where = f"http://{authority(host, config.ui_port)}"
    headers = {"Accept": "application/json", "Connection": "close"}
    if config.ui_token:
        headers["Authorization"] = f"Bearer {config.ui_token}"
    connection = http.client.HTTPConnection(host, config.ui_port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        status, body = response.status, response.read(BYTES_MAX)
    except (OSError, http.client.HTTPException) as exc:
        raise NoAnswerError(
            f"no daemon answers at {where} ({exc or type(exc).__name__}); "
            "start one with the command run, or set UI_HOST and UI_PORT to where it listens"
        ) from exc
    finally:
        connection.close()
    try:
        document = json.loads(body)
    except ValueError:
        document = None
    if status == 200 and isinstance(document, dict):
        return document
    raise NoAnswerError(_refusal(status, document, where))


def _refusal(status: int, document: object, where: str) -> str:
    if status == 401:
        return f"the daemon at {where} wants its token; set UI_TOKEN here to the same value as there"
    said = document.get("error") if isinstance(document, Mapping) else None
    if status == 404 and said:
        return f"{said} (asked {where})"
    return (
        f"{where} answered {status}: {said or 'not the status page of Backstop; check UI_HOST and UI_PORT'}"
    )


def _reachable(host: str) -> str:
    """Where a client of this machine finds a server that listens on `host`."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if address.is_unspecified:  # 0.0.0.0 or ::, every address of the machine
        return "127.0.0.1" if address.version == 4 else "::1"
    return host
