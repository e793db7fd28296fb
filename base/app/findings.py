"""What a check found: one line, its verdict first, and what to do beside it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from base.log import escape


class Verdict(StrEnum):
    FAIL = "FAIL"
    WARN = "WARN"
    OK = "OK"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    verdict: Verdict
    what: str
    remedy: str = ""

    def __str__(self) -> str:
        tail = f" — {self.remedy}" if self.remedy else ""
        return escape(f"{self.verdict:<4}  {self.what}{tail}")


def ok(what: str) -> Finding:
    return Finding(Verdict.OK, what)


def warn(what: str, remedy: str) -> Finding:
    return Finding(Verdict.WARN, what, remedy)


def fail(what: str, remedy: str) -> Finding:
    return Finding(Verdict.FAIL, what, remedy)
