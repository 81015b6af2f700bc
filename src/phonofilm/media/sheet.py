"""The contact sheet: frames over waveform and spectrogram on one time axis, because people look before they read."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from phonofilm.clip import Audio, Clip, Samples, fit, frame_at, mono
from phonofilm.errors import InputError
from phonofilm.files import replacing

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont, ImageFont

Colour = tuple[int, int, int]
_PAPER: Final = (24, 24, 26)
_PANEL: Final = (14, 14, 16)
_LINE: Final = (58, 58, 62)
_TEXT: Final = (232, 230, 226)
_FAINT: Final = (150, 148, 144)
_WAVE: Final = (240, 178, 92)
_MARGIN: Final = 24
_GUTTER: Final = 44  # left of the axes, for labels
_GAP: Final = 6
_PER_ROW: Final = 12
_WAVE_HEIGHT: Final = 84
_SPECTRUM_HEIGHT: Final = 150
_FLOOR_DB: Final = -80.0
_STEPS: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 600.0, math.inf)  # seconds between ticks
_GLOW: Final = ((0.0, 14, 14, 16), (0.3, 58, 30, 84), (0.55, 158, 48, 94), (0.8, 240, 140, 62), (1.0, 255, 240, 190))


def contact_sheet(clip: Clip, path: str | Path | None = None, title: str = "", frames: int = 12) -> Image:
    """Lay out `frames` pictures of `clip` over its waveform and spectrogram; returns the image, writes it to `path`.

    Up to 12 frames stand in one row, each over the stretch of time from whose middle it comes; more make more rows.
    The spectrogram is drawn over a logarithmic axis from 60 Hz to half of the sample rate, 0 to -80 dB of full scale.
    A picture (a clip of one frame) is shown alone. Raises InputError unless `frames` is 1..240.
    """
    from PIL import Image, ImageDraw

    if not 1 <= frames <= 240:
        raise InputError(f"a contact sheet has 1..240 frames, got {frames}")
    count = min(frames, len(clip.frames))
    across = min(count, _PER_ROW)
    rows = math.ceil(count / across)
    thumb_w, thumb_h = _thumb(clip, across)
    cell = thumb_w + _GAP
    x0, width = _MARGIN + _GUTTER, max(across * cell, 420)
    top = _MARGIN + 34
    row_height = thumb_h + 24
    axis_top = top + rows * row_height + 6
    film = not clip.picture
    height = axis_top + ((_WAVE_HEIGHT + 10 + _SPECTRUM_HEIGHT + 26 if clip.audio else 30) if film else 0) + _MARGIN
    sheet = Image.new("RGB", (x0 + width + _MARGIN, height), _PAPER)
    draw = ImageDraw.Draw(sheet)

    _heading(draw, title, _facts(clip), x0, x0 + width)
    times = (np.arange(count) + 0.5) * clip.seconds / count
    for k, time in enumerate(times):
        x, y = x0 + (k % across) * cell, top + (k // across) * row_height
        index = min(frame_at(float(time), clip.fps), len(clip.frames) - 1)
        sheet.paste(Image.fromarray(fit(clip.frames[index : index + 1], thumb_w, thumb_h)[0]), (x + _GAP // 2, y))
        if film:
            draw.text((x + cell / 2, y + thumb_h + 4), f"{index / clip.fps:.2f}", _FAINT, _font(12), anchor="ma")
    if film:
        _sound(sheet, draw, clip, x0, axis_top, across * cell)
    if path is not None:
        with replacing(Path(path)) as beside:
            sheet.save(beside, format="PNG")
    return sheet


def _thumb(clip: Clip, across: int) -> tuple[int, int]:
    """Size of a thumbnail: native clips as they are, a lone picture twice, larger ones scaled down."""
    widest = 168 if across > 1 else 512
    scale = min(widest / clip.width, (2 * widest) / clip.height, 2.0 if clip.picture else 1.0)
    if clip.width < 96 and not clip.picture:
        scale = 96 / clip.width
    return max(1, round(clip.width * scale)), max(1, round(clip.height * scale))


def _facts(clip: Clip) -> str:
    facts = [f"{clip.width}x{clip.height}"]
    if not clip.picture:
        facts += [f"{clip.fps:g} fps", f"{clip.seconds:.2f} s"]
    if clip.audio:
        names = {1: "mono", 2: "stereo"}
        channels = names.get(clip.audio.channels, f"{clip.audio.channels} channels")
        facts.append(f"{clip.audio.sample_rate / 1000:g} kHz {channels}")
    return " · ".join(facts)


def _font(size: int) -> FreeTypeFont | ImageFont:
    from PIL import ImageFont

    return ImageFont.load_default(size)


def _heading(draw: ImageDraw, title: str, facts: str, left: int, right: int) -> None:
    facts_font, title_font = _font(13), _font(18)
    room = right - left - draw.textlength(facts, facts_font) - 24
    shown = " ".join(title.split())
    if draw.textlength(shown, title_font) > room:
        while shown and draw.textlength(shown + "...", title_font) > room:
            shown = shown[:-1]
        shown = shown.rstrip() + "..." if shown else ""
    draw.text((left, _MARGIN), shown, _TEXT, title_font)
    draw.text((right, _MARGIN + 5), facts, _FAINT, facts_font, anchor="ra")


def _sound(sheet: Image, draw: ImageDraw, clip: Clip, left: int, top: int, width: int) -> None:
    """Waveform, spectrogram and the time axis of both, `width` pixels for the length of the picture."""
    from PIL import Image

    if clip.audio is None:
        draw.text((left, top + 6), "no sound", _FAINT, _font(13))
        return
    sound = mono(clip.audio)
    wave_bottom = top + _WAVE_HEIGHT
    draw.rectangle((left, top, left + width - 1, wave_bottom - 1), _PANEL)
    middle = top + _WAVE_HEIGHT / 2
    draw.line((left, middle, left + width - 1, middle), _LINE)
    for x, (low, high) in enumerate(_envelope(sound, clip.seconds, width)):
        if high > low or high != 0:
            half = _WAVE_HEIGHT / 2 - 2
            draw.line((left + x, middle - high * half, left + x, middle - low * half), _WAVE)
    spectrum_top = wave_bottom + 10
    spectrum = _glow(_spectrogram(sound, clip.seconds, width, _SPECTRUM_HEIGHT))
    sheet.paste(Image.fromarray(spectrum), (left, spectrum_top))
    bottom = spectrum_top + _SPECTRUM_HEIGHT
    small = _font(11)
    for value, at in ((1, top + 2), (0, middle), (-1, wave_bottom - 3)):
        draw.text((left - 8, at), f"{value}", _FAINT, small, anchor="rm")
    for hertz in (100, 300, 1000, 3000, 8000, 20000):
        share = _pitch_share(hertz, sound.sample_rate)
        if 0 <= share <= 1.001:
            y = bottom - share * (_SPECTRUM_HEIGHT - 1)
            draw.line((left - 4, y, left, y), _FAINT)
            draw.text((left - 8, y), f"{hertz / 1000:g}k" if hertz >= 1000 else f"{hertz}", _FAINT, small, anchor="rm")
    step = next(s for s in _STEPS if clip.seconds / s <= 12.5)
    for k in range(math.floor(clip.seconds / step + 1e-6) + 1):
        tick = left + k * step / clip.seconds * width
        draw.line((tick, bottom, tick, bottom + 5), _FAINT)
        draw.text((tick, bottom + 8), f"{k * step:g} s", _FAINT, small, anchor="ma")


def _envelope(sound: Audio, seconds: float, width: int) -> NDArray[np.float32]:
    """(width, 2): the least and the greatest sample of each column of the picture's length."""
    samples = sound.samples[0]
    edges = np.linspace(0, seconds * sound.sample_rate, width + 1).astype(np.int64)
    out = np.zeros((width, 2), np.float32)
    for x in range(width):
        part = samples[edges[x] : max(edges[x] + 1, edges[x + 1])]
        if part.size:
            out[x] = part.min(), part.max()
    return out


