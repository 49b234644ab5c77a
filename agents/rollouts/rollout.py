"""Lock-step rollouts: media encoded once a context, ended lanes left out, an early stop when all have ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor

import mmenv
from agents.policies.protocol import Cache, Prefix
from agents.policies.token_policy import Responses, TokenPolicy
from mmenv.data.sample import Sample, distinct_contexts
from mmenv.envs.token_vector_env import TokenVectorEnv


@dataclass
class Batch:
    """Finished responses, one a row: in a dialogue each reply is a row.

    Attributes:
        prefix: contexts (K), each of them once.
        contexts: int64 (S,), which of them each response belongs to.
        tokens: int64 (S, T), padded.
        mask: float32 (S, T).
        logp, values: float32 (S, T), as they were when the tokens were sampled.
        scores: float32 (S,), what the environment paid at the end of the response.
        gold: float64 (S,), nan where unknown; reported, never learned from.
        samples, texts, stops: S of each.
        observations: images and audio of the contexts (K), kept only where the encoder learns.
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
    observations: dict[str, Tensor] | None = None

    def responses(self, rows: Tensor | None = None) -> Responses:
        """The whole responses, or some of them cut to their longest."""
        responses = Responses(self.prefix, self.tokens, self.mask, self.contexts)
        return responses if rows is None else responses.select(rows)

    @property
    def num_tokens(self) -> int:
        return int(self.mask.sum())


class _Recorder:
    """Collects contexts as they start and tokens as they come; ``batch`` puts them together."""

    def __init__(self, num_envs: int) -> None:
        self.row = np.zeros(num_envs, np.int64)  # the response that each lane is writing
        self.prefixes: list[Prefix] = []
        self.contexts: list[np.ndarray] = []
        self.num_contexts = 0
        self.media: list[dict[str, Tensor]] = []
        self.samples: list[Sample] = []
        self.steps: list[tuple[np.ndarray, np.ndarray, Tensor, Tensor, Tensor]] = []
        self.ends: list[tuple[np.ndarray, np.ndarray, np.ndarray, list[str], list[str]]] = []

    def start(self, lanes: np.ndarray, samples: list[Sample], prefix: Prefix, contexts: np.ndarray) -> None:
        """Note that ``lanes`` (n,) begin responses to ``samples`` (n), whose contexts are ``prefix`` (K) by number."""
        self.row[lanes] = np.arange(len(lanes)) + len(self.samples)
        self.samples += samples
        self.prefixes.append(prefix)
        self.contexts.append(contexts + self.num_contexts)
        self.num_contexts += len(prefix.prompt)

    def step(
        self, lanes: np.ndarray, live: np.ndarray, lengths: np.ndarray, tokens: Tensor, logp: Tensor, values: Tensor
    ) -> None:
        """Note what the live ones of ``lanes`` wrote; an ended lane that is still carried along writes nothing."""
        kept = torch.from_numpy(live).to(tokens.device)
        writing = lanes[live]
        self.steps.append((self.row[writing], lengths[writing], tokens[kept], logp[kept], values[kept]))

    def batch(self, pad_id: int, device: torch.device) -> Batch:
        n, t = len(self.samples), 1 + max(int(at.max()) for _, at, *_ in self.steps)
        tokens = torch.full((n, t), pad_id, device=device)
        mask, logp, values = (torch.zeros(n, t, device=device) for _ in range(3))
        for rows, at, token, p, v in self.steps:
            i, j = torch.from_numpy(rows).to(device), torch.from_numpy(at).to(device)
            tokens[i, j], logp[i, j], values[i, j], mask[i, j] = token, p, v, 1.0
        scores, gold = np.zeros(n, np.float32), np.full(n, np.nan)
        texts, stops = [""] * n, [""] * n
        for rows, score, known, text, stop in self.ends:
            scores[rows], gold[rows] = score, known
            for k, row in enumerate(rows.tolist()):
                texts[row], stops[row] = text[k], stop[k]
        prefix = self.prefixes[0].join(self.prefixes[1:], pad_id)
        media = {k: torch.cat([m[k] for m in self.media]) for k in self.media[0]} if self.media else None
        contexts, paid = (torch.from_numpy(x).to(device) for x in (np.concatenate(self.contexts), scores))
        return Batch(prefix, contexts, tokens, mask, logp, values, paid, gold, self.samples, texts, stops, media)


