"""The figures of the generated scenes: what stands on the ground, in front of walls and sky.

Every figure stands at (x, foot); `metre` is the length of a metre there, which grows with nearness.
"""

import math
from collections.abc import Callable

import numpy as np

from rectiseg.data.scene_canvas import (
    CAR,
    FABRICS,
    GREYS,
    LEAVES,
    PERSON,
    PLANT,
    POLE,
    SKIES,
    SKINS,
    SOFA,
    TABLE,
    WOODS,
    Canvas,
    Colour,
    Point,
    inside,
    pick,
)

Figure = Callable[[Canvas, np.random.Generator, float, float, float], None]

HEADLIGHT: Colour = (235, 230, 200)
TAIL_LIGHT: Colour = (190, 60, 45)


def box(x: float, top: float, half: float, bottom: float) -> list[Point]:
    """A rectangle's corners, clockwise from its top left."""
    return [(x - half, top), (x + half, top), (x + half, bottom), (x - half, bottom)]


def draw_person(canvas: Canvas, random: np.random.Generator, x: float, foot: float, metre: float) -> None:
    skin, coat, trousers = pick(random, SKINS), pick(random, FABRICS + GREYS, 0.9), pick(random, GREYS + FABRICS, 0.6)
    hip, shoulder = foot - 0.85 * metre, foot - 1.45 * metre
    for side in (-1, 1):
        stride = side * random.uniform(0.08, 0.3) * metre
        canvas.line([(x + side * 0.08 * metre, hip), (x + stride, foot)], 0.14 * metre, trousers, PERSON)
        hand = (x + side * random.uniform(0.25, 0.5) * metre, hip - random.uniform(-0.1, 0.4) * metre)
        canvas.line([(x + side * 0.2 * metre, shoulder + 0.05 * metre), hand], 0.1 * metre, coat, PERSON)
    canvas.polygon(box(x, shoulder, 0.22 * metre, hip), coat, PERSON)
    canvas.ellipse(x, foot - 1.62 * metre, (0.12 * metre, 0.15 * metre), skin, PERSON)


def draw_car(canvas: Canvas, random: np.random.Generator, x: float, foot: float, metre: float) -> None:
    """A car from behind or from its side; glass that mirrors the sky is car too."""
    paint, glass, tyre = pick(random, FABRICS + GREYS + SKIES), pick(random, SKIES, 0.6), pick(random, GREYS, 0.25)
    from_behind = random.random() < 0.6
    half = 0.9 * metre if from_behind else 1.9 * metre
    roof, belt, sill = foot - 1.4 * metre, foot - 0.85 * metre, foot - 0.25 * metre
    wheels = [x - 0.65 * half, x + 0.65 * half]
    if from_behind:
        for wheel in wheels:
            canvas.polygon(box(wheel, sill - 0.05 * metre, 0.13 * metre, foot), tyre, CAR)
    canvas.polygon(box(x, belt, half, sill), paint, CAR)
    cabin = [(x - 0.6 * half, roof), (x + 0.5 * half, roof), (x + 0.75 * half, belt), (x - 0.85 * half, belt)]
    canvas.polygon(cabin, paint, CAR)
    canvas.polygon(inside(cabin, 0.08, 0.15, 0.92, 0.9), glass, CAR)
    for side, light in ((-1, TAIL_LIGHT), (1, TAIL_LIGHT if from_behind else HEADLIGHT)):
        lamp = box(x + side * (half - 0.12 * metre), belt + 0.08 * metre, 0.12 * metre, belt + 0.25 * metre)
        canvas.polygon(lamp, light, CAR)
    if not from_behind:
        for wheel in wheels:
            canvas.ellipse(wheel, foot - 0.3 * metre, (0.32 * metre, 0.3 * metre), tyre, CAR)


def draw_pole(canvas: Canvas, random: np.random.Generator, x: float, foot: float, metre: float) -> None:
    """A street lamp or a traffic sign."""
    steel, top = pick(random, GREYS, random.uniform(0.5, 1.1)), foot - random.uniform(2.2, 5.0) * metre
    canvas.line([(x, foot), (x, top)], 0.1 * metre, steel, POLE)
    if random.random() < 0.5:
        reach = metre if random.random() < 0.5 else -metre
        canvas.line([(x, top), (x + reach, top)], 0.1 * metre, steel, POLE)
    else:
        sign = pick(random, (TAIL_LIGHT, (60, 90, 180), *GREYS))
        canvas.ellipse(x, top, (0.35 * metre, 0.35 * metre), sign, POLE)


