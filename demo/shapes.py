"""Draw painted shapes in front of distracting backgrounds, for problems 1 and 2."""

from __future__ import annotations

import colorsys
import math

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw, ImageFilter

from demo.noise import smooth

TURN = 2 * math.pi
ROUND = np.linspace(0, TURN, 60, endpoint=False)


def polar(radius: float | np.ndarray, angle: np.ndarray = ROUND) -> np.ndarray:
    """Points (n, 2) at ``radius`` from the origin, x to the right and y down; angle 0 is up."""
    return np.stack([np.sin(angle), -np.cos(angle)], axis=1) * np.reshape(radius, (-1, 1))


def even(corners: int, start: float = 0.0) -> np.ndarray:
    """The angles of a regular polygon's corners, the first at ``start`` (a fraction of a turn)."""
    return TURN * (np.arange(corners) / corners + start)


def mirrored(*points: tuple[float, float]) -> np.ndarray:
    """A symmetric outline, from the points of its right half, which go from top to bottom."""
    right = np.array(points)
    return np.concatenate([right, right[::-1] * (-1, 1)])


HEART_Y = 13 * np.cos(ROUND) - 5 * np.cos(2 * ROUND) - 2 * np.cos(3 * ROUND) - np.cos(4 * ROUND)
MOON_OUTSIDE, MOON_INSIDE = TURN * np.linspace(0.42, 1.08, 40), TURN * np.linspace(0.984, 0.516, 30)

# A shape is an outline about as large as the unit disc; a second outline is a hole in it. In this
# order, problem 1's labels use the first 10, problem 2's the first 13, and unlabelled images all.
SHAPES = {
    "disc": [polar(0.9)],
    "square": [polar(1.05, even(4, 0.125))],
    "triangle": [polar(1.15, even(3)) + (0, 0.2)],
    "star": [polar(np.tile([1.15, 0.48], 5), even(10))],
    "ring": [polar(1.0), polar(0.55)],
    "cross": [mirrored((0.33, -1), (0.33, -0.33), (1, -0.33), (1, 0.33), (0.33, 0.33), (0.33, 1))],
    "heart": [np.stack([np.sin(ROUND) ** 3, (-HEART_Y - 2) / 15], axis=1)],
    "crescent": [np.concatenate([polar(1.05, MOON_OUTSIDE), polar(0.92, MOON_INSIDE) + (0.6, 0)])],
    "arrow": [mirrored((0, -1.1), (0.95, 0), (0.36, 0), (0.36, 1))],
    "hourglass": [mirrored((0.85, -1), (0.12, 0), (0.85, 1))],
    "flower": [polar(0.78 + 0.3 * np.cos(5 * ROUND)), polar(0.25)],
    "bolt": [
        np.array(
            [
                (0.35, -1.1),
                (-0.75, 0.2),
                (-0.1, 0.2),
                (-0.35, 1.1),
                (0.75, -0.3),
                (0.1, -0.3),
                (0.75, -1.1),
            ]
        )
    ],
    "frame": [polar(1.15, even(4, 0.125)), polar(0.7, even(4, 0.125))],
    "gear": [polar(0.9 + 0.14 * np.sign(np.sin(9 * ROUND + 0.1))), polar(0.35)],
    "drop": [np.stack([0.85 * np.sin(ROUND) * np.sin(ROUND / 2) ** 1.5, -np.cos(ROUND)], axis=1)],
    "pill": [polar(1.0) * (0.5, 1.0)],
    "girder": [mirrored((0.8, -1), (0.8, -0.5), (0.25, -0.5), (0.25, 0.5), (0.8, 0.5), (0.8, 1))],
}

# A paint is a pattern, usually in its own hue (0..1 around the colour wheel). Labelled images use
# the first five paints, unlabelled ones all of them.
PAINTS = {
    "plain": 0.0,
    "striped": 0.6,
    "dotted": 0.36,
    "checked": 0.13,
    "ringed": 0.8,
    "wavy": 0.5,
    "cloudy": 0.92,
}
# The share of things in the hue of their paint. The others have a random hue, so that the pattern
# matters too.
OWN_HUE = 0.75


