"""One key pair for all tests, and a server with a few quiet markets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from base.sandbox.scenario import Scenario, parse_scenario
from base.sandbox.server import SandboxServer
from tests.sandbox.client import Client

QUIET = """
balance = "1000"
[[market]]
ticker = "KXA-1-YES"
bid = "0.52"
ask = "0.54"
position = { side = "yes", count = "10", entry = "0.60" }
[[market]]
ticker = "KXA-1-NO"
bid = "0.40"
ask = "0.42"
exchange_index = 2
position = { side = "no", count = "5", entry = "0.55" }
[[market]]
ticker = "KXB-2-FLAT"
bid = "0.30"
ask = "0.33"
"""


@pytest.fixture(scope="session")
def key_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys")


@pytest.fixture
def quiet() -> Scenario:
    return parse_scenario(QUIET)


@pytest.fixture
def server(quiet: Scenario, key_dir: Path) -> Iterator[SandboxServer]:
    with SandboxServer(quiet, key_dir=key_dir) as running:
        yield running


@pytest.fixture
def client(server: SandboxServer) -> Iterator[Client]:
    with Client(server) as signed:
        yield signed
