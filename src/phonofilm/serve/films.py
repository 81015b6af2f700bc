"""What a worker leaves for each job: the signed film, its thumbnail, its contact sheet, its receipt."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from phonofilm.engines import Chunk, join
from phonofilm.export import export, labelled
from phonofilm.jobs.job import Job
from phonofilm.provenance import Identity

THUMBNAIL: Final = 320  # pixels of the longer side, at least the film's own


class Films:
    """`films(chunks, folder, job)`: the files of a job by variant, the film signed as the last step of its writing."""

    def __init__(self, identity: Identity, label: bool = False) -> None:
        self.identity, self.label = identity, label

    def __call__(self, chunks: Iterable[Chunk], folder: Path, job: Job) -> dict[str, Path]:
        from PIL import Image

        from phonofilm.media import contact_sheet

        kept: list[Chunk] = []

        def passing() -> Iterator[Chunk]:
            for chunk in chunks:
                kept.append(chunk)
                yield chunk

        made = {"video": folder / ("picture.png" if job.request.picture else "film.mp4")}
        export(passing(), made["video"], identity=self.identity, label=self.label)
        clip, receipt = join(iter(kept))
        if self.label:
            clip = replace(clip, frames=labelled(clip.frames))
        middle = Image.fromarray(clip.frames[len(clip.frames) // 2])
        scale = max(1.0, THUMBNAIL / max(middle.size))
        size = (round(middle.width * scale), round(middle.height * scale))
        made["thumbnail"] = folder / "thumbnail.jpg"
        middle.resize(size, Image.Resampling.BICUBIC).save(made["thumbnail"], quality=88)
        made["spritesheet"] = folder / "sheet.png"
        contact_sheet(clip, made["spritesheet"], title=job.request.prompt)
        if receipt is not None:
            made["receipt"] = folder / "receipt.json"
            told = {**json.loads(receipt.to_json()), "film_seconds": clip.seconds}
            made["receipt"].write_text(json.dumps(told, ensure_ascii=False), encoding="utf-8")
        return made
