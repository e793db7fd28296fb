"""The live rows of the journal in memory: what a new start is told, and what a lost file is rebuilt from."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import cast

from base.model.order import EntryOrder
from base.store.journal_schema import (
    ATTEMPTS,
    ENTRIES,
    EPISODES,
    FILLS,
    HEDGES,
    LEDGERS,
    ORDERS,
    PAPER,
    POSITIONS,
    RESULTS,
    RULE_STATES,
    Row,
    Table,
)
from base.store.records import (
    AttemptRecord,
    EpisodeRecord,
    FillRecord,
    HedgeRecord,
    LedgerRecord,
    OrderRecord,
    PaperRecord,
    PositionRecord,
    Remembered,
    ResultRecord,
    RuleStateRecord,
)

RECENT_S = 2 * 86_400.0
"""So long orders and fills may still be reported again."""
LEDGER_DAYS = 7
RECENT_MAX = 20_000
"""Orders, and fills, remembered; the oldest leave first (they stay on disk)."""

KEYED = (
    EPISODES, ATTEMPTS, RULE_STATES, POSITIONS, ORDERS, FILLS, LEDGERS, RESULTS, ENTRIES, HEDGES, PAPER,
)  # fmt: skip


class Mirror:
    """Newest row by table and key. Not thread-safe: the journal's lock guards it."""

    def __init__(self) -> None:
        self._rows: dict[Table, dict[str | int, Row]] = {table: {} for table in KEYED}

    def put(self, row: Row) -> None:
        """Take in a keyed row. Attempts of an episode that is not here are history, not live."""
        rows = self._rows[row.table]
        if isinstance(row.record, AttemptRecord) and row.record.episode_id not in self._rows[EPISODES]:
            return
        if row.table in (ORDERS, FILLS):
            rows.pop(row.key, None)
            if len(rows) >= RECENT_MAX:
                del rows[next(iter(rows))]
        rows[row.key] = row

    def holds(self, row: Row) -> bool:
        """Whether this row, or a newer one of its key, will be written with the mirror."""
        return row.key in self._rows[row.table]

    def rows(self) -> list[Row]:
        return [row for rows in self._rows.values() for row in rows.values()]

    def forget_closed(self, durable: Iterable[Row]) -> None:
        """Drop episodes that are closed on disk, with their attempts; entries and hedges that are over."""
        episodes, attempts = self._rows[EPISODES], self._rows[ATTEMPTS]
        for row in durable:
            if not isinstance(row.record, EpisodeRecord) or row.record.closed_at is None:
                continue
            if episodes.get(row.key) is row:
                del episodes[row.key]
                for key in [k for k, a in attempts.items() if _episode_of(a) == row.key]:
                    del attempts[key]

        for row in durable:
            is_over = (isinstance(row.record, EntryOrder) and not row.record.state.may_fill) or (
                isinstance(row.record, HedgeRecord) and row.record.ended_at is not None
            )
            if is_over and self._rows[row.table].get(row.key) is row:
                del self._rows[row.table][row.key]

    def forget_old(self, now: float) -> None:
        """Drop what a new start would not be told any more; `now` is wall time."""
        for table in (ORDERS, FILLS):
            rows = self._rows[table]
            self._rows[table] = {k: r for k, r in rows.items() if r.recorded_at >= now - RECENT_S}
        self._rows[LEDGERS] = {k: r for k, r in self._rows[LEDGERS].items() if str(k) >= first_day(now)}
        self._rows[RESULTS] = {
            k: r for k, r in self._rows[RESULTS].items() if cast(ResultRecord, r.record).day >= first_day(now)
        }
        held = {k for k, r in self._rows[POSITIONS].items() if cast(PositionRecord, r.record).count != 0}
        for table in (POSITIONS, RULE_STATES):
            rows = self._rows[table]
            self._rows[table] = {
                k: r for k, r in rows.items() if k in held or r.recorded_at >= now - RECENT_S
            }

    def remembered(self, written_at: float | None) -> Remembered:
        """Everything live, for a new start."""
        episodes = [cast(EpisodeRecord, r.record) for r in self._rows[EPISODES].values()]
        episodes.sort(key=lambda e: (e.opened_at, e.id))
        place = {e.id: i for i, e in enumerate(episodes)}
        attempts = [cast(AttemptRecord, r.record) for r in self._rows[ATTEMPTS].values()]
        attempts.sort(key=lambda a: (place[a.episode_id], a.number))
        positions = [cast(PositionRecord, r.record) for r in self._rows[POSITIONS].values()]
        ledgers = [cast(LedgerRecord, r.record) for r in self._rows[LEDGERS].values()]
        results = [cast(ResultRecord, r.record) for r in self._rows[RESULTS].values()]
        entries = [cast(EntryOrder, r.record) for r in self._rows[ENTRIES].values()]
        hedges = [cast(HedgeRecord, r.record) for r in self._rows[HEDGES].values()]
        return Remembered(
            episodes=tuple(episodes),
            attempts=tuple(attempts),
            rule_states=tuple(cast(RuleStateRecord, r.record) for r in self._rows[RULE_STATES].values()),
            positions=tuple(p for p in positions if p.count != 0),
            orders=tuple(cast(OrderRecord, r.record) for r in self._rows[ORDERS].values()),
            fills=tuple(cast(FillRecord, r.record) for r in self._rows[FILLS].values()),
            ledgers=tuple(sorted(ledgers, key=lambda ledger: ledger.day)),
            results=tuple(sorted(results, key=lambda result: result.id)),
            entries=tuple(sorted((e for e in entries if e.state.may_fill), key=lambda e: e.placed_at)),
            hedges=tuple(h for h in hedges if h.ended_at is None),
            paper=tuple(cast(PaperRecord, r.record) for r in self._rows[PAPER].values()),
            written_at=written_at,
        )


def first_day(now: float) -> str:
    """The oldest trading day (UTC) whose ledger a new start is told."""
    return (datetime.fromtimestamp(now, UTC) - timedelta(days=LEDGER_DAYS)).date().isoformat()


def _episode_of(row: Row) -> str:
    return cast(AttemptRecord, row.record).episode_id
