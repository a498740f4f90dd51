"""Where settings come from: a TOML file, the environment, and the references inside a value.

What is read is typed by the structs of ``service.config``; every problem is told, one line each.
"""

import difflib
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import msgspec
from msgspec import Meta, Struct

PREFIX = "SERVICE_"
SEPARATOR = "__"


class Text(str):
    """A value from outside the file, which has no type but the setting's."""

    __slots__ = ()


class Wrong(ValueError):
    """Raised by a struct of settings for values that contradict each other, or no type refuses."""

    def __init__(self, setting: str, reason: str) -> None:
        super().__init__(f"{setting}: {reason}")
        self.setting = setting
        self.reason = reason


class ConfigErrors(list[str]):
    """What is wrong, each in one line that names the setting."""

    def add(self, setting: str, reason: str) -> None:
        """Note what is wrong with a setting."""
        line = f"{setting}: {reason}" if setting else reason
        # A name from a file or the environment can contain a line break.
        self.append(line if line.isprintable() else ascii(line)[1:-1])


def from_file(path: Path, problems: ConfigErrors) -> dict[str, Any]:
    """Return the document in a TOML file."""
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        problems.add(str(path), error.strerror or type(error).__name__)
    except UnicodeDecodeError:
        problems.add(str(path), "not valid TOML: not UTF-8")
    except tomllib.TOMLDecodeError as error:
        problems.add(str(path), f"not valid TOML: {error}")
    return {}


def is_setting(variable: str) -> bool:
    """Tell whether a variable of the environment is a setting's; all others are not looked at."""
    return variable.startswith(PREFIX) and SEPARATOR in variable.removeprefix(PREFIX)


def overlay(document: dict[str, Any], environment: Mapping[str, str]) -> None:
    """Let the environment's settings replace those of the document."""
    for variable in filter(is_setting, environment):
        *parents, name = variable.removeprefix(PREFIX).lower().split(SEPARATOR)
        node = document
        for parent in parents:
            inner = node.get(parent)
            if not isinstance(inner, dict):
                inner = node[parent] = {}
            node = inner
        node[name] = Text(environment[variable])


_REFERENCE = re.compile(r"\$\{(file:)?([^}]+)\}")


def expand(
    node: Any, environment: Mapping[str, str], problems: ConfigErrors, name: str = ""
) -> Any:
    """Return the document with its references replaced by what they lead to."""
    if isinstance(node, dict):
        return {
            key: expand(value, environment, problems, f"{name}.{key}".lstrip("."))
            for key, value in node.items()
        }
    if isinstance(node, list):
        return [
            expand(value, environment, problems, f"{name}[{place}]")
            for place, value in enumerate(node)
        ]
    if not isinstance(node, str) or not _REFERENCE.search(node):
        return node

    def get_value(reference: re.Match[str]) -> str:
        is_file, source = reference.groups()
        if not is_file:
            if source not in environment:
                problems.add(name, f"the environment variable {source} is not set")
            return environment.get(source, "")
        try:
            return Path(source).read_text().rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
            problems.add(name, f"cannot read {source}: {reason}")
            return ""

    return Text(_REFERENCE.sub(get_value, node))


def read(kind: Any, node: Any, problems: ConfigErrors, name: str = "") -> Any:
    """Return the node as the kind of a setting; None, and a problem, where it is none."""
    kind_of_table = _plain(kind)
    if _is_struct(kind_of_table):
        return _read_struct(kind_of_table, node, problems, name)
    if get_origin(kind_of_table) is dict:
        if not isinstance(node, dict):
            problems.add(name, f"expected a table by name, {_got(node)}")
            return None
        member = get_args(kind_of_table)[1]
        return {key: read(member, each, problems, f"{name}.{key}") for key, each in node.items()}
    return _read_value(kind, node, problems, name)


def _read_struct(kind: type[Struct], node: Any, problems: ConfigErrors, name: str) -> Any:
    if not isinstance(node, dict):
        problems.add(name, f"expected a table, {_got(node)}")
        return None
    fields = {each.name: each for each in msgspec.structs.fields(kind)}
    for key in sorted(node.keys() - fields.keys()):
        near = difflib.get_close_matches(key, fields, 1)
        hint = f"; did you mean {near[0]}?" if near else f"; known are {', '.join(fields)}"
        problems.add(f"{name}.{key}".lstrip("."), f"unknown setting{hint}")
    values = {}
    known = len(problems)
    for key, each in fields.items():
        setting = f"{name}.{key}".lstrip(".")
        if key in node:
            values[key] = read(each.type, node[key], problems, setting)
        elif each.required and _is_struct(each.type):
            # Names what is missing in it.
            read(each.type, {}, problems, setting)
        elif each.required:
            problems.add(setting, f"missing; expected {_expected(each.type)}")
    if len(problems) > known:
        return None
    try:
        return kind(**values)
    except Wrong as wrong:
        problems.add(f"{name}.{wrong.setting}".strip("."), wrong.reason)
        return None


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Struct)


def _read_value(kind: Any, node: Any, problems: ConfigErrors, name: str) -> Any:
    value = str(node) if isinstance(node, Text) else node
    plain = _plain(kind)
    try:
        accepts_list = any(get_origin(each) is list for each in (plain, *get_args(plain)))
        if isinstance(node, Text) and accepts_list and node.lstrip().startswith("["):
            value = msgspec.json.decode(str(node))
        is_typed = not (isinstance(node, Text) and plain in (int, bool))
        return msgspec.convert(value, kind, strict=is_typed)
    except (msgspec.ValidationError, msgspec.DecodeError):
        problems.add(name, f"expected {_expected(kind)}, {_got(node)}")
        return None


def _plain(kind: Any) -> Any:
    """Return a kind without its limits, and without "or None", which TOML cannot say."""
    while True:
        if get_origin(kind) is Annotated or type(None) in get_args(kind):
            kind = get_args(kind)[0]
        else:
            return kind


_WORDS = {str: "a text", int: "a whole number", bool: "true or false"}


def _expected(kind: Any) -> str:
    """Return what a setting may hold, in words: its own, else those of its type and limits."""
    while type(None) in get_args(kind):
        kind = get_args(kind)[0]
    limits = [each for each in get_args(kind)[1:] if isinstance(each, Meta)]
    for limit in limits:
        if limit.description:
            return limit.description
    plain = _plain(kind)
    message = _WORDS.get(plain, "a table")
    if get_origin(plain) is list:
        message = "a list of texts"
    for limit in limits:
        if limit.ge is not None:
            message += f" from {limit.ge}"
        if limit.le is not None:
            message += f" to {limit.le}"
        if limit.min_length is not None:
            message += ", not empty"
    return message


def _got(node: Any) -> str:
    """Return what was found, as far as it cannot be a secret."""
    if isinstance(node, bool):
        return f"got {str(node).lower()}"
    if isinstance(node, int | float):
        return f"got {node}"
    kinds = {str: "text", dict: "a table", list: "a list"}
    return f"got {next((name for kind, name in kinds.items() if isinstance(node, kind)), 'none')}"
