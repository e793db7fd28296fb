"""Recorded tapes: reading their formats, and playing them into the exchange in mapped wall time.

Formats: `ticker` frames, `orderbook_snapshot`/`orderbook_delta` frames (both as the stream sends them,
with an optional `recv_ts`), and `_bbo` rows in whole cents. Everything else on a tape is skipped.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from base.errors import ConfigError
from base.model.market import BookSide, MarketStatus, OutcomeSide
from base.sandbox.exchange import Exchange
from base.sandbox.fixed_point import CENT, ONE, ZERO
from base.sandbox.market import MarketSpec, SandboxMarket

BBO_SIZE = Decimal(100)  # _bbo rows tell no sizes
POSITION_COUNT = Decimal(10)
POSITION_BID_RANGE = (Decimal("0.30"), Decimal("0.80"))
FRAMES_PER_STEP_MAX = 5_000
PAUSE_S_MIN = 60.0  # shorter silences are the market's own and are never shortened
_FIFTEEN_MINUTES = re.compile(r"KX[A-Z]+15M-(\d{2}[A-Z]{3}\d{6})-", re.ASCII)
Levels = dict[Decimal, Decimal]


@dataclass(frozen=True, slots=True)
class Frame:
    """One row of a tape that moves a market; `at` is tape time in seconds."""

    at: float
    ticker: str


@dataclass(frozen=True, slots=True)
class TopFrame(Frame):
    """Best bid and ask. The totals are None on rows that do not tell them."""

    bid: Decimal
    ask: Decimal
    bid_size: Decimal
    ask_size: Decimal
    last_price: Decimal | None = None
    volume: Decimal | None = None
    open_interest: Decimal | None = None
    last_trade_size: Decimal | None = None


@dataclass(frozen=True, slots=True)
class SnapshotFrame(Frame):
    """A whole book on the YES leg."""

    bids: Levels
    asks: Levels


@dataclass(frozen=True, slots=True)
class DeltaFrame(Frame):
    """A signed change of one level on the YES leg."""

    side: BookSide
    price: Decimal
    change: Decimal


@dataclass(slots=True)
class TapeMarket:
    """What a first reading of the tape tells about one market."""

    ticker: str
    last_at: float
    has_tops: bool = False
    has_book: bool = False
    is_fine_at_edges: bool = False
    is_fine_inside: bool = False
    closes_at: float = 0.0

    @property
    def grid_name(self) -> str:
        if self.is_fine_inside:
            return "deci_cent"
        return "tapered_deci_cent" if self.is_fine_at_edges else "linear_cent"


@dataclass(frozen=True, slots=True)
class Tape:
    """A tape that has been read once, so that every market's close and grid are known."""

    path: Path
    starts_at: float
    markets: Mapping[str, TapeMarket]
    pauses: tuple[tuple[float, float], ...] = ()
    """Stretches of tape time without any row, longer than PAUSE_S_MIN: the recorder was off."""

    def frames(self) -> Iterator[Frame]:
        return _frames(self.path)


def open_tape(path: Path) -> Tape:
    """Read a tape through once. Raises ConfigError when it is not one."""
    markets: dict[str, TapeMarket] = {}
    starts_at: float | None = None
    last_at: float | None = None
    pauses: list[tuple[float, float]] = []
    for frame in _frames(path):
        starts_at = frame.at if starts_at is None else starts_at
        if last_at is not None and frame.at - last_at > PAUSE_S_MIN:
            pauses.append((last_at, frame.at))
        last_at = frame.at
        market = markets.setdefault(frame.ticker, TapeMarket(frame.ticker, frame.at))
        market.last_at = frame.at
        match frame:
            case TopFrame():
                market.has_tops = True
                _note_grid(market, frame.bid, frame.ask)
            case SnapshotFrame():
                market.has_book = True
                _note_grid(market, *frame.bids, *frame.asks)
            case DeltaFrame():
                market.has_book = True
                _note_grid(market, frame.price)
    if starts_at is None:
        raise ConfigError([f"tape {path}: holds no ticker, order-book or _bbo row"])
    for market in markets.values():
        market.closes_at = close_from_ticker(market.ticker) or market.last_at
    return Tape(path, starts_at, markets, tuple(pauses))


def close_from_ticker(ticker: str) -> float | None:
    """The close that a 15-minute market's ticker names in New York time, None for other tickers.

    KXBTC15M-26MAY110115-15 closes 2026-05-11 01:15 (05:15 UTC), as its last recorded frames confirm.
    """
    match = _FIFTEEN_MINUTES.match(ticker)
    if match is None:
        return None
    try:
        zone = ZoneInfo("America/New_York")
        return datetime.strptime(match[1], "%y%b%d%H%M").replace(tzinfo=zone).timestamp()
    except ZoneInfoNotFoundError as exc:
        raise ConfigError(["this machine has no time zone data; install the tzdata package"]) from exc
    except ValueError:
        return None


