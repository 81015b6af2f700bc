"""Spoken words: they last as promised, can be told apart by ear, and the lips go with the sound."""

from __future__ import annotations

import numpy as np
import pytest

from phonofilm.playhouse import speech
from phonofilm.playhouse.phonemes import PHONES, SPELLING

RATE = 16000


def log_mel(sound: np.ndarray, bands: int = 64, frames: int = 48) -> np.ndarray:
    """Log-mel energies (frames, bands), stretched to a fixed number of frames, each with the clip's mean taken away."""
    frame, hop = 512, 125
    padded = np.pad(sound.astype(np.float64), frame // 2)
    windows = np.lib.stride_tricks.sliding_window_view(padded, frame)[::hop] * np.hanning(frame)
    power = np.abs(np.fft.rfft(windows)) ** 2
    mel = np.linspace(0, 2595 * np.log10(1 + RATE / 2 / 700), bands + 2)
    corner = 700 * (10 ** (mel / 2595) - 1)
    hertz = np.fft.rfftfreq(frame, 1 / RATE)[:, None]
    rising, falling = (hertz - corner[:-2]) / np.diff(corner)[:-1], (corner[2:] - hertz) / np.diff(corner)[1:]
    energy = np.log(power @ np.clip(np.minimum(rising, falling), 0, None) + 1e-3)
    at = np.linspace(0, len(energy) - 1, frames)
    fixed = np.stack([np.interp(at, np.arange(len(energy)), band) for band in energy.T], 1)
    return np.asarray(fixed - fixed.mean())


def loudness(sound: np.ndarray, seconds: float = 0.02) -> np.ndarray:
    """Short-time level below 3 kHz: where the voice is, and the hiss of s and t is not."""
    spectrum = np.fft.rfft(sound.astype(np.float64))
    spectrum[np.fft.rfftfreq(len(sound), 1 / RATE) > 3000] = 0
    window = np.hanning(round(seconds * RATE))
    return np.sqrt(np.convolve(np.fft.irfft(spectrum, len(sound)) ** 2, window / window.sum(), mode="same"))


def test_every_word_is_spelt_in_known_phones() -> None:
    assert len(speech.WORDS) == len(set(speech.WORDS)) == 28
    for spelling in SPELLING.values():
        assert all(phone.rstrip("01") in PHONES for phone in spelling.split())


@pytest.mark.parametrize("tempo", [0.9, 1.0, 1.15])
def test_words_last_as_long_as_promised(tempo: float) -> None:
    for word in speech.WORDS:
        sound = speech.say(word, "man", tempo=tempo)
        assert len(sound) == round(speech.duration(word, tempo) * RATE)
        assert 0.4 <= len(sound) / RATE <= 1.15
        assert np.abs(sound).max() == pytest.approx(speech.PEAK, abs=1e-6)
        assert np.abs(sound[:16]).max() < 0.1 and np.abs(sound[-16:]).max() < 0.1  # no click at either end


def test_the_same_words_are_the_same_samples() -> None:
    first = speech.say("banana", "robot", 0.25, 1.1)
    speech._say.cache_clear()
    again = speech.say("banana", "robot", 0.25, 1.1)
    assert first is not again and np.array_equal(first, again)


def test_words_can_be_told_apart_whoever_says_them_and_however() -> None:
    """The nearest template of the middle of each voice names what is said higher, lower, slower and faster."""
    right = of_another = total = 0
    templates = {(w, v): log_mel(speech.say(w, v)) for w in speech.WORDS for v in speech.VOICES}
    for voice in speech.VOICES:
        for pitch, tempo in ((0.0, 0.9), (0.25, 1.15), (0.75, 0.95), (1.0, 1.1)):
            for word in speech.WORDS:
                heard = log_mel(speech.say(word, voice, pitch, tempo))
                nearest = sorted(templates, key=lambda key: float(np.square(templates[key] - heard).mean()))
                right += nearest[0][0] == word
                of_another += next(key for key in nearest if key[1] != voice)[0] == word
                total += 1
    assert right / total >= 0.99
    assert of_another / total >= 0.9  # even by the templates of the two other voices alone


@pytest.mark.parametrize("voice", speech.VOICES)
def test_lips_and_voice_move_together(voice: str) -> None:
    """The opening of the mouth and the level of the voice match best when neither is shifted."""
    lags, matches = [], []
    for word in speech.WORDS:
        sound = speech.say(word, voice, 0.5, 1.0)
        level = loudness(np.pad(sound, 1600))
        opening, _ = speech.mouth(word, 1.0, (np.arange(len(level)) - 1600) / RATE)
        a, b = opening - opening.mean(), level - level.mean()
        shifts = np.arange(-960, 961, 16)
        scores = [float(np.dot(a, np.roll(b, -shift))) for shift in shifts]
        lags.append(1000 * shifts[int(np.argmax(scores))] / RATE)
        matches.append(max(scores) / np.sqrt(np.dot(a, a) * np.dot(b, b)))
    assert abs(float(np.median(lags))) < 5
    assert np.percentile(np.abs(lags), 90) < 15
    assert np.median(matches) > 0.8


def test_the_mouth_is_shut_at_m_b_p_and_outside_the_word() -> None:
    for word, times in {"mama": 2, "picture": 1, "apple": 2, "open": 2, "happy": 2, "moon": 1, "yes": 1}.items():
        opening, _ = speech.mouth(word, 1.0, np.arange(0, speech.duration(word) - 0.02, 0.001))
        assert np.sum(np.diff((opening > 0.02).astype(int)) == 1) == times, word  # at the start, and after each closure
    for word in speech.WORDS:
        opening, rounding = speech.mouth(word, 1.0, np.linspace(-0.5, 1.6, 2101))
        outside = (np.linspace(-0.5, 1.6, 2101) <= 0) | (np.linspace(-0.5, 1.6, 2101) >= speech.duration(word))
        assert np.all(opening[outside] == 0) and np.all(rounding[outside] == 0)
        assert opening.min() >= 0 and 0.3 < opening.max() <= 1 and 0 <= rounding.min() and rounding.max() <= 1
        assert np.abs(np.diff(opening)).max() < 0.09  # no jump within a millisecond
    round_words, spread = ("moon", "window", "no"), ("yes", "mama", "happy")
    assert min(speech.mouth(w, 1.0, np.linspace(0, 1, 200))[1].max() for w in round_words) > 0.9
    assert max(speech.mouth(w, 1.0, np.linspace(0, 1, 200))[1].max() for w in spread) == 0


@pytest.mark.parametrize(("voice", "hertz"), [("woman", 200), ("man", 110), ("robot", 140)])
@pytest.mark.parametrize("pitch", [0.0, 0.5, 1.0])
def test_voices_have_their_pitch(voice: str, hertz: float, pitch: float) -> None:
    sound = speech.say("mama", voice, pitch).astype(np.float64)
    middle = sound[len(sound) // 2 - 4000 : len(sound) // 2 + 4000]
    power = np.abs(np.fft.rfft(middle * np.hanning(8000), 1 << 17)) ** 2
    expected = hertz * 2 ** ((pitch - 0.5) / 2)
    candidates = np.geomspace(expected / 1.4, expected * 1.4, 400)
    lines = np.round(candidates[:, None] * np.arange(1, 9) * (1 << 17) / RATE).astype(int)
    found = candidates[int(np.argmax(np.log(power[lines] + 1e-3).sum(1)))]
    assert found == pytest.approx(expected, rel=0.06)


def test_formants_are_where_the_vowels_have_them() -> None:
    """F1 and F2 of the vowels of a man rise above the valley that lies between formants."""
    for word, at, formants, valley in (
        ("mama", 0.35, (730, 1090), 1750),
        ("three", 0.75, (270, 2290), 1250),
        ("moon", 0.5, (300, 870), 1550),
    ):
        sound = speech.say(word, "man", 0.0).astype(np.float64)
        start = int(at * len(sound)) - 512
        spectrum = np.abs(np.fft.rfft(sound[start : start + 1024] * np.hanning(1024), 4096))
        hertz = np.fft.rfftfreq(4096, 1 / RATE)
        low = spectrum[np.abs(hertz - valley) < 120].max()
        for formant in formants:
            assert spectrum[np.abs(hertz - formant) < 120].max() > 3 * low, (word, formant)


def test_what_cannot_be_said_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'abracadabra'.*banana"):
        speech.say("abracadabra")
    with pytest.raises(ValueError, match=r"tempo.*3"):
        speech.duration("yes", 3)
    with pytest.raises(ValueError, match=r"pitch.*2"):
        speech.say("yes", "man", 2)
    with pytest.raises(ValueError, match=r"voice.*dog"):
        speech.say("yes", "dog")
    with pytest.raises(ValueError, match=r"sample_rate.*4000"):
        speech.say("yes", sample_rate=4000)
