"""A Bradley-Terry preference model over image, audio, prompt and response: a start's network with a scalar head."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmenv.data.sample import Response, Sample
from mmenv.models.checkpoints import WeightsError
from mmenv.models.transformer import Network
from mmenv.rewards.preference.config import HeadKind
from mmenv.rewards.preference.files import (
    HEAD,
    Backbone,
    Saved,
    own_tensors,
    read_reward,
    restored_backbone,
    save_reward,
)  # fmt: skip
from mmenv.rewards.preference.reading import PART, Reader, Reading


class PreferenceHead(nn.Module):
    """A score of a response from the backbone's states, through one small layer.

    ``"last"`` reads the state behind the last token. ``"mean"`` and ``"sum"`` read the state before each token. They
    take the mean or the sum of the tokens' log-probabilities, in a map that begins as the language head's own, so they
    begin with what the backbone expects to be written. Both add the mean of what the layer reads. So no token that is
    added to a response raises a ``"sum"`` by itself: with a sum of what the layer reads, RL learned to repeat a word.

    Args:
        kind: ``"last"``, ``"mean"`` or ``"sum"``.
        width: of the states.
        hidden: units of the layer.

    Raises:
        ValueError: ``kind`` is unknown.
    """

    def __init__(self, kind: HeadKind, width: int, hidden: int = 128) -> None:
        super().__init__()
        if kind not in get_args(HeadKind):
            raise ValueError(f"head={kind!r} is unknown: give one of {get_args(HeadKind)}")
        self.kind = kind
        self.body = nn.Sequential(nn.Linear(width, hidden), nn.GELU())
        self.out = nn.Linear(hidden, 1)
        nn.init.normal_(self.out.weight, std=(hidden + 1) ** -0.5)
        nn.init.zeros_(self.out.bias)
        if kind != "last":
            self.match = nn.Linear(width, width, bias=False)
            nn.init.eye_(self.match.weight)

    def forward(self, states: Tensor, tokens: Tensor, words: Tensor, mask: Tensor) -> Tensor:
        """Scores (n,) of n responses.

        Args:
            states: (n, T, width), behind each token for ``"last"``, before it for the others.
            tokens: int64 (n, T), which ``"last"`` does not read.
            words: (vocabulary, width), embeddings of all tokens.
            mask: (n, T), 1 for tokens.
        """
        if self.kind == "last":
            last = mask.sum(1).long() - 1
            return self.out(self.body(states[torch.arange(len(states), device=states.device), last]))[:, 0]
        lengths = mask.sum(1)
        every = F.linear(self.match(states), words).log_softmax(-1)
        expected = (every.gather(-1, tokens[..., None])[..., 0] * mask).sum(1)
        read = (self.out(self.body(states))[..., 0] * mask).sum(1) / lengths
        return read + (expected / lengths if self.kind == "mean" else expected)


class PreferenceModel:
    """A backbone and a head; callable as a reward function.

    The backbone begins as a copy of its parent, a start for example, and may be fine-tuned with the head
    (``mmenv.rewards.preference.training``). Scores are ``(head - mean) / std``: those of the responses that the model
    was normalised on have mean 0 and standard deviation 1, so that a KL coefficient means the same for every model.

    Args:
        parent: what the backbone begins as, with its tokenizer: ``read_backbone("start")``. Responses are read as text,
            so a policy may use another tokenizer.
        backbone: the parent's network with what was fine-tuned; None takes the parent's own.
        head: ``"last"``, ``"mean"`` or ``"sum"``, as in ``PreferenceHead``.
        name: name of the reward in ``info``.
        hidden: units of the head's layer.

    Attributes:
        reader: turns samples and responses into what the backbone reads.
        mean, std: normalisation of the scores.
        temperature: divides differences in nats where they become probabilities; scores do not use it.
    """

    def __init__(
        self,
        parent: Backbone,
        backbone: Network | None = None,
        head: HeadKind = "sum",
        name: str = "preference",
        hidden: int = 128,
    ) -> None:
        self.parent, self.name = parent, name
        self.backbone = (backbone or parent.network).eval().requires_grad_(False)
        self.head = PreferenceHead(head, self.backbone.config.width, hidden)
        self.reader = Reader(parent.network, parent.tokenizer, name)
        self.mean, self.std, self.temperature = 0.0, 1.0, 1.0

    def states(self, reading: Reading) -> Tensor:
        """The backbone's states (n, T, width) that the head reads: before each token, or behind it."""
        prefix = reading.prefix._replace(media=reading.prefix.media.to(self.backbone.embed.weight.dtype))
        # One token more, which is never read, makes the network return the state behind the last one.
        tokens = torch.cat([reading.tokens, reading.tokens.new_zeros(len(reading.tokens), 1)], 1)
        states = self.backbone(prefix, tokens, reading.contexts)
        return states[:, 1:] if self.head.kind == "last" else states[:, :-1]

    def raw(self, reading: Reading) -> Tensor:
        """Scores (n,) before normalisation, in nats."""
        parts = reading.by_length()
        scores = torch.cat([self.scored(part, self.states(part)) for part in map(reading.take, parts)])
        return scores[torch.argsort(torch.cat(parts))]

    def scored(self, reading: Reading, states: Tensor) -> Tensor:
        """Scores (n,) of states that ``states(reading)`` gave."""
        return self.head(states, reading.tokens, self.backbone.embed.weight, reading.mask)

    @torch.no_grad()
    def __call__(self, samples: Sequence[Sample], responses: Sequence[Response]) -> np.ndarray:
        """Normalised scores, float32 (n,)."""
        parts = [slice(i, i + PART) for i in range(0, len(samples), PART)]
        scores = torch.cat([self.raw(self.reader.read(samples[p], responses[p])) for p in parts])
        return ((scores - self.mean) / self.std).numpy()

    def save(self, path: str | Path, metadata: Mapping[str, str] | None = None) -> None:
        """Write the head and what differs from the parent as float16, with the configuration to rebuild the model."""
        config = {"head": self.head.kind, "mean": self.mean, "std": self.std, "temperature": self.temperature}
        tensors = own_tensors(self.head, self.backbone, self.parent.network)
        about = {"kind": "preference", "preference": json.dumps(config), **(metadata or {})}
        save_reward(tensors, self.parent, path, about)


