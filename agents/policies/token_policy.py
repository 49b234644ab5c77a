"""A network as a policy over tokens: one distribution for sampling, for the reference and for the loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from mmenv.models.transformer import Cache, Network, Prefix


class Responses(NamedTuple):
    """Whole responses: tokens (B, T) padded, mask (B, T) of the real ones, and which of K contexts each has (B,)."""

    prefix: Prefix
    tokens: Tensor
    mask: Tensor
    contexts: Tensor

    def rows(self, index: Tensor) -> Responses:
        """Some of the responses, cut to their longest, with the contexts that they have."""
        mask = self.mask[index]
        t = int(mask.sum(1).max())
        kept, contexts = self.contexts[index].unique(return_inverse=True)
        return Responses(self.prefix.rows(kept), self.tokens[index, :t], mask[:, :t], contexts)


class State(NamedTuple):
    """Where every lane is: the last states (N, width) and the cache."""

    hidden: Tensor
    cache: Cache
    last: Tensor


class TokenPolicy(nn.Module):
    """Samples tokens and scores them. Padding is never sampled: it is masked in every pass alike.

    Args:
        network: the network; the policy trains its parameters.
        budget: longest response in tokens.
        temperature: logits are divided by it everywhere.
        train_encoder: whether gradients reach the media encoders.
        generator: source of randomness for sampling.
        top_p: only the likeliest tokens with this probability together are ever said (Holtzman et al. 2020). A token
            that was said stays among them when it is scored later, so that no ratio of probabilities is 0.
    """

    def __init__(
        self,
        network: Network,
        budget: int,
        temperature: float = 1.0,
        train_encoder: bool = False,
        generator: torch.Generator | None = None,
        top_p: float = 1.0,
    ) -> None:
        super().__init__()
        if budget > network.config.max_response:
            raise ValueError(f"budget {budget} exceeds the network's longest response {network.config.max_response}")
        self.network, self.budget, self.temperature = network, budget, temperature
        self.train_encoder, self.generator, self.top_p = train_encoder, generator, top_p
        for parameter in network.encoder_parameters():
            parameter.requires_grad_(train_encoder)
        penalty = torch.zeros(network.config.vocab_size)
        penalty[list(network.never)] = float("-inf")
        self.register_buffer("allowed", penalty, persistent=False)
        self.allowed: Tensor

    @property
    def device(self) -> torch.device:
        return self.allowed.device

    def log_probs(self, hidden: Tensor, said: Tensor | None = None) -> Tensor:
        """The distribution: hidden (..., width) -> log-probabilities (..., vocab), -inf where nothing is ever said.

        Args:
            hidden: states before the tokens.
            said: int64 (...), tokens that were sampled there.
        """
        logp = (self.network.logits(hidden) / self.temperature + self.allowed).log_softmax(-1)
        if self.top_p >= 1:
            return logp
        likely = nucleus(logp.detach(), self.top_p)
        if said is not None:
            likely = likely.scatter(-1, said[..., None], True)
        return logp.masked_fill(~likely, float("-inf")).log_softmax(-1)

    def encode(self, observations: Mapping[str, np.ndarray], rows: np.ndarray | None = None) -> Prefix:
        """The contexts of some lanes of an observation, encoded once."""
        names = ("image", "audio", "prompt")
        chosen = {k: v if rows is None else v[rows] for k, v in observations.items() if k in names}
        # The prompt stays in the prefix as it is, and an env with copy=False overwrites it at the next turn.
        chosen["prompt"] = chosen["prompt"].copy()
        return self.network.encode({k: torch.from_numpy(v).to(self.device) for k, v in chosen.items()})

    def begin(self, prefix: Prefix) -> tuple[Tensor, Cache]:
        """Read contexts: hidden states that predict the first tokens, and the cache."""
        return self.network.start(prefix, self.budget)

    def step(self, tokens: Tensor, cache: Cache) -> Tensor:
        """Write ``tokens`` (B,) into the cache; hidden states that predict the next ones."""
        return self.network.step(tokens, cache)

    def read(self, responses: Responses) -> Tensor:
        """Hidden states of whole responses, (B, T, width)."""
        return self.network(responses.prefix, responses.tokens, responses.contexts)

    def value(self, hidden: Tensor) -> Tensor:
        """(..., width) -> (...)."""
        return self.network.value(hidden)

    def sample(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (n,), their log-probabilities (n,) and the values before them (n,)."""
        logp = self.log_probs(hidden)
        tokens = torch.multinomial(logp.exp(), 1, generator=self.generator)
        return tokens[:, 0], logp.gather(1, tokens)[:, 0], self.value(hidden)

    @torch.no_grad()
    def act(
        self, observations: Mapping[str, np.ndarray], state: State | None, starts: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, State]:
        """One token for every lane.

        Args:
            observations: of the vector env, N lanes.
            state: what the last call returned; None at the beginning.
            starts: (N,) bool, lanes whose context is new (a reset, or the next reply of a dialogue).

        Returns:
            actions (N,), their log-probabilities (N,), values (N,), and the state for the next call.
        """
        rows = np.flatnonzero(starts)
        if state is None or len(rows) == len(starts):
            hidden, cache = self.begin(self.encode(observations))
        else:
            hidden, cache = self.step(state.last, state.cache), state.cache
            if len(rows):
                index = torch.from_numpy(rows).to(self.device)
                fresh, other = self.begin(self.encode(observations, rows))
                cache.replace(index, other)
                hidden[index] = fresh
        tokens, logp, values = self.sample(hidden)
        return tokens.cpu().numpy(), logp.cpu().numpy(), values.cpu().numpy(), State(hidden, cache, tokens)

    def evaluate(
        self, responses: Responses, entropy_gradient: bool = True, entropy: bool = True
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities, values and entropies of whole responses, each (B, T).

        Args:
            responses: what was said, and to what.
            entropy_gradient: False leaves the entropy out of the backward pass, which costs less.
            entropy: False leaves it out, it is 0 then; only the tokens that were said are normalised.
        """
        hidden = self.read(responses)
        if entropy:
            logp = self.log_probs(hidden, responses.tokens)  # (B, T, vocab)
            taken = logp.gather(-1, responses.tokens[..., None])[..., 0]
            entropies = _entropy(logp) if entropy_gradient else _entropy_in_parts(logp.detach())
        else:
            taken = self.log_prob(hidden, responses.tokens)
            entropies = torch.zeros_like(taken)
        taken = taken.masked_fill(responses.mask == 0, 0.0)  # padding itself is never allowed
        return taken, self.value(hidden), entropies

    def log_prob(self, hidden: Tensor, said: Tensor) -> Tensor:
        """Log-probabilities of tokens alone: hidden (..., width), said (...) -> (...)."""
        if self.top_p < 1:
            return self.log_probs(hidden, said).gather(-1, said[..., None])[..., 0]
        logits = self.network.logits(hidden) / self.temperature + self.allowed
        return logits.gather(-1, said[..., None])[..., 0] - logits.logsumexp(-1)


def nucleus(logp: Tensor, top_p: float) -> Tensor:
    """The smallest set of likeliest tokens with ``top_p`` of the probability: (..., vocab) -> bool (..., vocab)."""
    ranked, order = logp.exp().sort(-1, descending=True)
    before = ranked.cumsum(-1) - ranked  # probability of all that are likelier
    kept = before < top_p
    return torch.zeros_like(kept).scatter(-1, order, kept)


def _entropy(logp: Tensor) -> Tensor:
    """(..., vocab) -> (...); a token of probability 0 adds 0."""
    return -(logp.exp() * logp.clamp(min=-1e4)).sum(-1)


def _entropy_in_parts(logp: Tensor, elements: int = 2**24) -> Tensor:
    """``_entropy`` of a few rows at a time, without a gradient: its copies of (..., vocab) stay small."""
    return torch.cat([_entropy(part) for part in logp.split(max(1, elements // logp[0].numel()))])
