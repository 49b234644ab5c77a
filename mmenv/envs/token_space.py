"""The space of actions: tokens of the vocabulary, of which ``sample`` never draws padding."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector.utils import batch_space


class TokenSpace(spaces.Discrete):
    """``Discrete(vocab_size)`` whose ``sample`` without a mask draws every token but padding.

    The environment refuses padding, so that agents and checkers that draw at random need this.

    Args:
        vocab_size: number of tokens, at least 2.
        pad_id: token that pads.
        seed: of the space's generator.
    """

    def __init__(self, vocab_size: int, pad_id: int, seed: int | np.random.Generator | None = None) -> None:
        self.pad_id = pad_id
        super().__init__(vocab_size, seed)

    def sample(self, mask: Any = None, probability: Any = None) -> Any:
        """A token; ``mask`` and ``probability`` are those of ``Discrete.sample``."""
        if mask is not None or probability is not None:
            return super().sample(mask, probability)
        return _without_padding(self.np_random.integers(self.n - 1), self.pad_id)


class TokenSpaces(spaces.MultiDiscrete):
    """The actions of N lanes, each as of ``TokenSpace``.

    Args:
        vocab_size, pad_id, seed: see ``TokenSpace``.
        n: number of lanes.
    """

    def __init__(self, vocab_size: int, pad_id: int, n: int = 1, seed: int | np.random.Generator | None = None) -> None:
        self.pad_id = pad_id
        super().__init__([vocab_size] * n, seed=seed)

    def sample(self, mask: Any = None, probability: Any = None) -> Any:
        """N tokens; ``mask`` and ``probability`` are those of ``MultiDiscrete.sample``."""
        if mask is not None or probability is not None:
            return super().sample(mask, probability)
        return _without_padding(self.np_random.integers(self.nvec - 1), self.pad_id)


def _without_padding(drawn: Any, pad_id: int) -> Any:
    """Numbers below ``vocab_size - 1`` as the tokens that are not padding."""
    return drawn + (drawn >= pad_id)


@batch_space.register(TokenSpace)
def _batch(space: TokenSpace, n: int = 1) -> TokenSpaces:
    """What Gymnasium's own vector environments make of the space."""
    return TokenSpaces(int(space.n), space.pad_id, n, deepcopy(space.np_random))
