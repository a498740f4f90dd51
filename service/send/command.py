"""``python -m service send``: for people with a file."""

import asyncio
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path
from typing import BinaryIO, NamedTuple

import click
from yarl import URL

from service.client import CouldNotSend, connect
from service.send.delivery import Pace, Sender
from service.send.progress import STORED, NotTheSame, Progress
from service.send.records import Records, Unreadable, format_of
from service.wire import BATCH_ITEMS

_STORED = {str(status) for status in STORED}
ALL_STORED, SOME_FAILED, NOT_SENT, INTERRUPTED = 0, 1, 3, 130

MOST_AT_ONCE = 64


class _Target(NamedTuple):
    caller: tuple[str, str, str, str]
    patience: float
    advice: str


def _check_url(_context: click.Context, _parameter: click.Parameter, url: str) -> str:
    try:
        parsed = URL(url)
    except ValueError:
        raise click.BadParameter("expected http://host:port[/base_path]") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise click.BadParameter("expected http://host:port[/base_path]")
    if parsed.user or parsed.password or parsed.query_string or parsed.fragment:
        raise click.BadParameter("expected no credentials, query or fragment in it")
    return url.rstrip("/")


def _check_header(_context: click.Context, parameter: click.Parameter, value: str) -> str:
    value = value.strip()
    if not value or not value.isascii() or not value.isprintable():
        # Without the value, which may be a credential.
        raise click.BadParameter("expected visible ASCII characters", param=parameter)
    return value


@click.command("send")
@click.argument(
    "path",
    metavar="FILE",
    type=click.Path(path_type=Path, exists=True, dir_okay=False, allow_dash=True),
)
@click.option(
    "--url", required=True, callback=_check_url, help="http://host:port[/base_path] of the service."
)
@click.option(
    "--database", required=True, callback=_check_header, metavar="NAME", help="Where they go."
)
@click.option(
    "--api-key",
    envvar="SERVICE_API_KEY",
    required=True,
    callback=_check_header,
    help="Better in the environment, as SERVICE_API_KEY: others see command lines.",
)
@click.option(
    "--token",
    envvar="SERVICE_TOKEN",
    required=True,
    callback=_check_header,
    help="The bearer token; better in the environment, as SERVICE_TOKEN.",
)
@click.option(
    "--format",
    "format_name",
    type=click.Choice(["json", "ndjson", "csv"]),
    help="Default: by the extension (.json, .ndjson, .jsonl, .csv).",
)
@click.option(
    "--batch-size",
    default=1000,
    show_default=True,
    type=click.IntRange(1, BATCH_ITEMS),
    help="Records of a batch. With another size, records without a key are created anew.",
)
@click.option(
    "--concurrency",
    default=4,
    show_default=True,
    type=click.IntRange(1, MOST_AT_ONCE),
    help="Batches at once; records with one key are stored in file order all the same.",
)
@click.option(
    "--retries",
    default=6,
    show_default=True,
    type=click.IntRange(0),
    help="How often a batch or record is sent again that met 429, 503 or a broken connection.",
)
@click.option(
    "--timeout",
    default=300.0,
    show_default=True,
    type=click.FloatRange(0, min_open=True),
    metavar="SECONDS",
    help="How long a batch may take.",
)
@click.option(
    "--failed",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Where records that failed go; default: FILE.failed.ndjson.",
)
@click.option("--restart", is_flag=True, help="Start anew instead of where the last run ended.")
def send_command(
    path: Path,
    url: str,
    database: str,
    api_key: str,
    token: str,
    format_name: str | None,
    batch_size: int,
    concurrency: int,
    retries: int,
    timeout: float,
    failed: Path | None,
    *,
    restart: bool,
) -> None:
    """Send the records of FILE: a JSON array, NDJSON, or CSV with a header of field names.

    FILE may be - for standard input. A JSON array is read as a whole, the others bit by bit.
    In CSV an empty cell is a field that is not sent. For a certificate authority of your own
    set SSL_CERT_FILE.

    Records that fail go to FILE.failed.ndjson with the reason. Correct the "item" of each line,
    delete the lines you gave up, and send that file like any other.

    A run that was interrupted goes on where it ended when you repeat the command; what is
    done is kept in FILE.progress meanwhile. Also a finished command may be repeated: a record
    without a key (key 0) is created once for each file. A file is the same while its size,
    time, contents and --batch-size are, and for as long as the service remembers (7 days,
    unless it is configured otherwise).

    \b
    Exit status: 0 all stored, 1 some failed, 2 usage or an unreadable file,
    3 could not be sent (refused or unreachable), 130 interrupted
    """
    is_file = str(path) != "-"
    chosen = format_name or format_of(path)
    if chosen is None:
        raise click.UsageError("the extension of FILE does not tell its format; use --format")
    base = path if is_file else Path("stdin")
    failed = failed or base.with_name(base.name + ".failed.ndjson")
    if is_file and failed.exists() and failed.samefile(path):
        raise click.UsageError("--failed names FILE itself")
    advice = "; repeat the command to go on" if is_file else ""
    target = _Target((url, database, api_key, token), timeout, advice)
    with _opened(path) as source:
        progress = Progress(path if is_file else None, failed, url, database, batch_size)
        try:
            if restart or not progress.load():
                progress.start_anew()
        except NotTheSame as error:
            raise click.UsageError(f"{error}; --restart ignores it") from None
        except OSError as error:
            raise click.UsageError(f"cannot use {error.filename}: {error.strerror}") from None
        records = Records(source, chosen)
        pace = Pace(concurrency, retries)
        with _bar(source) as advance:
            started_at = time.monotonic()
            try:
                status, problem = asyncio.run(
                    _send(records, target, progress, pace, lambda: advance(records.position))
                )
            except KeyboardInterrupt:
                status, problem = INTERRUPTED, f"Ended at once{target.advice}"
    _summarize(progress.counts, failed, time.monotonic() - started_at)
    if problem:
        click.echo(problem, err=True)
    sys.exit(status)


