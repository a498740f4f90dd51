"""The commands; nothing else parses arguments (contract section 4)."""

import asyncio
import hashlib
import json
import os
import re
import secrets
import sys
import tempfile
import time
from pathlib import Path

import asyncpg
import click
import jwt

from . import config, logs
from .auth import Authenticator
from .config import ConfigurationError, Server, Settings
from .send_command import send_command
from .statements import SCHEMA_IS_CURRENT


def _load(_context: click.Context, _parameter: click.Parameter, path: Path | None) -> Settings:
    if path is None:
        raise click.UsageError("name the configuration by --config FILE or SERVICE_CONFIG")
    try:
        return config.load(path)
    except ConfigurationError as error:
        raise click.ClickException(str(error)) from None


_with_settings = click.option(
    "--config",
    "settings",
    envvar="SERVICE_CONFIG",
    type=click.Path(path_type=Path),
    callback=_load,
    metavar="FILE",
    help="The configuration file (TOML); default: the file that SERVICE_CONFIG names.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def main() -> None:
    """Batch upserts of clinical-trial records of care cases into PostgreSQL.

    \b
    A first look:   python -m service demo
    In production:  new-key, check-config, migrate, serve
    With a file:    send
    """
    logs.configure()


@main.command("serve")
@_with_settings
def serve_command(settings: Settings) -> None:
    """Run the service from the configuration, until SIGTERM or Ctrl-C."""
    if settings.server.workers > 1:
        # Read when the metrics are first imported, so set before that.
        os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", tempfile.mkdtemp(prefix="metrics-"))
    from . import serving

    try:
        Authenticator(settings.auth)
        serving.serve(settings)
    except ConfigurationError as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        raise click.ClickException(f"cannot serve: {error.strerror or error}") from None


@main.command("migrate")
@_with_settings
@click.option("--database", metavar="NAME", help="Only this one; default: all configured.")
def migrate_command(settings: Settings, database: str | None) -> None:
    """Bring one or all configured databases to the current schema; safe to repeat."""
    from .migrations import MigrationFailed, migrate

    if database is not None and database not in settings.databases:
        raise click.ClickException(f"{database} is not configured under [databases]")
    failed = False
    for name in [database] if database else settings.databases:
        try:
            asyncio.run(migrate(settings.databases[name].dsn))
            click.echo(f"{name}: at the current schema")
        except MigrationFailed as error:
            failed = True
            click.echo(f"{name}: {error}", err=True)
    sys.exit(failed)


@main.command("demo")
@click.option("--folder", type=click.Path(path_type=Path, file_okay=False), help="Keeps the data.")
@click.option("--port", default=8080, show_default=True, type=click.IntRange(0, 65535))
def demo_command(folder: Path | None, port: int) -> None:
    """Serve two databases of an embedded PostgreSQL; prints a curl to paste."""
    from . import demo
    from .embedded import EmbeddedPostgresError

    try:
        demo.run(folder, port)
    except EmbeddedPostgresError as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        raise click.ClickException(f"cannot serve: {error.strerror or error}") from None


@main.command("token")
@_with_settings
@click.option("--subject", required=True, metavar="NAME", help="The user the token names.")
@click.option("--expires", default="1h", show_default=True, help="As in 90s, 15m, 1h, 7d.")
def token_command(settings: Settings, subject: str, expires: str) -> None:
    """Print a signed token (HS256 configurations)."""
    rules = settings.auth.jwt
    if rules.secret is None or "HS256" not in rules.algorithms:
        raise click.ClickException("tokens are signed here only with auth.jwt.secret and HS256")
    match = re.fullmatch(r"(\d{1,9})([smhd])", expires)
    if match is None:
        raise click.BadParameter(f"expected as in 90s, 15m, 1h, 7d, got {expires}")
    now = int(time.time())
    claims: dict[str, str | int] = {
        "sub": subject,
        "iat": now,
        "exp": now + int(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]],
    }
    if rules.issuer is not None:
        claims["iss"] = rules.issuer
    if rules.audience is not None:
        claims["aud"] = rules.audience
    click.echo(jwt.encode(claims, rules.secret, algorithm="HS256"))


@main.command("new-key")
def new_key_command() -> None:
    """Print a fresh API key and the sha256 line for the configuration."""
    key = secrets.token_urlsafe(32)
    click.echo(f"key: {key}")
    click.echo(f'sha256 = "{hashlib.sha256(key.encode()).hexdigest()}"')


@main.command("openapi")
@click.option(
    "--config",
    "settings",
    envvar="SERVICE_CONFIG",
    type=click.Path(path_type=Path),
    callback=lambda context, parameter, path: path and _load(context, parameter, path),
    metavar="FILE",
    help="Whose base path and limits it names; default: none, and the default limits.",
)
def openapi_command(settings: Settings | None) -> None:
    """Print the OpenAPI 3.1 document."""
    from . import openapi

    document = openapi.document(settings.server if settings else Server())
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))


@main.command("check-config")
@_with_settings
def check_config_command(settings: Settings) -> None:
    """Validate the configuration and connect to each database; secrets redacted."""
    try:
        Authenticator(settings.auth)
    except ConfigurationError as error:
        raise click.ClickException(str(error)) from None
    server = settings.server
    click.echo(f"server: {server.host}:{server.port}{server.base_path}, {server.workers} worker(s)")
    for key in settings.auth.api_keys:
        click.echo(f"api key {key.name}: {', '.join(key.databases)}")
    click.echo(f"tokens: {', '.join(settings.auth.jwt.algorithms)}")
    if settings.auth.jwt.secret is not None and len(settings.auth.jwt.secret.encode()) < 32:
        click.echo("warning: auth.jwt.secret is shorter than 32 bytes (RFC 7518 section 3.2)")
    failed = False
    for name, database in settings.databases.items():
        problem = asyncio.run(_probe(database.dsn))
        click.echo(f"database {name}: {problem or 'connected, schema is current'}")
        failed |= problem is not None
    sys.exit(failed)


main.add_command(send_command)


async def _probe(dsn: str) -> str | None:
    """Return what is wrong with a database, None where nothing is."""
    try:
        connection = await asyncpg.connect(dsn, timeout=5)
    except (OSError, TimeoutError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as e:
        reason = getattr(e, "sqlstate", None) or type(e).__name__
        return f"cannot connect ({reason})"
    try:
        if not await connection.fetchval(SCHEMA_IS_CURRENT):
            return "connected, but not migrated: run python -m service migrate"
    finally:
        await connection.close()
    return None
