"""The import rules of the architecture, and what no module of `base/` may do.

Each rule is also held against a small piece of source that breaks it: a rule that lets everything
through would otherwise look like a clean house.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BASE = ROOT / "base"

CORE = ("base.model", "base.clock", "base.errors", "base.log")

# Package or module -> what of ours it may import, beside itself. The longest match rules; what is not
# listed may import nothing of ours.
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "base.app": ("base",),
    "base.execution": (*CORE, "base.risk", "base.store"),
    "base.kalshi": CORE,
    "base.model": (),
    "base.risk": ("base.model", "base.errors"),
    # The checker thread: it reads the cache and the feed's status, and hands exits on.
    "base.risk.stop_loss": (
        *CORE,
        "base.risk",
        "base.store",
        "base.execution",
        "base.kalshi.feed",
        "base.kalshi.websocket_price_cache",
    ),
    # Its memory, which goes to the journal.
    "base.risk.rule_memory": (*CORE, "base.store"),
    # It must not be able to agree with the daemon's mistakes.
    "base.sandbox": ("base.model", "base.clock", "base.errors"),
    "base.store": CORE,
    "base.strategy": ("base.model", "base.errors"),
    "base.ui": CORE,
}

# Only the packages above these may know them; the rest of a package is closed to everybody.
MAY_BE_IMPORTED_BY: dict[str, tuple[str, ...]] = {
    "base.app": ("base.app",),
    "base.risk.stop_loss": ("base.app",),
    "base.risk.rule_memory": ("base.app", "base.risk.stop_loss"),
    "base.sandbox": ("base.app", "base.sandbox"),
}

# Third-party library -> the one module that imports it, and the deliberate others.
THIRD_PARTY: dict[str, tuple[str, dict[str, str]]] = {
    "aiohttp": (
        "base.sandbox.server",
        {
            f"base.sandbox.{name}": "one handler module for each part of the local exchange"
            for name in ("control", "rest", "rest_market_data", "rest_portfolio", "stream")
        },
    ),
    "apprise": ("base.app.alerts", {}),
    "certifi": ("base.kalshi.transport", {}),
    "cryptography": (
        "base.kalshi.signing",
        {"base.sandbox.signatures": "the local exchange checks signatures with code of its own"},
    ),
    "dotenv": ("base.app.config", {}),
    "flask": ("base.ui.server", {}),
    "matplotlib": ("base.app.replay", {}),
    "msgspec": (
        "base.kalshi.frames",
        {
            "base.kalshi.strict_json": "typed shapes of REST documents",
            "base.kalshi.documents": "shapes of market documents",
            "base.kalshi.account_documents": "shapes of account documents",
            "base.kalshi.order_entry": "shapes of order requests and answers",
        },
    ),
    "prometheus_client": ("base.ui.metrics", {}),
    "requests": ("base.kalshi.rest_requests", {}),
    "rich": (
        "base.ui.terminal",
        {
            "base.ui.terminal_tables": "the lists of the terminal",
            "base.app.progress": "progress bars of commands",
            "base.app.replay": "its report and progress bar",
            "base.sandbox.cli": "the progress of a tape",
        },
    ),
    "urllib3": ("base.kalshi.rest_requests", {}),
    "waitress": ("base.ui.server", {}),
    "websocket": ("base.kalshi.websocket_client", {"base.kalshi.websocket_socket": "the socket under it"}),
}

# What decides must not do: no clock, no thread, no log, no I/O.
PURE = (
    "base.app.alert_facts",
    "base.app.alert_outbox",
    "base.app.alert_rules",
    "base.app.alert_words",
    "base.model",
    "base.strategy",
    "base.risk",
    "base.kalshi.backoff",
    "base.kalshi.frames",
    "base.kalshi.needed_fields",
    "base.kalshi.orderbook",
    "base.kalshi.strict_json",
    "base.kalshi.subscriptions",
    "base.kalshi.wire",
    "base.store.books",
    "base.store.realized",
    "base.store.reconcile",
    "base.ui.phrases",
    "base.ui.timeline",
    "base.execution.entry_orders",
    "base.execution.episode",
    "base.execution.ladder",
    "base.execution.paper_account",
    "base.execution.paper_exchange",
    "base.execution.paper_fills",
    "base.execution.paper_orders",
    "base.execution.refusals",
)
NOT_PURE = ("base.risk.stop_loss", "base.risk.rule_memory")
IMPURE_LIBRARIES = {
    "asyncio", "concurrent", "http", "logging", "os", "queue", "signal", "socket", "sqlite3", "ssl",
    "subprocess", "sys", "tempfile", "threading", "time", "urllib",
}  # fmt: skip

INIT_LINES_MAX = 5


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(BASE.rglob("*.py"))}


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imported(tree: ast.Module) -> Iterator[str]:
    """Every module that is imported anywhere in the source, dynamically with a constant name too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module is not None
            yield node.module
            # `from base import x` and `from base.kalshi import rate_limit` name modules too.
            yield from (f"{node.module}.{a.name}" for a in node.names if is_ours(node.module))
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in (
            "importlib.import_module",
            "__import__",
        ):
            argument = node.args[0]
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                yield argument.value


