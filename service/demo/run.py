"""Demo: an embedded PostgreSQL with two tenants, an API key, a token and a curl command."""

import asyncio
import hashlib
import json
import os
import secrets
import stat
import sys
from pathlib import Path
from typing import get_args

import click

from service import config
from service.demo.postgres import EmbeddedPostgres, find_binaries
from service.http.access import sign_token
from service.http.server import serve
from service.migrations import migrate
from service.statements import LATEST_RECORDS
from service.wire import (
    API_KEY_HEADER,
    BATCH_PATH,
    DATABASE_HEADER,
    DOCS_PATH,
    RECORDS_PATH,
    SAMPLE,
)

DATABASES = ("acme", "globex")
TOKEN_SECONDS = 86_400


def run(folder: Path | None, port: int) -> None:
    """Serve until Ctrl-C or SIGTERM. The folder keeps the data, the API key and the secret.

    Raises EmbeddedPostgresError, and OSError if the port is not available.
    """
    if os.geteuid() == 0:
        # PostgreSQL's account must reach the folder; files with secrets have their own mode.
        os.umask(0o022)
    folder = (folder or _choose_folder()).absolute()
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    key, secret = _load_secret(folder / "api-key"), _load_secret(folder / "jwt-secret")
    click.echo(f"Starting PostgreSQL; its data is kept in {folder} …")
    with EmbeddedPostgres(folder / "postgres") as postgres:
        for name in DATABASES:
            postgres.create_database(name)
            asyncio.run(migrate(postgres.dsn(name)))
        path = folder / "service.toml"
        _write_private(path, _format_configuration(port, key, secret, postgres))

        def announce(host: str, actual_port: int) -> None:
            token = sign_token(settings.auth.jwt, "demo", TOKEN_SECONDS)
            url = f"http://{host}:{actual_port}"
            click.echo(_format_welcome(url, path, key, token, postgres.dsn(DATABASES[0])))

        settings = config.load(path)
        serve(settings, lambda: config.load(path), announce)


def _choose_folder() -> Path:
    """Return ./.demo, or another folder if root's unprivileged account cannot reach that."""
    here = Path(".demo").absolute()
    is_open = all(parent.stat().st_mode & stat.S_IXOTH for parent in here.parents)
    if os.geteuid() != 0 or is_open:
        return here
    elsewhere = Path("/var/tmp/care-case-clinical-trials-demo")  # noqa: S108
    elsewhere.mkdir(mode=0o755, exist_ok=True)
    if elsewhere.stat().st_uid != 0 or elsewhere.is_symlink():
        raise PermissionError(f"{elsewhere} belongs to another user; use --folder")
    return elsewhere


def _load_secret(path: Path) -> str:
    """Return the secret in the file; create it at the first run."""
    if not path.exists():
        _write_private(path, secrets.token_urlsafe(48))
    return path.read_text()


def _write_private(path: Path, text: str) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)


def _format_configuration(port: int, key: str, secret: str, postgres: EmbeddedPostgres) -> str:
    lines = [
        "[server]",
        f"port = {port}",
        "[auth.api_keys.demo]",
        f'sha256 = "{hashlib.sha256(key.encode()).hexdigest()}"',
        f"databases = {json.dumps(DATABASES)}",
        f"allow = {json.dumps(get_args(config.Action))}",
        "[auth.jwt]",
        'algorithms = ["HS256"]',
        f'secret = "{secret}"',
        'issuer = "care-trials demo"',
    ]
    for name in DATABASES:
        lines += [f"[databases.{name}]", f'dsn = "{postgres.dsn(name)}"']
    return "\n".join(lines) + "\n"


def _get_command() -> str:
    """Return the command that was started: make run does not install care-trials."""
    program = Path(sys.argv[0])
    return program.name if program.name == "care-trials" else f"{sys.executable} -m service"


def _format_welcome(url: str, configuration: Path, key: str, token: str, dsn: str) -> str:
    return f"""
Serving at     {url}   (Ctrl-C stops it)
Documentation  {url}{DOCS_PATH}#key={key}&token={token}&database={DATABASES[0]}
Databases      {", ".join(DATABASES)}
API key        {key}
Token          {token}
               (valid for a day; another: {_get_command()} token
               --subject NAME --config {configuration})

Send {len(json.loads(SAMPLE.read_text()))} registered trials (Created; the second time, Updated):

curl -X PUT {url}{BATCH_PATH} \\
  -H '{API_KEY_HEADER}: {key}' \\
  -H 'Authorization: Bearer {token}' \\
  -H '{DATABASE_HEADER}: {DATABASES[0]}' \\
  -H 'Content-Type: application/json' \\
  --data-binary @{SAMPLE}

Read the stored records:

curl '{url}{RECORDS_PATH}?sortBy=update_Date:desc&pageSize=3' \\
  -H '{API_KEY_HEADER}: {key}' \\
  -H 'Authorization: Bearer {token}' \\
  -H '{DATABASE_HEADER}: {DATABASES[0]}'

Or look at the rows:

{find_binaries() / "psql"} '{dsn}' -f {LATEST_RECORDS}
"""
