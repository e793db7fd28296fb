"""The part of `check` about what is held: can it be read, priced and sold, and would the rules do so?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from base.app.config import Config, Environment, TradingMode
from base.app.entries import ENTRY_ID_PREFIX
from base.app.findings import Finding
from base.app.foreign_orders import EXIT_ID
from base.app.preflight_codes import Code, fail, ok, warn
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
                    Code.POSITION_UNREADABLE,
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
    yield ok(Code.POSITIONS, f"positions: {len(positions)} held")
    if positions and not config.adopt_positions:
        yield warn(
            Code.POSITIONS_NOT_ADOPTED,
            "positions: those opened elsewhere are not protected",
            "set `ADOPT_POSITIONS=yes` to protect them",
        )
    if positions and config.effective_trading_mode is TradingMode.PAPER:
        armed = " and `LIVE_ARMED=yes`" if config.env is Environment.PROD else ""
        yield warn(
            Code.POSITIONS_ON_PAPER,
            "positions: on PAPER their exits are simulated: on the exchange nothing protects them",
            f"set `TRADING_MODE=live`{armed} once you believe what you see",
        )
    yield from _check_rules(book, positions)
    markets = {}
    if positions:
        markets = {s.market.ticker: s for s in exchange.get_markets([p.ticker for p in positions])}
    settling = {t for t, s in markets.items() if not s.market.status.can_still_trade}
    to_sell = [p for p in positions if p.ticker not in settling]
    yield from _check_pause(exchange, config, now, len(to_sell))
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
            Code.RESTING_ENTRIES,
            f"resting orders: {len(entries)} of this program ({_tickers(entries)})",
            "run cancels them at its start unless one runs already; flatten cancels them too",
        )
    if exits:
        yield warn(
            Code.RESTING_EXITS,
            f"resting orders: {len(exits)} exits of this program rest, which must not be ({_tickers(exits)})",
            "cancel them by hand on the exchange's site",
        )
    in_the_way = [o for o in others if o.ticker in held]
    if in_the_way:
        yield warn(
            Code.RESTING_IN_THE_WAY,
            f"resting orders: {len(in_the_way)} of others in markets that are held ({_tickers(in_the_way)})",
            "they may sell, or buy again, what run protects: cancel those that you do not want",
        )
    elif not entries and not exits:
        yield ok(Code.RESTING, f"resting orders: none of this program, {len(others)} of others")


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
            yield warn(
                Code.SHARD_PAUSED, f"{what}, and it does not trade now", "exits there wait until it resumes"
            )
        money = balance.by_shard.get(shard)
        # The local exchange has one balance for all the parts that it does not name.
        is_told = bool(balance.by_shard) and (money is not None or config.env is not Environment.SANDBOX)
        if is_told and (money is None or money <= ZERO):
            is_fine = False
            yield warn(
                Code.SHARD_EMPTY,
                f"{what}, and {'no' if money is None else dollars_text(money)} dollars there",
                "the exchange may refuse even exits (insufficient_balance): transfer a few dollars to it",
            )
    if is_fine:
        names = ", ".join(map(str, sorted(held)))
        yield ok(Code.SHARDS, f"shards: {names} trade, and hold money of this account")


def _check_pause(exchange: HeldExchange, config: Config, now: float, positions: int) -> Iterator[Finding]:
    """When trading pauses next, and how many positions cannot be sold while it lasts."""
    schedule = ExchangeSchedule()
    try:
        schedule = exchange.get_exchange_schedule()
    except BotError as exc:
        yield warn(
            Code.SCHEDULE_UNKNOWN,
            f"trading pauses: the schedule is not known ({exc})",
            "run check again in a minute",
        )
    zone, _ = eastern()
    # The local exchange trades through the weekly pause of the real ones.
    pause = next_pause(schedule, now, has_weekly=config.env is not Environment.SANDBOX, zone=zone)
    if pause is None:
        yield ok(Code.PAUSE_NONE, "trading pauses: none is known ahead")
        return
    until = f"until {moment_text(pause.end, zone)}"
    cannot = f": {positions} position{'s' if positions > 1 else ''} cannot be sold" if positions else ","
    if pause.start <= now:
        yield warn(
            Code.PAUSE_NOW, f"trading is paused{cannot} {until}", "stops wait while it lasts; nothing to do"
        )
        return
    what = (
        f"trading pauses {moment_text(pause.start, zone)} in {wait_text(pause.start - now)}{cannot} {until}"
    )
    if positions and pause.start - now <= PAUSE_S_WARN:
        yield warn(
            Code.PAUSE_SOON, what, "stops wait while it lasts; close before it what must not be held then"
        )
    else:
        yield ok(Code.PAUSE_AHEAD, what)


def _check_rules(book: RuleBook, positions: Sequence[Position]) -> Iterator[Finding]:
    """Rules that hold for nothing that is held: a mistyped match leaves a position to the default."""
    unused = [entry for entry in book.entries if not any(entry.matches(p.ticker) for p in positions)]
    if positions and unused:
        names = ", ".join(f"{entry.match} ({entry.source})" for entry in unused[:3])
        more = f" and {len(unused) - 3} more" if len(unused) > 3 else ""
        yield warn(
            Code.RULE_UNUSED,
            f"rules: nothing that is held matches {names}{more}",
            "compare it with the tickers below; a rule for a later position may stay",
        )


def _check_position(
    position: Position, rule: ExitRule, snapshot: MarketSnapshot | None, config: Config
) -> Finding:
    """Whether the rule protects the position, and whether it would sell it at once."""
    count, entry = number_text(position.count), dollars_text(position.entry_price)
    held = f"{position.ticker}: {count} {position.outcome_side} at {entry}"
    if snapshot is not None and not snapshot.market.status.can_still_trade:
        return ok(Code.POSITION_SETTLING, f"{held}; {snapshot.market.status}, waits for settlement")
    if not rule.protect:
        return ok(Code.POSITION_WATCHED, f"{held}; watched only, by choice (protect = false)")
    what = f"{held}; {describe_rule(rule, position)}"
    if not can_ever_exit(position, rule):
        return fail(
            Code.POSITION_WITHOUT_STOP,
            f"{what}: nothing ever sells it",
            "set `STOP_LOSS_PCT=25`, or write a rule into RULES_FILE (protect = false: watched only)",
        )
    if snapshot is None:
        return fail(
            Code.POSITION_WITHOUT_PRICE,
            f"{what}; the exchange tells no market of this name",
            "no stop can act without its price: run check again in a minute, then sell by hand",
        )
    if snapshot.market.status is not MarketStatus.ACTIVE:
        return warn(
            Code.POSITION_PAUSED,
            f"{what}; the market is {snapshot.market.status}",
            "no exit is possible until it trades again",
        )
    if snapshot.quote is None:
        return warn(
            Code.POSITION_WITHOUT_QUOTE,
            f"{what}; the exchange's answer has {snapshot.why_no_quote}",
            "its stops need the stream, which may tell it; look for a newer version of this program",
        )
    bid = snapshot.quote.best_bid(position.outcome_side)
    if bid <= 0:
        return warn(
            Code.POSITION_WITHOUT_BID,
            f"{what}; nobody bids now",
            "no exit is possible until somebody does; nothing to do",
        )
    if bid < config.exit_floor_dollars:
        what = f"{what}; bid {dollars_text(bid)}, below EXIT_FLOOR_DOLLARS={config.exit_floor_dollars}"
        return warn(
            Code.POSITION_BELOW_FLOOR,
            what,
            "no exit goes out below the floor: lower it (`EXIT_FLOOR_DOLLARS=0.01`), or hold on knowingly",
        )
    levels = stop_levels(position, rule, RuleState())
    stop, profit = levels.tightest_stop, levels.take_profit
    what = f"{what}; bid {dollars_text(bid)}"
    if (stop is not None and bid <= stop.price) or (profit is not None and bid >= profit.price):
        is_paper = config.effective_trading_mode is TradingMode.PAPER
        what_comes = "exit it at once, on paper" if is_paper else "sell it at once"
        return warn(
            Code.POSITION_PAST_STOP, what, f"run would {what_comes}; change its rule if you want to keep it"
        )
    return ok(Code.POSITION, what)
