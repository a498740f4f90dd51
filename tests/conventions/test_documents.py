"""The documents: their links lead somewhere, and what they name exists.

``tests/deploy/test_printed_commands.py`` runs what is printed there.
"""

import ast
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
import msgspec
import pytest
import yaml

from service import config
from service.cli import main
from service.config import ApiKey, Database, Jwt, Server
from tests.support.configuration import toml
from tests.support.documents import (
    DOCUMENTS,
    Piece,
    anchors,
    fenced,
    inline_code,
    links,
    tables,
    tokens,
)
from tests.support.source import ROOT, modules

LANGUAGES = {"sh", "python", "toml", "sql", "json", "yaml", "nginx", ""}
"""What a fenced block may hold; "" is a drawing."""

FOLDERS = ("service", "sql", "tests", "docs", "deploy")


def test_the_documents_are_found() -> None:
    assert {"README.md", "docs/operating.md", "docs/contract.md"} <= {*DOCUMENTS}
    assert len(fenced()) > 25
    assert len(inline_code()) > 500
    assert len(links()) > 50


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_leads_somewhere(document: str) -> None:
    def is_dead(link: Piece) -> bool:
        parts = urlsplit(link.text)
        if parts.scheme:
            return parts.scheme != "https" or "." not in parts.netloc
        path = (ROOT / document).parent / parts.path if parts.path else ROOT / document
        if not path.resolve().is_relative_to(ROOT) or not path.exists():
            return True
        return bool(parts.fragment) and parts.fragment not in anchors(path.resolve())

    assert [
        (str(link), link.text) for link in links() if link[0] == document and is_dead(link)
    ] == []


def test_no_link_is_left_as_text() -> None:
    """A link to a name that nobody defined is printed with its brackets."""
    left = [
        (document, child.content)
        for document in DOCUMENTS
        for token in tokens(document)
        for child in token.children or ()
        if child.type == "text" and re.search(r"\]\[|\]\(", child.content)
    ]

    assert left == []


def test_every_block_says_what_it_holds() -> None:
    assert [str(block) for block in fenced() if block.language not in LANGUAGES] == []


@pytest.mark.parametrize("block", fenced("sh"), ids=str)
def test_shell_commands_can_be_parsed(block: Piece) -> None:
    result = subprocess.run(
        ["bash", "-n"], input=block.text, capture_output=True, text=True, check=False
    )

    assert (result.returncode, result.stderr) == (0, "")


def commands(text: str) -> list[str]:
    """Return the commands of shell lines, without the variables and words that precede them."""
    lines = text.replace("\\\n", " ").splitlines()
    parts = [part for line in lines for part in re.split(r"\||&&|;|>|\s#|\s&$", line)]
    return [re.sub(r"^(\w+=\S+\s+|sudo\s+)*", "", part.strip()) for part in parts]


def printed_commands() -> list[Piece]:
    """Return each command that stands in a document, in a block or in a sentence."""
    return [
        piece._replace(text=command)
        for piece in (*fenced("sh"), *inline_code())
        for command in commands(piece.text)
    ]


OURS = re.compile(r"(?:\S*care-trials|\S*python -m service) (?=[a-z-])(.*)")


def refusal(line: str) -> str:
    """Return why our command line would not take these arguments; "" if it would."""
    command: click.Command = main
    words = shlex.split(line)
    if words[0] in main.commands:
        command = main.commands[words.pop(0)]
    elif not words[0].startswith("-"):
        return f"no command {words[0]}"
    try:
        command.make_parser(click.Context(command)).parse_args(words)
    except click.UsageError as error:
        return error.format_message()
    return ""


def test_every_command_of_ours_has_the_options_that_are_named() -> None:
    found = [(piece, match[1]) for piece in printed_commands() if (match := OURS.match(piece.text))]
    assert len(found) > 15

    refused = [(str(piece), line, refusal(line)) for piece, line in found]

    assert [each for each in refused if each[2]] == []


def test_the_contract_names_every_command_with_its_options() -> None:
    (table,) = (t for t in tables("docs/contract.md") if t[0][0] == "command")
    lines = [row[0].strip("`").replace("[", "").replace("]", "") for row in table[1:]]

    assert {line.split()[0] for line in lines} == {*main.commands}
    assert [refusal(line) for line in lines] == [""] * len(lines)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("serve --config FILE", ""),
        ("serve --port 1", "--port"),
        ("server", "no command server"),
        ("--version", ""),
    ],
)
def test_what_our_command_line_refuses_is_noticed(line: str, why: str) -> None:
    assert why in refusal(line)
    assert bool(why) == bool(refusal(line))


