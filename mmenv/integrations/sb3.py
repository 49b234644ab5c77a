"""stable-baselines3: the native vector env as a ``VecEnv``, and policies around the same network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from mmenv.arguments import ArgumentError, require
from mmenv.envs.token_vector_env import TokenVectorEnv
from mmenv.models.checkpoints import load_pretrained
from mmenv.models.transformer import Network, Prefix
from mmenv.registration import spec_of

with require("sb3"):
    from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
    from stable_baselines3.common.policies import ActorCriticPolicy
    from stable_baselines3.common.preprocessing import is_image_space_channels_first
    from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
    from stable_baselines3.common.vec_env import VecEnv

# Names under which Gymnasium's vector envs keep what belongs to a single lane.
_SINGLE = {"observation_space": "single_observation_space", "action_space": "single_action_space"}


class TokenVecEnv(VecEnv):
    """``num_envs`` lanes of an id for stable-baselines3, scored in one batched reward call.

    An episode is one response, or one dialogue. The info of a lane whose response ends has ``response``, ``stop``,
    ``gold`` (if known) and ``rewards/<name>``; where an episode ends, also ``terminal_observation``.

    Args:
        env_id: id of the environment.
        num_envs: number of lanes N.
        **arguments: of the environment, as for ``gym.make_vec``.

    Attributes:
        env: the native env; all lanes share it.

    Raises:
        ArgumentError: ``autoreset_mode`` or ``copy`` is given, or an argument of the environment is wrong.
    """

    def __init__(self, env_id: str, num_envs: int = 16, **arguments: Any) -> None:
        for name in ("autoreset_mode", "copy"):
            if name in arguments:
                raise ArgumentError(f"{name}={arguments[name]!r}: stable-baselines3 needs the default; leave it out")
        # Passed although they are defaults: an id may have been registered with other values.
        needed: dict[str, Any] = {"autoreset_mode": "SameStep", "copy": True}
        env: Any = gym.make_vec(spec_of(env_id), num_envs=num_envs, **needed, **arguments)
        self.env: TokenVectorEnv = env.unwrapped
        self._actions = np.zeros(num_envs, np.int64)
        super().__init__(num_envs, self.env.single_observation_space, self.env.single_action_space)

    def reset(self) -> dict[str, np.ndarray]:
        """Start an episode in every lane, with the seeds and options set by ``seed`` and ``set_options``."""
        seeds = None if all(s is None for s in self._seeds) else self._seeds
        observations, infos = self.env.reset(seed=seeds, options=_joined(self._options))
        self.reset_infos = [_of_lane(infos, i) for i in range(self.num_envs)]
        self._reset_seeds()
        self._reset_options()
        return observations

    def step_async(self, actions: np.ndarray) -> None:
        """Store ``actions`` (N,) for ``step_wait``."""
        self._actions = actions

    def step_wait(self) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Write the tokens; observations, rewards float32 (N,), dones bool (N,) and N infos."""
        observations, rewards, terminated, truncated, infos = self.env.step(self._actions)
        dones = terminated | truncated
        # In most steps no response ends and there are no infos.
        lane_infos = [_of_lane(infos, i) for i in range(self.num_envs)] if infos else [{} for _ in range(self.num_envs)]
        for lane in np.flatnonzero(dones).tolist():
            # The native env has the new episode at the top level; SB3 wants the old one there, the new in reset_infos.
            self.reset_infos[lane] = lane_infos[lane]
            final = _of_lane(infos["final_info"], lane)
            lane_infos[lane] = final | {"terminal_observation": infos["final_obs"][lane]}
        for info, is_truncated in zip(lane_infos, (truncated & ~terminated).tolist(), strict=True):
            info["TimeLimit.truncated"] = is_truncated
        return observations, rewards.astype(np.float32), dones, lane_infos

    def close(self) -> None:
        """Close the native env."""
        self.env.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """An attribute of the native env, repeated for each of ``indices``, since the lanes share it."""
        value = getattr(self.env, _SINGLE.get(attr_name, attr_name))
        return [value for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set an attribute of the native env.

        Raises:
            ValueError: ``indices`` leaves out a lane.
        """
        if set(self._get_indices(indices)) != set(range(self.num_envs)):
            raise ValueError(
                f"{attr_name} cannot be set for lanes {indices} alone, since all share one env: leave indices out"
            )
        setattr(self.env, attr_name, value)

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        """Call ``action_masks``, ``render`` or ``view`` for lanes.

        Raises:
            AttributeError: the native env has no such method for single lanes.
        """
        lanes = list(self._get_indices(indices))
        calls: dict[str, Callable[..., Any]] = {
            "action_masks": self._masks,
            "render": self._render,
            "view": self.env.view,
        }
        if method_name not in calls:
            raise AttributeError(
                f"there is no method {method_name!r} for single lanes: use one of {sorted(calls)}, or .env for all"
            )
        return [calls[method_name](lane, *method_args, **method_kwargs) for lane in lanes]

    def _masks(self, lane: int) -> np.ndarray:
        return self.env.action_masks()[lane]

    def _render(self, lane: int) -> Any:
        frames = self.env.render()
        return None if frames is None else frames[lane]

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """False for every lane: lanes have no wrappers."""
        return [False for _ in self._get_indices(indices)]

    def get_images(self) -> list[Any]:
        """A picture of every lane, uint8 (H, W, 3) each."""
        return list(self.env.render())


def _joined(options: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Options lane by lane -> options of the native env, a list over lanes by name."""
    names = {name for lane_options in options for name in lane_options}
    for lane, lane_options in enumerate(options):
        if set(lane_options) != names:
            raise ArgumentError(
                f"lane {lane} has options {sorted(lane_options)}, others {sorted(names)}: give the same names to all"
            )
    return {name: [lane_options[name] for lane_options in options] for name in names}


def _of_lane(infos: Mapping[str, Any], lane: int) -> dict[str, Any]:
    """The info of one lane, from the ``infos`` of N lanes."""
    info: dict[str, Any] = {}
    for key, values in infos.items():
        if key.startswith(("_", "final_")) or not infos[f"_{key}"][lane]:
            continue
        value = values[lane]
        info[key] = value.item() if isinstance(value, np.generic) else value
    return info


class TokenFeatures(BaseFeaturesExtractor):
    """Observations -> the hidden state that predicts the next token, (B, width).

    stable-baselines3 has no cache, so that every call reads media, prompt and response again.

    Args:
        observation_space: as the policy sees it, images channel-first or channel-last.
        start: shipped name or path of the network.
        train_encoder: whether gradients reach the media encoders.
    """

    def __init__(self, observation_space: spaces.Dict, start: str | Path, train_encoder: bool = False) -> None:
        network = load_pretrained(start)
        super().__init__(observation_space, network.config.width)
        budget, longest = observation_space["response"].shape[0], network.config.max_response  # type: ignore[index]
        if budget > longest:
            raise ValueError(f"max_response_tokens={budget} exceeds the longest response {longest} of {str(start)!r}")
        for parameter in network.encoder_parameters():
            parameter.requires_grad_(train_encoder)
        self.network, self.budget, self.train_encoder = network, budget, train_encoder
        image = observation_space.spaces.get("image")
        self.channels_first = isinstance(image, spaces.Box) and is_image_space_channels_first(image)

    def encode(self, observations: Mapping[str, Tensor]) -> Prefix:
        """The contexts of observations, with images as the policy sees them."""
        media = {k: v for k, v in observations.items() if k in ("image", "audio")}
        if self.channels_first:
            media["image"] = media["image"].permute(0, 2, 3, 1)
        return self.network.encode({**media, "prompt": observations["prompt"].long()})

    def forward(self, observations: Mapping[str, Tensor]) -> Tensor:
        """Observations as SB3 prepares them, all of them float32."""
        response = observations["response"].long()  # (B, R)
        prefix = self.encode(observations)
        # After a full response there is no next token to predict.
        lengths = (response != self.network.config.pad_id).sum(1).clamp(max=self.budget - 1)  # (B,)
        hidden = self.network(prefix, response[:, : int(lengths.max()) + 1])  # (B, longest + 1, width)
        return hidden[torch.arange(len(hidden), device=hidden.device), lengths]


class LanguageHead(nn.Module):
    """The network's logits, tied to its word embeddings, with padding masked: hidden (B, width) -> (B, vocab)."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        penalty = torch.zeros(network.config.vocab_size)
        penalty[network.config.pad_id] = -1e9  # finite: the entropy multiplies it by a probability of 0
        self.register_buffer("penalty", penalty, persistent=False)
        self.penalty: Tensor

    def forward(self, hidden: Tensor) -> Tensor:
        return self.network.logits(hidden) + self.penalty


class NetworkPolicyMixin:
    """Puts the network's own heads in the place of SB3's layers; all policies here use it."""

    def __init__(
        self,
        observation_space: spaces.Dict,
        action_space: spaces.Discrete,
        lr_schedule: Callable[[float], float],
        *,
        start: str | Path,
        train_encoder: bool = False,
        **arguments: Any,
    ) -> None:
        self._start = {"start": start, "train_encoder": train_encoder}
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            net_arch=[],
            ortho_init=False,  # orthogonal initialisation would overwrite what the network has learned
            features_extractor_class=TokenFeatures,
            features_extractor_kwargs=dict(self._start),
            normalize_images=False,
            **arguments,
        )  # type: ignore[call-arg]

    def _build(self, lr_schedule: Callable[[float], float]) -> None:
        policy: Any = self
        network: Network = policy.features_extractor.network
        if policy.action_space.n != network.config.vocab_size:
            raise ValueError(
                f"{self._start['start']!r} knows {network.config.vocab_size} tokens and the environment "
                f"{policy.action_space.n}: give both the same tokenizer"
            )
        policy._build_mlp_extractor()  # with net_arch=[] it passes the features on
        policy.action_net, policy.value_net = LanguageHead(network), network.value_head
        learned = [p for p in policy.parameters() if p.requires_grad]
        policy.optimizer = policy.optimizer_class(learned, lr=lr_schedule(1), **policy.optimizer_kwargs)

    def _get_constructor_parameters(self: Any) -> dict[str, Any]:
        names = ("observation_space", "action_space", "optimizer_class", "optimizer_kwargs")
        return {**{n: getattr(self, n) for n in names}, "lr_schedule": self._dummy_schedule, **self._start}


class TokenPolicy(NetworkPolicyMixin, ActorCriticPolicy):
    """The network as a policy for ``PPO`` and ``A2C``: ``PPO(TokenPolicy, env, policy_kwargs={"start": "start"})``.

    A loaded model reads ``start`` again before its own weights; where that file has moved, pass
    ``custom_objects={"policy_kwargs": {"start": ...}}`` to ``load``.

    Args:
        observation_space, action_space, lr_schedule: given by the algorithm.
        start: shipped name or path of the network to start from.
        train_encoder: whether image and audio encoders learn too.
        **arguments: ``optimizer_class`` and ``optimizer_kwargs``.

    Raises:
        WeightsError: no such weights.
        ValueError: the environment has another vocabulary, or a larger budget than the network can write.
    """


class MaskableTokenPolicy(NetworkPolicyMixin, MaskableActorCriticPolicy):
    """``TokenPolicy`` for ``MaskablePPO`` of sb3-contrib; the same arguments."""
