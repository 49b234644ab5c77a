"""Batches of responses, whether a rollout played them or they were written before, and parts of them for a loss."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from agents.maths.means import row_ends
from agents.policies.protocol import Prefix
from agents.policies.token_policy import Responses, TokenPolicy
from mmenv.data.sample import Response, Sample
from mmenv.envs.token_vector_env import TokenVectorEnv
from mmenv.tokenizer import HFTokenizer, Tokenizer


@dataclass
class Batch:
    """Finished responses, one a row: in a dialogue each reply is a row.

    Attributes:
        prefix: contexts (K), each of them once.
        contexts: int64 (S,), the index of each response's context.
        tokens: int64 (S, T), padded.
        mask: float32 (S, T), 1 for tokens that were sampled, 0 on padding and on a prefix that the response was given.
        logp, values: float32 (S, T), from when the tokens were sampled.
        scores: float32 (S,), the sum of what was paid for the tokens of each response that were sampled. Of a task that
            pays at the end of an episode only, each reply has the score of its episode: what follows from it.
        gold: float64 (S,), nan where unknown; reported, never learned from.
        samples, texts, stops: S of each.
        observations: images and audio of the contexts (K), present only if the encoder learns.
        token_rewards: float32 (S, T), what was paid at each token, whose sums are the scores; None where the reward
            pays at the end alone.
        episodes: int64 (S,), the episode that each response belongs to; its replies stand in the order of their turns.
        pays_at_end: whether the task pays at the end of an episode only.
        baselines: float32 (S,), what an algorithm that samples its baselines compares the scores with; None elsewhere.
        extra_tokens: number of tokens that were sampled for the update beside these responses, for baselines; they
            count towards the budget of the run.
    """

    prefix: Prefix
    contexts: Tensor
    tokens: Tensor
    mask: Tensor
    logp: Tensor
    values: Tensor
    scores: Tensor
    gold: np.ndarray
    samples: list[Sample]
    texts: list[str]
    stops: list[str]
    episodes: Tensor
    observations: dict[str, Tensor] | None = None
    token_rewards: Tensor | None = None
    pays_at_end: bool = False
    baselines: Tensor | None = None
    extra_tokens: int = 0

    @classmethod
    def from_responses(
        cls,
        policy: TokenPolicy,
        env: TokenVectorEnv,
        samples: Sequence[Sample],
        responses: Sequence[Sequence[Response]],
    ) -> Batch:
        """Written responses as a batch, an episode each, with log-probabilities and values of 0 and scores of nan.

        Args:
            policy: its encoders read the contexts.
            env: gives the tokenizer and the spaces.
            samples: K of them, a context each.
            responses: for each sample one or more, encoded as by ``tokens_of``.
        """
        encoder = env.episode_spec.encoder
        arrays = encoder.empty(len(samples))
        for i, sample in enumerate(samples):
            encoder.write(arrays, i, sample)
        flat = [response for several in responses for response in several]
        contexts = [i for i, several in enumerate(responses) for _ in several]
        tokens, mask = _padded([tokens_of(env.tokenizer, r, policy.budget) for r in flat], env.tokenizer.pad_id)
        mask = mask.to(policy.device)
        with torch.no_grad():
            prefix = policy.encode(arrays)
        media = {name: torch.from_numpy(x) for name, x in arrays.items() if name in ("image", "audio")}
        return cls(
            prefix=prefix,
            contexts=torch.tensor(contexts, device=policy.device),
            tokens=tokens.to(policy.device),
            mask=mask,
            logp=torch.zeros_like(mask),
            values=torch.zeros_like(mask),
            scores=torch.full((len(flat),), float("nan"), device=policy.device),
            gold=np.full(len(flat), np.nan),
            samples=[samples[i] for i in contexts],
            texts=[response.text for response in flat],
            stops=[response.stop for response in flat],
            episodes=torch.arange(len(flat), device=policy.device),
            observations=media if policy.train_encoder else None,
        )

    @property
    def num_tokens(self) -> int:
        """Number of tokens that were sampled."""
        return int(self.mask.sum())

    def responses(self) -> Responses:
        """All responses with their contexts, as policies evaluate them."""
        return Responses(self.prefix, self.tokens, self.mask, self.contexts, self.observations)

    def join(self, others: Sequence[Batch], pad_id: int) -> Batch:
        """These responses followed by those of ``others``, with the contexts and episodes of each batch apart."""
        batches = [self, *others]
        width = max(batch.tokens.shape[1] for batch in batches)

        def numbered(name: str) -> Tensor:
            parts: list[Tensor] = [getattr(batch, name) for batch in batches]
            starts = np.cumsum([0, *(int(part.max()) + 1 for part in parts[:-1])]).tolist()
            return torch.cat([part + start for part, start in zip(parts, starts, strict=True)])

        def tokenwise(name: str, value: int = 0) -> Tensor:
            parts: list[Tensor] = [getattr(batch, name) for batch in batches]
            return torch.cat([F.pad(x, (0, width - x.shape[1]), value=value) for x in parts])

        baselines = [batch.baselines for batch in batches if batch.baselines is not None]
        media = [batch.observations for batch in batches if batch.observations is not None]
        return Batch(
            prefix=self.prefix.join([batch.prefix for batch in others], pad_id),
            contexts=numbered("contexts"),
            tokens=tokenwise("tokens", pad_id),
            mask=tokenwise("mask"),
            logp=tokenwise("logp"),
            values=tokenwise("values"),
            scores=torch.cat([batch.scores for batch in batches]),
            gold=np.concatenate([batch.gold for batch in batches]),
            samples=[sample for batch in batches for sample in batch.samples],
            texts=[text for batch in batches for text in batch.texts],
            stops=[stop for batch in batches for stop in batch.stops],
            episodes=numbered("episodes"),
            observations={name: torch.cat([m[name] for m in media]) for name in media[0]} if media else None,
            token_rewards=None if self.token_rewards is None else tokenwise("token_rewards"),
            pays_at_end=self.pays_at_end,
            baselines=torch.cat(baselines) if baselines else None,
            extra_tokens=sum(batch.extra_tokens for batch in batches),
        )

    def select(self, contexts: np.ndarray) -> Batch:
        """The responses to the contexts with these indices, context by context, cut to their longest."""
        belongs = self.contexts.cpu().numpy()
        groups = [np.flatnonzero(belongs == context) for context in contexts]
        rows = np.concatenate(groups)
        index = torch.from_numpy(rows).to(self.tokens.device)
        new_contexts = np.repeat(np.arange(len(contexts)), [len(group) for group in groups])
        length = int(row_ends(self.mask[index]).max())
        kept_contexts = torch.from_numpy(contexts)
        return Batch(
            prefix=self.prefix.select(kept_contexts.to(index.device)),
            contexts=torch.from_numpy(new_contexts).to(index.device),
            tokens=self.tokens[index, :length],
            mask=self.mask[index, :length],
            logp=self.logp[index, :length],
            values=self.values[index, :length],
            scores=self.scores[index],
            gold=self.gold[rows],
            samples=[self.samples[i] for i in rows],
            texts=[self.texts[i] for i in rows],
            stops=[self.stops[i] for i in rows],
            episodes=torch.unique(self.episodes[index], return_inverse=True)[1],
            observations=self.observations and {name: x[kept_contexts] for name, x in self.observations.items()},
            token_rewards=None if self.token_rewards is None else self.token_rewards[index, :length],
            pays_at_end=self.pays_at_end,
            baselines=None if self.baselines is None else self.baselines[index],
        )


@dataclass(frozen=True)
class Minibatch:
    """Responses and, in subclasses, what a loss needs beside them: tensors with a row for each response.

    Attributes:
        responses: S responses with their contexts.
    """

    responses: Responses

    @property
    def mask(self) -> Tensor:
        """float32 (S, T), 1 for tokens that were sampled."""
        return self.responses.mask

    def select(self, indices: Tensor) -> Self:
        """Some of the responses, cut to their longest, and their rows of all other tensors."""
        responses = self.responses.select(indices)
        length = responses.mask.shape[1]
        rows = {}
        for field in dataclasses.fields(self):
            x = getattr(self, field.name)
            if isinstance(x, Tensor):
                rows[field.name] = x[indices, :length] if x.ndim > 1 else x[indices]
        return dataclasses.replace(self, responses=responses, **rows)


def to_responses(batch: Batch) -> list[Response]:
    """The responses of a batch as reward functions take them."""
    return [
        Response(text, tuple(row[:length].tolist()), stop)
        for text, row, length, stop in zip(
            batch.texts, batch.tokens, row_ends(batch.mask).tolist(), batch.stops, strict=True
        )
    ]


def tokens_of(tokenizer: Tokenizer, response: Response, budget: int) -> list[int]:
    """The sampled tokens of a response or, if it has none, those of its text and an end token; at most ``budget``."""
    if response.tokens:
        return list(response.tokens[:budget])
    # Behind a chat template the first word of a text may be another token than alone.
    encode = tokenizer.encode_response if isinstance(tokenizer, HFTokenizer) else tokenizer.encode
    end = [tokenizer.end_id] if response.stop == "eos" else []
    return [*encode(response.text), *end][:budget]


def split_rows(rows: Tensor, parts: int) -> list[Tensor]:
    """Neighbouring rows as ``parts`` tensors whose sizes differ by at most one; fewer where there are fewer rows."""
    return list(rows.tensor_split(min(parts, len(rows)))) if len(rows) else []


def _padded(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Rows of tokens as int64 (S, T), and float32 (S, T) with 1 for tokens that are no padding."""
    tokens = torch.full((len(rows), max(len(row) for row in rows)), pad_id)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = torch.tensor(row)
    return tokens, (tokens != pad_id).float()
