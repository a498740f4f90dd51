"""``care-trials send``: for people with files."""

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
from service.send.display import print_status, printable, report
from service.send.records import DELIMITERS, Records, Unreadable
from service.send.transfer import STORED, FileTransfer

ALL_STORED, SOME_FAILED, UNREADABLE, NOT_SENT, INTERRUPTED = 0, 1, 2, 3, 130

_ADVICE = {
    401: "; check SERVICE_API_KEY and SERVICE_TOKEN, which may have expired",
    403: "; check --database",
    404: "; check --url, which ends with the service's base path",
}


def _url(text: str) -> str:
    if not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#@]*)?", text):
        # Without the value, which may hold credentials.
        raise click.BadParameter(
            "expected http://host:port[/base_path], and no credentials, query or fragment in it"
        )
    return text.rstrip("/")


class _Command(click.Command):
    """A command whose complaints show the names of files, as shells list them, harmlessly."""

    def parse_args(self, context: click.Context, arguments: list[str]) -> list[str]:
        try:
            return super().parse_args(context, arguments)
        except click.UsageError as error:
            error.message = printable(error.message)  # type: ignore[misc]
            raise


@click.command("send", cls=_Command, context_settings={"show_default": True})
@click.argument("files", metavar="FILE…", nargs=-1, required=True, type=click.File("rb"))
@click.option("--url", required=True, type=_url, metavar="URL", help="http://host:port/base_path.")
@click.option("--database", required=True, metavar="NAME", help="Where the records go.")
@click.option("--api-key", required=True, envvar="SERVICE_API_KEY", show_envvar=True)
@click.option("--token", required=True, envvar="SERVICE_TOKEN", show_envvar=True)
@click.option("--delimiter", metavar="C", default=DELIMITERS, show_default=", ; tab or |")
@click.option("--check", is_flag=True, help="Read the files and tell what is wrong; send nothing.")
@click.option("--replace", is_flag=True, help="Set fields that records lack to null in updates.")
@click.option(
    "--outcomes", type=click.Path(dir_okay=False, path_type=Path), help="Where all outcomes go."
)
@click.option(
    "--concurrency", default=Client.concurrency, type=click.IntRange(1), help="Batches at once."
)
@click.option(
    "--retries", default=Client.retries, type=click.IntRange(0), help="Of a batch, at most."
)
def send_command(
    files: tuple[Any, ...],
    delimiter: str,
    outcomes: Path | None,
    check: bool,
    replace: bool,
    **service: Any,
) -> None:
    """Send the records of each FILE: a JSON array, NDJSON, or CSV with a header of field names.

    FILE may be compressed by gzip, and - is standard input. JSON arrays are read as a whole, before
    anything is sent, the others bit by bit. In CSV the header may also name the table's columns, as
    COPY writes them; an empty cell is a field that is not sent. Credentials are better in the
    environment: others see command lines. SSL_CERT_FILE names a certificate authority of your own.

    An update replaces the whole record. The first record with a key that lacks a field (besides
    entry_… and update_…) therefore ends the run before its batch is sent; run the same command with
    --replace to resume there and set such fields to null. Records with key 0 can lack fields.

    Records that fail go to FILE.failed.ndjson with the reason. Correct the "item" of each line,
    delete the lines you gave up, and send that file like any other. If there are records without
    a key, place, key and status of every record go to FILE.outcomes.csv.

    It is safe to run the command again; it resumes where it stopped (tracked in FILE.progress). A
    record with key 0 is created once, whatever the file is called, as long as the records and their
    order stay the same and the service remembers (7 days by default).

    \b
    Exit status: 0 all stored, 1 some failed, 2 usage, unreadable file or --replace needed,
    3 could not be sent (refused or unreachable), 130 interrupted
    """
    if outcomes and (len(files) > 1 or outcomes.resolve() == Path(files[0].name).resolve()):
        raise click.UsageError("--outcomes goes with one FILE, and is not that FILE itself")
    # What is under way ends, and the next run sends it again. A shell starts with SIGINT ignored
    # what it starts in the background.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    os.umask(0o077)  # What is written beside a file has records in it.
    started_at = time.monotonic()
    runs: list[FileTransfer] = []
    status, problem = NOT_SENT, ""
    try:
        records = [Records(file, delimiter, replaces=check or replace) for file in files]
        runs += [FileTransfer(each, outcomes, **service) for each in records]
        for run in () if check else runs:
            run.open()
        for run in runs:
            run.check(replaces=replace) if check else run.send()
        status = SOME_FAILED if any(run.failed for run in runs) else ALL_STORED
        if not check:
            for run in runs:
                run.progress.path.unlink(missing_ok=True)
    except CouldNotSend as error:
        advice = "" if error.retry_after is None else "; repeat the command"
        problem = f"{error}{_ADVICE.get(error.status or 0, advice)}"
    except Unreadable as error:
        status, problem = UNREADABLE, f"cannot read {error}"
    except OSError as error:
        problem = f"cannot write {error.filename or 'output'}: {error.strerror}"
    except KeyboardInterrupt:
        status, problem = INTERRUPTED, "interrupted; repeat the command to go on"
    print_status("", ends_line=False)
    if not check:
        _summarize(runs, time.monotonic() - started_at)
    if problem:
        print_status(f"Error: {problem}")
    sys.exit(status)


def _summarize(runs: list[FileTransfer], seconds: float) -> None:
    """Print what became of all records, and where that is written."""
    counts = sum((run.counts for run in runs), Counter[int]())
    lines = [f"created   {counts[201]:,}", f"updated   {counts[200]:,}"]
    lines += [f"failed    {counts[s]:,} ({s})" for s in sorted(counts.keys() - {*STORED})]
    lines.append(f"sent      {counts.total():,} in {seconds:.1f} s")
    if in_flight := sum(run.client.in_flight for run in runs):
        lines.append(f"in flight {in_flight:,} (resent by the next run)")
    for run in runs:
        lines += [f"reasons   {run.paths[1]}"] if run.failed else []
        lines += [f"outcomes  {run.paths[0]}"] if run.counts and run.tells_outcomes else []
    report(lines)
