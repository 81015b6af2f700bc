"""Requests: what goes through JSON comes back equal, and what is wrong is named."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phonofilm.errors import InputError
from phonofilm.request import MAX_PROMPT, ROLES, Adapter, Condition, Request, pixels

DIGEST = "sha256:" + "0123456789abcdef" * 4
text = st.text(st.characters(exclude_categories=["C"]), min_size=1, max_size=50).filter(str.strip)
conditions = st.builds(
    lambda role, where, strength: Condition(role, strength=strength, **where),
    st.sampled_from(ROLES),
    st.sampled_from([{"path": "a b.mp4"}, {"digest": DIGEST}]),
    st.floats(0, 1),
)


def whole(given):
    """A mask has its clip."""
    roles = {condition.role: condition.strength for condition in given}
    return "mask" not in roles or roles.get("video") == 1


requests = st.builds(
    Request,
    prompt=text,
    negative_prompt=text,
    seconds=st.floats(0.25, 60),
    size=st.sampled_from(["square", "portrait", "landscape", "640x360"]),
    picture=st.booleans(),
    fps=st.none() | st.floats(1, 240),
    seed=st.integers(0, 2**63 - 1),
    steps=st.none() | st.integers(1, 1000),
    guidance=st.none() | st.floats(0, 100),
    sampler=st.none() | st.just("heun"),
    best_of=st.integers(1, 64),
    match_guidance=st.floats(0, 100),
    conditions=st.lists(conditions, max_size=3, unique_by=lambda c: c.role).filter(whole).map(tuple),
    adapters=st.lists(st.builds(Adapter, path=text, strength=st.floats(-2, 2)), max_size=2).map(tuple),
)


@given(requests)
def test_a_request_survives_json(request):
    line = request.to_json()
    assert "\n" not in line
    assert Request.from_json(line) == request
    assert Request.from_json(line.encode()) == request
    assert Request.from_json(json.loads(line)) == request
    assert hash(request) == hash(Request.from_json(line))


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"prompt": ""}, "prompt must be 1..2000"),
        ({"prompt": " \n\t "}, "prompt must be 1..2000"),
        ({"prompt": "word " * 10_000}, "at most 2000 characters, got 50000"),
        ({"prompt": 7}, "prompt must be text, got 7"),
        ({"prompt": "a\0b"}, r"character '\\x00'"),
        ({"prompt": "\ud800"}, "plain text"),
        ({"seconds": 0.1}, "seconds must be 0.25.*got 0.1"),
        ({"seconds": float("inf")}, "seconds must be a number.*inf"),
        ({"seconds": "3"}, "seconds must be a number.*'3'"),
        ({"seconds": 10**400}, "seconds must be 0.25.*got 1000"),
        ({"size": "huge"}, "square, portrait, landscape or WIDTHxHEIGHT.*'huge'"),
        ({"size": "0x100"}, "0x100"),
        ({"size": "99999x10"}, "99999x10"),
        ({"picture": 1}, "picture must be true or false, got 1"),
        ({"fps": 0}, "fps must be 1..240, got 0"),
        ({"seed": -1}, "seed must be a whole number.*-1"),
        ({"seed": 1.5}, "seed.*1.5"),
        ({"seed": True}, "seed.*True"),
        ({"steps": 0}, "steps must be a whole number 1..1000, got 0"),
        ({"guidance": -1}, "guidance must be 0..100, got -1"),
        ({"sampler": "no such; name"}, "sampler must be a short name"),
        ({"model": ""}, "model must be a name, ORG/NAME or a folder"),
        ({"best_of": 65}, "best_of.*65"),
        ({"match_guidance": None}, "match_guidance must be a number"),
        (
            {"conditions": [{"role": "middle", "path": "x"}]},
            "first, last, continue, audio, video, mask, reference, got 'middle'",
        ),
        ({"conditions": [{"role": "first"}]}, "either a path or a digest"),
        ({"conditions": [{"role": "first", "path": "x", "digest": DIGEST}]}, "either a path or a digest"),
        ({"conditions": [{"role": "first", "digest": "sha256:xyz"}]}, "64 hex digits"),
        ({"conditions": [{"role": "first", "path": "x", "strength": 2}]}, "strength must be 0..1, got 2"),
        ({"conditions": [{"path": "x"}]}, "lacks the field 'role'"),
        ({"conditions": {"role": "first"}}, "conditions must be a list"),
        ({"conditions": [{"role": "first", "path": "x"}] * 2}, "at most one condition of each role"),
        ({"conditions": [{"role": "mask", "path": "x"}]}, "mask needs a clip beside it.*'video' of strength 1"),
        (
            {"conditions": [{"role": "mask", "path": "x"}, {"role": "video", "path": "y", "strength": 0.5}]},
            "mask needs a clip beside it",
        ),
        ({"adapters": [{"file": "x"}]}, "unknown field 'file'; allowed are path, digest, strength"),
        ({"promt": "x"}, "unknown field 'promt'; allowed are prompt"),
    ],
)
def test_what_is_wrong_is_named(fields, told):
    with pytest.raises(InputError, match=told) as caught:
        Request.from_json({"prompt": "a ball", **fields})
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("source", ["{", "[]", '"a"', "{}", b"\xff"])
def test_json_that_is_no_request_is_refused(source):
    with pytest.raises(InputError, match="request"):
        Request.from_json(source)


def test_limits_are_reached():
    assert len(Request("x" * MAX_PROMPT).prompt) == MAX_PROMPT
    assert pixels("8192x1") == (8192, 1)
    assert Request("a", size="portrait").pixels == (96, 160)
