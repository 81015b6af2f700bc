"""The OpenAPI document: what FastAPI writes, less what it only guesses, and how to bring a key."""

from __future__ import annotations

from typing import Any, Final

from fastapi import FastAPI

_SCHEMES: Final = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "google": {"type": "apiKey", "in": "header", "name": "x-goog-api-key"},
}


def install(app: FastAPI) -> None:
    """Let `/openapi.json` say what the app does."""
    written = app.openapi

    def openapi() -> dict[str, Any]:
        document = written()
        for operations in document["paths"].values():
            for operation in operations.values():
                operation["responses"].pop("422", None)  # such requests are answered with 400, in the envelope
        parts = document["components"]
        for name in ("HTTPValidationError", "ValidationError"):
            parts["schemas"].pop(name, None)
        parts["securitySchemes"] = _SCHEMES
        document["security"] = [{}, *({name: []} for name in _SCHEMES)]  # on this machine alone none is asked for
        return document

    app.openapi = openapi  # type: ignore[method-assign]