def test_every_target_of_make_exists() -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = [
        (str(piece), match[1])
        for piece in printed_commands()
        if (match := re.match(r"make ([a-z-]+)", piece.text))
    ]
    assert len(named) > 10

    assert [each for each in named if each[1] not in targets] == []


def test_every_path_exists() -> None:
    """Paths from the root, and those that design.md tells from ``service/``."""
    path = re.compile(rf"(?:(?:{'|'.join(FOLDERS)})/|(?:http|items|engine|send|demo)/)[\w./@-]*")
    words = [(piece, word) for piece in printed_commands() for word in piece.text.split()]
    named = [(piece, word) for piece, word in words if path.fullmatch(word)]
    assert len(named) > 20

    assert [
        (str(piece), word)
        for piece, word in named
        if not any(
            (ROOT / each).exists() for each in (word, f"service/{word}", f"service/{word}.py")
        )
    ] == []


def test_every_module_that_is_run_exists() -> None:
    named = [
        (str(piece), match[1])
        for piece in printed_commands()
        if (match := re.search(r"python -m (tests[\w.]+)", piece.text))
    ]
    assert named

    paths = [(where, ROOT / name.replace(".", "/")) for where, name in named]
    assert [
        (where, path)
        for where, path in paths
        if not path.with_suffix(".py").exists() and not (path / "__main__.py").exists()
    ] == []


@pytest.mark.parametrize("folder", ["http", "items", "engine", "send"])
def test_the_plan_names_every_file_of_a_folder(folder: str) -> None:
    named = [
        {name for row in table[1:] for name in re.findall(r"`(\w+)`", row[0])}
        for table in tables("docs/design.md")
    ]

    files = {path.stem for path in (ROOT / "service" / folder).glob("*.py")} - {"__init__"}
    assert files in named


def test_the_design_says_what_each_folder_of_tests_holds() -> None:
    (table,) = (t for t in tables("docs/design.md") if t[0] == ["folder", "contents"])
    named = {name for row in table[1:] for name in re.findall(r"`tests/(\w+)/`", row[0])}

    holding = {path.parent.name for path in (ROOT / "tests").glob("*/*.py")}
    assert named == holding


def test_the_design_says_why_each_dependency_is_there() -> None:
    (table,) = (t for t in tables("docs/design.md") if t[0][0] == "package")
    told = " ".join(row[0].lower() for row in table[1:])
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [name for extra in project["optional-dependencies"].values() for name in extra]
    needed = {re.match(r"\w+(-\w+)?", each)[0] for each in (*project["dependencies"], *extras)}  # type: ignore[index]

    missing = {name for name in needed if name not in told and "opentelemetry" not in name}
    assert missing == set()
    assert len(table) - 1 == len({name.partition("-")[0] for name in needed})


def test_the_runbook_has_every_line_of_the_log() -> None:
    (table,) = (t for t in tables("docs/operating.md") if t[0] == ["message", "level", "fields"])
    told = [text for row in table[1:] for text in re.findall(r"`([^`]+)`", row[0])]
    starts = [re.sub(r"( N\b.*|; …| …|: …)$", "", text) for text in told]

    written = {
        value
        for module, tree in modules().items()
        if not module.startswith(("service/send", "service/client"))
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        for value in messages(node)
    }
    assert len(written) > 18
    assert {text for text in written if not text.startswith(tuple(starts))} == set()


def messages(call: ast.Call) -> Iterator[str]:
    """Yield what a call writes to the log, as far as it is spelt out there."""
    if ast.unparse(call.func).startswith("logger."):
        texts = call.args
    else:
        texts = [keyword.value for keyword in call.keywords if keyword.arg == "failure"]
    for text in texts:
        first = text.values[0] if isinstance(text, ast.JoinedStr) else text
        if isinstance(first, ast.Constant) and isinstance(first.value, str):
            yield first.value.strip()


SETTINGS: dict[str, type[msgspec.Struct]] = {
    "server": Server,
    "auth.api_keys.NAME": ApiKey,
    "auth.jwt": Jwt,
    "databases.NAME": Database,
}


def defaults(kind: type[msgspec.Struct]) -> dict[str, object]:
    """Return the settings of a table, each with its default; ... where it is required."""
    return {
        each.name: ...
        if each.required
        else each.default_factory()
        if each.default is msgspec.NODEFAULT
        else each.default
        for each in msgspec.structs.fields(kind)
    }


