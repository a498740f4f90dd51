"""Contract section 4, "Command line": what the commands do and say."""

import hashlib
import re
import socket
import time

import click
import jwt
import pytest

from service import __version__
from service.cli import main
from tests.support.configuration import ServerSettings, document
from tests.support.postgres import MakeDatabase
from tests.support.running import RunCommand
from tests.support.service import SECRET


def test_new_key_prints_a_key_and_its_sha256_line(run_command: RunCommand) -> None:
    result = run_command("new-key")

    key_line, sha_line = result.stdout.splitlines()
    key = key_line.removeprefix("key: ")
    assert len(key) >= 40
    assert sha_line == f'sha256 = "{hashlib.sha256(key.encode()).hexdigest()}"'


def test_token_prints_a_token_that_the_configuration_accepts(run_command: RunCommand) -> None:
    config = document({})
    config["auth"]["jwt"] |= {"issuer": "us", "audience": "them"}

    result = run_command("token", "--subject", "ann", "--expires", "15m", config=config)

    claims = jwt.decode(
        result.stdout.strip(), SECRET, algorithms=["HS256"], issuer="us", audience="them"
    )
    assert claims["sub"] == "ann"
    assert claims["exp"] - claims["iat"] == 900


def test_a_wrong_setting_stops_every_command_with_one_line(run_command: RunCommand) -> None:
    config = document({})
    config["server"]["prot"] = 1

    for command in ("serve", "migrate", "check-config"):
        result = run_command(command, config=config)

        assert result.returncode != 0
        assert result.stderr.count("\n") == 1
        assert "prot" in result.stderr


def test_migrate_brings_all_or_one_database_to_the_current_schema(
    run_command: RunCommand, make_database: MakeDatabase
) -> None:
    config = document(
        {"acme": make_database(migrated=False), "globex": make_database(migrated=False)}
    )

    one = run_command("migrate", "--database", "globex", config=config)
    both = run_command("migrate", config=config)
    unknown = run_command("migrate", "--database", "nowhere", config=config)

    assert (one.returncode, both.returncode) == (0, 0)
    assert "globex" in one.stdout
    assert "acme" not in one.stdout
    assert "acme" in both.stdout
    assert unknown.returncode == 1
    assert run_command("check-config", config=config).returncode == 0


def test_migrate_uses_the_owners_dsn_where_there_is_one(
    run_command: RunCommand, make_database: MakeDatabase
) -> None:
    owners = make_database(migrated=False)
    nobodys = re.sub(r"://[^/]*@", "://nobody@", owners)
    config = document({"acme": nobodys}, database={"migration_dsn": owners})

    result = run_command("migrate", config=config)

    assert result.returncode == 0, result.stderr
    assert run_command("migrate", "--status", config=document({"acme": owners})).returncode == 0


def test_migrate_status_tells_and_changes_nothing(
    run_command: RunCommand, make_database: MakeDatabase
) -> None:
    config = document({"acme": make_database(), "globex": make_database(migrated=False)})

    both = run_command("migrate", "--status", config=config)
    again = run_command("migrate", "--status", "--database", "globex", "--wait", "1", config=config)
    one = run_command("migrate", "--status", "--database", "acme", config=config)

    assert (both.returncode, again.returncode, one.returncode) == (1, 1, 0)
    assert both.stdout == "acme: the schema is up to date\n"
    assert both.stderr == "globex: the schema is out of date; run: care-trials migrate\n"


def test_migrate_waits_for_a_server(run_command: RunCommand) -> None:
    config = document({"acme": "postgresql://u:marker@127.0.0.1:1/x"})
    started_at = time.monotonic()

    result = run_command("migrate", "--wait", "2", config=config)

    assert result.returncode == 1
    assert time.monotonic() - started_at > 2
    assert result.stderr.startswith("acme: nothing is listening on 127.0.0.1:1")
    assert result.stderr.count("\n") == 1
    assert "marker" not in result.stderr


def test_a_port_that_is_taken_stops_serve_with_one_line_that_names_the_way_out(
    run_command: RunCommand,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = run_command("serve", config=document({}, port=taken.getsockname()[1]))

    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "taken by another process" in result.stderr
    assert "set another server.port" in result.stderr
    assert "server.reuse_port = true" in result.stderr


def test_a_management_port_that_is_taken_is_named(run_command: RunCommand) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = run_command("serve", config=document({}, management_port=taken.getsockname()[1]))

    assert result.returncode == 1
    assert result.stderr == (
        "Error: server.management_port: the port is taken by another process\n"
    )


@pytest.mark.parametrize(
    ("server", "named"),
    [
        ({"host": "db.invalid"}, "server.host: unknown host db.invalid"),
        ({"host": "203.0.113.1"}, "server.host: this machine has no address 203.0.113.1"),
        (
            {"tls_certificate": "/not/there.pem", "tls_key": "/not/there.key"},
            "server.tls_certificate: cannot read /not/there.pem: No such file or directory",
        ),
        (
            {"tls_certificate": __file__, "tls_key": __file__},
            "test_command_line.py are not a certificate with its key",
        ),
    ],
    ids=["unknown host", "foreign address", "missing certificate", "no certificate"],
)
def test_serve_names_the_setting_that_keeps_it_from_listening(
    run_command: RunCommand, server: ServerSettings, named: str
) -> None:
    result = run_command("serve", config=document({}, **server))

    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert named in result.stderr


def test_all_errors_of_a_file_are_told_a_line_each(run_command: RunCommand) -> None:
    config = document({"acme": "mysql://h/acme"})
    config["server"]["prot"] = 1

    result = run_command("serve", config=config)

    assert result.returncode == 1
    lines = result.stderr.splitlines()
    assert [line.split(": ")[:2] for line in lines] == [
        ["Error", "databases.acme.dsn"],
        ["Error", "server.prot"],
    ]


def test_the_version_is_told(run_command: RunCommand) -> None:
    result = run_command("--version")

    assert result.returncode == 0
    assert result.stdout == f"care-trials {__version__}\n"


def test_the_name_of_the_program_is_care_trials_however_it_was_started(
    run_command: RunCommand,
) -> None:
    result = run_command("--help")

    assert result.stdout.startswith("Usage: care-trials [OPTIONS] COMMAND")


@pytest.mark.parametrize("name", main.commands)
def test_the_help_of_a_command_is_whole_sentences(name: str) -> None:
    """click cuts summaries of over 45 characters in its list of commands."""
    command = main.commands[name]
    listed = command.get_short_help_str()
    options = [option for option in command.params if isinstance(option, click.Option)]

    assert len(listed) < 45
    assert not listed.endswith("...")
    assert (command.help or "").startswith(listed)
    assert [option.name for option in options if not (option.help or "").endswith((".", ")"))] == []
