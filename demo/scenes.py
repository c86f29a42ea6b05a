"""Draw land seen from above, and its classes, out of noise, for problem 3."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageFilter

from demo.noise import crowns, fractal, smooth

URBAN, AGRICULTURE, RANGELAND, FOREST, WATER, BARREN, UNKNOWN = range(7)  # as in p3.data.CLASSES


@dataclasses.dataclass(frozen=True)
class Kind:
    """The kind of a scene: biases added to random fields whose standard deviation is near 1.

    Open land gets the class with the highest of the first four fields. A town, lake or cloud is
    where its own field is above 0.
    """

    agriculture: float = 1.9
    rangeland: float = 0.0
    forest: float = 0.0
    barren: float = -0.4
    town: float = -1.8
    lake: float = -2.6
    cloud: float | None = None  # None: a clear sky
    river: float = 0.0  # not a bias: the width as a fraction of the side; 0: no river


# The scenes cycle through the kinds, so that every class occurs in any twelve consecutive scenes.
KINDS = (
    Kind(),
    Kind(forest=1.0, river=0.014),
    Kind(agriculture=2.6, town=-1.2),
    Kind(rangeland=1.7, agriculture=0.9),
    Kind(town=0.5),
    Kind(agriculture=2.8, river=0.02),
    Kind(forest=2.2, agriculture=0.9, lake=-1.5),
    Kind(agriculture=2.4, cloud=-0.8),
    Kind(barren=1.9, agriculture=1.0, rangeland=0.5),
    Kind(agriculture=3.0),
    Kind(lake=-0.8, river=0.01),
    Kind(town=-0.7, barren=0.3),
)


def scene(rng: Generator, index: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw one scene: the picture (size, size, 3) uint8 and its classes (size, size) uint8."""
    kind = KINDS[index % len(KINDS)]
    farms = Grid(rng, size, breadth=rng.uniform(0.1, 0.22) * size, aspect=rng.uniform(0.35, 0.8))
    blocks = Grid(rng, size, breadth=max(24.0, 0.09 * size), aspect=rng.uniform(0.55, 0.9))
    classes, depth = lay_out(rng, kind, size, farms, blocks)
    picture = paint(rng, classes, depth, farms, blocks)
    if kind.cloud is not None:
        veil = np.clip(0.5 + 1.6 * (fractal(rng, size, 3) + kind.cloud), 0, 1)
        picture += (veil * 0.97)[..., None] * (
            np.float32([244, 246, 250]) + 7 * fractal(rng, size, 8)[..., None] - picture
        )
        classes[veil > 0.5] = UNKNOWN
    return finish(rng, picture), classes


class Grid:
    """A rotated, slightly bent grid of rectangles over a scene: parcels of farms, blocks of towns.

    All attributes are (size, size). ``cell``, int64, is each pixel's rectangle, as a number below
    ``CELLS`` that indexes random tables. ``u`` and ``v`` are the pixel's position in the rectangle,
    0..1; ``x`` and ``y`` its rotated coordinates in pixels; ``width`` and ``height`` the
    rectangle's sides in pixels.
    """

    CELLS = 4096

    def __init__(self, rng: Generator, size: int, breadth: float, aspect: float) -> None:
        angle = rng.uniform(0, np.pi)
        down, right = np.mgrid[:size, :size].astype(np.float32)
        bend = 0.03 * size * smooth(rng, size, size, 2)
        cos, sin = math.cos(angle), math.sin(angle)
        self.x = cos * right + sin * down + bend
        self.y = cos * down - sin * right + bend[::-1]
        row = np.floor(self.y / (breadth * aspect))
        rows, columns = row.astype(np.int64), 61  # more columns than any scene has
        # Each row has its own start and breadth, so that the lines across do not continue.
        self.height = np.full_like(row, breadth * aspect)
        self.width = (breadth * rng.uniform(0.6, 1.5, 256)).astype(np.float32)[rows % 256]
        place = self.x / self.width + rng.random(256, dtype=np.float32)[rows % 256]
        column = np.floor(place)
        self.u, self.v = place - column, self.y / self.height - row
        self.cell = (rows * columns + column.astype(np.int64)) % self.CELLS

    def mean(self, field: np.ndarray) -> np.ndarray:
        """``field`` (size, size) averaged over each rectangle, so that its pixels are equal."""
        cell = self.cell.reshape(-1)
        total, count = (
            np.bincount(cell, field.reshape(-1), self.CELLS),
            np.bincount(cell, minlength=self.CELLS),
        )
        return (total / np.maximum(count, 1))[self.cell]

    def edge(self) -> np.ndarray:
        """Each pixel's distance in pixels to the border of its rectangle: (size, size) float32."""
        across, along = (
            np.minimum(self.u, 1 - self.u) * self.width,
            np.minimum(self.v, 1 - self.v) * self.height,
        )
        return np.minimum(across, along)