def _note_grid(market: TapeMarket, *prices: Decimal) -> None:
    for price in prices:
        if price % CENT:
            inside = Decimal("0.1") < price < Decimal("0.9")
            market.is_fine_inside |= inside
            market.is_fine_at_edges |= not inside


# Reading


def _frames(path: Path) -> Iterator[Frame]:
    """The frames of a tape in order; rows without a time of their own take the last one seen."""
    last_at: float | None = None
    waiting: list[dict[str, object]] = []  # rows before the first known time
    for number, row in _rows(path):
        at = _time_of(row)
        if at is None and last_at is None:
            waiting.append(row)
            continue
        # Time never steps back: a clock that did would hold the tape up.
        last_at = max(at or 0.0, last_at or 0.0)
        for due in (*waiting, row):
            try:
                frame = _frame(due, last_at)
            except (KeyError, TypeError, ValueError, InvalidOperation) as exc:
                raise ConfigError([f"tape {path}, line {number}: not a frame: {exc!r}"]) from exc
            if frame is not None:
                yield frame
        waiting.clear()


def _rows(path: Path) -> Iterator[tuple[int, dict[str, object]]]:
    try:
        with (
            gzip.open(path, "rt", encoding="utf-8")
            if path.suffix == ".gz"
            else path.open(encoding="utf-8") as lines
        ):
            for number, line in enumerate(lines, start=1):
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ConfigError([f"tape {path}, line {number}: not a JSON object"])
                yield number, row
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as exc:
        raise ConfigError([f"tape {path}: cannot be read ({exc})"]) from exc
    except json.JSONDecodeError as exc:
        raise ConfigError([f"tape {path}: not JSON lines ({exc})"]) from exc


def _time_of(row: Mapping[str, object]) -> float | None:
    received = row.get("recv_ts")
    if isinstance(received, int | float):
        return float(received)
    msg = row.get("msg")
    stamp = msg.get("ts_ms") if isinstance(msg, dict) else None
    return stamp / 1000 if isinstance(stamp, int) else None


def _frame(row: Mapping[str, object], at: float) -> Frame | None:
    """The frame of a row, None for rows that move no market."""
    if row.get("type") == "_bbo":
        bid, ask = _cents(row["best_yes_bid"]), _cents(row["implied_yes_ask"])
        return TopFrame(
            at,
            str(row["market_ticker"]),
            bid,
            ask,
            BBO_SIZE if bid > 0 else ZERO,
            BBO_SIZE if ZERO < ask < ONE else ZERO,
        )
    msg = row.get("msg")
    if not isinstance(msg, dict) or "market_ticker" not in msg:
        return None
    ticker = str(msg["market_ticker"])
    match row.get("type"):
        case "ticker":
            return TopFrame(
                at,
                ticker,
                Decimal(msg["yes_bid_dollars"]),
                Decimal(msg["yes_ask_dollars"]),
                Decimal(msg["yes_bid_size_fp"]),
                Decimal(msg["yes_ask_size_fp"]),
                Decimal(msg["price_dollars"]),
                Decimal(msg["volume_fp"]),
                Decimal(msg["open_interest_fp"]),
                Decimal(msg.get("last_trade_size_fp", "0")),
            )
        case "orderbook_snapshot":
            bids = {Decimal(p): Decimal(s) for p, s in msg.get("yes_dollars_fp", ())}
            asks = {ONE - Decimal(p): Decimal(s) for p, s in msg.get("no_dollars_fp", ())}
            return SnapshotFrame(at, ticker, bids, asks)
        case "orderbook_delta":
            price, change = Decimal(msg["price_dollars"]), Decimal(msg["delta_fp"])
            if msg["side"] == "yes":
                return DeltaFrame(at, ticker, BookSide.BID, price, change)
            return DeltaFrame(at, ticker, BookSide.ASK, ONE - price, change)
        case _:
            return None


def _cents(value: object) -> Decimal:
    if type(value) is not int or not 0 <= value <= 100:
        raise ValueError(f"not a price in cents: {value!r}")
    return Decimal(value) / 100


# Playing


@dataclass(slots=True)
class _Recorded:
    """A market's book as the tape says it is, whatever the account took out of it."""

    bids: Levels = field(default_factory=dict)
    asks: Levels = field(default_factory=dict)
    fills_seen: int = 0
    is_position_given: bool = False


