"""What stands in the way of an exit, and how it is probed. Pure.

Some obstacles are the market's, some the account's: with a dead key one position asks whether it works
again, not a hundred.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class BlockedWhy(StrEnum):
    """What stands in the way, and so how it is probed."""

    PAUSED = "paused"
    NO_BID = "no_bid"
    BELOW_FLOOR = "below_floor"
    NO_PRICE = "no_price"
    NOT_OPEN = "not_open"
    NO_FUNDS = "no_funds"
    AUTH = "auth"
    CLOCK = "clock"
    ENDPOINT_GONE = "endpoint_gone"
    RATE = "rate"
    UNREACHABLE = "unreachable"
    REJECTED = "rejected"
    NO_FILL = "no_fill"
    MARKET_CLOSED = "market_closed"
    HALTED = "halted"

    @property
    def remedy(self) -> str:
        """What the person who reads the log or an alert can do, or may expect. Also said of a position whose
        stop has not triggered and that the same leaves unprotected."""
        return _REMEDIES[self]


_REMEDIES: dict[BlockedWhy, str] = {
    BlockedWhy.PAUSED: "trading is paused: stops act and exits go out when it reopens (probed every 2 s)",
    BlockedWhy.NO_BID: "nobody bids: what has triggered is sold with the next bid",
    BlockedWhy.BELOW_FLOOR: "the bid is below EXIT_FLOOR_DOLLARS or hold_below_price: lower it to sell there",
    BlockedWhy.NO_PRICE: "no price is known: look at feed and rest in run_bot.py status, the log says more",
    BlockedWhy.NOT_OPEN: "the market has not opened: the exit goes out when it opens",
    BlockedWhy.NO_FUNDS: "the exchange wants funds on this market's shard: move some there",
    BlockedWhy.AUTH: "the key is refused: check key id, key file, scopes and region on the exchange",
    BlockedWhy.CLOCK: "this machine's clock is off: set it (timedatectl set-ntp true)",
    BlockedWhy.ENDPOINT_GONE: "the exchange has retired this endpoint: update this program, close by hand",
    BlockedWhy.RATE: "the exchange limits requests: it goes on by itself",
    BlockedWhy.UNREACHABLE: "the exchange cannot be reached: it goes on by itself when it can",
    BlockedWhy.REJECTED: "the exchange refuses the order: see the detail, close by hand if it lasts",
    BlockedWhy.NO_FILL: "nothing is filled at any price: it is tried again and again, slower",
    BlockedWhy.MARKET_CLOSED: "the market says that it is closed: what is held waits for settlement",
    BlockedWhy.HALTED: "the kill switch is on: remove STATE_DIR/halted and exits go out",
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """What to do about a definite refusal: block for `why`, look again after `delay_s` (doubling up to
    `delay_s_max`), or look the order up because the exchange says that it exists."""

    why: BlockedWhy
    delay_s: float
    delay_s_max: float
    look_up: bool = False
    refresh_market: bool = False
    concerns_all: bool = False
    """Every order of the account meets it: one exit probes for all. Not a 403, which may be about one
    category of markets (docs.kalshi.com, location attestation)."""


_PAUSED = Refusal(BlockedWhy.PAUSED, 2.0, 4.0, refresh_market=True)
_CLOSED = Refusal(BlockedWhy.MARKET_CLOSED, 2.0, 10.0, refresh_market=True)
_NO_FUNDS = Refusal(BlockedWhy.NO_FUNDS, 5.0, 30.0)
_GONE = Refusal(BlockedWhy.ENDPOINT_GONE, 5.0, 60.0, concerns_all=True)
_BY_CODE: dict[str, Refusal] = {
    "trading_is_paused": _PAUSED,
    "exchange_is_paused": _PAUSED,
    "market_inactive": _CLOSED,
    "market_closed": _CLOSED,
    "order_already_exists": Refusal(BlockedWhy.REJECTED, 0.25, 2.0, look_up=True),
    "insufficient_balance": _NO_FUNDS,
    "available_balance_too_low": _NO_FUNDS,
    "invalid_price": Refusal(BlockedWhy.REJECTED, 0.25, 10.0, refresh_market=True),
    "deprecated_v1_order_endpoint": _GONE,
    "header_timestamp_expired": Refusal(BlockedWhy.CLOCK, 4.0, 15.0, concerns_all=True),
}
_DEAD_KEY = Refusal(BlockedWhy.AUTH, 5.0, 30.0, concerns_all=True)
_FORBIDDEN = Refusal(BlockedWhy.AUTH, 5.0, 30.0)
_OTHER = Refusal(BlockedWhy.REJECTED, 0.5, 30.0, refresh_market=True)


PATIENT_TRIES = 10


def probe_delay_s(refusal_s: float, refusal_s_max: float, times: int, *, is_patient: bool) -> float:
    """Seconds before the next try after so many that met the same: doubling at once, or, where one try
    stands for the whole account, only after some minutes of trying."""
    exponent = max(0, times - PATIENT_TRIES) if is_patient else times
    wait_s: float = min(refusal_s_max, refusal_s * 2.0 ** min(exponent, 10))
    return wait_s


def answer_refusal(status: int, code: str) -> Refusal:
    """What to do about a refused order, from its HTTP status and the exchange's error code."""
    known = _BY_CODE.get(code.lower())
    if known is not None:
        return known
    if status == 401:
        return _DEAD_KEY
    if status == 403:
        return _FORBIDDEN
    if status == 410:
        return _GONE
    return _OTHER
