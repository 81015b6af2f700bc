"""Bodies, as multipart or JSON, read into one mapping; and what the OpenAPI document says of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from fastapi import Request
from python_multipart.exceptions import MultipartParseError
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException

from phonofilm.errors import InputError

MAX_FIELDS: Final = 64
MAX_FILES: Final = 8
MAX_FIELD: Final = 8 << 20  # bytes of a field that is no file: a data: URL may be one


async def fields(request: Request) -> dict[str, Any]:
    """The fields of a body: JSON, multipart or urlencoded. Files are `UploadFile`s. Raises InputError."""
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
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    try:
        if isinstance(value, str) and len(value) <= 32:
            return float(value)
    except ValueError:
        pass
    raise InputError(f"{name} must be a number, got {str(value)[:40]!r}")


def whole(given: Mapping[str, Any], name: str) -> int | None:
    """A field that is a whole number, or text that says one. Raises InputError."""
    value = given.get(name)
    if isinstance(value, str) and len(value) <= 32 and value.strip().lstrip("+-").isdecimal():
        return int(value)
    value = number(given, name)
    if value is None:
        return None
    if isinstance(value, float) and not value.is_integer():
        raise InputError(f"{name} must be a whole number, got {value:g}")
    return int(value)


_FILE: Final = {"type": "string", "format": "binary"}
_REFERENCE: Final = {
    "oneOf": [
        {"type": "string", "description": "a data: URL, or a URL that the operator allows"},
        {"type": "object", "properties": {"image_url": {"type": "string"}}},
    ]
}
_WISH: Final[dict[str, Any]] = {
    "prompt": {"type": "string", "minLength": 1, "maxLength": 2000},
    "model": {"type": "string"},
    "seconds": {"type": "string", "description": "length in seconds"},
    "size": {"type": "string", "description": "WIDTHxHEIGHT, or square, portrait, landscape"},
    "negative_prompt": {"type": "string", "maxLength": 2000},
    "seed": {"type": "integer", "minimum": 0},
    "steps": {"type": "integer", "minimum": 1},
    "guidance": {"type": "number", "minimum": 0},
    "best_of": {"type": "integer", "minimum": 1},
    "match_guidance": {"type": "number", "minimum": 0},
    "sampler": {"type": "string"},
    "priority": {"type": "integer", "minimum": -10, "maximum": 10},
}
_MEDIA: Final = ("input_reference", "last_reference", "audio_reference", "video_reference")
_VIDEO: Final = {"type": "object", "properties": {"id": {"type": "string"}}, "required": ["id"]}


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
            "required": True,
            "content": {
                kind: {"schema": {"type": "object", "properties": shape, "required": list(required)}}
                for kind, shape in shapes.items()
            },
        }
    }


BODIES: Final = {
    "create": _body(("prompt",), _WISH, dict.fromkeys(_MEDIA, _REFERENCE)),
    "edit": _body(("prompt", "video"), _WISH, {"video": _VIDEO}),
    "extend": _body(("prompt", "video", "seconds"), _WISH, {"video": _VIDEO}),
    "character": _body(
        ("name", "video"), {"name": {"type": "string"}, "consent": {"type": "string"}}, {"video": _VIDEO}
    ),
    "remix": _body(("prompt",), {"prompt": _WISH["prompt"]}, form=False),
    "order": _body((), {"held": {"type": "boolean"}, "priority": _WISH["priority"]}, form=False),
}
"""`requestBody` of each call, for the OpenAPI document."""
