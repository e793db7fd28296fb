"""Simulated participants: what they quote and when. Seeded; no I/O; callers pass `now`.

Calibrated on recorded markets (spreads of 1 to 4 cents, bid wicks of 5 cents and more that come back
within seconds, quiet spells); prices stay within a few cents of where they began, so that a scenario
means what it says.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from base.model.market import BookSide, MarketStatus, OutcomeSide, PriceGrid
from base.sandbox.exchange import Exchange
from base.sandbox.fixed_point import CENT, ONE, ZERO
from base.sandbox.scenario import EventPlan, MarketPlan, QuoteMode

DEPTH = 5  # levels a side
WALK_GAP_S_MEAN = 0.6
DRIFT_MAX = Decimal("0.06")
WICK_CENTS = (5, 8)
WICK_S = (0.05, 2.0)
QUIET_SPELL_S = (15.0, 70.0)
TICKING_GAP_S = (0.4, 0.9)
SPREADS_CENTS = (1, 1, 1, 1, 2, 2, 2, 3, 4)


@dataclass(slots=True)
class _Quoter:
    """One market's participants."""

    plan: MarketPlan
    started_at: float
    next_at: float
    bid: Decimal
    ask: Decimal
    is_wick: bool = False
    steps_done: int = 0
    is_manual: bool = False


@dataclass(slots=True)
class _Crowd:
    """The participants of one mutually exclusive event, who now and then sell a set too cheaply."""

    plan: EventPlan
    tickers: list[str]
    next_at: float
    is_cheap: bool = False


class Participants:
    """Owned by the exchange's thread."""

    def __init__(self, exchange: Exchange, rng: random.Random) -> None:
        self._exchange = exchange
        self._rng = rng
        self._quoters: dict[str, _Quoter] = {}
        self._crowds: list[_Crowd] = []

    def join(self, plan: MarketPlan, now: float) -> None:
        """Start quoting a market."""
        # What only its event moves takes nothing from the seed's sequence: all else moves as without it.
        is_moved_by_event = plan.is_exclusive and plan.mode is QuoteMode.QUIET
        first_s = 0.0 if is_moved_by_event else self._rng.uniform(0.0, 0.9)
        quoter = _Quoter(plan, now, now + first_s, plan.bid, plan.ask)
        if plan.mode is QuoteMode.SCRIPT:
            quoter.next_at = now + plan.script[0].at_s
        self._quoters[plan.ticker] = quoter
        self._quote(quoter, plan.bid, plan.ask, plan.size, now)

    def join_event(self, plan: EventPlan, tickers: list[str], now: float) -> None:
        """Quote a set of these markets cheaply as often as the event's plan says."""
        if plan.cheap_every_s > 0:
            self._crowds.append(_Crowd(plan, tickers, now + plan.cheap_every_s))

    def leave(self, ticker: str) -> None:
        """Stop moving a market's quote: somebody sets it by hand from now on."""
        if ticker in self._quoters:
            self._quoters[ticker].is_manual = True

    def step(self, now: float) -> None:
        """Move every quote whose time has come."""
        frozen: set[str] = set()
        for crowd in self._crowds:
            self._step_crowd(crowd, now)
            frozen.update(crowd.tickers if crowd.is_cheap else ())
        for ticker, quoter in self._quoters.items():
            if quoter.is_manual or now < quoter.next_at or quoter.plan.mode is QuoteMode.QUIET:
                continue
            if ticker in frozen:
                continue
            if self._exchange.markets[ticker].status is not MarketStatus.ACTIVE:
                continue
            match quoter.plan.mode:
                case QuoteMode.SCRIPT:
                    self._follow_script(quoter, now)
                case QuoteMode.TICKING:
                    self._tick(quoter, now)
                case _:
                    self._walk(quoter, now)

    def _step_crowd(self, crowd: _Crowd, now: float) -> None:
        quoters = [self._quoters[ticker] for ticker in crowd.tickers]
        can_move = all(
            not q.is_manual and self._exchange.markets[q.plan.ticker].status is MarketStatus.ACTIVE
            for q in quoters
        )
        if not can_move or now < crowd.next_at:
            return
        crowd.is_cheap = not crowd.is_cheap
        crowd.next_at = now + (crowd.plan.cheap_for_s if crowd.is_cheap else crowd.plan.cheap_every_s)
        prices = [(q.bid, q.ask) for q in quoters]
        if crowd.is_cheap:
            prices = cheap_set(prices, crowd.plan.cheap_by, crowd.plan.cheap_side)
        for quoter, (bid, ask) in zip(quoters, prices, strict=True):
            self._quote(quoter, bid, ask, quoter.plan.size, now, keep=False)

    def _follow_script(self, quoter: _Quoter, now: float) -> None:
        script = quoter.plan.script
        while quoter.steps_done < len(script) and now >= quoter.started_at + script[quoter.steps_done].at_s:
            step = script[quoter.steps_done]
            self._quote(quoter, step.bid, step.ask, quoter.plan.size, now)
            quoter.steps_done += 1
        if quoter.steps_done < len(script):
            quoter.next_at = quoter.started_at + script[quoter.steps_done].at_s
        else:
            quoter.next_at = float("inf")

    def _tick(self, quoter: _Quoter, now: float) -> None:
        shift = self._rng.choice((-CENT, ZERO, CENT))
        bid = min(max(quoter.plan.bid + shift, CENT), ONE - 2 * CENT)
        ask = min(max(quoter.plan.ask + shift, bid + CENT), ONE - CENT)
        size = quoter.plan.size + self._rng.randrange(1, 100) + Decimal(quoter.steps_done % 2) / 2
        quoter.steps_done += 1
        self._quote(quoter, bid, ask, size, now)
        quoter.next_at = now + self._rng.uniform(*TICKING_GAP_S)

    def _walk(self, quoter: _Quoter, now: float) -> None:
        rng = self._rng
        quoter.next_at = now + min(5.0, max(0.1, rng.expovariate(1 / WALK_GAP_S_MEAN)))
        size = (quoter.plan.size * rng.randrange(20, 200) / 100).quantize(CENT)
        if quoter.is_wick:
            quoter.is_wick = False
            self._quote(quoter, quoter.bid, quoter.ask, size, now)
            return
        fate = rng.random()
        if fate < 0.01:
            quoter.next_at = now + rng.uniform(*QUIET_SPELL_S)
            return
        if fate < 0.02:
            drop = CENT * rng.randint(*WICK_CENTS)
            self._quote(quoter, quoter.bid - drop, quoter.ask, size, now, keep=False)
            quoter.is_wick = True
            quoter.next_at = now + rng.uniform(*WICK_S)
            return
        bid = quoter.bid + self._drift(quoter)
        if rng.random() < 0.1 or quoter.ask <= quoter.bid:
            ask = bid + CENT * rng.choice(SPREADS_CENTS)
        else:
            ask = bid + (quoter.ask - quoter.bid)
        bid = min(max(bid, 2 * CENT), ONE - 6 * CENT)
        ask = min(max(ask, bid + CENT), ONE - CENT)
        self._quote(quoter, bid, ask, size, now)
        if rng.random() < 0.3:
            self._print_trade(quoter, now)

    def _drift(self, quoter: _Quoter) -> Decimal:
        """A cent up, down or nothing, pulled back towards the start."""
        away = quoter.bid - quoter.plan.bid
        up_share = 0.5 - float(away / DRIFT_MAX) / 2
        if self._rng.random() < 0.4:
            return ZERO
        return CENT if self._rng.random() < up_share else -CENT

    def _print_trade(self, quoter: _Quoter, now: float) -> None:
        market = self._exchange.markets[quoter.plan.ticker]
        taker = self._rng.choice((BookSide.BID, BookSide.ASK))
        price = quoter.ask if taker is BookSide.BID else quoter.bid
        count = Decimal(self._rng.randrange(100, 3000)) / 100
        self._exchange.note_trade(market, price, count, taker, now)

    def _quote(
        self, quoter: _Quoter, bid: Decimal, ask: Decimal, size: Decimal, now: float, *, keep: bool = True
    ) -> None:
        if keep:
            quoter.bid, quoter.ask = bid, ask
        grid = self._exchange.markets[quoter.plan.ticker].spec.grid
        self._exchange.set_quotes(
            quoter.plan.ticker, *ladders(grid, bid, ask, size, size, quoter.plan.size), now
        )


