"""Examples of representation learning: scenes with written and spoken descriptions, right ones and hard negatives."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from mmenv.worlds.caption_writing import write_caption
from mmenv.worlds.captions import caption_parts
from mmenv.worlds.painter import paint
from mmenv.worlds.scenes import Scene, Thing, draw_scene, place
from mmenv.worlds.speech import draw_voice, speak, speakable
from mmenv.worlds.things import COLOURS, LETTERS, article, concepts

T = TypeVar("T")
COUNT = (2, 4)  # things of a scene that is described
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


def pick(rng: random.Random, items: Sequence[T]) -> T:
    """One of several, each equally likely."""
    return items[int(rng.random() * len(items))]


def shuffled(rng: random.Random, items: Sequence[T]) -> list[T]:
    """The items in a random order."""
    return sorted(items, key=lambda _: rng.random())


def draw_phrases(rng: random.Random, n: int, count: tuple[int, int] = (4, 6)) -> Phrases:
    """``n`` random scenes and a phrase for each thing, such as ``a dog at the top left .``"""
    images, texts, owner = [], [], []
    for i in range(n):
        scene = draw_scene(rng, count, distinct=True)
        images.append(paint(scene))
        texts += [f"{_with_a_fact(thing, rng)} ." for thing in scene.things]
        owner += [i] * len(scene.things)
    return Phrases(torch.from_numpy(np.stack(images)), texts, torch.tensor(owner))


def _with_a_fact(thing: Thing, rng: random.Random) -> str:
    """A thing and one of the facts that are true of it: ``a dog on a red plate``."""
    facts = [f"at the {where}"] if (where := place(thing)) is not None else []
    if thing.plate is not None:
        facts.append(f"on {article(thing.plate)} {thing.plate} plate")
    if thing.mark_word is not None:
        facts.append(f"with the {'letter' if thing.mark in LETTERS else 'digit'} {thing.mark_word}")
    return " ".join([article(thing.name), thing.name, *([pick(rng, facts)] if facts else [])])


def listed(things: Sequence[Thing]) -> str:
    """``a dog , an ant and a car .``"""
    names = [f"{article(t.name)} {t.name}" for t in things]
    return " and ".join(filter(None, [" , ".join(names[:-1]), names[-1]])) + " ."


def placed(scene: Scene, rng: random.Random) -> str:
    """``an ant at the right and a dog at the top left .``, in any order, with the places that are clear."""
    things = [
        f"{article(t.name)} {t.name}" + (f" at the {where}" if (where := place(t)) is not None else "")
        for t in shuffled(rng, scene.things)
    ]
    return " and ".join(things) + " ."


def described(scene: Scene, where: bool, rng: random.Random) -> str:
    """A right description of a scene: the place of each thing, or a caption as the captioning task has them."""
    if where:
        return placed(scene, rng)
    return write_caption(scene, rng) or listed(scene.things)


def other_thing(scene: Scene, rng: random.Random) -> Scene:
    """The scene with one thing replaced, half of the time by one of the same category."""
    old, there = pick(rng, scene.things), {t.concept for t in scene.things}
    near = [i for i, c in enumerate(concepts()) if c.category == old.category and i not in there]
    pool = near if near and rng.random() < 0.5 else [i for i in range(len(concepts())) if i not in there]
    return _with(scene, old, dataclasses.replace(old, concept=pick(rng, pool)))


def moved(scene: Scene, rng: random.Random) -> Scene:
    """The scene with the places of its things exchanged; a single thing goes to the opposite side."""
    centres = [(t.x, t.y) for t in scene.things]
    places = [*centres[1:], centres[0]] if len(centres) > 1 else [(96 - centres[0][0], 96 - centres[0][1])]
    things = tuple(dataclasses.replace(t, x=x, y=y) for t, (x, y) in zip(scene.things, places, strict=True))
    return dataclasses.replace(scene, things=things)


def one_more_or_less(scene: Scene, rng: random.Random) -> Scene:
    """The scene with one thing left out or doubled; a single thing is always doubled."""
    things = list(scene.things)
    one = pick(rng, things)
    if len(things) > 1 and rng.random() < 0.5:
        things.remove(one)
    else:
        things.append(one)
    return dataclasses.replace(scene, things=tuple(things))


def repainted(scene: Scene, rng: random.Random) -> Scene:
    """The scene with one plate of another color; a scene without plates gets one."""
    old = pick(rng, [t for t in scene.things if t.colour is not None] or scene.things)
    colour = pick(rng, [c for c in range(len(COLOURS)) if c != old.colour])
    return _with(scene, old, dataclasses.replace(old, colour=colour))


def _with(scene: Scene, old: Thing, new: Thing) -> Scene:
    return dataclasses.replace(scene, things=tuple(new if t is old else t for t in scene.things))


SPOILERS: tuple[Callable[[Scene, random.Random], Scene], ...] = (other_thing, moved, one_more_or_less, repainted)


def spoiled(scene: Scene, right: str, where: bool, rng: random.Random) -> str:
    """A hard negative: a description of the scene with one thing changed, less true than a right one."""
    most = caption_parts(scene, right)["correct"]
    for spoil in (*shuffled(rng, SPOILERS), *[other_thing] * 8):
        text = described(spoil(scene, rng), where, rng)
        if caption_parts(scene, text)["correct"] < most:
            return text
    raise AssertionError(f"no change of a scene made {right!r} less true")


def aloud(scene: Scene, rng: random.Random) -> tuple[Scene, np.ndarray]:
    """The scene with things whose names were recorded, and its spoken description, float32 (LONGEST,)."""
    recorded = [i for i, c in enumerate(concepts()) if speakable(c.name)]
    chosen = shuffled(rng, recorded)[: len(scene.things)]
    things = tuple(dataclasses.replace(t, concept=c) for t, c in zip(scene.things, chosen, strict=True))
    wave = np.zeros(LONGEST, np.float32)
    speech = speak(" ".join(t.name for t in things), draw_voice(rng), rng, LONGEST)
    wave[: len(speech)] = speech
    return dataclasses.replace(scene, things=things), wave


def draw_examples(
    rng: random.Random,
    n: int,
    modalities: Sequence[str],
    count: tuple[int, int] = COUNT,
    missing: float = 0.0,
) -> Examples:
    """Random scenes, as training shows them, with their descriptions.

    Args:
        rng: source of randomness.
        n: rows.
        modalities: those wanted; of ``"image"``, ``"audio"``, ``"text"``.
        count: least and greatest number of things.
        missing: share of rows without image, and share of rows without audio; every row has text.
    """
    images, waves, texts, wrongs, spoken = [], [], [], [], []
    for _ in range(n):
        scene = draw_scene(rng, count)
        spoken.append("audio" in modalities and rng.random() < 0.5)
        wave = np.zeros(LONGEST, np.float32)
        if spoken[-1]:
            scene, wave = aloud(scene, rng)
        waves.append(wave)
        where = rng.random() < 0.5
        texts.append(listed(scene.things) if spoken[-1] and rng.random() < 0.5 else described(scene, where, rng))
        wrongs.append(spoiled(scene, texts[-1], where, rng))
        images.append(paint(scene))
    heard = [is_spoken and rng.random() >= missing for is_spoken in spoken]
    present = {"audio": torch.tensor(heard)}
    if missing:
        present["image"] = torch.tensor([rng.random() >= missing for _ in range(n)])
    return Examples(
        torch.from_numpy(np.stack(images)) if "image" in modalities else None,
        torch.from_numpy(np.stack(waves)) if "audio" in modalities else None,
        texts,
        present,
        wrongs,
    )
