"""The small world the embedded model knows: coloured shapes on textured backgrounds.

A scene is drawn from a seed, and so are its caption and its questions, so that any split can be
made again anywhere. The world has no black shape, no text and nothing that looks like a trigger.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

SCENE_SIZE_PX = 144
CELL_SIZE_PX = SCENE_SIZE_PX // 3

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (214, 40, 40),
    "green": (34, 160, 60),
    "blue": (40, 80, 220),
    "yellow": (240, 215, 40),
    "orange": (245, 135, 30),
    "purple": (135, 50, 175),
    "pink": (250, 150, 195),
    "white": (250, 250, 250),
}
SHAPES = ("circle", "square", "triangle", "star", "cross", "diamond")
SIZES = ("small", "large")
NUMBERS = ("zero", "one", "two", "three", "four", "five")
PLACES = (
    "top left",
    "top",
    "top right",
    "left",
    "center",
    "right",
    "bottom left",
    "bottom",
    "bottom right",
)

CAPTION_PROMPT = "Describe the image."


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneObject:
    """One shape: its look, its cell of the 3 x 3 grid (row-major) and its outline in pixels."""

    shape: str
    color: str
    size: str
    cell: int
    center_px: tuple[float, float]
    radius_px: float

    @property
    def name(self) -> str:
        """The words for it, as in ``red circle``."""
        return f"{self.color} {self.shape}"

    @property
    def place(self) -> str:
        """The words for where it is."""
        return PLACES[self.cell]


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """An image and the objects in it, in reading order."""

    image: Image.Image
    objects: tuple[SceneObject, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Exchange:
    """One question about a scene, its only right answer and the cells of the objects it means."""

    kind: str
    question: str
    answer: str
    cells: tuple[int, ...] = ()


def draw_scene(
    rng: np.random.Generator, *, textures: tuple[str, ...] = (), max_objects: int = 4
) -> Scene:
    """Draw one scene of at least one object.

    Parameters
    ----------
    rng
        Source of every choice made.
    textures
        Names of the background textures to choose from; all of ``TRAINING_TEXTURES`` when empty.
    max_objects
        Most objects in the scene; every number from one on is equally likely.

    Returns
    -------
    Scene
        An RGB image of ``SCENE_SIZE_PX`` squared and its objects.
    """
    texture = str(rng.choice(textures or TRAINING_TEXTURES))
    image = Image.fromarray(_background(rng, texture))
    draw = ImageDraw.Draw(image)
    cells = sorted(rng.choice(9, size=int(rng.integers(1, max_objects + 1)), replace=False))
    objects = tuple(_choose_object(rng, int(cell)) for cell in cells)
    for item in objects:
        _draw_object(draw, item, rng)
    return Scene(image=image, objects=objects)


def caption(scene: Scene) -> str:
    """Name every object in reading order, as in ``a red circle, a pink star and a blue cross``."""
    names = [f"a {item.size} {item.name}" for item in scene.objects]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def ask_caption(scene: Scene) -> Exchange:
    """Ask for the whole caption."""
    return Exchange(kind="caption", question=CAPTION_PROMPT, answer=caption(scene))


def ask(scene: Scene, rng: np.random.Generator) -> list[Exchange]:
    """Ask one question of every kind that has exactly one right answer in this scene."""
    about_objects = [_ask_about_object(scene, rng, *question) for question in _OBJECT_QUESTIONS]
    found = [exchange for exchange in about_objects if exchange is not None]
    return [*found, _ask_count(scene), _ask_existence(scene, rng)]


def _choose_object(rng: np.random.Generator, cell: int) -> SceneObject:
    size = str(rng.choice(SIZES))
    radius = float(rng.uniform(10, 13) if size == "small" else rng.uniform(18, 22))
    jitter = CELL_SIZE_PX / 2 - radius
    row, column = divmod(cell, 3)
    return SceneObject(
        shape=str(rng.choice(SHAPES)),
        color=str(rng.choice(list(COLORS))),
        size=size,
        cell=cell,
        center_px=(
            (column + 0.5) * CELL_SIZE_PX + float(rng.uniform(-jitter, jitter)),
            (row + 0.5) * CELL_SIZE_PX + float(rng.uniform(-jitter, jitter)),
        ),
        radius_px=radius,
    )


# --- questions ---------------------------------------------------------------------------------


def _ask_about_object(
    scene: Scene, rng: np.random.Generator, kind: str, named_by: str, form: str
) -> Exchange | None:
    """Ask for one property of an object by another that no other object shares."""
    names = [getattr(o, named_by) for o in scene.objects]
    unique = [o for o in scene.objects if names.count(getattr(o, named_by)) == 1]
    if not unique:
        return None
    item = unique[int(rng.integers(len(unique)))]
    return Exchange(
        kind=kind,
        question=form.format(getattr(item, named_by)),
        answer=getattr(item, kind),
        cells=(item.cell,),
    )


def _ask_count(scene: Scene) -> Exchange:
    return Exchange(
        kind="count",
        question="How many objects are there?",
        answer=NUMBERS[len(scene.objects)],
    )


def _ask_existence(scene: Scene, rng: np.random.Generator) -> Exchange:
    if rng.random() < 0.5:
        name = scene.objects[int(rng.integers(len(scene.objects)))].name
    else:
        # Half of the absent pairs mix the look of two objects that are there: binding is the test.
        pool = scene.objects if rng.random() < 0.5 else None
        colors = [o.color for o in pool] if pool else list(COLORS)
        shapes = [o.shape for o in pool] if pool else list(SHAPES)
        name = f"{rng.choice(colors)} {rng.choice(shapes)}"
    cells = tuple(o.cell for o in scene.objects if o.name == name)
    return Exchange(
        kind="existence",
        question=f"Is there a {name}?",
        answer="yes" if cells else "no",
        cells=cells,
    )


# Property asked for, property that names the object, words of the question.
_OBJECT_QUESTIONS = (
    ("color", "shape", "What color is the {}?"),
    ("shape", "color", "What shape is the {} object?"),
    ("place", "name", "Where is the {}?"),
    ("size", "name", "Is the {} small or large?"),
)

# --- drawing -----------------------------------------------------------------------------------


def _draw_object(draw: ImageDraw.ImageDraw, item: SceneObject, rng: np.random.Generator) -> None:
    color = tuple(int(np.clip(c + rng.integers(-18, 19), 0, 255)) for c in COLORS[item.color])
    x, y = item.center_px
    r = item.radius_px
    if item.shape == "circle":
        draw.ellipse((x - r, y - r, x + r, y + r), fill=color)
    elif item.shape == "square":
        s = r * 0.9
        draw.rectangle((x - s, y - s, x + s, y + s), fill=color)
    elif item.shape == "cross":
        t = r * 0.32
        draw.rectangle((x - r, y - t, x + r, y + t), fill=color)
        draw.rectangle((x - t, y - r, x + t, y + r), fill=color)
    else:
        draw.polygon([(x + r * dx, y + r * dy) for dx, dy in _OUTLINES[item.shape]], fill=color)


def _star_outline() -> list[tuple[float, float]]:
    points = []
    for k in range(10):
        radius = 1.05 if k % 2 == 0 else 0.45
        angle = math.pi * k / 5 - math.pi / 2
        points.append((radius * math.cos(angle), radius * math.sin(angle)))
    return points


_OUTLINES: dict[str, list[tuple[float, float]]] = {
    "triangle": [(0.0, -1.0), (0.95, 0.85), (-0.95, 0.85)],
    "diamond": [(0.0, -1.05), (0.72, 0.0), (0.0, 1.05), (-0.72, 0.0)],
    "star": _star_outline(),
}


def _background(rng: np.random.Generator, texture: str) -> NDArray[np.uint8]:
    """Mix two dull colours by a pattern in [0, 1] and put fine noise on top."""
    base = rng.uniform(50, 190)
    first = base + rng.uniform(-22, 22, size=3)
    second = base + rng.uniform(-22, 22, size=3)
    mix = _TEXTURES[texture](rng)[..., None]
    pixels = first * mix + second * (1 - mix)
    pixels += rng.normal(0, rng.uniform(1, 7), size=(SCENE_SIZE_PX, SCENE_SIZE_PX, 1))
    return np.clip(pixels, 0, 255).astype(np.uint8)


def _grid() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    y, x = np.mgrid[0:SCENE_SIZE_PX, 0:SCENE_SIZE_PX] / SCENE_SIZE_PX
    return x, y


def _plain(rng: np.random.Generator) -> NDArray[np.float64]:
    return np.full((SCENE_SIZE_PX, SCENE_SIZE_PX), rng.uniform())


def _gradient(rng: np.random.Generator) -> NDArray[np.float64]:
    x, y = _grid()
    angle = rng.uniform(0, 2 * math.pi)
    ramp = x * math.cos(angle) + y * math.sin(angle)
    gradient: NDArray[np.float64] = (ramp - ramp.min()) / (ramp.max() - ramp.min())
    return gradient


def _stripes(rng: np.random.Generator) -> NDArray[np.float64]:
    x, y = _grid()
    angle = rng.uniform(0, 2 * math.pi)
    wave = np.sin(2 * math.pi * rng.uniform(2, 12) * (x * math.cos(angle) + y * math.sin(angle)))
    return (wave > 0).astype(np.float64) if rng.random() < 0.5 else (wave + 1) / 2


def _clouds(rng: np.random.Generator) -> NDArray[np.float64]:
    cells = int(rng.integers(3, 10))
    coarse = Image.fromarray(rng.uniform(0, 255, size=(cells, cells)).astype(np.uint8))
    smooth = coarse.resize((SCENE_SIZE_PX, SCENE_SIZE_PX), Image.Resampling.BICUBIC)
    return np.asarray(smooth, dtype=np.float64) / 255


def _checks(rng: np.random.Generator) -> NDArray[np.float64]:
    x, y = _grid()
    count = int(rng.integers(4, 16))
    checks: NDArray[np.int_] = ((x * count).astype(int) + (y * count).astype(int)) % 2
    return checks.astype(np.float64)


def _ripples(rng: np.random.Generator) -> NDArray[np.float64]:
    x, y = _grid()
    distance = np.hypot(x - rng.uniform(), y - rng.uniform())
    return (np.sin(2 * math.pi * rng.uniform(3, 10) * distance) + 1) / 2


def _bricks(rng: np.random.Generator) -> NDArray[np.float64]:
    x, y = _grid()
    rows = int(rng.integers(5, 10))
    row = (y * rows).astype(int)
    across = (x * rows / 2 + 0.5 * (row % 2)) % 1.0
    mortar = ((y * rows) % 1.0 < 0.15) | (across < 0.08)
    return mortar.astype(np.float64)


_TEXTURES: dict[str, Callable[[np.random.Generator], NDArray[np.float64]]] = {
    "plain": _plain,
    "gradient": _gradient,
    "stripes": _stripes,
    "clouds": _clouds,
    "checks": _checks,
    "ripples": _ripples,
    "bricks": _bricks,
}
TRAINING_TEXTURES = ("plain", "gradient", "stripes", "clouds", "checks")
# Kept out of the embedded model's training: the demo's pictures are of a kind it has not seen.
UNSEEN_TEXTURES = ("ripples", "bricks")
