"""Commands (contract section 4); nothing else parses arguments."""

import asyncio
import errno
import hashlib
import json
import re
import secrets
import signal
import sys
from functools import partial
from pathlib import Path

import click

from service import __version__, config
from service.config import ConfigurationError, Server, Settings
from service.send.command import send_command
from service.telemetry import logs


def _load(context: click.Context, _parameter: click.Parameter, path: Path | None) -> Settings:
    if path is None and not config.is_in_environment():
        raise click.UsageError(
            "no configuration: use --config FILE, set SERVICE_CONFIG, or put all settings in the"
            " environment, such as SERVICE_SERVER__PORT=9000"
        )
    context.obj = path
    try:
        return config.load(path)
    except ConfigurationError as error:
        # click adds the prefix to the first line only.
        raise click.ClickException(str(error).replace("\n", "\nError: ")) from None


_config_option = partial(
    click.option,
    *("--config", "settings"),
    envvar="SERVICE_CONFIG",
    type=click.Path(path_type=Path),
    metavar="FILE",
)
_with_settings = _config_option(
    callback=_load,
    help="TOML configuration file [env: SERVICE_CONFIG]. Settings can also be given as"
    " SERVICE_SECTION__NAME.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="%(prog)s %(version)s", prog_name="care-trials")
@click.pass_context
def main(context: click.Context) -> None:
    """Batch-upsert care-case clinical-trial records into PostgreSQL.

    \b
    To try it out:  care-trials demo
    In production:  new-key, check-config, migrate, serve
    To send files:  send
    """
    if context.invoked_subcommand != serve_command.name:
        # Ends the blocking of __main__; serve does so itself once it can handle the signals.
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
    logs.configure()


@main.command("serve")
@_with_settings
@click.pass_obj
def serve_command(path: Path | None, settings: Settings) -> None:
    """Run the service until SIGTERM or Ctrl-C."""
    from service.http.server import serve

    try:
        serve(settings, lambda: config.load(path))
    except ConfigurationError as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        hint = "; set another server.port, or server.reuse_port = true in all processes on it"
        raise click.ClickException(_describe_listen_error(error, hint, settings.server)) from None


def _describe_listen_error(error: OSError, hint: str, server: Server) -> str:
    """Return why the service cannot listen, with the hint if the port is taken."""
    from service.http.check import listen_error

    message = f"cannot serve: {listen_error(error, server, f'port {server.port}')}"
    return message + hint if error.errno == errno.EADDRINUSE else message


@main.command("migrate")
@_with_settings
@click.option("--database", metavar="NAME", help="Migrate only this database (default: all).")
@click.option(
    "--status",
    "is_status",
    is_flag=True,
    help="Report only; exit status 1 if a schema is out of date.",
)
@click.option(
    "--wait",
    "seconds",
    default=0,
    metavar="SECONDS",
    type=click.IntRange(0),
    help="Wait up to SECONDS for the server (with --status: for the schema). Default: 0.",
)
def migrate_command(
    settings: Settings, database: str | None, is_status: bool, seconds: int
) -> None:
    """Bring the databases to the current schema.

    Safe to repeat, and to run on several machines at the same time.
    """
    from service.migrations import MigrationFailed, migrate_once_reachable, wait_until_current

    if database is not None and database not in settings.databases:
        raise click.ClickException(f"{database} is not configured under [databases]")
    failed = False
    for name in [database] if database else settings.databases:
        tenant = settings.databases[name]
        try:
            if is_status and not asyncio.run(
                wait_until_current(tenant.dsn, seconds, tenant.search_path)
            ):
                raise MigrationFailed("the schema is out of date; run: care-trials migrate")
            if not is_status:
                asyncio.run(migrate_once_reachable(tenant, seconds))
            click.echo(f"{name}: the schema is up to date")
        except MigrationFailed as error:
            failed = True
            click.echo(f"{name}: {error}", err=True)
    sys.exit(failed)


@main.command("healthcheck")
@_with_settings
def healthcheck_command(settings: Settings) -> None:
    """Check that the service answers /livez.

    Exit status 0 if it does, otherwise 1.
    """
    from service.http.health import liveness_error

    reason = liveness_error(settings.server)
    if reason is not None:
        raise click.ClickException(reason)


@main.command("demo")
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Directory for the demo data (default: ./.demo).",
)
@click.option(
    "--port",
    default=Server().port,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="Port to listen on; 0 chooses a free one.",
)
def demo_command(folder: Path | None, port: int) -> None:
    """Serve a demo with an embedded PostgreSQL.

    Creates two databases, an API key and a token, and prints a curl command to paste.
    """
    from service.demo.postgres import EmbeddedPostgresError
    from service.demo.run import run

    try:
        run(folder, port)
    except EmbeddedPostgresError as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        hint = f"; use another one: make run PORT={port + 10}, or demo --port {port + 10}"
        raise click.ClickException(_describe_listen_error(error, hint, Server(port=port))) from None


@main.command("token")
@_with_settings
@click.option("--subject", required=True, metavar="NAME", help="User name to put in the token.")
@click.option(
    "--expires",
    default="1h",
    show_default=True,
    metavar="TIME",
    help="Lifetime, for example 90s, 15m, 1h or 7d.",
)
def token_command(settings: Settings, subject: str, expires: str) -> None:
    """Print a signed token.

    The configuration must have auth.jwt.secret and allow HS256.
    """
    match = re.fullmatch(r"(\d{1,9})([smhd])", expires)
    if match is None:
        raise click.BadParameter(f"--expires must be like 90s, 15m, 1h or 7d, got {expires}")
    seconds = int(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]]
    from service.http.access import sign_token

    try:
        click.echo(sign_token(settings.auth.jwt, subject, seconds))
    except ConfigurationError as error:
        raise click.ClickException(str(error)) from None


@main.command("new-key")
def new_key_command() -> None:
    """Generate an API key.

    Prints the key, and its sha256 line for the configuration.
    """
    key = secrets.token_urlsafe(32)
    click.echo(f"key: {key}")
    click.echo(f'sha256 = "{hashlib.sha256(key.encode()).hexdigest()}"')


@main.command("openapi")
@_config_option(
    callback=lambda context, parameter, path: path and _load(context, parameter, path),
    help="Use the base path and limits of this configuration (default: built-in defaults).",
)
def openapi_command(settings: Settings | None) -> None:
    """Print the OpenAPI 3.1 document."""
    from service.http import openapi

    document = openapi.make_document(settings.server if settings else Server())
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))


@main.command("check-config")
@_with_settings
def check_config_command(settings: Settings) -> None:
    """Validate the configuration and test it.

    Tests everything that the configuration refers to, and prints a line for each finding. Exit
    status 1 if a line begins with "failed:". No secret is shown.
    """
    from service.http.check import check

    async def print_findings() -> bool:
        failed = False
        async for finding in check(settings):
            level = "" if finding.level == "ok" else f"{finding.level}: "
            click.echo(f"{level}{finding.subject}: {finding.message}")
            failed |= finding.level == "failed"
        return failed

    sys.exit(asyncio.run(print_findings()))


main.add_command(send_command)
