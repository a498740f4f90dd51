"""Reads settings from a TOML file, the environment, and the references inside a value.

The structs of ``service.config`` give the types. Every problem is reported, one line each.
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


class UntypedString(str):
    """A value from outside the file; the setting determines its type."""

    __slots__ = ()


class InvalidSetting(ValueError):
    """A rule that a type cannot state is broken; raised by the structs of settings."""

    def __init__(self, setting: str, reason: str) -> None:
        super().__init__(f"{setting}: {reason}")
        self.setting = setting
        self.reason = reason


class ConfigErrors(list[str]):
    """Problems of a configuration, each in one line that names the setting."""

    def add(self, setting: str, reason: str) -> None:
        """Add a line for a setting."""
        line = f"{setting}: {reason}" if setting else reason
        # A name from a file or the environment can contain a line break.
        self.append(line if line.isprintable() else ascii(line)[1:-1])


def read_file(path: Path, problems: ConfigErrors) -> dict[str, Any]:
    """Return the document in a TOML file; empty, with a problem, if it cannot be read."""
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
    """Return whether an environment variable is a setting; all others are ignored."""
    return variable.startswith(PREFIX) and SEPARATOR in variable.removeprefix(PREFIX)


def overlay(document: dict[str, Any], environment: Mapping[str, str]) -> None:
    """Replace settings of the document by those of the environment."""
    for variable in filter(is_setting, environment):
        *parents, name = variable.removeprefix(PREFIX).lower().split(SEPARATOR)
        node = document
        for parent in parents:
            inner = node.get(parent)
            if not isinstance(inner, dict):
                inner = node[parent] = {}
            node = inner
        node[name] = UntypedString(environment[variable])


_REFERENCE = re.compile(r"\$\{(file:)?([^}]+)\}")


def expand(
    node: Any, environment: Mapping[str, str], problems: ConfigErrors, name: str = ""
) -> Any:
    """Return the document with its references replaced by their values."""
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

    return UntypedString(_REFERENCE.sub(get_value, node))


def read(kind: Any, node: Any, problems: ConfigErrors, name: str = "") -> Any:
    """Return the node converted to the type of a setting; None, with a problem, if it cannot be."""
    plain = _strip_limits(kind)
    if _is_struct(plain):
        return _read_struct(plain, node, problems, name)
    if get_origin(plain) is dict:
        if not isinstance(node, dict):
            problems.add(name, f"expected a table with an entry per name, {_describe_value(node)}")
            return None
        member = get_args(plain)[1]
        return {key: read(member, value, problems, f"{name}.{key}") for key, value in node.items()}
    return _read_value(kind, node, problems, name)


def _read_struct(kind: type[Struct], node: Any, problems: ConfigErrors, name: str) -> Any:
    if not isinstance(node, dict):
        problems.add(name, f"expected a table, {_describe_value(node)}")
        return None
    fields = {field.name: field for field in msgspec.structs.fields(kind)}
    for key in sorted(node.keys() - fields.keys()):
        problems.add(f"{name}.{key}".lstrip("."), _describe_unknown(key, kind))
    values = {}
    known = len(problems)
    for key, field in fields.items():
        setting = f"{name}.{key}".lstrip(".")
        if key in node:
            values[key] = read(field.type, node[key], problems, setting)
        elif field.required and _is_struct(field.type):
            # Reports the settings that are missing in it.
            read(field.type, {}, problems, setting)
        elif field.required:
            problems.add(setting, f"missing; expected {_describe_type(field.type)}")
    if len(problems) > known:
        return None
    try:
        return kind(**values)
    except InvalidSetting as error:
        problems.add(f"{name}.{error.setting}".strip("."), error.reason)
        return None


def _describe_unknown(key: str, kind: type[Struct]) -> str:
    """Return the problem of a setting that the struct lacks; ``RENAMED`` has its old names."""
    if new_name := getattr(kind, "RENAMED", {}).get(key):
        return f"this setting is now called {new_name}"
    names = kind.__struct_fields__
    near = difflib.get_close_matches(key, names, 1)
    hint = f"did you mean {near[0]}?" if near else f"supported: {', '.join(names)}"
    return f"unknown setting; {hint}"


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Struct)


def _read_value(kind: Any, node: Any, problems: ConfigErrors, name: str) -> Any:
    value = str(node) if isinstance(node, UntypedString) else node
    plain = _strip_limits(kind)
    try:
        accepts_list = any(get_origin(option) is list for option in (plain, *get_args(plain)))
        if isinstance(node, UntypedString) and accepts_list and node.lstrip().startswith("["):
            value = msgspec.json.decode(str(node))
        is_typed = not (isinstance(node, UntypedString) and plain in (int, bool))
        return msgspec.convert(value, kind, strict=is_typed)
    except (msgspec.ValidationError, msgspec.DecodeError):
        problems.add(name, f"expected {_describe_type(kind)}, {_describe_value(node)}")
        return None


def _strip_limits(kind: Any) -> Any:
    """Return a type without its limits and without "or None", which TOML cannot express."""
    while True:
        if get_origin(kind) is Annotated or type(None) in get_args(kind):
            kind = get_args(kind)[0]
        else:
            return kind


_TYPE_NAMES = {str: "a string", int: "an integer", bool: "true or false"}


def _describe_type(kind: Any) -> str:
    """Return what a setting can be: its own description, or its type and limits."""
    while type(None) in get_args(kind):
        kind = get_args(kind)[0]
    limits = [limit for limit in get_args(kind)[1:] if isinstance(limit, Meta)]
    for limit in limits:
        if limit.description:
            return limit.description
    plain = _strip_limits(kind)
    description = _TYPE_NAMES.get(plain, "a table")
    if get_origin(plain) is list:
        description = "a list of strings"
    for limit in limits:
        if limit.ge is not None:
            description += f" from {limit.ge}"
        if limit.le is not None:
            description += f" to {limit.le}"
        if limit.min_length is not None:
            description += ", not empty"
    return description


def _describe_value(node: Any) -> str:
    """Return what was found, without anything that can be a secret."""
    if isinstance(node, bool):
        return f"got {str(node).lower()}"
    if isinstance(node, int | float):
        return f"got {node}"
    kinds = {str: "a string", dict: "a table", list: "a list"}
    names = (name for kind, name in kinds.items() if isinstance(node, kind))
    return f"got {next(names, 'a date or time')}"