@pytest.mark.parametrize("name", SETTINGS)
def test_the_settings_are_told_with_their_defaults(name: str) -> None:
    (table,) = (t for t in tables("docs/operating.md") if t[0][0] == f"`[{name}]`")
    told: dict[str, object] = {}
    for first, default, _ in table[1:]:
        names = re.findall(r"`(\w+)`", first)
        values = [default] if default.startswith("`") and len(names) == 1 else default.split(", ")
        told |= dict(zip(names, values * (len(names) // len(values)), strict=True))

    def as_told(value: object) -> set[str]:
        if value is ...:
            return {"required"}
        if value is None:
            return {"none", "exactly one", "`dsn`"}
        if isinstance(value, list) and name == "auth.jwt":
            return {", ".join(f"`{each}`" for each in value)}
        words = msgspec.json.encode(value).decode()
        return {words, f"`{words}`", f"`{words[1:-1]}`"}

    expected = defaults(SETTINGS[name])
    assert told.keys() == expected.keys()
    assert [n for n, value in expected.items() if told[n] not in as_told(value)] == []


def uncommented(block: str) -> str:
    """Return TOML with the settings, too, that stand there as comments."""
    return re.sub(r"^# (?=\w+ = )", "", block, flags=re.MULTILINE)


def test_the_contracts_configuration_has_every_setting_with_its_default() -> None:
    (block,) = (b for b in fenced("toml") if b.document == "docs/contract.md")
    document = tomllib.loads(uncommented(block.text))
    told = {
        "server": document["server"],
        "auth.api_keys.NAME": document["auth"]["api_keys"]["loader"],
        "auth.jwt": document["auth"]["jwt"] | {"public_key_file": "", "jwks_url": ""},
        "databases.NAME": document["databases"]["acme"],
    }

    for name, kind in SETTINGS.items():
        expected = defaults(kind)
        assert told[name].keys() == expected.keys()
        others = {n for n, v in expected.items() if v not in (..., None) and told[name][n] != v}
        assert others == set(), name


REST: dict[str, Any] = {
    "auth": {
        "api_keys": {"loader": {"sha256": "0" * 64, "databases": ["*"]}},
        "jwt": {"algorithms": ["HS256"], "secret": "x" * 64},
    },
    "databases": {"acme": {"dsn": "postgresql://x/acme"}, "globex": {"dsn": "postgresql://x/g"}},
}
"""What a block that shows a part of a configuration leaves out."""


def with_values(block: str, folder: Path) -> str:
    """Return TOML with something in the place of dots, variables and secret files."""

    def value(name: str) -> str:
        return "postgresql://x/acme" if "dsn" in name.lower() else "0" * 64

    for path in re.findall(r"\$\{file:[^}]*/([^}/]+)\}", block):
        (folder / path).write_text(value(path))
    block = re.sub(r"\$\{file:[^}]*/", f"${{file:{folder}/", block)
    block = re.sub(r"\$\{([A-Z_\d]+)\}", lambda match: value(match[1]), block)
    return re.sub(
        r'^(\w+) = "[^"\n]*…[^"\n]*"', lambda m: f'{m[1]} = "{value(m[1])}"', block, flags=re.M
    )


@pytest.mark.parametrize("block", fenced("toml"), ids=str)
@pytest.mark.parametrize("is_with_comments", [False, True], ids=["as printed", "all settings"])
def test_a_configuration_that_is_shown_loads(
    block: Piece, is_with_comments: bool, tmp_path: Path
) -> None:
    text = uncommented(block.text) if is_with_comments else block.text
    document = tomllib.loads(with_values(text, tmp_path))
    assert document
    (tmp_path / "service.toml").write_text(
        toml({**REST, **document, "auth": {**REST["auth"], **document.get("auth", {})}})
    )

    settings = config.load(tmp_path / "service.toml", {})

    assert "loader" in settings.auth.api_keys


def test_the_scrape_job_is_that_of_the_alerts() -> None:
    (block,) = fenced("yaml")
    (job,) = yaml.safe_load(block.text)["scrape_configs"]

    assert f'job="{job["job_name"]}"' in (ROOT / "deploy/monitoring/alerts.yaml").read_text()


def test_nginx_lets_the_largest_body_pass() -> None:
    (block,) = fenced("nginx")
    directives = dict(re.findall(r"^(\w+) (\S+);$", block.text, re.MULTILINE))

    assert len(directives) == len(block.text.splitlines())
    assert directives["client_max_body_size"] == f"{Server().max_body_bytes // 2**20}m"
    assert directives["proxy_next_upstream"] == "off"
