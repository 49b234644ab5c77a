"""Make the shipped base network from nothing: align the encoders, then teach the three tasks from right answers.

    python -m scripts.make_base --out mmenv/models/pretrained/base.safetensors

Three stages, all seeded: image cells against words, spoken words against words
(mmenv/models/representation/word_alignment.py), then one decoder on questions, captions and spoken turns, with the
encoders frozen. Samples come from the train split alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from mmenv.data.sample import Response, Sample
from mmenv.models.checkpoints import load_pretrained, save_network
from mmenv.models.representation.word_alignment import align_words, word_vectors
from mmenv.models.transformer import Network, NetworkConfig
from mmenv.tasks.base import Task
from mmenv.tasks.captioning import Captioning
from mmenv.tasks.spoken_dialogue import SpokenDialogue, TurnTruth
from mmenv.tasks.vqa import VQA
from mmenv.worlds.grid import COLUMNS, NUMBERS, ROWS, Scene, generator, world_tokenizer

AUDIO = SpokenDialogue.max_audio_samples
ALIGNMENT = {"image": 4000, "audio": 1300}


def collate(rows: list[tuple[np.ndarray, np.ndarray | None, list[int], list[int]]]) -> dict[str, Tensor]:
    """Rows of (image, audio, prompt, response) -> padded tensors."""
    out = {"image": torch.from_numpy(np.stack([r[0] for r in rows]))}
    if rows[0][1] is not None:
        audio = np.zeros((len(rows), AUDIO), np.float32)
        for i, row in enumerate(rows):
            audio[i, : len(row[1])] = row[1]  # type: ignore[arg-type]
        out["audio"] = torch.from_numpy(audio)
    for key, at in (("prompt", 2), ("response", 3)):
        longest = max(1, *(len(r[at]) for r in rows))
        tokens = np.zeros((len(rows), longest), np.int64)
        for i, row in enumerate(rows):
            tokens[i, : len(row[at])] = row[at]
        out[key] = torch.from_numpy(tokens)
    return out


class CaptioningTwo(Captioning):
    """Pictures of two things."""

    counts = {**Captioning.counts, "plain": (2, 2)}  # noqa: RUF012


class Batches(IterableDataset):
    """Endless batches of right answers, each from one task."""

    def __init__(self, seed: int, batch: int, phase: Phase) -> None:
        self.seed, self.batch, self.odds, self.focus, self.two = seed, batch, phase.odds, phase.focus, phase.two

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        worker = torch.utils.data.get_worker_info()
        rng = generator(11, self.seed, worker.id if worker else 0)
        tasks: list[Task] = [VQA(), CaptioningTwo() if self.two else Captioning(), SpokenDialogue()]
        while True:
            task = tasks[int(rng.choice(3, p=self.odds))]
            yield collate(self.rows(task, rng))

    def rows(self, task: Task, rng: np.random.Generator):  # type: ignore[no-untyped-def]
        tokenizer, rows = world_tokenizer(), []
        while len(rows) < self.batch:
            sample = task.sample("train", int(rng.integers(task.size("train"))))
            while sample is not None and len(rows) < self.batch:
                answer = sample.references[0]
                # More of what is hard to learn: of the other families one in four is kept.
                if not self.focus or family(sample) in (*self.focus, "") or rng.random() < 0.25:
                    tokens = [*tokenizer.encode(answer), 1]
                    rows.append((sample.image, sample.audio, tokenizer.encode(sample.prompt), tokens))
                # One reply in five is wrong, so that the user's "no" is known too.
                wrong = rng.random() < 0.2
                said = NUMBERS[int(rng.integers(7))] if wrong else answer
                sample = task.follow_up(sample, Response(said))  # type: ignore[assignment]
        return rows


def family(sample: Sample) -> str:
    """The family of a sample's question; "" for a caption."""
    truth = sample.truth
    if isinstance(truth, Scene):
        return ""
    return str(truth.question.family if isinstance(truth, TurnTruth) else truth[1].family)


def name_places(network: Network) -> None:
    """Say to each image token in words where it is: its position becomes the sum of its row's and column's words."""
    tokenizer, words = world_tokenizer(), network.embed.weight.detach()
    position = network.media_position["image"].data
    for cell in range(9):
        ids = tokenizer.encode(f"{ROWS[cell // 3]} {COLUMNS[cell % 3]}")
        position[cell] = 0.5 * words[ids].sum(0)


