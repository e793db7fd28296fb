"""The fields of the exchange's answers without which this program cannot protect or open anything. Pure.

The decoders drop what they cannot prove, one document at a time, and go on. That is right for a single bad
frame and quiet about a change of the interface: the exchange has removed or renamed fields every month of
2026 (integer cents, `tick_size`, `liquidity_dollars`). Here a whole raw answer is held against one table.

The forms are proved by the very functions that the decoders use. What no decoder needs may be absent; where
a decoder would fall over its form, the form is proved all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from base.errors import WireError
from base.kalshi import wire
from base.kalshi.frames import parse_grid
from base.kalshi.strict_json import parse_json
from base.model.market import MarketStatus

ROWS_MAX = 1_000
"""So many rows of a page are looked at."""
VALUE_CHARACTERS_MAX = 40


class Source(StrEnum):
    """Which answer a field belongs to."""

    MARKET = "GET /markets"
    POSITION = "GET /portfolio/positions"
    TICKER = "ticker frame"


class Form(StrEnum):
    """How a value must be written, in the words of a finding."""

    TICKER = "a market ticker"
    PRICE = 'a price as a string, like "0.4500"'
    DOLLARS = 'dollars as a string, like "2.500000"'
    SIZE = 'a count as a string, like "3.00"'
    SIGNED_COUNT = 'a signed count as a string, like "-3.00"'
    TIME = 'a time as a string, like "2026-10-26T14:00:00Z"'
    TEXT = "a string"
    INTEGER = "a whole number"
    CENTS = "whole cents from 0 to 100"
    GRID = "a list of start, end and step, each a price as a string"


@dataclass(frozen=True, slots=True)
class NeededField:
    """One field: who uses it, and what is broken without it."""

    source: Source
    name: str
    form: Form
    used_by: str
    without_it: str
    may_be_absent: bool = False
    """Absent or null is fine; there in another form, it costs the document."""
    older: tuple[str, Form] | None = None
    """A deprecated field that does instead."""


@dataclass(frozen=True, slots=True)
class Drift:
    """A needed field that an answer does not have, or not as it must be."""

    source: Source
    field: str
    what: str
    effect: str

    def __str__(self) -> str:
        return f"{self.source}: {self.field} {self.what}"


@dataclass(frozen=True, slots=True)
class News:
    """What an answer has and this program does not know: a field, or a value of a closed set."""

    source: Source
    field: str
    value: str = ""
    """"" for a field that is new itself."""


@dataclass(frozen=True, slots=True)
class Examination:
    """What one answer proves. Without `rows` it proves nothing: nobody is missed who was not seen."""

    source: Source
    rows: int
    drifts: tuple[Drift, ...] = ()
    news: tuple[News, ...] = ()


_M, _P, _T = Source.MARKET, Source.POSITION, Source.TICKER
_PRICES = "stops, exits and entries"
_NO_MARKET = "its document is dropped: that it is open is not known, and what is held there is unprotected"
_NO_READ = "reads prove no price: what the stream does not tell, or while it is down, is unprotected"
_NO_PRICE = "the stream proves no price: all prices come through REST, seconds old"
_NO_SIZE = "an empty bid cannot be told from a real one: stops may act on it, and no guard by size holds"

NEEDED: tuple[NeededField, ...] = (
    NeededField(_M, "ticker", Form.TICKER, "everything", "no market can be told from another"),
    NeededField(
        _M,
        "status",
        Form.TEXT,
        "stops, exits and entries",
        "a closed market cannot be told from an active one: nothing is sold or bought",
    ),
    NeededField(_M, "yes_bid_dollars", Form.PRICE, _PRICES, _NO_READ),
    NeededField(_M, "yes_ask_dollars", Form.PRICE, _PRICES, _NO_READ),
    NeededField(_M, "yes_bid_size_fp", Form.SIZE, _PRICES, _NO_SIZE),
    NeededField(_M, "yes_ask_size_fp", Form.SIZE, _PRICES, _NO_SIZE),
    NeededField(_M, "close_time", Form.TIME, "time stops, entry limits", "stops before the close cannot act"),
    NeededField(
        _M, "event_ticker", Form.TEXT, "rules of events, limits a event", "an event's limits cannot be held"
    ),
    NeededField(
        _M,
        "price_ranges",
        Form.GRID,
        "prices of orders",
        "orders are priced on whole cents, wherever they are",
    ),
    NeededField(_M, "last_price_dollars", Form.PRICE, "the page", _NO_READ, may_be_absent=True),
    NeededField(_M, "open_time", Form.TIME, "the strategy", _NO_MARKET, may_be_absent=True),
    NeededField(_M, "result", Form.TEXT, "settlement", _NO_MARKET, may_be_absent=True),
    NeededField(_M, "title", Form.TEXT, "the page", _NO_MARKET, may_be_absent=True),
    NeededField(_M, "exchange_index", Form.INTEGER, "routing of orders", _NO_MARKET, may_be_absent=True),
    NeededField(_P, "ticker", Form.TICKER, "everything", "what is held cannot be known"),
    NeededField(
        _P,
        "position_fp",
        Form.SIGNED_COUNT,
        "every exit",
        "how much is held, and of which side, is not known",
    ),
    NeededField(
        _P,
        "market_exposure_dollars",
        Form.DOLLARS,
        "every stop in percent",
        "what was paid is not known: no stop can be placed",
    ),
    NeededField(
        _P,
        "fees_paid_dollars",
        Form.DOLLARS,
        "break-even stops",
        "what the entry has cost in fees is not known: a break-even stop leaves without them",
    ),
    NeededField(
        _P,
        "last_updated_ts",
        Form.TIME,
        "reconciliation",
        "how old a row is, is not known",
        may_be_absent=True,
    ),
    NeededField(
        _P, "exchange_index", Form.INTEGER, "routing of exits", "positions cannot be read", may_be_absent=True
    ),
    NeededField(_T, "market_ticker", Form.TICKER, "everything", "no market can be told from another"),
    NeededField(_T, "yes_bid_dollars", Form.PRICE, _PRICES, _NO_PRICE, older=("yes_bid", Form.CENTS)),
    NeededField(_T, "yes_ask_dollars", Form.PRICE, _PRICES, _NO_PRICE, older=("yes_ask", Form.CENTS)),
    NeededField(_T, "yes_bid_size_fp", Form.SIZE, _PRICES, _NO_SIZE),
    NeededField(_T, "yes_ask_size_fp", Form.SIZE, _PRICES, _NO_SIZE),
    NeededField(
        _T,
        "ts_ms",
        Form.INTEGER,
        "the order of ticker and book",
        "a price cannot be told from an older one: the book and the ticker overwrite each other",
        older=("ts", Form.INTEGER),
    ),
    NeededField(_T, "price_dollars", Form.PRICE, "the page", _NO_PRICE, may_be_absent=True),
)

# What the exchange is known to send beside that (its specifications of 2026-10-26, recordings of 2026).
_KNOWN: Mapping[Source, frozenset[str]] = {
    Source.MARKET: frozenset(
        {
            "can_close_early", "cap_strike", "created_time", "custom_strike", "early_close_condition",
            "expected_expiration_time", "expiration_time", "expiration_value", "fee_waiver_expiration_time",
            "floor_strike", "functional_strike", "is_provisional", "latest_expiration_time",
            "liquidity_dollars", "market_type", "mve_collection_ticker", "mve_selected_legs",
            "no_ask_dollars", "no_bid_dollars", "no_sub_title", "notional_value_dollars",
            "occurrence_datetime", "open_interest_fp", "previous_price_dollars",
            "previous_yes_ask_dollars", "previous_yes_bid_dollars", "price_level_structure",
            "primary_participant_key", "rules_primary", "rules_secondary", "settlement_bounds_type",
            "settlement_floor_dollars", "settlement_timer_seconds", "settlement_ts",
            "settlement_value_dollars", "strike_type", "subtitle", "updated_time", "volume_24h_fp",
            "volume_fp", "yes_sub_title",
        }
    ),
    Source.POSITION: frozenset({"realized_pnl_dollars", "resting_orders_count", "total_traded_dollars"}),
    Source.TICKER: frozenset(
        {
            "clock", "dollar_open_interest", "dollar_volume", "last_trade_size_fp", "market_id",
            "open_interest", "open_interest_fp", "price", "sending_ts_ms", "time", "ts", "volume",
            "volume_fp", "yes_ask", "yes_bid",
        }
    ),
}  # fmt: skip

_CLOSED_SETS: Mapping[tuple[Source, str], frozenset[str]] = {
    (Source.MARKET, "status"): frozenset(s.value for s in MarketStatus),
    (Source.MARKET, "market_type"): frozenset({"binary", "scalar"}),
    (Source.MARKET, "result"): frozenset({"", "yes", "no", "scalar"}),
    (Source.MARKET, "settlement_bounds_type"): frozenset({"default", "floor"}),
}


def examine_markets(document: Mapping[str, Any]) -> Examination:
    """A page of `GET /markets` as it came."""
    return _examine_page(Source.MARKET, document, "markets", _NO_MARKET)


def examine_positions(document: Mapping[str, Any]) -> Examination:
    """A page of `GET /portfolio/positions` as it came."""
    return _examine_page(Source.POSITION, document, "market_positions", "what is held cannot be known")


def examine_ticker(frame: bytes) -> Examination:
    """A frame of the stream as it came; one that is no ticker proves nothing."""
    try:
        envelope = parse_json(frame)
    except WireError:
        return Examination(Source.TICKER, 0)
    if envelope.get("type") != "ticker":
        return Examination(Source.TICKER, 0)
    body = envelope.get("msg", envelope.get("data"))
    if not isinstance(body, dict):
        return Examination(Source.TICKER, 1, (Drift(Source.TICKER, "msg", "is missing", _NO_PRICE),))
    return _examine_rows(Source.TICKER, [body])


def _examine_page(source: Source, document: Mapping[str, Any], rows_name: str, effect: str) -> Examination:
    rows = document.get(rows_name)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        return Examination(source, 1, (Drift(source, rows_name, "is no list of objects", effect),))
    found = _examine_rows(source, rows[:ROWS_MAX])
    if isinstance(document.get("cursor"), str):
        return found
    cursor = Drift(
        source, "cursor", _complaint(document.get("cursor"), Form.TEXT), "longer lists have no end"
    )
    return Examination(source, max(1, found.rows), (*found.drifts, cursor), found.news)


def _examine_rows(source: Source, rows: Sequence[Mapping[str, Any]]) -> Examination:
    """Every field is named once, by the first row that lacks it."""
    drifts: dict[str, Drift] = {}
    news: dict[News, None] = {}
    needed = [field for field in NEEDED if field.source is source]
    known = {field.name for field in needed} | _KNOWN[source]
    for row in rows:
        for field in needed:
            what = _what_is_wrong(field, row)
            if what:
                drifts.setdefault(field.name, Drift(source, field.name, what, field.without_it))
        news |= dict.fromkeys(News(source, str(name)[:VALUE_CHARACTERS_MAX]) for name in row.keys() - known)
        for (owner, name), values in _CLOSED_SETS.items():
            value = row.get(name)
            if owner is source and isinstance(value, str) and value not in values:
                news[News(source, name, value[:VALUE_CHARACTERS_MAX])] = None
    ordered = sorted(news, key=lambda n: (n.field, n.value))
    return Examination(source, len(rows), tuple(drifts.values()), tuple(ordered))


def _what_is_wrong(field: NeededField, row: Mapping[str, Any]) -> str:
    """ "" when the field is as it must be."""
    value = row.get(field.name)
    if value is None and (field.may_be_absent or _is_excused(field, row)):
        return ""
    if value is None and field.older is not None:
        name, form = field.older
        if _is_proved(form, row.get(name)):
            return ""
    return "" if _is_proved(field.form, value) else _complaint(value, field.form)


def _is_excused(field: NeededField, row: Mapping[str, Any]) -> bool:
    """Whether the ticker is in the older form, whole cents without sizes, where nothing else is promised."""
    if field.source is not Source.TICKER or field.form is Form.TICKER:
        return False
    has_strings = any(row.get(name) is not None for name in ("yes_bid_dollars", "yes_ask_dollars"))
    return not has_strings and all(_is_proved(Form.CENTS, row.get(name)) for name in ("yes_bid", "yes_ask"))


def _complaint(value: object, form: Form) -> str:
    if value is None:
        return "is missing"
    text = f'"{value}"' if isinstance(value, str) else str(value)
    return f"is {text[:VALUE_CHARACTERS_MAX]}, not {form}"


def _is_proved(form: Form, value: object) -> bool:
    try:
        return _PROOFS[form](value)
    except (WireError, ValueError, TypeError, KeyError, AttributeError):
        return False


def _proof(parse: Callable[[str], object]) -> Callable[[Any], bool]:
    """A proof by a decoder's own function, which raises for what it does not take."""

    def prove(value: Any) -> bool:
        if not isinstance(value, str):
            return False
        parse(value)
        return True

    return prove


def _prove_grid(value: Any) -> bool:
    """Also an empty list: then the market is priced on whole cents, which every grid has."""
    if not isinstance(value, list):
        return False
    parse_grid([(r["start"], r["end"], r["step"]) for r in value])
    return True


_PROOFS: Mapping[Form, Callable[[Any], bool]] = {
    Form.TICKER: _proof(wire.parse_ticker),
    Form.PRICE: _proof(wire.parse_price),
    Form.DOLLARS: _proof(wire.parse_dollars),
    Form.SIZE: _proof(wire.parse_size),
    Form.SIGNED_COUNT: _proof(wire.parse_count),
    Form.TIME: _proof(wire.parse_time),
    Form.TEXT: lambda value: isinstance(value, str),
    Form.INTEGER: lambda value: type(value) is int,
    Form.CENTS: lambda value: wire.parse_cents(value) is not None,
    Form.GRID: _prove_grid,
}