def is_ours(name: str) -> bool:
    return is_within(name, "base")


def is_within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def forbidden_imports(module: str, tree: ast.Module) -> list[str]:
    """What of ours this module imports and must not."""
    rule = max((p for p in MAY_IMPORT if is_within(module, p)), key=len, default=module)
    allowed = (rule, *MAY_IMPORT.get(rule, ()))

    def is_allowed(name: str) -> bool:
        for reserved, users in MAY_BE_IMPORTED_BY.items():
            if is_within(name, reserved) and not any(is_within(module, user) for user in users):
                return False
        # A package on the way to what is allowed is allowed by itself.
        return any(is_within(name, p) or is_within(p, name) for p in allowed)

    return [name for name in imported(tree) if is_ours(name) and not is_allowed(name)]


def third_party(tree: ast.Module) -> set[str]:
    tops = {name.partition(".")[0] for name in imported(tree)}
    return tops - set(sys.stdlib_module_names) - {"base", "__future__"}


def misdeeds(tree: ast.Module) -> list[str]:
    """What no module of ours may do."""
    found = []
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called == "time.sleep":
                found.append(f"{line}: waits without a stop event")
            if called.startswith("random.") and called not in ("random.Random", "random.SystemRandom"):
                found.append(f"{line}: randomness that nobody handed in")
            is_naive = not node.args and not node.keywords
            if called in ("datetime.now", "datetime.datetime.now") and is_naive:
                found.append(f"{line}: a time without a zone")
            if called.rpartition(".")[2] in ("utcnow", "utcfromtimestamp"):
                found.append(f"{line}: a time without a zone")
            if called in ("datetime.fromtimestamp", "datetime.datetime.fromtimestamp") and (
                len(node.args) < 2 and not node.keywords
            ):
                found.append(f"{line}: a time without a zone")
        elif isinstance(node, ast.ImportFrom) and node.module in ("random", "time"):
            found.append(f"{line}: hides where {node.module} is used")
        elif isinstance(node, ast.ExceptHandler):
            if node.type is None:
                found.append(f"{line}: catches everything")
            if all(isinstance(statement, ast.Pass) for statement in node.body):
                found.append(f"{line}: swallows an exception")
    return found


# --- the house ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_one_way(module: str) -> None:
    assert forbidden_imports(module, parse(MODULES[module])) == []


@pytest.mark.parametrize("module", MODULES)
def test_nothing_is_done_that_cannot_be_tested_or_stopped(module: str) -> None:
    assert misdeeds(parse(MODULES[module])) == []


def test_each_third_party_library_has_one_home() -> None:
    users: dict[str, set[str]] = {}
    for module, path in MODULES.items():
        for library in third_party(parse(path)):
            users.setdefault(library, set()).add(module)
    for library, modules in users.items():
        home, exceptions = THIRD_PARTY.get(library, ("nowhere", {}))
        assert modules <= {home, *exceptions}, f"{library} belongs into {home}"
        assert exceptions.keys() <= modules, f"an exception for {library} is not needed any more"


@pytest.mark.parametrize(
    "module",
    [m for m in MODULES if any(is_within(m, p) for p in PURE) and m not in NOT_PURE],
)
def test_what_decides_does_no_io(module: str) -> None:
    tops = {name.partition(".")[0] for name in imported(parse(MODULES[module]))}
    assert tops & IMPURE_LIBRARIES == set()


def test_only_the_clock_reads_the_time() -> None:
    assert [m for m, path in MODULES.items() if "time" in imported(parse(path))] == ["base.clock"]


