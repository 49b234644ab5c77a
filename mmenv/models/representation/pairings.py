"""Examples of representation learning: scenes with written and spoken descriptions, right ones and hard negatives."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from mmenv.tasks.captioning import caption, caption_gold, enumerate_things
from mmenv.worlds.grid import Scene, article, concepts, draw_scene, paint
from mmenv.worlds.grid_speech import speak

LONGEST = 40_000  # samples of an utterance, 2.5 s


@dataclass(frozen=True)
class Examples:
    """n rows of several modalities; a modality that no row has is None.

    Attributes:
        image: uint8 (n, H, W, 3), or None.
        audio: float32 (n, T) at 16 kHz, zero-padded, or None.
        text: n texts, or None.
        present: modality -> bool (n,), which rows have it; every row has a modality without an entry.
        wrong: n texts, hard negatives that are almost right for their row, or None.
    """

    image: Tensor | None = None
    audio: Tensor | None = None
    text: Sequence[str] | None = None
    present: Mapping[str, Tensor] = field(default_factory=dict)
    wrong: Sequence[str] | None = None

    def __post_init__(self) -> None:
        sizes = {m: len(x) for m, x in self.inputs().items()}
        if not sizes or len(set(sizes.values())) > 1:
            raise ValueError(f"rows of each modality: {sizes or 'none'}; give at least one, all of the same length")

    def inputs(self) -> dict[str, Tensor | Sequence[str]]:
        """Inputs of each modality that some row has."""
        parts = {"image": self.image, "audio": self.audio, "text": self.text}
        return {m: x for m, x in parts.items() if x is not None}

    def __len__(self) -> int:
        return len(next(iter(self.inputs().values())))

    def has(self, modality: str) -> Tensor:
        """bool (n,), which rows have a modality."""
        if modality not in self.inputs():
            return torch.zeros(len(self)).bool()
        return self.present.get(modality, torch.ones(len(self)).bool())


@dataclass(frozen=True)
class Phrases:
    """Crowded scenes, and a phrase for each thing in them: many examples for one encoded image.

    Attributes:
        image: uint8 (n, H, W, 3).
        texts: m phrases.
        owner: int64 (m,), the image that each phrase describes.
    """

    image: Tensor
    texts: Sequence[str]
    owner: Tensor


def draw_phrases(rng: np.random.Generator, n: int, count: tuple[int, int] = (4, 6)) -> Phrases:
    """``n`` random scenes and a phrase ``a dog at top left .`` for each thing; hardly another scene fits it."""
    images, texts, owner = [], [], []
    for i in range(n):
        scene = draw_scene(rng, count, distinct=True)
        images.append(paint(scene))
        texts += [f"{article(t.name)} {t.name} at {t.place} ." for t in scene.things]
        owner += [i] * len(scene.things)
    return Phrases(torch.from_numpy(np.stack(images)), texts, torch.tensor(owner))


def placed(scene: Scene, rng: np.random.Generator) -> str:
    """``an ant at middle right and a dog at top left .``, in any order."""
    things = [scene.things[int(i)] for i in rng.permutation(len(scene.things))]
    return " and ".join(f"{article(t.name)} {t.name} at {t.place}" for t in things) + " ."


def described(scene: Scene, where: bool, rng: np.random.Generator) -> str:
    """A right description of a scene: the place of each thing, or a caption of the captioning task."""
    if where:
        return placed(scene, rng)
    # Without the combinations of thing and relation that only the test split has.
    return caption(scene, rng, test=False) or enumerate_things([t.name for t in scene.things])


def other_thing(scene: Scene, rng: np.random.Generator) -> Scene:
    """The scene with one thing replaced, half of the time by one of the same category."""
    at = int(rng.integers(len(scene.things)))
    old, there = scene.things[at], {t.concept for t in scene.things}
    near = [i for i, c in enumerate(concepts()) if c.category == old.category and i not in there]
    pool = near if near and rng.random() < 0.5 else [i for i in range(len(concepts())) if i not in there]
    new = dataclasses.replace(old, concept=int(pool[int(rng.integers(len(pool)))]))
    return dataclasses.replace(scene, things=(*scene.things[:at], new, *scene.things[at + 1 :]))


def moved(scene: Scene, rng: np.random.Generator) -> Scene:
    """The scene with the cells of its things exchanged; a single thing moves to another cell."""
    things = scene.things
    if len(things) == 1:
        cell = (3 * things[0].row + things[0].column + int(rng.integers(1, 9))) % 9
        return dataclasses.replace(scene, things=(dataclasses.replace(things[0], row=cell // 3, column=cell % 3),))
    cells = [(t.row, t.column) for t in things]
    return dataclasses.replace(
        scene, things=tuple(dataclasses.replace(t, row=r, column=c) for t, (r, c) in zip(things, cells[1:] + cells[:1]))
    )


def one_more_or_less(scene: Scene, rng: np.random.Generator) -> Scene:
    """The scene with one thing left out or doubled; a single thing is always doubled."""
    things = list(scene.things)
    at = int(rng.integers(len(things)))
    if len(things) > 1 and rng.random() < 0.5:
        del things[at]
    else:
        things.insert(int(rng.integers(len(things) + 1)), things[at])
    return dataclasses.replace(scene, things=tuple(things))


def spoiled(scene: Scene, where: bool, rng: np.random.Generator) -> str:
    """A hard negative: a description with another thing, another place or relation, or one thing more or less."""
    for spoil in (rng.permutation(3), (0,)):
        for kind in spoil:
            spoiled_scene = (other_thing, moved, one_more_or_less)[int(kind)](scene, rng)
            text = described(spoiled_scene, where, rng)
            if where or caption_gold(scene, text) < 1:
                return text
    raise AssertionError("another thing is always wrong")


def aloud(scene: Scene, rng: np.random.Generator) -> tuple[Scene, np.ndarray]:
    """The scene with things whose names were recorded, and its spoken description, float32 (LONGEST,)."""
    recorded = [i for i, c in enumerate(concepts()) if c.spoken]
    chosen = rng.permutation(recorded)[: len(scene.things)]
    things = tuple(dataclasses.replace(t, concept=int(c)) for t, c in zip(scene.things, chosen))
    scene = dataclasses.replace(scene, things=things)
    wave = np.zeros(LONGEST, np.float32)
    speech = speak(enumerate_things([t.name for t in things]), rng, LONGEST)
    wave[: len(speech)] = speech
    return scene, wave


def draw_examples(
    rng: np.random.Generator,
    n: int,
    modalities: Sequence[str],
    count: tuple[int, int] = (1, 3),
    missing: float = 0.0,
) -> Examples:
    """Random scenes of the training style with their descriptions.

    Args:
        rng: source of randomness.
        n: rows.
        modalities: those wanted; of ``"image"``, ``"audio"``, ``"text"``.
        count: least and greatest number of things.
        missing: share of rows without image, and share of rows without audio; every row has text.
    """
    images, waves, texts, wrongs = [], [], [], []
    spoken = rng.random(n) < 0.5 if "audio" in modalities else np.zeros(n, bool)
    for i in range(n):
        scene = draw_scene(rng, count, distinct=True)
        if spoken[i]:
            scene, wave = aloud(scene, rng)
        waves.append(wave if spoken[i] else np.zeros(LONGEST, np.float32))
        where = rng.random() < 0.5
        texts.append(described(scene, where, rng))
        wrongs.append(spoiled(scene, where, rng))
        images.append(paint(scene))
    present = {"audio": torch.from_numpy(spoken & (rng.random(n) >= missing))}
    if missing:
        present["image"] = torch.from_numpy(rng.random(n) >= missing)
    return Examples(
        torch.from_numpy(np.stack(images)) if "image" in modalities else None,
        torch.from_numpy(np.stack(waves)) if "audio" in modalities else None,
        texts,
        present,
        wrongs,
    )
