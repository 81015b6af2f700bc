"""The operator's say on prompts and uploads: a list of words, or a function of his own."""

from __future__ import annotations

import importlib
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from phonofilm.errors import InputError
from phonofilm.jobs import schema
from phonofilm.jobs.job import new_id
from phonofilm.jobs.store import Store
from phonofilm.serve.errors import ApiError

Hook = Callable[[str, Path | None], str | None]
"""`hook(text, upload)`: None lets it pass, text says why not. Called for prompts (upload None) and uploads."""
SHOWN: Final = 200  # characters of a refused prompt that the abuse log keeps


class Policy:
    """Asks the hook, and logs refusals."""

    def __init__(self, store: Store, hook: Hook | None = None) -> None:
        self.store, self.hook = store, hook

    def check(self, text: str, owner: str, upload: Path | None = None, what: str = "prompt") -> None:
        """Raises ApiError 400 `content_policy` for what the operator does not want."""
        why = self.hook(text, upload) if self.hook is not None else None
        if why is None:
            return
        data = {"why": why, "text": text[:SHOWN]}
        row = {"id": new_id("evt"), "owner": owner, "type": "refused", "created_at": time.time(), "data": data}
        with self.store.writing() as c:
            c.execute(sa.insert(schema.events).values(row))
        raise ApiError(400, "content_policy", f"refused by this server's policy: {why}", param=what)


def load_hook(what: str | None) -> Hook | None:
    """From `module:function`, or from a file of words and phrases, one a line. Raises InputError."""
    if what is None:
        return None
    module, colon, name = what.partition(":")
    if colon and not Path(what).exists():
        try:
            hook: Hook = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise InputError(f"the policy {what!r} cannot be loaded: {error}") from None
        return hook
    try:
        lines = Path(what).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        raise InputError(f"the policy {what!r} cannot be read: {error}") from None
    words = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    return words_hook(words)


def words_hook(words: list[str]) -> Hook:
    """Refuses text that has one of the words or phrases in it, as whole words, whatever their case."""
    found = re.compile(r"(?<!\w)(" + "|".join(re.escape(word) for word in words) + r")(?!\w)", re.IGNORECASE)

    def hook(text: str, _: Path | None) -> str | None:
        match = found.search(text) if words else None
        return f"it has the word {match[0]!r}" if match else None

    return hook
