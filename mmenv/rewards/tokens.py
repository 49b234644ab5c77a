"""Rewards that also pay at the tokens: their contract, and the checked call of ``per_token``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from mmenv.data.sample import Response, Sample
from mmenv.rewards.base import RewardError, RewardFunction, WeightedSum, called, reward_name, score


@runtime_checkable
class TokenReward(Protocol):
    """A reward function that pays at the tokens too; the return of a response is the sum of both.

    An environment calls ``per_token`` once a step, with what every lane that is not over has written so far, and pays
    entry t for token t. So it must be causal: what it pays at token t depends on the sample and on tokens 0 .. t alone,
    and the entries of a longer response begin with those of its beginning. A response that goes on has ``stop=""``.

    Cost: one batched call a step, R calls a response, each with the text decoded anew. A network that reads the whole
    response each time does R times the work of a score; what it can keep between calls it has to keep itself, by the
    tokens.
    """

    def __call__(self, samples: Sequence[Sample], responses: Sequence[Response]) -> np.ndarray:
        """Scores of finished responses, float32 (n,), paid at the last token; zeros where only tokens are paid."""

    def per_token(self, samples: Sequence[Sample], responses: Sequence[Response]) -> np.ndarray:
        """Rewards of tokens, float32 (n, R), R at least the tokens of the longest response; the rest is ignored."""


class TokenRewards(NamedTuple):
    """What is paid at the tokens of n responses, the longest of which has L.

    Attributes:
        rows: float32 (n, L), 0 behind the end of a response.
        parts: the parts of a composed reward by name, unweighted, each float32 (n, L).
    """

    rows: np.ndarray
    parts: dict[str, np.ndarray]

    def select(self, index: np.ndarray) -> TokenRewards:
        """Those of some responses: their indices, or bools (n,)."""
        return TokenRewards(self.rows[index], {name: part[index] for name, part in self.parts.items()})


def pays_tokens(reward: RewardFunction) -> bool:
    """Whether a reward function, or a part of a composed one, offers ``per_token``."""
    if isinstance(reward, WeightedSum):
        return any(pays_tokens(part) for part, _ in reward.parts)
    return isinstance(reward, TokenReward) and callable(reward.per_token)


def token_rewards(reward: RewardFunction, samples: Sequence[Sample], responses: Sequence[Response]) -> TokenRewards:
    """Call ``per_token`` of a reward or of its parts, and check what it returns; zeros where it is not offered.

    Args:
        reward: a reward function.
        samples: n, n >= 1.
        responses: n, finished or not, each of one token or more.

    Raises:
        RewardError: it failed, or what it returned has the wrong shape or is not finite.
    """
    if isinstance(reward, WeightedSum):
        parts = {reward_name(part): token_rewards(part, samples, responses).rows for part, _ in reward.parts}
        return TokenRewards(reward.combine(parts), parts)
    lengths = np.array([len(r.tokens) for r in responses])
    written = np.arange(lengths.max()) < lengths[:, None]  # (n, L)
    if not isinstance(reward, TokenReward) or not pays_tokens(reward):
        return TokenRewards(np.zeros(written.shape, np.float32), {})
    name = f"{reward_name(reward)}.per_token"
    rows = called(name, reward.per_token, samples, responses)
    if rows.ndim != 2 or len(rows) != len(samples) or rows.shape[1] < written.shape[1]:
        raise RewardError(
            f"reward {name!r} returned shape {rows.shape} for {len(samples)} responses of up to {written.shape[1]} "
            f"tokens (first sample {samples[0].id!r}): return a number for each token, shape (n, R)"
        )
    rows = np.where(written, rows[:, : written.shape[1]], np.float32(0))
    bad = np.argwhere(~np.isfinite(rows))
    if len(bad):
        i, t = bad[0].tolist()
        raise RewardError(
            f"reward {name!r} returned {rows[i, t]} for token {t} of sample {samples[i].id!r}, response "
            f"{responses[i].text!r}: rewards must be finite"
        )
    return TokenRewards(rows, {})


def returns(reward: RewardFunction, samples: Sequence[Sample], responses: Sequence[Response]) -> np.ndarray:
    """What finished responses earn in all, float32 (n,): their scores and, where they are paid, their tokens.

    Raises:
        RewardError: see ``score`` and ``token_rewards``.
    """
    scores = score(reward, samples, responses)
    if not pays_tokens(reward):
        return scores
    return scores + token_rewards(reward, samples, responses).rows.sum(1)
