"""What passes for an intent, and what is said of everything else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from base.app.intents import INTENTS_MAX, NonsenseError, read_intents, read_watched
from base.model.market import OutcomeSide
from base.strategy.interface import AmendIntent, CancelIntent, MarketFilter, OrderIntent, SetIntent

D = Decimal
BUY = OrderIntent("KXHIGHNY-26NOV22-T60", OutcomeSide.YES, D(5), D("0.57"), "cheap")
OTHER = replace(BUY, ticker="KXHIGHNY-26NOV22-T61", outcome_side=OutcomeSide.NO)


class Unprintable:
    def __repr__(self) -> str:
        raise SystemExit(3)


class SlyDecimal(Decimal):
    """Runs the strategy's code wherever it is compared."""

    def __lt__(self, other: Any) -> bool:
        raise SystemExit(4)


class Kin(OrderIntent):
    """A class of the user's that is nearly an intent."""


def breaks_halfway() -> Iterator[OrderIntent]:
    yield BUY
    raise ZeroDivisionError("half-way")


@pytest.mark.parametrize(
    "intent",
    [
        BUY,
        replace(BUY, rests=True, expires_after_s=60, post_only=True, keep_on_feed_loss=True),
        replace(BUY, expires_after_s=0.5),
        SetIntent((BUY, OTHER), "all but one pay"),
        AmendIntent("backstop-entry-1", price=D("0.5")),
        AmendIntent("backstop-entry-1", count=D("2.5")),
        CancelIntent("backstop-entry-1"),
    ],
    ids=["take", "rest", "half a second", "set", "another price", "another count", "cancel"],
)
def test_a_sound_intent_passes_unchanged(intent: object) -> None:
    assert read_intents([intent]) == ([intent], False)


NONSENSE: list[tuple[str, Any, str]] = [
    ("None for a list", None, "None"),
    ("an intent without its list", BUY, "OrderIntent"),
    ("a word", "buy", "buy"),
    ("bytes", b"buy", "buy"),
    ("a number", 42, "42"),
    ("a number among intents", [BUY, 42], "42"),
    ("None among intents", [BUY, None], "None"),
    ("a dictionary", {"ticker": 1}, "ticker"),
    ("a list in a list", [[BUY]], "OrderIntent"),
    ("an object that cannot be printed", [Unprintable()], "Unprintable"),
    ("a price that is not a number", [replace(BUY, price=D("NaN"))], "NaN"),
    ("a price that signals", [replace(BUY, price=D("sNaN"))], "sNaN"),
    ("an endless price", [replace(BUY, price=D("Infinity"))], "Infinity"),
    ("a price in floats", [replace(BUY, price=0.57)], "0.57"),  # type: ignore[arg-type]
    ("a price in cents", [replace(BUY, price=D(57))], "57"),
    ("a price of 1", [replace(BUY, price=D(1))], "price"),
    ("a price of 0", [replace(BUY, price=D(0))], "price"),
    ("a negative price", [replace(BUY, price=D("-0.5"))], "-0.5"),
    ("a text for a price", [replace(BUY, price="0.57")], "'0.57'"),  # type: ignore[arg-type]
    ("a count in floats", [replace(BUY, count=5.0)], "5.0"),  # type: ignore[arg-type]
    ("an int for a count", [replace(BUY, count=5)], "count"),  # type: ignore[arg-type]
    ("a negative count", [replace(BUY, count=D(-5))], "-5"),
    ("a count of 0", [replace(BUY, count=D(0))], "count"),
    ("more than anybody has", [replace(BUY, count=D("1e9"))], "1E+9"),
    ("a count of the user's own class", [replace(BUY, count=SlyDecimal(5))], "count"),
    ("a price of the user's own class", [replace(BUY, price=SlyDecimal("0.5"))], "price"),
    ("True for a count", [replace(BUY, count=True)], "True"),  # type: ignore[arg-type]
    ("a side in words", [replace(BUY, outcome_side="yes")], "outcome_side"),  # type: ignore[arg-type]
    ("a ticker that leaves its path", [replace(BUY, ticker="../orders")], "../orders"),
    ("no ticker", [replace(BUY, ticker="")], "ticker"),
    ("a ticker that is none", [replace(BUY, ticker=None)], "ticker"),  # type: ignore[arg-type]
    ("a reason that is none", [replace(BUY, why=None)], "why"),  # type: ignore[arg-type]
    ("a switch in words", [replace(BUY, rests="yes")], "rests"),  # type: ignore[arg-type]
    ("a switch of 1", [replace(BUY, keep_on_feed_loss=1)], "keep_on"),  # type: ignore[arg-type]
    ("post-only that never rests", [replace(BUY, post_only=True)], "post_only"),
    ("an end before its beginning", [replace(BUY, rests=True, expires_after_s=-1.0)], "expires"),
    ("an end that is no number", [replace(BUY, rests=True, expires_after_s=float("nan"))], "expires"),
    ("an end that never comes", [replace(BUY, rests=True, expires_after_s=float("inf"))], "expires"),
    ("an end far beyond", [replace(BUY, rests=True, expires_after_s=10**400)], "expires"),
    ("True for an end", [replace(BUY, rests=True, expires_after_s=True)], "expires"),
    ("a class that is nearly one", [Kin("A-B", OutcomeSide.YES, D(1), D("0.5"))], "no intent"),
    ("a set of one", [SetIntent((BUY,))], "legs"),
    ("a set in a list", [SetIntent([BUY, OTHER])], "legs"),  # type: ignore[arg-type]
    ("a set with a stranger", [SetIntent((BUY, 7))], "7"),  # type: ignore[arg-type]
    ("a set with a bad leg", [SetIntent((BUY, replace(OTHER, price=D(2))))], "price"),
    ("a set that buys twice in one market", [SetIntent((BUY, BUY))], "same market"),
    ("an amendment of nothing", [AmendIntent("x")], "neither"),
    ("an amendment to nonsense", [AmendIntent("x", price=D(3))], "price"),
    ("an amendment to no count", [AmendIntent("x", count=D(0))], "count"),
    ("an amendment of nobody's", [AmendIntent("", price=D("0.5"))], "client_order_id"),
    ("a cancel of a number", [CancelIntent(7)], "client_order_id"),  # type: ignore[arg-type]
    ("a cancel of an essay", [CancelIntent("x" * 65)], "client_order_id"),
]


