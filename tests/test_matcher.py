"""The matcher: what its towers see, what they overlook, and that it learns."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from phonofilm.latents import Latents, pack
from phonofilm.text.matcher import Matcher, MatcherConfig, contrastive_loss, recall_at_1
from phonofilm.text.tokenizer import train_tokenizer

COLOURS, KINDS = ("red", "blue", "green", "white"), ("ball", "box", "bell", "drum", "car", "bird", "man", "robot")
CAPTIONS = [f"a {colour} {kind} at night" for colour in COLOURS for kind in KINDS]
TOKENIZER = train_tokenizer(CAPTIONS, 320)


def tiny() -> MatcherConfig:
    return MatcherConfig(TOKENIZER.size, width=64, text_layers=1, strip_layers=1, heads=2, embedding=32)


@pytest.fixture
def matcher() -> Matcher:
    torch.manual_seed(0)
    return Matcher(tiny()).eval()


def strips(count: int, seed: int = 0) -> Latents:
    generator = torch.Generator().manual_seed(seed)
    return pack(torch.randn(count, 32, 2, 4, 4, generator=generator), torch.randn(count, 64, 4, generator=generator))


def embed(matcher: Matcher, latents: Latents, keep: Tensor | None = None, t: float = 0.0) -> Tensor:
    return matcher.embed_strip(latents.values_BND, latents.positions, latents.modality, t, keep)


def test_the_text_tower_reads_the_order_of_words(matcher: Matcher) -> None:
    texts = ["a red ball and a blue box", "a blue ball and a red box", "a red ball and a blue box"]
    one, two, same = matcher.embed_text(*TOKENIZER.encode(texts))
    assert (one - two).norm() > 1e-3 and torch.equal(one, same)


def test_padding_and_company_change_nothing(matcher: Matcher) -> None:
    short = matcher.embed_text(*TOKENIZER.encode(["a red ball"], 12))
    among = matcher.embed_text(*TOKENIZER.encode(["", "a red ball", "a white robot at night"], 48))
    torch.testing.assert_close(short[0], among[1])
    torch.testing.assert_close(among.norm(dim=-1), torch.ones(3))


def test_time_place_and_noise_level_are_seen(matcher: Matcher) -> None:
    latents = strips(1)
    plain = embed(matcher, latents)
    torch.testing.assert_close(plain.norm(dim=-1), torch.ones(1))
    for shift in torch.eye(3):
        moved = matcher.embed_strip(latents.values_BND, latents.positions + shift, latents.modality)
        assert (moved - plain).norm() > 1e-4
    backwards = matcher.embed_strip(latents.values_BND.flip(1), latents.positions.flip(0), latents.modality.flip(0))
    torch.testing.assert_close(backwards, plain)  # a set of placed tokens, in any order
    assert (embed(matcher, latents, t=0.7) - plain).norm() > 1e-4


def test_hidden_tokens_have_no_say(matcher: Matcher) -> None:
    latents = strips(2)
    keep = (latents.modality == 0).expand(2, -1)
    changed = latents.values_BND.clone()
    changed[:, latents.geometry.audio] = 99.0
    after = matcher.embed_strip(changed, latents.positions, latents.modality, 0.0, keep)
    torch.testing.assert_close(after, embed(matcher, latents, keep))
    assert (embed(matcher, latents) - after).norm() > 1e-4
    picture = slice(0, latents.geometry.n_video)
    alone = matcher.embed_strip(latents.values_BND[:, picture], latents.positions[picture], latents.modality[picture])
    torch.testing.assert_close(alone, after)


def test_unused_sound_channels_do_not_matter(matcher: Matcher) -> None:
    latents = strips(1)
    noisy = latents.values_BND + (1 - latents.geometry.channel_mask()) * 5
    torch.testing.assert_close(matcher.embed_strip(noisy, latents.positions, latents.modality), embed(matcher, latents))


def test_one_noise_level_for_all_is_the_same_as_one_a_token(matcher: Matcher) -> None:
    latents = strips(3)
    per_token = torch.full(latents.values_BND.shape[:2], 0.3)
    each = matcher.embed_strip(latents.values_BND, latents.positions, latents.modality, per_token)
    torch.testing.assert_close(each, embed(matcher, latents, t=0.3))


def test_the_gradient_of_the_score_raises_it(matcher: Matcher) -> None:
    latents = strips(4)
    text_BE = matcher.embed_text(*TOKENIZER.encode(CAPTIONS[:4]))
    x_BND = latents.values_BND.clone().requires_grad_()
    before = matcher.score(text_BE, x_BND, latents.positions, latents.modality)
    (gradient,) = torch.autograd.grad(before.sum(), x_BND)
    moved = latents.values_BND + 0.1 * gradient / gradient.flatten(1).norm(dim=1)[:, None, None]
    after = matcher.score(text_BE, moved, latents.positions, latents.modality)
    assert (after > before).all() and (before.abs() <= 1 + 1e-5).all()
    cosine = matcher.similarity(text_BE, embed(matcher, latents))
    torch.testing.assert_close(cosine.diagonal(), before)


def test_the_score_of_a_clip_does_not_depend_on_its_batch(matcher: Matcher) -> None:
    latents = strips(4)
    one = matcher.embed_strip(latents.values_BND[2:3], latents.positions, latents.modality)
    torch.testing.assert_close(one[0], embed(matcher, latents)[2])


def test_the_loss_is_symmetric_infonce() -> None:
    generator = torch.Generator().manual_seed(0)
    text, strip, wrong = torch.nn.functional.normalize(torch.randn(3, 8, 16, generator=generator), dim=-1)
    scale = torch.tensor(5.0)
    loss = contrastive_loss(text, strip, scale)
    torch.testing.assert_close(loss, contrastive_loss(strip, text, scale))
    logits = 5.0 * text @ strip.T
    by_hand = -(logits.log_softmax(1).diagonal().mean() + logits.log_softmax(0).diagonal().mean()) / 2
    torch.testing.assert_close(loss, by_hand)
    with_wrong = contrastive_loss(text, strip, scale, wrong_BKE=wrong[:, None])
    assert with_wrong > loss
    none = torch.zeros(8, 1, dtype=torch.bool)
    torch.testing.assert_close(contrastive_loss(text, strip, scale, wrong_BKE=wrong[:, None], wrong_BK=none), loss)


def test_equal_captions_are_not_held_against_each_other() -> None:
    text = torch.eye(4)[[0, 0, 1, 2]]
    same = (text @ text.T) == 1
    assert contrastive_loss(text, text, torch.tensor(100.0), same) < 1e-6
    assert contrastive_loss(text, text, torch.tensor(100.0)) > 0.3


def test_recall_counts_pairs() -> None:
    similarity = torch.eye(4)
    assert recall_at_1(similarity) == (1.0, 1.0)
    similarity[0] = torch.tensor([-1.0, 2.0, 0.0, 0.0])  # now text 0 and strip 1 prefer each other
    assert recall_at_1(similarity) == (0.75, 0.5)
    assert recall_at_1(similarity, ["same", "same", "c", "d"]) == (1.0, 1.0)


def test_it_learns_thirty_two_pairs_by_heart() -> None:
    torch.manual_seed(0)
    matcher, latents = Matcher(tiny()), strips(32)
    ids, mask = TOKENIZER.encode(CAPTIONS)
    optimizer = torch.optim.AdamW(matcher.parameters(), lr=1e-3)
    for _ in range(40):
        loss = contrastive_loss(matcher.embed_text(ids, mask), embed(matcher, latents), matcher.scale)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in matcher.strip.parameters())
    similarity = matcher.similarity(matcher.embed_text(ids, mask), embed(matcher, latents))
    assert recall_at_1(similarity) == (1.0, 1.0)
    assert loss.item() < 0.1


def test_the_shipped_size_is_small_and_its_temperature_bounded() -> None:
    matcher = Matcher(MatcherConfig(vocab=1000))
    assert 1.2e6 < sum(p.numel() for p in matcher.parameters()) < 1.9e6
    with torch.no_grad():
        matcher.log_scale.fill_(50.0)
    assert math.isclose(matcher.scale.item(), 100.0, rel_tol=1e-5)