async def _send(
    records: Records,
    target: _Target,
    progress: Progress,
    pace: Pace,
    on_finished: Callable[[], None],
) -> tuple[int, str | None]:
    """Return the exit status, and what to tell the user."""
    stop = asyncio.Event()
    _stop_on_signals(stop)
    async with connect(
        *target.caller, patience=target.patience, concurrency=pace.concurrency
    ) as client:
        try:
            await Sender(client, progress, pace, stop, on_finished).send(records)
        except CouldNotSend as error:
            return NOT_SENT, f"Error: {error}{target.advice}"
        except OSError as error:
            return NOT_SENT, f"Error: {error.filename or 'FILE'}: {error.strerror}{target.advice}"
        except Unreadable as error:
            return click.UsageError.exit_code, f"Error: cannot read FILE: {error}"
    if stop.is_set():
        return INTERRUPTED, f"Interrupted{target.advice}"
    progress.remove()
    return (SOME_FAILED if set(progress.counts) - _STORED else ALL_STORED), None


def _stop_on_signals(stop: asyncio.Event) -> None:
    """Let the batches in flight finish; a second signal ends at once."""
    loop = asyncio.get_running_loop()

    def end() -> None:
        stop.set()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end)


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    if str(path) == "-":
        yield sys.stdin.buffer
        return
    with path.open("rb") as source:
        _wait_for_others(source)
        yield source


def _wait_for_others(source: BinaryIO) -> None:
    """Let another command that sends the file end first: both keep its progress in one place."""
    try:
        flock(source, LOCK_EX | LOCK_NB)
    except BlockingIOError:
        click.echo("Waiting for another command, which sends FILE", err=True)
        try:
            flock(source, LOCK_EX)
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)
    except OSError:
        # A file system without locks: two commands do twice the work, and no harm.
        return


@contextmanager
def _bar(source: BinaryIO) -> Iterator[Callable[[int], None]]:
    """Show on a terminal how much of the file is read."""
    size = source.seek(0, 2) if source.seekable() else 0
    if size:
        source.seek(0)
    with click.progressbar(
        length=size, label="Sending", file=sys.stderr, hidden=not (size and sys.stderr.isatty())
    ) as bar:

        def advance(position: int) -> None:
            bar.update(position - bar.pos)

        yield advance


def _summarize(counts: Counter[str], failed: Path, seconds: float) -> None:
    click.echo(f"created   {counts['201']:,}")
    click.echo(f"updated   {counts['200']:,}")
    failures = sorted((name, n) for name, n in counts.items() if name not in _STORED)
    for name, count in failures:
        click.echo(f"failed    {count:,} ({name})")
    click.echo(f"sent      {sum(counts.values()):,} in {seconds:.1f} s")
    if failures:
        click.echo(f"reasons   {failed}")