def loss_of(network: Network, batch: dict[str, Tensor]) -> tuple[Tensor, float]:
    """Cross-entropy of the responses, and the share of responses predicted whole."""
    response = batch.pop("response")
    with torch.no_grad():
        prefix = network.encode(batch)
    logits = network.logits(network(prefix, response))
    loss = F.cross_entropy(logits.flatten(0, 1), response.flatten(), ignore_index=0)
    hit = (logits.argmax(-1) == response) | (response == 0)
    return loss, hit.all(1).float().mean().item()


@dataclass(frozen=True)
class Phase:
    """A part of the decoder's training.

    Attributes:
        steps: gradient steps.
        lr: peak learning rate.
        odds: of questions, captions and spoken turns.
        focus: families of questions asked oftener.
        two: whether captions are of two things, whose relation follows from the one that is named first.
    """

    steps: int
    lr: float
    odds: tuple[float, float, float]
    focus: tuple[str, ...]
    two: bool = False


# First to find things by name, then everything; then how two things lie to each other, which a caption says of one of
# them: docs/learning.md says why.
PHASES = (
    Phase(1000, 1.5e-3, (0.85, 0.15, 0.0), ("existence", "count", "comparison", "where")),
    Phase(
        9000, 1.3e-3, (0.38, 0.29, 0.33),
        ("relation", "comparison", "count", "odd one out", "two step", "where", "existence"),
    ),
    Phase(700, 1e-3, (0.0, 1.0, 0.0), (), two=True),
    Phase(1800, 1e-3, (0.25, 0.40, 0.35), ("relation", "comparison", "count", "two step", "where")),
)  # fmt: skip


def teach(network: Network, phase: Phase, seed: int, batch: int, workers: int, path: Path) -> None:
    """Train the decoder; the encoders stay as they are."""
    frozen = set(map(id, network.encoders.parameters()))
    parameters = [p for p in network.parameters() if id(p) not in frozen]
    steps, lr = phase.steps, phase.lr
    # The embeddings are what the encoders were aligned to: they move slowly, or the alignment is lost.
    words = [network.embed.weight]
    others = [p for p in parameters if p is not network.embed.weight]
    groups = [{"params": others, "lr": lr}, {"params": words, "lr": lr / 10, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, weight_decay=0.01, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, [lr, lr / 10], total_steps=steps, pct_start=0.05)
    data = iter(DataLoader(Batches(seed, batch, phase), batch_size=None, num_workers=workers))
    marks: dict[str, list[float]] = {}
    begun = time.time()
    for step in range(1, steps + 1):
        rows = next(data)
        kind = "dialogue" if "audio" in rows else "vqa" if rows["response"].shape[1] < 6 else "caption"
        with torch.autocast("cpu", torch.bfloat16):  # a third faster
            loss, hit = loss_of(network, rows)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()
        marks.setdefault(kind, []).append(hit)
        if step % 100 == 0:
            text = "  ".join(f"{k} {np.mean(v[-40:]):.3f}" for k, v in sorted(marks.items()))
            print(f"{step} {time.time() - begun:.0f}s loss {loss.item():.3f}  {text}", flush=True)
        if step % 500 == 0:
            save_network(network, path)


def main(
    out: Path = Path("mmenv/models/pretrained/base.safetensors"),
    stage: Literal["all", "image", "audio", "teach"] = "all",
    start: Path | None = None,
    phase: int = 0,
    seed: int = 0,
    batch: int = 96,
    workers: int = 1,
) -> None:
    """Make the base network.

    Args:
        out: the weights.
        stage: all, or one of the stages.
        start: continue from these weights.
        phase: number of the phase of the decoder's training to begin with.
        seed: of everything random.
        batch: rows of a step of the decoder.
        workers: processes that draw samples.
    """
    torch.manual_seed(seed)
    network = Network(NetworkConfig(world_tokenizer().vocab_size))
    if start:
        network.load_state_dict(load_pretrained(start).state_dict())
    else:
        network.embed.weight.data.copy_(word_vectors(network.config.width, seed))
        name_places(network)
    out.parent.mkdir(parents=True, exist_ok=True)
    for modality, steps in ALIGNMENT.items():
        if stage in ("all", modality):
            for step, loss, accuracy in align_words(network, modality, steps, seed):
                if step % 50 == 0 or step == steps - 1:
                    print(f"{modality} {step} loss {loss:.3f} accuracy {accuracy:.3f}", flush=True)
            save_network(network, out)
    if stage in ("all", "teach"):
        for number, part in list(enumerate(PHASES))[phase:]:
            teach(network, part, seed + number, batch, workers, out)
        save_network(network, out)


if __name__ == "__main__":
    tyro.cli(main)
