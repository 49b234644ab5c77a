"""Gradient steps: micro-batches, gradient clipping, FSDP, and every collective that a step needs.

DistributedDataParallel is not used: policies are evaluated by methods of their own and not through ``forward``, and its
mean over ranks would be another gradient if ranks hold different numbers of tokens. Instead each rank weights its
gradient by its share of the minibatch, and gradients are summed after the backward pass, in one buffer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agents.distributed import processes, sharding
from agents.maths.means import Mean, Reduce, token_mean
from agents.policies.token_policy import Evaluated, Responses, TokenPolicy
from agents.rollouts.batch import Minibatch, split_rows

M = TypeVar("M", bound=Minibatch)
Logs = dict[str, Mean]
Loss = Callable[[Evaluated, M], tuple[Mean, Logs]]


class Stepper:
    """Takes gradient steps of a policy, alone or together with the other ranks of the run.

    Args:
        policy: learns.
        config: gives learning rates, ``adam_eps``, ``max_grad_norm``, ``minibatches`` and ``micro_batches``.
        rows_per_unit: neighbouring rows of a minibatch that stay in one micro-batch.
        entropy_gradient: whether the loss needs gradients of the entropy; they cost memory.

    Attributes:
        parameters: of the policy, those that learn.
        optimiser: Adam; its moments go into the checkpoint.
    """

    def __init__(self, policy: TokenPolicy, config: Any, rows_per_unit: int, entropy_gradient: bool) -> None:
        self.policy = policy
        self.config = config
        self.rows_per_unit = rows_per_unit
        self.entropy_gradient = entropy_gradient
        self.parameters = policy.trainable_parameters()
        self.optimiser: torch.optim.Optimizer = torch.optim.Adam(
            self.parameters, lr=config.learning_rate, eps=config.adam_eps
        )
        self._steps: list[tuple[float, dict[str, float]]] = []  # this rank's share of each step, and its logs

    @property
    def reduce(self) -> Reduce:
        """Sums a tensor over all ranks; None in a run of one process."""
        return processes.total if processes.size() > 1 else None

    def set_learning_rate(self, progress: float) -> float:
        """Set and return the learning rate, which falls linearly with the progress of the run in [0, 1]."""
        config = self.config
        learning_rate = config.learning_rate + progress * (config.final_learning_rate - config.learning_rate)
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate
        return learning_rate

    @torch.no_grad()
    def evaluate(self, policy: TokenPolicy, responses: Responses, entropy: bool = True) -> tuple[Tensor, Tensor]:
        """Log-probabilities and entropies (S, T) of responses under a policy, without gradients.

        With micro-batches no pass reads more responses than a micro-batch of a gradient step holds.

        Args:
            policy: evaluates.
            responses: S of them.
            entropy: False returns entropies of 0: over a large vocabulary they cost memory.
        """
        parts = [responses]
        if self.config.micro_batches > 1:
            rows = torch.arange(len(responses.mask), device=responses.mask.device)
            size = -(-len(rows) // (self.config.minibatches * self.config.micro_batches))
            parts = [responses.select(some) for some in torch.split(rows, size)]
        logps, entropies = [], []
        for part in parts:
            new = policy.evaluate(part.encoded_by(policy.network), entropy=entropy)
            padding = (0, responses.mask.shape[1] - part.mask.shape[1])
            logps.append(F.pad(new.logp, padding))
            entropies.append(F.pad(new.entropy, padding))
        return torch.cat(logps), torch.cat(entropies)

    def align(self, minibatches: Iterable[Tensor]) -> list[Tensor]:
        """The minibatches of one epoch, with empty ones at the end if another rank has more."""
        local = list(minibatches)
        missing = max(processes.gather(len(local))) - len(local)
        return local + [torch.empty(0, dtype=torch.long)] * missing

    def step(self, data: M, indices: Tensor, loss: Loss[M]) -> None:
        """Take one gradient step on a minibatch.

        Args:
            data: S responses with what the loss needs.
            indices: int64 (B,), the rows of the minibatch. A rank without rows must still join this step's collectives
                (online DPO may find no pair).
            loss: called with the policy's evaluation of some rows and with these rows; a function of nothing else.

        Raises:
            FloatingPointError: the loss or its gradient is not finite; no step was taken.
        """
        self.optimiser.zero_grad(set_to_none=True)
        share, value, logs = self._backward(data, indices, loss)
        _check_finite("loss", processes.total(value))
        if not sharding.is_enabled():
            _sum_gradients(self.parameters)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm)
        norm = sharding.full_tensors({"grad_norm": norm})["grad_norm"]
        _check_finite("norm of the gradient", norm)
        self.optimiser.step()
        if logs:
            logs["grad_norm"] = norm.item()
        self._steps.append((share, logs))

    def finish(self) -> list[dict[str, float]]:
        """End an update: gather the weights, and return what each step logged since the last call."""
        sharding.gather_weights(self.policy)
        steps, self._steps = self._steps, []
        return [logs for logs in _average_logs(steps) if logs]

    def _backward(self, data: M, indices: Tensor, loss: Loss[M]) -> tuple[float, Tensor, dict[str, float]]:
        """Add up the gradients of a minibatch; this rank's share of it, its part of the loss, and the logs."""
        device = data.mask.device
        value = torch.zeros((), device=device)
        logs: dict[str, float] = {}
        parts = self._micro_batches(data, indices)
        counts = self._counts(parts, loss)
        share = self._share(sum(counts), device)
        for part, count in zip(parts, counts, strict=True):
            weight = count / sum(counts)
            mean, logged = self._loss(part, loss)
            torch.autograd.backward(mean * (weight * share))
            value = value + mean.detach() * (weight * share)
            for name, x in logged.items():
                logs[name] = logs.get(name, 0.0) + x.value.item() * weight
        if not parts and sharding.is_enabled():
            self._backward_of_zero(data)
        return share, value, logs

    def _micro_batches(self, data: M, indices: Tensor) -> list[M]:
        units = indices.view(-1, self.rows_per_unit)
        return [data.select(part.flatten()) for part in split_rows(units, self.config.micro_batches)]

    def _counts(self, parts: Sequence[M], loss: Loss[M]) -> list[float]:
        """Over how many items the loss of each part is a mean: known before any pass through the network."""
        if len(parts) == 1 and processes.size() == 1:
            return [1.0]
        counts = []
        with torch.no_grad():
            for part in parts:
                zeros = torch.zeros_like(part.mask)
                counts.append(loss(Evaluated(zeros, zeros, zeros), part)[0].count.item())
        return counts

    def _share(self, count: float, device: torch.device) -> float:
        """This rank's share of the items of a minibatch."""
        if processes.size() == 1:
            return 1.0
        total = processes.total(torch.tensor(count, dtype=torch.float64, device=device)).item()
        return count / max(total, 1.0)

    def _loss(self, part: M, loss: Loss[M]) -> tuple[Tensor, Logs]:
        """The loss of a micro-batch, and the logs."""
        new = self._evaluate(part.responses)
        mean, logged = loss(new, part)
        value = mean.value
        if sharding.is_enabled():
            value = value + 0.0 * new.values.sum()  # every rank needs gradients of the same weights
        return value, {**logged, "entropy": token_mean(new.entropy, part.mask)}

    def _evaluate(self, responses: Responses) -> Evaluated:
        network = self.policy.network
        return self.policy.evaluate(responses.encoded_by(network), entropy_gradient=self.entropy_gradient)

    def _backward_of_zero(self, data: M) -> None:
        """A zero loss with a complete backward pass, so that the collectives of FSDP line up over ranks."""
        new = self._evaluate(data.responses.select(torch.zeros(1, dtype=torch.long)))
        torch.autograd.backward(0.0 * (new.logp.sum() + new.values.sum()))


