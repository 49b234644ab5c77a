"""Fast policies and buffers for stable-baselines3: rollouts with a KV cache, updates on complete responses.

SB3 samples token by token and learns from single transitions. ``FastTokenPolicy`` recognises a response that continues
and reads only its new token; ``SequenceBuffer`` stores each context once and gives minibatches of complete responses,
which the policy reads in one pass. Losses and gradients are those of ``TokenPolicy`` on the same transitions.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmenv.integrations.sb3 import LanguageHead, MaskableTokenPolicy, TokenFeatures, TokenPolicy
from mmenv.models.cache import Cache
from mmenv.models.transformer import Network, Prefix

# Imported after the module that names the command where these packages are missing.
from sb3_contrib.common.maskable.buffers import MaskableDictRolloutBuffer  # isort: skip
from stable_baselines3.common.buffers import DictRolloutBuffer  # isort: skip

CHUNK = 512  # contexts that are encoded at once; an encoder's activations take many times the memory of its images


class Lanes:
    """N responses that are being written: their contexts, tokens and cache.

    Args:
        features: encodes contexts; its network may be trained between two calls.
    """

    def __init__(self, features: TokenFeatures) -> None:
        self.features, self.network = features, features.network
        self.contexts: dict[str, Tensor] = {}
        self.written = torch.empty(0, 0, dtype=torch.long)  # (N, R - 1)
        self.hidden = torch.empty(0)
        self.cache: Cache | None = None
        self.weights: tuple[tuple[int, int], ...] = ()

    def __len__(self) -> int:
        return len(self.written)

    @torch.inference_mode()
    def follow(self, observations: Mapping[str, Tensor]) -> Tensor:
        """Hidden states (N, width) that predict the next tokens.

        A lane whose observation is the previous one plus one token takes one step of the cache. Other lanes are read
        again from the start, and after a change of the weights so are all lanes.
        """
        # After a full response there is no next token to predict.
        response = observations["response"].long()[:, : self.features.budget - 1]
        weights = _stamps(self.network)
        if self.cache is None or len(response) != len(self) or weights != self.weights:
            self.contexts = {k: v.clone() for k, v in observations.items() if k != "response"}
            self.hidden, self.cache = self._read(observations, response)
        else:
            self._continue(self.cache, observations, response)
        self.written, self.weights = response.clone(), weights
        return self.hidden

    def _continue(self, cache: Cache, observations: Mapping[str, Tensor], response: Tensor) -> None:
        lengths = cache.lengths.clone()  # (N,), index of the new token
        lanes = torch.arange(len(lengths), device=lengths.device)
        at = lengths.clamp(max=response.shape[1] - 1)
        token = response[lanes, at]
        continues = (self.written.index_put((lanes, at), token) == response).all(1)
        continues &= (token != self.network.config.pad_id) & (lengths < response.shape[1])
        for name, previous in self.contexts.items():
            continues &= (previous == observations[name]).flatten(1).all(1)
        fresh = (~continues).nonzero()[:, 0]
        if len(fresh) < len(lanes):
            self.hidden = self.network.step(token, cache)
        if len(fresh):
            for name, stored in self.contexts.items():
                stored[fresh] = observations[name][fresh]
            states, other = self._read({k: v[fresh] for k, v in self.contexts.items()}, response[fresh])
            cache.replace(fresh, other)
            self.hidden[fresh] = states

    def _read(self, observations: Mapping[str, Tensor], response: Tensor) -> tuple[Tensor, Cache]:
        longest = int((response != self.network.config.pad_id).sum(1).max())
        return self.network.start(self.features.encode(observations), self.features.budget, response[:, :longest])


def _stamps(network: Network) -> tuple[tuple[int, int], ...]:
    """Addresses and versions of the parameters, which differ after any write or exchange."""
    return tuple((p.data_ptr(), p._version) for p in network.parameters())


class Contexts:
    """The contexts of a rollout, each stored once.

    Args:
        observations: media and prompts, K of each.
    """

    def __init__(self, observations: Mapping[str, Tensor]) -> None:
        self.observations = observations
        self._prefix: Prefix | None = None
        self._encoders: list[Tensor] = []

    def prefix(self, features: TokenFeatures, rows: Tensor) -> Prefix:
        """The contexts ``rows`` (n,), encoded; frozen encoders run once for each state of their weights."""
        if features.train_encoder:
            return features.encode({k: v[rows] for k, v in self.observations.items()})
        encoders = list(features.network.encoder_parameters())
        if self._prefix is None or not all(map(torch.equal, encoders, self._encoders)):
            self._prefix, self._encoders = self._read(features), [p.detach().clone() for p in encoders]
        return self._prefix.select(rows)

    @torch.no_grad()
    def _read(self, features: TokenFeatures) -> Prefix:
        prompt = self.observations["prompt"].long()
        chunks = range(0, len(prompt), CHUNK)
        read = [features.encode({k: v[i : i + CHUNK] for k, v in self.observations.items()}) for i in chunks]
        longest = max(p.prompt.shape[1] for p in read)
        return Prefix(torch.cat([p.media for p in read]), prompt[:, :longest])


class Sequences(NamedTuple):
    """B complete responses in the place of SB3's observations of n transitions.

    Attributes:
        contexts: of the rollout.
        rows: int64 (B,), the context of each response.
        tokens: int64 (B, T), right-padded.
        sequence, column: int64 (n,), the response of each transition, and its index in it.
    """

    contexts: Contexts
    rows: Tensor
    tokens: Tensor
    sequence: Tensor
    column: Tensor

    def read(self, features: TokenFeatures) -> Tensor:
        """Hidden states (n, width) before the transitions' actions."""
        hidden = features.network(self.contexts.prefix(features, self.rows), self.tokens)  # (B, T, width)
        return hidden[self.sequence, self.column]


