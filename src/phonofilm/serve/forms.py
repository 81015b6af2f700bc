"""Bodies, as multipart or JSON, read into one mapping; and what the OpenAPI document says of them."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Any, Final

from fastapi import Depends, Query, Request
from python_multipart.exceptions import MultipartParseError
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException

from phonofilm.errors import InputError
from phonofilm.jobs.webhooks import TYPES

NUMBER: Final = r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?"
MAX_FIELDS: Final = 64
MAX_FILES: Final = 8
MAX_FIELD: Final = 8 << 20  # bytes of a field that is no file: a data: URL may be one


async def fields(request: Request) -> AsyncIterator[dict[str, Any]]:
    """The fields of a body: JSON, multipart or urlencoded. Files are `UploadFile`s, open while the call lasts.

    Raises InputError.
    """
    try:
        yield await _read(request)
    finally:
        await request.close()


After = Annotated[str | None, Query(max_length=64, pattern="^[A-Za-z0-9_-]*$")]  # the id that a page begins behind
Limit = Annotated[int, Query(ge=1, le=100)]  # of a page
Given = Annotated[dict[str, Any], Depends(fields)]


async def _read(request: Request) -> dict[str, Any]:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind in ("multipart/form-data", "application/x-www-form-urlencoded"):
        try:
            form = await request.form(max_files=MAX_FILES, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD)
        except (MultiPartException, MultipartParseError, HTTPException, KeyError, UnicodeError) as error:
            told = getattr(error, "detail", None) or str(error) or "it is not multipart"
            raise InputError(f"the form cannot be read: {told}") from None
        found: dict[str, Any] = {}
        for name, value in form.multi_items():
            base, bracket, inner = name.partition("[")
            if bracket and inner.endswith("]"):  # video[id], as OpenAI's clients flatten objects
                part = found.setdefault(base, {})
                if isinstance(part, dict):
                    part[inner[:-1]] = value
            else:
                found[name] = value
        return found
    body = await request.body()
    try:
        whole_body = json.loads(body or b"{}")
    except (ValueError, RecursionError):
        raise InputError("the body must be JSON or multipart/form-data") from None
    if not isinstance(whole_body, dict):
        raise InputError("the body must be a JSON object")
    return whole_body


def text(given: Mapping[str, Any], name: str) -> str | None:
    """A field that is text, or None. Raises InputError."""
    value = given.get(name)
    if value is None or isinstance(value, str):
        return value
    raise InputError(f"{name} must be text")


def number(given: Mapping[str, Any], name: str) -> float | None:
    """A field that is a number, or text that says one. Raises InputError."""
    value = given.get(name)
    if value is None or value == "":
        return None
    try:
        if isinstance(value, int | float) and not isinstance(value, bool):
            float(value)  # a whole number of 309 digits is none that anything here can mean
            return value
        if isinstance(value, str) and len(value) <= 32 and re.fullmatch(NUMBER, value):
            return float(value)
    except OverflowError:
        pass
    raise InputError(f"{name} must be a number, got {str(value)[:40]!r}", name)


def whole(given: Mapping[str, Any], name: str) -> int | None:
    """A field that is a whole number, or text that says one. Raises InputError."""
    value = given.get(name)
    if isinstance(value, str) and len(value) <= 32 and re.fullmatch(r"[+-]?[0-9]+", value):
        return int(value)
    value = number(given, name)
    if value is None:
        return None
    if isinstance(value, float) and not value.is_integer():
        raise InputError(f"{name} must be a whole number, got {value:g}", name)
    return int(value)


def nullable(*kinds: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of a field that may be null as well."""
    return {"anyOf": [*kinds, {"type": "null"}]}


def numeric(kind: str, **limits: float) -> dict[str, Any]:
    """The schema of a field that `number` or `whole` reads: a number, also as text, as multipart has it."""
    return nullable({"type": kind, **limits}, {"type": "string", "maxLength": 32, "pattern": f"^({NUMBER})?$"})


