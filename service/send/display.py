"""What a person sees of a run: one line that changes, or a plain one now and then."""

import asyncio
import sys
import time
from collections.abc import Iterable

import click

from service.send.records import Records

TERMINAL_SECONDS, PLAIN_SECONDS = 0.5, 10
"""Between two lines, on a terminal and where there is none."""


class Display:
    """Tells on standard error how the sending of a file goes on."""

    def __init__(self, file: Records) -> None:
        self._file = file
        self._shown = (time.monotonic(), 0, 0.0)
        self._retry = ("", 0)

    def advance(self, done: int, failed: int) -> None:
        """Show how much of the file is done, unless that was shown just now."""
        now, (then, done_then, share_then) = time.monotonic(), self._shown
        if now - then < (TERMINAL_SECONDS if sys.stderr.isatty() else PLAIN_SECONDS):
            return
        share = self._file.share
        self._shown = (now, done, share)
        text = f"{self._file.path.name}: {done:,} records, {failed:,} failed"
        text += f", {(done - done_then) / (now - then):,.0f}/s"
        if share > share_then:
            left = int((now - then) * (1 - share) / (share - share_then))
            text += f", {share:.0%}, {left // 60}:{left % 60:02} left"
        print_status(text, ends_line=not sys.stderr.isatty())

    async def pause(self, reason: str, seconds: float, attempt: int) -> None:
        """Wait before a retry, and tell why: once, where several batches meet the same."""
        if (reason, attempt) != self._retry:
            self._retry = reason, attempt
            print_status(f"{reason}; attempt {attempt} in {seconds:.1f} s")
        await asyncio.sleep(seconds)


def print_status(text: str, *, ends_line: bool = True) -> None:
    """Write a line, on a terminal in place of the one that changes."""
    start = "\r\x1b[K" if sys.stderr.isatty() else ""
    click.echo(start + printable(text), err=True, nl=ends_line)


def report(lines: Iterable[str]) -> None:
    """Write lines to standard output."""
    click.echo("\n".join(map(printable, lines)))


def printable(line: str) -> str:
    """Return a line in which nothing can control a terminal: line breaks are escaped as well.

    Parts of the line come from files and servers.
    """
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in line
    )
