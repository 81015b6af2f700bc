"""Calls to hosts that others name: to public addresses alone, to the address that was checked, within a time.

A name that changes its address between check and call gains nothing, since the call goes to the address; the
certificate is asked for by name. Whoever answers drop by drop is cut off when the time is over.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from typing import Final
from urllib.parse import SplitResult

from phonofilm.errors import InputError

CONNECT_SECONDS: Final = 5.0
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")


class NotPublic(InputError):
    """A host has an address inside."""


def address_of(host: str, port: int, *, private: bool = False) -> str:
    """An address of a host. Raises NotPublic if one of its addresses is not public, and OSError if it has none."""
    found = list(dict.fromkeys(str(item[4][0]) for item in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)))
    if not private and not all(is_public(text) for text in found):
        raise NotPublic(f"{host} has an address that is not public")
    return found[0]


def is_public(text: str) -> bool:
    """True of addresses that anybody may reach; those that carry an IPv4 address are what that one is."""
    address = ipaddress.ip_address(text.partition("%")[0])
    inner: ipaddress.IPv4Address | None = None
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return all(one.is_global and not one.is_multicast for one in (address if inner is None else inner,))


@contextlib.contextmanager
def calling(parts: SplitResult, seconds: float, *, private: bool = False) -> Iterator[http.client.HTTPConnection]:
    """A connection to the host of an http(s) URL, which breaks after so many seconds.

    private: any address will do. Raises NotPublic; within, OSError and HTTPException.
    """
    host, secure = parts.hostname or "", parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    end = time.monotonic() + seconds
    connection = _Pinned(host, port, address_of(host, port, private=private), secure, seconds)
    cut = threading.Timer(max(0.0, end - time.monotonic()), connection.cut)
    cut.daemon = True
    cut.start()
    try:
        yield connection
    finally:
        cut.cancel()
        connection.close()


class _Pinned(http.client.HTTPConnection):
    """Connects to an address that was checked, and asks for the certificate of the name."""

    def __init__(self, host: str, port: int, address: str, secure: bool, seconds: float) -> None:
        super().__init__(host, port, timeout=seconds)
        self.default_port = 443 if secure else 80  # which the header Host leaves out
        self._address, self._secure = address, ssl.create_default_context() if secure else None
        self._plain: socket.socket | None = None
        self._late = False

    def connect(self) -> None:
        self._plain = socket.create_connection((self._address, self.port), min(CONNECT_SECONDS, self.timeout or 1e9))
        self._plain.settimeout(self.timeout)
        if self._late:
            raise TimeoutError("the time is over")
        # made from the descriptor, so that the one kept here can still be shut when TLS has taken the other over
        plain = self._plain.dup()
        self.sock = self._secure.wrap_socket(plain, server_hostname=self.host) if self._secure else plain

    def cut(self) -> None:
        """End the call, from another thread."""
        self._late = True
        if self._plain is not None:
            with contextlib.suppress(OSError):
                self._plain.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        super().close()
        if self._plain is not None:
            self._plain.close()
