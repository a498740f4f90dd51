"""What send prints: progress on a terminal and elsewhere, and nothing that could control one."""

import asyncio
import os
import pty
import re
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from service.http.envelope import encode_envelope_end, encode_outcomes
from service.send import display
from service.send.display import Display
from service.send.records import Records
from service.wire import ENVELOPE_START, Debug, Outcome
from tests.support.senders import Command, Front, as_json, as_ndjson, serving
from tests.support.service import KEY

HARMFUL = "\x1b[2J\x07\r\n\x9b1m\u202e\u2028r"
HARMLESS = r"\x1b[2J\x07\r\n\x9b1m\u202e\u2028r"
"""Sequences that clear a screen, color it or turn text around; and as they are printed."""


async def busy(_request: web.Request, _batch: list[Any]) -> web.Response:
    told = encode_outcomes([Outcome(0, 503, HARMFUL)])
    return web.Response(status=207, body=ENVELOPE_START + told + encode_envelope_end(Debug("1")))


@pytest.mark.parametrize(
    ("name", "content", "arguments", "status"),
    [
        ("r", f"{KEY},{HARMFUL}\n1,a\n".replace("\r\n", "").encode(), [], 2),
        ("r", as_ndjson([{KEY: 1, HARMFUL: 1}]), ["--check"], 1),
        (HARMFUL, as_ndjson([{KEY: 1}]), ["--check"], 0),
        (HARMFUL, b"x", [], 2),
        ("r", as_ndjson([{KEY: 0}]), ["--outcomes", HARMFUL], 0),
        ("r", as_ndjson([{KEY: 0}]), ["--retries", "0"], 3),
        ("r", b"", [f"missing{HARMFUL}"], 2),
        ("r", b"", [f"--{HARMFUL}"], 2),
    ],
    ids=[
        "column", "field", "file checked", "file unreadable", "outcomes", "server",
        "file missing", "file like an option",
    ],
)  # fmt: skip
async def test_no_character_that_controls_a_terminal_is_printed(
    tmp_path: Path, name: str, content: bytes, arguments: list[str], status: int
) -> None:
    (tmp_path / name).write_bytes(content)

    async with serving(Front()) as front:
        front.answers = [busy] if "--retries" in arguments else []
        address = ["--url", front.url, "--database", "acme"]
        ended = await Command(tmp_path).run(name, *arguments, *address)

    assert ended.status == status
    printed = ended.stdout + ended.stderr
    assert [line for line in printed.split("\n") if not line.isprintable()] == []
    printed = printed.replace(r"\\", "\\")  # of a representation
    assert HARMLESS in printed or HARMLESS.replace(r"\r\n", "") in printed


async def test_a_run_that_takes_long_is_told_of_in_plain_lines_where_there_is_no_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(display, "PLAIN_SECONDS", 0)
    (tmp_path / "r.json").write_bytes(as_json([{KEY: 1}] * 4000))
    with (tmp_path / "r.json").open("rb") as source:
        file = Records(source, replaces=True)
        shown = Display(file)
        list(islice(file, 2000))
        await asyncio.sleep(0.1)
        shown.advance(2000, 100)
        first = capsys.readouterr().err
        list(islice(file, 1000))
        await asyncio.sleep(0.1)
        shown.advance(3000, 100)

    line = capsys.readouterr().err
    assert first.startswith("r.json: 2,000 records, 100 failed, ")
    found = re.fullmatch(r"r\.json: 3,000 records, 100 failed, ([\d,]+)/s, 75%, 0:00 left\n", line)
    assert found
    assert 5_000 < int(found[1].replace(",", "")) <= 10_000


async def test_on_a_terminal_the_progress_is_one_line_that_changes(tmp_path: Path) -> None:
    (tmp_path / HARMFUL).write_bytes(as_ndjson([{KEY: 1}] * 5000))

    async with serving(Front()) as front:
        front.seconds = 0.3
        terminal, other = pty.openpty()
        process = await Command(tmp_path).start(
            *(HARMFUL, "--url", front.url, "--database", "acme"), stderr=other
        )
        os.close(other)
        await asyncio.wait_for(process.wait(), 20)
    shown = os.read(terminal, 10_000).decode()
    os.close(terminal)

    assert shown.count("\n") == 0
    assert shown.endswith("\r\x1b[K")
    assert re.search(
        rf"\r\x1b\[K{re.escape(HARMLESS)}: 2,000 records, 0 failed, [\d,]+/s, \d+%, 0:\d\d left",
        shown,
    )
