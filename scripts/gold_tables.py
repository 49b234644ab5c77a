"""What a network knows: gold of its responses by family of questions, and facts that it tells rightly by kind."""

from __future__ import annotations

import random
from collections import defaultdict

import numpy as np
import torch
from torch import Tensor

from mmenv.data.sample import Response, Sample
from mmenv.models.transformer import Network
from mmenv.tasks.base import Task
from mmenv.worlds.facts import facts_by_kind
from mmenv.worlds.painter import paint
from mmenv.worlds.scenes import draw_scene, seed_of
from scripts.teaching import FACTS_THINGS, batch_of_facts, collate


@torch.no_grad()
def respond(network: Network, task: Task, samples: list[Sample], rng: torch.Generator | None) -> list[Response]:
    """A response to each sample, sampled at temperature 1, or greedy where ``rng`` is None."""
    batch = collate(task, samples, [""] * len(samples))
    budget, end = task.max_response_tokens, task.tokenizer.end_id
    hidden, cache = network.start(network.encode(batch.observations()), budget)
    tokens: list[Tensor] = []
    ended = torch.zeros(len(samples), dtype=torch.bool)
    for _ in range(budget):
        logits = network.logits(hidden)
        logits[:, network.config.pad_id] = -torch.inf
        token = logits.argmax(1) if rng is None else torch.multinomial(logits.softmax(1), 1, generator=rng)[:, 0]
        tokens.append(torch.where(ended, network.config.pad_id, token))
        ended |= token == end
        if ended.all():
            break
        hidden = network.step(token, cache)
    rows = torch.stack(tokens, 1).tolist()
    return [Response(task.tokenizer.decode(row), tuple(t for t in row if t != network.config.pad_id)) for row in rows]


def gold_by_family(
    network: Network, task: Task, split: str = "validation", n: int = 1000, greedy: bool = True, seed: int = 0
) -> dict[str, float]:
    """Mean gold of the first ``n`` samples of a split by family, with all turns of a dialogue; ``"all"`` is the mean.

    Replies without gold, those before the last one of a game, do not count.

    Args:
        network: whose responses.
        task: whose gold.
        split: of the task.
        n: samples, at most those of the split.
        greedy: the likeliest tokens, or tokens sampled at temperature 1.
        seed: of the sampling.
    """
    rng = None if greedy else torch.Generator().manual_seed(seed)
    gold: dict[str, list[float]] = defaultdict(list)
    for first in range(0, n, 100):
        samples = [task.sample(split, index) for index in range(first, min(n, first + 100))]
        while samples:
            responses = respond(network, task, samples, rng)
            for sample, response in zip(samples, responses, strict=True):
                score = task.gold(sample, response)
                if score is not None:
                    gold[sample.family].append(score)
            follow_ups = [task.follow_up(s, r) for s, r in zip(samples, responses, strict=True)]
            samples = [sample for sample in follow_ups if sample is not None]
    every = [score for scores in gold.values() for score in scores]
    return {"all": float(np.mean(every)), **{name: float(np.mean(scores)) for name, scores in sorted(gold.items())}}


@torch.no_grad()
def facts_told_rightly(network: Network, n: int = 500, seed: int = 0) -> dict[str, float]:
    """Share of facts whose telling word the network predicts from the picture and the words before it, by kind.

    Args:
        network: a decoder that tells facts.
        n: pictures of the validation split, with a fact of each kind that they have.
        seed: of pictures and facts.
    """
    rng = random.Random(seed_of("facts told", seed))
    right: dict[str, list[float]] = defaultdict(list)
    for _ in range(n):
        scene = draw_scene(rng, FACTS_THINGS, "validation")
        told = {kind: rng.choice(facts) for kind, facts in facts_by_kind(scene).items() if facts}
        batch = batch_of_facts([paint(scene)] * len(told), list(told.values()))
        predicted = network.logits(network(network.encode(batch.observations()), batch.response)).argmax(-1)
        # What a fact tells stands before the full stop, or is the article in "of the same color ." and "a different".
        for i, (kind, fact) in enumerate(told.items()):
            at = len(fact.split()) - (4 if kind.startswith(("same", "different")) else 2)
            right[kind].append(float(predicted[i, at] == batch.response[i, at]))
    return {kind: float(np.mean(shares)) for kind, shares in sorted(right.items())}
