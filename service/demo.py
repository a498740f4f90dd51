"""The demo: an embedded PostgreSQL with two tenants, a key, a token and a curl to paste."""

import asyncio
import hashlib
import json
import os
import secrets
import stat
import time
from pathlib import Path

import click
import jwt

from . import config, serving
from .embedded import EmbeddedPostgres
from .migrations import migrate
from .openapi import BATCH_PATH, SAMPLE

DATABASES = ("acme", "globex")
TOKEN_SECONDS = 86_400


def run(folder: Path | None, port: int) -> None:
    """Serve until Ctrl-C or SIGTERM; the data, the key and the secret stay in the folder.

    Raises EmbeddedPostgresError and OSError.
    """
    folder = (folder or _default_folder()).absolute()
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    key, secret = _kept(folder / "api-key"), _kept(folder / "jwt-secret")
    click.echo(f"Data are kept in {folder}; starting PostgreSQL …")
    with EmbeddedPostgres(folder / "postgres") as postgres:
        for name in DATABASES:
            postgres.create_database(name)
            asyncio.run(migrate(postgres.dsn(name)))
        path = folder / "service.toml"
        _write_private(path, _configuration(port, key, secret, postgres))

        def announce(host: str, actual_port: int) -> None:
            click.echo(_welcome(f"http://{host}:{actual_port}", path, key, _token(secret)))

        serving.serve(config.load(path), announce)


def _default_folder() -> Path:
    """Return .demo here; as root, where the unprivileged account cannot come here, elsewhere."""
    here = Path(".demo").absolute()
    is_open = all(parent.stat().st_mode & stat.S_IXOTH for parent in here.parents)
    if os.geteuid() != 0 or is_open:
        return here
    elsewhere = Path("/var/tmp/care-case-clinical-trials-demo")  # noqa: S108
    elsewhere.mkdir(mode=0o755, exist_ok=True)
    if elsewhere.stat().st_uid != 0 or elsewhere.is_symlink():
        raise PermissionError(f"{elsewhere} belongs to somebody else; name a --folder")
    return elsewhere


def _kept(path: Path) -> str:
    """Return the secret in the file, a new one at the first run."""
    if not path.exists():
        _write_private(path, secrets.token_urlsafe(48))
    return path.read_text()


def _write_private(path: Path, text: str) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)


def _configuration(port: int, key: str, secret: str, postgres: EmbeddedPostgres) -> str:
    lines = [
        "[server]",
        f"port = {port}",
        "[[auth.api_keys]]",
        'name = "demo"',
        f'sha256 = "{hashlib.sha256(key.encode()).hexdigest()}"',
        f"databases = {json.dumps(DATABASES)}",
        "[auth.jwt]",
        'algorithms = ["HS256"]',
        f'secret = "{secret}"',
    ]
    for name in DATABASES:
        lines += [f"[databases.{name}]", f'dsn = "{postgres.dsn(name)}"']
    return "\n".join(lines) + "\n"


def _token(secret: str) -> str:
    claims = {"sub": "demo", "exp": int(time.time()) + TOKEN_SECONDS}
    return jwt.encode(claims, secret, algorithm="HS256")


def _welcome(url: str, configuration: Path, key: str, token: str) -> str:
    return f"""
Serving at     {url}   (Ctrl-C stops it)
Documentation  {url}/docs#key={key}&token={token}&database={DATABASES[0]}
Databases      {", ".join(DATABASES)}
API key        {key}
Token          {token}
               (valid for a day; another: python -m service token --subject NAME
               --config {configuration})

Send {len(json.loads(SAMPLE.read_text()))} registered trials; sent again, Created turns to Updated:

curl -X PUT {url}{BATCH_PATH} \\
  -H 'x-api-key: {key}' \\
  -H 'Authorization: Bearer {token}' \\
  -H 'vbasoftware-database: acme' \\
  -H 'Content-Type: application/json' \\
  --data-binary @{SAMPLE}
"""