def draw_lamp(canvas: Canvas, random: np.random.Generator, x: float, foot: float, metre: float) -> None:
    steel, top = pick(random, GREYS, 0.6), foot - random.uniform(1.4, 1.8) * metre
    canvas.line([(x, foot), (x, top)], 0.05 * metre, steel, POLE)
    canvas.line([(x - 0.2 * metre, foot), (x + 0.2 * metre, foot)], 0.05 * metre, steel, POLE)
    hem = top + 0.35 * metre
    shade = [(x - 0.15 * metre, top), (x + 0.15 * metre, top), (x + 0.28 * metre, hem), (x - 0.28 * metre, hem)]
    canvas.polygon(shade, pick(random, FABRICS, 1.15), POLE)


def draw_leaves(canvas: Canvas, random: np.random.Generator, centre: Point, radii: Point, colour: Colour) -> None:
    """A crown with a ragged outline, and leaves strewn over and along it."""

    def at(turn: float, reach: float) -> Point:
        angle = 2 * math.pi * turn
        return centre[0] + radii[0] * reach * math.cos(angle), centre[1] + radii[1] * reach * math.sin(angle)

    reaches = random.uniform(0.72, 1.05, size=36).tolist()
    canvas.polygon([at(step / 36, reach) for step, reach in enumerate(reaches)], colour, PLANT)
    leaf = 0.08 * min(radii)
    for brightness in (0.75, 1.0, 1.25):
        shade = pick(random, (colour,), brightness)
        for turn, reach in random.uniform((0, 0.3), (1, 1.1), size=(7, 2)).tolist():
            canvas.ellipse(*at(turn, reach), (leaf, leaf), shade, PLANT)


def draw_tree(canvas: Canvas, random: np.random.Generator, x: float, foot: float, metre: float) -> None:
    top, crown = foot - random.uniform(2.2, 3.2) * metre, random.uniform(0.8, 1.5) * metre
    canvas.line([(x, foot), (x, top)], 0.25 * metre, pick(random, WOODS, 0.7), PLANT)
    draw_leaves(canvas, random, (x, top), (crown, 1.1 * crown), pick(random, LEAVES))


def draw_potted_plant(canvas: Canvas, random: np.random.Generator, x: float, foot: float, metre: float) -> None:
    rim, brim = 0.22 * metre, foot - 0.4 * metre
    pot = [(x - rim, brim), (x + rim, brim), (x + 0.7 * rim, foot), (x - 0.7 * rim, foot)]
    canvas.polygon(pot, pick(random, FABRICS + WOODS, 0.8), PLANT)
    crown = (random.uniform(0.25, 0.45) * metre, random.uniform(0.35, 0.6) * metre)
    draw_leaves(canvas, random, (x, brim - 0.8 * crown[1]), crown, pick(random, LEAVES))


def draw_table(canvas: Canvas, random: np.random.Generator, x: float, foot: float, metre: float) -> None:
    """A top seen from a little above, and four thin legs between which one sees the room."""
    wood, half = pick(random, WOODS + FABRICS), random.uniform(0.55, 1.0) * metre
    front, back = foot - 0.75 * metre, foot - 0.97 * metre
    for legs, end, brightness in ((0.8, foot - 0.2 * metre, 0.6), (0.92, foot, 0.8)):
        shade = pick(random, (wood,), brightness)
        for leg in (x - legs * half, x + legs * half):
            canvas.line([(leg, front), (leg, end)], 0.06 * metre, shade, TABLE)
    top = [(x - 0.85 * half, back), (x + 0.85 * half, back), (x + half, front), (x - half, front)]
    canvas.polygon(top, wood, TABLE)
    canvas.line([(x - half, front), (x + half, front)], 0.06 * metre, pick(random, (wood,), 0.8), TABLE)


def draw_sofa(canvas: Canvas, random: np.random.Generator, x: float, foot: float, metre: float) -> None:
    """A back, a seat and two round arms, in a cloth that could be a curtain's."""
    cloth, half = pick(random, FABRICS + GREYS), random.uniform(0.7, 1.1) * metre
    seat, arm = foot - 0.45 * metre, 0.14 * metre
    pattern = "folds" if random.random() < 0.4 else "plain"
    canvas.surface(box(x, foot - 0.9 * metre, half, foot), random, cloth, pattern, SOFA)
    canvas.polygon(box(x, seat, half, foot), pick(random, (cloth,), 0.85), SOFA)
    canvas.line([(x - half, seat), (x + half, seat)], 0.04 * metre, pick(random, (cloth,), 0.6), SOFA)
    for end in (x - half, x + half):
        canvas.ellipse(end, foot - 0.6 * metre, (arm, arm), cloth, SOFA)
        canvas.polygon(box(end, foot - 0.6 * metre, arm, foot), cloth, SOFA)
