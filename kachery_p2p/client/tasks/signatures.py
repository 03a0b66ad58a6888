"""What a task function takes, read from its Python signature, so that a page can make a form of it."""

from __future__ import annotations

import inspect
import json
import types
import typing
from collections.abc import Callable
from typing import Any, Final

from kachery_p2p.protocol.limits import (
    MAX_PARAMETER_CHOICES,
    MAX_PARAMETER_DEFAULT,
    MAX_PARAMETER_NAME,
    MAX_TASK_ABOUT,
    MAX_TASK_PARAMETERS,
    MAX_TASK_SIGNATURE,
)
from kachery_p2p.protocol.tasks.messages import sendable
from kachery_p2p.protocol.tasks.signature import ParameterType, TaskParameter, TaskSignature

_TYPES: Final[dict[Any, ParameterType]] = {
    str: "text", int: "integer", float: "number", bool: "boolean",
}  # fmt: skip
_NAMED: Final[dict[str, ParameterType]] = {
    "str": "text", "int": "integer", "float": "number", "bool": "boolean", "ndarray": "array",
    "np.ndarray": "array", "numpy.ndarray": "array",
}  # fmt: skip
"""Annotations that are text, and cannot be looked up where the function is served."""


def signature_of(function: Callable[..., Any]) -> TaskSignature | None:
    """None if Python does not know it, or it is too long to be worth sending."""
    try:
        found = inspect.signature(function)
    except (TypeError, ValueError):
        return None
    hints = _hints(function)
    parameters: list[TaskParameter] = []
    more = False
    for parameter in found.parameters.values():
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            more = more or parameter.kind is parameter.VAR_KEYWORD
        elif len(parameters) >= MAX_TASK_PARAMETERS or len(parameter.name) > MAX_PARAMETER_NAME:
            more = True
        else:
            parameters.append(_parameter(parameter, hints.get(parameter.name)))
    made = TaskSignature(_about(function), parameters, more)
    return made if made.size <= MAX_TASK_SIGNATURE else None


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    # With a class or a partial, or a name that is imported for type checkers only, there are none.
    try:
        return typing.get_type_hints(function)
    except Exception:  # whatever an annotation of somebody's does when it is evaluated
        return dict(getattr(function, "__annotations__", {}))


def _parameter(parameter: inspect.Parameter, hint: Any) -> TaskParameter:
    required = parameter.default is parameter.empty
    if parameter.default is None:
        hint = _without_none(hint)
    default = None if required else _json(parameter.default)
    choices = _choices(hint)
    kind = _type(hint)
    if kind == "json" and not required and hint is None:
        kind = _TYPES.get(type(parameter.default), "json")
    if choices:
        kind = "json"
    return TaskParameter(parameter.name, kind, required, default, choices)


def _without_none(hint: Any) -> Any:
    """Of what is None if it is left out, and of one type if not, that type."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        rest = [each for each in typing.get_args(hint) if each is not type(None)]
        return rest[0] if len(rest) == 1 else hint
    return hint


def _type(hint: Any) -> ParameterType:
    if isinstance(hint, str):
        return _NAMED.get(hint.strip(), "json")
    if typing.get_origin(hint) is typing.Annotated:
        return _type(typing.get_args(hint)[0])
    if isinstance(hint, type):
        if hint.__name__ == "ndarray" and hint.__module__ == "numpy":
            return "array"
        return _TYPES.get(hint, "json")
    origin = typing.get_origin(hint)
    if isinstance(origin, type) and origin.__name__ == "ndarray":
        return "array"
    return "json"


def _choices(hint: Any) -> list[str]:
    """Of Literal, and of Literal or None."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        parts = [_choices(each) for each in typing.get_args(hint) if each is not type(None)]
        if len(parts) != 1 or not parts[0]:
            return []
        return [*parts[0], "null"] if len(parts[0]) < MAX_PARAMETER_CHOICES else []
    if typing.get_origin(hint) is not typing.Literal:
        return []
    values = [_json(each) for each in typing.get_args(hint)]
    fit = len(values) <= MAX_PARAMETER_CHOICES
    return [each for each in values if each is not None] if fit and None not in values else []


def _json(value: Any) -> str | None:
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=True)
    except (TypeError, ValueError, RecursionError):
        return None
    return text if len(text) <= MAX_PARAMETER_DEFAULT else None


def _about(function: Callable[..., Any]) -> str:
    text = inspect.getdoc(function) or ""
    line = " ".join(text.split("\n\n")[0].split())
    return sendable(line)[:MAX_TASK_ABOUT]
