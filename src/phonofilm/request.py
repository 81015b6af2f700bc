"""`Request`: one description of a wish, as plain JSON that can cross a queue and be kept in a receipt.

The command line, a form and the Python call all build this object and nothing else. It checks what every
engine needs; what only one engine can do (its sizes, its lengths) is checked against that engine's capabilities.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, Literal, Self, get_args

from phonofilm.clip import FORMATS
from phonofilm.errors import InputError

Role = Literal["first", "last", "continue", "audio", "video", "mask", "reference"]
Quality = Literal["draft", "standard", "full"]
QUALITIES: Final[tuple[Quality, ...]] = get_args(Quality)
ROLES: Final[tuple[Role, ...]] = get_args(Role)
MAX_PROMPT: Final = 2000  # characters
MIN_SECONDS: Final = 0.25
MAX_SECONDS: Final = 3600.0
MAX_SIDE: Final = 8192  # pixels
MAX_SEED: Final = 2**63 - 1


@dataclass(frozen=True)
class Condition:
    """Media that are given: by `path`, or by `digest` ("sha256:…") where they were uploaded; never as arrays.

    role: "first" or "last" (an image), "continue" (a clip that goes on), "audio" (a soundtrack), "video" (a picture
    track to be given sound; with strength below 1, to be changed), "mask" (a picture that tells which part of "video"
    is made anew: where it is opaque or, if all of it is, bright; the rest stays exactly),
    "reference" (an image of who or what is to be seen; as many as one likes).
    strength: 0..1, how far the media bind; 1 takes them as they are. Of a mask: how far its part is made anew.
    """

    role: Role
    path: str | None = None
    digest: str | None = None
    strength: float = 1.0

    def __post_init__(self) -> None:
        _one_of("role of a condition", self.role, ROLES)
        _media(f"condition {self.role!r}", self.path, self.digest)
        _number("strength", self.strength, 0.0, 1.0)


@dataclass(frozen=True)
class Adapter:
    """Weights that change a model, by path or digest, and how much of them (strength, -2..2)."""

    path: str | None = None
    digest: str | None = None
    strength: float = 1.0

    def __post_init__(self) -> None:
        _media("an adapter", self.path, self.digest)
        _number("strength", self.strength, -2.0, 2.0)


@dataclass(frozen=True)
class Request:
    """A wish. None leaves the choice to the engine.

    prompt: what is seen and heard, 1..2000 characters. negative_prompt: what is not wanted, 0..2000 characters.
    model: the engine. seconds: length, from 0.25. picture: one frame without sound instead of a film.
    size: "square", "portrait", "landscape" or "WIDTHxHEIGHT" in pixels. fps: frames per second, 1..240.
    seed: 0..2⁶³-1, the same seed makes the same clip. steps: of the sampler, 1..1000. guidance: 0..100, 1 is none.
    sampler: its name. best_of: how many to make, of which the best match is kept, 1..64.
    match_guidance: weight of the matcher's gradient in each step, 0..100, 0 is none.
    quality: "draft", "standard" or "full": how much work it may cost, where `steps` does not say.
    """

    prompt: str
    negative_prompt: str = ""
    model: str = "native"
    seconds: float = 3.0
    size: str = "square"
    picture: bool = False
    fps: float | None = None
    seed: int = 0
    steps: int | None = None
    guidance: float | None = None
    sampler: str | None = None
    best_of: int = 1
    match_guidance: float = 0.0
    quality: Quality = "full"
    conditions: tuple[Condition, ...] = ()
    adapters: tuple[Adapter, ...] = ()

    def __post_init__(self) -> None:
        _text("prompt", self.prompt, 1)
        _text("negative_prompt", self.negative_prompt, 0)
        _model(self.model)
        _number("seconds", self.seconds, MIN_SECONDS, MAX_SECONDS)
        pixels(self.size)
        if not isinstance(self.picture, bool):
            raise InputError(f"picture must be true or false, got {self.picture!r}")
        _number("fps", self.fps, 1, 240, optional=True)
        _integer("seed", self.seed, 0, MAX_SEED)
        _integer("steps", self.steps, 1, 1000, optional=True)
        _number("guidance", self.guidance, 0, 100, optional=True)
        if self.sampler is not None:
            _name("sampler", self.sampler)
        _integer("best_of", self.best_of, 1, 64)
        _number("match_guidance", self.match_guidance, 0, 100)
        _one_of("quality", self.quality, QUALITIES)
        for name, kind in (("conditions", Condition), ("adapters", Adapter)):
            items = getattr(self, name)
            if not isinstance(items, tuple | list) or not all(isinstance(item, kind) for item in items):
                raise InputError(f"{name} must be a sequence of {kind.__name__}, got {items!r}")
            object.__setattr__(self, name, tuple(items))
        roles = [condition.role for condition in self.conditions]
        for role in roles:
            if roles.count(role) > 1 and role != "reference":
                raise InputError(f"at most one condition of each role is allowed, got {roles.count(role)} of {role!r}")
        if "mask" in roles and not any(item.role == "video" and item.strength == 1 for item in self.conditions):
            raise InputError("mask needs a clip beside it, whose other parts stay: a condition 'video' of strength 1")

    @property
    def pixels(self) -> tuple[int, int]:
        """(width, height)."""
        return pixels(self.size)

    def to_json(self) -> str:
        """One line of JSON that `from_json` turns into an equal request."""
        return json.dumps(asdict(self), ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, source: str | bytes | Mapping[str, Any]) -> Self:
        """Build a request from JSON text or a parsed object. Raises InputError that names what is wrong."""
        if isinstance(source, str | bytes):
            try:
                source = json.loads(source)
            except (ValueError, RecursionError) as error:
                raise InputError(f"the request is not JSON: {error}") from error
        given = _object(cls, source, "the request")
        for name, kind in (("conditions", Condition), ("adapters", Adapter)):
            items = given.get(name, ())
            if not isinstance(items, list | tuple):
                raise InputError(f"{name} must be a list, got {items!r}")
            given[name] = tuple(kind(**_object(kind, item, f"an item of {name}")) for item in items)
        return cls(**given)


def pixels(size: str) -> tuple[int, int]:
    """(width, height) in pixels of "square", "portrait", "landscape" or "WIDTHxHEIGHT"."""
    if isinstance(size, str):
        if size in FORMATS:
            return FORMATS[size]
        found = re.fullmatch(r"([0-9]{1,5})[x×]([0-9]{1,5})", size)
        if found and all(1 <= int(side) <= MAX_SIDE for side in found.groups()):
            return int(found[1]), int(found[2])
    raise InputError(f"size must be one of {', '.join(FORMATS)} or WIDTHxHEIGHT (sides 1..{MAX_SIDE}), got {size!r}")


def _object(cls: type[Any], source: Any, what: str) -> dict[str, Any]:
    if not isinstance(source, Mapping):
        raise InputError(f"{what} must be a JSON object, got {_short(source)}")
    allowed = [item.name for item in fields(cls)]
    if unknown := [key for key in source if key not in allowed]:
        raise InputError(f"{what} has an unknown field {unknown[0]!r}; allowed are {', '.join(allowed)}")
    needed = "prompt" if cls is Request else "role" if cls is Condition else None
    if needed and needed not in source:
        raise InputError(f"{what} lacks the field {needed!r}")
    return dict(source)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _text(name: str, value: object, least: int) -> None:
    if not isinstance(value, str):
        raise InputError(f"{name} must be text, got {_short(value)}")
    if least and not value.strip():
        raise InputError(f"{name} must be {least}..{MAX_PROMPT} characters that say something, got {_short(value)}")
    if len(value) > MAX_PROMPT:
        raise InputError(f"{name} must be at most {MAX_PROMPT} characters, got {len(value)}")
    if bad := next((c for c in value if (c < " " and c not in "\n\r\t") or "\ud800" <= c <= "\udfff"), None):
        raise InputError(f"{name} must be plain text, got the character {bad!r}")


def _name(name: str, value: object) -> None:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,99}", value):
        raise InputError(f"{name} must be a short name of letters, digits and . _ / -, got {_short(value)}")


def _model(value: object) -> None:
    """An engine's name, ORG/NAME, or a folder."""
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9~./\\][^\x00-\x1f\x7f]{0,254}", value):
        raise InputError(f"model must be a name, ORG/NAME or a folder, got {_short(value)}")


def _one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise InputError(f"{name} must be one of {', '.join(allowed)}, got {_short(value)}")


def _number(name: str, value: object, low: float, high: float, *, optional: bool = False) -> None:
    if optional and value is None:
        return
    finite = not isinstance(value, float) or math.isfinite(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not finite:
        raise InputError(f"{name} must be a number {low:g}..{high:g}, got {_short(value)}")
    if not low <= value <= high:
        raise InputError(f"{name} must be {low:g}..{high:g}, got {_short(value)}")


def _integer(name: str, value: object, low: int, high: int, *, optional: bool = False) -> None:
    if optional and value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InputError(f"{name} must be a whole number {low}..{high}, got {_short(value)}")


def _media(what: str, path: object, digest: object) -> None:
    if (path is None) == (digest is None):
        raise InputError(f"{what} needs either a path or a digest")
    if path is not None and (not isinstance(path, str) or not path or "\0" in path):
        raise InputError(f"{what}: path must be a file name, got {_short(path)}")
    if digest is not None and not (isinstance(digest, str) and re.fullmatch(r"sha256:[0-9a-f]{64}", digest)):
        raise InputError(f"{what}: digest must be sha256: and 64 hex digits, got {_short(digest)}")