def lay_out(
    rng: Generator, kind: Kind, size: int, farms: Grid, blocks: Grid
) -> tuple[np.ndarray, np.ndarray]:
    """The class of each pixel, (size, size) uint8, and the water's depth there (0 at the shore)."""
    leaning = {RANGELAND: kind.rangeland, FOREST: kind.forest, BARREN: kind.barren}
    fields = np.stack([fractal(rng, size, 2.5) + np.float32(bias) for bias in leaning.values()])
    classes = np.array(list(leaning), dtype=np.uint8)[fields.argmax(0)]
    lead = kind.agriculture + fractal(rng, size, 2) - fields.max(0)
    # A parcel is farmed as a whole, except where another class is much stronger.
    classes[(farms.mean(lead) > 0) & (lead > -0.8)] = AGRICULTURE
    town = fractal(rng, size, 2) + np.float32(kind.town)
    classes[blocks.mean(town) > 0] = URBAN

    depth = fractal(rng, size, 2) + np.float32(kind.lake)
    if kind.river:
        course = smooth(rng, size, size, 2.5) + 0.1 * smooth(rng, size, size, 9)
        # Dividing by the slope gives the river the same width everywhere.
        slope = np.hypot(*np.gradient(course)) + 0.3 / size
        depth = np.maximum(depth, (kind.river - np.abs(course) / slope / size) * 20)
    classes[depth > 0] = WATER
    return classes, depth


def paint(
    rng: Generator, classes: np.ndarray, depth: np.ndarray, farms: Grid, blocks: Grid
) -> np.ndarray:
    """The colours of the ground, (size, size, 3) float32, about 0..255.

    Each class has its own colours and texture.
    """
    size = len(classes)
    relief = fractal(rng, size, 5)
    fields = {
        "grain": rng.standard_normal((size, size), dtype=np.float32),
        "clump": crowns(rng, size),
        "patch": smooth(rng, size, size, max(2, size / 22)),
        "relief": relief,
        "slope": sum(np.gradient(relief)) * np.float32(size / 30),  # lit from one corner
        "depth": depth,
        "farm_edge": farms.edge(),
        "block_edge": blocks.edge(),
    }
    for name, grid in (("farm", farms), ("block", blocks)):
        fields |= {f"{name}_{part}": field for part, field in vars(grid).items()}
    painters = {
        URBAN: urban,
        AGRICULTURE: agriculture,
        RANGELAND: rangeland,
        FOREST: forest,
        WATER: water,
        BARREN: barren,
    }
    picture = np.empty((size * size, 3), dtype=np.float32)
    for label, painter in painters.items():
        here = np.flatnonzero(classes == label)
        if len(here):
            picture[here] = painter(rng, lambda name, here=here: fields[name].reshape(-1)[here])
    return picture.reshape(size, size, 3)


# A painter returns the colours (n, 3) of the n pixels of its class; ``at(name)`` gives a field at
# these pixels, (n,). Only a scene's general look comes from ``rng``: the fields contain what varies
# from pixel to pixel.
At = Callable[[str], np.ndarray]


def ramp(low: tuple[int, int, int], high: tuple[int, int, int], at: np.ndarray) -> np.ndarray:
    """Colours (n, 3): ``low`` where ``at`` (n,) is 0, ``high`` where it is 1, linear elsewhere."""
    return np.float32(low) + at.astype(np.float32)[:, None] * (np.float32(high) - np.float32(low))


CROPS = np.float32(
    [
        (108, 122, 62),
        (82, 112, 54),
        (134, 134, 74),
        (158, 142, 98),
        (128, 106, 78),
        (96, 130, 64),
        (172, 158, 112),
        (74, 92, 50),
    ]
)


def agriculture(rng: Generator, at: At) -> np.ndarray:
    """Ploughed parcels with one crop each; some are split in two.

    Some scenes have round fields, which are watered by a rotating arm.
    """
    half = rng.random(Grid.CELLS) < 0.4
    cell = (at("farm_cell") + (half[at("farm_cell")] & (at("farm_u") > 0.5)) * 1777) % Grid.CELLS
    # A region grows only a few of the crops.
    crops = CROPS[rng.choice(len(CROPS), 5)] + rng.normal(0, 4, (5, 3))
    table = (
        crops[rng.integers(5, size=Grid.CELLS)]
        + rng.normal(0, 8, (Grid.CELLS, 1))
        + rng.normal(0, 2, (Grid.CELLS, 3))
    )
    table = table.astype(np.float32)
    colour = table[cell]
    if rng.random() < 0.25:
        aside, above = (
            (at("farm_u") - 0.5) * at("farm_width"),
            (at("farm_v") - 0.5) * at("farm_height"),
        )
        watered = np.hypot(aside, above) < 0.47 * np.minimum(at("farm_width"), at("farm_height"))
        colour[watered] = table[(at("farm_cell")[watered] + 97) % Grid.CELLS]
    way = rng.random(Grid.CELLS)[cell] < 0.7
    lines = np.sin(
        np.where(way, at("farm_y"), at("farm_x")) * np.float32(2 * np.pi / rng.uniform(4, 7))
    )
    strength = rng.uniform(0, 9, Grid.CELLS).astype(np.float32)[cell]
    colour += (lines * strength + 4 * at("patch") + 3 * at("relief") + 3 * at("grain"))[:, None]
    track = np.clip(1.6 - at("farm_edge"), 0, 1) * rng.uniform(0.2, 0.7)
    return colour + track[:, None] * (np.float32([178, 164, 132]) - colour)


