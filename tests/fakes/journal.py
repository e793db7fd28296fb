"""A journal in memory that forgets in a crash what a journal on disk would forget."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import TypeVar

from base.model.order import EntryOrder
from base.store.records import (
    AttemptRecord,
    EpisodeRecord,
    FillRecord,
    LedgerRecord,
    OrderRecord,
    PositionRecord,
    Record,
    Remembered,
    ResultRecord,
    RuleStateRecord,
)

R = TypeVar("R")


class MemoryJournal:
    """A `Recorder` whose `commit` makes durable all that was handed over so far, and whose `write` is
    durable at the next commit or `flush` (the writer's own pace).

    With `fails` set nothing becomes durable, `commit` says so, and what was handed over waits for the disk.
    """

    def __init__(self) -> None:
        self.fails = False
        self.at_point: Callable[[str], None] = lambda point: None
        """Called wherever the program may be killed."""
        self.has_refused = False
        """Whether a commit has failed since everything was last durable."""
        self._waiting: list[tuple[Record, ...]] = []
        self._durable: dict[tuple[type, object], Record] = {}
        self.added: list[Record] = []
        """Durable records without a key, in order."""

    # --- the program --------------------------------------------------------------------------------

    def write(self, records: Iterable[Record]) -> None:
        self.at_point("records are handed over")
        self._waiting.append(tuple(records))
        self.at_point("records were handed over")

    def commit(self, records: Iterable[Record]) -> bool:
        self.at_point("records are to be brought to disk")
        self._waiting.append(tuple(records))
        self.flush()
        self.has_refused = self.has_refused or self.fails
        self.at_point("records are on disk")
        return not self.fails

    # --- the machine --------------------------------------------------------------------------------

    def flush(self, batches_max: int | None = None) -> None:
        """The writer takes what waits, or the first so many of it."""
        if self.fails:
            return
        taken = self._waiting[:batches_max]
        del self._waiting[: len(taken)]
        self.has_refused = self.has_refused and bool(self._waiting)
        for record in (record for batch in taken for record in batch):
            key = getattr(record, "key", None)
            if key is None:
                self.added.append(record)
            else:
                self._durable[type(record), key] = record

    def crash(self) -> None:
        """The process ends: what waits is lost."""
        self._waiting.clear()
        self.has_refused = False

    # --- what is on disk ----------------------------------------------------------------------------

    def remembered(self) -> Remembered:
        """What a new start is told."""
        live = {e.id: e for e in self._of(EpisodeRecord) if e.closed_at is None}
        episodes = sorted(live.values(), key=lambda e: (e.opened_at, e.id))
        attempts = [a for a in self._of(AttemptRecord) if a.episode_id in live]
        attempts.sort(key=lambda a: (a.episode_id, a.number))
        return Remembered(
            episodes=tuple(episodes),
            attempts=tuple(attempts),
            rule_states=tuple(self._of(RuleStateRecord)),
            positions=tuple(p for p in self._of(PositionRecord) if p.count != Decimal(0)),
            orders=tuple(self._of(OrderRecord)),
            fills=tuple(self._of(FillRecord)),
            ledgers=tuple(sorted(self._of(LedgerRecord), key=lambda ledger: ledger.day)),
            results=tuple(self._of(ResultRecord)),
            entries=tuple(e for e in self._of(EntryOrder) if e.state.may_fill),
        )

    def episode(self, episode_id: str) -> EpisodeRecord | None:
        found = self._durable.get((EpisodeRecord, episode_id))
        assert found is None or isinstance(found, EpisodeRecord)
        return found

    def attempt(self, client_order_id: str) -> AttemptRecord | None:
        found = self._durable.get((AttemptRecord, client_order_id))
        assert found is None or isinstance(found, AttemptRecord)
        return found

    def _of(self, kind: type[R]) -> list[R]:
        return [record for record in self._durable.values() if isinstance(record, kind)]
