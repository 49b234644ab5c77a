"""A dialogue small enough to enumerate: two replies of at most two of three words, 157 episodes."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import torch
from test_exact_references import BETA, END, PAD, Tiny, flat, network

from agents.algorithms.registry import find
from agents.policies.token_policy import Responses, TokenPolicy
from mmenv.data.sample import Response, Sample
from mmenv.envs.token_vector_env import TokenVectorEnv

BUDGET = 2
WORDS = (2, 3, 4)
REPLIES = [(END,)] + [(a, b) for a in WORDS for b in (END, *WORDS)]
FIRSTS = REPLIES[1:]  # an empty first reply ends the episode
_rng = np.random.default_rng(3)
_table = _rng.normal(size=(13, 13))
_table[1:] += 2 * _rng.normal(size=(12, 1))  # what a first reply leads to matters more than what it is paid
_WORTH = dict(zip(itertools.product(["it", *FIRSTS], REPLIES), _table.flatten(), strict=True))


class Pair(Tiny):
    """The user repeats what was said, and asks again."""

    name = "pair"

    def sample(self, split: str, index: int) -> Sample:
        picture = super().sample(split, index).image
        return Sample(f"pair/{index}/0", index, "it", picture)

    def follow_up(self, sample: Sample, response: Response) -> Sample | None:
        if sample.turn == 1 or not response.text:
            return None
        again = Sample(f"pair/{sample.index}/1", sample.index, response.text, sample.image, truth=response.tokens)
        return dataclasses.replace(again, turn=1)

    def gold(self, sample: Sample, response: Response) -> float | None:
        return None


class LatePair(Pair):
    """The same, paid at the end of an episode."""

    pays_at_end = True


def several(kind: type[Pair]) -> type[Pair]:
    """The same dialogues about a hundred pictures, so that a batch has several groups."""
    return type(f"Several{kind.__name__}", (kind,), {"size": lambda self, split: 100})


def worth(samples, responses):
    return np.array([_WORTH[s.truth or "it", r.tokens] for s, r in zip(samples, responses, strict=True)], np.float32)


def world(kind=Pair, num_envs=64):
    env = TokenVectorEnv(
        kind, num_envs, reward=worth, autoreset_mode="Disabled", copy=False, max_response_tokens=BUDGET
    )
    env.reset(seed=0)
    return env


def learner(name, env, **settings):
    """An algorithm whose policy has moved away from its reference, so that the KL matters."""
    given = {"num_envs": env.num_envs, "eval_episodes": 0, "missing_eos_penalty": 0.0, "kl_coef": BETA, **settings}
    cls = find(name)
    config = cls.Config(**given)
    policy = cls.make_policy(config, network(), BUDGET, torch.Generator().manual_seed(0))
    reference = TokenPolicy(network(), BUDGET, generator=torch.Generator().manual_seed(1)).requires_grad_(False)
    algorithm = cls(config, policy, reference, np.random.default_rng(0))
    with torch.no_grad():
        for p in algorithm.stepper.parameters:
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(3)))
    return algorithm


def log_probabilities(policy):
    """Of every first reply (13,), and of every second one after each of FIRSTS (12, 13); differentiable."""
    env = world(num_envs=13)
    replies = [[], *([first] for first in FIRSTS)]
    observations, _ = env.reset(options={"sample_index": [0] * 13, "replies": replies})
    tokens = torch.tensor([[*r, *[PAD] * (BUDGET - len(r))] for r in REPLIES]).repeat(13, 1)
    mask = (tokens != PAD).float()
    contexts = torch.arange(13).repeat_interleave(13)
    logp = policy.evaluate(Responses(policy.encode(observations), tokens, mask, contexts)).logp
    table = (logp * mask).sum(1).view(13, 13)
    return table[0], table[1:]


def exact_gradient(algorithm, pays_at_end=False):
    """Gradient of E[rewards of an episode] - beta * KL of its replies, by summing over every episode."""
    (first, second), (ref_first, ref_second) = (
        log_probabilities(algorithm.policy),
        log_probabilities(algorithm.reference),
    )
    paid = torch.tensor([_WORTH["it", r] for r in REPLIES], dtype=torch.float32)
    if pays_at_end:
        paid = paid * torch.tensor([float(r == (END,)) for r in REPLIES])
    later = torch.tensor([[_WORTH[f, r] for r in REPLIES] for f in FIRSTS], dtype=torch.float32)
    rest = (second.exp() * (later - BETA * (second - ref_second.detach()))).sum(1)  # (12,)
    own = paid - BETA * (first - ref_first.detach())
    objective = (first.exp() * own).sum() + (first[1:].exp() * rest).sum()
    return flat(torch.autograd.grad(objective, algorithm.stepper.parameters, allow_unused=True))
