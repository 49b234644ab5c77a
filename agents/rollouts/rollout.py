"""Lock-step rollouts: media encoded once a context, ended lanes left out, an early stop when all have ended."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor

import mmenv
from agents.policies.protocol import Cache, Prefix
from agents.policies.token_policy import TokenPolicy
from agents.rollouts.batch import Batch
from mmenv.data.sample import Sample, distinct_contexts
from mmenv.envs.infos import Finished
from mmenv.envs.token_vector_env import TokenVectorEnv


class _Recorder:
    """Collects contexts as they start, tokens as they are sampled, and scores as responses end."""

    def __init__(self, num_envs: int) -> None:
        self.row = np.zeros(num_envs, np.int64)  # the response that each lane is writing
        self.lanes: list[np.ndarray] = []
        self.prefixes: list[Prefix] = []
        self.contexts: list[np.ndarray] = []
        self.num_contexts = 0
        self.media: list[dict[str, Tensor]] = []
        self.samples: list[Sample] = []
        self.written: list[np.ndarray] = []
        self.steps: list[tuple[np.ndarray, np.ndarray, Tensor, Tensor, Tensor]] = []
        self.paid: list[np.ndarray] = []
        self.ends: list[tuple[np.ndarray, np.ndarray, Finished]] = []

    def start(
        self, lanes: np.ndarray, samples: list[Sample], prefix: Prefix, contexts: np.ndarray, written: np.ndarray
    ) -> None:
        """Record that ``lanes`` (n,) begin responses to ``samples`` (n).

        Args:
            prefix: K new contexts.
            contexts: int64 (n,), the index in ``prefix`` of each lane's context.
            written: int64 (n, R), what the responses hold already, padded.
        """
        self.row[lanes] = np.arange(len(lanes)) + len(self.samples)
        self.lanes.append(lanes)
        self.samples += samples
        self.written.append(written)
        self.prefixes.append(prefix)
        self.contexts.append(contexts + self.num_contexts)
        self.num_contexts += len(prefix.prompt)

    def step(
        self, lanes: np.ndarray, live: np.ndarray, lengths: np.ndarray, tokens: Tensor, logp: Tensor, values: Tensor
    ) -> None:
        """Record the tokens of the live ones of ``lanes``; ended lanes may still be carried along."""
        live_rows = torch.from_numpy(live).to(tokens.device)
        writing = lanes[live]
        self.steps.append((self.row[writing], lengths[writing], tokens[live_rows], logp[live_rows], values[live_rows]))

    def pay(self, rewards: np.ndarray) -> None:
        """Record what was paid for the tokens of the last step, (n,)."""
        self.paid.append(rewards)

    def end(self, finished: Finished, rewards: np.ndarray) -> None:
        """Record responses that ended, with the rewards (N,) of all lanes."""
        self.ends.append((self.row[finished.lanes], rewards[finished.lanes], finished))

    def batch(self, pad_id: int, device: torch.device, pays_at_end: bool) -> Batch:
        """All that was recorded, padded, on a device; ``pays_at_end`` gives each reply the score of its episode."""
        n = len(self.samples)
        length = 1 + max(int(at.max()) for _, at, *_ in self.steps)
        tokens = torch.from_numpy(np.concatenate(self.written)[:, :length].copy()).to(device)
        mask, logp, values = (torch.zeros(n, length, device=device) for _ in range(3))
        for rows, at, token, token_logp, value in self.steps:
            cell = torch.from_numpy(rows).to(device), torch.from_numpy(at).to(device)
            tokens[cell] = token
            logp[cell] = token_logp
            values[cell] = value
            mask[cell] = 1.0
        scores = np.zeros(n, np.float32)
        token_rewards = self._token_rewards(n, length).to(device) if self.paid else None
        gold = np.full(n, np.nan)
        texts, stops = [""] * n, [""] * n
        for rows, rewards, finished in self.ends:
            scores[rows] = rewards
            gold[rows] = finished.gold
            for row, text, stop in zip(rows.tolist(), finished.response, finished.stop, strict=True):
                texts[row] = text
                stops[row] = stop
        lanes = np.concatenate(self.lanes)  # (n,); a lane plays one episode
        if pays_at_end:
            scores = np.bincount(lanes, scores)[lanes].astype(np.float32)
        return Batch(
            prefix=self.prefixes[0].join(self.prefixes[1:], pad_id),
            contexts=torch.from_numpy(np.concatenate(self.contexts)).to(device),
            tokens=tokens,
            mask=mask,
            logp=logp,
            values=values,
            scores=torch.from_numpy(scores).to(device) if token_rewards is None else token_rewards.sum(1),
            gold=gold,
            samples=self.samples,
            texts=texts,
            stops=stops,
            episodes=torch.from_numpy(lanes).to(device),
            observations={k: torch.cat([m[k] for m in self.media]) for k in self.media[0]} if self.media else None,
            token_rewards=token_rewards,
            pays_at_end=pays_at_end,
        )

    def _token_rewards(self, n: int, length: int) -> Tensor:
        """What was paid at each token of the n responses, float32 (n, length)."""
        token_rewards = np.zeros((n, length), np.float32)
        for (rows, at, *_), paid in zip(self.steps, self.paid, strict=True):
            token_rewards[rows, at] = paid
        return torch.from_numpy(token_rewards)


def context_generator(seed: int) -> np.random.Generator:
    """The generator that draws the contexts of a run: the same stream for every algorithm at a seed."""
    return np.random.default_rng([seed, 1])


def draw_contexts(env: TokenVectorEnv, contexts: np.random.Generator, each: int = 1) -> np.ndarray:
    """Samples of the training split for the lanes of a rollout, int64 (N,).

    Args:
        env: of N lanes.
        contexts: draws them; a stream of contexts is the same however many are drawn at a time.
        each: neighbouring lanes that get the same sample.
    """
    n = env.num_envs
    return contexts.integers(env.task.size("train"), size=-(-n // each)).repeat(each)[:n]


def rollout(policy: TokenPolicy, env: TokenVectorEnv, options: dict[str, Any] | None = None) -> Batch:
    """Play one episode in every lane.

    Args:
        policy: samples with its own generator.
        env: a vector env under DISABLED autoreset; ``copy=False`` saves time.
        options: passed to ``reset``: ``sample_index`` picks the samples, and ``response`` gives prefixes to continue.

    Returns:
        the responses. A prefix is part of their tokens and texts, and the mask is 0 on it.

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
    return recorder.batch(env.tokenizer.pad_id, policy.device, env.task.pays_at_end)


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
        live = ~over[lanes]
        recorder.step(lanes, live, env.lengths, tokens, logp, values)
        observations, rewards, terminated, truncated, infos = env.step(actions)
        if env.episode_spec.pays_tokens:
            recorder.pay(rewards[lanes[live]])
        ended = mmenv.finished(infos)
        recorder.end(ended, rewards)
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
    """Read the contexts of ``lanes``, each of them once, and what their responses hold; record that they begin."""
    samples = [env.samples[i] for i in lanes.tolist()]
    firsts, contexts = distinct_contexts(samples)
    read = lanes[firsts]
    prefix = policy.encode(observations, None if len(read) == env.num_envs else read)
    written = observations["response"][lanes]
    recorder.start(lanes, samples, prefix, contexts, written)
    if policy.train_encoder:
        media = {k: v[read].copy() for k, v in observations.items() if k in ("image", "audio")}
        recorder.media.append({k: torch.from_numpy(v) for k, v in media.items()})
    hidden, cache = policy.begin(prefix)
    if len(read) < len(lanes):
        shared = torch.from_numpy(contexts).to(policy.device)
        hidden, cache = hidden[shared], cache.select(shared)
    policy.read_written(hidden, cache, written)
    return hidden, cache
