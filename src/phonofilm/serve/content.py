"""Files over HTTP, whole or in parts (RFC 9110, section 14)."""

from __future__ import annotations

import re
from typing import Any, Final

from fastapi import Request
from fastapi.responses import Response, StreamingResponse

from phonofilm.jobs.storage import Storage
from phonofilm.serve.errors import ApiError

TYPES: Final = {
    "mp4": "video/mp4",
    "jpg": "image/jpeg",
    "png": "image/png",
    "webp": "image/webp",
    "json": "application/json",
}


def send(request: Request, storage: Storage, name: str, filename: str) -> Response:
    """A stored file, or the one range of it that is asked for. Raises ApiError 404 and 416."""
    try:
        size = storage.size(name)
    except FileNotFoundError:
        raise gone() from None
    headers = {
        "accept-ranges": "bytes", "etag": f'"{name.replace("/", "-")}"', "cache-control": "private, no-transform",
        "content-disposition": f'inline; filename="{filename}"',
    }  # fmt: skip
    kind = media_type(name)
    known = request.headers.get("if-none-match", "")
    if known.strip() == "*" or headers["etag"] in re.findall(r'"[^"]*"', known):  # weak tags count here
        return Response(status_code=304, headers=headers)
    start, stop, status = 0, size, 200
    asked = request.headers.get("range")
    if asked is not None and request.headers.get("if-range", headers["etag"]) == headers["etag"]:
        part = _range(asked, size)
        if part is not None:
            (start, stop), status = part, 206
            headers["content-range"] = f"bytes {start}-{stop - 1}/{size}"
    headers["content-length"] = str(stop - start)
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers, media_type=kind)
    return StreamingResponse(storage.read(name, start, stop), status, headers, kind)


def gone() -> ApiError:
    """A film was deleted, or expired, between two looks at it."""
    return ApiError(404, "not_found", "the file is gone")


def media_type(name: str) -> str:
    return TYPES.get(name.rpartition(".")[2], "application/octet-stream")


def responses(*endings: str) -> dict[int | str, dict[str, Any]]:
    """What `send` answers with, for the OpenAPI document. endings: of the files that it may send."""
    bytes_ = {"schema": {"type": "string", "format": "binary"}}
    held = {TYPES[ending]: bytes_ for ending in endings}
    return {
        200: {"description": "the file", "content": held},
        206: {"description": "the range of it that was asked for", "content": held},
        304: {"description": "it is what the caller has already"},
    }


def _range(asked: str, size: int) -> tuple[int, int] | None:
    """[start, stop) of one range; None for what is to be ignored: other units, several ranges, nonsense."""
    found = re.fullmatch(r"bytes=\s*(\d{0,18})-(\d{0,18})\s*", asked)
    if found is None or not (found[1] or found[2]):
        return None
    if found[1]:
        start, stop = int(found[1]), min(size, int(found[2]) + 1 if found[2] else size)
        if found[2] and int(found[2]) < start:
            return None
    else:
        start, stop = max(0, size - int(found[2])), size
    if start >= stop:
        raise ApiError(416, "invalid_range", f"the file has {size} bytes", headers={"content-range": f"bytes */{size}"})
    return start, stop
