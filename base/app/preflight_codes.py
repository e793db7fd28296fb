"""Every finding that `check` can have, by a name that lasts.

Each is made in one place and provoked for real by `tests/integration/test_check.py`, which fails for one
that no case provokes.
"""

from __future__ import annotations

from enum import StrEnum

from base.app.findings import Finding, Verdict


class Code(StrEnum):
    """Which finding it is; stable, so that a script may look for it."""

    NO_END = "no-end"
    CONFIGURATION = "configuration"
    CONFIGURATION_ODD = "configuration-odd"
    RULE_UNUSED = "rule-unused"
    # this machine
    DISK = "disk"
    DISK_LOW = "disk-low"
    DISK_FULL = "disk-full"
    DISK_UNWRITABLE = "disk-unwritable"
    DISK_SLOW = "disk-slow"
    DISK_OPEN = "disk-open"
    RECORD_UNUSABLE = "record-unusable"
    LOG_FILE_UNWRITABLE = "log-file-unwritable"
    HALTED = "halted"
    ENTRIES_BLOCKED = "entries-blocked"
    ZONES = "zones"
    ZONES_MISSING = "zones-missing"
    INSTANCE = "instance"
    INSTANCE_RUNNING = "instance-running"
    INSTANCE_LOCK = "instance-lock"
    PAGE = "page"
    PAGE_IN_USE = "page-in-use"
    PAGE_UNUSABLE = "page-unusable"
    STRATEGY = "strategy"
    STRATEGY_REFUSED = "strategy-refused"
    STRATEGY_RAISES = "strategy-raises"
    STRATEGY_SLOW = "strategy-slow"
    STRATEGY_ENDS = "strategy-ends"
    DEAD_MAN = "dead-man"
    ALERTS = "alerts"
    ALERTS_NONE = "alerts-none"
    ALERTS_NOT_NEEDED = "alerts-not-needed"
    ALERTS_REFUSED = "alerts-refused"
    SANDBOX = "sandbox"
    SANDBOX_DEAD = "sandbox-dead"
    # the exchange and the account
    KEY_FILE = "key-file"
    NAME_UNKNOWN = "name-unknown"
    NAME_SLOW = "name-slow"
    CONNECTION = "connection"
    CONNECTION_FAILED = "connection-failed"
    CONNECTION_PAUSED = "connection-paused"
    CLOCK = "clock"
    CLOCK_UNKNOWN = "clock-unknown"
    CLOCK_OFF = "clock-off"
    CLOCK_WRONG = "clock-wrong"
    CREDENTIALS = "credentials"
    CREDENTIALS_REFUSED = "credentials-refused"
    CREDENTIALS_EXPIRED = "credentials-expired"
    CREDENTIALS_UNKNOWN = "credentials-unknown"
    KEY = "key"
    KEY_UNKNOWN = "key-unknown"
    KEY_UNLISTED = "key-unlisted"
    KEY_CANNOT_TRADE = "key-cannot-trade"
    KEY_CANNOT_TRADE_LATER = "key-cannot-trade-later"
    KEY_MOVES_MONEY = "key-moves-money"
    ATTESTATION = "attestation"
    ATTESTATION_ENDS = "attestation-ends"
    ATTESTATION_ENDED = "attestation-ended"
    TIER = "tier"
    TIER_SLOW = "tier-slow"
    TIER_UNKNOWN = "tier-unknown"
    LIMITS = "limits"
    LIMIT_ZERO = "limit-zero"
    LIMIT_REACHED = "limit-reached"
    LIMIT_DAY = "limit-day"
    LIMIT_EXPOSURE = "limit-exposure"
    LIMIT_ORDER = "limit-order"
    # what is held
    POSITIONS = "positions"
    POSITIONS_UNKNOWN = "positions-unknown"
    POSITIONS_NOT_ADOPTED = "positions-not-adopted"
    POSITIONS_ON_PAPER = "positions-on-paper"
    PRICES_UNKNOWN = "prices-unknown"
    PAUSE_NONE = "pause-none"
    PAUSE_AHEAD = "pause-ahead"
    PAUSE_SOON = "pause-soon"
    PAUSE_NOW = "pause-now"
    SCHEDULE_UNKNOWN = "schedule-unknown"
    SHARDS = "shards"
    SHARD_PAUSED = "shard-paused"
    SHARD_EMPTY = "shard-empty"
    POSITION = "position"
    POSITION_SETTLING = "position-settling"
    POSITION_WATCHED = "position-watched"
    POSITION_UNREADABLE = "position-unreadable"
    POSITION_WITHOUT_STOP = "position-without-stop"
    POSITION_WITHOUT_PRICE = "position-without-price"
    POSITION_PAUSED = "position-paused"
    POSITION_WITHOUT_QUOTE = "position-without-quote"
    POSITION_WITHOUT_BID = "position-without-bid"
    POSITION_BELOW_FLOOR = "position-below-floor"
    POSITION_PAST_STOP = "position-past-stop"
    RESTING = "resting"
    RESTING_ENTRIES = "resting-entries"
    RESTING_EXITS = "resting-exits"
    RESTING_IN_THE_WAY = "resting-in-the-way"
    RESTING_UNKNOWN = "resting-unknown"
    # the stream, and what the answers must have
    FEED = "feed"
    FEED_WITHOUT_MARKET = "feed-without-market"
    FEED_WITHOUT_PRICE = "feed-without-price"
    FEED_DOWN = "feed-down"
    FEED_OFF = "feed-off"
    FIELDS = "fields"
    FIELDS_NOTHING = "fields-nothing"
    FIELDS_UNKNOWN = "fields-unknown"
    FIELD_CHANGED = "field-changed"


def ok(code: Code, what: str) -> Finding:
    return Finding(Verdict.OK, what, code=code)


def warn(code: Code, what: str, remedy: str) -> Finding:
    return Finding(Verdict.WARN, what, remedy, code)


def fail(code: Code, what: str, remedy: str) -> Finding:
    return Finding(Verdict.FAIL, what, remedy, code)