def _pitch_share(hertz: float, sample_rate: int) -> float:
    """Where a frequency stands on the axis, 0 at the bottom, 1 at the top."""
    low, high = min(60.0, sample_rate / 8), sample_rate / 2
    return math.log(hertz / low) / math.log(high / low)


def _spectrogram(sound: Audio, seconds: float, width: int, height: int) -> NDArray[np.float32]:
    """(height, width) of 0..1: the level between the floor and full scale, low frequencies at the bottom."""
    rate = sound.sample_rate
    size = 2 ** max(6, round(math.log2(rate * 0.032)))  # a window of about 32 ms
    samples: Samples = np.pad(sound.samples[0], size // 2)
    centres = (np.arange(width) + 0.5) / width * seconds * rate
    starts = np.minimum(centres.astype(np.int64), max(0, len(samples) - size))
    window = np.hanning(size).astype(np.float32)
    pieces = np.lib.stride_tricks.sliding_window_view(samples, size)[starts] * window
    level = np.abs(np.fft.rfft(pieces, axis=1)) * (2 / window.sum())  # (width, size/2 + 1), 1 for a full-scale sine
    low, high = min(60.0, rate / 8), rate / 2
    bins = low * (high / low) ** (np.arange(height) / (height - 1)) * size / rate
    below = np.minimum(bins.astype(np.int64), level.shape[1] - 2)
    between = (bins - below)[None]
    lines = level[:, below] * (1 - between) + level[:, below + 1] * between
    shares = 1 - 20 * np.log10(np.maximum(lines, 1e-9)) / _FLOOR_DB
    return np.ascontiguousarray(np.clip(shares, 0, 1).T[::-1], np.float32)


def _glow(share: NDArray[np.float32]) -> NDArray[np.uint8]:
    """(H, W) of 0..1 to (H, W, 3) colours."""
    stops = np.array(_GLOW)
    channels = [np.interp(share, stops[:, 0], stops[:, c]) for c in (1, 2, 3)]
    colours: NDArray[np.uint8] = np.stack(channels, axis=-1).round().astype(np.uint8)
    return colours
