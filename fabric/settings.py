"""Settings: frozen dataclasses filled from a TOML file and from environment variables.

A dataclass field that is a dataclass is a section: `[storage] cache_bytes = 5` in TOML,
`SEAWALL_STORAGE_CACHE_BYTES=5` in the environment, which wins. Every key must exist and every value
must have the field's type; the first thing that is wrong is a `SettingsError`, one sentence that
names where the value came from and the key.

A field made by `secret()` is never shown, neither in an error nor in a repr, and is never in TOML:
it comes from its environment variable, or from the file that the key `<field>_file` names.

Nothing here reads the process environment: `__main__` passes it in. With a section and a field that
would share one variable name the settings type itself is wrong, and loading it raises TypeError.
"""

import dataclasses
import difflib
import os
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from .codec import decode_hook

TOML_BYTES_MAX: Final = 1024 * 1024  # a settings file is written by hand
SECRET_BYTES_MAX: Final = 64 * 1024  # a certificate chain is the largest

S = TypeVar("S")
_MISSING: Final = object()


class SettingsError(Exception):
    """A settings file or an environment variable is wrong; the sentence says which and how."""


def secret(*, is_required: bool = False) -> Any:
    """Declare a secret field: of type `str` if it is required, else `str | None`."""
    metadata = {"secret": True}
    if is_required:
        return dataclasses.field(repr=False, metadata=metadata)
    return dataclasses.field(default=None, repr=False, metadata=metadata)


def load(
    settings: type[S],
    toml_path: str | os.PathLike[str] | None,
    environ: Mapping[str, str],
    prefix: str = "SEAWALL",
) -> S:
    """Return the settings that the file, overridden by the environment, describes."""
    table = {} if toml_path is None else _read_toml(Path(toml_path))
    known = {name for _, name in _variables(settings, prefix)}
    _refuse_unknown_variables(environ, known, prefix)
    name = "settings" if toml_path is None else str(toml_path)
    source = _Source(name, {k: v for k, v in environ.items() if k in known})
    return source.section(settings, table, key="", variable=prefix)


@dataclasses.dataclass(frozen=True, slots=True)
class _Source:
    """Where values come from, for looking them up and for naming them in errors."""

    toml_name: str
    environ: Mapping[str, str]

    def section(self, wanted: type[S], table: object, *, key: str, variable: str) -> S:
        """Make one dataclass of its table and its variables."""
        if not isinstance(table, dict):
            raise SettingsError(f"{self.toml_name}: {key} must be a table, [{key}]")
        self._refuse_unknown_keys(wanted, table, key)
        values = {}
        for field, hint in _fields(wanted):
            value = self._field(field, hint, table, _join(key, field.name), variable)
            if value is not _MISSING:
                values[field.name] = value
        try:
            return wanted(**values)
        except ValueError as error:
            where = f"{self.toml_name}: [{key}]" if key else self.toml_name
            raise SettingsError(f"{where}: {error}") from error

    def _field(
        self, field: "dataclasses.Field[Any]", hint: Any, table: dict[str, Any], key: str, up: str
    ) -> Any:
        variable = f"{up}_{field.name.upper()}"
        section = _section_type(hint)
        if section is not None:
            is_given = field.name in table or any(
                name in self.environ for _, name in _variables(section, variable)
            )
            if is_given or not _has_default(field):
                below = table.get(field.name, {})
                return self.section(section, below, key=key, variable=variable)
        elif _is_secret(field):
            value = self._secret(field.name, table, key, variable)
            if value is not None:
                return value
        elif variable in self.environ:
            return self._convert_text(hint, variable)
        elif field.name in table:
            return _convert(hint, table[field.name], f"{self.toml_name}: {key}", strict=True)
        if not _has_default(field):
            raise SettingsError(f"{self.toml_name}: {key} is missing: set it or {variable}")
        return _MISSING

    def _convert_text(self, hint: Any, variable: str) -> Any:
        """Convert a variable: plain text for what is scalar, JSON for lists and tables."""
        text, value = self.environ[variable], None
        if text[:1] in {"[", "{"}:
            try:
                value = msgspec.json.decode(text)
            except msgspec.DecodeError as error:
                raise SettingsError(f"variable {variable} is not JSON: {error}") from error
        return _convert(hint, text if value is None else value, f"variable {variable}")

    def _secret(self, name: str, table: dict[str, Any], key: str, variable: str) -> str | None:
        if name in table:
            raise SettingsError(
                f"{self.toml_name}: {key} is secret: give {key}_file or the variable {variable}"
            )
        path = self.environ.get(f"{variable}_FILE", table.get(f"{name}_file"))
        if variable in self.environ and path is not None:
            raise SettingsError(f"variable {variable} and {key}_file are both given: drop one")
        if path is None:
            return self.environ.get(variable)
        if not isinstance(path, str):
            raise SettingsError(f"{self.toml_name}: {key}_file must be a path in quotes")
        return _read_secret(Path(path), key)

    def _refuse_unknown_keys(self, wanted: type, table: dict[str, Any], key: str) -> None:
        names = [name for field, _ in _fields(wanted) for name in _toml_names(field)]
        for name in table:
            if name not in names:
                raise SettingsError(
                    f"{self.toml_name}: {_join(key, name)} is unknown{_hint(name, names)}"
                )


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        data = _read_limited(path, TOML_BYTES_MAX)
        return tomllib.loads(data.decode())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise SettingsError(f"cannot read settings file {path}: {error}") from error


