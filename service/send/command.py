"""``care-trials send``: for people with files."""

import asyncio
import signal
import sys
import time
from contextlib import suppress
from operator import attrgetter
from pathlib import Path

import click
from yarl import URL

from service.client import Client, CouldNotSend
from service.send.display import Display
from service.send.progress import STORED
from service.send.records import Unreadable, format_of
from service.send.run import File, Run

ALL_STORED, SOME_FAILED, UNREADABLE, NOT_SENT, INTERRUPTED = 0, 1, 2, 3, 130

MOST_AT_ONCE = 64
_ADVICE = {
    401: "; check SERVICE_API_KEY and SERVICE_TOKEN, which may have expired",
    403: "; check --database",
    404: "; check --url, which ends with the service's base path",
}


def _check_url(_context: click.Context, _parameter: click.Parameter, url: str) -> str:
    with suppress(ValueError):
        parsed = URL(url)
        more = parsed.user or parsed.password or parsed.query_string or parsed.fragment
        if parsed.scheme in ("http", "https") and parsed.host and not more:
            return url.rstrip("/")
    # Without the value, which may hold credentials.
    raise click.BadParameter(
        "expected http://host:port[/base_path], and no credentials, query or fragment in it"
    )


def _check_header(_context: click.Context, parameter: click.Parameter, value: str) -> str:
    value = value.strip()
    if not value or not value.isascii() or not value.isprintable():
        raise click.BadParameter("expected visible ASCII characters", param=parameter)
    return value


def _check_delimiter(_context: click.Context, _parameter: click.Parameter, text: str) -> str:
    text = {"tab": "\t", r"\t": "\t"}.get(text.lower(), text)
    if len(text) > 1 or text in ('"', "\r", "\n"):
        raise click.BadParameter("expected one character, or tab")
    return text


@click.command("send")
@click.argument(
    "paths",
    metavar="FILE…",
    nargs=-1,
    required=True,
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
    help="Default: by the extension (.json, .ndjson, .jsonl, .csv, each also with .gz).",
)
@click.option(
    "--delimiter",
    default="",
    callback=_check_delimiter,
    metavar="C",
    help="Of a CSV file; default: what its header is separated by (, ; tab |).",
)
@click.option("--check", is_flag=True, help="Read the files and tell what is wrong; send nothing.")
@click.option(
    "--outcomes",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Where place, key and status of every record go, as CSV; default, if there are"
    " records without a key: FILE.outcomes.csv.",
)
@click.option(
    "--failed",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Where records that failed go; default: FILE.failed.ndjson.",
)
@click.option(
    "--concurrency",
    default=Client.concurrency,
    show_default=True,
    type=click.IntRange(1, MOST_AT_ONCE),
    help="Batches at once; records with one key are stored in file order all the same.",
)
@click.option(
    "--retries",
    default=Client.retries,
    show_default=True,
    type=click.IntRange(0),
    help="How often a batch or record is sent again that met 429, 503 or a broken connection.",
)
@click.option(
    "--timeout",
    "timeout_seconds",
    default=Client.timeout_seconds,
    show_default=True,
    type=click.FloatRange(0, min_open=True),
    metavar="SECONDS",
    help="How long a batch may take.",
)
def send_command(
    paths: tuple[Path, ...],
    format_name: str | None,
    delimiter: str,
    outcomes: Path | None,
    failed: Path | None,
    *,
    check: bool,
    **service: str | int | float,
) -> None:
    """Send the records of each FILE: a JSON array, NDJSON, or CSV with a header of field names.

    FILE may be compressed by gzip, and - is standard input. A JSON array is read as a whole, the
    others bit by bit. In CSV the header may also name the table's columns, as COPY writes them; an
    empty cell is a field that is not sent. For a certificate authority of your own set
    SSL_CERT_FILE.

    Records that fail go to FILE.failed.ndjson with the reason. Correct the "item" of each line,
    delete the lines you gave up, and send that file like any other.

    Repeat the command after an interruption, and it goes on where it ended; FILE.progress tells
    that meanwhile. Also a finished command may be repeated: as long as the records and their order
    are the same and the service remembers (7 days, unless it is configured otherwise), a
    record without a key (key 0) is created once, whatever the file is called. In an edited file
    it is created anew.

    \b
    Exit status: 0 all stored, 1 some failed, 2 usage or an unreadable file,
    3 could not be sent (refused or unreachable), 130 interrupted
    """
    if len(paths) > 1 and (outcomes or failed):
        raise click.UsageError("--outcomes and --failed go with one FILE")
    files = [_file(path, format_name, delimiter, failed, outcomes) for path in dict.fromkeys(paths)]
    display = Display()
    client = Client(**service, encode=attrgetter("item"), pause=display.pause)  # type: ignore[arg-type]
    run = Run(client, files, display)
    # What is under way ends, and the next run sends it again. A shell starts with SIGINT ignored
    # what it starts in the background.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    status, problem = NOT_SENT, ""
    try:
        if check:
            lines = list(run.check())
            click.echo("\n".join(lines))
            status = SOME_FAILED if len(lines) > len(files) else ALL_STORED
        else:
            asyncio.run(run.send())
            status = SOME_FAILED if run.counts.keys() - {*STORED} else ALL_STORED
    except CouldNotSend as error:
        advice = "" if error.retry_after is None else "; repeat the command"
        problem = f"{error}{_ADVICE.get(error.status or 0, advice)}"
    except Unreadable as error:
        status, problem = UNREADABLE, f"cannot read {error}"
    except OSError as error:
        problem = f"{error.filename or 'FILE'}: {error.strerror}"
    except KeyboardInterrupt:
        status, problem = INTERRUPTED, "interrupted; repeat the command to go on"
    display.end()
    if not check:
        click.echo("\n".join(run.summary(time.monotonic() - display.started_at)))
    if problem:
        display.tell(f"Error: {problem}")
    sys.exit(status)


def _file(
    path: Path, format_name: str | None, delimiter: str, failed: Path | None, outcomes: Path | None
) -> File:
    chosen = format_name or format_of(path)
    if chosen is None:
        raise click.UsageError(f"the extension of {path} does not tell its format; use --format")
    is_stream = not path.is_file()
    base = Path("stdin") if is_stream else path
    failed = failed or base.with_name(base.name + ".failed.ndjson")
    places = outcomes or base.with_name(base.name + ".outcomes.csv")
    if not is_stream and any(each.exists() and each.samefile(path) for each in (failed, places)):
        raise click.UsageError("--failed or --outcomes names FILE itself")
    return File(path, is_stream, chosen, delimiter, failed, places, outcomes is not None)
