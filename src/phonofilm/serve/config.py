"""How a server is run."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from phonofilm.errors import InputError
from phonofilm.jobs.schema import database_url
from phonofilm.media import Limits

UPLOAD: Final = Limits(
    file_bytes=64 << 20, pixels=4096 * 4096, frames=600, seconds=60.0, decoded_bytes=512 << 20, memory_bytes=2 << 30,
    cpu_seconds=20,
)  # fmt: skip
"""What an uploaded file may hold at most."""


@dataclass(frozen=True)
class Config:
    """What `phonofilm serve` takes from its options."""

    folder: Path  # of database, films and identity, where nothing else is said
    host: str = "127.0.0.1"
    port: int = 8600
    database: str | None = None  # URL; None: SQLite in the folder
    films: str | None = None  # folder or URL; None: in the folder
    model: str = "native"  # what is used where a request names none
    weights: Path | None = None  # of the native model, whose words are known here; None: the shipped ones
    models: tuple[str, ...] = ("native",)  # what may be asked for
    insecure: bool = False  # reachable from elsewhere without keys
    hosts: tuple[str, ...] = ()  # names under which the server may be called, besides the local ones
    image_hosts: tuple[str, ...] = ()  # from where images may be fetched by URL
    webhook_hosts: tuple[str, ...] = ()  # to which those who call may have webhooks sent; "*": any public one
    upload_bytes: int = 64 << 20  # of one request
    keep_seconds: float = 7 * 86_400.0  # films
    upload: Limits = UPLOAD

    def __post_init__(self) -> None:
        if not 1 <= self.port <= 65535:
            raise InputError(f"port must be 1..65535, got {self.port}")
        if self.model not in self.models:
            raise InputError(f"model must be one of {', '.join(self.models)}, got {self.model!r}")

    @property
    def database_url(self) -> str:
        return database_url(self.database, self.folder)

    @property
    def storage(self) -> str:
        return self.films or str(self.folder / "files")

    @property
    def local(self) -> bool:
        """True if only this machine reaches the server."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return False

    @property
    def names(self) -> frozenset[str]:
        """Host names (without port) under which it may be called; empty: any."""
        if not self.local and not self.hosts:
            return frozenset()
        return frozenset({"localhost", "127.0.0.1", "[::1]", *self.hosts})
