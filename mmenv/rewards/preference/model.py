"""A Bradley-Terry preference model over image, audio, prompt and response."""

from __future__ import annotations

import functools
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from mmenv.data.sample import Response, Sample, distinct_contexts
from mmenv.models.checkpoints import WeightsError, load_pretrained, metadata_object, read_tensors, resolve
from mmenv.models.transformer import Network, Prefix
from mmenv.rewards.base import RewardError
from mmenv.tokenizer import Tokenizer, UnicodeTokenizer, WordTokenizer
from mmenv.worlds.vocabulary import world_tokenizer

HEADS = ("token", "state")
MOST_UNKNOWN = 0.5  # share of unknown words beyond which a warning says that scores mean little
LEAST_LOGP = -8.0  # log-probabilities are clipped: beyond it, how unlikely a word was does not matter
POOLING_SCALE = 8  # the shipped heads divide their sum over positions by it, about a response's length
BATCH = 512  # responses that the backbone reads at once; scores depend on it in their last bits


class PreferenceHead(nn.Module):
    """Scores a response from features of the backbone.

    ``"token"`` sums over positions, each with the state, the embedding and clipped log-probability of the token, the
    distance to the likeliest token's, and how often the token came before; ``"state"`` reads the last state alone.
    """

    def __init__(self, kind: str, width: int, hidden: int = 128) -> None:
        super().__init__()
        if kind not in HEADS:
            raise ValueError(f"head {kind!r} is unknown: give one of {HEADS}")
        self.kind = kind
        size = 2 * width + 5 if kind == "token" else width
        self.body = nn.Sequential(nn.LayerNorm(size), nn.Linear(size, hidden), nn.GELU())
        self.whole = nn.Sequential(nn.Linear(hidden, hidden), nn.GELU())
        self.out = nn.Linear(hidden, 1)
        nn.init.normal_(self.out.weight, std=(hidden + 1) ** -0.5)
        nn.init.zeros_(self.out.bias)

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        """features (B, T, size), mask (B, T) -> scores (B,)."""
        if self.kind == "state":
            last = mask.sum(1).long() - 1
            return self.out(self.body(features[torch.arange(len(features)), last]))[:, 0]
        parts = (self.body(features) * mask[..., None]).sum(1) / POOLING_SCALE
        return self.out(parts + self.whole(parts))[:, 0]

    def sparse(self, features: Tensor, mask: Tensor) -> Tensor:
        """``forward`` up to rounding, without computing padding: several times faster where most positions are padding.

        Args:
            features: (B, T, size), of any precision.
            mask: (B, T)

        Returns:
            float32 (B,)
        """
        if self.kind == "state":
            return self(features.float(), mask)
        row, at = mask.nonzero(as_tuple=True)
        body = self.body(features[row, at].float())
        parts = body.new_zeros(len(mask), body.shape[1]).index_add(0, row, body) / POOLING_SCALE
        return self.out(parts + self.whole(parts))[:, 0]


