"""Advantages over the turns of a dialogue: a reply is one action, and later rewards of its episode follow from it.

All tensors over S replies; ``episodes``, int64 (S,), names the episode of each, and the replies of an episode stand in
the order of its turns.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from agents.maths.advantages import gae, returns_to_go


class TurnGroups(NamedTuple):
    """The returns that a reply is compared with.

    Attributes:
        returns: (N,), one for each episode and turn; an episode that ended before has that of its last turn.
        groups: int64 (N,), the same for the same turn of all episodes that began with the same context.
        rows: int64 (S,), the place of each reply among the N.
    """

    returns: Tensor
    groups: Tensor
    rows: Tensor


def turn_numbers(episodes: Tensor) -> Tensor:
    """The turn of each reply within its episode, from 0, int64 (S,)."""
    order = episodes.argsort(stable=True)
    sizes = torch.bincount(episodes)
    starts = sizes.cumsum(0) - sizes
    turns = torch.empty_like(episodes)
    turns[order] = torch.arange(len(episodes), device=episodes.device) - starts[episodes[order]]
    return turns


def last_turns(episodes: Tensor) -> Tensor:
    """Whether a reply is the last one of its episode, bool (S,)."""
    return turn_numbers(episodes) == torch.bincount(episodes)[episodes] - 1


def turn_gae(rewards: Tensor, values: Tensor, episodes: Tensor, gamma: float, lam: float) -> Tensor:
    """Generalised advantage estimation over turns, as in Turn-PPO (Li et al. 2025, arXiv 2512.17008); (S,).

    delta_k = reward_k + gamma * value_(k+1) - value_k, A_k = delta_k + gamma * lam * A_(k+1); 0 after the last turn.

    Args:
        rewards: (S,), what each reply earned by itself.
        values: (S,), the value before the first token of each reply.
        episodes: int64 (S,)
        gamma: discount of a turn.
        lam: lambda.
    """
    turns = turn_numbers(episodes)
    mask = _grid(torch.ones_like(rewards), episodes, turns)
    return gae(_grid(rewards, episodes, turns), _grid(values, episodes, turns), mask, gamma, lam)[episodes, turns]


def turn_returns(rewards: Tensor, episodes: Tensor) -> Tensor:
    """The sum of what a reply and all later ones of its episode earned, (S,)."""
    turns = turn_numbers(episodes)
    mask = _grid(torch.ones_like(rewards), episodes, turns)
    return returns_to_go(_grid(rewards, episodes, turns), mask)[episodes, turns]


def next_turn_values(values: Tensor, episodes: Tensor) -> Tensor:
    """The value at the start of the turn after each reply, given those at the start of each; 0 after the last; (S,)."""
    turns = turn_numbers(episodes)
    following = _grid(values, episodes, turns).roll(-1, dims=1)
    following[:, -1] = 0
    return following[episodes, turns]


def turn_groups(returns: Tensor, contexts: Tensor, episodes: Tensor) -> TurnGroups:
    """Returns grouped by first context and turn, for a baseline: A_k = return_k - mean of return_k of other episodes.

    The other episodes of a group followed other replies, so that their later turns have other contexts: their returns
    do not depend on the reply, and the gradient stays unbiased.

    Args:
        returns: (S,), see ``turn_returns``.
        contexts: int64 (S,), the context of each reply.
        episodes: int64 (S,)
    """
    turns = turn_numbers(episodes)
    grid = _grid(returns, episodes, turns)  # (E, K)
    length = torch.bincount(episodes)
    for k in range(1, grid.shape[1]):
        grid[:, k] = torch.where(k < length, grid[:, k], grid[:, k - 1])
    first = torch.zeros_like(length)
    first[episodes[turns == 0]] = contexts[turns == 0]
    number = torch.arange(grid.shape[1], device=grid.device)
    groups = first[:, None] * grid.shape[1] + number
    return TurnGroups(grid.flatten(), groups.flatten(), episodes * grid.shape[1] + turns)


def _grid(x: Tensor, episodes: Tensor, turns: Tensor) -> Tensor:
    """(S,) as (E, K): a row for each episode, 0 after its last turn."""
    grid = x.new_zeros(int(episodes.max()) + 1, int(turns.max()) + 1)
    grid[episodes, turns] = x
    return grid