def classes(shapes: int) -> list[tuple[str, str]]:
    """The (shape, paint) of each label: the first ``shapes`` shapes in the first five paints."""
    return [(shape, paint) for shape in list(SHAPES)[:shapes] for paint in list(PAINTS)[:5]]


def thing(
    rng: Generator, shape: str, paint: str, width: int, height: int, studio: float = 0.0
) -> Image.Image:
    """Draw one thing with a random place, size and rotation: ``width`` x ``height`` RGB.

    ``studio`` is the probability of a pale background without other shapes.
    """
    side = min(width, height)
    if rng.random() < studio:
        canvas = backdrop(rng, width, height, saturation=(0, 0.08), value=(0.85, 1))
    else:
        canvas = backdrop(rng, width, height, saturation=(0.05, 0.55), value=(0.2, 0.95))
        for _ in range(rng.integers(5)):
            other = list(SHAPES)[rng.integers(len(SHAPES))]
            speck = Cover(
                other,
                rng.uniform(0, [width, height]),
                rng.uniform(0.04, 0.13) * side,
                rng.uniform(0, TURN),
            )
            canvas = mix(
                canvas, colour(rng.random(), *rng.uniform(0.3, 0.9, 2)), speck.on(width, height)
            )

    radius = rng.uniform(0.27, 0.41) * side
    place = np.array(
        [rng.uniform(1.1 * radius, length - 1.1 * radius) for length in (width, height)]
    )
    # Too small a rotation to make one shape look like another.
    body = Cover(shape, place, radius, rng.uniform(-0.07, 0.07) * TURN)
    shadow = body.on(width, height, shift=rng.uniform(0.05, 0.2), blur=0.1)
    canvas = mix(canvas, 0.3 * canvas, rng.uniform(0.3, 0.9) * shadow)
    canvas = mix(canvas, painted(rng, paint, body, width, height), body.on(width, height))
    noise = rng.uniform(1, 7) * rng.standard_normal((height, width), dtype=np.float32)
    picture = np.clip(rng.uniform(0.8, 1.1) * canvas + noise, 0, 255).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(picture.transpose(1, 2, 0)))


