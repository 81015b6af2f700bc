"""Keys: known by their digest alone, useless once revoked, and counted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from phonofilm.errors import InputError
from phonofilm.jobs import keys, schema
from phonofilm.jobs.store import Limits, Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(schema.database_url(None, tmp_path)) as store:
        yield store


def test_a_key_is_found_by_its_text_and_stored_without_it(store: Store, tmp_path: Path) -> None:
    key, text = keys.create(store, "ann", Limits(seconds_a_day=60, concurrent=2))
    other, another = keys.create(store, "ben")
    assert text.startswith("pf_") and len(text) >= 3 + 32 and text != another
    assert keys.find(store, text) == key and keys.find(store, another) == other
    assert key.limits == Limits(60, 2, None)
    for wrong in (text[:-1], text + "x", text.swapcase(), "", "pf_", key.id, key.shown):
        assert keys.find(store, wrong) is None
    store.close()
    stored = b"".join(path.read_bytes() for path in tmp_path.glob("phonofilm.db*"))
    assert text.encode() not in stored and key.id.encode() in stored


def test_a_revoked_key_opens_nothing_and_stays_in_the_list(store: Store) -> None:
    key, text = keys.create(store, "ann")
    gone = keys.revoke(store, key.shown)
    assert gone.revoked_at is not None and keys.find(store, text) is None
    assert keys.revoke(store, key.id).revoked_at == gone.revoked_at  # twice changes nothing
    assert keys.every(store) == [gone]
    with pytest.raises(InputError, match="no key is called 'nobody'"):
        keys.revoke(store, "nobody")


def test_calls_of_a_minute_are_counted_for_each_owner(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [6000.0]
    monkeypatch.setattr("phonofilm.jobs.keys.time.time", lambda: now[0])
    assert [keys.count_call(store, "ann", 3) for _ in range(5)] == [True, True, True, False, False]
    assert keys.count_call(store, "ben", 3) and keys.count_call(store, "eve", None)
    now[0] += 60
    assert keys.count_call(store, "ann", 3)


def test_impossible_keys_are_refused(store: Store) -> None:
    for name, limits in ((" ", None), ("x" * 101, None), ("a", Limits(concurrent=0)), ("a", Limits(seconds_a_day=-1))):
        with pytest.raises(InputError):
            keys.create(store, name, limits)