class TapePlayer:
    """Plays a tape into an exchange from `start` on; belongs to the exchange's thread.

    What the account takes is gone until the market's next recorded frame. `pause_max_s` shortens the
    tape's pauses to that many tape seconds; None plays them as long as they were.
    """

    def __init__(
        self,
        exchange: Exchange,
        tape: Tape,
        *,
        start: float,
        speed: float = 1.0,
        side: OutcomeSide | None,
        pause_max_s: float | None = None,
    ) -> None:
        self._exchange = exchange
        self._tape = tape
        self._start = start
        self._speed = speed
        self._side = side
        self._pause_max_s = pause_max_s
        self._frames = tape.frames()
        self._next = next(self._frames, None)
        self._recorded: dict[str, _Recorded] = {}

    @property
    def is_finished(self) -> bool:
        return self._next is None

    @property
    def next_at(self) -> float | None:
        """Tape time of the next frame, None at the end."""
        return None if self._next is None else self._next.at

    def wall_time(self, at: float) -> float:
        """Tape time as wall time."""
        return self._start + (at - self._tape.starts_at - self._left_out(at)) / self._speed

    def _left_out(self, at: float) -> float:
        """Tape seconds before `at` that are not played."""
        if self._pause_max_s is None:
            return 0.0
        shortest = max(PAUSE_S_MIN, self._pause_max_s)
        return sum(max(0.0, min(at, end) - begin - shortest) for begin, end in self._tape.pauses)

    def step(self, now: float) -> None:
        """Play what is due, at most a bounded number of frames so that the server stays responsive."""
        for _ in range(FRAMES_PER_STEP_MAX):
            if self._next is None or self.wall_time(self._next.at) > now:
                return
            self._play(self._next, self.wall_time(self._next.at))
            self._next = next(self._frames, None)

    def _play(self, frame: Frame, at: float) -> None:
        market = self._exchange.markets.get(frame.ticker) or self._open(frame.ticker, at)
        if market.status is MarketStatus.ACTIVE and at >= market.close_time:
            self._exchange.advance(at)
        match frame:
            case TopFrame():
                self._play_top(market, frame, at)
            case SnapshotFrame():
                self._play_snapshot(market, frame, at)
            case DeltaFrame():
                self._play_delta(market, frame, at)
        self._give_position(market, at)

    def _open(self, ticker: str, at: float) -> SandboxMarket:
        known = self._tape.markets[ticker]
        spec = MarketSpec(ticker, title=f"{ticker} (recorded)", grid_name=known.grid_name, open_time=at)
        # A market that ends with its tape still shows its last frame before it closes.
        close_time = max(self.wall_time(known.closes_at), at + 0.001)
        self._recorded[ticker] = _Recorded()
        return self._exchange.add_market(
            spec, close_time=close_time, now=at, follows_recording=known.has_tops
        )

    def _play_top(self, market: SandboxMarket, frame: TopFrame, at: float) -> None:
        if not self._tape.markets[market.ticker].has_book:
            bids = {frame.bid: frame.bid_size} if frame.bid > 0 and frame.bid_size > 0 else {}
            asks = {frame.ask: frame.ask_size} if ZERO < frame.ask < ONE and frame.ask_size > 0 else {}
            self._exchange.set_quotes(market.ticker, bids, asks, at)
        if frame.last_price is not None:
            market.last_price = frame.last_price
            market.last_trade_size = frame.last_trade_size or ZERO
            market.volume = frame.volume or ZERO
            market.open_interest = frame.open_interest or ZERO
        if market.status is MarketStatus.ACTIVE or market.ticker_content() != market.ticker_sent:
            self._exchange.send_ticker(market.ticker, at)

    def _play_snapshot(self, market: SandboxMarket, frame: SnapshotFrame, at: float) -> None:
        recorded = self._recorded[market.ticker]
        recorded.bids, recorded.asks = dict(frame.bids), dict(frame.asks)
        if market.status is not MarketStatus.ACTIVE and not frame.bids and not frame.asks:
            self._exchange.empty_after_close(market.ticker, at)
        else:
            self._exchange.set_quotes(market.ticker, recorded.bids, recorded.asks, at)

    def _play_delta(self, market: SandboxMarket, frame: DeltaFrame, at: float) -> None:
        recorded = self._recorded[market.ticker]
        levels = recorded.bids if frame.side is BookSide.BID else recorded.asks
        size = max(ZERO, levels.get(frame.price, ZERO) + frame.change)
        if size:
            levels[frame.price] = size
        else:
            levels.pop(frame.price, None)
        fills = len(self._exchange.ledger.fills)
        if fills != recorded.fills_seen:
            # The account traded since: the recorded book comes back whole.
            recorded.fills_seen = fills
            self._exchange.set_quotes(market.ticker, recorded.bids, recorded.asks, at)
        else:
            self._exchange.set_level(market.ticker, frame.side, frame.price, size, at)

    def _give_position(self, market: SandboxMarket, at: float) -> None:
        """Hand the account its position at the first real two-sided quote in the middle of the range."""
        recorded = self._recorded[market.ticker]
        if self._side is None or recorded.is_position_given or market.status is not MarketStatus.ACTIVE:
            return
        top = market.top()
        if not top.yes_bid_size or not top.yes_ask_size or top.yes_bid >= top.yes_ask:
            return
        bid = top.yes_bid if self._side is OutcomeSide.YES else ONE - top.yes_ask
        if POSITION_BID_RANGE[0] <= bid <= POSITION_BID_RANGE[1]:
            recorded.is_position_given = True
            self._exchange.orders.credit(market.ticker, self._side, POSITION_COUNT, bid, at)
