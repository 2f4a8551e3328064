"""Reads the settings once: one strict YAML file, then `HEADGATE_*` from the environment, then flags.

    headgate.yaml            gateway: {listen: 127.0.0.1:7070}
    environment              HEADGATE_GATEWAY__LISTEN=127.0.0.1:7170     (`__` between levels; empty: default)
    flag                     {"gateway.listen": "127.0.0.1:7270"}

The later one wins. Whatever is wrong becomes a ConfigError of one sentence that names the place and the key.
Secrets are only referred to (`env:NAME`, `file:PATH`) and resolved where they are used.
"""

from __future__ import annotations

import difflib
import hashlib
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from headgate.adapters.config import Config
from headgate.adapters.strict_yaml import Document, YamlError, parse

PREFIX = "HEADGATE_"
DEFAULT_FILE = Path("headgate.yaml")
BUILT_IN = "version: 1\ngateway:\n  open: true\n"
"""What holds without a file: the built-in pair on a laptop, answering without keys on loopback."""

# Names that start like an override but are none: what the CLI reads, and what Kubernetes sets for a service.
_RESERVED = frozenset(
    {"HEADGATE_CONFIG", "HEADGATE_ADDRESS", "HEADGATE_KEY", "HEADGATE_ROOT_CERTIFICATE", "HEADGATE_PEPPER"}
)
_SERVICE_LINK = re.compile(r"HEADGATE(_[A-Z0-9]+)*_(SERVICE_HOST|SERVICE_PORT|PORT)(_[A-Z0-9]+)*")

_Path = tuple[str | int, ...]


class ConfigError(Exception):
    """The settings cannot be used: one sentence; `problems` has one for everything that is wrong."""

    def __init__(self, *problems: str) -> None:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        super().__init__(problems[0] + more)
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Loaded:
    """The settings in force, and where they come from."""

    config: Config
    path: Path | None
    """The file; None for the built-in default."""
    digest: str
    """SHA-256 of the file's bytes, hexadecimal."""
    text: str
    """The file's text, or the built-in default."""
    written: Config
    """What holds without flags. With them, where the file alone would not be valid."""


def load(
    path: Path | None, environ: Mapping[str, str], overrides: Mapping[str, object] | None = None
) -> Loaded:
    """The settings of `path`, else of HEADGATE_CONFIG, else ./headgate.yaml, else built in; or ConfigError.

    `overrides` come from flags and have dotted keys, such as `gateway.listen`.
    """
    path = path or _default_path(environ)
    return read(BUILT_IN if path is None else _read(path), path, environ, overrides)


def read(
    text: str, path: Path | None, environ: Mapping[str, str], overrides: Mapping[str, object] | None = None
) -> Loaded:
    """As `load`, of a text in hand; `path` is where it came from."""
    source = str(path or "built-in config")
    config = _merged(source, text, environ, overrides or {})
    try:
        written = _merged(source, text, environ, {}) if overrides else config
    except ConfigError:
        written = config
    return Loaded(config, path, hashlib.sha256(text.encode()).hexdigest(), text, written)


def _merged(source: str, text: str, environ: Mapping[str, str], overrides: Mapping[str, object]) -> Config:
    layers = _Layers(source, text)
    for name, value in _environment(environ, text):
        layers.override(name, name.removeprefix(PREFIX).split("__"), value)
    for key, flag in overrides.items():
        layers.override(key, key.split("."), flag)
    return layers.validate()


def resolve_secret(reference: str, environ: Mapping[str, str]) -> str:
    """The secret that `env:NAME` or `file:PATH` refers to; ConfigError if there is none or it is empty."""
    kind, _, where = reference.partition(":")
    if kind == "env":
        secret, missing = environ.get(where, ""), f"the environment variable {where} is not set, or is empty"
    elif kind == "file":
        secret, missing = _read(Path(where)).strip(), f"the secret file {where} is empty"
    else:
        raise ConfigError("a secret must be a reference, env:NAME or file:PATH")
    if not secret:
        raise ConfigError(missing)
    return secret


def _default_path(environ: Mapping[str, str]) -> Path | None:
    named = environ.get("HEADGATE_CONFIG", "")
    if named:
        return Path(named)
    return DEFAULT_FILE if DEFAULT_FILE.is_file() else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8 text") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None


def _environment(environ: Mapping[str, str], text: str) -> Iterator[tuple[str, str]]:
    """The overrides among the variables: not the reserved ones, nor those the file refers to as secrets."""
    for name in sorted(environ):
        if name.startswith(PREFIX) and name not in _RESERVED and f"env:{name}" not in text:
            if _SERVICE_LINK.fullmatch(name) and "__" not in name:
                continue
            yield name, environ[name]


