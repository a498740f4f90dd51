"""The command ``care-trials send``."""

import os
import re
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import click

from service.client import Client, CouldNotSend
from service.send.display import escape, print_lines, print_status
from service.send.records import DELIMITERS, Records, Unreadable
from service.send.transfer import STORED, FileTransfer

ALL_STORED, SOME_FAILED, UNREADABLE, NOT_SENT, INTERRUPTED = 0, 1, 2, 3, 130

_ADVICE = {
    401: "; check SERVICE_API_KEY and SERVICE_TOKEN (the token may have expired)",
    403: "; check --database",
    404: "; check --url, which must include the service's base path",
}


def _check_url(url: str) -> str:
    if not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#@]*)?", url):
        # The message does not quote the URL, which can contain credentials.
        raise click.BadParameter(
            "must be http://host:port[/base_path], without credentials, query or fragment"
        )
    return url.rstrip("/")


class _Command(click.Command):
    """A command whose usage errors escape file names."""

    def parse_args(self, context: click.Context, arguments: list[str]) -> list[str]:
        try:
            return super().parse_args(context, arguments)
        except click.UsageError as error:
            error.message = escape(error.message)  # type: ignore[misc]
            raise


@click.command("send", cls=_Command, context_settings={"show_default": True})
@click.argument("files", metavar="FILE…", nargs=-1, required=True, type=click.File("rb"))
@click.option(
    "--url",
    required=True,
    type=_check_url,
    metavar="URL",
    help="Base URL of the service: http://host:port[/base_path].",
)
@click.option("--database", required=True, metavar="NAME", help="Target database.")
@click.option(
    "--api-key", required=True, envvar="SERVICE_API_KEY", show_envvar=True, help="API key."
)
@click.option(
    "--token", required=True, envvar="SERVICE_TOKEN", show_envvar=True, help="Bearer token."
)
@click.option(
    "--delimiter",
    metavar="C",
    default=DELIMITERS,
    show_default=False,
    help="CSV delimiter (default: detect , ; tab |).",
)
@click.option("--check", is_flag=True, help="Validate the files without sending anything.")
@click.option("--replace", is_flag=True, help="Set fields that records lack to null in updates.")
@click.option(
    "--outcomes",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write all outcomes to FILE.",
)
@click.option(
    "--concurrency",
    default=Client.concurrency,
    type=click.IntRange(1),
    help="Number of concurrent batches.",
)
@click.option(
    "--retries",
    default=Client.retries,
    type=click.IntRange(0),
    help="Maximum retries per batch.",
)
def send_command(
    files: tuple[Any, ...],
    delimiter: str,
    outcomes: Path | None,
    check: bool,
    replace: bool,
    **service: Any,
) -> None:
    """Send files of records in batches.

    Each FILE is a JSON array, NDJSON, or CSV with a header of field names. It can be compressed by
    gzip, and - is standard input. JSON arrays are loaded completely before sending; other formats
    are streamed. A CSV header can also have the table's column names, as COPY writes them; an empty
    cell is a field that is not sent. Prefer environment variables for credentials: other users can
    see command lines. SSL_CERT_FILE can name your own certificate authority.

    An update replaces the whole record. The first record with a key that lacks a field (except
    entry_… and update_…) therefore stops the command before its batch is sent. Run the same command
    with --replace to resume there and set such fields to null. Records with key 0 can lack fields.

    Failed records are written to FILE.failed.ndjson with the reason. Correct the "item" of each
    line, delete the lines you do not want to retry, and send that file like any other. If there are
    records with key 0, the place, key and status of every record are written to FILE.outcomes.csv.

    It is safe to run the command again. After an interruption it resumes where it stopped (tracked
    in FILE.progress). A record with key 0 is created once, whatever the name of the file, as long
    as the records and their order stay the same and the service remembers them (7 days by default).

    \b
    Exit status: 0 all stored, 1 some failed, 2 usage error, unreadable file or --replace needed,
    3 could not be sent (rejected or unreachable), 130 interrupted
    """
    if outcomes and (len(files) > 1 or outcomes.resolve() == Path(files[0].name).resolve()):
        raise click.UsageError("--outcomes needs exactly one FILE, and must not be that FILE")
    # What is in flight then completes, and the next run resends it. Shells start background jobs
    # with SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    os.umask(0o077)  # the files written here contain records
    started_at = time.monotonic()
    transfers: list[FileTransfer] = []
    status, problem = NOT_SENT, ""
    try:
        sources = [Records(file, delimiter, replaces=check or replace) for file in files]
        transfers += [FileTransfer(records, outcomes, **service) for records in sources]
        for transfer in () if check else transfers:
            transfer.open()
        for transfer in transfers:
            transfer.check(replaces=replace) if check else transfer.send()
        status = SOME_FAILED if any(transfer.failed for transfer in transfers) else ALL_STORED
        if not check:
            for transfer in transfers:
                transfer.progress.path.unlink(missing_ok=True)
    except CouldNotSend as error:
        advice = "" if error.retry_after is None else "; run the same command again"
        problem = f"Error: {error}{_ADVICE.get(error.status or 0, advice)}"
    except Unreadable as error:
        status, problem = UNREADABLE, f"Error: cannot read {error}"
    except OSError as error:
        problem = f"Error: cannot write {error.filename or 'output'}: {error.strerror}"
    except KeyboardInterrupt:
        status, problem = INTERRUPTED, "Interrupted; run the same command again to resume."
    print_status("", ends_line=False)
    if not check:
        _summarize(transfers, time.monotonic() - started_at)
    if problem:
        print_status(problem)
    sys.exit(status)


def _summarize(transfers: list[FileTransfer], seconds: float) -> None:
    """Print the number of records by outcome, and the files with the details."""
    counts = sum((transfer.counts for transfer in transfers), Counter[int]())
    lines = [f"created   {counts[201]:,}", f"updated   {counts[200]:,}"]
    lines += [f"failed    {counts[s]:,} ({s})" for s in sorted(counts.keys() - {*STORED})]
    lines.append(f"sent      {counts.total():,} in {seconds:.1f} s")
    if in_flight := sum(transfer.client.in_flight for transfer in transfers):
        lines.append(f"in flight {in_flight:,} (resent by the next run)")
    for transfer in transfers:
        lines += [f"reasons   {transfer.paths[1]}"] if transfer.failed else []
        if transfer.counts and transfer.reports_outcomes:
            lines.append(f"outcomes  {transfer.paths[0]}")
    print_lines(lines)