def load_preference_model(name_or_path: str | Path) -> PreferenceModel:
    """A preference model by shipped name (``"strong-vqa"``, ``"weak-captioning"``, ...) or by path.

    Raises:
        WeightsError: the file or its parent is missing, broken or of another kind.
    """
    return restored(read_reward(name_or_path, "preference", "a preference model"))


def restored(saved: Saved) -> PreferenceModel:
    """A model from the settings (``head``, ``mean``, ``std``, ``temperature``) and the tensors of a file.

    Raises:
        WeightsError: settings and tensors do not fit together.
    """
    path, tensors, settings, parent = saved
    numbers: dict[str, Any] = {"temperature": 1.0, "mean": None, "std": None}
    numbers |= {name: settings[name] for name in numbers if name in settings}
    for field, number in numbers.items():
        if not isinstance(number, int | float) or not np.isfinite(number) or (field != "mean" and number <= 0):
            raise WeightsError(f"{path} has {field}={number!r}, which is not a valid number: make or copy it again")
    head = {name.removeprefix(HEAD): tensor for name, tensor in tensors.items() if name.startswith(HEAD)}
    # The size of a head is in its tensors, not in the settings.
    hidden = head["out.weight"].shape[-1] if "out.weight" in head else 1
    try:
        backbone = restored_backbone(tensors, parent.network)
        model = PreferenceModel(parent, backbone, settings.get("head"), path.stem, hidden)  # type: ignore[arg-type]
        model.head.load_state_dict(head)
    except (RuntimeError, ValueError) as error:
        raise WeightsError(f"{path} does not fit its own description: {error}") from error
    model.mean, model.std, model.temperature = (float(numbers[name]) for name in ("mean", "std", "temperature"))
    return model
