"""Who may read: host names, methods, the token."""

from __future__ import annotations

import base64

import pytest

from base.ui.access import AccessPolicy

LOCAL = "127.0.0.1"
TOKEN = "a-long-token:with-colon-é"


def basic(password: str, user: str = "anyone") -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def status_of(
    policy: AccessPolicy, method: str = "GET", path: str = "/", host: str = LOCAL, auth: str = ""
) -> int:
    refusal = policy.refuse(method, path, host, auth)
    return 200 if refusal is None else refusal.status


@pytest.mark.parametrize(
    ("ui_host", "header", "expected"),
    [
        pytest.param(LOCAL, "127.0.0.1:8787", 200, id="loopback address"),
        pytest.param(LOCAL, "127.0.0.1", 200, id="no port"),
        pytest.param(LOCAL, "localhost:9999", 200, id="loopback name through a tunnel's other port"),
        pytest.param(LOCAL, "LOCALHOST:8787", 200, id="names have no case"),
        pytest.param(LOCAL, "[::1]:8787", 200, id="IPv6 loopback"),
        pytest.param(LOCAL, "evil.example:8787", 421, id="rebound name"),
        pytest.param(LOCAL, "localhost.evil.example", 421, id="name that starts like ours"),
        pytest.param(LOCAL, "127.0.0.1.evil.example", 421, id="name that starts like an address"),
        pytest.param(LOCAL, "192.168.1.7:8787", 421, id="other address while on loopback only"),
        pytest.param(LOCAL, "", 421, id="no Host at all"),
        pytest.param(LOCAL, "localhost:8787@evil.example", 421, id="garbage"),
        pytest.param(LOCAL, "localhost/evil.example", 421, id="path in Host"),
        pytest.param("localhost", "127.0.0.1:8787", 200, id="bound by name, asked by address"),
        pytest.param("0.0.0.0", "192.168.1.7:8787", 200, id="public: an address was typed"),
        pytest.param("0.0.0.0", "[2001:db8::5]:8787", 200, id="public: IPv6"),
        pytest.param("0.0.0.0", "evil.example", 421, id="public: a name may be rebound"),
        pytest.param("0.0.0.0", "localhost", 200, id="public: still local"),
        pytest.param("bot.lan", "bot.lan:8787", 200, id="public: the configured name"),
        pytest.param("Bot.LAN", "bot.lan:8787", 200, id="public: the configured name has no case either"),
        pytest.param("bot.lan", "evil.lan:8787", 421, id="public: another name"),
        pytest.param("::", "[fe80::1]", 200, id="public on IPv6"),
        pytest.param("::1", "[::1]:8787", 200, id="bound on IPv6 loopback"),
    ],
)
def test_only_known_hosts_are_answered(ui_host: str, header: str, expected: int) -> None:
    assert status_of(AccessPolicy(ui_host, TOKEN), path="/healthz", host=header) == expected


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "get"])
def test_only_reading_is_allowed(method: str) -> None:
    refusal = AccessPolicy(LOCAL, "").refuse(method, "/api/status", LOCAL, "")
    assert refusal is not None
    assert refusal.status == 405
    assert refusal.headers == (("Allow", "GET, HEAD"),)


@pytest.mark.parametrize(
    ("authorization", "expected"),
    [
        pytest.param("Bearer a-long-token", 200, id="bearer"),
        pytest.param("bearer a-long-token", 200, id="schemes have no case"),
        pytest.param(basic("a-long-token"), 200, id="basic, any user"),
        pytest.param(basic("a-long-token", user=""), 200, id="basic, no user"),
        pytest.param("", 401, id="nothing"),
        pytest.param("Bearer", 401, id="bearer without a token"),
        pytest.param("Bearer a-long-toke", 401, id="one character short"),
        pytest.param("Bearer a-long-token2", 401, id="one character long"),
        pytest.param("a-long-token", 401, id="no scheme"),
        pytest.param(basic("wrong", user="a-long-token"), 401, id="token in the user's place"),
        pytest.param("Basic not*base64", 401, id="broken basic"),
        pytest.param(basic("a-long-token") + "!", 401, id="basic with a character too much"),
        pytest.param("Basic " + base64.b64encode(b"a-long-token").decode(), 401, id="basic without a colon"),
        pytest.param("Digest a-long-token", 401, id="another scheme"),
        pytest.param("Bearer \u2603", 401, id="a character that no header can carry"),
    ],
)
def test_the_token_opens_as_bearer_or_password(authorization: str, expected: int) -> None:
    assert status_of(AccessPolicy(LOCAL, "a-long-token"), auth=authorization) == expected


def test_a_token_may_hold_colons_and_accents() -> None:
    policy = AccessPolicy(LOCAL, TOKEN)
    assert status_of(policy, auth=basic(TOKEN)) == 200
    assert status_of(policy, auth="Bearer " + TOKEN.encode().decode("latin-1")) == 200


def test_a_refusal_without_token_makes_browsers_ask() -> None:
    refusal = AccessPolicy(LOCAL, TOKEN).refuse("GET", "/", LOCAL, "")
    assert refusal is not None
    assert dict(refusal.headers)["WWW-Authenticate"].startswith("Basic ")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/healthz", 200),
        ("/", 401),
        ("/app.js", 401),
        ("/metrics", 401),
        ("/api/status", 401),
        ("/nothing", 401),
    ],
)
def test_only_health_is_open_without_the_token(path: str, expected: int) -> None:
    assert status_of(AccessPolicy(LOCAL, TOKEN), path=path) == expected


def test_without_a_token_configured_none_is_asked_for() -> None:
    assert status_of(AccessPolicy(LOCAL, ""), path="/api/status") == 200


def test_a_foreign_host_learns_nothing_about_the_token() -> None:
    assert status_of(AccessPolicy(LOCAL, TOKEN), host="evil.example") == 421