@pytest.mark.parametrize(
    ("returned", "named"), [case[1:] for case in NONSENSE], ids=[case[0] for case in NONSENSE]
)
def test_nonsense_is_refused_whole_and_named(returned: Any, named: str) -> None:
    with pytest.raises(NonsenseError) as refused:
        read_intents(returned)
    assert named in str(refused.value)
    assert len(str(refused.value)) < 400


def test_an_iterable_that_raises_halfway_brings_nothing() -> None:
    with pytest.raises(ZeroDivisionError):
        read_intents(breaks_halfway())


def test_of_an_endless_list_the_most_wanted_are_taken() -> None:
    def endless() -> Iterator[OrderIntent]:
        while True:
            yield BUY

    intents, is_cut = read_intents(endless())
    assert (len(intents), is_cut) == (INTENTS_MAX, True)
    assert read_intents([BUY] * INTENTS_MAX) == ([BUY] * INTENTS_MAX, False)


def test_a_long_reason_is_cut() -> None:
    ((intent,), _) = read_intents([replace(BUY, why="x" * 10_000)])
    assert isinstance(intent, OrderIntent)
    assert len(intent.why) == 200


def test_what_is_watched_is_told_apart() -> None:
    wanted = MarketFilter(series="KXHIGHNY", closes_within_s=3600, markets_max=20)
    assert read_watched(["A-1", wanted, "A-1"]) == (frozenset({"A-1"}), frozenset({wanted}))
    assert read_watched(()) == (frozenset(), frozenset())


@pytest.mark.parametrize(
    ("returned", "named"),
    [
        (None, "None"),
        ("KXHIGHNY", "KXHIGHNY"),
        ([1], "1"),
        (["../x"], "../x"),
        ([MarketFilter()], "neither"),
        ([MarketFilter(series="A", markets_max=0)], "markets_max"),
        ([MarketFilter(series="A", markets_max=501)], "markets_max"),
        ([MarketFilter(series="A", markets_max=True)], "markets_max"),
        ([MarketFilter(series=7)], "series"),  # type: ignore[arg-type]
        ([MarketFilter(event="a b")], "a b"),
        ([MarketFilter(series="A", closes_within_s=0)], "closes_within_s"),
        ([f"A-{n}" for n in range(501)], "more than"),
        ([MarketFilter(series="A", markets_max=n) for n in range(1, 52)], "more than"),
    ],
    ids=[
        "nothing at all", "a ticker without its list", "a number", "a path", "a filter of nothing",
        "no markets", "too many markets", "True for a number", "a number for a series", "a blank",
        "closes at once", "too many tickers", "too many filters",
    ],
)  # fmt: skip
def test_what_cannot_be_watched_is_refused_and_named(returned: Any, named: str) -> None:
    with pytest.raises(NonsenseError) as refused:
        read_watched(returned)
    assert named in str(refused.value)