class PreferenceModel:
    """A frozen backbone and a head; callable as a reward function.

    Scores are ``(head - mean) / std``: those of the policy it was normalised on have mean 0 and standard deviation 1,
    so that a KL coefficient means the same for every model.

    Args:
        backbone: the network that computes the features; frozen.
        kind: ``"token"`` or ``"state"``.
        name: name of the reward in ``info``.
        backbone_name: shipped name of the backbone, saved instead of its weights.
        tokenizer: the backbone's; responses are read as text, so a policy may use another.
        hidden: units of the head's layers.

    Attributes:
        mean, std: normalisation of the scores.
        temperature: divides differences in nats where they become probabilities; scores do not use it.
    """

    def __init__(
        self,
        backbone: Network,
        kind: str = "token",
        name: str = "preference",
        backbone_name: str = "base",
        tokenizer: Tokenizer | None = None,
        hidden: int = 128,
    ) -> None:
        self.backbone = backbone.eval().requires_grad_(False)
        self.head = PreferenceHead(kind, backbone.config.width, hidden)
        self.name, self.backbone_name = name, backbone_name
        self.tokenizer = tokenizer or world_tokenizer()
        self.mean, self.std, self.temperature = 0.0, 1.0, 1.0
        self._unchecked_calls = 16  # calls whose words are still checked against the vocabulary
        self._warned_cuts = set[str]()  # kinds of inputs whose truncation was warned of

    @torch.no_grad()
    def features(self, samples: Sequence[Sample], responses: Sequence[Response]) -> tuple[Tensor, Tensor]:
        """Inputs of the head: features (n, T, size) and mask (n, T)."""
        tokens, mask = self._tokenize(responses)
        self._warn_of_unknown_words(samples, responses)
        firsts, contexts = distinct_contexts(samples)
        prefix = self._prefix([samples[i] for i in firsts])
        tokens_and_end = torch.cat([tokens, tokens.new_zeros(len(tokens), 1)], 1)
        context_rows = torch.from_numpy(contexts)
        hidden = self.backbone(prefix, tokens_and_end, context_rows)  # (n, T + 1, d)
        if self.head.kind == "state":
            return hidden[:, 1:], mask
        hidden = hidden[:, :-1]
        logp = self.backbone.logits(hidden).log_softmax(-1)  # (n, T, V)
        best = logp.max(-1, keepdim=True).values
        token_logp = logp.gather(-1, tokens[..., None])
        # The end of a response is a token like others; a response cut off by its budget has none.
        parts = [hidden, self.backbone.embed(tokens) * hidden.shape[-1] ** 0.5]
        numbers = [token_logp, token_logp - best, best]
        repeats = (tokens[:, :, None] == tokens[:, None]).tril(-1).sum(-1, keepdim=True)
        grounding = self.backbone.grounding(prefix, tokens, context_rows)[..., None]
        # A third repetition says no more than a tenth; grounding is scaled to the range of the other features.
        parts += [number.clamp(min=LEAST_LOGP) for number in numbers]
        return torch.cat([*parts, repeats.clamp(max=3), 4 * grounding], -1), mask

    def _warn_of_unknown_words(self, samples: Sequence[Sample], responses: Sequence[Response]) -> None:
        """Warn once if most words are unknown, and so the same token to this model."""
        if not self._unchecked_calls:
            return
        self._unchecked_calls -= 1
        for texts in ({s.prompt for s in samples}, {r.text for r in responses}):
            pieces = {piece for text in texts for piece in UnicodeTokenizer.pieces(text)} - {"<unk>"}
            unknown = sorted(piece for piece in pieces if self.tokenizer.encode(piece) == [WordTokenizer.unk_id])
            if len(unknown) > MOST_UNKNOWN * len(pieces):
                self._unchecked_calls = 0
                warnings.warn(
                    f"{len(unknown)} of {len(pieces)} words are unknown to the preference model {self.name!r} (for "
                    f"example {', '.join(unknown[:3])}): its scores say little about them. Train against a metric of "
                    'the references, reward="cider" for example, or against a preference model of your own',
                    stacklevel=3,
                )
                return

    @property
    def longest(self) -> int:
        """Tokens of a response that the backbone reads, its end included; what follows is cut."""
        return self.backbone.config.max_response - 1

    def tokens_of(self, response: Response) -> tuple[int, ...]:
        """The tokens of a response as the model reads them: unknown words are alike, and the end may be cut."""
        return tuple(self._encode(response)[: self.longest])

    def _encode(self, response: Response) -> list[int]:
        end = [self.tokenizer.end_id] if response.stop == "eos" else []
        return [*self.tokenizer.encode(response.text), *end]

    def _warn_of_cuts(self, what: str, lengths: Sequence[int], most: int, unit: str = "tokens") -> None:
        """Warn once of inputs that are truncated: those that differ only beyond the cut get the same score."""
        cut = sum(length > most for length in lengths)
        if cut and what not in self._warned_cuts:
            self._warned_cuts.add(what)
            warnings.warn(
                f"{cut} of {len(lengths)} {what} have more than the {most} {unit} that the preference model "
                f"{self.name!r} reads: {what} that differ only after them get the same score. Give shorter ones, "
                f"max_response_tokens={self.longest} for example, or another reward",
                stacklevel=4,
            )

    def _tokenize(self, responses: Sequence[Response]) -> tuple[Tensor, Tensor]:
        """Tokens (n, T) of the responses' text, cut at the backbone's longest, and which are real (n, T)."""
        rows = [self._encode(r) or [self.backbone.config.pad_id] for r in responses]
        # An end token that is cut off alone changes no text.
        texts = [len(row) - (r.stop == "eos") for row, r in zip(rows, responses, strict=True)]
        self._warn_of_cuts("responses", texts, self.longest)
        rows = [row[: self.longest] for row in rows]
        tokens = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
        mask = torch.zeros(tokens.shape)
        for i, row in enumerate(rows):
            tokens[i, : len(row)] = torch.tensor(row)
            mask[i, : len(row)] = 1.0
        return tokens, mask

    def _prefix(self, samples: Sequence[Sample]) -> Prefix:
        kinds = {(s.image is None or s.image.shape, s.audio is None): s.id for s in samples}
        if len(kinds) > 1:
            one, other = list(kinds.values())[:2]
            raise RewardError(
                f"samples {one!r} and {other!r} differ in their media (an image or a sound that one lacks, or "
                "the size of the image): score samples of one kind in a call"
            )
        observations: dict[str, Tensor] = {}
        if samples[0].image is not None:
            observations["image"] = torch.from_numpy(np.stack([s.image for s in samples if s.image is not None]))
        if samples[0].audio is not None:
            waves = [s.audio for s in samples if s.audio is not None]
            audio = np.zeros((len(waves), self.backbone.config.max_audio_tokens * 1600), np.float32)
            self._warn_of_cuts("sounds", [len(w) for w in waves], audio.shape[1], "values")
            for i, wave in enumerate(waves):
                audio[i, : len(wave)] = wave[: audio.shape[1]]
            observations["audio"] = torch.from_numpy(audio)
        prompts, most = [self.tokenizer.encode(s.prompt) for s in samples], self.backbone.config.max_prompt
        self._warn_of_cuts("prompts", [len(p) for p in prompts], most)
        prompts = [p[:most] for p in prompts]
        prompt = torch.full((len(prompts), max(1, *map(len, prompts), 1)), self.backbone.config.pad_id)
        for i, row in enumerate(prompts):
            prompt[i, : len(row)] = torch.tensor(row, dtype=torch.long)
        return self.backbone.encode({**observations, "prompt": prompt})

    @torch.no_grad()
    def __call__(self, samples: Sequence[Sample], responses: Sequence[Response]) -> np.ndarray:
        """Normalised scores, float32 (n,)."""
        chunks = [slice(i, i + BATCH) for i in range(0, len(samples), BATCH)]
        scores = torch.cat([self.head(*self.features(samples[c], responses[c])) for c in chunks])
        return ((scores - self.mean) / self.std).numpy()

    def save(self, path: str | Path, metadata: Mapping[str, str] | None = None) -> None:
        """Write the head as float16, with the configuration to rebuild the model."""
        config = {
            "head": self.head.kind, "backbone": self.backbone_name, "mean": self.mean, "std": self.std,
            "temperature": self.temperature,
        }  # fmt: skip
        tensors = {k: v.detach().half().contiguous() for k, v in self.head.state_dict().items()}
        save_file(tensors, path, {"kind": "preference", "preference": json.dumps(config), **(metadata or {})})


