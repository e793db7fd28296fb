"""The canary: what it asks, when it asks again, and what an answer that has changed does."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from base.app.drift import ALONE_S, DOUBTS_MAX, PASS_S, READ_S, RETRY_S_MAX, TICKER_S, DriftCanary
from base.errors import TransientError
from base.kalshi.needed_fields import Source
from tests.fakes.clock import FakeClock
from tests.fakes.stream_server import ticker
from tests.kalshi.bodies import MARKET, POSITION, but


def frame(**changes: Any) -> bytes:
    document = ticker("KXA-1")
    return json.dumps(document | {"msg": but(document["msg"], **changes)}).encode()


@dataclass
class Rig:
    """An exchange whose answers are set by the test, and a clock that its passes move on."""

    market: dict[str, Any] = field(default_factory=lambda: dict(MARKET))
    markets: list[Any] | None = None
    position: dict[str, Any] = field(default_factory=lambda: dict(POSITION))
    sample: bytes | None = None
    earlier: bytes | None = None
    held: list[str] = field(default_factory=list)
    malformed: int = 0
    is_down: bool = False
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    clock: FakeClock = field(default_factory=FakeClock)

    def __post_init__(self) -> None:
        self.canary = DriftCanary(
            self.read, self.samples, lambda: self.held, lambda: self.malformed, self.clock
        )

    def samples(self) -> tuple[bytes, ...]:
        return tuple(sample for sample in (self.earlier, self.sample) if sample is not None)

    def read(self, path: str, params: Mapping[str, str]) -> dict[str, Any]:
        self.asked.append((path, dict(params)))
        if self.is_down:
            raise TransientError("503")
        if path == "/markets":
            return {"markets": [self.market] if self.markets is None else self.markets, "cursor": ""}
        return {"market_positions": [self.position], "cursor": ""}

    def look(self) -> float:
        """One pass; return after how many seconds it wants the next."""
        return self.canary.run_once()

    def run_for(self, seconds: float) -> int:
        """Passes as they are wanted; return how many reads there were."""
        before = len(self.asked)
        until = self.clock.monotonic() + seconds
        while self.clock.monotonic() < until:
            self.clock.advance(self.look())
        return len(self.asked) - before


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_nothing_is_armed_before_the_first_look(rig: Rig) -> None:
    assert rig.canary.trouble()
    assert rig.canary.doubts() == []
    rig.look()
    assert rig.canary.trouble() == ""


def test_an_exchange_that_does_not_answer_is_asked_again_soon_and_arms_nothing(rig: Rig) -> None:
    rig.is_down = True
    delays = []
    for _ in range(9):
        delays.append(rig.look())
        rig.clock.advance(delays[-1])
    assert rig.canary.trouble()
    assert rig.canary.doubts() == [], "who needs the reads tells of them"
    assert delays[:3] == [1.0, 2.0, 4.0]
    assert rig.run_for(600) <= 600 / RETRY_S_MAX + 2
    rig.is_down = False
    rig.run_for(RETRY_S_MAX)
    assert rig.canary.trouble() == ""


def test_it_asks_two_small_pages_at_the_start_and_once_a_day(rig: Rig) -> None:
    rig.sample = frame()
    assert rig.look() == PASS_S
    assert rig.asked == [
        ("/markets", {"status": "open", "limit": "1"}),
        ("/portfolio/positions", {"limit": "100"}),
    ]
    assert rig.run_for(READ_S - 120) == 0
    assert rig.run_for(300) == 2


def test_a_market_that_is_held_is_looked_at_before_any_other(rig: Rig) -> None:
    rig.held = ["KXA-1", "KXB-1"]
    rig.look()
    assert rig.asked[0] == ("/markets", {"tickers": "KXA-1", "limit": "1"})


@pytest.mark.parametrize(
    ("change", "where", "name"),
    [
        ({"market": but(MARKET, yes_bid_dollars=...)}, Source.MARKET, "yes_bid_dollars"),
        ({"market": but(MARKET, yes_bid_size_fp=263)}, Source.MARKET, "yes_bid_size_fp"),
        ({"markets": {}}, Source.MARKET, "markets"),
        ({"position": but(POSITION, position_fp=...)}, Source.POSITION, "position_fp"),
    ],
    ids=["a price is gone", "a size as a number", "no list", "no count"],
)
def test_a_field_that_is_gone_disarms_until_it_is_back(
    change: dict[str, Any], where: Source, name: str
) -> None:
    rig = Rig(**change)
    rig.look()
    assert rig.canary.trouble()
    assert [(d.source, d.field) for d in rig.canary.drifts()] == [(where, name)]
    (doubt,) = rig.canary.doubts()
    assert name in doubt
    assert name in rig.canary.trouble()
    assert "entries are off" in doubt
    rig.market, rig.markets, rig.position, rig.sample = MARKET, None, POSITION, frame()
    rig.clock.advance(RETRY_S_MAX)
    rig.look()
    assert rig.canary.trouble() == ""
    assert rig.canary.doubts() == []


def test_a_field_that_goes_while_running_is_found(rig: Rig) -> None:
    rig.sample = frame()
    rig.look()
    assert rig.canary.trouble() == ""
    rig.sample = frame(yes_ask_dollars=0.45)
    rig.clock.advance(PASS_S)
    assert rig.look() == TICKER_S
    rig.look()
    assert rig.canary.trouble() == "", "one bad frame, looked at twice, is one bad frame"
    rig.sample = frame(yes_ask_dollars=0.46)
    rig.clock.advance(TICKER_S)
    rig.look()
    assert [(d.source, d.field) for d in rig.canary.drifts()] == [(Source.TICKER, "yes_ask_dollars")]
    assert rig.canary.trouble(), "the stream within a minute and a bit"
    rig.sample = frame()
    rig.clock.advance(PASS_S)
    rig.look()
    rig.market = but(MARKET, status=...)
    rig.run_for(READ_S + PASS_S)
    assert [d.field for d in rig.canary.drifts()] == ["status"], "the reads within a day"


def test_the_state_names_the_first_fields_that_are_gone_and_counts_the_others(rig: Rig) -> None:
    gone = [
        name
        for name in MARKET
        if name.endswith("_dollars") or name in ("status", "close_time", "event_ticker")
    ]
    rig.market = but(MARKET, **dict.fromkeys(gone, 7))
    rig.look()
    found = [drift.field for drift in rig.canary.drifts()]
    assert len(found) > DOUBTS_MAX
    assert [name in rig.canary.trouble() for name in found] == [n < DOUBTS_MAX for n in range(len(found))]
    assert f"and {len(found) - DOUBTS_MAX} more" in rig.canary.trouble()


def test_two_bad_frames_that_lack_different_things_are_no_change(rig: Rig) -> None:
    for sample in (frame(ts_ms=...), frame(yes_bid_size_fp=...), frame(), frame(ts_ms=...)):
        rig.sample = sample
        rig.look()
        assert rig.canary.drifts() == ()


def test_two_bad_frames_at_once_are_a_change_and_one_before_a_good_one_is_none(rig: Rig) -> None:
    rig.earlier, rig.sample = frame(yes_bid_dollars=...), frame()
    rig.look()
    assert rig.canary.drifts() == ()
    rig.earlier, rig.sample = frame(yes_bid_dollars=...), frame(yes_bid_dollars=...)
    rig.look()
    assert [drift.field for drift in rig.canary.drifts()] == ["yes_bid_dollars"]


def test_a_first_frame_that_is_bad_and_has_no_successor_is_a_change_within_a_minute(rig: Rig) -> None:
    rig.sample = frame(market_ticker=...)
    rig.run_for(ALONE_S - TICKER_S)
    assert rig.canary.drifts() == ()
    rig.run_for(2 * TICKER_S)
    assert [drift.field for drift in rig.canary.drifts()] == ["market_ticker"]
    assert rig.canary.trouble()
    rig.run_for(3_600)
    rig.sample = frame()
    rig.run_for(TICKER_S + 1)
    assert rig.canary.trouble() == ""
    rig.sample = frame(market_ticker=...)
    rig.run_for(3_600)
    assert rig.canary.drifts() == (), "after a good one, a bad one alone is one bad frame"


def test_frames_that_cannot_be_read_bring_the_next_look_forward(rig: Rig) -> None:
    rig.sample = frame()
    rig.look()
    rig.clock.advance(60)
    rig.malformed = 3
    rig.look()
    assert len(rig.asked) == 2, "not at once: a flood of them must not be a flood of reads"
    assert rig.run_for(700) == 2
    assert rig.run_for(3_600) == 0, "the same ones count once"


def test_what_was_not_seen_is_not_missed(rig: Rig) -> None:
    rig.markets = []
    rig.look()
    assert rig.canary.trouble() == ""


def test_an_empty_page_does_not_give_back_what_was_missing(rig: Rig) -> None:
    rig.market = but(MARKET, yes_bid_dollars=...)
    rig.look()
    rig.markets = []
    rig.clock.advance(RETRY_S_MAX)
    rig.look()
    assert rig.canary.trouble()


def test_a_first_ticker_is_looked_for_more_often(rig: Rig) -> None:
    assert rig.look() == TICKER_S
    rig.sample = frame()
    rig.clock.advance(TICKER_S)
    assert rig.look() == PASS_S


def test_news_are_no_trouble(rig: Rig) -> None:
    rig.market = but(MARKET, tomorrow="1", status="napping")
    rig.look()
    assert rig.canary.trouble() == ""
    assert rig.canary.doubts() == []


def test_alarms_are_loud_once_and_news_are_told_once(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """By level and event, not by text: an alert hangs on them."""
    rig.market = but(MARKET, yes_bid_dollars=..., tomorrow="1")
    with caplog.at_level("INFO"):
        for _ in range(3):
            rig.look()
            rig.clock.advance(RETRY_S_MAX)
        rig.market = MARKET
        rig.look()
    events = [(r.levelname, r.event_fields["event"]) for r in caplog.records]  # type: ignore[attr-defined]
    assert events == [("CRITICAL", "api_drift"), ("INFO", "api_news"), ("INFO", "api_drift_over")]
