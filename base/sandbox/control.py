"""The control endpoints under /sandbox/: look inside, move a market, trade by hand, break things."""

from __future__ import annotations

from aiohttp import web

from base.sandbox.faults import BadFaultRequest, parse_faults
from base.sandbox.order_requests import decode_object
from base.sandbox.refusals import Refused
from base.sandbox.venue import BadControlRequest, Venue

CONTROL_PREFIX = "/sandbox"


class Control:
    """Handlers; unsigned, and reachable on loopback only because the server listens nowhere else."""

    def __init__(self, venue: Venue) -> None:
        self._venue = venue

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get(CONTROL_PREFIX + "/ledger", self.ledger),
            web.post(CONTROL_PREFIX + "/market/{ticker}", self.set_market),
            web.post(CONTROL_PREFIX + "/position", self.add_position),
            web.post(CONTROL_PREFIX + "/faults", self.set_faults),
        ]

    async def ledger(self, request: web.Request) -> web.Response:
        return web.json_response(self._venue.ledger())

    async def set_market(self, request: web.Request) -> web.Response:
        body = decode_object(await request.read())
        try:
            self._venue.set_market(request.match_info["ticker"], body)
        except BadControlRequest as exc:
            raise _explain(exc) from exc
        return web.json_response({"ok": True})

    async def add_position(self, request: web.Request) -> web.Response:
        body = decode_object(await request.read())
        try:
            self._venue.add_position(body)
        except BadControlRequest as exc:
            raise _explain(exc) from exc
        return web.json_response({"ok": True})

    async def set_faults(self, request: web.Request) -> web.Response:
        body = decode_object(await request.read())
        try:
            self._venue.set_faults(parse_faults(body))
        except BadFaultRequest as exc:
            raise _explain(exc) from exc
        return web.json_response({"ok": True})


def _explain(exc: ValueError) -> Refused:
    return Refused(400, "bad_control_request", details=str(exc))