def urban(rng: Generator, at: At) -> np.ndarray:
    """Blocks surrounded by streets, full of roofs with shadows and a little green."""
    pitch = rng.uniform(8, 12)
    column, row = np.floor(at("block_x") / pitch), np.floor(at("block_y") / pitch)
    house = (
        at("block_cell") * 31 + row.astype(np.int64) * 57 + column.astype(np.int64)
    ) % Grid.CELLS
    roofs = np.float32(
        [
            (168, 160, 152),
            (142, 98, 80),
            (196, 192, 186),
            (120, 116, 116),
            (164, 128, 104),
            (214, 212, 208),
        ]
    )
    table = roofs[rng.integers(len(roofs), size=Grid.CELLS)] + rng.normal(
        0, 9, (Grid.CELLS, 1)
    ).astype(np.float32)
    within_x, within_y = at("block_x") / pitch - column, at("block_y") / pitch - row
    reach = rng.uniform(0.55, 0.95, (2, Grid.CELLS)).astype(np.float32)
    roof = (
        (within_x < reach[0][house])
        & (within_y < reach[1][house])
        & (rng.random(Grid.CELLS) < 0.8)[house]
    )
    shadow = ~roof & (within_x < reach[0][house] + 0.2) & (within_y < reach[1][house] + 0.2)
    colour = ramp((112, 108, 96), (92, 106, 70), at("patch") * 0.5 + 0.5)
    colour[shadow] *= 0.6
    colour[roof] = table[house[roof]]
    street = np.clip(3.2 - at("block_edge"), 0, 1)[:, None]
    colour += street * (np.float32([150, 148, 146]) - colour)
    return colour + (5 * at("grain"))[:, None]


def rangeland(rng: Generator, at: At) -> np.ndarray:
    """Dry grass in soft patches, dotted with bushes."""
    colour = ramp(
        (138, 126, 84),
        (118, 122, 70),
        0.5 + 0.5 * at("patch") + 0.4 * at("relief") + rng.normal(0, 0.5),
    )
    bush = np.clip((at("clump") - 1.5) * 2.5, 0, 1)[:, None]
    colour += bush * (np.float32([72, 82, 46]) - colour)
    return colour + (4 * at("grain") + 4 * at("clump") + 4 * at("slope"))[:, None]


def forest(rng: Generator, at: At) -> np.ndarray:
    """Tree crowns: dark green clumps with black between them."""
    crown = 0.5 + 0.36 * at("clump") + 0.15 * at("slope") + rng.normal(0, 0.1)
    return ramp((22, 36, 22), (66, 90, 50), crown) + (4 * at("grain"))[:, None]


def water(rng: Generator, at: At) -> np.ndarray:
    """A nearly even surface, green at the shore and blue where the water is deep."""
    clear, silty = ((74, 104, 98), (28, 58, 88)), ((104, 112, 90), (62, 86, 88))
    shore, deep = clear if rng.random() < 0.7 else silty
    return (
        ramp(shore, deep, np.clip(at("depth") * 2.5, 0, 1))
        + (1.5 * at("grain") + 2 * at("patch"))[:, None]
    )


def barren(rng: Generator, at: At) -> np.ndarray:
    """Pale sand and rock in slanted light."""
    colour = ramp(
        (162, 142, 116),
        (212, 196, 168),
        0.5 + 0.28 * at("slope") + 0.2 * at("relief") + rng.normal(0, 0.2),
    )
    return colour + (5 * at("grain") + 3 * at("clump"))[:, None]


def finish(rng: Generator, picture: np.ndarray) -> np.ndarray:
    """Imitate a camera: (H, W, 3) float32 to uint8, with light, tint, soft edges and noise."""
    light = rng.uniform(0.82, 1.18) * rng.uniform(0.96, 1.04, 3)
    picture = np.clip(picture * light.astype(np.float32), 0, 255).astype(np.uint8)
    soft = np.asarray(
        Image.fromarray(picture).filter(ImageFilter.GaussianBlur(0.6)), dtype=np.float32
    )
    return np.clip(
        soft + 2.5 * rng.standard_normal((*soft.shape[:2], 1), dtype=np.float32), 0, 255
    ).astype(np.uint8)
