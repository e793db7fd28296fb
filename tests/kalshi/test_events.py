"""Events: what is asked, and what is made of the answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import responses

from base.errors import TransientError, WireError
from base.kalshi.documents import parse_event_page
from base.kalshi.rate_limit import Lane, Quota, RateLimiter, RequestKind
from base.kalshi.rest_client import EVENTS_PER_REQUEST, RestClient
from base.kalshi.server_clock import ServerClock
from base.model.market import Event
from tests.fakes.clock import FakeClock

BASE = "https://kalshi.test/trade-api/v2"


def document(ticker: str = "KXHIGHNY-26NOV22") -> dict[str, Any]:
    """An event in the shape of the OpenAPI document."""
    return {
        "event_ticker": ticker,
        "series_ticker": "KXHIGHNY",
        "sub_title": "On Nov 22, 2026",
        "title": "Highest temperature in NYC on Nov 22?",
        "collateral_return_type": "MECNET",
        "mutually_exclusive": True,
        "settlement_sources": [],
        "exchange_index": 0,
        "markets": [{"ticker": f"{ticker}-T{n}", "status": "active"} for n in range(2)],
    }


def body(*documents: dict[str, Any], cursor: str | None = "") -> bytes:
    return json.dumps({"events": documents, "milestones": [], "cursor": cursor}).encode()


def test_an_event_with_its_markets() -> None:
    page = parse_event_page(body(document()))
    assert page.events == (
        Event(
            "KXHIGHNY-26NOV22",
            ("KXHIGHNY-26NOV22-T0", "KXHIGHNY-26NOV22-T1"),
            mutually_exclusive=True,
            series_ticker="KXHIGHNY",
            title="Highest temperature in NYC on Nov 22?",
        ),
    )
    assert (page.unusable, page.rows) == ((), 1)


@pytest.mark.parametrize(
    "broken",
    [
        {"markets": None},
        {"markets": [{"status": "active"}]},
        {"markets": [{"ticker": "../x"}]},
        {"mutually_exclusive": None},
        {"mutually_exclusive": "true"},
        {"event_ticker": "a b"},
    ],
    ids=[
        "no markets told", "a market without a ticker", "a market of another path", "exclusiveness unknown",
        "exclusiveness in words", "no ticker",
    ],
)  # fmt: skip
def test_an_event_that_cannot_be_proved_is_left_out_and_costs_no_other(broken: dict[str, Any]) -> None:
    page = parse_event_page(body(document("KXBAD-1") | broken, document()))
    assert [event.ticker for event in page.events] == ["KXHIGHNY-26NOV22"]
    assert (len(page.unusable), page.rows) == (1, 2)


def test_a_page_that_is_none_is_refused() -> None:
    with pytest.raises(WireError):
        parse_event_page(b'{"cursor": ""}')


@pytest.fixture
def exchange() -> Iterator[responses.RequestsMock]:
    with responses.RequestsMock() as mock:
        yield mock


def client_of(limiter: RateLimiter, clock: FakeClock) -> RestClient:
    return RestClient(BASE, None, clock, ServerClock(clock), limiter)


def asked(exchange: responses.RequestsMock) -> list[dict[str, list[str]]]:
    return [parse_qs(urlsplit(str(call.request.url)).query) for call in exchange.calls]


def test_events_are_asked_for_a_few_at_a_time_in_the_strategys_lane(exchange: responses.RequestsMock) -> None:
    clock = FakeClock()
    limiter = RateLimiter(clock, Quota(200, 200), Quota(100, 100))
    names = [f"KXE-{n:02}" for n in range(EVENTS_PER_REQUEST + 1)]
    exchange.get(f"{BASE}/events", body=body(*(document(n) for n in names[:-1])))
    exchange.get(f"{BASE}/events", body=body(document(names[-1])))
    found = client_of(limiter, clock).get_events([*names, names[0]])
    assert [event.ticker for event in found] == names
    first, second = asked(exchange)
    assert first["tickers"] == [",".join(names[:-1])]
    assert (first["with_nested_markets"], second["tickers"]) == (["true"], [names[-1]])
    # What lanes above keep for themselves was not touched.
    assert limiter.available(RequestKind.READ, Lane.PRICE) > 0


def test_an_event_that_is_not_listed_is_missing(exchange: responses.RequestsMock) -> None:
    clock = FakeClock()
    exchange.get(f"{BASE}/events", body=body(document("KXA-1")))
    limiter = RateLimiter(clock, Quota(200, 200), Quota(100, 100))
    found = client_of(limiter, clock).get_events(["KXA-1", "KXMVECOMBO-1"])
    assert [event.ticker for event in found] == ["KXA-1"]


def test_without_budget_in_its_lane_nothing_is_asked() -> None:
    clock = FakeClock()
    limiter = RateLimiter(clock, Quota(200, 0.001), Quota(100, 100))
    assert limiter.try_acquire(RequestKind.READ, Lane.EXIT, 120)
    with pytest.raises(TransientError):
        client_of(limiter, clock).get_events(["KXA-1"])
    assert limiter.try_acquire(RequestKind.READ, Lane.PRICE, 10)


def test_a_ticker_that_could_escape_its_parameter_is_refused() -> None:
    clock = FakeClock()
    limiter = RateLimiter(clock, Quota(200, 200), Quota(100, 100))
    with pytest.raises(WireError):
        client_of(limiter, clock).get_events(["KXA-1,KXB-1"])
