"""A network as a policy over tokens: one distribution for sampling, for the reference and for the loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from agents.maths.means import row_ends
from agents.policies.protocol import AnyNetwork, Cache, Prefix


class Responses(NamedTuple):
    """Complete responses to K contexts.

    Attributes:
        prefix: the K contexts.
        tokens: int64 (B, T), right-padded.
        mask: (B, T), 1 for tokens that were sampled, 0 on padding and on a prefix that the response was given.
        contexts: int64 (B,), the context of each response.
        observations: images and audio of the K contexts, present only if encoders learn.
    """

    prefix: Prefix
    tokens: Tensor
    mask: Tensor
    contexts: Tensor
    observations: dict[str, Tensor] | None = None

    def select(self, index: Tensor) -> Responses:
        """The responses ``index`` (n,), cut to their longest, with the contexts that they answer."""
        mask = self.mask[index]
        longest = int(row_ends(mask).max())
        used, contexts = torch.unique(self.contexts[index], return_inverse=True)
        media = self.observations and {name: x[used.cpu()] for name, x in self.observations.items()}
        return Responses(self.prefix.select(used), self.tokens[index, :longest], mask[:, :longest], contexts, media)

    def encoded_by(self, network: AnyNetwork) -> Responses:
        """The same with media as ``network`` encodes them; where encoders learn, policy and reference differ."""
        if self.observations is None:
            return self
        media = {name: x.to(self.tokens.device) for name, x in self.observations.items()}
        encoded = network.encode({**media, "prompt": self.prefix.prompt})
        return self._replace(prefix=self.prefix.with_media(encoded))


class Evaluated(NamedTuple):
    """What a policy says of the tokens of B responses: log-probabilities, values and entropies, each (B, T)."""

    logp: Tensor
    values: Tensor
    entropy: Tensor


class State(NamedTuple):
    """Where N lanes are: the hidden states (N, width) of the last step, the cache, and the last tokens (N,)."""

    hidden: Tensor
    cache: Cache
    last: Tensor


class TokenPolicy(nn.Module):
    """Samples tokens and scores them by one distribution; padding is masked in every pass alike.

    The network is used as it is: which of its parameters need gradients is its owner's choice.

    Args:
        network: gives hidden states, logits and values.
        budget: longest response in tokens.
        temperature: logits are divided by it everywhere.
        train_encoder: whether the media encoders are trained too (see ``trainable_parameters``).
        generator: source of randomness for sampling; None takes torch's global one.
        top_p: nucleus sampling: only the likeliest tokens with this total probability are sampled (Holtzman et al.
            2020). A token that was sampled counts as one of them when it is scored later, so that no probability
            ratio is 0.

    Attributes:
        logit_bias: (vocab_size,), added to the logits; -inf for tokens that are never sampled.
        greedy: whether the likeliest token is taken instead of a sampled one; for evaluations only.

    Raises:
        ValueError: the network cannot write ``budget`` tokens.
    """

    def __init__(
        self,
        network: AnyNetwork,
        budget: int,
        temperature: float = 1.0,
        train_encoder: bool = False,
        generator: torch.Generator | None = None,
        top_p: float = 1.0,
    ) -> None:
        super().__init__()
        if budget > network.config.max_response:
            raise ValueError(f"budget {budget} exceeds the network's longest response {network.config.max_response}")
        self.network = network
        self.budget = budget
        self.temperature = temperature
        self.train_encoder = train_encoder
        self.generator = generator
        self.top_p = top_p
        self.greedy = False
        bias = torch.zeros(network.config.vocab_size)
        bias[list(network.forbidden_token_ids)] = float("-inf")
        self.register_buffer("logit_bias", bias, persistent=False)
        self.logit_bias: Tensor

    @property
    def device(self) -> torch.device:
        """The device of the network."""
        return self.logit_bias.device

    def networks(self) -> dict[str, AnyNetwork]:
        """The networks that a checkpoint of the policy holds, by the names of its files."""
        return {"policy": self.network}

    def trainable_parameters(self) -> list[nn.Parameter]:
        """Parameters that an optimiser changes: all that need gradients, the encoders' only with ``train_encoder``."""
        excluded = set() if self.train_encoder else {id(p) for p in self.network.encoder_parameters()}
        return [p for p in self.network.parameters() if p.requires_grad and id(p) not in excluded]

    def log_probs(self, hidden: Tensor, sampled: Tensor | None = None) -> Tensor:
        """The distribution of the next token.

        Args:
            hidden: (..., width), states before the tokens.
            sampled: int64 (...), tokens that were sampled there; they stay in the nucleus.

        Returns:
            log-probabilities (..., vocab_size), -inf for tokens that are never sampled.
        """
        logp = self._logits(hidden).log_softmax(-1)
        if self.top_p >= 1:
            return logp
        likely = nucleus(logp.detach(), self.top_p)
        if sampled is not None:
            likely = likely.scatter(-1, sampled[..., None], True)
        return logp.masked_fill(~likely, float("-inf")).log_softmax(-1)

    def log_prob(self, hidden: Tensor, sampled: Tensor) -> Tensor:
        """Log-probabilities of tokens alone: hidden (..., width), sampled (...) -> (...)."""
        if self.top_p < 1:
            return self.log_probs(hidden, sampled).gather(-1, sampled[..., None])[..., 0]
        logits = self._logits(hidden)
        return logits.gather(-1, sampled[..., None])[..., 0] - logits.logsumexp(-1)

    def _logits(self, hidden: Tensor) -> Tensor:
        return self.network.logits(hidden) / self.temperature + self.logit_bias

    def encode(self, observations: Mapping[str, np.ndarray], lanes: np.ndarray | None = None) -> Prefix:
        """Encode the contexts of an observation.

        Args:
            observations: of the vector env, N lanes.
            lanes: (n,), those to encode; None: all.

        Returns:
            n contexts.
        """
        names = ("image", "audio", "prompt")
        chosen = {k: v if lanes is None else v[lanes] for k, v in observations.items() if k in names}
        # The prefix keeps the prompt as it is, and an env with copy=False overwrites it at the next turn.
        chosen["prompt"] = chosen["prompt"].copy()
        return self.network.encode({k: torch.from_numpy(v).to(self.device) for k, v in chosen.items()})

    def begin(self, prefix: Prefix) -> tuple[Tensor, Cache]:
        """Read K contexts: hidden states (K, width) that predict the first tokens, and the cache."""
        return self.network.start(prefix, self.budget)

    def read_written(self, hidden: Tensor, cache: Cache, written: np.ndarray) -> None:
        """Write into the cache what n responses hold already; its rows and those of ``hidden`` change in place.

        Args:
            hidden: (n, width), states before the first tokens; afterwards those before the next ones.
            cache: of n contexts that have just begun.
            written: int64 (n, R), padded.
        """
        lengths = (written != self.network.config.pad_id).sum(1)
        for length in np.unique(lengths[lengths > 0]).tolist():
            rows = torch.from_numpy(np.flatnonzero(lengths == length)).to(self.device)
            tokens = torch.from_numpy(written[lengths == length, :length]).to(self.device)
            part = cache.select(rows)
            for t in range(length):
                states = self.step(tokens[:, t], part)
            cache.replace(rows, part)
            hidden[rows] = states

    def step(self, tokens: Tensor, cache: Cache) -> Tensor:
        """Write ``tokens`` (B,) into the cache; hidden states (B, width) predict the next ones."""
        return self.network.step(tokens, cache)

    def read(self, responses: Responses) -> Tensor:
        """Hidden states (B, T, width) of complete responses."""
        return self.network(responses.prefix, responses.tokens, responses.contexts)

    def value(self, hidden: Tensor) -> Tensor:
        """Expected returns: (..., width) -> (...)."""
        return self.network.value(hidden)

    def sample(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Sample a token after each of n hidden states (n, width), or take the likeliest one if ``greedy``.

        Returns:
            tokens int64 (n,), their log-probabilities (n,), and the values before them (n,).
        """
        logp = self.log_probs(hidden)
        if self.greedy:
            tokens = logp.argmax(1, keepdim=True)
        else:
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
            starts: (N,) bool, lanes whose context is new (a reset, or the next reply of a dialogue). What their
                responses hold already is read, too.

        Returns:
            actions (N,), their log-probabilities (N,), values (N,), and the state for the next call.
        """
        rows = np.flatnonzero(starts)
        if state is None or len(rows) == len(starts):
            hidden, cache = self.begin(self.encode(observations))
            self.read_written(hidden, cache, observations["response"])
        else:
            hidden, cache = self.step(state.last, state.cache), state.cache
            if len(rows):
                index = torch.from_numpy(rows).to(self.device)
                fresh, other = self.begin(self.encode(observations, rows))
                self.read_written(fresh, other, observations["response"][rows])
                cache.replace(index, other)
                hidden[index] = fresh
        tokens, logp, values = self.sample(hidden)
        return tokens.cpu().numpy(), logp.cpu().numpy(), values.cpu().numpy(), State(hidden, cache, tokens)

    def evaluate(self, responses: Responses, entropy_gradient: bool = True, entropy: bool = True) -> Evaluated:
        """Score complete responses.

        Args:
            responses: B responses and their contexts.
            entropy_gradient: False: no gradient through the entropy, which saves time and memory.
            entropy: False: entropies are 0, and only log-probabilities of the sampled tokens are computed.

        Returns:
            log-probabilities (0 where the mask is), values and entropies, each (B, T).
        """
        hidden = self.read(responses)
        if entropy:
            logp = self.log_probs(hidden, responses.tokens)  # (B, T, vocab)
            taken = logp.gather(-1, responses.tokens[..., None])[..., 0]
            entropies = _entropy(logp) if entropy_gradient else _entropy_in_parts(logp.detach())
        else:
            taken = self.log_prob(hidden, responses.tokens)
            entropies = torch.zeros_like(taken)
        taken = taken.masked_fill(responses.mask == 0, 0.0)  # padding has log-probability -inf
        return Evaluated(taken, self.value(hidden), entropies)


def nucleus(logp: Tensor, top_p: float) -> Tensor:
    """The smallest set of likeliest tokens with ``top_p`` of the probability: (..., vocab) -> bool (..., vocab)."""
    ranked, order = logp.exp().sort(-1, descending=True)
    before = ranked.cumsum(-1) - ranked  # probability of all that are likelier
    inside = before < top_p
    return torch.zeros_like(inside).scatter(-1, order, inside)


def _entropy(logp: Tensor) -> Tensor:
    """Log-probabilities (..., vocab) -> entropies (...); a token of probability 0 contributes 0."""
    return -(logp.exp() * logp.clamp(min=-1e4)).sum(-1)


def _entropy_in_parts(logp: Tensor, elements: int = 2**24) -> Tensor:
    """``_entropy`` in chunks of rows, which bounds the memory of its temporary (..., vocab) tensors."""
    return torch.cat([_entropy(part) for part in torch.split(logp, max(1, elements // logp[0].numel()))])
