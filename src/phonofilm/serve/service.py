"""What the doors of the server have in common: wishes in, jobs out, and whose they are."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

from phonofilm.engines import capabilities
from phonofilm.jobs.job import Job, Kind
from phonofilm.jobs.retention import keep_upload, known_upload
from phonofilm.jobs.storage import Storage, upload_name
from phonofilm.jobs.store import Store
from phonofilm.request import Condition
from phonofilm.request import Request as Wish
from phonofilm.serve.access import Caller
from phonofilm.serve.config import Config
from phonofilm.serve.content import gone
from phonofilm.serve.errors import ApiError, not_found
from phonofilm.serve.fetch import Fetcher
from phonofilm.serve.forms import number, text, whole
from phonofilm.serve.policy import Hook, Policy
from phonofilm.serve.uploads import Uploads

ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")  # what may be an id at all: PostgreSQL takes no text with NUL in it
EDIT_STRENGTH: Final = 0.3  # how far the picture of an edited film binds


class Service:
    """One server's jobs. Every method takes or knows the caller: nobody reaches what is another's."""

    def __init__(self, config: Config, hook: Hook | None = None) -> None:
        self.config = config
        self.store = Store(config.database_url, keep_seconds=config.keep_seconds)
        self.storage = Storage(config.storage)
        fetch = Fetcher(config.image_hosts, config.upload.file_bytes)
        self.policy = Policy(self.store, hook)
        self.stopping = threading.Event()  # set when the server is told to stop: streams end themselves then
        self.uploads = Uploads(self.store, self.storage, config.upload, fetch, self.policy)

    def close(self) -> None:
        self.store.close()

    @staticmethod
    def now() -> float:
        return time.time()

    def wish(self, given: Mapping[str, Any], conditions: tuple[Condition, ...] = ()) -> Wish:
        """A request from the fields of a body. Raises InputError, also for what the model cannot do."""
        values: dict[str, Any] = {"prompt": text(given, "prompt") or "", "conditions": conditions}
        values["model"] = text(given, "model") or self.config.model
        for name, read in (
            ("negative_prompt", text), ("size", text), ("sampler", text), ("seconds", number), ("guidance", number),
            ("match_guidance", number), ("quality", text), ("seed", whole), ("steps", whole), ("best_of", whole),
        ):  # fmt: skip
            value = read(given, name)
            if value not in (None, ""):
                values[name] = value
        return self.checked(Wish(**values))

    def checked(self, wish: Wish) -> Wish:
        """The wish, if this server and its model can do it. Raises InputError or ApiError that says what they can."""
        if wish.model not in self.config.models:
            told = f"model must be one of {', '.join(self.config.models)}, got {wish.model!r}"
            raise ApiError(400, "model_not_found", told, param="model")
        capabilities(wish.model).check(wish)
        return wish

    def add(
        self,
        wish: Wish,
        who: Caller,
        *,
        kind: Kind = "create",
        source: str | None = None,
        priority: int = 0,
        idempotency: str | None = None,
    ) -> Job:
        """Accept a wish. Raises ApiError and JobError; see `Store.add`."""
        for words in (wish.prompt, wish.negative_prompt):
            if words:
                self.policy.check(words, who.owner)
        return self.store.add(
            wish, who.owner, kind=kind, source=source, priority=priority, idempotency=idempotency, limits=who.limits
        )

    def remix(self, id: str, prompt: str, who: Caller, idempotency: str | None = None) -> Job:
        """The same noise, size and length under another prompt. Raises as `completed`, `checked` and `add`."""
        wish = self.checked(dataclasses.replace(self.completed(id, who).request, prompt=prompt))
        return self.add(wish, who, kind="remix", source=id, idempotency=idempotency)

    def change(
        self,
        kind: Literal["edit", "extension"],
        given: Mapping[str, Any],
        digest: str,
        source: Job | None,
        who: Caller,
        idempotency: str | None = None,
        *,
        mask: str | None = None,
    ) -> Job:
        """Edit or extend an upload, which may be the film of a job. Raises as `wish` and `add`.

        mask: the digest of a picture that tells what alone is edited.
        """
        edit = kind == "edit"
        strength = EDIT_STRENGTH if edit and mask is None else 1.0
        conditions = [Condition("video" if edit else "continue", digest=digest, strength=strength)]
        if mask is not None:
            conditions.append(Condition("mask", digest=mask))
        like: dict[str, Any] = {}
        if source is not None:
            like = {"size": source.request.size, "model": source.request.model}
            if edit:
                like["seconds"] = source.request.seconds
        wish = self.wish({**like, **given}, tuple(conditions))
        priority, origin = whole(given, "priority") or 0, source.id if source else None
        return self.add(wish, who, kind=kind, source=origin, priority=priority, idempotency=idempotency)

    def job(self, id: str, who: Caller) -> Job:
        """A job of the caller. Raises ApiError 404 for all others, whether they exist or not."""
        job = self.store.get(id, who.owner) if ID.fullmatch(id) else None
        if job is None:
            raise not_found("video", id)
        return job

    def completed(self, id: str, who: Caller) -> Job:
        """A film of the caller that is there. Raises ApiError 404, or 409 if it is not made yet, or failed."""
        job = self.job(id, who)
        if job.status != "completed":
            raise ApiError(409, "not_completed", f"{id} is {job.status.replace('_', ' ')}")
        return job

    def delete(self, id: str) -> None:
        """Forget a job and its files. Raises JobError "in_progress" while it runs."""
        if self.store.end(id) is not None:
            self.storage.remove(f"films/{id}")  # before the row: what a crash leaves can be deleted again
            self.store.forget(id)

    def as_upload(self, job: Job) -> str:
        """The film of a job as one of its owner's uploads: its digest. Raises ApiError 404 if it is gone meanwhile."""
        with tempfile.TemporaryDirectory(prefix="phonofilm.") as folder:
            try:
                path = self.storage.fetch(job.files["video"], Path(folder) / "film")
            except FileNotFoundError:
                raise gone() from None
            with path.open("rb") as file:
                digest = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
            known_upload(self.store, job.owner, digest)
            self.storage.put(path, upload_name(job.owner, digest))
            keep_upload(self.store, job.owner, digest, "video", path.stat().st_size)
        return digest
