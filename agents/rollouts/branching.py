"""Monte Carlo values: continuations from the states that responses passed through, by resets to these states."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from agents.maths.means import row_ends
from agents.policies.token_policy import TokenPolicy
from agents.rollouts.batch import Batch
from agents.rollouts.rollout import rollout
from mmenv.envs.token_vector_env import TokenVectorEnv

Tokens = tuple[int, ...]


class State(NamedTuple):
    """A state of an episode: what ``reset`` needs to begin there.

    Attributes:
        replies: earlier replies of the episode, each as tokens.
        response: tokens of the present one.
        sample_index: of the episode.
    """

    replies: tuple[Tokens, ...]
    response: Tokens
    sample_index: int


class Continuations(NamedTuple):
    """What continuations found.

    Attributes:
        values: float32 (n,), the mean return of each state.
        tokens: number of tokens that were sampled.
    """

    values: Tensor
    tokens: int


def states_of(batch: Batch, every: int) -> list[list[State]]:
    """For each of S responses the states before its tokens 0, ``every``, 2 ``every`` and so on."""
    lengths = row_ends(batch.mask).tolist()
    said: dict[int, tuple[Tokens, ...]] = {}  # by episode
    states = []
    for row, episode in enumerate(batch.episodes.tolist()):
        tokens = tuple(batch.tokens[row, : lengths[row]].tolist())
        replies = said.get(episode, ())
        said[episode] = (*replies, tokens)
        states.append([State(replies, tokens[:t], batch.samples[row].index) for t in range(0, lengths[row], every)])
    return states


def continue_from(
    states: list[State],
    branches: int,
    policy: TokenPolicy,
    env: TokenVectorEnv,
    returns: Callable[[Batch], Tensor],
) -> Continuations:
    """Mean returns of at least ``branches`` episodes from each of n states.

    Lanes of the last rollout that are left over continue the first states once more.

    Args:
        states: n different ones.
        branches: episodes from each.
        policy: samples.
        env: plays to the end of the episodes, ``num_envs`` at a time.
        returns: a batch -> (S,), what its responses earned, without what their prefixes did.
    """
    # Neighbours are at similar lengths, so that lanes of a rollout end at similar times.
    order = sorted(range(len(states)), key=lambda i: (len(states[i].replies), len(states[i].response)))
    lanes = env.num_envs
    n = -(-len(order) * branches // lanes) * lanes
    which = np.resize(np.repeat(order, branches), n)  # the state of each episode
    totals, counts, tokens = torch.zeros(len(states)), torch.zeros(len(states)), 0
    for part in which.reshape(-1, lanes):
        begun = [states[i] for i in part.tolist()]
        options = {
            "sample_index": [state.sample_index for state in begun],
            "replies": [state.replies for state in begun],
            "response": [state.response for state in begun],
        }
        batch = rollout(policy, env, options)
        rows = torch.from_numpy(part)[batch.episodes.cpu()]
        totals.index_add_(0, rows, returns(batch).cpu())
        counts.index_add_(0, torch.from_numpy(part), torch.ones(lanes))
        tokens += batch.num_tokens
    return Continuations(totals / counts, tokens)
