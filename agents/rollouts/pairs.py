"""Pairs of responses to the same context, to be labelled by annotators."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from agents.policies.token_policy import TokenPolicy
from agents.rollouts.batch import to_responses
from agents.rollouts.rollout import rollout
from mmenv.data.sample import Response, Sample
from mmenv.envs.token_vector_env import TokenVectorEnv
from mmenv.feedback.annotators import SyntheticAnnotator
from mmenv.feedback.comparison import Comparison
from mmenv.rewards.preference.training import Pairs
from mmenv.tokenizer import normalise

# Multiples of a policy's temperature at which the responses that annotators compare are sampled.
TEMPERATURES = (1.0, 1.5)


class JudgedResponse(NamedTuple):
    """A response to a sample, its gold (nan if unknown), and the index of the policy that it comes from."""

    sample: Sample
    response: Response
    gold: float
    policy: int


def sample_responses(
    policy: TokenPolicy, env: TokenVectorEnv, indices: np.ndarray, number: int = 0
) -> list[JudgedResponse]:
    """Responses of policy ``number`` to the samples ``indices`` (N,), a lane each; in dialogues every reply is one."""
    batch = rollout(policy, env, {"sample_index": indices})
    columns = zip(batch.samples, to_responses(batch), batch.gold.tolist(), strict=True)
    return [JudgedResponse(*row, number) for row in columns]


def same_context(responses: Iterable[JudgedResponse]) -> list[list[JudgedResponse]]:
    """Responses grouped by context; replies of a dialogue share one if the turns before them are equal."""
    groups: dict[tuple[str, str, str], list[JudgedResponse]] = {}
    for response in responses:
        sample = response.sample
        key = (sample.id, sample.prompt, str(sample.references))
        groups.setdefault(key, []).append(response)
    return list(groups.values())


def sample_pairs(
    policies: Sequence[TokenPolicy],
    env: TokenVectorEnv,
    split: str,
    n: int,
    rng: np.random.Generator,
    report: Callable[[int], None] | None = None,
) -> list[tuple[JudgedResponse, JudgedResponse]]:
    """``n`` pairs of responses with different texts, at most one a context, each with one of the first policy.

    Identical responses carry no signal, and a trained policy repeats itself: hotter copies of it, or the start, make
    pairs that differ. What is asked about depends on the texts alone, never on gold.

    Args:
        policies: one or more, each with its own generator; each responds to every context twice.
        env: of ``split``, under DISABLED autoreset, with an even number of lanes.
        split: the samples are drawn from it.
        n: number of pairs.
        rng: draws the samples, and the pair of each context.
        report: called with the number of pairs so far.

    Raises:
        ValueError: the policies hardly ever differ.
    """
    pairs: list[tuple[JudgedResponse, JudgedResponse]] = []
    rounds = 0
    while len(pairs) < n:
        rounds += 1
        if rounds > 50 * (1 + n // env.num_envs):
            raise ValueError(f"{len(pairs)} pairs that differ in {rounds} rollouts, {n} wanted: ask for fewer labels")
        index = np.repeat(rng.integers(env.task.size(split), size=env.num_envs // 2), 2)
        responses = [r for k, policy in enumerate(policies) for r in sample_responses(policy, env, index, k)]
        for group in same_context(responses):
            different = [
                (a, b)
                for a, b in combinations(group, 2)
                if normalise(a.response.text) != normalise(b.response.text) and 0 in (a.policy, b.policy)
            ]
            if different:
                a, b = different[int(rng.integers(len(different)))]
                pairs.append((a, b) if rng.random() < 0.5 else (b, a))
        if report is not None:
            report(min(n, len(pairs)))
    return pairs[:n]


def annotate(pairs: Pairs, annotator: SyntheticAnnotator, rng: np.random.Generator) -> list[Comparison]:
    """Pairs with the choices of an annotator, who may call them tied."""
    bare = [
        Comparison(s.id, s.prompt, (a.text, b.text), stops=(a.stop, b.stop))
        for s, (a, b) in zip(pairs.samples, pairs.responses, strict=True)
    ]
    return [annotator.judge(c, gold, rng) for c, gold in zip(bare, pairs.gold.tolist(), strict=True)]


def as_pairs(pairs: Sequence[tuple[JudgedResponse, JudgedResponse]]) -> Pairs:
    """Pairs as preference models take them."""
    gold = np.array([(a.gold, b.gold) for a, b in pairs]).reshape(-1, 2)
    return Pairs([a.sample for a, _ in pairs], [(a.response, b.response) for a, b in pairs], gold)
