"""Tokenizer and text encoder: every string goes in and comes out, and padding means nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from phonofilm.text.encoder import TextEncoder, TextEncoderConfig, drop_text
from phonofilm.text.tokenizer import CLOSE, MAX_LENGTH, OPEN, PAD, START, Tokenizer, train_tokenizer
from phonofilm.text.words import known_words, normalise, spoken_words, unknown_words

CAPTIONS = [
    f'a {colour} {kind} {act} {where}, and a woman says "{word}"'
    for colour in ("red", "crimson", "blue", "yellow")
    for kind in ("ball", "box", "bell")
    for act in ("bounces twice", "rolls slowly from the left")
    for where in ("on a wooden floor", "at night")
    for word in ("hello", "moon")
]
TOKENIZER = train_tokenizer(CAPTIONS, 400)
texts = st.text(max_size=60) | st.text(alphabet="ab c\"'“”’ .", max_size=20)


@given(texts)
@example('a man says "hello" and “good bye”')
@example("don't 'stop' it's")
@example("<pad> Ġ \x00 ÄİŞ ™ 日本 🎬")
def test_any_text_comes_back(text: str) -> None:
    ids = TOKENIZER.ids(text)
    assert TOKENIZER.decode(ids) == normalise(text)
    assert max(ids) < TOKENIZER.size and min(ids) >= START
    assert TOKENIZER.ids(TOKENIZER.decode(ids)) == ids


@given(texts, texts)
def test_different_texts_have_different_ids(one: str, two: str) -> None:
    assert (TOKENIZER.ids(one) == TOKENIZER.ids(two)) == (normalise(one) == normalise(two))


@given(st.text(alphabet=st.characters(), max_size=10))
def test_lone_surrogates_are_no_obstacle(text: str) -> None:
    assert TOKENIZER.ids(text + "\ud800")[0] == START


def test_case_space_and_quote_style_do_not_matter() -> None:
    plain = TOKENIZER.ids('a woman says "hello" softly')
    for text in ("A  Woman SAYS “Hello” softly ", "a woman says 'hello' softly", 'a woman says "hello"  softly\n'):
        assert TOKENIZER.ids(text) == plain
    assert spoken_words("she says 'hello', he says “good  bye”; don't") == ["hello", "good bye"]
    assert spoken_words('a 6" ball') == []


def test_speech_is_spelled_and_prose_is_not() -> None:
    ids = TOKENIZER.ids('says "hello"')
    said = ids[ids.index(OPEN) + 1 : ids.index(CLOSE)]
    assert len(said) == 5 and said[2] == said[3]
    assert len(TOKENIZER.ids("a crimson ball bounces twice")) == 1 + 5
    assert TOKENIZER.ids("ball")[1] == TOKENIZER.ids("a ball")[2]


def test_encode_pads_cuts_and_marks() -> None:
    ids_BL, mask_BL = TOKENIZER.encode(["", "a red ball", "ball " * 10_000], max_length=16)
    assert ids_BL.shape == (3, 16) and ids_BL.dtype == torch.int64
    assert ids_BL[0].tolist() == [START] + [PAD] * 15 and mask_BL.sum(1).tolist() == [1, 4, 16]
    assert TOKENIZER.decode(ids_BL[1].tolist()) == "a red ball"
    with pytest.raises(ValueError, match="0"):
        TOKENIZER.encode(["a"], max_length=0)


def test_unknown_words_are_named_once() -> None:
    assert TOKENIZER.unknown_words('A Crimson unicorn, a unicorn says "hello" and "blorp"') == ["unicorn", '"blorp"']
    assert TOKENIZER.unknown_words("") == []


def test_a_saved_tokenizer_is_the_same(tmp_path: Path) -> None:
    TOKENIZER.save(tmp_path / "tokenizer.json")
    loaded = Tokenizer.load(tmp_path / "tokenizer.json")
    text = 'a Müller says "Grüß Gott" on wooden floors'
    assert loaded.ids(text) == TOKENIZER.ids(text) and loaded.size == TOKENIZER.size
    assert loaded.unknown_words(text) == TOKENIZER.unknown_words(text)
    assert unknown_words(text, *known_words(tmp_path / "tokenizer.json")) == ["müller", '"grüß gott"', "floors"]
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.json"]


def test_words_are_looked_up_without_torch(python: Callable[..., CompletedProcess[str]]) -> None:
    done = python("import phonofilm.text.words, phonofilm.playhouse.captions; assert 'torch' not in sys.modules")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"bpe": {}, "words": [], "sayings": []}'])
def test_a_file_that_is_no_tokenizer_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "t.json").write_text(content)
    with pytest.raises(ValueError, match=r"t\.json is not a tokenizer"):
        Tokenizer.load(tmp_path / "t.json")


def test_too_small_a_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match=r"259.*260"):
        train_tokenizer(CAPTIONS, 259)


@pytest.fixture
def encoder() -> TextEncoder:
    torch.manual_seed(0)
    return TextEncoder(TextEncoderConfig(TOKENIZER.size, width=64, layers=2, heads=2)).eval()


def test_padding_changes_nothing(encoder: TextEncoder) -> None:
    prompts = ["a red ball", "a blue bell rings at night", ""]
    short, mask = TOKENIZER.encode(prompts, 16)
    text_BLC = encoder(short, mask)
    longer, longer_mask = TOKENIZER.encode(prompts, 48)
    longer_BLC = encoder(longer, longer_mask)
    torch.testing.assert_close(text_BLC[mask], longer_BLC[longer_mask])
    assert torch.equal(longer_BLC[~longer_mask], encoder.pad.expand(int((~longer_mask).sum()), -1))
    alone = encoder(*TOKENIZER.encode(prompts[:1], 16))
    torch.testing.assert_close(alone[0], text_BLC[0])


def test_every_word_and_its_place_reach_every_token(encoder: TextEncoder) -> None:
    told = encoder(*TOKENIZER.encode(["a red ball and a blue box", "a blue ball and a red box"], 16))
    moved = (told[0] - told[1]).norm(dim=-1)
    assert (moved[: len(TOKENIZER.ids("a red ball and a blue box"))] > 1e-3).all()


def test_gradients_reach_all_weights(encoder: TextEncoder) -> None:
    encoder(*TOKENIZER.encode(["a red ball"], 16)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())


def test_too_many_tokens_are_refused(encoder: TextEncoder) -> None:
    with pytest.raises(ValueError, match=r"49.*48"):
        encoder(*TOKENIZER.encode(["a"], 49))


def test_dropped_text_is_the_empty_prompt() -> None:
    ids, mask = TOKENIZER.encode(["a red ball", "a bell", "rain"])
    dropped_ids, dropped_mask = drop_text(ids, mask, torch.tensor([True, False, True]))
    wanted_ids, wanted_mask = TOKENIZER.encode(["", "a bell", ""])
    assert torch.equal(dropped_ids, wanted_ids) and torch.equal(dropped_mask, wanted_mask)


def test_warm_start_copies_or_refuses(encoder: TextEncoder) -> None:
    other = TextEncoder(encoder.config).eval()
    other.warm_start(encoder)
    prompt = TOKENIZER.encode(["a red ball"])
    assert torch.equal(other(*prompt), encoder(*prompt))
    with pytest.raises(ValueError, match="width=32"):
        TextEncoder(TextEncoderConfig(TOKENIZER.size, width=32, heads=2)).warm_start(encoder)


def test_what_is_too_long_to_be_read_is_known() -> None:
    assert TOKENIZER.unread("a red ball bounces") == ""
    text = "a red ball bounces on a wooden floor " * 12 + "and a bell rings"
    unread = TOKENIZER.unread(text)
    assert unread.endswith("and a bell rings") and len(TOKENIZER.ids(text)) > MAX_LENGTH
    read = TOKENIZER.decode(TOKENIZER.ids(text)[:MAX_LENGTH])
    assert (read + unread).replace(" ", "") == text.replace(" ", "")


def test_what_is_not_read_of_speech_is_told_as_speech() -> None:
    said = "tomorrow and tomorrow and tomorrow, creeps in this petty pace from day to day"
    unread = TOKENIZER.unread(f'a woman says "{said}" at night on a wooden floor')
    assert unread.endswith('day to day" at night on a wooden floor') and unread.count('"') == 2
