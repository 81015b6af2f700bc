"""The denoiser: what its answer depends on, and what not."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from phonofilm.diffusion.euler import Euler
from phonofilm.diffusion.noise import add_noise, strip_noise
from phonofilm.diffusion.schedule import uniform_times
from phonofilm.latents import AUDIO_CHANNELS, BOARD_CHANNELS, Geometry, patchify, unpatchify
from phonofilm.model.denoiser import Denoiser, DenoiserConfig, attend, rotate
from phonofilm.storyboard import ON, RAIN, UNREADABLE, channels, to_tokens
from phonofilm.train.throughput import can_compile

SMALL = DenoiserConfig(
    width=64, blocks=2, head=32, text_width=24, detail=16, detail_blocks=3, board_detail=16, sound_detail=16
)
STRIP = Geometry(3, 2, 3, 6, (0.0,), boards=3)


def awake(compute: torch.dtype = torch.float32) -> Denoiser:
    """A denoiser whose gates, which start at zero, are open."""
    torch.manual_seed(0)
    model = Denoiser(SMALL, compute=compute)
    with torch.no_grad():
        for p in model.parameters():
            if not p.any():
                p.normal_(std=0.1)
    return model.eval()


def question(B: int = 2, geometry: Geometry = STRIP) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    x_BND = strip_noise(range(B), geometry)
    t_BN = torch.rand(B, geometry.n, generator=draw)
    t_BN[:, geometry.extra] = 0
    return x_BND, t_BN, torch.randn(B, 5, SMALL.text_width, generator=draw)


@torch.no_grad()
def test_a_fresh_denoiser_answers_what_can_be_said_of_each_value_by_itself() -> None:
    """The linear estimate of picture, sound and storyboard; its blocks do nothing."""
    x, t, text = question()
    answer = Denoiser(SMALL, compute=torch.float32)(x, t, text, STRIP)
    gain = ((1 - t) / ((1 - t).square() + t.square()))[..., None]
    for tokens in (STRIP.video, STRIP.audio, STRIP.board):
        torch.testing.assert_close(answer[:, tokens], (x * gain)[:, tokens])
    assert not answer[:, STRIP.extra].any()
    clean = torch.randn(10_000)
    noisy = 0.7 * clean + 0.3 * torch.randn(10_000)
    fit = float((noisy * clean).sum() / noisy.square().sum())  # least squares
    assert fit == pytest.approx(0.7 / (0.7**2 + 0.3**2), abs=0.05)
    model = Denoiser(SMALL)
    stream = torch.randn(1, 7, SMALL.width)
    basis, cos, sin = torch.rand(1, 7, SMALL.rows), torch.ones(7, SMALL.head), torch.zeros(7, SMALL.head)
    assert torch.equal(model.blocks[0](stream, basis, cos, sin), stream)


@torch.no_grad()
def test_a_clip_alone_is_the_same_clip_in_a_batch() -> None:
    model, (x, t, text) = awake(), question(4)
    together = model(x, t, text, STRIP)
    alone = model(x[2:3], t[2:3], text[2:3], STRIP)
    torch.testing.assert_close(together[2:3], alone, rtol=1e-4, atol=1e-5)


def test_every_weight_learns() -> None:
    model, (x, t, text) = awake().train(), question()
    (model(x, t, text, STRIP) - x).square().mean().backward()
    claims = model.reader.tell(text, torch.ones(text.shape[:2], dtype=torch.bool))
    shown = model.reader.show(x[:, STRIP.board])
    sum(F.cross_entropy(logits, logits[:, 0].long() % 2) for logits in [*claims, *shown]).backward()
    for name, p in model.named_parameters():
        assert p.grad is not None and p.grad.any(), name


@torch.no_grad()
def test_unused_channels_neither_come_out_nor_matter() -> None:
    model, (x, t, text) = awake(), question()
    answer = model(x, t, text, STRIP)
    x = x.clone()
    for part, used in ((STRIP.audio, AUDIO_CHANNELS), (STRIP.board, BOARD_CHANNELS)):
        assert (answer[:, part, used:] == 0).all() and answer[:, part].any()
        x[:, part, used:] = 7
    torch.testing.assert_close(model(x, t, text, STRIP), answer)


@torch.no_grad()
def test_picture_sound_image_storyboard_and_text_all_see_each_other() -> None:
    model, (x, t, text) = awake(), question()
    answer = model(x, t, text, STRIP)
    made = torch.ones(STRIP.n, dtype=torch.bool)
    made[STRIP.extra] = False
    for part in (STRIP.video, STRIP.audio, STRIP.extra, STRIP.board):
        other = x.clone()
        other[:, part] *= -1
        changed = (model(other, t, text, STRIP) - answer).abs().amax(-1)
        assert (changed > 1e-6)[:, made].all(), part
    assert ((model(x, t, -text, STRIP) - answer).abs().amax(-1) > 1e-6)[:, made].all()
    assert not answer[:, STRIP.extra].any()  # what is given needs no answer


@torch.no_grad()
def test_each_token_has_its_own_noise_level() -> None:
    """With attention and convolutions closed an answer depends on the level of no other token, and does on its own.

    Two video tokens share a token of the stream; each of their levels matters by itself.
    """
    model, (x, t, text) = awake(), question()
    for block in model.blocks:
        block.out.weight.zero_()
    for block in model.detailer.blocks:
        block.down.weight.zero_()
    answer = model(x, t, text, STRIP)
    other = t.clone()
    other[:, 4] = 1 - other[:, 4]
    changed = (model(x, other, text, STRIP) - answer).abs().amax(-1) > 1e-5
    assert changed.nonzero()[:, 1].tolist() == [4, 10] * len(changed)
    swapped = t.clone()
    swapped[:, [4, 10]] = t[:, [10, 4]]
    assert (model(x, swapped, text, STRIP) - answer)[:, [4, 10]].abs().max() > 1e-5


@torch.no_grad()
def test_a_storyboard_is_drawn_on_the_picture_where_it_can_be_read() -> None:
    """With attention closed the picture knows of it by what is drawn alone."""
    model, (x, t, text) = awake(), question()
    for block in model.blocks:
        block.out.weight.zero_()
    x[:, STRIP.board] = 0
    x[:, STRIP.board, channels("seen", 0)] = 1
    x[:, STRIP.board, channels("radius", 0)] = 0.4
    for level, drawn in ((0.0, True), (0.2, True), (UNREADABLE, False), (1.0, False)):
        t[:, STRIP.board] = level
        answers = []
        for kind in (0, 1):
            x[:, STRIP.board, channels("kind", 0)] = 0
            x[:, STRIP.board, channels("kind", 0).start + kind] = 2
            answers.append(model(x, t, text, STRIP))
        assert ((answers[0] - answers[1])[:, STRIP.video].abs().max() > 1e-4) == drawn, level


@torch.no_grad()
def test_what_paints_is_told_everywhere_whether_it_rains() -> None:
    model, g = awake(), Geometry(3, 4, 4, boards=3)
    board = torch.zeros(1, g.boards, 128)
    board[..., channels("kind", 1).start + RAIN] = ON
    wet, dry = torch.zeros(1, g.n, 128), torch.zeros(1, g.n, 128)
    wet[:, g.board] = to_tokens(board)
    t = torch.full((1, g.n), 0.5)
    t[:, g.board] = 0
    for x, told in ((dry, [ON, 0.0]), (wet, [0.0, ON])):
        assert model._weather(x, t, g)[0, :, 0, 0].tolist() == [told] * g.latents
    # somebody who is not seen, so that nothing else tells of him
    assert (model.paint(wet, t, g) - model.paint(dry, t, g)).abs().amax(-1).min() > 1e-4
    unread = t.clone()
    unread[:, g.board] = UNREADABLE
    assert not model._weather(wet, unread, g).any()


def test_weights_lack_what_is_younger_than_they_are() -> None:
    older = {"width": 128, "blocks": 2, "storyboard": True}
    assert DenoiserConfig.stored(older) == DenoiserConfig(
        128, 2, sound_detail=0, stills=False, reader=0, lips=False, poses=False, weather=False
    )
    assert DenoiserConfig.stored(asdict(SMALL)) == SMALL


@torch.no_grad()
def test_beneath_a_storyboard_the_detailer_paints_by_itself() -> None:
    model, (x, t, text) = awake(), question()
    for level, alone in ((0.0, True), (0.1, False), (1.0, False)):
        t[:, STRIP.board] = level
        same = torch.equal(model(x, t, text, STRIP)[:, STRIP.video], model(x, t, -text, STRIP)[:, STRIP.video])
        assert same == alone, level
        if alone:
            torch.testing.assert_close(model(x, t, text, STRIP)[:, STRIP.video], model.paint(x, t, STRIP))


@pytest.mark.parametrize(
    ("instant", "end", "near"), [(0.0, 0, [0.5, 1.5, 2.5]), (0.5, 0, [1.5, 0.5, 0.5]), (0.75, 1, [2.5, 1.5, 0.5])]
)
@torch.no_grad()
def test_the_detailer_sees_a_given_image_the_more_the_nearer_it_is(instant: float, end: int, near: list[float]) -> None:
    model, g = awake(), Geometry(3, 2, 3, images=(instant,), boards=3)
    x, t, _ = question(1, g)
    t[:, g.board] = 0
    other, lost = x.clone(), t.clone()
    other[:, g.extra] += 1
    lost[:, g.extra] = 1
    assert not torch.equal(model.paint(other, t, g), model.paint(x, t, g))
    assert torch.equal(model.paint(other, lost, g), model.paint(x, lost, g))
    shown = model._stills(x[:, g.extra], t[:, g.extra], g)
    assert shown is not None
    ends = shown.unflatten(-1, (2, 2, 33))  # beginning and end; evenly and fading; image and 1
    assert not ends[..., 1 - end, :, :].any() and (ends[..., end, 0, -1] == 1).all()
    torch.testing.assert_close(ends[0, :, 1, 2, end, 1, -1], torch.exp(-torch.tensor(near)))
    image = unpatchify(x[:, g.extra], 2, 3)[0, :, 0].permute(1, 2, 0)
    torch.testing.assert_close(ends[0, 1, :, :, end, 0, :-1], image)


@torch.no_grad()
def test_the_detailer_sees_the_latents_around_a_latent_wherever_tokens_end() -> None:
    """Without the transformer, what a latent changes is within one latent of it for each convolution."""
    model, g = awake(), Geometry(7, 4, 3)
    model.known.weight.zero_()
    x_BND, t_BN, text_BLC = question(1, g)
    changed = unpatchify(x_BND, g.height, g.width).clone()
    assert torch.equal(patchify(changed), x_BND)
    changed[0, :, 3, 3, 2] += 1
    answers = [unpatchify(model(x, t_BN, text_BLC, g), g.height, g.width) for x in (x_BND, patchify(changed))]
    moved = (answers[0] - answers[1]).abs().amax((0, 1)) > 1e-6
    expected = torch.zeros_like(moved)
    reach = 2  # three blocks in space, of which the one in time is the second
    expected[2:5, 3 - reach : 4 + reach, 2 - reach : 3 + reach] = True
    assert torch.equal(moved, expected)


@pytest.mark.parametrize("latents", [1, 2, 3, 4])
def test_folding_loses_nothing_and_puts_tokens_where_they_are(latents: int) -> None:
    """Whatever the length, each token comes back where it was; what shares a token of the stream shares a place."""
    model, geometry = awake(), Geometry(latents, 2, 3, 2 * latents, (0.0,))
    folds = -(-latents // 2)
    x = torch.randn(2, geometry.n_video, 128)
    folded = model._fold(x, folds, geometry)
    assert folded.shape == (2, folds * 6, 256)
    assert torch.equal(model._unfold(folded, folds, geometry), x)
    places = model._places(folds, geometry)
    assert places[:6, 0].tolist() == [0.25] * 6 and torch.equal(places[:6, 1:], geometry.positions()[:6, 1:])
    assert torch.equal(places[6 * folds :], geometry.positions()[geometry.n_video :])
    assert model.stream(geometry, 5) == SMALL.registers + 5 + len(places)
    noisy, t, text = question(geometry=geometry)
    answer, half = model.look(noisy, t, text, geometry)
    assert answer.shape == noisy.shape and half.shape == (2, len(places), SMALL.width)


@torch.no_grad()
def test_an_appended_image_is_told_from_a_frame_by_its_instant_and_role() -> None:
    model, (x, t, text) = awake(), question()
    answer = model(x, t, text, STRIP)
    moved = model(x, t, text, replace(STRIP, images=(0.75,)))
    assert (moved - answer).abs().max() > 1e-5
    model.role.weight[1] = torch.randn(SMALL.width)
    assert (model(x, t, text, STRIP) - answer).abs().max() > 1e-5


@torch.no_grad()
def test_bfloat16_answers_nearly_as_float32() -> None:
    x, t, text = question()
    exact, rough = awake()(x, t, text, STRIP), awake(torch.bfloat16)(x, t, text, STRIP)
    assert rough.dtype == torch.float32
    assert (rough - exact).square().mean() < 1e-3 * exact.square().mean()
    stored = awake(torch.bfloat16).to(torch.bfloat16)
    assert (stored(x, t, text, STRIP) - exact).square().mean() < 1e-3 * exact.square().mean()


@torch.no_grad()
def test_one_set_of_weights_serves_every_geometry_and_sampler() -> None:
    model = awake()
    for g in (Geometry(1, 2, 2), Geometry(2, 3, 2, 4), Geometry(0, 2, 2, 4), Geometry(2, 1, 1, 4, (0.0, 0.5))):
        noise = strip_noise([1, 2], g)
        mask = torch.ones(2, g.n)
        mask[:, g.extra] = 0
        x = add_noise(torch.zeros_like(noise) + g.channel_mask(), noise, mask)
        made = Euler()(model.bind(torch.randn(2, 5, SMALL.text_width), g), x, mask, uniform_times(3))
        assert made.isfinite().all() and torch.equal(made[:, g.extra], x[:, g.extra])


def test_attention_is_the_standard_one() -> None:
    q, k, v = torch.randn(3, 2, 4, 9, 16).unbind(0)
    torch.testing.assert_close(attend(q, k, v), F.scaled_dot_product_attention(q, k, v, scale=1.0))


@pytest.mark.parametrize("shift", [0.25, -1.0])
def test_rotated_products_depend_on_the_distance_alone(shift: float) -> None:
    model = Denoiser(SMALL)

    def waves(positions: Tensor) -> tuple[Tensor, Tensor]:
        angle = model._angles(positions)
        return angle.cos().repeat(1, 2), torch.cat([-angle.sin(), angle.sin()], -1)

    place = STRIP.positions()
    q, k = torch.randn(2, 1, STRIP.n, 2, SMALL.head).unbind(0)

    def products(positions: Tensor) -> Tensor:
        return torch.einsum("bmhk,bnhk->bhmn", rotate(q, *waves(positions)), rotate(k, *waves(positions)))

    torch.testing.assert_close(products(place + shift), products(place), rtol=1e-3, atol=1e-3)
    assert not torch.allclose(products(place * 2), products(place), atol=1e-2)
    torch.testing.assert_close(rotate(q, *waves(place)).norm(dim=-1), q.norm(dim=-1))


def test_flops_are_those_of_the_products() -> None:
    """Against a count of the multiplications that the blocks really do, forward; backward is twice that."""
    from torch.utils.flop_counter import FlopCounterMode

    model, (x, t, text) = awake(), question()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x, t, text, STRIP)
    blocks = {name: ops for name, ops in counter.get_flop_counts().items() if re.search(r"\.blocks\.\d+$", name)}
    counted = sum(sum(ops.values()) for ops in blocks.values())
    stated = model.training_flops(2, STRIP, 5) / 3
    assert stated == pytest.approx(counted, rel=0.01)


def test_impossible_sizes_are_named() -> None:
    with pytest.raises(ValueError, match="width 100"):
        DenoiserConfig(width=100)
    with pytest.raises(ValueError, match="blocks is 0"):
        DenoiserConfig(blocks=0)
    with pytest.raises(ValueError, match="detail_blocks is -1"):
        DenoiserConfig(detail_blocks=-1)


def test_the_shipped_size_fits_its_budget() -> None:
    model = Denoiser()
    assert sum(p.numel() for p in model.parameters()) < 10.7e6
    assert math.isclose(model.block_parameters, 8 * (12 * 256**2 + 49 * 1024 + 4))


@pytest.mark.skipif(not can_compile(torch.device("cpu")), reason="there is no C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the compiler's own
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # likewise
def test_a_block_that_is_compiled_serves_any_shape() -> None:
    """In float32, whose convolution is another one uncompiled: it did not compile for shapes that are not known."""
    denoiser = awake()
    denoiser.compile_blocks(dynamic=True)
    block = denoiser.detailer.blocks[0].train()
    for shape in ((2, 4, 4, 6), (3, 3, 6, 4)):
        x, basis = torch.randn(*shape, SMALL.detail, requires_grad=True), torch.randn(*shape, SMALL.cosines)
        made = denoiser._run_block(block, x, basis)
        torch.testing.assert_close(made, awake().detailer.blocks[0](x, basis), rtol=1e-4, atol=1e-4)
        made.square().mean().backward()
        assert x.grad is not None and bool(x.grad.any())
