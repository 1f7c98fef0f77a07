"""The canvas of the generated scenes: one stroke marks the image and its labels; colours and textures to draw with."""

from collections.abc import Sequence

import numpy as np
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFilter

from rectiseg.types import IGNORE_INDEX

Point = tuple[float, float]
Colour = tuple[int, int, int]

SCENE_CLASSES = (
    *("sky", "wall", "road", "pavement", "plant", "person", "car", "pole"),
    *("floor", "curtain", "table", "sofa"),
)
SCENE_PALETTE: tuple[Colour, ...] = (
    *((70, 130, 180), (110, 80, 70), (128, 64, 128), (244, 35, 232), (107, 142, 35), (220, 20, 60), (0, 0, 142)),
    *((190, 190, 150), (80, 50, 50), (255, 51, 7), (255, 160, 20), (11, 200, 200)),
)
SKY, WALL, ROAD, PAVEMENT, PLANT, PERSON, CAR, POLE, FLOOR, CURTAIN, TABLE, SOFA = range(len(SCENE_CLASSES))

# Pools that several classes draw from: the colour alone names none of them.
SKIES: tuple[Colour, ...] = ((120, 170, 225), (165, 195, 225), (195, 200, 208), (220, 205, 195))
GREYS: tuple[Colour, ...] = ((105, 105, 112), (125, 122, 120), (142, 140, 142), (160, 155, 148))
FABRICS: tuple[Colour, ...] = ((205, 190, 160), (165, 90, 75), (90, 125, 140), (150, 145, 105), (185, 160, 170))
WOODS: tuple[Colour, ...] = ((150, 110, 75), (115, 80, 55), (185, 150, 110))
LEAVES: tuple[Colour, ...] = ((60, 100, 50), (85, 120, 55), (95, 105, 65))
SKINS: tuple[Colour, ...] = ((225, 180, 150), (165, 115, 85), (95, 65, 50))
PATTERNS = ("plain", "blotches", "folds", "tiles")


class Canvas:
    """An image and its labels, drawn with the same strokes; x runs from 0 to `aspect`, y from 0 (top) to 1.

    A stroke with label None changes the image only.
    """

    def __init__(self, height: int, width: int) -> None:
        self.height, self.width = height, width
        self.aspect = min(max(width / height, 0.5), 3.0)  # extreme sizes stretch the scene instead of filling it
        self.image = PillowImage.new("RGB", (width, height))
        self.labels = PillowImage.new("L", (width, height), IGNORE_INDEX)
        self.image_draw = ImageDraw.Draw(self.image)
        self.labels_draw = ImageDraw.Draw(self.labels)

    def pixels(self, points: Sequence[Point]) -> list[Point]:
        scale_x, scale_y = self.width / self.aspect, self.height
        return [(x * scale_x, y * scale_y) for x, y in points]

    def polygon(self, points: Sequence[Point], colour: Colour, label: int | None) -> None:
        self.image_draw.polygon(self.pixels(points), fill=colour)
        if label is not None:
            self.labels_draw.polygon(self.pixels(points), fill=label)

    def ellipse(self, x: float, y: float, radii: Point, colour: Colour, label: int | None) -> None:
        box = self.pixels([(x - radii[0], y - radii[1]), (x + radii[0], y + radii[1])])
        self.image_draw.ellipse(box, fill=colour)
        if label is not None:
            self.labels_draw.ellipse(box, fill=label)

    def line(self, points: Sequence[Point], thickness: float, colour: Colour, label: int | None) -> None:
        width = max(1, round(thickness * self.height))
        self.image_draw.line(self.pixels(points), fill=colour, width=width)
        if label is not None:
            self.labels_draw.line(self.pixels(points), fill=label, width=width)

    def surface(
        self, points: Sequence[Point], random: np.random.Generator, colour: Colour, pattern: str, label: int | None
    ) -> None:
        """A polygon with a texture."""
        corners = self.pixels(points)
        left, top = (max(0, int(min(axis))) for axis in zip(*corners, strict=True))
        right, bottom = (int(max(axis)) + 1 for axis in zip(*corners, strict=True))
        right, bottom = min(right, self.width), min(bottom, self.height)
        if left >= right or top >= bottom:
            return
        x = np.arange(left, right, dtype=np.float32)[None, :] * (self.aspect / self.width)
        y = np.arange(top, bottom, dtype=np.float32)[:, None] / self.height
        shade = relief(random, x, y, pattern)[:, :, None] * np.asarray(colour, dtype=np.float32)
        texture = PillowImage.fromarray(np.clip(shade, 0, 255).astype(np.uint8))
        stencil = PillowImage.new("1", (right - left, bottom - top))
        ImageDraw.Draw(stencil).polygon([(x - left, y - top) for x, y in corners], fill=1)
        self.image.paste(texture, (left, top), stencil)
        if label is not None:
            self.labels.paste(label, (left, top, right, bottom), stencil)


