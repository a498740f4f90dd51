"""The commands; nothing else parses arguments (contract section 4)."""

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
            "name the configuration by --config FILE or SERVICE_CONFIG, or set all of it in the"
            " environment, as in SERVICE_SERVER__PORT=9000"
        )
    context.obj = path
    try:
        return config.load(path)
    except ConfigurationError as error:
        # As click prefixes the first line.
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
    help="The configuration file (TOML); default: what SERVICE_CONFIG names; see SERVICE_…__….",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="%(prog)s %(version)s", prog_name="care-trials")
@click.pass_context
def main(context: click.Context) -> None:
    """Batch upserts of clinical-trial records of care cases into PostgreSQL.

    \b
    A first look:   care-trials demo
    In production:  new-key, check-config, migrate, serve
    With a file:    send
    """
    if context.invoked_subcommand != serve_command.name:
        # They have their default actions again; serve unblocks them when it can handle them.
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
    logs.configure()


@main.command("serve")
@_with_settings
@click.pass_obj
def serve_command(path: Path | None, settings: Settings) -> None:
    """Run the service from the configuration, until SIGTERM or Ctrl-C."""
    from service.http.server import serve

    try:
        serve(settings, lambda: config.load(path))
    except ConfigurationError as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        hint = "; set another server.port, or server.reuse_port = true in each that shares it"
        raise click.ClickException(_cannot_serve(error, hint, settings.server)) from None


def _cannot_serve(error: OSError, hint: str, server: Server) -> str:
    """Return why the service cannot listen, and the hint where the port is taken."""
    from service.http.check import listen_error

    message = f"cannot serve: {listen_error(error, server)}"
    return message + hint if error.errno == errno.EADDRINUSE else message


@main.command("migrate")
@_with_settings
@click.option("--database", metavar="NAME", help="Only this one; default: all configured.")
@click.option("--status", "is_status", is_flag=True, help="Only tell; exit status 1 when behind.")
@click.option(
    "--wait",
    "seconds",
    default=0,
    metavar="SECONDS",
    type=click.IntRange(0),
    help="How long to wait for a server, with --status for the schema; default: not at all.",
)
def migrate_command(
    settings: Settings, database: str | None, is_status: bool, seconds: int
) -> None:
    """Bring one or all configured databases to the current schema; safe to repeat."""
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
                raise MigrationFailed("behind the current schema: run care-trials migrate")
            if not is_status:
                asyncio.run(migrate_once_reachable(tenant, seconds))
            click.echo(f"{name}: at the current schema")
        except MigrationFailed as error:
            failed = True
            click.echo(f"{name}: {error}", err=True)
    sys.exit(failed)


@main.command("healthcheck")
@_with_settings
def healthcheck_command(settings: Settings) -> None:
    """Ask the configured listener whether it is alive; exit status 0 or 1."""
    from service.http.health import liveness_error

    reason = liveness_error(settings.server)
    if reason is not None:
        raise click.ClickException(f"not alive: {reason}")


@main.command("demo")
@click.option("--folder", type=click.Path(path_type=Path, file_okay=False), help="Keeps the data.")
@click.option("--port", default=Server().port, show_default=True, type=click.IntRange(0, 65535))
def demo_command(folder: Path | None, port: int) -> None:
    """Serve two databases of an embedded PostgreSQL; prints a curl to paste."""
    from service.demo.postgres import EmbeddedPostgresError
    from service.demo.run import run

    try:
        run(folder, port)
    except EmbeddedPostgresError as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        hint = f"; choose another: make run PORT={port + 10}, or demo --port {port + 10}"
        raise click.ClickException(_cannot_serve(error, hint, Server(port=port))) from None


@main.command("token")
@_with_settings
@click.option("--subject", required=True, metavar="NAME", help="The user the token names.")
@click.option("--expires", default="1h", show_default=True, help="As in 90s, 15m, 1h, 7d.")
def token_command(settings: Settings, subject: str, expires: str) -> None:
    """Print a signed token (HS256 configurations)."""
    match = re.fullmatch(r"(\d{1,9})([smhd])", expires)
    if match is None:
        raise click.BadParameter(f"expected as in 90s, 15m, 1h, 7d, got {expires}")
    seconds = int(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]]
    from service.http.access import signed_token

    try:
        click.echo(signed_token(settings.auth.jwt, subject, seconds))
    except ConfigurationError as error:
        raise click.ClickException(str(error)) from None


@main.command("new-key")
def new_key_command() -> None:
    """Print a fresh API key and the sha256 line for the configuration."""
    key = secrets.token_urlsafe(32)
    click.echo(f"key: {key}")
    click.echo(f'sha256 = "{hashlib.sha256(key.encode()).hexdigest()}"')


@main.command("openapi")
@_config_option(
    callback=lambda context, parameter, path: path and _load(context, parameter, path),
    help="Whose base path and limits it names; default: none, and the default limits.",
)
def openapi_command(settings: Settings | None) -> None:
    """Print the OpenAPI 3.1 document."""
    from service.http import openapi

    document = openapi.make_document(settings.server if settings else Server())
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))


@main.command("check-config")
@_with_settings
def check_config_command(settings: Settings) -> None:
    """Validate the configuration, and try all that it names; no secret is shown."""
    from service.http.check import check

    async def tell() -> bool:
        failed = False
        async for finding in check(settings):
            level = "" if finding.level == "ok" else f"{finding.level}: "
            click.echo(f"{level}{finding.subject}: {finding.message}")
            failed |= finding.level == "failed"
        return failed

    sys.exit(asyncio.run(tell()))


main.add_command(send_command)
