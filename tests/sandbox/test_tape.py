"""Tapes: every format, mapped time, the account's position, the close."""

from __future__ import annotations

import gzip
import json
import random
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from base.errors import ConfigError
from base.model.market import BookSide, MarketStatus, OutcomeSide
from base.model.order import TimeInForce
from base.sandbox.exchange import Exchange
from base.sandbox.happenings import Happening, TickerChanged
from base.sandbox.market import NO_QUOTE
from base.sandbox.records import NewOrder, SelfTradePrevention
from base.sandbox.tape import TapePlayer, close_from_ticker, open_tape
from tests.sandbox.engine import NOW

T = "KXBTC15M-26MAY110115-15"
CLOSE = datetime(2026, 5, 11, 5, 15, tzinfo=UTC).timestamp()


def ticker_row(
    at: float, bid: str, ask: str, bid_size: str = "10.00", ask_size: str = "20.00"
) -> dict[str, object]:
    return {
        "recv_ts": at,
        "type": "ticker",
        "sid": 1,
        "msg": {
            "market_ticker": T,
            "price_dollars": "0.5000",
            "yes_bid_dollars": bid,
            "yes_ask_dollars": ask,
            "volume_fp": "100.00",
            "open_interest_fp": "50.00",
            "yes_bid_size_fp": bid_size,
            "yes_ask_size_fp": ask_size,
            "last_trade_size_fp": "1.00",
            "ts_ms": int(at * 1000),
        },
    }


def book_row(at: float | None, kind: str, **msg: object) -> dict[str, object]:
    row: dict[str, object] = {"type": kind, "sid": 1, "seq": 1, "msg": {"market_ticker": "KXB-1-A", **msg}}
    return row if at is None else {"recv_ts": at, **row}


def bbo_row(at: float, bid: int, ask: int) -> dict[str, object]:
    row = {"recv_ts": at, "type": "_bbo", "market_ticker": "KXHIGHNY-25DEC19-T61"}
    return {**row, "best_yes_bid": bid, "best_no_bid": 100 - ask, "implied_yes_ask": ask}


class Show:
    """A player and its exchange."""

    def __init__(
        self,
        folder: Path,
        rows: list[dict[str, object]],
        *,
        speed: float = 1.0,
        side: OutcomeSide | None,
        pause_max_s: float | None = None,
    ) -> None:
        path = folder / "tape.jsonl.gz"
        with gzip.open(path, "wt") as lines:
            lines.writelines(json.dumps(row) + "\n" for row in rows)
        self.happened: list[Happening] = []
        self.exchange = Exchange(balance=Decimal(1000), rng=random.Random(1), sink=self.happened.append)
        self.player = TapePlayer(
            self.exchange, open_tape(path), start=NOW, speed=speed, side=side, pause_max_s=pause_max_s
        )

    def at(self, seconds: float) -> None:
        self.player.step(NOW + seconds)
        self.exchange.advance(NOW + seconds)

    def sell(self, ticker: str, count: str) -> Decimal:
        order = NewOrder(
            ticker,
            BookSide.ASK,
            Decimal(count),
            Decimal("0.01"),
            TimeInForce.IMMEDIATE_OR_CANCEL,
            SelfTradePrevention.TAKER_AT_CROSS,
            f"sale-{len(self.exchange.ledger.orders)}",
        )
        return self.exchange.orders.place(order, NOW).fill_count


def test_the_close_is_read_from_the_ticker() -> None:
    assert close_from_ticker(T) == CLOSE
    assert close_from_ticker("KXHIGHNY-25DEC19-T61") is None


@pytest.mark.parametrize(
    ("side", "entry", "count"),
    [(OutcomeSide.YES, "0.62", 10), (OutcomeSide.NO, "0.37", -10)],
)
def test_a_ticker_tape_gives_a_position_and_closes_on_time(
    tmp_path: Path, side: OutcomeSide, entry: str, count: int
) -> None:
    start = CLOSE - 100
    rows = [
        ticker_row(start, "0.0000", "0.6300", "0.00"),
        ticker_row(start + 1, "0.6200", "0.6300"),
        ticker_row(start + 50, "0.9000", "0.9100"),
        ticker_row(CLOSE + 0.5, "0.0000", "1.0000", "0.00", "0.00"),
    ]
    show = Show(tmp_path, rows, speed=10, side=side)
    show.at(0.05)
    assert show.exchange.ledger.positions == {}
    show.at(0.2)
    position = show.exchange.ledger.positions[T]
    assert (position.count, position.cost) == (count, Decimal(entry) * 10)
    market = show.exchange.market(T)
    assert market.close_time == pytest.approx(NOW + 10)
    show.at(9.9)
    assert market.top().yes_bid == Decimal("0.90")
    assert market.status is MarketStatus.ACTIVE
    show.at(10.06)
    assert (market.status, market.top()) == (MarketStatus.CLOSED, NO_QUOTE)
    for step in range(30):
        show.at(10 + step)
    assert market.status is MarketStatus.FINALIZED
    assert market.result is OutcomeSide.YES
    tickers = [h for h in show.happened if isinstance(h, TickerChanged)]
    assert len(tickers) == 4
    stamps = [h.ts_ms for h in tickers]
    assert stamps == sorted(set(stamps))
    assert stamps[1] == int((NOW + 0.1) * 1000)