_TEXT: Final = {"type": "string"}
_FILE: Final = {"type": "string", "format": "binary"}
_REFERENCE: Final = {
    "anyOf": [
        {"type": "string", "description": "a data: URL, or a URL that the operator allows"},
        {"type": "object", "properties": {"image_url": _TEXT}},
        {"type": "null"},
    ]
}
_PROMPT: Final = {"type": "string", "minLength": 1, "maxLength": 2000, "pattern": r"\S"}
_WISH: Final[dict[str, Any]] = {
    "prompt": _PROMPT,
    "model": nullable({"type": "string", "description": "one of those that /v1/models lists"}),
    "seconds": numeric("number", minimum=0.25) | {"description": "length; what a model can do, /v1/models tells"},
    "size": nullable({"type": "string", "description": "WIDTHxHEIGHT, or square, portrait, landscape"}),
    "negative_prompt": nullable({"type": "string", "maxLength": 2000}),
    "seed": numeric("integer", minimum=0),
    "steps": numeric("integer", minimum=1),
    "guidance": numeric("number", minimum=0, maximum=100),
    "best_of": numeric("integer", minimum=1, maximum=64),
    "match_guidance": numeric("number", minimum=0, maximum=100),
    "quality": nullable({"type": "string", "enum": ["draft", "standard", "full", ""]}),
    "sampler": nullable(_TEXT),
    "priority": numeric("integer", minimum=-10, maximum=10),
}
_MEDIA: Final = ("input_reference", "last_reference", "audio_reference", "video_reference", "mask")
_VIDEO: Final = {"anyOf": [{"type": "object", "properties": {"id": _TEXT}, "required": ["id"]}, _TEXT]}

_ENDPOINT: Final[dict[str, Any]] = {
    "name": {"type": "string", "minLength": 1, "maxLength": 100, "pattern": r"\S"},
    "url": {
        "type": "string",
        "maxLength": 2000,
        "pattern": "^https://",
        "description": "https, of a host to which the operator lets webhooks be sent",
    },
    "event_types": {"type": "array", "items": {"enum": list(TYPES)}, "minItems": 1, "maxItems": len(TYPES)},
}


def _body(
    required: tuple[str, ...],
    properties: Mapping[str, Any],
    files: Mapping[str, Any] | None = None,
    *,
    form: bool = True,
) -> dict[str, Any]:
    shapes = {"application/json": {**properties, **(files or {})}}
    if form:
        shapes["multipart/form-data"] = {**properties, **dict.fromkeys(files or {}, _FILE)}
    return {
        "requestBody": {
            "required": bool(required),
            "content": {
                kind: {"schema": {"type": "object", "properties": shape, "required": list(required)}}
                for kind, shape in shapes.items()
            },
        }
    }


def json_body(required: tuple[str, ...], properties: Mapping[str, Any]) -> dict[str, Any]:
    """`requestBody` of a call that takes JSON alone."""
    return _body(required, properties, form=False)


BODIES: Final = {
    "create": _body(("prompt",), _WISH, dict.fromkeys(_MEDIA, _REFERENCE)),
    "edit": _body(("prompt", "video"), _WISH, {"video": _VIDEO, "mask": _REFERENCE}),
    "extension": _body(("prompt", "video"), _WISH, {"video": _VIDEO}),
    "character": _body(
        ("name", "video"),
        {"name": {"type": "string", "minLength": 1, "pattern": r"\S"}, "consent": nullable(_TEXT)},
        {"video": _VIDEO},
    ),
    "remix": json_body(("prompt",), {"prompt": _PROMPT}),
    "endpoint": json_body(("name", "url", "event_types"), _ENDPOINT),
    "endpoint change": json_body((), {name: nullable(kind) for name, kind in _ENDPOINT.items()}),
    "rotate": json_body((), {"keep_old_secret_active_for_24_hours": nullable({"type": "boolean"})}),
    "test": json_body(("event_type",), {"event_type": {"enum": list(TYPES)}}),
    "order": json_body((), {"held": nullable({"type": "boolean"}), "priority": _WISH["priority"]}),
}
"""`requestBody` of each call, for the OpenAPI document."""
