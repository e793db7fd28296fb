"""The HTTP application: signatures, token buckets, faults and error bodies around the handlers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from email.utils import formatdate

from aiohttp import web

from base.sandbox.control import CONTROL_PREFIX, Control
from base.sandbox.faults import AuthFault, CallAction, CallFault, OnDisconnect
from base.sandbox.rate_limit import RateLimits
from base.sandbox.refusals import Refused, gone, not_found
from base.sandbox.rest_market_data import PREFIX, MarketData
from base.sandbox.rest_portfolio import ORDERS, PortfolioEndpoints
from base.sandbox.signatures import KeyPair, check_request, expired, is_signed, unauthenticated
from base.sandbox.stream import WS_PATH, Stream, reset_connection
from base.sandbox.venue import Venue

NO_ANSWER_S = 60.0  # how long a call that never gets its answer is kept open
_PRIVATE = ("/portfolio", "/account/limits", "/api_keys")
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def build_app(venue: Venue, keys: KeyPair, stream: Stream, *, enforce_limits: bool = True) -> web.Application:
    """Everything that the sandbox serves, on one port."""
    limits = RateLimits(venue.clock.now(), venue.tier, is_enforced=enforce_limits)
    gate = _Gate(venue, keys, limits)

    @web.middleware
    async def through_gate(request: web.Request, handler: _Handler) -> web.StreamResponse:
        return await gate.let_through(request, handler)

    app = web.Application(middlewares=[through_gate])
    app.add_routes(MarketData(venue).routes())
    app.add_routes(PortfolioEndpoints(venue, limits, keys.key_id).routes())
    app.add_routes(Control(venue).routes())
    app.router.add_get(WS_PATH, stream.serve)
    app.on_cleanup.append(gate.close)
    return app


class _Gate:
    """What every REST call passes through, in the order in which the exchange looks at it."""

    def __init__(self, venue: Venue, keys: KeyPair, limits: RateLimits) -> None:
        self._venue = venue
        self._keys = keys
        self._limits = limits
        self._acting: set[asyncio.Future[tuple[web.StreamResponse, CallFault | None]]] = set()

    async def close(self, app: web.Application) -> None:
        """End the calls that outlived their connections."""
        for acting in self._acting:
            acting.cancel()
        await asyncio.gather(*self._acting, return_exceptions=True)

    async def let_through(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        if request.path == WS_PATH:
            return await handler(request)
        if request.path.startswith(CONTROL_PREFIX):
            return await _answer(request, handler)
        endpoint = _endpoint(request)
        self._venue.note_request(f"{request.method} {endpoint}")
        await request.read()  # now: once the client has hung up there is no body to be had
        acting = asyncio.ensure_future(self._act(request, handler, endpoint))
        if self._venue.faults.on_disconnect is OnDisconnect.ACT:
            self._acting.add(acting)
            acting.add_done_callback(self._acting.discard)
            answer, fault = await asyncio.shield(acting)  # aiohttp cancels us when the client hangs up
        else:
            answer, fault = await acting
        if fault is not None:
            answer = await _fail_after(request, fault, answer)
        has_date = self._venue.faults.has_date
        answer.headers["Date"] = formatdate(self._venue.clock.now(), usegmt=True) if has_date else ""
        return answer

    async def _act(
        self, request: web.Request, handler: _Handler, endpoint: str
    ) -> tuple[web.StreamResponse, CallFault | None]:
        """Wait, fail or act as the faults say; the fault is what is still to be done to the answer."""
        if self._venue.faults.latency_s:
            await asyncio.sleep(self._venue.faults.latency_s)
        below = request.path.removeprefix(PREFIX)
        fault = self._venue.faults.take_call(request.method, below)
        if fault is not None and (early := _fail_before(request, fault)) is not None:
            return early, None

        async def checked(request: web.Request) -> web.StreamResponse:
            self._check(request, endpoint)
            return await handler(request)

        answer = await _answer(request, checked)
        self._venue.note_view(self._venue.clock.now())
        return answer, fault

    def _check(self, request: web.Request, endpoint: str) -> None:
        now = self._venue.clock.now()
        path = request.raw_path.partition("?")[0]
        is_private = endpoint.startswith(_PRIVATE)
        if is_signed(request.headers):
            match self._venue.faults.auth:
                case AuthFault.DEAD:
                    raise unauthenticated("NOT_FOUND")
                case AuthFault.SKEWED:
                    raise expired()
        check_request(self._keys, request.headers, request.method, path, now, is_required=is_private)
        if self._venue.faults.is_gone and request.method != "GET" and endpoint.startswith(ORDERS):
            raise gone()
        if not endpoint.endswith("/batched"):  # a batch is charged by its size
            self._limits.charge(request.method, endpoint, now)


def _endpoint(request: web.Request) -> str:
    """The route's path below the prefix, like /markets/{ticker}; the plain path when there is none."""
    resource = request.match_info.route.resource
    path = resource.canonical if resource is not None else request.path
    return path.removeprefix(PREFIX)


async def _answer(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """Run a handler; refusals and unknown paths become the exchange's error bodies."""
    try:
        return await handler(request)
    except Refused as refused:
        return web.json_response(refused.body(), status=refused.status)
    except web.HTTPNotFound:
        return web.json_response(not_found().body(), status=404)
    except web.HTTPMethodNotAllowed:
        return web.json_response(Refused(405, "method_not_allowed").body(), status=405)


def _fail_before(request: web.Request, fault: CallFault) -> web.StreamResponse | None:
    """The faults that keep a call from acting."""
    match fault.action:
        case CallAction.STATUS:
            return web.json_response(fault.body, status=fault.status)
        case CallAction.UNAVAILABLE:
            return web.json_response(Refused(503, "service_unavailable").body(), status=503)
        case CallAction.RATE_LIMITED:
            return web.json_response(Refused(429, "too_many_requests").body(), status=429)
        case CallAction.RESET_BEFORE:
            reset_connection(request.transport)
            return web.Response(status=503)
        case _:
            return None


async def _fail_after(
    request: web.Request, fault: CallFault, answer: web.StreamResponse
) -> web.StreamResponse:
    """The faults of a call that has acted."""
    match fault.action:
        case CallAction.ACT_THEN_500:
            return web.json_response(Refused(500, "internal_server_error").body(), status=500)
        case CallAction.ACT_THEN_TIMEOUT:
            await asyncio.sleep(NO_ANSWER_S)
            reset_connection(request.transport)
        case CallAction.ACT_THEN_RESET:
            reset_connection(request.transport)
        case CallAction.EMPTY_LIST if isinstance(answer, web.Response) and isinstance(answer.body, bytes):
            document = json.loads(answer.body)
            if isinstance(document, dict):
                emptied = {k: [] if isinstance(v, list) else v for k, v in document.items()}
                if "cursor" in emptied:
                    emptied["cursor"] = ""
                return web.json_response(emptied, status=answer.status)
        case _:
            return answer
    return answer
