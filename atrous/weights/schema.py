"""Turns dataclasses into JSON and back. Fields that a class does not declare are refused."""

import dataclasses
import math
import types
import typing
from typing import Any, Literal, TypeVar, get_args, get_origin

from atrous.errors import AtrousError, DataError, ExitCode, unknown_name

T = TypeVar("T")


def to_json(value: Any) -> Any:
    """Returns a dataclass as dicts, lists and scalars for `json.dumps`.

    >>> to_json((1, 2))
    [1, 2]
    """
    if dataclasses.is_dataclass(value):
        return {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    return value


def from_json(kind: type[T], value: Any, where: str = "") -> T:
    """Builds a dataclass from the output of `json.loads`.

    Missing fields take their defaults, so that files older than a field still load.

    Args:
        kind: The dataclass. Its fields may be strings, numbers, booleans, literals, tuples, lists,
            optional ones of these, and other such dataclasses.
        value: A JSON object.
        where: Path of the object, for error messages.

    Raises:
        AtrousError: ``E-UNKNOWN-NAME`` for a field that does not exist, with the nearest names;
            ``E-SCHEMA`` for a field that is missing or has another type.
    """
    if not isinstance(value, dict):
        raise _wrong(where, "an object", value)
    hints = typing.get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(typing.cast(Any, kind))}
    for name in value:
        if name not in fields:
            error = unknown_name(f"field of {where or 'the description'}", str(name), fields)
            error.exit_code = ExitCode.DATA
            raise error
    for name, field in fields.items():
        no_default = field.default is field.default_factory is dataclasses.MISSING
        if no_default and name not in value:
            raise DataError("E-SCHEMA", f"{_path(where, name)} is missing")
    return kind(
        **{name: _read(hints[name], item, _path(where, name)) for name, item in value.items()}
    )


def _read(kind: Any, value: Any, where: str) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if dataclasses.is_dataclass(kind):
        return from_json(typing.cast(type[Any], kind), value, where)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        return _read(next(a for a in arguments if a is not type(None)), value, where)
    if origin is Literal:
        if value not in arguments:
            raise _wrong(where, f"one of {', '.join(map(repr, arguments))}", value)
        return value
    if origin in (tuple, list):
        return _read_sequence(origin, arguments, value, where)
    return _read_scalar(kind, value, where)


def _read_scalar(kind: Any, value: Any, where: str) -> Any:
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind or (kind is float and not math.isfinite(value)):
        raise _wrong(where, kind.__name__, value)
    return value


def _read_sequence(origin: Any, arguments: tuple[Any, ...], value: Any, where: str) -> Any:
    if not isinstance(value, list):
        raise _wrong(where, "a list", value)
    if origin is tuple and arguments[-1] is not Ellipsis:
        if len(value) != len(arguments):
            raise _wrong(where, f"a list of {len(arguments)}", value)
        kinds = arguments
    else:
        kinds = (arguments[0],) * len(value)
    items = [
        _read(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(zip(kinds, value, strict=True))
    ]
    return origin(items)


def _path(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _wrong(where: str, expected: str, value: Any) -> AtrousError:
    shown = repr(value) if len(repr(value)) <= 60 else f"{repr(value)[:57]}..."
    what = f"{where or 'the description'} must be {expected}, not {shown}"
    return DataError("E-SCHEMA", what)