class SequenceBuffer(DictRolloutBuffer):
    """Rollout buffer for ``FastTokenPolicy``: ``PPO(FastTokenPolicy, env, rollout_buffer_class=SequenceBuffer, ...)``.

    Advantages and returns are SB3's. Minibatches hold whole responses, ``batch_size`` transitions on the average.

    Args:
        *args: as the algorithm gives them; so are further keywords.
        pad_id: the tokenizer's.
        kl_coef: beta; with each token, ``beta * (log pi - log pi_ref)`` is taken off its reward.
        reference: shipped name or path of the network that pi_ref is; given alone, its log-probabilities are only kept.

    Attributes:
        ref_log_probs: float32 (buffer_size, n_envs), of the actions as the reference gives them; 0 without one.

    Raises:
        ValueError: ``kl_coef`` without a reference, another tokenizer's ``pad_id``, or the rollout is not full when
            minibatches are asked for.
    """

    flat: tuple[str, ...] = ("actions", "values", "log_probs", "advantages", "returns")

    def __init__(
        self, *args: Any, pad_id: int = 0, kl_coef: float = 0.0, reference: str | Path = "", **kwargs: Any
    ) -> None:
        if kl_coef and not reference:
            raise ValueError(f"kl_coef={kl_coef} is a penalty on leaving a network: name it as reference")
        self.pad_id, self.kl_coef = pad_id, kl_coef
        super().__init__(*args, **kwargs)
        self.reference = None
        if reference:
            self.reference = TokenFeatures(self.observation_space, reference).requires_grad_(False).to(self.device)

    def reset(self) -> None:
        self.obs_shape = {}  # so that SB3 keeps no observation of single transitions
        super().reset()
        shape = self.buffer_size, self.n_envs
        self.sequence, self.column = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        self.ref_log_probs = np.zeros(shape, np.float32)
        self._begun: dict[str, list[np.ndarray]] = {}
        self._count = 0
        self._lengths = np.full(self.n_envs, -2)  # nothing goes on from before the rollout

    def add(self, obs: Any, *args: Any, **kwargs: Any) -> None:
        """Keep a step; ``obs`` only where a response begins."""
        lengths = (obs["response"] != self.pad_id).sum(1)
        if lengths.max() == obs["response"].shape[1]:
            raise ValueError(
                f"a response is full before its last token: is pad_id={self.pad_id} the tokenizer's? If not, give "
                'rollout_buffer_kwargs={"pad_id": ...}'
            )
        lanes = np.flatnonzero(lengths != self._lengths + 1)
        if self.pos:
            self.sequence[self.pos] = self.sequence[self.pos - 1]
        if len(lanes):
            self.sequence[self.pos, lanes] = self._count + np.arange(len(lanes))
            self._count += len(lanes)
            for name, values in obs.items():
                self._begun.setdefault(name, []).append(values[lanes])
        self.column[self.pos], self._lengths = lengths, lengths
        super().add(obs, *args, **kwargs)
        if self.full:
            self._put_together()

    def _put_together(self) -> None:
        begun = {k: self.to_torch(np.concatenate(v)) for k, v in self._begun.items()}
        self.tokens = begun.pop("response").long()  # (S, R), at first what stood there when the rollout began
        every = self.to_torch(self.sequence), self.to_torch(self.column)
        self.tokens[every] = self.to_torch(self.actions.reshape(self.sequence.shape)).long()
        self.contexts = Contexts(begun)

    def compute_returns_and_advantage(self, last_values: Tensor, dones: np.ndarray) -> None:
        if self.reference is not None:
            self.ref_log_probs[:] = self._log_probs_of(self.reference)
            self.rewards -= self.kl_coef * (self.log_probs - self.ref_log_probs)
        super().compute_returns_and_advantage(last_values, dones)

    @torch.no_grad()
    def _log_probs_of(self, features: TokenFeatures) -> np.ndarray:
        """Log-probabilities of all actions, (buffer_size, n_envs), as the network of ``features`` gives them."""
        head = LanguageHead(features.network).to(self.device)
        log_probs = np.zeros((self.buffer_size, self.n_envs), np.float32)
        actions = self.actions.reshape(log_probs.shape)
        for first in range(0, self._count, CHUNK):
            at = np.nonzero((self.sequence >= first) & (self.sequence < first + CHUNK))
            logp = head(self._transitions(*at).read(features)).log_softmax(-1)  # (n, vocab)
            log_probs[at] = logp.gather(1, self.to_torch(actions[at])[:, None])[:, 0].cpu().numpy()
        return log_probs

    def _transitions(self, steps: np.ndarray, lanes: np.ndarray) -> Sequences:
        """The transitions (n,) at these steps and lanes, as parts of their responses."""
        sequences, sequence = np.unique(self.sequence[steps, lanes], return_inverse=True)
        column = self.column[steps, lanes]
        rows = self.to_torch(sequences)
        tokens = self.tokens[rows, : int(column.max()) + 1]
        return Sequences(self.contexts, rows, tokens, self.to_torch(sequence), self.to_torch(column))

    def get(self, batch_size: int | None = None) -> Generator[Any, None, None]:
        """Minibatches of whole responses in random order, of ``batch_size`` transitions on the average."""
        if not self.full:
            raise ValueError(f"the rollout holds {self.pos} of {self.buffer_size} steps: collect it to its end first")
        if not self.generator_ready:
            for name in self.flat:
                setattr(self, name, self.swap_and_flatten(getattr(self, name)))
            self.generator_ready = True
        for indices in self._minibatches(batch_size or self.buffer_size * self.n_envs):
            yield self._get_samples(indices)

    def _minibatches(self, batch_size: int) -> list[np.ndarray]:
        """Indices of transitions, lane by lane as ``swap_and_flatten`` lays them; a response is never cut.

        A response belongs to the minibatch that its first transition falls into. One transition alone has no standard
        deviation to normalise its advantage by, so it joins a neighbour.
        """
        sequence = self.sequence.T.reshape(-1)
        sizes = np.bincount(sequence)
        order = torch.randperm(len(sizes)).numpy()  # the algorithm seeds torch, as it does numpy
        rank = np.argsort(order)
        firsts = np.cumsum(sizes[order]) - sizes[order]
        edges = [0]
        for first in firsts[np.flatnonzero(np.diff(firsts // batch_size)) + 1].tolist():
            if first - edges[-1] > 1 and len(sequence) - first > 1:
                edges.append(first)
        return np.split(np.argsort(rank[sequence], kind="stable"), edges[1:])

    def _get_samples(self, batch_inds: np.ndarray, env: Any = None) -> Any:
        lanes, steps = np.divmod(batch_inds, self.buffer_size)
        samples: Any = super()._get_samples(batch_inds, env)
        return samples._replace(observations=self._transitions(steps, lanes))


class MaskableSequenceBuffer(SequenceBuffer, MaskableDictRolloutBuffer):  # type: ignore[misc]
    """``SequenceBuffer`` for ``MaskablePPO`` of sb3-contrib and ``FastMaskableTokenPolicy``; the same arguments."""

    flat = (*SequenceBuffer.flat, "action_masks")


class CachedRolloutMixin:
    """Mixed into a policy around a network: its rollouts go through a cache, its updates take whole responses."""

    _lanes: Lanes | None = None

    def extract_features(self: Any, obs: Any, features_extractor: Any = None) -> Tensor:
        """States of rollouts through the cache, of whole responses in one pass, and of anything else as SB3 does."""
        if isinstance(obs, Sequences):
            return obs.read(self.features_extractor)
        if torch.is_grad_enabled():
            return super().extract_features(obs, features_extractor or self.features_extractor)  # type: ignore[misc]
        if self._lanes is None:
            self._lanes = Lanes(self.features_extractor)
        return self._lanes.follow(obs)

    def predict_values(self: Any, obs: Any, *states: Any) -> Tensor:
        """Values (N, 1): the end of a rollout goes on in its cache, a single lane's end does not disturb it."""
        lanes = self._lanes
        if states or torch.is_grad_enabled() or lanes is None or len(obs["response"]) != len(lanes):
            return super().predict_values(obs, *states)  # type: ignore[misc]
        return self.value_net(lanes.follow(obs))


class FastTokenPolicy(CachedRolloutMixin, TokenPolicy):
    """``TokenPolicy`` that writes rollouts through a cache and learns from whole responses; the same arguments.

    Without ``rollout_buffer_class=SequenceBuffer`` it only collects faster. ``predict`` keeps no cache.
    """


class FastMaskableTokenPolicy(CachedRolloutMixin, MaskableTokenPolicy):
    """``FastTokenPolicy`` for ``MaskablePPO`` of sb3-contrib, with ``MaskableSequenceBuffer``."""
