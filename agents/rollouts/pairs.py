"""Two responses of a policy to each of many contexts: what a preference model is asked about, and what is answered."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from agents.policies.token_policy import TokenPolicy
from agents.rollouts.rollout import Batch, rollout
from mmenv.data.sample import Response, Sample
from mmenv.envs.token_vector_env import TokenVectorEnv
from mmenv.feedback.annotators import SyntheticAnnotator
from mmenv.feedback.comparison import Comparison
from mmenv.rewards.preference.training import Pairs


def replies(batch: Batch) -> list[Response]:
    """The responses of a batch as reward functions take them."""
    return [
        Response(text, tuple(row[: int(m.sum())].tolist()), stop)
        for text, row, m, stop in zip(batch.texts, batch.tokens, batch.mask, batch.stops, strict=True)
    ]


class Said(NamedTuple):
    """A response with what it answers, its gold (nan where unknown), and which policy it is of."""

    sample: Sample
    response: Response
    gold: float
    policy: int


def played(policy: TokenPolicy, env: TokenVectorEnv, indices: np.ndarray, number: int = 0) -> list[Said]:
    """What a policy says to the samples ``indices`` (N,), a lane each; in dialogues a row for every reply."""
    batch = rollout(policy, env, {"sample_index": indices})
    columns = zip(batch.samples, replies(batch), batch.gold.tolist(), strict=True)
    return [Said(*row, number) for row in columns]


def same_context(rows: Iterable[Said]) -> list[list[Said]]:
    """Rows grouped by what they answer; in a dialogue two replies can be compared where both heard the same words."""
    groups: dict[tuple[str, str, str], list[Said]] = {}
    for row in rows:
        key = (row.sample.id, row.sample.prompt, str(row.sample.references))
        groups.setdefault(key, []).append(row)
    return list(groups.values())


def sample_pairs(
    policy: TokenPolicy,
    env: TokenVectorEnv,
    split: str,
    n: int,
    rng: np.random.Generator,
    report: Callable[[int], None] | None = None,
) -> Pairs:
    """``n`` pairs of responses of one policy; of a dialogue every turn at which both heard the same.

    Args:
        policy: samples with its own generator.
        env: of ``split``, under DISABLED autoreset, with an even number of lanes.
        split: where the samples are drawn from.
        n: number of pairs.
        rng: draws the samples.
        report: called with the number of pairs so far.
    """
    found: list[tuple[Said, Said]] = []
    while len(found) < n:
        index = rng.integers(env.task.size(split), size=env.num_envs // 2)
        for group in same_context(played(policy, env, np.repeat(index, 2))):
            found += zip(group[::2], group[1::2])
        if report is not None:
            report(min(n, len(found)))
    return as_pairs(found[:n])


def sample_contrasts(
    policies: Sequence[TokenPolicy],
    env: TokenVectorEnv,
    split: str,
    n: int,
    rng: np.random.Generator,
    report: Callable[[int], None] | None = None,
) -> list[tuple[Said, Said]]:
    """``n`` pairs of responses that differ, at most one a context, the first policy's among them.

    Nobody learns from comparing a response with itself, and a trained policy says the same again and again: the other
    policies, its start for example, say what it no longer does.

    Args:
        policies: one or more; each says two things to every context.
        env, split, n, rng, report: as in ``sample_pairs``.

    Raises:
        ValueError: the policies hardly ever differ.
    """
    found: list[tuple[Said, Said]] = []
    rounds = 0
    while len(found) < n:
        if (rounds := rounds + 1) > 50 * (1 + n // env.num_envs):
            raise ValueError(f"{len(found)} pairs that differ in {rounds} rollouts, {n} wanted: ask for fewer labels")
        index = np.repeat(rng.integers(env.task.size(split), size=env.num_envs // 2), 2)
        rows = [row for k, policy in enumerate(policies) for row in played(policy, env, index, k)]
        for group in same_context(rows):
            differ = [
                (a, b)
                for a, b in combinations(group, 2)
                if a.response.text != b.response.text and 0 in (a.policy, b.policy)
            ]
            if differ:
                a, b = differ[int(rng.integers(len(differ)))]
                found.append((a, b) if rng.random() < 0.5 else (b, a))
        if report is not None:
            report(min(n, len(found)))
    return found[:n]


def judged(pairs: Pairs, annotator: SyntheticAnnotator, rng: np.random.Generator) -> list[Comparison]:
    """Pairs as an annotator judged them."""
    choices = annotator.prefer(list(pairs.responses), pairs.gold, rng)
    return [
        Comparison(s.id, s.prompt, (a.text, b.text), int(c), stops=(a.stop, b.stop), annotator=annotator.name)
        for s, (a, b), c in zip(pairs.samples, pairs.responses, choices, strict=True)
    ]


def as_pairs(found: Sequence[tuple[Said, Said]]) -> Pairs:
    """Pairs as preference models take them."""
    gold = np.array([(a.gold, b.gold) for a, b in found]).reshape(-1, 2)
    return Pairs([a.sample for a, _ in found], [(a.response, b.response) for a, b in found], gold)
