"""How each actor looks. A painter draws into a Layer, in coordinates (u, v) centred on the actor, v up, radius 1.

Shape legend: n scenes, T frames, K x L window; u, v are (n, T, K, L), parameters (n, T, 1, 1) or (n, 1, 1, 1).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from phonofilm.playhouse.shapes import (
    Colour,
    Layer,
    box,
    capsule,
    circle,
    ellipse,
    mix,
    rgb,
    shade,
    trapezoid,
    turn,
)

PALETTE = {
    "red": rgb(216, 40, 44), "orange": rgb(245, 135, 20), "yellow": rgb(250, 215, 40), "green": rgb(40, 165, 75),
    "blue": rgb(40, 85, 220), "purple": rgb(128, 50, 185), "pink": rgb(250, 125, 185), "cyan": rgb(45, 205, 220),
    "white": rgb(246, 246, 246), "black": rgb(34, 34, 38),
}  # fmt: skip
EXTENT = {
    "ball": (1.3, 1.3), "box": (1.5, 1.5), "bell": (1.45, 3.4), "drum": (1.75, 2.3), "metronome": (1.1, 1.15),
    "car": (2.1, 1.15), "bird": (2.1, 1.5), "rain": (9.0, 9.0),
    "woman": (1.05, 1.1), "man": (1.05, 1.1), "robot": (1.05, 1.1),
}  # fmt: skip
"""Half width and half height of what a painter may touch, in radii."""

INK = rgb(30, 26, 34)
SKINS = (rgb(244, 212, 190), rgb(222, 178, 148), rgb(172, 124, 96), rgb(116, 80, 62))
HAIRS = (rgb(58, 42, 36), rgb(96, 70, 54), rgb(120, 116, 116), rgb(76, 48, 44))


@dataclass
class Look:
    """What a painter needs to know: colour and track values, each (n, T, 1, 1) or (n, 1, 1, 1)."""

    colour: Colour
    angle: Tensor
    pose: Tensor
    round: Tensor
    material: tuple[Tensor, Tensor, Tensor]  # one-hot of rubber, wood, metal
    skin: Colour
    hair: Colour
    blink: Tensor  # 1 = eyes shut
    seconds: Tensor  # (1, T, 1, 1)
    tone: Tensor  # (n, 1, 1, 1) in [0, 1], free


def _edge(c: Colour) -> Colour:
    """The outline of a body: its colour, much darker, so that every actor stands out from any backdrop."""
    return mix(INK, c, 0.25)


def ball(layer: Layer, u: Tensor, v: Tensor, look: Look) -> None:
    """Sphere: rubber has a stripe, wood has rings, metal a sharp gloss. Squash keeps its foot on the floor."""
    s = 0.16 * look.round
    v = (v + 1) / (1 - s) - 1
    u = u / (1 + s)
    rubber, wood, metal = look.material
    d = circle(u, v, 0, 0, 1.0)
    layer.fill(d, _edge(look.colour))
    p, q = turn(u, v, look.angle)
    lambert = (0.62 + 0.42 * (0.75 - 0.5 * (u + 0.35) ** 2 - 0.5 * (v - 0.45) ** 2)).clamp(0.35, 1.05)
    rings = torch.sin(9.0 * (p + 0.25 * q * q))
    body = shade(look.colour, lambert * (1 - 0.13 * wood * (rings > 0.3)))
    layer.fill(d + 0.09, body)
    stripe = (p.abs() - 0.16) * 0.9
    layer.fill(torch.maximum(d + 0.11, stripe), shade(look.colour, lambert * 0.62, 0.10), rubber)
    band = ((q * 2.2).sin() * 0.5 + 0.5) * 0.16
    layer.fill(d + 0.11, shade(look.colour, lambert, 0.5), metal * band)
    gloss = ellipse(u, v, -0.34, 0.42, 0.24, 0.17)
    layer.fill(gloss, rgb(255, 255, 255), 0.25 + 0.6 * metal)


def crate(layer: Layer, u: Tensor, v: Tensor, look: Look) -> None:
    """A wooden box with a frame and a diagonal."""
    u, v = turn(u, v, look.angle)
    d = box(u, v, 0, 0, 1.0, 1.0, 0.06)
    layer.fill(d, _edge(look.colour))
    light = 0.92 + 0.12 * v
    layer.fill(d + 0.07, shade(look.colour, light))
    inner = box(u, v, 0, 0, 0.68, 0.68, 0.02)
    layer.fill(inner, shade(look.colour, 0.72))
    layer.fill(inner + 0.06, shade(look.colour, 0.84))
    layer.fill(torch.maximum(inner + 0.06, (u - v).abs() * 0.707 - 0.15), shade(look.colour, light))


def bell(layer: Layer, u: Tensor, v: Tensor, look: Look) -> None:
    """Hangs on a rope from above and swings about its crown; the clapper leads."""
    layer.fill(capsule(u, v, 0.0, 1.0, 0.0, 3.3, 0.07), rgb(96, 82, 72))
    w = v - 1.0
    p, q = turn(u, w, look.angle)
    q = q + 1.0
    clapper_x = -0.55 * look.angle
    layer.fill(circle(p, q, clapper_x, -0.92, 0.2), _edge(look.colour))
    flare = 0.36 + 0.52 * (0.5 - 0.5 * q).clamp(0, 1) ** 2.2 + 0.1 * (0.5 - 0.5 * q).clamp(0, 1)
    body = torch.maximum((p.abs() - flare) * 0.85, torch.maximum(-0.8 - q, q - 0.72))
    dome = circle(p, q, 0, 0.58, 0.42)
    shape = torch.minimum(body, dome)
    layer.fill(shape - 0.02, _edge(look.colour))
    light = 0.78 + 0.35 * torch.exp(-((p + 0.25) ** 2) / 0.08)
    layer.fill(shape + 0.07, shade(look.colour, light.clamp(0, 1.05), 0.1))
    layer.fill(torch.maximum(shape + 0.07, (q + 0.62).abs() - 0.06), shade(look.colour, 0.6))
    layer.fill(circle(p, q, 0, 1.0, 0.13), _edge(look.colour))


def drum(layer: Layer, u: Tensor, v: Tensor, look: Look) -> None:
    """A standing drum with a pale skin, and a stick that falls on it."""
    v = v + 0.12 * look.round * (v + 1) * 0.5
    shell = torch.minimum(box(u, v, 0, -0.2, 1.0, 0.56), ellipse(u, v, 0, -0.74, 1.0, 0.26))
    layer.fill(shell, _edge(look.colour))
    light = 0.8 + 0.28 * torch.exp(-((u + 0.35) ** 2) / 0.2)
    layer.fill(shell + 0.06, shade(look.colour, light))
    zig = (((u * 1.6).frac().abs() - 0.5).abs() * 1.1 - 0.25 - (v + 0.3)).abs() * 0.6 - 0.045
    layer.fill(torch.maximum(shell + 0.06, zig), rgb(236, 226, 206), 0.85)
    skin = ellipse(u, v, 0, 0.4, 1.02, 0.3)
    layer.fill(skin, _edge(look.colour))
    layer.fill(skin + 0.08, rgb(236, 228, 212))
    lift = look.pose
    tip_x, tip_y = 0.08 + 0.0 * lift, 0.46 + 0.95 * lift
    layer.fill(capsule(u, v, tip_x, tip_y, 1.45, 1.15 + 0.75 * lift, 0.07), rgb(110, 78, 52))
    layer.fill(circle(u, v, tip_x, tip_y, 0.17), rgb(84, 58, 40))


def metronome(layer: Layer, u: Tensor, v: Tensor, look: Look) -> None:
    """A pyramid with a dark face and a bright swinging rod."""
    d = trapezoid(u, v, -1.0, 1.0, 0.72, 0.3)
    layer.fill(d, _edge(look.colour))
    layer.fill(d + 0.07, shade(look.colour, 0.9 + 0.1 * v))
    face = trapezoid(u, v, -0.55, 0.82, 0.46, 0.2)
    layer.fill(face, rgb(64, 58, 58))
    x, y = torch.sin(look.angle), torch.cos(look.angle)
    layer.fill(capsule(u, v, 0.0, -0.6, 1.5 * x, -0.6 + 1.5 * y, 0.045), rgb(232, 226, 210))
    layer.fill(circle(u, v, 1.05 * x, -0.6 + 1.05 * y, 0.15), rgb(232, 226, 210))
    layer.fill(box(u, v, 0, -0.78, 0.68, 0.1, 0.03), shade(look.colour, 0.6))


def car(layer: Layer, u: Tensor, v: Tensor, look: Look) -> None:
    """Side view; pose 1 = drives to the right."""
    u = u * torch.where(look.pose > 0.5, 1.0, -1.0)
    body = box(u, v, 0, -0.32, 1.85, 0.4, 0.24)
    roof = torch.maximum(trapezoid(u + 0.15, v, -0.1, 0.85, 1.25, 0.72), -2.0 - v)
    shape = torch.minimum(body, roof)
    layer.fill(shape, _edge(look.colour))
    layer.fill(shape + 0.07, shade(look.colour, (0.92 + 0.16 * v).clamp(0.7, 1.05)))
    glass = trapezoid(u + 0.15, v, 0.06, 0.7, 0.98, 0.62)
    layer.fill(glass, rgb(186, 202, 208))
    layer.fill(torch.maximum(glass - 0.02, (u + 0.15).abs() - 0.06), shade(look.colour, 0.85))
    layer.fill(ellipse(u, v, 1.7, -0.24, 0.12, 0.13), rgb(250, 244, 214))
    layer.fill(box(u, v, -0.1, -0.36, 1.6, 0.03), shade(look.colour, 0.68))
    for x in (-1.05, 1.05):
        layer.fill(circle(u, v, x, -0.64, 0.38), rgb(40, 40, 44))
        layer.fill(circle(u, v, x, -0.64, 0.19), rgb(178, 178, 182))
        p, q = u - x, v + 0.64
        a, _ = turn(p, q, look.angle * torch.where(look.pose > 0.5, 1.0, -1.0))
        layer.fill(torch.maximum(circle(p, q, 0, 0, 0.17), a.abs() - 0.04), rgb(80, 80, 84))


def bird(layer: Layer, u: Tensor, v: Tensor, look: Look) -> None:
    """Side view; the sign of `angle` is the direction of flight, pose the wing (1 up), round the beak."""
    u = u * torch.where(look.angle > 0, 1.0, -1.0)
    tail = torch.maximum(torch.maximum((v + 0.05).abs() - 0.12 - 0.28 * (-0.6 - u).clamp(0, 1), u + 0.55), -1.55 - u)
    layer.fill(tail, shade(look.colour, 0.62))
    gape = 0.16 * look.round
    for sign in (1.0, -1.0):
        tip = sign * gape
        d = capsule(u, v, 0.95, 0.38 + 0.3 * tip, 1.5, 0.33 + tip * 1.3, 0.075)
        layer.fill(d, rgb(226, 170, 86))
    shape = torch.minimum(ellipse(u, v, 0, 0, 0.95, 0.52), circle(u, v, 0.72, 0.38, 0.4))
    layer.fill(shape, _edge(look.colour))
    layer.fill(shape + 0.07, shade(look.colour, (0.9 + 0.25 * v).clamp(0.68, 1.05)))
    layer.fill(circle(u, v, 0.84, 0.48, 0.12), rgb(250, 250, 250))
    layer.fill(circle(u, v, 0.87, 0.48, 0.065), rgb(20, 20, 24))
    up = 2 * look.pose - 1
    for offset, tint in ((0.07, 0.4), (0.0, 0.8)):
        tip_x, tip_y = -0.5 - 0.1 * up, 0.15 + 1.15 * up
        p = ((u - 0.1) * (tip_x - 0.1) + (v - 0.1) * (tip_y - 0.1)) / ((tip_x - 0.1) ** 2 + (tip_y - 0.1) ** 2 + 1e-6)
        h = p.clamp(0, 1)
        spine = torch.sqrt((u - 0.1 - h * (tip_x - 0.1)) ** 2 + (v - 0.1 - h * (tip_y - 0.1)) ** 2 + 1e-9)
        layer.fill(spine - (0.34 - 0.2 * h) - offset + 0.07, shade(look.colour, tint))


def _fraction(x: Tensor) -> Tensor:
    return x - torch.floor(x)


def cloud(layer: Layer, u: Tensor, v: Tensor, look: Look) -> None:
    """A rain cloud and its streaks; pose = how heavy. Streaks fall at even speed, each with its own phase."""
    heavy = look.pose
    for band in range(2):  # two depths of rain, drawn as slanted cells, one streak in each
        scale, speed = (2.6, 2.0)[band], (7.0, 8.5)[band]
        p = u * scale + 0.3 * v + look.tone * 17 + band * 0.5
        cell = torch.floor(p)
        phase = _fraction(torch.sin(cell * 12.9898 + band * 7.1 + look.tone * 31) * 43.7585)
        fall = _fraction((v + speed * look.seconds) / 3.2 + phase) - 0.5
        streak = torch.sqrt(((p - cell - 0.5) / scale / 0.07) ** 2 + (fall * 3.2 / 0.55) ** 2 + 1e-9)
        wanted = (_fraction(phase * 27.1) < 0.3 + 0.7 * heavy) & (v < -0.3)
        layer.put(((1.2 - streak) * 1.5).clamp(0, 1) * wanted * 0.45, rgb(200, 214, 228))
    grey = mix(rgb(150, 156, 168), rgb(84, 90, 104), heavy)
    d = circle(u, v, -0.95, 0.0, 0.62)
    for x, y, r in ((-0.2, 0.3, 0.85), (0.75, 0.12, 0.7), (1.35, -0.1, 0.45), (-1.5, -0.12, 0.42)):
        d = torch.minimum(d, circle(u, v, x, y, r))
    d = torch.maximum(d, -0.45 - v)
    layer.fill(d, mix(INK, grey, 0.5))
    layer.fill(d + 0.07, shade(grey, (1.0 + 0.22 * v).clamp(0.8, 1.2)))


def _mouth(layer: Layer, u: Tensor, v: Tensor, look: Look, y: float, lip: Colour) -> None:
    wide = 0.24 - 0.11 * look.round
    tall = 0.02 + 0.17 * look.pose
    layer.fill(ellipse(u, v, 0, y, wide + 0.05, tall + 0.045), lip)
    layer.fill(ellipse(u, v, 0, y, wide, tall), rgb(70, 22, 26), (look.pose * 8).clamp(0, 1))
    layer.fill(
        torch.maximum(ellipse(u, v, 0, y, wide - 0.04, tall), y + 0.5 * tall - v),
        rgb(240, 236, 230),
        (look.pose * 3 - 0.4).clamp(0, 1),
    )


def _person(layer: Layer, u: Tensor, v: Tensor, look: Look, woman: bool) -> None:
    shirt = torch.minimum(torch.maximum(ellipse(u, v, 0, -1.0, 0.86, 0.56), -1.0 - v), box(u, v, 0, -1.05, 0.86, 0.12))
    shirt = torch.maximum(shirt, -1.0 - v)
    if woman:
        layer.fill(torch.minimum(ellipse(u, v, 0, 0.28, 0.62, 0.68), box(u, v, 0, -0.22, 0.6, 0.44, 0.2)), look.hair)
    layer.fill(shirt, _edge(look.colour))
    layer.fill(shirt + 0.045, shade(look.colour, 0.95 + 0.1 * v))
    layer.fill(box(u, v, 0, -0.52, 0.17, 0.2, 0.08), shade(look.skin, 0.82))
    layer.fill(ellipse(u, v, 0, -0.62, 0.24, 0.12), shade(look.skin, 0.82))
    head = ellipse(u, v, 0, 0.2, 0.5, 0.62)
    for side in (-1.0, 1.0):
        layer.fill(ellipse(u, v, side * 0.5, 0.18, 0.09, 0.14), shade(look.skin, 0.85))
    layer.fill(head, shade(look.skin, 0.6))
    layer.fill(head + 0.035, shade(look.skin, 1.0 - 0.14 * u.abs()))
    if woman:
        fringe = torch.maximum(ellipse(u, v, 0, 0.42, 0.56, 0.5), -ellipse(u, v, 0.1, 0.08, 0.5, 0.5))
        layer.fill(torch.maximum(fringe, 0.1 - v), look.hair)
    else:
        top = torch.maximum(ellipse(u, v, 0, 0.36, 0.55, 0.54), 0.52 - 0.12 * u * u - v)
        layer.fill(top, look.hair)
        beard = torch.maximum(head + 0.01, -ellipse(u, v, 0, 0.28, 0.43, 0.52))
        layer.fill(torch.maximum(beard, v - 0.1), look.hair, 0.85)
    open_ = 1 - 0.9 * look.blink
    for side in (-1.0, 1.0):
        layer.fill(ellipse(u, v, side * 0.2, 0.28, 0.11, 0.085 * open_), rgb(250, 250, 250))
        layer.fill(ellipse(u, v, side * 0.2, 0.28, 0.055, 0.07 * open_), rgb(36, 30, 34))
        layer.fill(capsule(u, v, side * 0.1, 0.43, side * 0.3, 0.45, 0.022), look.hair)
    layer.fill(capsule(u, v, 0.0, 0.2, 0.03, 0.04, 0.025), shade(look.skin, 0.72))
    _mouth(layer, u, v, look, -0.16, rgb(182, 72, 80) if woman else shade(look.skin, 0.62))


def woman(layer: Layer, u: Tensor, v: Tensor, look: Look) -> None:
    """Head and shoulders with long hair; the shirt bears the colour."""
    _person(layer, *turn(u, v, look.angle), look, True)


def man(layer: Layer, u: Tensor, v: Tensor, look: Look) -> None:
    """Head and shoulders with short hair and a beard; the shirt bears the colour."""
    _person(layer, *turn(u, v, look.angle), look, False)


def robot(layer: Layer, u: Tensor, v: Tensor, look: Look) -> None:
    """A square head with an antenna; the head bears the colour."""
    u, v = turn(u, v, look.angle)
    grey = rgb(150, 154, 162)
    layer.fill(box(u, v, 0, -0.86, 0.62, 0.22, 0.1), rgb(96, 98, 106))
    layer.fill(box(u, v, 0, -0.86, 0.58, 0.18, 0.1), grey)
    layer.fill(box(u, v, 0, -0.6, 0.2, 0.16), rgb(96, 98, 106))
    layer.fill(capsule(u, v, 0.0, 0.6, 0.0, 0.86, 0.04), rgb(96, 98, 106))
    layer.fill(circle(u, v, 0, 0.9, 0.09), mix(rgb(120, 120, 126), rgb(255, 244, 200), look.pose))
    head = box(u, v, 0, 0.06, 0.68, 0.58, 0.14)
    layer.fill(
        torch.minimum(box(u, v, 0.7, 0.1, 0.1, 0.18, 0.04), box(u, v, -0.7, 0.1, 0.1, 0.18, 0.04)), rgb(96, 98, 106)
    )
    layer.fill(head, _edge(look.colour))
    layer.fill(head + 0.05, shade(look.colour, 0.92 + 0.12 * v))
    layer.fill(box(u, v, 0, 0.27, 0.5, 0.17, 0.1), rgb(46, 50, 60))
    for side in (-1.0, 1.0):
        layer.fill(ellipse(u, v, side * 0.24, 0.27, 0.1, 0.1 * (1 - 0.85 * look.blink)), rgb(210, 250, 244))
    wide = 0.36 - 0.13 * look.round
    tall = 0.045 + 0.15 * look.pose
    layer.fill(box(u, v, 0, -0.22, wide + 0.05, tall + 0.05, 0.05), rgb(120, 124, 132))
    layer.fill(box(u, v, 0, -0.22, wide, tall, 0.03), rgb(30, 30, 38))
    teeth = torch.maximum(box(u, v, 0, -0.22, wide, tall), ((u * 9).frac().abs() - 0.5).abs() * 0.1 - 0.02)
    layer.fill(teeth, rgb(160, 164, 172), 0.5)


PAINTERS: dict[str, Callable[[Layer, Tensor, Tensor, Look], None]] = {
    "ball": ball, "box": crate, "bell": bell, "drum": drum, "metronome": metronome, "car": car, "bird": bird,
    "rain": cloud, "woman": woman, "man": man, "robot": robot,
}  # fmt: skip