class Cover:
    """A shape of ``radius`` pixels with its centre at ``place`` (x, y), rotated by ``turn``."""

    def __init__(self, shape: str, place: np.ndarray, radius: float, turn: float) -> None:
        self.shape, self.place, self.radius = shape, place, radius
        self.axes = np.array([(math.cos(turn), math.sin(turn)), (-math.sin(turn), math.cos(turn))])

    def on(self, width: int, height: int, shift: float = 0.0, blur: float = 0.0) -> np.ndarray:
        """The share of each pixel that the shape covers, (height, width) in 0..1.

        ``shift`` to the lower right and ``blur`` are fractions of the radius.
        """
        fine = 4 if max(width, height) <= 100 else 2  # draw larger, then average: smooth edges
        mask = Image.new("L", (width * fine, height * fine))
        draw = ImageDraw.Draw(mask)
        # A shape has an outline and may have a hole.
        for points, fill in zip(SHAPES[self.shape], (255, 0), strict=False):
            draw.polygon(
                (fine * (self.place + self.radius * (points @ self.axes + shift))).ravel().tolist(),
                fill=fill,
            )
        mask = mask.reduce(fine)
        if blur:
            mask = mask.filter(ImageFilter.GaussianBlur(blur * self.radius))
        return np.asarray(mask, dtype=np.float32) / 255

    def coordinates(self, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
        """Each pixel's coordinates in the shape's axes, in radii: two (height, width) float32."""
        right = (np.arange(width, dtype=np.float32) - np.float32(self.place[0])) / np.float32(
            self.radius
        )
        down = (np.arange(height, dtype=np.float32) - np.float32(self.place[1]))[
            :, None
        ] / np.float32(self.radius)
        (a, b), (c, d) = self.axes.astype(np.float32)
        return a * right + b * down, c * right + d * down


def painted(rng: Generator, paint: str, body: Cover, width: int, height: int) -> np.ndarray:
    """A thing's surface, (3, height, width) float32 in 0..255, lit from the upper left."""
    u, v = body.coordinates(width, height)
    u, v = u + rng.uniform(-0.05, 0.05), v + rng.uniform(-0.05, 0.05)
    pitch = TURN * rng.uniform(0.85, 1.15)  # about one wave per radius
    hue = PAINTS[paint] + rng.normal(0, 0.03) if rng.random() < OWN_HUE else rng.random()
    saturation, value = rng.uniform(0.55, 1), rng.uniform(0.55, 0.95)
    ground = colour(hue, saturation, value)
    ink = (
        colour(hue, 0.2 * saturation, 0.97)
        if rng.random() < 0.5
        else colour(hue, saturation, 0.3 * value)
    )
    if paint == "plain":
        wave = np.full_like(u, -1)
    elif paint == "striped":
        wave = np.sin(1.8 * pitch * u)
    elif paint == "dotted":
        wave = np.cos(1.7 * pitch * u) + np.cos(1.7 * pitch * v) - 0.7
    elif paint == "checked":
        wave = 2 * np.sin(pitch * u) * np.sin(pitch * v)
    elif paint == "ringed":
        wave = -np.cos(1.8 * pitch * np.hypot(u, v))
    elif paint == "wavy":
        wave = np.sin(1.6 * pitch * (v + 0.15 * np.sin(pitch * u)))
    else:
        wave = 2 * smooth(rng, height, width, 2.5 * max(width, height) / body.radius)
    edge = body.radius / (2 * TURN)  # makes a pattern's edges about one pixel wide
    surface = mix(ground, ink, np.clip(0.5 + edge * wave, 0, 1))
    return surface * (1 - 0.12 * (u + v))


def backdrop(
    rng: Generator, width: int, height: int, saturation: tuple, value: tuple
) -> np.ndarray:
    """Two colours blended by a soft field, a gradient, the edge of a table or wallpaper stripes.

    (3, height, width) float32.
    """
    first, second = (
        colour(rng.random(), rng.uniform(*saturation), rng.uniform(*value)) for _ in range(2)
    )
    across, down = np.meshgrid(
        np.linspace(-1, 1, width, dtype=np.float32), np.linspace(-1, 1, height, dtype=np.float32)
    )
    angle = rng.uniform(0, TURN)
    slope = math.cos(angle) * across + math.sin(angle) * down
    kind = rng.integers(4)
    if kind == 0:
        share = 0.5 + 0.6 * smooth(rng, height, width, rng.uniform(2, 6))
    elif kind == 1:
        share = 0.5 + 0.5 * slope
    elif kind == 2:
        share = 0.5 + 20 * (down - rng.uniform(-0.5, 0.5) + 0.1 * math.cos(angle) * across)
    else:
        share = 0.3 + 0.3 * np.sin(slope * rng.uniform(6, 22))
    texture = rng.uniform(1, 8) * smooth(
        rng, height, width, max(width, height) / rng.uniform(2.5, 6)
    )
    return mix(first, second, np.clip(share, 0, 1)) + texture


def colour(hue: float, saturation: float, value: float) -> np.ndarray:
    """A colour as (3, 1, 1) float32 in 0..255; the hue wraps around from 1 to 0."""
    return 255 * np.array(
        colorsys.hsv_to_rgb(hue % 1, saturation, value), dtype=np.float32
    ).reshape(3, 1, 1)


def mix(below: np.ndarray, above: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Blend ``above`` over ``below`` with the opacity ``share``, (H, W) in 0..1.

    Each image is (3, H, W) or a single colour (3, 1, 1).
    """
    return below + share * (above - below)
