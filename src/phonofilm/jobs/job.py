"""What a job is: a request, who asked for it, and how far it is."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from phonofilm.errors import PhonofilmError
from phonofilm.request import Request

Status = Literal["queued", "in_progress", "completed", "failed"]
Kind = Literal["create", "remix", "edit", "extension"]
OPEN: Final = ("queued", "in_progress")  # states that end one day
FILES: Final = ("video", "thumbnail", "spritesheet", "receipt")  # what a completed job leaves, by variant
AGAIN: Final = "tried again"  # how the note of a retry begins
LOCAL: Final = "local"  # the owner where no keys are asked for


class JobError(PhonofilmError):
    """A job cannot be taken or changed. `code` is what programs read."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Job:
    """One film to be made. Times are seconds since 1970."""

    id: str  # video_ and 24 random characters
    owner: str  # id of a key, or LOCAL
    request: Request
    kind: Kind = "create"
    source: str | None = None  # the job whose film was remixed, edited or extended
    status: Status = "queued"
    stage: str = "queued"  # what is being done: queued, condition, denoise, decode, export, done
    progress: int = 0  # percent
    attempt: int = 0  # executions begun; only the latest may publish
    ticket: str = ""  # the workflow that may run it; older ones do nothing
    worker: str | None = None
    held: bool = False  # paused while queued
    cancelled: bool = False  # somebody wants it stopped
    priority: int = 0  # -10 (late) to 10 (early)
    created_at: float = field(default_factory=time.time)
    started_at: float | None = None
    completed_at: float | None = None
    expires_at: float | None = None  # when its files go
    error_code: str | None = None
    error_message: str | None = None
    files: dict[str, str] = field(default_factory=dict)  # variant → name in the storage
    receipt: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)  # what the engine remarked, such as words that it never saw
    trace: str | None = None  # of the call that asked for it

    @property
    def open(self) -> bool:
        return self.status in OPEN

    @property
    def retries(self) -> int:
        """Executions that ended with an error which may pass."""
        return retries(self.notes)


def retries(notes: Sequence[str]) -> int:
    return sum(note.startswith(AGAIN) for note in notes)


def new_id(kind: str) -> str:
    """A name that cannot be guessed: `kind`_ and 24 characters (144 bits)."""
    return f"{kind}_{secrets.token_urlsafe(18).replace('-', 'A').replace('_', 'B')}"


def fingerprint(request: Request, **more: Any) -> str:
    """What two calls with one idempotency key must have in common."""
    return json.dumps([json.loads(request.to_json()), more], sort_keys=True)
