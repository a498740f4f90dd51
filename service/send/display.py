"""Terminal output of ``send``: one line that is updated, or plain lines elsewhere."""

import asyncio
import sys
import time
from collections.abc import Iterable

import click

from service.send.records import Records

TERMINAL_SECONDS, PLAIN_SECONDS = 0.5, 10
"""Minimum time between two lines, on a terminal and elsewhere."""


class Display:
    """Progress of a file on standard error."""

    def __init__(self, file: Records) -> None:
        self._file = file
        self._shown = (time.monotonic(), 0, 0.0)
        self._retry = ("", 0)

    def advance(self, done: int, failed: int) -> None:
        """Print the progress unless it was printed a moment ago."""
        now, (shown_at, shown_done, shown_share) = time.monotonic(), self._shown
        if now - shown_at < (TERMINAL_SECONDS if sys.stderr.isatty() else PLAIN_SECONDS):
            return
        share = self._file.share
        self._shown = (now, done, share)
        text = f"{self._file.path.name}: {done:,} records, {failed:,} failed"
        text += f", {(done - shown_done) / (now - shown_at):,.0f}/s"
        if share > shown_share:
            left = int((now - shown_at) * (1 - share) / (share - shown_share))
            text += f", {share:.0%}, {left // 60}:{left % 60:02} left"
        print_status(text, ends_line=not sys.stderr.isatty())

    async def pause(self, reason: str, seconds: float, attempt: int) -> None:
        """Wait before a retry; print the reason, one time for several batches with the same."""
        if (reason, attempt) != self._retry:
            self._retry = reason, attempt
            print_status(f"{reason}; attempt {attempt} in {seconds:.1f} s")
        await asyncio.sleep(seconds)


def print_status(text: str, *, ends_line: bool = True) -> None:
    """Write a line to standard error; on a terminal it replaces the progress line."""
    start = "\r\x1b[K" if sys.stderr.isatty() else ""
    click.echo(start + escape(text), err=True, nl=ends_line)


def print_lines(lines: Iterable[str]) -> None:
    """Write lines to standard output."""
    click.echo("\n".join(map(escape, lines)))


def escape(line: str) -> str:
    """Return a line without characters that control a terminal; line breaks are escaped as well.

    Parts of the line come from files and servers.
    """
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in line
    )
