"""Scenario files, and what the participants make of them."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from base.errors import ConfigError
from base.model.market import MarketStatus, OutcomeSide
from base.sandbox.happenings import Happening, TickerChanged
from base.sandbox.scenario import default_scenario, load_scenario, parse_scenario
from base.sandbox.venue import Venue
from tests.fakes.clock import FakeClock


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("balance = ", "not TOML"),
        ("surprise = 1", "unknown key 'surprise'"),
        ("[[market]]\nbid = '0.4'", "needs a ticker"),
        ("[[market]]\nticker = 'A'\nbid = 0.4", "bid must be a number"),
        ("[[market]]\nticker = 'A'\nbid = '0.5'\nask = '0.4'", "the ask must be above"),
        ("[[market]]\nticker = 'A'\nmode = 'jump'", "mode must be one of"),
        ("[[market]]\nticker = 'A'\nmode = 'script'", "needs script"),
        ("[[market]]\nticker = 'A'\nscript = [[1, '0.4', '0.5'], [0, '0.4', '0.5']]", "must not step back"),
        ("[[market]]\nticker = 'A'\nscript = [[0, '0.4']]", "each script row"),
        ("[[market]]\nticker = 'A'\nposition = { side = 'up' }", "side must be one of"),
        ("[[market]]\nticker = 'A'\nposition = { count = '0' }", "count above 0"),
        ("[[market]]\nticker = 'A'\n[[market]]\nticker = 'A'", "named twice"),
        ("[[fleet]]\ncount = -1", "count must be a whole number"),
        ("market = 3", r"\[\[market\]\]"),
    ],
)
def test_problems_are_named(text: str, word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        parse_scenario(text)


def test_all_problems_come_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        parse_scenario("x = 1\n[[market]]\nticker = 'A'\nbid = 'NaN'\ngrid = 'odd'")
    assert len(error.value.problems) == 3


def test_a_missing_file_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_scenario(tmp_path / "none.toml")


def run(venue: Venue, clock: FakeClock, seconds: float) -> None:
    for _ in range(round(seconds / 0.1)):
        clock.advance(0.1)
        venue.step()


def test_the_default_scenario_drops_one_yes_and_one_no_position() -> None:
    clock = FakeClock()
    venue = Venue(default_scenario(), clock=clock, seed=7)
    started = clock.now()
    held = {p.ticker: p for p in venue.exchange.ledger.positions.values()}
    assert len(venue.exchange.markets) == 11
    assert len(held) == 6
    crossed: dict[str, float] = {}
    for _ in range(450):
        run(venue, clock, 0.1)
        for ticker, position in held.items():
            bid, ask = venue.exchange.yes_values(ticker)
            value = bid if position.count > 0 else 1 - ask
            if value <= position.cost / abs(position.count) * Decimal("0.75"):
                crossed.setdefault(ticker, clock.now() - started)
    assert set(crossed) == {"KXHIGHNY-SANDBOX-B54.5", "KXBTC-SANDBOX-T104999.99"}
    assert 15 <= crossed["KXHIGHNY-SANDBOX-B54.5"] <= 20
    assert 28 <= crossed["KXBTC-SANDBOX-T104999.99"] <= 32
    run(venue, clock, 155)
    assert venue.exchange.market("KXBTC15M-SANDBOX-15").status is MarketStatus.FINALIZED


def test_a_fleet_holds_a_position_in_each_market_and_ticks_every_second() -> None:
    clock = FakeClock()
    text = "[[fleet]]\ncount = 20\nmode = 'ticking'\nside = 'mixed'\n[[fleet]]\ncount = 5\nmode = 'quiet'"
    venue = Venue(parse_scenario(text), clock=clock, seed=7)
    heard: list[Happening] = []
    venue.listeners.append(heard.append)
    counts = [p.count for p in venue.exchange.ledger.positions.values()]
    assert (len(counts), sum(1 for c in counts if c < 0)) == (25, 10)
    run(venue, clock, 3)
    heard.clear()
    run(venue, clock, 10)
    per_market: dict[str, int] = {}
    for happening in heard:
        if isinstance(happening, TickerChanged):
            per_market[happening.ticker] = per_market.get(happening.ticker, 0) + 1
    assert len(per_market) == 20
    assert all(8 <= count <= 11 for count in per_market.values())


def test_a_script_empties_sides_and_the_seed_repeats_a_walk() -> None:
    text = """
    [[market]]
    ticker = "A-1-X"
    script = [[0, "0.50", "0.52"], [5, "0.00", "0.52"], [6, "0.40", "1.00"]]
    result = "no"
    [[market]]
    ticker = "A-1-Y"
    bid = "0.50"
    ask = "0.52"
    mode = "walk"
    """
    walks = []
    for _ in range(2):
        clock = FakeClock()
        venue = Venue(parse_scenario(text), clock=clock, seed=3)
        run(venue, clock, 5.2)
        assert venue.exchange.market("A-1-X").top().yes_bid_size == 0
        run(venue, clock, 1)
        top = venue.exchange.market("A-1-X").top()
        assert (top.yes_bid, top.yes_ask, top.yes_ask_size) == (Decimal("0.40"), 1, 0)
        assert venue.exchange.market("A-1-X").spec.result is OutcomeSide.NO
        path = []
        for _ in range(200):
            run(venue, clock, 0.1)
            path.append(venue.exchange.market("A-1-Y").top())
        walks.append(path)
    assert walks[0] == walks[1]
    assert len(set(walks[0])) > 5
