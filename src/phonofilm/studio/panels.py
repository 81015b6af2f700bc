"""What the studio shows of jobs, as HTML. All that people wrote is escaped here."""

from __future__ import annotations

import base64
import time
from collections.abc import Sequence
from html import escape
from typing import Final

from phonofilm.jobs import Job

STAGES: Final = {
    "queued": "Waiting", "start": "Warming up", "condition": "Reading what was given", "denoise": "Denoising",
    "decode": "Decoding", "export": "Writing and signing",
}  # fmt: skip
OWN_J: Final = {"native": (1.3, 0.02)}
"""Joules of one picture, and of reading one sentence, by model: measured with this repository's own meter (CPU seconds
× 4.26 W per core) on one x86 core, mean of two pictures of 128x128 and of a hundred sentences."""
ELSEWHERE: Final = (
    "For scale: a median answer of a large chat assistant takes 0.24 Wh = 860&nbsp;J (Google, 2025, whole service);"
    " five seconds of film by large open models 26 to 1,490&nbsp;kJ (ML.ENERGY, version 3, GPUs alone)."
)


def stage(job: Job | None, preview: bytes | None, ahead: int) -> str:
    """The film that is looked at, in whichever state it is."""
    if job is None:
        return (
            '<div class="screen empty"><p>Type a sentence.<br>Picture and sound are made together, on one strip.</p>'
            "</div>"
        )
    if job.status == "completed":
        return _film(job)
    if job.status == "failed":
        why = "Cancelled" if job.error_code == "cancelled" else escape(job.error_message or "It failed")
        body = f'<div class="screen empty"><p role="status">{why}</p></div>'
        return f"{body}{_title(job)}<p class=row>{_button('again', job, 'Try again')}{_delete(job)}</p>"
    seen = ""
    if preview is not None:
        image = base64.b64encode(preview).decode()
        seen = f'<img class="live" decoding="sync" alt="preview" src="data:image/jpeg;base64,{image}">'
    told = "Paused" if job.held else f"{STAGES.get(job.stage, job.stage)}{f' · {ahead} ahead' if ahead else ''}"
    return (
        f'<div class="screen">{seen or "<p>…</p>"}</div>'
        f'<p class="row now"><span role="status">{told}</span>'
        f'<span class="bar" role="progressbar" aria-label="Progress" aria-valuenow={job.progress}>'
        f'<i style="width:{job.progress}%"></i></span>'
        f"<span>{job.progress}&thinsp;%</span>{_button('cancel', job, 'Cancel')}</p>{_title(job)}"
    )


def _film(job: Job) -> str:
    at = f"/v1/videos/{job.id}"
    ending = job.files["video"].rpartition(".")[2]
    size = "{}/{}".format(*job.request.pixels)
    notes = "".join(f"<p class=note>{escape(note)}</p>" for note in job.notes)
    return (
        f'<div class="screen"><video data-film controls playsinline loop preload="auto" style="aspect-ratio:{size}"'
        f' poster="{at}/content?variant=thumbnail" src="{at}/content"></video>'
        '<canvas class="wave" width=1200 height=120 role="slider" tabindex=0 aria-label="Place in the film"></canvas>'
        f"</div>{_title(job)}{notes}"
        f'<p class="row">{_button("remix", job, "Remix")}{_button("extend", job, "Extend")}'
        f'<a class="act" href="{at}/content" download="{job.id}.{ending}">Download film</a>'
        f'<a class="act" href="{at}/receipt" download="{job.id}.receipt.json">Receipt</a>{_delete(job)}</p>'
        f'<a class="sheet" href="{at}/content?variant=spritesheet" target="_blank" aria-label="Contact sheet, whole">'
        f'<img alt="Contact sheet: frames over waveform and spectrogram" src="{at}/content?variant=spritesheet"></a>'
        f"{_cost(job)}"
    )


def _title(job: Job) -> str:
    wish = job.request
    how = {"create": "", "remix": "remix · ", "edit": "edit · ", "extension": "extension · "}[job.kind]
    facts = f"{how}{wish.seconds:g} s · {wish.pixels[0]}×{wish.pixels[1]} · seed {wish.seed} · {escape(wish.model)}"
    return f'<h2>{escape(wish.prompt)}</h2><p class="facts">{facts}</p>'