def cheap_set(
    prices: list[tuple[Decimal, Decimal]], by: Decimal, side: OutcomeSide
) -> list[tuple[Decimal, Decimal]]:
    """Bids and asks moved by whole cents, evenly, until a set of `side` costs at least `by` dollars less
    than it pays: n NO contracts pay n - 1 dollars, n YES contracts one."""
    moved = list(prices)
    for turn in range(100 * len(moved)):
        of_no = sum((bid for bid, _ in moved), ZERO) - ONE
        of_yes = ONE - sum((ask for _, ask in moved), ZERO)
        if (of_no if side is OutcomeSide.NO else of_yes) >= by:
            break
        bid, ask = moved[turn % len(moved)]
        if side is OutcomeSide.NO:
            bid = min(bid + CENT, ONE - 2 * CENT)
            moved[turn % len(moved)] = bid, max(ask, bid + CENT)
        else:
            ask = max(ask - CENT, 2 * CENT)
            moved[turn % len(moved)] = min(bid, ask - CENT), ask
    return moved


def ladders(
    grid: PriceGrid, bid: Decimal, ask: Decimal, bid_size: Decimal, ask_size: Decimal, depth_size: Decimal
) -> tuple[dict[Decimal, Decimal], dict[Decimal, Decimal]]:
    """Several levels behind a best bid and ask, a cent apart and thicker further away.

    A bid of 0 and an ask of 0 or 1 leave their side empty, as does a size of 0.
    """
    bids = _ladder(grid, (bid - CENT * i for i in range(DEPTH)), bid_size, depth_size) if bid > 0 else {}
    asks = (
        _ladder(grid, (ask + CENT * i for i in range(DEPTH)), ask_size, depth_size)
        if ZERO < ask < ONE
        else {}
    )
    return bids, asks


def _ladder(
    grid: PriceGrid, prices: Iterable[Decimal], top_size: Decimal, depth_size: Decimal
) -> dict[Decimal, Decimal]:
    levels: dict[Decimal, Decimal] = {}
    for price in prices:
        is_off_grid = price % CENT != 0 and grid.floor(price) != price  # whole cents are on every grid
        if is_off_grid or not ZERO < price < ONE:
            continue
        # The size behind depends on the price only, so that a moving top changes few levels.
        behind = depth_size * (2 + int(price * 100) % 3)
        levels[price] = behind if levels else top_size
    return {price: size for price, size in levels.items() if size > 0} if top_size > 0 else {}
