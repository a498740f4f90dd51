"""DSNs written for libpq: parameters that are used, ignored, or rejected by name."""

import asyncio
import time

import asyncpg
import pytest

from service.postgres import check_dsn, connect_error, get_connect_arguments

DSN = "postgresql://u:p@h:5432/acme"


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("channel_binding=require", "channel_binding"),
        ("gssencmode=require", "gssencmode"),
        ("client_encoding=latin1", "client_encoding"),
        ("load_balance_hosts=random", "load_balance_hosts"),
        ("hostaddr=127.0.0.1", "hostaddr"),
        ("requirepeer=postgres", "requirepeer"),
        ("require_auth=scram-sha-256", "require_auth"),
        ("sslcrldir=/crl", "sslcrldir"),
        ("replication=database", "replication"),
        ("connect_timeout=soon", "connect_timeout"),
        ("connect_timeout=", "connect_timeout"),
        ("sslmode=require&channel_binding=require", "channel_binding"),
    ],
)
def test_a_parameter_that_cannot_be_obeyed_is_refused_by_name(query: str, named: str) -> None:
    with pytest.raises(ValueError, match=f"the parameter {named} ") as raised:
        check_dsn(f"{DSN}?{query}")

    assert "\n" not in str(raised.value)
    assert ":p@" not in str(raised.value)


@pytest.mark.parametrize(
    "hosts", ["h:65536", "h:0", "h:port", "[::1]:65536", "h:5432,i:65536", "%2Frun%2Fpg:65536"]
)
def test_a_port_that_is_none_is_refused(hosts: str) -> None:
    with pytest.raises(ValueError, match="number from 1 to 65535"):
        check_dsn(f"postgresql://u:p@{hosts}/acme")


@pytest.mark.parametrize(
    "hosts", ["h", "h:65535", "[::1]", "[::1]:5432", "h,i:5433", "%2Frun%2Fpg", ""]
)
def test_other_addresses_are_accepted(hosts: str) -> None:
    check_dsn(f"postgresql://u:p@{hosts}/acme")


@pytest.mark.parametrize(
    ("query", "kept"),
    [
        ("channel_binding=prefer", ""),
        ("gssencmode=disable", ""),
        ("client_encoding=UTF8", ""),
        ("keepalives=1&keepalives_idle=30&keepalives_interval=5&keepalives_count=3", ""),
        ("tcp_user_timeout=1000&application_name=x&fallback_application_name=y", ""),
        ("sslcompression=0&sslsni=1", ""),
        ("connect_timeout=7", ""),
        ("sslmode=verify-full&sslrootcert=%2Fca.pem", "sslmode=verify-full&sslrootcert=%2Fca.pem"),
        ("target_session_attrs=primary&keepalives=1", "target_session_attrs=primary"),
        ("search_path=trials", "search_path=trials"),
    ],
)
def test_other_parameters_are_obeyed_or_ignored_knowingly(query: str, kept: str) -> None:
    check_dsn(f"{DSN}?{query}")

    dsn = get_connect_arguments(f"{DSN}?{query}", 5)["dsn"]

    assert dsn == f"{DSN}?{kept}".rstrip("?")


@pytest.mark.parametrize(
    ("query", "seconds"),
    [("", 5), ("connect_timeout=7", 7), ("connect_timeout=0", 5), ("keepalives=1", 5)],
)
def test_connect_timeout_is_obeyed(query: str, seconds: float) -> None:
    assert get_connect_arguments(f"{DSN}?{query}", 5)["timeout"] == seconds


async def test_a_server_that_says_nothing_is_given_up_after_connect_timeout() -> None:
    hung_up = asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        await writer.wait_closed()
        hung_up.set()

    async with await asyncio.start_server(say_nothing, "127.0.0.1", 0) as silent:
        port = silent.sockets[0].getsockname()[1]
        dsn = f"postgresql://u@127.0.0.1:{port}/x?sslmode=disable&connect_timeout=1"
        started_at = time.monotonic()

        with pytest.raises(TimeoutError) as raised:
            await asyncpg.connect(**get_connect_arguments(dsn, 60))

        assert 0.9 < time.monotonic() - started_at < 10
        await hung_up.wait()
    assert connect_error(raised.value) == "TimeoutError"