class _Layers:
    """The file's data with the overrides laid over them, remembering for each value who set it."""

    def __init__(self, source: str, text: str) -> None:
        self._source = source
        self._document = self._parse(text)
        data = self._document.data if self._document.data is not None else {}
        if not isinstance(data, dict):
            raise ConfigError(f"{source}:1: must be a mapping that starts with `version: 1`")
        self._data: dict[str, object] = data
        self._origin: dict[_Path, str] = {}

    def _parse(self, text: str) -> Document:
        try:
            return parse(text)
        except YamlError as error:
            raise ConfigError(f"{self._source}:{error.line}: {error}") from None

    def override(self, name: str, steps: Sequence[str], value: object) -> None:
        """Sets one value; ConfigError naming the override if there is no such setting."""
        path = self._resolve(name, steps)
        parent = self._open(name, path[:-1])
        self._origin[path] = name
        if value == "":
            parent.pop(path[-1], None)
        else:
            parent[path[-1]] = _flow(name, value) if isinstance(value, str) else value

    def _resolve(self, name: str, steps: Sequence[str]) -> tuple[str, ...]:
        path: tuple[str, ...] = ()
        for step in steps:
            known = self._names(path)
            found = next((key for key in known if _folded(key) == _folded(step)), None)
            if found is None:
                inside = ".".join(path) or "the config"
                guess = _did_you_mean(step.lower(), known)
                raise ConfigError(f"{name}: {inside} has no setting {step.lower()!r}{guess}")
            path = (*path, found)
        return path

    def _names(self, path: tuple[str, ...]) -> tuple[str, ...]:
        """What may stand below `path`: a model's fields, or the entries that a mapping already has."""
        shape = _shape(path)
        if typing.get_origin(shape) is not dict:
            return _field_names(shape)
        return tuple(self._open("", path))

    def _open(self, name: str, path: tuple[str, ...]) -> dict[str, object]:
        """The mapping at `path`, made where the file leaves it out."""
        here = self._data
        for step in path:
            if here.get(step) is None:
                here[step] = _default_entries(here is self._data, step)
            below = here[step]
            if not isinstance(below, dict):
                raise ConfigError(f"{name}: {'.'.join(path)} is not a mapping in {self._source}")
            here = below
        return here

    def validate(self) -> Config:
        try:
            return Config.model_validate(self._data)
        except ValidationError as error:
            details = sorted(error.errors(include_input=False, include_url=False), key=self._line)
            raise ConfigError(*dict.fromkeys(map(self._sentence, details))) from None

    def _line(self, detail: ErrorDetails) -> int:
        return self._document.line_of(_place(detail))

    def _sentence(self, detail: ErrorDetails) -> str:
        path = _place(detail)
        above = (path[:length] for length in range(len(path), 0, -1))
        origin = next((self._origin[prefix] for prefix in above if prefix in self._origin), None)
        key = ".".join(map(str, path))
        places = dict.fromkeys((origin or f"{self._source}:{self._line(detail)}", key))
        return ": ".join([*filter(None, places), _words(detail, path)])


def _flow(name: str, value: str) -> object:
    """Lists and mappings are written as in YAML, in brackets or braces; all else is taken as it stands."""
    if not value.startswith(("[", "{")):
        return value
    try:
        return parse(value).data
    except YamlError as error:
        raise ConfigError(f"{name}: {error}") from None


def _default_entries(top: bool, step: str) -> dict[str, object]:
    field = Config.model_fields.get(step) if top else None
    if field is None or field.default_factory is None:
        return {}
    entries = field.get_default(call_default_factory=True)
    return {name: entry.model_dump(exclude_unset=True) for name, entry in entries.items()}


def _folded(name: str) -> str:
    """How names are compared: an environment variable can hold neither case nor dots and dashes."""
    return re.sub(r"[^a-z0-9]", "_", name.lower())


def _place(detail: ErrorDetails) -> _Path:
    """The path of a problem; a rule over several keys names its key at the start of its message."""
    path = tuple(step for step in detail["loc"] if step != "[key]")
    named = re.match(r"Value error, ([a-z][\w.-]*): ", detail["msg"])
    return (*path, *_split(named.group(1))) if named else path


def _split(dotted: str) -> tuple[str, ...]:
    """`pool.gpt-5.1.slots` → its three steps: a mapping's keys may hold dots, its fields do not."""
    steps: tuple[str, ...] = tuple(dotted.split("."))
    if len(steps) > 3 and typing.get_origin(_shape(steps[:1])) is dict:
        return (steps[0], ".".join(steps[1:-1]), steps[-1])
    return steps


def _words(detail: ErrorDetails, path: _Path) -> str:
    if detail["type"] == "extra_forbidden":
        return "no such setting" + _did_you_mean(str(path[-1]), _field_names(_shape(path[:-1])))
    if detail["type"] == "missing":
        return "required; write `version: 1`" if path == ("version",) else "required"
    if detail["type"] in ("model_type", "dict_type") and path:
        inside = "enabled: true" if "enabled" in _field_names(_shape(path)) else "…"
        return f"is a section: write `{path[-1]}: {{{inside}}}`"
    message = detail["msg"].removeprefix("Value error, ")
    message = re.sub(r"^[a-z][\w.-]*: ", "", message) if detail["type"] == "value_error" else message
    return message.replace("Input should be", "must be")


def _did_you_mean(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; there are: {', '.join(known)}" if known else ""


def _shape(path: Sequence[str | int]) -> object:
    """The type that the config's shape has at `path`; None where there is none."""
    shape: object = Config
    for step in path:
        shape = _below(shape, step)
    return shape


def _below(shape: object, step: str | int) -> object:
    if isinstance(shape, type) and issubclass(shape, BaseModel):
        field = shape.model_fields.get(str(step))
        return _plain(field.annotation) if field else None
    arguments = typing.get_args(shape)
    if typing.get_origin(shape) is dict:
        return _plain(arguments[1])
    return _plain(arguments[0]) if typing.get_origin(shape) is tuple else None


def _plain(annotation: object) -> object:
    """Without `Annotated` and without `| None`."""
    if typing.get_origin(annotation) is typing.Annotated:
        return _plain(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return next(_plain(one) for one in typing.get_args(annotation) if one is not type(None))
    return annotation


def _field_names(shape: object) -> tuple[str, ...]:
    if isinstance(shape, type) and issubclass(shape, BaseModel):
        return tuple(shape.model_fields)
    return ()