def test_what_the_account_takes_is_gone_until_the_next_frame(tmp_path: Path) -> None:
    start = CLOSE - 100
    rows = [ticker_row(start, "0.6200", "0.6300"), ticker_row(start + 5, "0.6200", "0.6300")]
    show = Show(tmp_path, rows, side=None)
    show.at(0)
    assert [show.sell(T, "8"), show.sell(T, "8")] == [8, 2]
    show.at(5)
    assert show.sell(T, "8") == 8


def test_a_pause_of_the_recorder_can_be_shortened(tmp_path: Path) -> None:
    rows = [
        bbo_row(1000.0, 30, 40),
        bbo_row(1050.0, 31, 41),
        bbo_row(9000.0, 32, 42),
        bbo_row(9001.0, 33, 43),
    ]
    show = Show(tmp_path, rows, speed=10, side=None, pause_max_s=100)
    ticker = "KXHIGHNY-25DEC19-T61"
    show.at(5.0)  # a silence shorter than a minute is played as long as it was
    assert show.exchange.market(ticker).top().yes_bid == Decimal("0.31")
    show.at(14.9)
    assert show.exchange.market(ticker).top().yes_bid == Decimal("0.31")
    show.at(15.0)
    assert show.exchange.market(ticker).top().yes_bid == Decimal("0.32")
    assert show.player.wall_time(9001.0) == pytest.approx(NOW + 15.1)


def test_an_order_book_tape_plays_the_whole_book(tmp_path: Path) -> None:
    yes, no = [["0.4000", "10.00"], ["0.4500", "5.00"]], [["0.5000", "7.00"]]
    rows = [
        book_row(100.0, "orderbook_snapshot", yes_dollars_fp=yes, no_dollars_fp=no),
        book_row(101.0, "orderbook_delta", price_dollars="0.4500", delta_fp="-2.00", side="yes"),
        book_row(102.0, "orderbook_delta", price_dollars="0.5200", delta_fp="3.00", side="no"),
        book_row(110.0, "orderbook_delta", price_dollars="0.5200", delta_fp="-3.00", side="no"),
    ]
    show = Show(tmp_path, rows, side=OutcomeSide.YES)
    show.at(0)
    book = show.exchange.market("KXB-1-A").book
    assert book.levels(BookSide.BID) == [(Decimal("0.45"), 5), (Decimal("0.40"), 10)]
    assert show.exchange.ledger.positions["KXB-1-A"].cost == Decimal("4.50")
    show.at(1)
    assert show.sell("KXB-1-A", "13") == 13
    assert book.levels(BookSide.BID) == []
    show.at(2)
    assert book.levels(BookSide.BID) == [(Decimal("0.45"), 3), (Decimal("0.40"), 10)]
    assert book.levels(BookSide.ASK) == [(Decimal("0.48"), 3), (Decimal("0.50"), 7)]


def test_a_tape_of_best_prices_gets_sizes(tmp_path: Path) -> None:
    show = Show(tmp_path, [bbo_row(1.0, 40, 45), bbo_row(2.0, 0, 45), bbo_row(9.0, 0, 100)], side=None)
    show.at(0)
    top = show.exchange.market("KXHIGHNY-25DEC19-T61").top()
    assert (top.yes_bid, top.yes_ask, top.yes_bid_size) == (Decimal("0.40"), Decimal("0.45"), 100)
    show.at(1)
    top = show.exchange.market("KXHIGHNY-25DEC19-T61").top()
    assert (top.yes_bid, top.yes_bid_size) == (0, 0)


def test_rows_without_a_receive_time_use_ts_ms(tmp_path: Path) -> None:
    rows = [
        book_row(None, "orderbook_snapshot", yes_dollars_fp=[["0.4000", "10.00"]]),
        book_row(None, "orderbook_delta", price_dollars="0.4000", delta_fp="1.00", side="yes", ts_ms=50_000),
        book_row(None, "orderbook_delta", price_dollars="0.4000", delta_fp="1.00", side="yes", ts_ms=53_000),
    ]
    show = Show(tmp_path, rows, side=None)
    show.at(2.9)
    market = show.exchange.market("KXB-1-A")
    assert market.book.size_at(BookSide.BID, Decimal("0.40")) == 11
    assert market.close_time == pytest.approx(NOW + 3)


@pytest.mark.parametrize(
    ("text", "word"),
    [("", "holds no"), ("{", "not JSON"), ("[]\n", "line 1"), ('{"recv_ts":1,"type":"_bbo"}\n', "line 1")],
)
def test_a_bad_tape_is_refused(tmp_path: Path, text: str, word: str) -> None:
    path = tmp_path / "tape.jsonl"
    path.write_text(text)
    with pytest.raises(ConfigError, match=word):
        open_tape(path)


def test_a_missing_tape_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        open_tape(tmp_path / "none.jsonl.gz")
