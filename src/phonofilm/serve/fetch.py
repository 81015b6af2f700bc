"""Files by URL: only from hosts that the operator named, never from inside, within size and time.

Each redirect is checked as the first address was, and the connection goes to the address that was checked, so that a
name that changes its address in between gains nothing.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import time
from typing import Final
from urllib.parse import SplitResult, urljoin, urlsplit

from phonofilm.errors import InputError

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
        host = parts.hostname or ""
        try:
            connection = _Pinned(host, _address(host), timeout=max(0.1, end - time.monotonic()))
            try:
                path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
                connection.request("GET", path, headers={"accept": "image/*", "user-agent": "phonofilm"})
                answer = connection.getresponse()
                if answer.status in (301, 302, 303, 307, 308):
                    return answer.headers.get("location", "")
                if answer.status != 200:
                    raise InputError(f"image_url answers with {answer.status}")
                return self._read(answer, end)
            finally:
                connection.close()
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


def _address(host: str) -> str:
    """A public address of a host. Raises InputError if it has another."""
    found = {str(item[4][0]) for item in socket.getaddrinfo(host, 443, type=socket.SOCK_STREAM)}
    for text in found:
        address = ipaddress.ip_address(text.partition("%")[0])
        if not address.is_global or address.is_multicast:
            raise InputError("image_url leads to an address that is not public")
    return sorted(found)[0]


class _Pinned(http.client.HTTPSConnection):
    """Connects to an address that was checked, and asks for the certificate of the name."""

    def __init__(self, host: str, address: str, timeout: float) -> None:
        super().__init__(host, timeout=timeout)
        self._address, self._secure = address, ssl.create_default_context()

    def connect(self) -> None:
        plain = socket.create_connection((self._address, 443), self.timeout)
        self.sock = self._secure.wrap_socket(plain, server_hostname=self.host)
