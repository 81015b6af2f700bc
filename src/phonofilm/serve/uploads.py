"""Files that strangers send: told by their first bytes, capped before decoding, decoded elsewhere, kept by digest."""

from __future__ import annotations

import base64
import binascii
import hashlib
import tempfile
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, Protocol

from phonofilm.errors import InputError, MediaError
from phonofilm.jobs.retention import keep_upload, known_upload
from phonofilm.jobs.storage import Storage, upload_name
from phonofilm.jobs.store import Store
from phonofilm.media import Limits, read, read_audio
from phonofilm.media.formats import IMAGES, SOUND_ONLY, sniff
from phonofilm.serve.policy import Policy

Kind = Literal["image", "video", "audio"]
BLOCK: Final = 1 << 20


class Fetch(Protocol):
    """Brings what a URL names, within limits; raises InputError."""

    def __call__(self, url: str) -> bytes: ...


class Uploads:
    """Takes files in, and knows whose they are."""

    def __init__(self, store: Store, storage: Storage, limits: Limits, fetch: Fetch, policy: Policy) -> None:
        self.store, self.storage, self.limits, self.fetch, self.policy = store, storage, limits, fetch, policy

    def take(self, source: BinaryIO | bytes, owner: str, allowed: tuple[Kind, ...], what: str) -> str:
        """Keep a file; returns its digest, "sha256:…".

        what: the field that it came in, for messages. Raises InputError for anything that is none of the `allowed`
        kinds, too large, or cannot be decoded, and ApiError for what the policy refuses.
        """
        with tempfile.TemporaryDirectory(prefix="phonofilm.") as folder:
            path = Path(folder) / "upload"
            digest, size = self._spool(source, path, what)
            kind = known_upload(self.store, owner, digest)
            new = kind is None
            if kind is None:
                kind = self._look(path, what)
            if kind not in allowed:
                raise InputError(f"{what} must be {' or '.join(allowed)}, got {kind}")
            self.policy.check("", owner, path, what)
            if new:
                self.storage.put(path, upload_name(owner, digest))
        keep_upload(self.store, owner, digest, kind, size)
        return digest

    def take_url(self, url: str, owner: str, allowed: tuple[Kind, ...], what: str) -> str:
        """The same for a data: URL, or for one that the operator lets the server fetch."""
        if url.startswith("data:"):
            head, comma, body = url.partition(",")
            if not comma or not head.endswith(";base64"):
                raise InputError(f"{what} must be a data: URL in base64")
            return self.take(unbase64(body, what), owner, allowed, what)
        try:
            fetched = self.fetch(url)
        except InputError as error:
            raise InputError(str(error), what) from None
        return self.take(fetched, owner, allowed, what)

    def _spool(self, source: BinaryIO | bytes, path: Path, what: str) -> tuple[str, int]:
        found, size = hashlib.sha256(), 0
        with path.open("wb") as file:
            while block := (source[size : size + BLOCK] if isinstance(source, bytes) else source.read(BLOCK)):
                size += len(block)
                if size > self.limits.file_bytes:
                    raise InputError(f"{what} may have at most {self.limits.file_bytes} bytes")
                found.update(block)
                file.write(block)
        return f"sha256:{found.hexdigest()}", size

    def _look(self, path: Path, what: str) -> Kind:
        """Decode it once, elsewhere and small, so that what is kept can be read."""
        try:
            kind = sniff(path)
            if kind in SOUND_ONLY:
                read_audio(path, limits=self.limits)
                return "audio"
            clip = read(path, limits=self.limits, size="native")
        except MediaError as error:
            told = str(error).removeprefix(str(path)).replace(str(path), "the file")  # decoders name it, too
            raise InputError(f"{what}{told}") from None
        return "image" if kind in IMAGES or clip.picture else "video"


def unbase64(text: Any, what: str) -> bytes:
    """Bytes from base64. Raises InputError."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError, TypeError):
        raise InputError(f"{what} must be base64") from None
