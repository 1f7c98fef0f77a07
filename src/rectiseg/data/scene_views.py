"""The generated scenes: a street from the roadway and a room from its front, back to front on a canvas."""

import numpy as np

from rectiseg.data.scene_canvas import (
    CURTAIN,
    FABRICS,
    FLOOR,
    GREYS,
    LEAVES,
    PAVEMENT,
    POLE,
    ROAD,
    SKIES,
    SKY,
    WALL,
    WOODS,
    Canvas,
    Point,
    draw_disguise,
    inside,
    pick,
    pick_pattern,
)
from rectiseg.data.scene_figures import (
    Figure,
    draw_car,
    draw_lamp,
    draw_leaves,
    draw_person,
    draw_pole,
    draw_potted_plant,
    draw_sofa,
    draw_table,
    draw_tree,
)
from rectiseg.types import IGNORE_INDEX

CAMERA_HEIGHT = 1.5  # metres: a figure this tall reaches the horizon, wherever it stands


def draw_sky(canvas: Canvas, random: np.random.Generator) -> None:
    everything = [(0.0, 0.0), (canvas.aspect, 0.0), (canvas.aspect, 1.0), (0.0, 1.0)]
    canvas.surface(everything, random, pick(random, SKIES), "blotches", SKY)


def draw_facade(canvas: Canvas, random: np.random.Generator, quad: list[Point]) -> None:
    """A wall of any of the colours of road, sky or cloth, with panes that mirror the sky."""
    canvas.surface(quad, random, pick(random, FABRICS + GREYS + SKIES, 0.9), pick_pattern(random), WALL)
    if random.random() < 0.4:
        draw_disguise(canvas, random, quad)
    columns, rows = random.integers(1, (4, 5)).tolist()
    glass = pick(random, SKIES, random.uniform(0.4, 1.0))
    for column in range(columns):
        for row in range(rows):
            left, top = (column + 0.25) / columns, (row + 0.25) / (rows + 0.5)
            canvas.polygon(inside(quad, left, top, left + 0.5 / columns, top + 0.5 / (rows + 0.5)), glass, None)


def draw_skyline(canvas: Canvas, random: np.random.Generator, horizon: float) -> None:
    x = -random.uniform(0, 0.2)
    while x < canvas.aspect:
        width, base = random.uniform(0.15, 0.45), horizon + 0.04
        if random.random() < 0.75:
            top = horizon - random.uniform(0.08, 0.45)
            draw_facade(canvas, random, [(x, top), (x + width, top), (x + width, base), (x, base)])
        else:
            bush = (0.6 * width, random.uniform(0.06, 0.15))
            draw_leaves(canvas, random, (x + width / 2, base - 0.5 * bush[1]), bush, pick(random, LEAVES))
        x += width


def draw_ground(canvas: Canvas, random: np.random.Generator, vanishing: Point, road: tuple[Point, Point]) -> None:
    """Pavement from side to side, and on it a road that narrows towards the vanishing point."""
    (x, horizon), (left, right) = vanishing, road
    aspect = canvas.aspect
    earth = [(0.0, horizon + 0.03), (aspect, horizon + 0.03), (aspect, 1.0), (0.0, 1.0)]
    canvas.surface(earth, random, pick(random, GREYS + FABRICS[:1]), pick_pattern(random), PAVEMENT)
    asphalt = pick_pattern(random) if random.random() < 0.3 else "blotches"
    lanes = [(x - 0.02, horizon + 0.03), (x + 0.02, horizon + 0.03), right, left]
    canvas.surface(lanes, random, pick(random, GREYS), asphalt, ROAD)
    draw_disguise(canvas, random, lanes)
    if random.random() < 0.6:
        kerb = pick(random, GREYS, 1.2)
        canvas.line([(x - 0.02, horizon + 0.03), left], 0.01, kerb, PAVEMENT)
        canvas.line([(x + 0.02, horizon + 0.03), right], 0.01, kerb, PAVEMENT)
    if random.random() < 0.6:
        for top in (0.2, 0.4, 0.65):
            canvas.polygon(inside(lanes, 0.48, top, 0.52, top + 0.15), (225, 225, 220), None)


def draw_near_wall(canvas: Canvas, random: np.random.Generator, vanishing: Point, edge: float) -> None:
    """A facade along the street, from the image's edge towards the vanishing point."""
    top, base, far = random.uniform(-0.3, 0.1), random.uniform(0.6, 0.8), random.uniform(0.4, 0.65)
    x, horizon = vanishing
    far_x = x + (edge - x) * far
    far_top, far_base = horizon + (top - horizon) * far, horizon + (base - horizon) * far
    draw_facade(canvas, random, [(edge, top), (far_x, far_top), (far_x, far_base), (edge, base)])


def draw_figures(
    canvas: Canvas, random: np.random.Generator, horizon: float, figures: list[tuple[Figure, float, float]]
) -> None:
    """Draw (figure, x, foot) from far to near, each over a faint shadow on its ground."""
    for figure, x, foot in sorted(figures, key=lambda placed: placed[2]):
        metre = (foot - horizon) / CAMERA_HEIGHT
        canvas.ellipse(x, foot, (0.5 * metre, 0.06 * metre), pick(random, GREYS, 0.5), None)
        figure(canvas, random, x, foot, metre)


