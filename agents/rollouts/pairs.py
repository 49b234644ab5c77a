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
from mmenv.feedback.judgement import Kind
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


def sample_groups(
    policies: Sequence[TokenPolicy],
    env: TokenVectorEnv,
    split: str,
    n: int,
    rng: np.random.Generator,
    report: Callable[[int], None] | None = None,
    repeats: int = 2,
) -> list[list[JudgedResponse]]:
    """The different responses to ``n`` contexts, at least two to each and at least one of the first policy.

    Identical responses carry no signal, and a trained policy repeats itself: hotter copies of it, or the start, make
    responses that differ. What is asked about depends on the texts alone, never on gold.

    Args:
        policies: one or more, each with its own generator.
        env: of ``split``, under DISABLED autoreset, with a multiple of ``repeats`` lanes.
        split: the samples are drawn from it.
        n: number of contexts.
        rng: draws the samples and the order of the responses.
        report: called with the number of contexts so far.
        repeats: how often each policy responds to a context.

    Raises:
        ValueError: the policies hardly ever differ.
    """
    groups: list[list[JudgedResponse]] = []
    rounds = 0
    while len(groups) < n:
        rounds += 1
        if rounds > 50 * (1 + n // env.num_envs):
            raise ValueError(f"{len(groups)} pairs that differ in {rounds} rollouts, {n} wanted: ask for fewer labels")
        index = np.repeat(rng.integers(env.task.size(split), size=env.num_envs // repeats), repeats)
        responses = [r for k, policy in enumerate(policies) for r in sample_responses(policy, env, index, k)]
        for group in same_context(responses):
            different = list({normalise(r.response.text): r for r in reversed(group)}.values())
            if len(different) > 1 and any(r.policy == 0 for r in different):
                rng.shuffle(different)
                groups.append(different)
        if report is not None:
            report(min(n, len(groups)))
    return groups[:n]


def sample_pairs(
    policies: Sequence[TokenPolicy],
    env: TokenVectorEnv,
    split: str,
    n: int,
    rng: np.random.Generator,
    report: Callable[[int], None] | None = None,
) -> list[tuple[JudgedResponse, JudgedResponse]]:
    """``n`` pairs of responses with different texts, one a context, each with one of the first policy.

    Args, errors: as of ``sample_groups``.
    """
    groups = sample_groups(policies, env, split, n, rng, report)
    # Groups are shuffled, so that the first pair with one of the first policy is a random one.
    return [next(p for p in combinations(group, 2) if 0 in (p[0].policy, p[1].policy)) for group in groups]


def annotate(pairs: Pairs, annotator: SyntheticAnnotator, rng: np.random.Generator) -> list[Comparison]:
    """Pairs with the choices of an annotator, who may call them tied."""
    rows = zip(pairs.samples, pairs.responses, pairs.gold.tolist(), strict=True)
    return [annotator.judge(_comparison(s, pair), gold, rng) for s, pair, gold in rows]


def annotate_groups(
    groups: Sequence[Sequence[JudgedResponse]], annotator: SyntheticAnnotator, rng: np.random.Generator, kind: Kind
) -> list[Comparison]:
    """Groups of responses with an annotator's judgements of a kind: the best one, or a ranking."""
    return [
        annotator.judge(_comparison(g[0].sample, [r.response for r in g]), [r.gold for r in g], rng, kind)
        for g in groups
    ]


def _comparison(sample: Sample, responses: Sequence[Response]) -> Comparison:
    """Responses to a sample, not judged yet."""
    texts, stops = tuple(r.text for r in responses), tuple(r.stop for r in responses)
    return Comparison(sample.id, sample.prompt, texts, stops=stops)


def as_pairs(pairs: Sequence[tuple[JudgedResponse, JudgedResponse]]) -> Pairs:
    """Pairs as preference models take them."""
    gold = np.array([(a.gold, b.gold) for a, b in pairs]).reshape(-1, 2)
    return Pairs([a.sample for a, _ in pairs], [(a.response, b.response) for a, b in pairs], gold)
