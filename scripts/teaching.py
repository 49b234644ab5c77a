"""The teaching of a decoder from right demonstrations, the encoders frozen: D of each task, or without end."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from mmenv.data.sample import Response, Sample
from mmenv.models.transformer import Network
from mmenv.tasks.base import Task
from mmenv.tasks.captioning import Captioning
from mmenv.tasks.guess import Guess
from mmenv.tasks.spoken_dialogue import SpokenDialogue
from mmenv.tasks.vqa import VQA
from mmenv.worlds.facts import write_facts
from mmenv.worlds.painter import paint
from mmenv.worlds.scenes import LEVELS, draw_scene, seed_of
from mmenv.worlds.things import concepts
from mmenv.worlds.vocabulary import world_tokenizer
from scripts.resumable import Schedule, train

TASKS: dict[str, type[Task]] = {"vqa": VQA, "captioning": Captioning, "dialogue": SpokenDialogue, "guess": Guess}
FACTS_THINGS = (2, 9)  # of a picture whose facts are told
FACTS_PROMPT = "what do you see ?"
MISTAKES = 0.2  # share of replies in dialogues that are wrong, so that the user's "no" is heard


@dataclass(frozen=True)
class Lessons:
    """What a decoder is taught.

    Attributes:
        counts: demonstrations of each task, the first ones of the train split; of dialogues and games all turns count
            as one.
            0: as many as the split has.
        odds: of a batch's task.
        spoken_from: first step with dialogues: what they ask is learned from written questions first.
        hard: share of batches at the level "hard".
        batch: demonstrations of a step.
    """

    counts: dict[str, int]
    odds: dict[str, float]
    spoken_from: int = 0
    hard: float = 0.25
    batch: int = 64


class Batch(NamedTuple):
    """Demonstrations of one task; a medium that it does not have is None.

    Attributes:
        image: uint8 (B, H, W, 3).
        audio: float32 (B, T), zero-padded to the observation's length.
        prompt: int64 (B, P), right-padded.
        response: int64 (B, R), with the end token, right-padded.
        task: its name.
    """

    image: Tensor
    audio: Tensor | None
    prompt: Tensor
    response: Tensor
    task: str

    def observations(self) -> dict[str, Tensor]:
        """As ``Network.encode`` takes them."""
        media = {"image": self.image} | ({} if self.audio is None else {"audio": self.audio})
        return {**media, "prompt": self.prompt}


def collate(task: Task, samples: list[Sample], responses: list[str]) -> Batch:
    """Samples of one task and what to answer to each."""
    encode = task.tokenizer.encode
    images = np.stack([sample.image for sample in samples if sample.image is not None])
    audio = None
    if "audio" in task.modalities:
        audio = np.zeros((len(samples), task.max_audio_samples), np.float32)
        for row, sample in zip(audio, samples, strict=True):
            assert sample.audio is not None
            row[: len(sample.audio)] = sample.audio
    return Batch(
        torch.from_numpy(images),
        None if audio is None else torch.from_numpy(audio),
        _padded([encode(sample.prompt) for sample in samples]),
        _padded([[*encode(text), task.tokenizer.end_id] for text in responses]),
        task.name,
    )


def _padded(rows: list[list[int]]) -> Tensor:
    table = np.zeros((len(rows), max(map(len, rows))), np.int64)
    for line, row in zip(table, rows, strict=True):
        line[: len(row)] = row
    return torch.from_numpy(table)


class Facts(Dataset[Batch]):
    """Pictures of training with facts about each (``worlds.facts``): the batch of each step.

    Args:
        seed: of the training.
        batch: pictures of a step.
        odds: of the kinds of facts, see ``write_facts``.
        distinct: no picture has a concept twice.
        most_words: of a text.
    """

    def __init__(
        self, seed: int, batch: int, odds: Mapping[str, int], distinct: bool = False, most_words: int = 64
    ) -> None:
        self.seed, self.batch, self.odds, self.distinct, self.most_words = seed, batch, odds, distinct, most_words

    def __getitem__(self, step: int) -> Batch:
        rng = random.Random(seed_of("facts", self.seed, step))
        images, texts = [], []
        for _ in range(self.batch):
            scene = draw_scene(rng, FACTS_THINGS, distinct=self.distinct)
            images.append(paint(scene))
            texts.append(write_facts(scene, rng, self.most_words, self.odds))
        return batch_of_facts(images, texts)


def batch_of_facts(images: list[np.ndarray], texts: list[str]) -> Batch:
    """Pictures uint8 (H, W, 3) and what is told of each; no end token, since more could be told."""
    encode = world_tokenizer().encode
    prompts = [encode(FACTS_PROMPT)] * len(images)
    responses = _padded([encode(text) for text in texts])
    return Batch(torch.from_numpy(np.stack(images)), None, _padded(prompts), responses, "facts")


class Demonstrations(Dataset[Batch]):
    """The batch of each step, drawn from its number.

    Args:
        lessons: what to teach.
        seed: of the training.
    """

    def __init__(self, lessons: Lessons, seed: int) -> None:
        self.lessons, self.seed = lessons, seed
        self.tasks = {(name, level): kind(level=level) for name, kind in TASKS.items() for level in LEVELS}  # type: ignore[call-arg]

    def __getitem__(self, step: int) -> Batch:
        lessons, rng = self.lessons, random.Random(seed_of("teaching", self.seed, step))
        odds = {
            name: share for name, share in lessons.odds.items() if name != "dialogue" or step >= lessons.spoken_from
        }
        name = rng.choices(list(odds), list(odds.values()))[0]
        task = self.tasks[name, "hard" if rng.random() < lessons.hard else "plain"]
        size = lessons.counts[name] or task.size("train")
        samples: list[Sample] = []
        while len(samples) < lessons.batch:
            samples += demonstration(task, rng.randrange(size), rng)
        samples = samples[: lessons.batch]
        return collate(task, samples, [sample.references[0] for sample in samples])


def demonstration(task: Task, index: int, rng: random.Random) -> list[Sample]:
    """Sample ``index`` of the train split and, in a dialogue or game, the turns after it."""
    samples = []
    mistakes = 0.0 if task.pays_at_end else MISTAKES  # a wrong guess would end the game
    sample: Sample | None = task.sample("train", index)
    while sample is not None:
        samples.append(sample)
        reply = rng.choice(concepts()).name if rng.random() < mistakes else sample.references[0]
        sample = task.follow_up(sample, Response(reply))
    return samples


def teaching_loss(network: Network, batch: Batch) -> tuple[Tensor, dict[str, float]]:
    """Cross-entropy of the responses' tokens, and the share of responses that are predicted in full."""
    prefix = network.encode(batch.observations())
    logits = network.logits(network(prefix, batch.response)).float()  # (B, R, V)
    pad = network.config.pad_id
    loss = F.cross_entropy(logits.flatten(0, 1), batch.response.flatten(), ignore_index=pad)
    right = (logits.argmax(-1) == batch.response) | (batch.response == pad)
    return loss, {batch.task: right.all(1).float().mean().item()}


def teach(network: Network, lessons: Dataset[Batch], schedule: Schedule, state: Path, name: str) -> None:
    """Train all of ``network`` but its encoders, in place.

    Args:
        network: with aligned encoders.
        lessons: ``Facts`` or ``Demonstrations``.
        schedule: steps and learning rate.
        state: file of the training, see ``resumable.train``.
        name: what to print.
    """
    network.encoders.requires_grad_(False)
    words = network.embed.weight
    others = [p for p in network.parameters() if p.requires_grad and p is not words]
    groups: list[dict[str, Any]] = [
        {"params": others, "scale": 1.0},
        # The encoders were aligned with the embeddings: these move slowly, or the alignment is lost.
        {"params": [words], "scale": 0.1, "weight_decay": 0.0},
    ]
    train(
        network,
        groups,
        lessons,
        lambda batch: teaching_loss(network, batch),
        schedule,
        state,
        name,
    )
    network.encoders.requires_grad_(True)