def _check_finite(name: str, value: Tensor) -> None:
    """Refuse a step that would make the weights nan."""
    if not torch.isfinite(value):
        raise FloatingPointError(
            f"the {name} is {value.item()} and no step was taken: lower --learning-rate, or look at the rewards"
        )


def _sum_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Replace each gradient by its sum over all ranks."""
    if processes.size() == 1:
        return
    with torch.no_grad():
        present = torch.tensor([p.grad is not None for p in parameters], device=parameters[0].device)
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        buffer = torch.cat([x.flatten().float() for x in (*gradients, present)])
        sizes = [*(p.numel() for p in parameters), len(parameters)]
        *sums, ranks = torch.split(processes.sum_in_place(buffer), sizes)
        for p, gradient, n in zip(parameters, sums, ranks.tolist(), strict=True):
            # A head that no loss reaches has no gradient on any rank, and Adam must skip it.
            p.grad = gradient.view_as(p).to(p.dtype) if n else None


def _average_logs(steps: Sequence[tuple[float, dict[str, float]]]) -> list[dict[str, float]]:
    """The logs of each step, averaged over ranks by their shares; ranks without rows logged nothing."""
    if processes.size() == 1:
        return [logs for _, logs in steps]
    averages = []
    for ranks in zip(*processes.gather(list(steps)), strict=True):
        logged = [(share, logs) for share, logs in ranks if logs]
        names = logged[0][1] if logged else {}
        weights = [share for share, _ in logged]
        averages.append({n: float(np.average([logs[n] for _, logs in logged], weights=weights)) for n in names})
    return averages