def street_figures(
    random: np.random.Generator, vanishing: Point, kerbs: tuple[float, float], aspect: float
) -> list[tuple[Figure, float, float]]:
    """Cars on the road, trees and poles beside it, people on either; `kerbs` are the road's sides at the bottom."""
    (x, horizon), figures = vanishing, []
    for figure, count in ((draw_car, 2), (draw_person, 4), (draw_pole, 3), (draw_tree, 2)):
        for foot in random.uniform(horizon + 0.1, 0.97, size=random.integers(1, count + 1)).tolist():
            depth = (foot - horizon) / (1 - horizon)
            if figure is draw_car or (figure is draw_person and random.random() < 0.3):
                sideways = random.uniform(*kerbs)
            else:
                away = random.uniform(0, 0.4)
                sideways = kerbs[0] - away if random.random() < 0.5 else kerbs[1] + away
            figures.append((figure, min(max(x + depth * (sideways - x), 0.0), aspect), foot))
    return figures


def draw_street(canvas: Canvas, random: np.random.Generator) -> None:
    horizon, aspect = random.uniform(0.35, 0.5), canvas.aspect
    vanishing = (aspect * random.uniform(0.3, 0.7), horizon)
    left, right = vanishing[0] - random.uniform(0.35, 1.1), vanishing[0] + random.uniform(0.35, 1.1)
    draw_sky(canvas, random)
    draw_skyline(canvas, random, horizon)
    draw_ground(canvas, random, vanishing, ((left, 1.0), (right, 1.0)))
    for edge in (0.0, aspect):
        if random.random() < 0.5:
            draw_near_wall(canvas, random, vanishing, edge)
    draw_figures(canvas, random, horizon, street_figures(random, vanishing, (left, right), aspect))
    if random.random() < 0.4:  # the bonnet of the car that carries the camera
        canvas.ellipse(aspect / 2, 1.05, (0.45 * aspect, 0.11), pick(random, GREYS, 0.5), IGNORE_INDEX)


def draw_window(canvas: Canvas, random: np.random.Generator, quad: list[Point]) -> None:
    """A view of the sky; the frame belongs to no class."""
    canvas.surface(quad, random, pick(random, SKIES, 1.1), "blotches", SKY)
    middle = inside(quad, 0.5, 0, 0.5, 1)
    canvas.line([*quad, quad[0]], 0.012, (235, 235, 230), IGNORE_INDEX)
    canvas.line([middle[0], middle[2]], 0.012, (235, 235, 230), IGNORE_INDEX)


def draw_curtains(canvas: Canvas, random: np.random.Generator, wall: list[Point], left: float, right: float) -> None:
    """Cloth from a rod to the floor, at either side of the wall's span from left to right."""
    cloth, rod_height, hem = pick(random, FABRICS + GREYS), 0.1, random.uniform(0.85, 1.02)
    margin = 0.3 * (right - left)
    breadth = random.uniform(1.1, 3.0) * margin  # from wide open to almost shut
    for start in (left - margin, right + margin - breadth):
        canvas.surface(inside(wall, start, rod_height, start + breadth, hem), random, cloth, "folds", CURTAIN)
    rod = inside(wall, left - 1.2 * margin, rod_height, right + 1.2 * margin, rod_height)
    canvas.line(rod[:2], 0.015, pick(random, GREYS + WOODS, 0.7), POLE)


def draw_shell(canvas: Canvas, random: np.random.Generator, wall: list[Point]) -> None:
    """The room around its back wall: ceiling, floor and side walls reach out to the camera."""
    paint, pattern = pick(random, FABRICS + GREYS), pick_pattern(random)
    centre = np.mean(wall, axis=0)
    near = [(float(x), float(y)) for x, y in centre + 4 * (np.asarray(wall) - centre)]
    everything = [(0.0, 0.0), (canvas.aspect, 0.0), (canvas.aspect, 1.0), (0.0, 1.0)]
    canvas.polygon(everything, pick(random, (paint,), 1.15), WALL)
    ground, boards = [wall[3], wall[2], near[2], near[3]], pick(random, WOODS + GREYS + FABRICS, 0.9)
    canvas.surface(ground, random, boards, pick_pattern(random), FLOOR)
    if random.random() < 0.5:
        draw_disguise(canvas, random, [wall[3], wall[2], (canvas.aspect, 1.0), (0.0, 1.0)])  # a rug
    for quad, light in (
        ([near[0], wall[0], wall[3], near[3]], random.uniform(0.7, 1)),
        ([wall[1], near[1], near[2], wall[2]], random.uniform(0.7, 1)),
        (wall, 1.0),
    ):
        canvas.surface(quad, random, pick(random, (paint,), light), pattern, WALL)
    draw_disguise(canvas, random, wall)


def draw_room(canvas: Canvas, random: np.random.Generator) -> None:
    aspect = canvas.aspect
    left, right = aspect * random.uniform(-0.05, 0.25), aspect * random.uniform(0.75, 1.05)
    ceiling, base = random.uniform(-0.05, 0.12), random.uniform(0.55, 0.72)
    wall = [(left, ceiling), (right, ceiling), (right, base), (left, base)]
    draw_shell(canvas, random, wall)
    start = random.uniform(0.2, 0.5)
    end = start + random.uniform(0.2, 0.35)
    if random.random() < 0.75:
        draw_window(canvas, random, inside(wall, start, 0.15, end, random.uniform(0.5, 0.75)))
    if random.random() < 0.75:
        draw_curtains(canvas, random, wall, start, end)
    figures: list[tuple[Figure, float, float]] = []
    for figure, count in ((draw_table, 2), (draw_sofa, 1), (draw_person, 2), (draw_lamp, 1), (draw_potted_plant, 2)):
        for foot in random.uniform(base + 0.02, 0.97, size=random.integers(0, count + 1)).tolist():
            figures.append((figure, random.uniform(0.05, 0.95) * aspect, foot))
    draw_figures(canvas, random, horizon=0.38, figures=figures)