def rollout(policy: TokenPolicy, env: TokenVectorEnv, options: dict[str, Any] | None = None) -> Batch:
    """Play one episode in every lane.

    Args:
        policy: samples with its own generator.
        env: a vector env under DISABLED autoreset; ``copy=False`` saves time.
        options: passed to ``reset``, for example ``sample_index``.

    Raises:
        ValueError: the env restarts lanes by itself, or cuts responses off before they are paid.
    """
    if env.autoreset_mode is not AutoresetMode.DISABLED or env.max_episode_steps is not None:
        raise ValueError(
            f"rollouts play every response to its end: make the env with autoreset_mode='Disabled', not "
            f"{env.autoreset_mode.value!r}, and without max_episode_steps={env.max_episode_steps}"
        )
    recorder = _Recorder(env.num_envs)
    _play(policy, env, options, recorder)
    # Put together outside of inference mode: these tensors go through a backward pass.
    return recorder.batch(env.tokenizer.pad_id, policy.device)


@torch.inference_mode()
def _play(policy: TokenPolicy, env: TokenVectorEnv, options: dict[str, Any] | None, recorder: _Recorder) -> None:
    """One episode in every lane, into the recorder."""
    observations, _ = env.reset(options=options)
    lanes = np.arange(env.num_envs)  # the lane of each row of the cache
    over = np.zeros(env.num_envs, bool)
    hidden, cache = _begin(policy, env, observations, lanes, recorder)
    actions = np.zeros(env.num_envs, np.int64)
    while True:
        tokens, logp, values = policy.sample(hidden)
        actions[lanes] = tokens.cpu().numpy()
        recorder.step(lanes, ~over[lanes], env.lengths, tokens, logp, values)
        observations, rewards, terminated, truncated, infos = env.step(actions)
        ended = mmenv.finished(infos)
        rows = recorder.row[ended.lanes]
        recorder.ends.append((rows, rewards[ended.lanes], ended.gold, ended.response, ended.stop))
        over = terminated | truncated
        if over.all():
            return
        going = ~over[lanes]
        if going.sum() <= 0.75 * len(lanes):
            # Ended lanes would only be carried along: leave their rows behind.
            kept = torch.from_numpy(np.flatnonzero(going)).to(policy.device)
            cache, tokens, lanes = cache.select(kept), tokens[kept], lanes[going]
        fresh = np.isin(lanes, ended.lanes) & ~over[lanes]
        hidden = policy.step(tokens, cache)
        if fresh.any():
            at = torch.from_numpy(np.flatnonzero(fresh)).to(policy.device)
            states, other = _begin(policy, env, observations, lanes[fresh], recorder)
            cache.replace(at, other)
            hidden[at] = states


def _begin(
    policy: TokenPolicy,
    env: TokenVectorEnv,
    observations: dict[str, np.ndarray],
    lanes: np.ndarray,
    recorder: _Recorder,
) -> tuple[Tensor, Cache]:
    """Read the contexts of ``lanes``, each of them once, and note that their responses begin."""
    samples = [env.samples[i] for i in lanes.tolist()]
    firsts, contexts = distinct_contexts(samples)
    read = lanes[firsts]
    prefix = policy.encode(observations, None if len(read) == env.num_envs else read)
    recorder.start(lanes, samples, prefix, contexts)
    if policy.train_encoder:
        media = {k: v[read].copy() for k, v in observations.items() if k in ("image", "audio")}
        recorder.media.append({k: torch.from_numpy(v) for k, v in media.items()})
    hidden, cache = policy.begin(prefix)
    if len(read) == len(lanes):
        return hidden, cache
    shared = torch.from_numpy(contexts).to(policy.device)
    return hidden[shared], cache.select(shared)