def _read_secret(path: Path, key: str) -> str:
    try:
        return _read_limited(path, SECRET_BYTES_MAX).decode().rstrip("\r\n")
    except UnicodeDecodeError:
        # The error itself would show the bytes.
        raise SettingsError(f"{key}_file: {path} is not text in UTF-8") from None
    except OSError as error:
        raise SettingsError(f"{key}_file: cannot read {path}: {error.strerror}") from error


def _read_limited(path: Path, bytes_max: int) -> bytes:
    with path.open("rb") as file:
        data = file.read(bytes_max + 1)
    if len(data) > bytes_max:
        raise OSError(0, f"it exceeds {bytes_max} bytes")
    return data


def _convert(hint: Any, value: object, where: str, *, strict: bool = False) -> Any:
    try:
        return msgspec.convert(value, hint, strict=strict, dec_hook=decode_hook)
    except (msgspec.ValidationError, RecursionError) as error:
        raise SettingsError(f"{where}: {error}") from error


def _refuse_unknown_variables(environ: Mapping[str, str], known: set[str], prefix: str) -> None:
    for name in environ:
        if name.startswith(f"{prefix}_") and name not in known:
            raise SettingsError(f"variable {name} is unknown{_hint(name, known)}")


def _variables(settings: type, prefix: str) -> list[tuple[str, str]]:
    """Return (field, variable) for every field of a settings type and of its sections."""
    pairs: list[tuple[str, str]] = []
    for field, hint in _fields(settings):
        variable = f"{prefix}_{field.name.upper()}"
        section = _section_type(hint)
        if section is not None:
            pairs += _variables(section, variable)
        else:
            pairs.append((field.name, variable))
            if _is_secret(field):
                pairs.append((f"{field.name}_file", f"{variable}_FILE"))
    names = [name for _, name in pairs]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise TypeError(f"{settings.__name__} has two fields for {sorted(twice)}: rename one")
    return pairs


def _fields(settings: type) -> Iterator[tuple["dataclasses.Field[Any]", Any]]:
    hints = typing.get_type_hints(settings, include_extras=True)
    for field in dataclasses.fields(settings):
        if field.init:
            yield field, hints[field.name]


def _section_type(hint: Any) -> Any:
    """Return the dataclass that a field of type `D` or `D | None` holds, else None."""
    options = typing.get_args(hint) if _is_union(hint) else (hint,)
    sections = [option for option in options if dataclasses.is_dataclass(option)]
    return sections[0] if len(sections) == 1 else None


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in {typing.Union, types.UnionType}


def _is_secret(field: "dataclasses.Field[Any]") -> bool:
    return bool(field.metadata.get("secret", False))


def _has_default(field: "dataclasses.Field[Any]") -> bool:
    missing = dataclasses.MISSING
    return field.default is not missing or field.default_factory is not missing


def _toml_names(field: "dataclasses.Field[Any]") -> list[str]:
    return [field.name, f"{field.name}_file"] if _is_secret(field) else [field.name]


def _join(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def _hint(name: str, names: typing.Collection[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1)
    return f": did you mean {close[0]}?" if close else ""
