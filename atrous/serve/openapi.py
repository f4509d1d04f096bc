"""The description of the interface that ``/openapi.json`` gives: OpenAPI 3.1."""

from typing import Any

from atrous import __version__
from atrous.serve.parameters import FORMATS

_ERROR = {
    "description": "An error.",
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["code", "message", "hint"],
                "properties": {key: {"type": "string"} for key in ("code", "message", "hint")},
            }
        }
    },
}
_ERRORS = {
    "401": "The token is missing or wrong.",
    "408": "The body did not arrive in time.",
    "413": "Too many bytes or pixels, or more seconds than the deadline holds.",
    "415": "Not a picture of a known kind.",
    "422": "A damaged picture, or an option that cannot be.",
    "503": "Too busy; Retry-After says for how many seconds.",
    "504": "No answer within the deadline.",
}


def description(models: list[str], *, token: bool) -> dict[str, Any]:
    """Returns the description.

    Args:
        models: Their names.
        token: Whether requests need one.
    """
    result: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "atrous", "version": __version__},
        "paths": {
            "/v1/segment": {"post": _segment(models)},
            "/v1/models": {"get": _get("The models: classes, colours, terms.")},
            "/v1/model": {"get": _get("The default model.")},
            "/v1/models/{name}/file": {
                "get": {
                    **_get("The file of a model.", "application/octet-stream"),
                    "parameters": [_parameter("name", "path", {"enum": models}, "A model.")],
                }
            },
            "/livez": {"get": _get("200 while the process answers.")},
            "/readyz": {"get": _get("200 when a worker of each model is warm, else 503.")},
            "/metrics": {"get": _get("Counts and times for Prometheus.", "text/plain")},
        },
    }
    if token:
        schemes = {"token": {"type": "http", "scheme": "bearer"}}
        result |= {"components": {"securitySchemes": schemes}, "security": [{"token": []}]}
    return result


def _segment(models: list[str]) -> dict[str, Any]:
    types = sorted(set(FORMATS.values()))
    return {
        "summary": "Segments one picture: its bytes are the body, of any kind, no multipart.",
        "parameters": [
            _parameter("format", "query", {"enum": list(FORMATS)}, "Of the answer; default png."),
            _parameter(
                "classes", "query", {"type": "string"}, "Names between commas; default all."
            ),
            _parameter(
                "max_side",
                "query",
                {"type": "integer", "minimum": 1},
                "Pixels of the longer side to which a larger picture is reduced first.",
            ),
            _parameter("model", "query", {"enum": models}, "Default: the first."),
        ],
        "requestBody": {
            "required": True,
            "content": {"application/octet-stream": {"schema": {"format": "binary"}}},
        },
        "responses": {
            "200": {"description": "The answer.", "content": {kind: {} for kind in types}},
            **{status: {**_ERROR, "description": text} for status, text in _ERRORS.items()},
        },
    }


def _get(summary: str, kind: str = "application/json") -> dict[str, Any]:
    return {
        "summary": summary,
        "responses": {"200": {"description": "It.", "content": {kind: {}}}},
    }


def _parameter(name: str, place: str, schema: dict[str, Any], text: str) -> dict[str, Any]:
    required = {"required": True} if place == "path" else {}
    return {"name": name, "in": place, "schema": schema, "description": text, **required}
