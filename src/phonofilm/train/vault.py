"""Clips on a GPU for the training of the picture's codec: painted there, cropped there, several hundred at once.

Shapes: B crops, n clips, T frames, H height, W width, K actors.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from phonofilm.clip import FORMATS
from phonofilm.playhouse.render import render
from phonofilm.train.codec import VideoTraining
from phonofilm.train.footage import group_plan
from phonofilm.train.reel import GROUP, Play, plays, shelf_boxes

LENGTH = 2.0  # seconds
EVERY = 60  # steps between new groups of clips


class Vault:
    """The last `groups` groups of clips of each format. What it holds depends on the step alone."""

    def __init__(self, device: torch.device, workers: int, groups: int = 3) -> None:
        self.device, self.groups = device, groups
        self.source: Iterator[Play] = plays(workers, sound=False, seconds=LENGTH)
        self.made = 0
        self.frames: dict[str, list[Tensor]] = {}
        self.boxes: dict[str, list[Tensor]] = {}

    def _fill(self, step: int) -> None:
        while self.made < 5 * self.groups - 4 + step // EVERY:
            name, _ = group_plan(self.made)
            frames, sights = render(next(self.source)[0], FORMATS[name], device=self.device)
            for shelf, new in ((self.frames, frames), (self.boxes, shelf_boxes(sights).to(self.device))):
                shelf[name] = [*shelf.get(name, []), new][-self.groups :]
            self.made += 1

    def draw(
        self, step: int, recipe: VideoTraining, generator: torch.Generator, whole: bool
    ) -> tuple[Tensor, Tensor, list[Tensor | None]]:
        """Crops of one format, see `codec.draw_crops`; nothing is painted."""
        self._fill(step)

        def pick(bound: int, *shape: int) -> Tensor:
            return torch.randint(max(1, bound), shape, generator=generator).to(self.device)

        def chance(*shape: int) -> Tensor:
            return torch.rand(*shape, generator=generator).to(self.device)

        names = sorted(self.frames, key=lambda name: name != "square")
        name = names[0] if len(names) < 3 else (names[0], *names)[int(torch.randint(4, (), generator=generator))]
        group = int(torch.randint(len(self.frames[name]), (), generator=generator))
        frames, boxes = self.frames[name][group], self.boxes[name][group]
        n, T, H, W, _ = frames.shape
        B, F, crop = (max(1, recipe.batch // 4) if whole else recipe.batch), recipe.frames, recipe.crop
        clip, start = pick(n, B), pick(T - F + 1, B)
        if whole:
            top = left = torch.zeros_like(clip)
            rows, columns = H, W
        else:
            rows = columns = crop
            top, left = pick(H - crop + 1, B), pick(W - crop + 1, B)
            box_BK4 = boxes[clip, :, start + pick(F, B)]
            there_BK = ~box_BK4.isnan().any(-1)
            slot = (chance(*there_BK.shape) * there_BK).argmax(1)
            box_B4 = box_BK4[torch.arange(B, device=self.device), slot]
            aimed = (chance(B) < recipe.actors) & there_BK.any(1)
            x, y = ((box_B4[:, k] + box_B4[:, k + 2]).nan_to_num(0).div(2).round().long() for k in (0, 1))
            y, x = y - crop // 4 - pick(crop // 2, B), x - crop // 4 - pick(crop // 2, B)
            top = torch.where(aimed, y.clamp(0, H - crop), top)
            left = torch.where(aimed, x.clamp(0, W - crop), left)
        still = chance(B) < recipe.stills
        time = torch.arange(F, device=self.device)
        t_BF = start[:, None] + torch.where(still[:, None], 0, time)
        y_BR, x_BC = (
            first[:, None] + torch.arange(side, device=self.device) for first, side in ((top, rows), (left, columns))
        )
        picked = frames[clip[:, None, None, None], t_BF[:, :, None, None], y_BR[:, None, :, None], x_BC[:, None, None]]
        box_BKF4 = boxes[clip[:, None], :, t_BF].transpose(1, 2)
        weight = _weights(box_BKF4, y_BR, x_BC, 0.1 * H * W, recipe.box_weight)
        return picked.float() / 127.5 - 1, weight[:, :, None], [None] * B

    def samples(self, count: int) -> list[Tensor]:
        name = next(iter(self.frames))
        return list(self.frames[name][-1][:: max(1, GROUP // count)][:count])


def _weights(box_BKF4: Tensor, y_BR: Tensor, x_BC: Tensor, usual: float, box_weight: float) -> Tensor:
    """(B, F, R, C): `codec.actor_weights` at rows y and columns x. usual: area of a box of the plain weight."""
    left, top, right, bottom = box_BKF4.nan_to_num(-1).unbind(-1)

    def inside(low: Tensor, high: Tensor, place: Tensor) -> Tensor:  # (B, K, F, places)
        place = place[:, None, None]
        return (place >= low.floor()[..., None]) & (place < high.ceil()[..., None])

    within = inside(top, bottom, y_BR)[..., :, None] & inside(left, right, x_BC)[..., None, :]
    area = ((right.ceil() - left.floor()) * (bottom.ceil() - top.floor())).clamp(min=1)
    heavy = 1 + box_weight * (usual / area).sqrt().clamp(0.5, 2.0)
    return torch.where(within, heavy[..., None, None], 1.0).amax(1)