@pytest.mark.parametrize("module", [m for m, path in MODULES.items() if path.name == "__init__.py"])
def test_a_package_says_what_it_is_in_five_lines(module: str) -> None:
    path = MODULES[module]
    assert len(path.read_text(encoding="utf-8").splitlines()) <= INIT_LINES_MAX
    body = parse(path).body
    assert len(body) <= 1, "a docstring and nothing else"
    assert all(isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant) for s in body)


def test_the_start_file_only_starts() -> None:
    names = set(imported(parse(ROOT / "run_bot.py"))) - set(sys.stdlib_module_names) - {"__future__"}
    assert {n for n in names if not is_within(n, "base.app.cli")} == set()


# --- the rules themselves -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("base.model.market", "from base.errors import WireError"),
        ("base.kalshi.wire", "from base.store.portfolio import Portfolio"),
        ("base.kalshi.wire", "import base.risk.limits"),
        ("base.store.portfolio", "from base.kalshi import wire"),
        ("base.risk.limits", "from base.clock import Clock"),
        ("base.risk.limits", "from base.log import log_event"),
        ("base.risk.limits", "from base.risk.stop_loss import StopLossChecker"),
        ("base.risk.stop_loss", "from base.kalshi.rest_client import RestClient"),
        ("base.strategy.guard", "from base.store.portfolio import Portfolio"),
        ("base.strategy.guard", "from base.clock import Clock"),
        ("base.execution.exits", "from base.kalshi.rest_client import RestClient"),
        ("base.execution.exits", "from base.risk.stop_loss import StopLossChecker"),
        ("base.sandbox.book", "from base.kalshi.orderbook import OrderBook"),
        ("base.sandbox.book", "from base.log import log_event"),
        ("base.ui.server", "def late():\n    from base.app.loop import run"),
        ("base.kalshi.wire", "import importlib\nimportlib.import_module('base.app.loop')"),
        ("base.errors", "from base.model.market import Market"),
        ("base.a_new_package.thing", "from base.model.market import Market"),
        ("base.kalshi.wire", "import base.store"),
        ("base.kalshi.wire", "from base.sandbox import wire"),
    ],
)
def test_an_import_against_the_rules_is_found(module: str, source: str) -> None:
    assert forbidden_imports(module, ast.parse(source)) != []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("base.kalshi.rest_client", "from base.kalshi import rate_limit"),
        ("base.risk.limits", "from base.risk.trading_state import TradingState"),
        ("base.risk.limits", "from base.model.market import Market\nfrom base.errors import BotError"),
        ("base.execution.exits", "from base.risk.exit_rules import Exit"),
        ("base.app.loop", "from base.app.config import Config\nfrom base.risk.stop_loss import X"),
        ("base.sandbox.book", "from base.model.market import ONE\nimport aiohttp"),
    ],
)
def test_an_import_by_the_rules_is_let_through(module: str, source: str) -> None:
    assert forbidden_imports(module, ast.parse(source)) == []


@pytest.mark.parametrize(
    "source",
    [
        "import time\ntime.sleep(1)",
        "from time import sleep",
        "import random\nx = random.random()",
        "import random\nx = random.choice([1])",
        "from random import uniform",
        "from datetime import datetime\ndatetime.now()",
        "import datetime\ndatetime.datetime.now()",
        "from datetime import datetime\ndatetime.utcnow()",
        "from datetime import datetime\ndatetime.fromtimestamp(0)",
        "try:\n    x = 1\nexcept ValueError:\n    pass",
        "try:\n    x = 1\nexcept:\n    raise",
    ],
)
def test_a_misdeed_is_found(source: str) -> None:
    assert misdeeds(ast.parse(source)) != []


def test_what_is_handed_in_or_has_a_zone_is_let_through() -> None:
    source = (
        "import random\nfrom datetime import UTC, datetime\n"
        "rng = random.Random(1)\nrng.random()\ndatetime.now(UTC)\ndatetime.fromtimestamp(0, UTC)"
    )
    assert misdeeds(ast.parse(source)) == []


def test_third_party_libraries_are_told_from_the_standard_one() -> None:
    source = "import json, requests.adapters\nfrom websocket import WebSocket\nfrom base.model import market"
    assert third_party(ast.parse(source)) == {"requests", "websocket"}
