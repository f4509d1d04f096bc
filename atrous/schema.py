"""Turns dataclasses into JSON and back. Fields that a class does not declare are refused."""

import dataclasses
import json
import sys
import types
import typing
from typing import Any, Literal, TypeVar, get_args, get_origin

from atrous.errors import AtrousError, DataError, ExitCode, unknown_name

T = TypeVar("T")


def to_json(value: Any) -> Any:
    """Returns a dataclass as the dicts, lists and scalars that JSON has."""
    return json.loads(json.dumps(dataclasses.asdict(value)))


def from_json(kind: type[T], value: Any, where: str = "") -> T:
    """Builds a dataclass from the output of `json.loads`.

    Missing fields take their defaults, so that files older than a field still load.

    Args:
        kind: The dataclass. Its fields may be strings, numbers, booleans, literals, tuples, lists,
            objects, optional ones of these, and other such dataclasses.
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


def _read(hint: Any, value: Any, where: str) -> Any:
    inner = [kind for kind in (hint, *get_args(hint)) if dataclasses.is_dataclass(kind)]
    if inner and value is not None:
        return from_json(typing.cast(type[Any], inner[0]), value, where)
    value = value if get_origin(hint) is list else tuples(value)
    if not fits(value, hint):
        raise _wrong(where, type_name(hint), value)
    return value


def fits(value: Any, hint: Any) -> bool:
    """Returns whether a value has a type; a float must be finite, a bool is not a number."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is types.UnionType:
        return any(fits(value, option) for option in args)
    if origin is Literal:
        return isinstance(value, str) and value in args
    if origin is dict:
        return isinstance(value, dict)
    if origin in (tuple, list):
        if not isinstance(value, origin):
            return False
        kinds = args if origin is tuple and args[-1] is not Ellipsis else args[:1] * len(value)
        return len(kinds) == len(value) and all(map(fits, value, kinds))
    if isinstance(value, bool):
        return hint is bool
    if hint is float:
        return isinstance(value, (int, float)) and abs(value) <= sys.float_info.max
    return value is None if hint is types.NoneType else isinstance(value, hint)


def tuples(value: Any) -> Any:
    """Returns a value with its lists, nested ones too, as tuples."""
    return tuple(map(tuples, value)) if isinstance(value, (list, tuple)) else value


def type_name(hint: Any) -> str:
    """Returns a type as messages name it."""
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(repr, get_args(hint)))}"
    return str(hint).replace("typing.", "") if get_origin(hint) else hint.__name__


def _path(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _wrong(where: str, expected: str, value: Any) -> AtrousError:
    shown = repr(value) if len(repr(value)) <= 60 else f"{repr(value)[:57]}..."
    what = f"{where or 'the description'} must be {expected}, not {shown}"
    return DataError("E-SCHEMA", what)
