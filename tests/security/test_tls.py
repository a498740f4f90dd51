"""TLS on the listener and to PostgreSQL, with certificates of a throwaway authority."""

import asyncio
import signal
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import pytest

from tests.support.certificates import Authority, presented_subject
from tests.support.postgres import MakeDatabase
from tests.support.running import MakeService, StartProcess
from tests.support.service import KEY


async def test_the_listener_speaks_tls_and_reads_a_new_certificate_on_sighup(
    start_process: StartProcess, tmp_path: Path
) -> None:
    authority = Authority(tmp_path, "authority")
    certificate, key = authority.sign("first")
    trusting = ssl.create_default_context(cafile=authority.path)
    service, process = await start_process(
        tls_certificate=str(certificate), tls_key=str(key), ssl_context=trusting
    )

    assert (await service.put([{KEY: 1}])).statuses == [201]
    assert await presented_subject(service.port, trusting) == "first"
    for old, new in zip((certificate, key), authority.sign("second"), strict=True):
        new.replace(old)
    process.send_signal(signal.SIGHUP)
    async with asyncio.timeout(10):
        while await presented_subject(service.port, trusting) != "second":
            await asyncio.sleep(0.05)
    assert (await service.put([{KEY: 1}])).statuses == [200]


@asynccontextmanager
async def tls_before(dsn: str, certificate: Path, key: Path) -> AsyncIterator[int]:
    """Speak TLS for PostgreSQL, as it does itself (the embedded one is built without)."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    socket_path = f"{parse_qs(urlsplit(dsn).query)['host'][0]}/.s.PGSQL.5432"

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readexactly(8) == bytes.fromhex("0000000804d2162f")  # SSLRequest
        writer.write(b"S")
        try:
            await writer.start_tls(context)
        except (OSError, EOFError):
            return
        server_reader, server_writer = await asyncio.open_unix_connection(socket_path)
        await asyncio.gather(pump(reader, server_writer), pump(server_reader, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


@pytest.mark.usefixtures("short_retries")
async def test_verify_full_connects_only_where_the_certificate_is_right(
    make_service: MakeService, make_database: MakeDatabase, tmp_path: Path
) -> None:
    authority, other = Authority(tmp_path, "authority"), Authority(tmp_path, "other")
    database = make_database()
    if "host=%2F" not in database:
        pytest.skip("wants the embedded PostgreSQL's socket")
    name = urlsplit(database).path
    async with tls_before(database, *authority.sign("server")) as port:
        right, wrong = (
            f"postgresql://postgres@127.0.0.1:{port}{name}?sslmode=verify-full"
            f"&sslrootcert={quote(str(authority.path))}"
            for authority in (authority, other)
        )
        service = await make_service(
            {
                "acme": right,
                "untrusted": wrong,
                "misnamed": right.replace("127.0.0.1", "localhost"),
            }
        )

        statuses = [
            (await service.put([{KEY: 1}], database=name)).statuses for name in service.databases
        ]

    assert statuses == [[201], [503], [503]]
