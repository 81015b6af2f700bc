"""The diffusion maths on a problem whose solution is known: clean data that is normally distributed."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from phonofilm.diffusion.adams import Adams
from phonofilm.diffusion.euler import Euler
from phonofilm.diffusion.guidance import ClassifierFree, MatchGuidance, TrackGuidance, storyboard_guidance
from phonofilm.diffusion.heun import Heun
from phonofilm.diffusion.noise import add_noise, strip_noise
from phonofilm.diffusion.sampler import Progress, Sampler
from phonofilm.diffusion.schedule import draw_times, shifted_times, uniform_times
from phonofilm.latents import AUDIO_CHANNELS, Geometry
from phonofilm.storyboard import ON, RAIN, channels, to_tokens

MEAN, DEVIATION = 0.7, 0.4  # of the clean data


def deviation_at(t: Tensor) -> Tensor:
    return ((1 - t) ** 2 * DEVIATION**2 + t**2).sqrt()


def ideal(x_BND: Tensor, t_BN: Tensor) -> Tensor:
    """E[x0 | x_t] for normal data."""
    t = t_BN[..., None]
    gain = (1 - t) * DEVIATION**2 / deviation_at(t) ** 2
    return MEAN + gain * (x_BND - (1 - t) * MEAN)


def flow(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """Exact solution of the flow from t to s."""
    return (1 - s) * MEAN + (x - (1 - t) * MEAN) * deviation_at(s) / deviation_at(t)


def error(sampler: Sampler, steps: int) -> float:
    x = torch.linspace(-2, 2, 12, dtype=torch.float64).view(1, 4, 3)
    made = sampler(ideal, x, torch.ones(1, 4, dtype=torch.float64), uniform_times(steps))
    return float((made - flow(x, torch.tensor(1.0), torch.tensor(0.0))).abs().max())


@pytest.mark.parametrize("sampler", [Euler(), Heun(), Adams(1), Adams(2), Adams(3)])
def test_a_sampler_converges_with_its_order(sampler: Sampler) -> None:
    few, many = error(sampler, 64), error(sampler, 256)
    slope = math.log(few / many) / math.log(4)
    assert sampler.order - 0.1 < slope < sampler.order + 0.3


def test_higher_order_is_nearer_at_equal_predictions() -> None:
    assert error(Adams(3), 32) < 0.2 * error(Adams(2), 32) < 0.2 * error(Heun(), 16) < 0.2 * error(Euler(), 32)


def test_adams_of_order_1_is_euler() -> None:
    assert error(Adams(1), 7) == pytest.approx(error(Euler(), 7), rel=1e-9)


@pytest.mark.parametrize("sampler", [Euler(), Heun(), Adams(2), Adams(3)])
def test_given_tokens_come_out_bitwise_and_are_seen_as_clean(sampler: Sampler) -> None:
    x = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(1))
    mask = torch.tensor([[1.0, 0.0, 1.0, 0.5, 0.0]]).expand(2, 5)
    seen: list[Tensor] = []

    def careless(x_BND: Tensor, t_BN: Tensor) -> Tensor:
        seen.append(t_BN)
        return torch.full_like(x_BND, torch.nan).where((t_BN == 0)[..., None], torch.tanh(x_BND))

    made = sampler(careless, x, mask, shifted_times(5, 3.0))
    given = mask == 0
    assert torch.equal(made[given], x[given])
    assert made.isfinite().all() and not torch.equal(made[~given], x[~given])
    for t_BN in seen:
        assert torch.equal(t_BN[given], torch.zeros_like(t_BN[given]))
        torch.testing.assert_close(t_BN[:, 3], t_BN[:, 0] * 0.5)


@pytest.mark.parametrize("sampler", [Heun(), Adams(3)])
def test_a_token_of_half_strength_follows_its_own_noise_level(sampler: Sampler) -> None:
    """With mask 0.5 the flow starts at its level 0.5, and ends where the exact flow from there does."""
    x = torch.linspace(-1, 1, 12, dtype=torch.float64).view(1, 4, 3)
    made = sampler(ideal, x, torch.full((1, 4), 0.5, dtype=torch.float64), uniform_times(200))
    torch.testing.assert_close(made, flow(x, torch.tensor(0.5), torch.tensor(0.0)), atol=1e-4, rtol=0)


def test_the_callback_sees_every_step_and_can_end_the_loop() -> None:
    x, mask = torch.randn(1, 4, 3), torch.ones(1, 4)
    seen: list[Progress] = []
    Euler()(ideal, x, mask, uniform_times(6), seen.append)
    assert [p.step for p in seen] == [1, 2, 3, 4, 5, 6] and seen[-1].t == 0
    torch.testing.assert_close(seen[0].x0_BND, ideal(x, torch.ones(1, 4)))

    class Stop(Exception):
        pass

    def stop(progress: Progress) -> None:
        if progress.step == 2:
            raise Stop

    calls: list[float] = []

    def counting(x_BND: Tensor, t_BN: Tensor) -> Tensor:
        calls.append(float(t_BN.max()))
        return ideal(x_BND, t_BN)

    with pytest.raises(Stop):
        Euler()(counting, x, mask, uniform_times(6), stop)
    assert len(calls) == 2


def test_a_sampler_remembers_nothing_of_the_strip_before() -> None:
    sampler = Adams(3)
    x, mask = torch.randn(1, 4, 3), torch.ones(1, 4)
    first = sampler(ideal, x, mask, uniform_times(5))
    assert torch.equal(first, sampler(ideal, x, mask, uniform_times(5)))


def test_impossible_grids_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="0 steps"):
        uniform_times(0)
    with pytest.raises(ValueError, match="fall strictly"):
        Euler()(ideal, torch.zeros(1, 1, 1), torch.ones(1, 1), torch.tensor([0.0, 1.0]))
    with pytest.raises(ValueError, match="order 4"):
        Adams(4)


def test_shift_1_is_uniform_and_more_shift_dwells_on_high_noise() -> None:
    torch.testing.assert_close(shifted_times(8, 1.0), uniform_times(8))
    t = shifted_times(8, 3.0)
    assert t[0] == 1 and t[-1] == 0 and (t[1:-1] > uniform_times(8)[1:-1]).all()


def test_training_levels_have_the_stated_distribution() -> None:
    t = draw_times((200_000,), torch.Generator().manual_seed(0), mean=0.4, deviation=1.0, uniform=0.0)
    logit = torch.logit(t)
    assert logit.mean() == pytest.approx(0.4, abs=0.01) and logit.std() == pytest.approx(1.0, abs=0.01)
    t = draw_times((200_000,), torch.Generator().manual_seed(0), mean=0.4, deviation=1.0, uniform=1.0)
    assert torch.quantile(t[:100_000], 0.25) == pytest.approx(0.25, abs=0.01)


# --- noise ----------------------------------------------------------------------------------------------------------


def test_noise_of_a_seed_is_bitwise_the_same_alone_and_in_a_batch() -> None:
    g = Geometry(3, 4, 4, 6, (0.0,))
    batch = strip_noise([5, 6, 7], g)
    assert torch.equal(batch[1:2], strip_noise([6], g))
    assert not torch.equal(batch[0], batch[1])
    assert torch.equal(batch[:, g.video], strip_noise([5, 6, 7], Geometry(3, 4, 4))[:, g.video])
    assert (batch[:, g.audio, AUDIO_CHANNELS:] == 0).all()
    used = batch[:, g.audio, :AUDIO_CHANNELS]
    assert used.std() == pytest.approx(1, abs=0.1)
    assert abs(float((batch[0, : g.n_audio, :AUDIO_CHANNELS] * used[0]).mean())) < 0.1  # picture and sound: unrelated


def test_noise_at_level_0_is_the_clean_strip_bitwise() -> None:
    x0, noise = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    t = torch.tensor([[0.0, 0.5, 1.0]]).expand(2, 3)
    x = add_noise(x0, noise, t)
    assert torch.equal(x[:, 0], x0[:, 0])
    torch.testing.assert_close(x[:, 1], (x0[:, 1] + noise[:, 1]) / 2)
    torch.testing.assert_close(x[:, 2], noise[:, 2])


def test_impossible_seeds_are_refused() -> None:
    with pytest.raises(ValueError, match="seed -1"):
        strip_noise([-1], Geometry(1, 1, 1))


# --- guidance -------------------------------------------------------------------------------------------------------


def pair(x_BND: Tensor, t_BN: Tensor) -> Tensor:
    with_text, without = x_BND.chunk(2)
    return torch.cat([with_text + 1, without - 1])


def conditional(x_BND: Tensor, t_BN: Tensor) -> Tensor:
    return x_BND + 1


def test_guidance_1_is_no_guidance_and_calls_the_denoiser_once() -> None:
    def never(x_BND: Tensor, t_BN: Tensor) -> Tensor:
        raise AssertionError("called")

    x, t = torch.randn(2, 3, 4), torch.full((2, 3), 0.5)
    assert torch.equal(ClassifierFree(conditional, never, 1.0)(x, t), conditional(x, t))
    torch.testing.assert_close(ClassifierFree(conditional, pair, torch.tensor(1.0))(x, t), conditional(x, t))


def test_guidance_extrapolates_only_within_its_interval() -> None:
    x = torch.randn(2, 3, 4)
    guided = ClassifierFree(conditional, pair, 3.0, (0.2, 0.8))
    inside = torch.full((2, 3), 0.5)
    inside[:, 0] = 0  # a given token does not switch guidance off
    torch.testing.assert_close(guided(x, inside), x - 1 + 3 * 2)
    for t in (0.1, 0.9):
        assert torch.equal(guided(x, torch.full((2, 3), t)), x + 1)


def test_a_track_is_guided_by_itself() -> None:
    x, seen = torch.randn(2, 6, 4), []

    def alone(x_BND: Tensor, t_BN: Tensor) -> Tensor:
        seen.append((x_BND, t_BN))
        return x_BND[:, 3:5] - 1

    guided = TrackGuidance(conditional, alone, slice(3, 5), 3.0, (0.2, 0.8))
    inside = torch.full((2, 6), 0.5)
    answer = guided(x, inside)
    torch.testing.assert_close(answer[:, 3:5], (x - 1 + 3 * 2)[:, 3:5])
    for rest in (slice(0, 3), slice(5, 6)):
        assert torch.equal(answer[:, rest], (x + 1)[:, rest])
    assert torch.equal(seen[0][0], x) and torch.equal(seen[0][1], inside)
    given = inside.clone()
    given[:, 3:5] = 0
    for t in (given, torch.full((2, 6), 0.1), torch.full((2, 6), 0.9)):
        assert torch.equal(guided(x, t), x + 1)
    assert torch.equal(TrackGuidance(conditional, alone, slice(3, 5), 1.0)(x, inside), x + 1) and len(seen) == 1


def test_only_rain_is_guided_as_rain() -> None:
    """Each strip of a batch by its own storyboard, and bitwise as in a batch where it rains nowhere."""
    boards = torch.zeros(3, 2, 128)
    boards[1, :, channels("kind", 1)][:, RAIN] = ON
    scale = storyboard_guidance(to_tokens(boards), 1.4, 2.5)
    assert isinstance(scale, Tensor) and scale.flatten().tolist() == pytest.approx([1.4, 2.5, 1.4])
    dry = to_tokens(boards[::2])
    assert storyboard_guidance(dry, 1.4, 2.5) == 1.4
    x, t = torch.randn(3, 6, 4), torch.full((3, 6), 0.5)
    track = slice(1, 4)

    def alone(x_BND: Tensor, t_BN: Tensor) -> Tensor:
        return x_BND[:, track].sin()

    wet = TrackGuidance(conditional, alone, track, scale)(x, t)
    assert torch.equal(wet[::2], TrackGuidance(conditional, alone, track, 1.4)(x[::2], t[::2]))
    torch.testing.assert_close(wet[1:2], TrackGuidance(conditional, alone, track, 2.5)(x[1:2], t[1:2]))


def test_match_guidance_raises_the_score_and_leaves_given_tokens() -> None:
    target = torch.randn(4, generator=torch.Generator().manual_seed(2))

    def score(x0_BND: Tensor) -> Tensor:
        return -(x0_BND - target).square().mean(dim=(1, 2))

    x, t = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(3)), torch.full((2, 3), 0.5)
    t[:, 1] = 0
    guided = MatchGuidance(conditional, score, weight=0.2)
    with torch.no_grad():
        before, after = conditional(x, t), guided(x, t)
    assert (score(after) > score(before)).all()
    assert torch.equal(after[:, 1], before[:, 1])
    shift = (after - before).square().mean(dim=(1, 2)).sqrt()
    torch.testing.assert_close(shift, torch.full((2,), 0.2 * 0.5))
    assert torch.equal(MatchGuidance(conditional, score, weight=0.0)(x, t), before)
