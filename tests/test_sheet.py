"""Contact sheets show what is seen and heard, where on the time axis it is."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import FPS, flash_clip
from PIL import Image

from phonofilm.clip import Audio, Clip
from phonofilm.errors import InputError
from phonofilm.media import contact_sheet
from phonofilm.media.sheet import _GUTTER, _MARGIN, _WAVE


def test_frames_and_sound_share_one_axis(tmp_path):
    clip = flash_clip(48, at=30)
    sheet = contact_sheet(clip, tmp_path / "sheet.png", "a flash that beeps")
    saved = np.asarray(Image.open(tmp_path / "sheet.png"))
    pixels = np.asarray(sheet)
    assert (saved == pixels).all()
    left, right = _MARGIN + _GUTTER, pixels.shape[1] - _MARGIN
    (_, columns) = np.nonzero((pixels == _WAVE).all(-1))
    shares = (np.array([columns.min(), columns.max()]) - left) / (right - left)
    assert shares == pytest.approx(np.array([30, 31]) / 48, abs=0.005)
    # the frame that stands over the beep is the white one, the one before is not
    row = _MARGIN + 34 + 10
    middle = int(left + (7.5 / 12) * (right - left))
    assert (pixels[row, middle] == 255).all()
    before = int(left + (6.5 / 12) * (right - left))
    assert not (pixels[row, before] == 255).all()


def test_the_spectrogram_is_bright_at_the_pitch():
    def brightest(hertz):
        time = np.arange(16_000) / 16_000
        tone = Audio((0.5 * np.sin(2 * np.pi * hertz * time))[None].astype(np.float32), 16_000)
        sheet = np.asarray(contact_sheet(Clip(flash_clip(16).frames, FPS, tone))).astype(int)
        column = sheet[-_MARGIN - 26 - 150 : -_MARGIN - 26, sheet.shape[1] // 2].sum(1)
        return 150 - column.argmax()

    rows = [brightest(hertz) for hertz in (100, 400, 1600, 6400)]
    steps = np.diff(rows)
    assert (steps > 30).all()
    assert np.ptp(steps) <= 3  # equal ratios of pitch are equal heights


@pytest.mark.parametrize("frames", [1, 5, 12, 30])
@pytest.mark.parametrize("size", [(128, 128), (96, 160), (640, 360), (8, 8)])
def test_any_clip_has_a_sheet(frames, size):
    clip = flash_clip(20, *size)
    title = "a very long title " * 30
    film = contact_sheet(clip, title=title, frames=frames)
    silent = contact_sheet(Clip(clip.frames, FPS), frames=frames)
    picture = contact_sheet(Clip(clip.frames[:1], FPS), frames=frames)
    assert film.height > silent.height
    assert film.width < 2400
    assert np.asarray(picture).std() > 5


def test_impossible_sheets():
    with pytest.raises(InputError, match=r"1\.\.240 frames, got 0"):
        contact_sheet(flash_clip(), frames=0)
