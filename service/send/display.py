"""What a person sees of a run: one line that changes, or a plain one now and then."""

import asyncio
import sys
import time
from collections import Counter

import click

from service.send.progress import STORED

TERMINAL_SECONDS, PLAIN_SECONDS = 0.2, 10
"""Between two lines, on a terminal and where there is none."""


class Display:
    """Tells on standard error how a run goes on."""

    def __init__(self) -> None:
        self.started_at = self._shown_at = time.monotonic()
        self._is_terminal = sys.stderr.isatty()
        self._retry = ("", 0)

    def begin(self, name: str, counts: Counter[int], share: float) -> None:
        """Start on a file, of which an earlier run did this much."""
        self._name, self._start = name, (time.monotonic(), counts.total(), share)

    def advance(self, counts: Counter[int], share: float) -> None:
        """Show how much of the file is done, unless that was shown just now."""
        now = time.monotonic()
        if now - self._shown_at < (TERMINAL_SECONDS if self._is_terminal else PLAIN_SECONDS):
            return
        self._shown_at = now
        began_at, before, share_before = self._start
        seconds = max(now - began_at, 0.001)
        failed = sum(count for status, count in counts.items() if status not in STORED)
        text = f"{self._name}: {counts.total():,} records, {failed:,} failed"
        text += f", {(counts.total() - before) / seconds:,.0f}/s"
        if share > share_before:
            left = int(seconds * (1 - share) / (share - share_before))
            text += f", {share:.0%}, {left // 60}:{left % 60:02} left"
        self._write(text, ends_line=not self._is_terminal)

    def tell(self, text: str) -> None:
        """Print a line of its own."""
        self._write(text, ends_line=True)

    def end(self) -> None:
        """Leave the line to others."""
        if self._is_terminal:
            self._write("", ends_line=False)

    def _write(self, text: str, *, ends_line: bool) -> None:
        click.echo(f"\r\x1b[K{text}" if self._is_terminal else text, err=True, nl=ends_line)

    async def pause(self, reason: str, seconds: float, attempt: int) -> None:
        """Wait before a retry, and tell why: once, where several batches meet the same."""
        if (reason, attempt) != self._retry:
            self._retry = reason, attempt
            self.tell(f"{reason}; attempt {attempt} in {seconds:.1f} s")
        await asyncio.sleep(seconds)