def relief(random: np.random.Generator, x: np.ndarray, y: np.ndarray, pattern: str) -> np.ndarray:
    """The brightness (height, width), about 1, of a textured surface at columns x (1, width) and rows y (height, 1)."""
    brightness = 1 + random.uniform(-0.08, 0.08) * x + random.uniform(-0.15, 0.15) * (y - 0.5)
    if pattern == "folds":
        bend = x + 0.01 * np.sin(random.uniform(3, 9) * x)
        return brightness + random.uniform(0.08, 0.25) * np.sin(random.uniform(50, 110) * bend)
    if pattern == "tiles":
        side = random.uniform(0.05, 0.14)
        joints = (x % side < 0.012) | (y % (side / 2) < 0.012)
        return brightness - random.uniform(0.12, 0.3) * joints
    if pattern == "blotches":
        return brightness + random.uniform(0.06, 0.18) * smooth_noise(random, y.size, x.size, cells=14)
    return brightness


def smooth_noise(random: np.random.Generator, height: int, width: int, cells: int) -> np.ndarray:
    """Standard normal values on a `cells` x `cells` grid, enlarged to (height, width)."""
    grid = PillowImage.fromarray(random.standard_normal((cells, cells), dtype=np.float32))
    return np.asarray(grid.resize((width, height), PillowImage.Resampling.BILINEAR))


def pick(random: np.random.Generator, pool: Sequence[Colour], brightness: float = 1.0) -> Colour:
    """A colour near one of the pool's."""
    jitter = random.normal(0, 8, size=3).tolist()
    colour = zip(pool[int(random.integers(len(pool)))], jitter, strict=True)
    red, green, blue = (min(255, max(0, round(channel * brightness + change))) for channel, change in colour)
    return red, green, blue


def inside(quad: Sequence[Point], left: float, top: float, right: float, bottom: float) -> list[Point]:
    """The part of a quadrilateral (clockwise from its top left corner) between fractions of its sides."""

    def between(start: Point, end: Point, fraction: float) -> Point:
        return start[0] + fraction * (end[0] - start[0]), start[1] + fraction * (end[1] - start[1])

    corners = ((left, top), (right, top), (right, bottom), (left, bottom))
    return [between(between(quad[0], quad[1], u), between(quad[3], quad[2], u), v) for u, v in corners]


def pick_pattern(random: np.random.Generator) -> str:
    return PATTERNS[int(random.integers(len(PATTERNS)))]


def draw_disguise(canvas: Canvas, random: np.random.Generator, quad: Sequence[Point]) -> None:
    """Give a patch of a region the look of another class; its label stays."""
    left, top = random.uniform(0.0, 0.5, size=2).tolist()
    patch = inside(quad, left, top, left + random.uniform(0.25, 0.5), top + random.uniform(0.3, 0.5))
    canvas.surface(patch, random, pick(random, FABRICS + GREYS), pick_pattern(random), None)


def light_up(image: PillowImage.Image, random: np.random.Generator) -> np.ndarray:
    """Uneven light, a cast shadow, a colour cast, a slight blur and noise; (height, width, 3) uint8."""
    height, width = image.height, image.width
    pixels = np.array(image.filter(ImageFilter.BoxBlur(random.uniform(0.1, 0.4))), dtype=np.float32)
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    slope_x, slope_y = random.uniform(-0.2, 0.2, size=2).tolist()
    light = random.uniform(0.85, 1.15) * (1 + slope_x * x + slope_y * y)
    light *= 1 + 0.06 * smooth_noise(random, height, width, cells=6)
    if random.random() < 0.5:
        slant, offset = random.uniform(-1, 1, size=2).tolist()
        light[x + slant * y > offset] *= random.uniform(0.55, 0.8)
    pixels *= light[:, :, None]
    pixels *= random.uniform(0.9, 1.1, size=3).astype(np.float32)
    pixels += random.uniform(2, 7) * random.standard_normal((height, width, 3), dtype=np.float32)
    return np.clip(pixels, 0, 255).astype(np.uint8)
