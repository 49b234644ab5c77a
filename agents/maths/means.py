"""Means that know how many items they are of, and moments of a batch of which others may hold parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

# Sums a tensor over all parts of a batch; None stands for a batch that is here as a whole.
Reduce = Callable[[Tensor], Tensor] | None


@dataclass(frozen=True)
class Mean:
    """A mean over tokens, responses or pairs. A loss is one: parts of a minibatch are weighted by their counts.

    Means over the same items can be added, subtracted and multiplied by numbers.

    Attributes:
        value: the mean, a scalar; gradients pass.
        count: number of items, a scalar.
    """

    value: Tensor
    count: Tensor

    def __add__(self, other: Mean) -> Mean:
        self._check_items(other)
        return Mean(self.value + other.value, self.count)

    def __sub__(self, other: Mean) -> Mean:
        self._check_items(other)
        return Mean(self.value - other.value, self.count)

    def __rmul__(self, factor: float) -> Mean:
        return Mean(factor * self.value, self.count)

    def __neg__(self) -> Mean:
        return Mean(-self.value, self.count)

    def _check_items(self, other: Mean) -> None:
        """Refuse terms that are means over different items, whose sum would have no weight."""
        if not torch.equal(self.count, other.count):
            raise ValueError(
                f"a mean over {self.count.item():g} items is added to one over {other.count.item():g}: take all terms "
                "of a loss over tokens, or all over responses"
            )


def token_mean(x: Tensor, mask: Tensor) -> Mean:
    """Mean of (B, T) over the tokens where ``mask`` is 1."""
    count = mask.sum()
    return Mean((x * mask).sum() / count.clamp(min=1), count)


def row_ends(mask: Tensor) -> Tensor:
    """Behind the last 1 of each row of (B, T), int64 (B,); 0 for a row without one.

    The length of a response, where ``mask`` is 0 on the padding and on a prefix that it was given.
    """
    place = torch.arange(1, mask.shape[1] + 1, device=mask.device)
    return (place * (mask > 0)).amax(1)


def response_mean(x: Tensor, mask: Tensor) -> Mean:
    """Mean over B responses of their means over tokens; both (B, T)."""
    return row_mean((x * mask).sum(1) / mask.sum(1).clamp(min=1))


def budget_mean(x: Tensor, mask: Tensor, budget: int) -> Mean:
    """Sum of (B, T) over the tokens, divided by B times a constant (Dr. GRPO, Liu et al. 2025); a mean over responses.

    Args:
        x, mask: (B, T)
        budget: the most tokens that a response may have.
    """
    return row_mean((x * mask).sum(1) / budget)


def row_mean(x: Tensor) -> Mean:
    """Mean of (B,), one value a response or a pair."""
    return Mean(x.mean(), x.new_tensor(float(len(x))))


def batch_total(x: Tensor, reduce: Reduce = None) -> Tensor:
    """``x`` added up over all parts of a batch."""
    return x if reduce is None else reduce(x)


def batch_mean(x: Tensor, reduce: Reduce = None) -> Tensor:
    """Mean of (S,) over all parts of a batch."""
    if reduce is None:
        return x.mean()
    summed, count = reduce(torch.stack([x.sum(), x.new_tensor(float(len(x)))]))
    return summed / count


def batch_mean_and_var(x: Tensor, reduce: Reduce = None) -> tuple[Tensor, Tensor]:
    """Mean and variance of (S,) over all parts of a batch."""
    if reduce is None:
        return x.mean(), x.var(correction=0)
    mean = batch_mean(x, reduce)
    return mean, batch_mean((x - mean) ** 2, reduce)


def batch_token_mean(x: Tensor, mask: Tensor, reduce: Reduce = None) -> Tensor:
    """Mean of (S, T) over the tokens of all parts of a batch where ``mask`` is 1."""
    summed, count = batch_total(torch.stack([(x * mask).sum(), mask.sum()]), reduce)
    return summed / count.clamp(min=1)
