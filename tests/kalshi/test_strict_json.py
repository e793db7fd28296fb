"""JSON that could mean something else than it seems is refused."""

from __future__ import annotations

import ast
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import base.kalshi
from base.errors import WireError
from base.kalshi.strict_json import convert, parse_json


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"12",
        b'"text"',
        b"<html><body>502</body></html>",
        b'{"price": NaN}',
        b'{"price": Infinity}',
        b'{"price": -Infinity}',
        b'{"price": "0.50", "price": "0.05"}',
        b'{"a": {"b": 1, "b": 2}}',
        b'{"a": 1} trailing',
        b'{"a": 1',
        b'{"a": "\xff"}',
        b"\xef\xbb\xbf{}",
        b'{"a":' * 100_000,
        b"[" * 100_000,
        b'{"a": ' + b"9" * 5_000 + b"}",
    ],
    ids=lambda body: repr(body[:24]),
)
def test_anything_but_one_clear_object_is_refused(body: bytes) -> None:
    with pytest.raises(WireError):
        parse_json(body)


@given(st.binary(max_size=60))
def test_any_bytes_are_an_object_or_a_wire_error(body: bytes) -> None:
    with suppress(WireError):
        assert isinstance(parse_json(body), dict)


class Shape(msgspec.Struct):
    price: str
    size: int = 0


def test_unknown_fields_are_ignored_and_numbers_are_not_coerced() -> None:
    assert convert(b'{"price": "0.50", "new": 1e400}', Shape).price == "0.50"
    for body in (b'{"price": 0.5}', b"{}", b'{"price": null}', b'{"price": "0.5", "size": "1"}'):
        with pytest.raises(WireError):
            convert(body, Shape)


def test_every_module_with_shapes_makes_them_ready_when_it_is_imported() -> None:
    """The first conversion to a shape is not thread-safe in msgspec 0.22: it ended the process."""
    package = Path(base.kalshi.__file__).parent
    sources = {path: path.read_text() for path in package.glob("*.py")}
    with_shapes = [p for p, text in sources.items() if "convert(" in text and "(msgspec.Struct)" in text]
    assert len(with_shapes) >= 3
    for path in with_shapes:
        last = ast.parse(path.read_text()).body[-1]
        assert ast.unparse(last) == "prepare(globals())", path.name


COLD = """
import sys, threading
sys.setswitchinterval(0.0005)
from base.kalshi import documents
gate = threading.Barrier(8)
def read():
    gate.wait()
    for _ in range(50):
        documents.parse_order_page(b'{"orders": [], "cursor": ""}')
threads = [threading.Thread(target=read) for _ in range(8)]
[t.start() for t in threads]
[t.join() for t in threads]
"""


def test_many_threads_may_be_the_first_to_read_orders() -> None:
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", COLD], timeout=30, check=False, capture_output=True)
        assert done.returncode == 0, done.stderr.decode()
