"""Files by URL: only from hosts that the operator named, never from inside, within size and time.

Each redirect is checked as the first address was.
"""

from __future__ import annotations

import http.client
import time
from typing import Final
from urllib.parse import SplitResult, urljoin, urlsplit

from phonofilm.errors import InputError
from phonofilm.serve.outside import NotPublic, calling

SECONDS: Final = 20.0
REDIRECTS: Final = 3


class Fetcher:
    """`fetcher(url)` → bytes. hosts: from where; none: from nowhere."""

    def __init__(self, hosts: tuple[str, ...], most: int) -> None:
        self.hosts, self.most = frozenset(host.lower() for host in hosts), most

    def __call__(self, url: str) -> bytes:
        """Raises InputError for a URL that may not be fetched, or cannot be, or holds too much."""
        end = time.monotonic() + SECONDS
        for _ in range(REDIRECTS + 1):
            parts = self._check(url)
            answer = self._get(parts, end)
            if isinstance(answer, bytes):
                return answer
            url = urljoin(url, answer)
        raise InputError(f"image_url leads on more than {REDIRECTS} times")

    def _check(self, url: str) -> SplitResult:
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise InputError("image_url is not a URL") from None
        host = (parts.hostname or "").lower()
        if host not in self.hosts:
            allowed = f"may be fetched from {', '.join(sorted(self.hosts))}" if self.hosts else "are not fetched here"
            raise InputError(f"images {allowed}: send the image itself, or a data: URL")
        if parts.scheme != "https" or port not in (None, 443) or parts.username is not None:
            raise InputError("image_url must be https, on its usual port, without a user")
        return parts

    def _get(self, parts: SplitResult, end: float) -> bytes | str:
        """The body, or where the answer leads on."""
        try:
            with calling(parts, max(0.1, end - time.monotonic())) as connection:
                path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
                connection.request("GET", path, headers={"accept": "image/*", "user-agent": "phonofilm"})
                answer = connection.getresponse()
                if answer.status in (301, 302, 303, 307, 308):
                    return answer.headers.get("location", "")
                if answer.status != 200:
                    raise InputError(f"image_url answers with {answer.status}")
                return self._read(answer, end)
        except NotPublic:
            raise InputError("image_url leads to an address that is not public") from None
        except (OSError, http.client.HTTPException) as error:
            raise InputError(f"image_url cannot be fetched: {type(error).__name__}") from None

    def _read(self, answer: http.client.HTTPResponse, end: float) -> bytes:
        parts, size = [], 0
        while block := answer.read1(1 << 16):
            size += len(block)
            if size > self.most:
                raise InputError(f"image_url holds more than {self.most} bytes")
            if time.monotonic() > end:
                raise InputError(f"image_url takes longer than {SECONDS:g} s")
            parts.append(block)
        return b"".join(parts)