@functools.lru_cache(maxsize=8)
def shared_backbone(name: str) -> Network:
    """A network by shipped name or path, one object within the process."""
    return load_pretrained(name)


def read_kind(name_or_path: str | Path, kind: str, noun: str) -> tuple[Path, dict[str, Tensor], dict[str, Any]]:
    """Path, tensors and settings of saved weights of one kind, ``"preference"`` or ``"ensemble"``.

    Raises:
        WeightsError: the file is missing, broken or of another kind; the message says it is not ``noun``.
    """
    path = resolve(name_or_path)
    tensors, metadata = read_tensors(path)
    if metadata.get("kind") != kind:
        raise WeightsError(f"{path} holds {metadata.get('kind', 'something else')!r}, not {noun}")
    return path, tensors, metadata_object(metadata, kind, path)


def load_preference_model(name_or_path: str | Path) -> PreferenceModel:
    """A preference model by shipped name (``"strong-vqa"``, ``"weak-captioning"``, ...) or by path.

    Raises:
        WeightsError: the file is missing, broken or of another kind.
    """
    path, tensors, config = read_kind(name_or_path, "preference", "a preference model")
    return restored(path, config, tensors, config.get("mean"), config.get("std"))


def restored(
    path: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor], mean: Any, std: Any
) -> PreferenceModel:
    """A model from the configuration (``head``, ``backbone``) and the tensors of a file.

    Raises:
        WeightsError: configuration and tensors do not fit together.
    """
    # The width of a head is in its tensors, not in the configuration.
    hidden = tensors["out.weight"].shape[-1] if "out.weight" in tensors else 128
    name, kind, temperature = config.get("backbone"), config.get("head"), config.get("temperature", 1.0)
    if not isinstance(name, str) or not isinstance(kind, str):
        raise WeightsError(f"{path} names backbone={name!r} and head={kind!r}, not texts: make or copy it again")
    for field, number in (("mean", mean), ("std", std), ("temperature", temperature)):
        if not isinstance(number, int | float) or not np.isfinite(number) or (field != "mean" and number <= 0):
            raise WeightsError(f"{path} has {field}={number!r}, which is not a valid number: make or copy it again")
    backbone = shared_backbone(name)
    try:
        model = PreferenceModel(backbone, kind, path.stem, name, hidden=hidden)
        model.head.load_state_dict(tensors)
    except (RuntimeError, ValueError) as error:
        raise WeightsError(f"{path} does not fit its own description: {error}") from error
    model.mean, model.std, model.temperature = mean, std, temperature
    model.head.eval()
    return model
