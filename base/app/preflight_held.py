"""The part of `check` about what is held: can it be read, priced and sold, and would the rules do so?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from base.app.config import Config, Environment
from base.app.entries import ENTRY_ID_PREFIX
from base.app.findings import Finding, fail, ok, warn
from base.app.foreign_orders import EXIT_ID
from base.errors import BotError
from base.kalshi.account_documents import Balance, ExchangeStatus
from base.kalshi.documents import MarketSnapshot, PositionRow, to_position
from base.kalshi.rest_client import UnreadablePositions
from base.model.market import ZERO, MarketStatus
from base.model.order import Order, OrderStatus
from base.model.position import Position
from base.model.rules import ExitRule, RuleState
from base.model.schedule import ExchangeSchedule
from base.risk.levels import can_ever_exit, stop_levels
from base.risk.rule_book import RuleBook, describe_rule
from base.risk.schedule import eastern, moment_text, next_pause, wait_text
from base.risk.wording import dollars_text, number_text

PAUSE_S_WARN = 86_400.0


class HeldExchange(Protocol):
    """What these checks ask; `RestClient` has it."""

    def get_positions(self) -> list[PositionRow]: ...
    def get_markets(self, tickers: Sequence[str]) -> list[MarketSnapshot]: ...
    def get_exchange_schedule(self) -> ExchangeSchedule: ...
    def get_orders(self, ticker: str | None = None, status: str | None = None) -> list[Order]: ...


def read_held(exchange: HeldExchange) -> tuple[list[Position], list[Finding]]:
    """What is held, and a finding for each row that cannot be read. Raises BotError."""
    rows: Sequence[PositionRow]
    findings = []
    try:
        rows = exchange.get_positions()
    except UnreadablePositions as exc:
        rows = exc.rows
        for row in exc.unreadable:
            findings.append(
                fail(
                    f"positions: {row.ticker or 'one without a ticker'} cannot be read ({row.why})",
                    "it cannot be protected: look after it by hand, and for a newer version of this program",
                )
            )
    return [p for p in map(to_position, rows) if p is not None], findings


def check_held(
    exchange: HeldExchange,
    positions: Sequence[Position],
    config: Config,
    book: RuleBook,
    now: float,
    status: ExchangeStatus,
    balance: Balance,
) -> Iterator[Finding]:
    """Everything about these positions, one line each and what concerns them together. Raises BotError."""
    yield ok(f"positions: {len(positions)} held")
    if positions and not config.adopt_positions:
        yield warn(
            "positions: those opened elsewhere are not protected",
            "set ADOPT_POSITIONS=yes to protect them",
        )
    markets = {}
    if positions:
        markets = {s.market.ticker: s for s in exchange.get_markets([p.ticker for p in positions])}
    settling = {t for t, s in markets.items() if not s.market.status.can_still_trade}
    to_sell = [p for p in positions if p.ticker not in settling]
    yield _check_pause(exchange, config, now, len(to_sell))
    yield from _check_shards(to_sell, markets, config, status, balance)
    for position in positions:
        yield _check_position(position, book.rule_for(position.ticker), markets.get(position.ticker), config)


def check_resting(exchange: HeldExchange, positions: Sequence[Position]) -> Iterator[Finding]:
    """Orders that rest, of this program or of somebody else. Raises BotError."""
    orders = exchange.get_orders(status=OrderStatus.RESTING.value)
    entries = [o for o in orders if o.client_order_id.startswith(ENTRY_ID_PREFIX)]
    exits = [o for o in orders if EXIT_ID.fullmatch(o.client_order_id)]
    others = [o for o in orders if o not in entries and o not in exits]
    held = {p.ticker for p in positions}
    if entries:
        yield warn(
            f"resting orders: {len(entries)} of this program ({_tickers(entries)})",
            "run cancels them at its start unless one runs already; flatten cancels them too",
        )
    if exits:
        yield warn(
            f"resting orders: {len(exits)} exits of this program rest, which must not be ({_tickers(exits)})",
            "cancel them by hand on the exchange's site",
        )
    in_the_way = [o for o in others if o.ticker in held]
    if in_the_way:
        yield warn(
            f"resting orders: {len(in_the_way)} of others in markets that are held ({_tickers(in_the_way)})",
            "they may sell, or buy again, what run protects: cancel those that you do not want",
        )
    elif not entries and not exits:
        yield ok(f"resting orders: none of this program, {len(others)} of others")


def _tickers(orders: Sequence[Order]) -> str:
    names = sorted({o.ticker for o in orders})
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def _check_shards(
    positions: Sequence[Position],
    markets: Mapping[str, MarketSnapshot],
    config: Config,
    status: ExchangeStatus,
    balance: Balance,
) -> Iterator[Finding]:
    """Whether the parts of the exchange on which something is held trade, and hold money of the account."""
    held: dict[int, int] = {}
    for position in positions:
        shard = position.exchange_index
        if shard is None and position.ticker in markets:
            shard = markets[position.ticker].market.exchange_index
        held[shard or 0] = held.get(shard or 0, 0) + 1
    is_fine = bool(held)
    for shard, count in sorted(held.items()):
        what = f"shard {shard}: {count} position{'s' if count > 1 else ''}"
        is_open = (
            status.exchange_active and status.trading_active
        )  # what is closed as a whole is told already
        if is_open and not status.can_trade(shard):
            is_fine = False
            yield warn(f"{what}, and it does not trade now", "exits there wait until it resumes")
        money = balance.by_shard.get(shard)
        # The local exchange has one balance for all the parts that it does not name.
        is_told = bool(balance.by_shard) and (money is not None or config.env is not Environment.SANDBOX)
        if is_told and (money is None or money <= ZERO):
            is_fine = False
            yield warn(
                f"{what}, and {'no' if money is None else dollars_text(money)} dollars there",
                "the exchange may refuse even exits (insufficient_balance): transfer a few dollars to it",
            )
    if is_fine:
        yield ok(f"shards: {', '.join(map(str, sorted(held)))} trade, and hold money of this account")


def _check_pause(exchange: HeldExchange, config: Config, now: float, positions: int) -> Finding:
    """When trading pauses next, and how many positions cannot be sold while it lasts."""
    schedule, unread = ExchangeSchedule(), ""
    try:
        schedule = exchange.get_exchange_schedule()
    except BotError as exc:
        unread = f" (the schedule is not known: {exc})"
    zone, _ = eastern()
    # The local exchange trades through the weekly pause of the real ones.
    pause = next_pause(schedule, now, has_weekly=config.env is not Environment.SANDBOX, zone=zone)
    if pause is None:
        return ok(f"trading pauses: none announced{unread}")
    what = "trading is paused"
    if pause.start > now:
        what = f"trading pauses {moment_text(pause.start, zone)} in {wait_text(pause.start - now)}"
    until = f"until {moment_text(pause.end, zone)}{unread}"
    if not positions:
        return ok(f"{what}, {until}")
    what = f"{what}: {positions} position{'s' if positions > 1 else ''} cannot be sold {until}"
    if pause.start - now > PAUSE_S_WARN:
        return ok(what)
    return warn(what, "stops wait while it lasts; close before it what must not be held")


def _check_position(
    position: Position, rule: ExitRule, snapshot: MarketSnapshot | None, config: Config
) -> Finding:
    """Whether the rule protects the position, and whether it would sell it at once."""
    count, entry = number_text(position.count), dollars_text(position.entry_price)
    held = f"{position.ticker}: {count} {position.outcome_side} at {entry}"
    if snapshot is not None and not snapshot.market.status.can_still_trade:
        return ok(f"{held}; {snapshot.market.status}, waits for settlement")
    if not rule.protect:
        return ok(f"{held}; watched only, by choice (protect = false)")
    what = f"{held}; {describe_rule(rule, position)}"
    if not can_ever_exit(position, rule):
        return warn(what, "give it a stop: STOP_LOSS_PCT, or a rule in RULES_FILE")
    if snapshot is None:
        return warn(what, "the exchange tells no price for it now; run check again later")
    if snapshot.market.status is not MarketStatus.ACTIVE:
        return warn(
            f"{what}; the market is {snapshot.market.status}", "no exit is possible until it trades again"
        )
    bid = snapshot.quote.best_bid(position.outcome_side)
    if bid <= 0:
        return warn(f"{what}; nobody bids now", "no exit is possible until somebody does")
    if bid < config.exit_floor_dollars:
        what = f"{what}; bid {dollars_text(bid)}, below EXIT_FLOOR_DOLLARS={config.exit_floor_dollars}"
        return warn(what, "no exit goes out below the floor: lower it, or hold on to the position knowingly")
    levels = stop_levels(position, rule, RuleState())
    stop, profit = levels.tightest_stop, levels.take_profit
    what = f"{what}; bid {dollars_text(bid)}"
    if (stop is not None and bid <= stop.price) or (profit is not None and bid >= profit.price):
        return warn(what, "run would sell it at once; change its rule if you want to keep it")
    return ok(what)
