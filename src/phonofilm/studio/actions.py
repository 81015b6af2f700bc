"""What the studio does when somebody types, clicks or waits. Every call goes to `Service` as the caller of the API."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from phonofilm.engines import capabilities
from phonofilm.errors import InputError, PhonofilmError
from phonofilm.jobs import Job
from phonofilm.jobs.retention import known_upload
from phonofilm.request import Condition, Role
from phonofilm.serve.access import Caller, count
from phonofilm.serve.errors import ApiError
from phonofilm.serve.service import Service
from phonofilm.serve.uploads import Kind
from phonofilm.studio import panels
from phonofilm.text.words import known_words, unknown_words

PAGE: Final = 12  # films of the history that are shown at first, and added by "more"
MOST: Final = 50  # films of the queue that are shown
BUSY_SECONDS, IDLE_SECONDS = 0.7, 6.0  # between looks at the jobs
MEDIA: Final[dict[str, tuple[Kind, ...]]] = {
    "first": ("image",), "last": ("image",), "media": ("audio", "video"), "mask": ("image",),
}  # fmt: skip
"""Places where media are put in, and the kinds that each takes."""
IMAGES: Final[dict[str, Role]] = {"first": "first", "last": "last", "mask": "mask"}
"""The conditions that images become, by place."""
USES: Final[dict[str, tuple[Role, tuple[Kind, ...]]]] = {
    "its sound": ("audio", ("audio", "video")), "its picture": ("video", ("video",)),
    "its end, to go on from": ("continue", ("video",)),
}  # fmt: skip
"""What may be taken of a sound or clip: the condition, and the kinds of file that have it."""

Shown = dict[str, str]  # digests of the panels that a page shows, so that only what changed is sent
Wish = dict[str, Any]  # the fields of the form


class Actions:
    """One server's. Nothing is kept here between calls: pages hold what they show, the database holds the rest."""

    def __init__(self, service: Service) -> None:
        self.it = service

    # --- looking ----------------------------------------------------------------------------------------------------
    def look(self, who: Caller, chosen: str, many: int, shown: str) -> tuple[dict[str, str | None], str, float]:
        """The panels (None: as it is shown already), what is shown now, and the seconds until the next look."""
        store = self.it.store
        many = min(max(many, PAGE), 20 * PAGE)
        open_ = sorted(store.jobs_of(who.owner, limit=MOST, ended=False), key=_place)
        ended = store.jobs_of(who.owner, limit=many + 1, ended=True)
        job = store.get(chosen, who.owner) if chosen else None
        job = job or next(iter(open_), None) or next(iter(ended), None)
        preview = store.last_preview(job.id) if job is not None and job.status == "in_progress" else None
        ahead = next((k for k, other in enumerate(open_) if job is not None and other.id == job.id), 0)
        id = job.id if job is not None else ""
        now = {
            "stage": panels.stage(job, preview[1] if preview else None, ahead),
            "queue": panels.queue([one for one in open_ if len(open_) > 1 or one.id != id], id),
            "history": panels.history(ended[:many], id, len(ended) > many),
        }
        digests = {name: hashlib.sha256(html.encode()).hexdigest()[:16] for name, html in now.items()}
        before = _object(shown)
        changed = {name: html if digests[name] != before.get(name) else None for name, html in now.items()}
        return changed, json.dumps(digests), BUSY_SECONDS if open_ else IDLE_SECONDS

    def hints(self, prompt: str) -> str:
        """Words of a prompt that the model never saw, but for one that is being typed; nothing if that is not known."""
        folder = self.it.config.weights or Path(__file__).parents[1] / "weights"
        try:
            words, sayings = known_words(folder / "tokenizer.json")
        except (OSError, ValueError, KeyError):
            return ""
        unknown = unknown_words(prompt, words, sayings)
        if unknown and prompt.lower().endswith(unknown[-1]) and any(word.startswith(unknown[-1]) for word in words):
            unknown.pop()
        return panels.hints(prompt, unknown)

    # --- doing ------------------------------------------------------------------------------------------------------
    def make(self, who: Caller, form: Wish, media: str, mode: str) -> Job:
        """A film as the form says: a new one, or a remix or an extension of the one that `mode` names.

        Raises PhonofilmError or ApiError as the API does.
        """
        count(self.it.store, who)
        how, _, id = mode.partition(":")
        if how == "remix":
            return self.it.remix(id, str(form.get("prompt") or ""), who)
        if form.get("seed") in (None, ""):
            form = {**form, "seed": random.SystemRandom().randrange(1_000_000)}
        if how == "extend":
            source = self.it.completed(id, who)
            given: Wish = {
                name: form[name] for name in ("prompt", "seconds", "seed", "negative_prompt") if name in form
            }
            return self.it.change("extension", given, self.it.as_upload(source), source, who)
        return self.it.add(self.it.wish(form, self._conditions(who, media)), who)

    def _conditions(self, who: Caller, media: str) -> tuple[Condition, ...]:
        """What was put into the form, by the digests that uploading gave; others' digests are nobody's."""
        found, given = [], _object(media)
        for place, kinds in MEDIA.items():
            digest = given.get(place)
            if not digest:
                continue
            kind = known_upload(self.it.store, who.owner, str(digest))
            use = USES.get(str(given.get("use")), USES["its sound"])
            role, kinds = use if place == "media" else (IMAGES[place], kinds)
            if kind not in kinds:
                raise InputError(f"{place} must be {' or '.join(kinds)}, got {kind or 'nothing that is kept here'}")
            found.append(Condition(role, digest=str(digest)))
        return tuple(found)

    def act(self, who: Caller, act: str, id: str) -> str | None:
        """A button of a film. Returns the film to look at now, None for the same one."""
        job, store = self.it.job(id, who), self.it.store
        if act != "show":
            count(store, who)
        simple: dict[str, Callable[[], object]] = {
            "cancel": lambda: store.cancel(id),
            "pause": lambda: store.hold(id, True),
            "resume": lambda: store.hold(id, False),
            "first": lambda: store.move(id, min(10, self._edge(who, id, max) + 1)),
            "later": lambda: store.move(id, max(-10, self._edge(who, id, min) - 1)),
        }
        if act in simple:
            simple[act]()
        elif act == "delete":
            self.it.delete(id)
            return ""
        elif act == "again":
            return self.it.add(self.it.checked(replace(job.request)), who, kind=job.kind, source=job.source).id
        return id if act == "show" else None

    def _edge(self, who: Caller, id: str, of: Callable[..., int]) -> int:
        """The highest or lowest priority of the caller's other films that wait."""
        jobs = self.it.store.jobs_of(who.owner, limit=MOST, ended=False)
        return of((job.priority for job in jobs if job.status == "queued" and job.id != id), default=0)

    def source(self, who: Caller, id: str) -> Job:
        """A film to be remixed or extended. Raises ApiError."""
        return self.it.completed(id, who)

    # --- facts ------------------------------------------------------------------------------------------------------
    @property
    def able(self) -> Any:
        """What the model of this server can do."""
        return capabilities(self.it.config.model)

    @staticmethod
    def signer() -> str | None:
        """Who signs films made on this machine, if that is known by now."""
        from phonofilm.provenance import Identity

        try:
            identity = Identity.known()
        except PhonofilmError:
            return None
        return identity.name if identity is not None else None


def told(error: Exception) -> str:
    """An error as one line for people. Raises it again if it is none of those that are meant for them."""
    if isinstance(error, PhonofilmError | ApiError):
        return str(error)
    raise error


def _place(job: Job) -> tuple[object, ...]:
    """Where a film stands among those that are open: what runs first, what is paused last."""
    return (job.status != "in_progress", job.held, -job.priority, job.created_at)


def _object(text: str) -> Mapping[str, Any]:
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
