"""Sky or room and floor behind the actors. Muted, so that the colours of actors stand out.

Shape legend: n scenes; planes are (n, K, L); x, y are world coordinates of the same shape.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from phonofilm.playhouse.scene import FLOORS, LIGHTS, Performance
from phonofilm.playhouse.shapes import Colour, Layer, box, circle, ellipse, mix, rgb

HORIZON = 0.24  # of the floor, above the line on which actors stand, world units

SKY = {  # top and bottom of the background
    "day": (rgb(168, 196, 214), rgb(222, 230, 230)),
    "sunset": (rgb(140, 122, 146), rgb(236, 202, 178)),
    "night": (rgb(56, 62, 84), rgb(98, 102, 122)),
    "indoors": (rgb(214, 206, 192), rgb(196, 186, 172)),
}
GROUND = {"wooden": rgb(172, 142, 112), "stone": rgb(158, 156, 152), "grass": rgb(140, 158, 118)}
LEVEL = {"day": 1.0, "sunset": 0.9, "night": 0.66, "indoors": 0.98}
"""How bright the floor is under each light."""


def _pick(table: Sequence[Colour], index: Tensor) -> Colour:
    values = torch.tensor([[float(c) for c in colour] for colour in table], device=index.device)[index]
    r, g, b = (values[:, i, None, None] for i in range(3))
    return r, g, b


def draw(performances: Sequence[Performance], x: Tensor, y: Tensor, floor: float, top: float, pixel: float) -> Tensor:
    """Backdrops (n, 3, K, L) in [0, 1] at world coordinates x, y (K, L).

    floor, top: world y of the actors' feet and of the upper edge. pixel: its size in world units.
    """
    device = x.device
    n = len(performances)
    x, y = x.expand(n, *x.shape), y.expand(n, *y.shape)
    light = torch.tensor([LIGHTS.index(p.scene.light) for p in performances], device=device)
    ground = torch.tensor([FLOORS.index(p.scene.floor) for p in performances], device=device)
    draws = {
        k: torch.tensor([p.extras[k] for p in performances], device=device, dtype=torch.float32)[:, None, None]
        for k in ("cloud", "sun")
    }
    one = [(light == i).float()[:, None, None] for i in range(len(LIGHTS))]
    day, sunset, night, room = one
    wood, stone, grass = ((ground == i).float()[:, None, None] for i in range(3))
    horizon = floor + HORIZON
    layer = Layer(x, pixel)
    up = ((y - horizon) / (top - horizon)).clamp(0, 1)
    sky = mix(_pick([SKY[name][1] for name in LIGHTS], light), _pick([SKY[name][0] for name in LIGHTS], light), up)
    layer.put(torch.ones_like(x), sky)

    sun_x, sun_y = 1.5 * (draws["sun"] - 0.5), horizon + (top - horizon) * (0.72 - 0.5 * sunset)
    disc = circle(x, y, sun_x, sun_y, 0.13 + 0.06 * sunset)
    glow = torch.exp(-((disc.clamp(min=0) / 0.35) ** 2))
    layer.put(glow * 0.3 * (day + sunset), rgb(252, 238, 214))
    layer.put(layer.cover(disc) * (day + sunset), mix(rgb(252, 244, 222), rgb(250, 222, 190), sunset))
    moon = torch.maximum(disc, -circle(x, y, sun_x + 0.07, sun_y + 0.04, 0.12))
    layer.put(layer.cover(moon) * night, rgb(222, 222, 212))
    for k in range(9):  # stars
        a, b = torch.frac(draws["cloud"] * (k + 3.7) * 7.3), torch.frac(draws["sun"] * (k + 2.9) * 5.1)
        star = circle(x, y, 2.8 * (a - 0.5), horizon + 0.35 + (top - horizon - 0.35) * b, 0.014)
        layer.put(layer.cover(star) * night * 0.8, rgb(214, 214, 206))
    for k in range(3):  # clouds
        cx = 2.6 * (torch.frac(draws["cloud"] * (k + 1) * 3.1 + 0.31 * k) - 0.5)
        cy = horizon + (top - horizon) * (0.55 + 0.16 * k)
        puff = ellipse(x, y, cx, cy, 0.34, 0.07)
        puff = torch.minimum(puff, ellipse(x, y, cx + 0.08, cy + 0.05, 0.17, 0.08))
        soft = (0.5 - puff / (3 * pixel)).clamp(0, 1)
        layer.put(soft * (0.55 * day + 0.3 * sunset), mix(rgb(238, 240, 240), rgb(206, 176, 172), sunset))
    hill = (
        horizon
        + 0.16
        + 0.1 * torch.sin(2.3 * x + 6.28 * draws["cloud"])
        + 0.05 * torch.sin(5.1 * x + 6.28 * draws["sun"])
    )
    slope = (0.5 - (y - hill) / (1.5 * pixel)).clamp(0, 1)
    hills = mix(mix(rgb(162, 178, 168), rgb(150, 126, 132), sunset), rgb(62, 68, 84), night)
    layer.put(slope * (1 - room), hills)

    frame_x = 0.62 * torch.sign(draws["sun"] - 0.5)
    frame_y = horizon + 0.56 * (top - horizon)
    pane = box(x, y, frame_x, frame_y, 0.26, 0.3, 0.02)
    layer.put(layer.cover(pane) * room, rgb(150, 136, 120))
    layer.put(layer.cover(pane + 0.045) * room, rgb(206, 218, 222))
    cross = torch.minimum((x - frame_x).abs(), (y - frame_y).abs()) - 0.018
    layer.put(layer.cover(torch.maximum(pane + 0.045, cross)) * room, rgb(150, 136, 120))
    layer.put(layer.cover((y - horizon - 0.05).abs() - 0.045) * room, rgb(172, 160, 144))

    depth = 1.0 / (horizon - y + 0.3).clamp(min=0.05)
    near = (1.2 - 0.3 * depth).clamp(0.15, 1)
    level = _pick([mix((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), LEVEL[name]) for name in LIGHTS], light)
    base = _pick([GROUND[name] for name in FLOORS], ground)
    ground_colour = (base[0] * level[0], base[1] * level[1], base[2] * level[2] * (1 + 0.12 * night))
    plank = (torch.frac((x * depth * 1.1) * 1.0 + 64.0) - 0.5).abs()
    line = (1 - ((0.5 - plank) / (0.05 * depth).clamp(0.02, 0.2)).clamp(0, 1)) * near
    row = (torch.frac(depth * 2.6 + 0.15) - 0.5).abs()
    tile = torch.maximum(line, (1 - ((0.5 - row) / 0.1).clamp(0, 1)) * near)
    blades = 0.5 + 0.5 * torch.sin(x * 21 + 4 * torch.sin(depth * 9)) * torch.sin(depth * 23)
    texture = 1.0 - 0.17 * line * wood - 0.14 * tile * stone - 0.12 * blades * grass * near
    texture = texture * (0.9 + 0.1 * near)
    layer.put(
        layer.cover(y - horizon), (ground_colour[0] * texture, ground_colour[1] * texture, ground_colour[2] * texture)
    )
    return torch.stack(layer.planes, 1)
