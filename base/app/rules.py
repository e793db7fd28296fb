"""The rules in force: from the defaults and `RULES_FILE`, reloadable, looked up by every thread."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from base.errors import ConfigError
from base.log import log_event
from base.model.rules import ExitRule
from base.risk.rule_book import RuleBook, parse_rules

logger = logging.getLogger(__name__)


def read_rules(path: Path | None, defaults: ExitRule) -> RuleBook:
    """The rule book of a file, or of the defaults alone. Raises ConfigError with every problem."""
    if path is None:
        return RuleBook.empty(defaults)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError([f"RULES_FILE {path} cannot be read: {exc}"]) from exc
    return parse_rules(text, path.name, defaults)


class RulesInForce:
    """Looks rules up by ticker; thread-safe. `reload` replaces them whole or not at all."""

    def __init__(self, path: Path | None, defaults: ExitRule) -> None:
        self._path = path
        self._defaults = defaults
        self._lock = threading.Lock()  # guards the fields below
        self._book = read_rules(path, defaults)
        self._cache: dict[str, ExitRule] = {}
        self._refused: tuple[str, ...] = ()

    @property
    def refused(self) -> tuple[str, ...]:
        """What is wrong with the file that the last reload has refused; empty when it was taken."""
        with self._lock:
            return self._refused

    def rule_of(self, ticker: str) -> ExitRule:
        with self._lock:
            rule = self._cache.get(ticker)
            if rule is None:
                rule = self._cache[ticker] = self._book.rule_for(ticker)
            return rule

    def reload(self) -> bool:
        """Read the file again; a bad one is refused whole, and the rules in force stay."""
        try:
            book = read_rules(self._path, self._defaults)
        except ConfigError as exc:
            for problem in exc.problems:
                log_event(logger, logging.ERROR, "rules_refused", why=problem)
            with self._lock:
                self._refused = tuple(exc.problems)
            return False
        with self._lock:
            self._book = book
            self._cache = {}
            self._refused = ()
        log_event(logger, logging.INFO, "rules_loaded", tables=len(book.entries), file=self._path)
        return True