def _cost(job: Job) -> str:
    """Joules of the film beside those of a picture and of a sentence, drawn to one scale."""
    receipt = job.receipt or {}
    total = receipt.get("total_energy_j")
    if not total:
        return ""
    picture, sentence = OWN_J.get(job.request.model, (None, None))
    rows = [("this film", total), ("a picture by the same model", picture), ("reading the sentence", sentence)]
    known = [(name, value) for name, value in rows if value is not None]
    most = max(value for _, value in known)
    bars = "".join(
        f"<tr><th scope=row>{name}<td>{joules(value)}<td><i style='width:{max(0.4, 100 * value / most):.1f}%'></i>"
        for name, value in known
    )
    price = made = ""
    if picture:
        price = f"The motion and the sound of this film cost as much as {total / picture:.1f} pictures."
    if seconds := receipt.get("seconds"):
        parts = ", ".join(f"{escape(name)} {value:.1f} s" for name, value in seconds.items() if value >= 0.1)
        made = f"It took {sum(seconds.values()):.1f} s{f' ({parts})' if parts else ''}."
    own = "; picture and sentence were measured on one CPU core, estimated the same way" if picture else ""
    method = escape(str(receipt.get("energy_method", "")))
    return (
        f'<section class="cost"><h3>What it cost</h3><table>{bars}</table><p>{price} {made}</p>'
        f"<p class=small>Energy {method}{own}. {ELSEWHERE}</p></section>"
    )


def joules(value: float) -> str:
    return f"{value / 1000:.1f} kJ" if value >= 1000 else f"{value:.3g} J"


def queue(jobs: Sequence[Job], chosen: str) -> str:
    """Films that wait or are being made, in their order."""
    if not jobs:
        return ""
    waiting = [job for job in jobs if job.status == "queued"]
    items = []
    for job in jobs:
        acts = _button("cancel", job, "Cancel")
        if job.status == "queued":
            acts = _button("resume", job, "Resume") if job.held else _button("pause", job, "Pause")
            if len(waiting) > 1:
                acts += _button("first", job, "First") + _button("later", job, "Last")
            acts += _button("cancel", job, "Cancel")
        state = "paused" if job.held else job.stage if job.status == "in_progress" else "waiting"
        items.append(
            f"<li{' class=chosen' if job.id == chosen else ''}>{_show(job)}"
            f"<span class=facts>{escape(state)}</span><span class=row>{acts}</span>"
        )
    return f"<h3>Queue</h3><ol class=queue>{''.join(items)}</ol>"


def history(jobs: Sequence[Job], chosen: str, more: bool) -> str:
    """Films that were made, the newest first."""
    if not jobs:
        return ""
    cards = []
    for job in jobs:
        there = "thumbnail" in job.files
        failed = "Cancelled" if job.error_code == "cancelled" else "Failed"
        image = f'<img alt="" loading=lazy src="/v1/videos/{job.id}/content?variant=thumbnail">' if there else ""
        cards.append(
            f'<li{" class=chosen" if job.id == chosen else ""}><button data-act=show data-id="{job.id}">'
            f"<span class=thumb>{image or failed}</span><span class=words>{escape(job.request.prompt)}</span>"
            f"<span class=facts>{_when(job.created_at)}</span></button>"
        )
    rest = '<p class=row><button class=act data-act=more data-id="">Show more</button></p>' if more else ""
    return f"<h3>History</h3><ul class=history>{''.join(cards)}</ul>{rest}"


def _show(job: Job) -> str:
    return f'<button class=words data-act=show data-id="{job.id}">{escape(job.request.prompt)}</button>'


def _button(act: str, job: Job, text: str) -> str:
    name = f"{text}: {job.request.prompt[:60]}"
    return f'<button class=act data-act={act} data-id="{job.id}" aria-label="{escape(name)}">{text}</button>'


def _delete(job: Job) -> str:
    sure = "Delete this film and its files?"
    return f'<button class="act" data-act=delete data-id="{job.id}" data-sure="{sure}">Delete</button>'


def _when(at: float) -> str:
    today = time.strftime("%Y%m%d", time.localtime(at)) == time.strftime("%Y%m%d")
    return time.strftime("%H:%M" if today else "%d %b %H:%M", time.localtime(at))


def hints(prompt: str, unknown: Sequence[str]) -> str:
    """Words that the model never saw."""
    if not prompt.strip():
        return ""
    if not unknown:
        return "<p class=note>The model knows all these words.</p>"
    words = ", ".join(f"<b>{escape(word.strip(chr(34)))}</b>" for word in unknown[:8])
    chance = "What they do to the film is left to chance."
    return f"<p class='note warn'>Words that the model never saw: {words}. {chance}</p>"


def signed(name: str | None) -> str:
    by = f"by <b>{escape(name)}</b>" if name else "with a key that is made with the first of them"
    return (
        f"<p class=small>Every film is signed {by} (C2PA) and says that it was made by AI. <code>phonofilm verify"
        " FILE</code> tells whether one was altered since; that a film has no signature proves nothing.</p>"
    )


def said(text: str, bad: bool = False) -> str:
    return f"<p class='note{' warn' if bad else ''}' role={'alert' if bad else 'status'}>{escape(text)}</p>"
