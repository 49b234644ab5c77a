"""Encoders f_m by name or by path: any transformers vision, audio or text model gives tokens (B, S, width) and mask."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmenv.models.encoders import AudioEncoder, ImageEncoder, PatchStem
from mmenv.models.folders import PICKLES, installed, read_config, read_model, read_tokenizer, refused
from mmenv.models.representation.fusion import Tokens
from mmenv.worlds.vocabulary import world_tokenizer

NAMED = {"image": ("conv", "patch"), "audio": ("logmel",), "text": ("transformer",)}
MAX_TEXT = 48
# Models of two towers, and what loads one of them alone.
HALVES = {
    ("clip", "image"): "CLIPVisionModel",
    ("clip", "text"): "CLIPTextModel",
    ("siglip", "image"): "SiglipVisionModel",
    ("siglip", "text"): "SiglipTextModel",
}
WEIGHTS = ("*.safetensors", "*.safetensors.index.json", *PICKLES)
TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "tokenizer.model")
INPUTS = {"image": ("pixel_values",), "audio": ("input_values", "input_features"), "text": ("input_ids",)}


class TowerError(ValueError):
    """A path that holds no model of the wanted modality; the message says what to give instead."""


class ImageTower(nn.Module):
    """``conv`` or ``patch``: image uint8 (B, H, W, 3) -> tokens with learned positions."""

    def __init__(self, kind: str, width: int) -> None:
        super().__init__()
        self.stem: ImageEncoder | PatchStem = ImageEncoder(width) if kind == "conv" else PatchStem(width)
        # The output of a new stem is small: without a norm the positions would dominate it.
        self.norm = nn.RMSNorm(width)
        self.position = nn.Parameter(0.1 * torch.randn(self.stem.tokens, width))

    def forward(self, image: Tensor) -> Tokens:
        """uint8 (B, H, W, 3) -> (B, S, width)."""
        states = self.norm(self.stem(image)) + self.position
        return Tokens(states, torch.ones(states.shape[:2], dtype=torch.bool, device=states.device))


class AudioTower(nn.Module):
    """``logmel``: waveform (B, T) -> a token for each tenth of a second, masked in the padding."""

    def __init__(self, width: int, longest: int = 40) -> None:
        super().__init__()
        self.stem, self.longest = AudioEncoder(width), longest
        self.norm = nn.RMSNorm(width)
        self.position = nn.Parameter(0.1 * torch.randn(longest, width))

    def forward(self, audio: Tensor) -> Tokens:
        """float32 (B, T) at 16 kHz -> (B, T / 1600, width); T is cut at ``longest`` tenths of a second."""
        audio = audio[:, : self.longest * AudioEncoder.stride]
        states = self.norm(self.stem(audio))
        return Tokens(states + self.position[: states.shape[1]], sounding(audio, states.shape[1]))


class TextTower(nn.Module):
    """``transformer``: words of the world -> embeddings with learned positions, an end token after them."""

    mask_word = "<unk>"

    def __init__(self, width: int) -> None:
        super().__init__()
        self.tokenizer = world_tokenizer()
        self.embed = nn.Embedding(self.tokenizer.vocab_size, width)
        self.position = nn.Parameter(0.1 * torch.randn(MAX_TEXT, width))
        nn.init.normal_(self.embed.weight, std=width**-0.5)

    def forward(self, texts: Sequence[str]) -> Tokens:
        """n texts -> (n, S, width)."""
        ids, mask = world_ids(texts, self.embed.weight.device)
        states = self.embed(ids) * self.embed.embedding_dim**0.5 + self.position[: ids.shape[1]]
        return Tokens(states, mask)


def world_ids(texts: Sequence[str], device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Ids (n, S) of the world's words with an end token after them, and which are real; cut at ``MAX_TEXT``."""
    tokenizer = world_tokenizer()
    rows = [[*tokenizer.encode(text)[: MAX_TEXT - 1], tokenizer.end_id] for text in texts]
    ids = torch.full((len(rows), max(map(len, rows))), tokenizer.pad_id)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
    return ids.to(device), (ids != tokenizer.pad_id).to(device)


def sounding(audio: Tensor, tokens: int) -> Tensor:
    """bool (B, tokens): False where a token's share of the waveform is zero padding; the first is always real."""
    mask = F.adaptive_max_pool1d((audio != 0).float()[:, None], tokens)[:, 0] > 0
    mask[:, 0] = True
    return mask


class PretrainedTower(nn.Module):
    """A transformers model as an encoder: raw inputs -> tokens (B, S, width) and mask.

    Args:
        path: folder of the model; one with a config.json and no weights is built with random weights.
        modality: of its inputs.
        width: size of a token; the model's own states go through one linear layer.
        frozen: do not train the model's weights.

    Raises:
        TowerError: the path holds no such model.
    """

    def __init__(self, path: str, modality: str, width: int, frozen: bool = False) -> None:
        super().__init__()
        self.modality, self.path, self.frozen = modality, path, frozen
        self.model, self.config = load_model(path, modality)
        self.model.requires_grad_(not frozen)
        self.input = self.model.main_input_name
        if self.input not in INPUTS[modality]:
            wanted = " or ".join(INPUTS[modality])
            raise TowerError(f"{path} reads {self.input}, not {wanted}: give a model of {modality}s")
        self.prepare = load_preparation(path, modality, self.input, self.config)
        with torch.no_grad():
            # Configurations have no common field for the size of the output: run the model once.
            size = self.model.eval()(**self._inputs(blank(modality))[0]).last_hidden_state.shape
        self.out = nn.Linear(size[1] if len(size) == 4 else size[-1], width)

    @property
    def mask_word(self) -> str:
        """The word that hides another in reconstruction."""
        token = getattr(self.prepare, "mask_token", None) or getattr(self.prepare, "unk_token", None)
        return str(token or TextTower.mask_word)

    def train(self, mode: bool = True) -> PretrainedTower:
        super().train(mode)
        if self.frozen:
            self.model.eval()
        return self

    def forward(self, inputs: Any) -> Tokens:
        """Images (B, H, W, 3), waveforms (B, T) or n texts -> tokens."""
        arguments, mask = self._inputs(inputs)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            states = self.model(**arguments).last_hidden_state
        if states.dim() == 4:
            states = states.flatten(2).transpose(1, 2)  # a feature map (B, C, h, w)
        if mask is None and self.modality == "audio":
            read = self.prepare.cut(inputs) if isinstance(self.prepare, LogMel) else inputs
            mask = sounding(read, states.shape[1])
        elif mask is None:
            mask = states.new_ones(states.shape[:2], dtype=torch.bool)
        return Tokens(self.out(states), mask)

    def _inputs(self, inputs: Any) -> tuple[dict[str, Tensor], Tensor | None]:
        """What the model is called with, and the mask of its tokens where that is known before."""
        device = next(self.model.parameters()).device
        if self.modality == "text":
            ids, mask = self._words(inputs)
            return {"input_ids": ids.to(device), "attention_mask": mask.long().to(device)}, mask.to(device)
        return {self.input: self.prepare(inputs).to(device)}, None

    def _words(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        if self.prepare is None:
            return world_ids(texts)
        # An empty text has no token in some tokenizers, and attention needs one.
        rows = self.prepare(
            [t or "." for t in texts], padding=True, truncation=True, max_length=MAX_TEXT, return_tensors="pt"
        )
        return rows["input_ids"], rows["attention_mask"].bool()

    def save_description(self, folder: Path) -> None:
        """What is needed to build this tower again, without its weights."""
        folder.mkdir(parents=True, exist_ok=True)
        self.config.save_pretrained(folder)
        if isinstance(self.prepare, Pixels):
            normalisation = {
                "image_mean": self.prepare.mean.flatten().tolist(),
                "image_std": self.prepare.std.flatten().tolist(),
            }
            (folder / "preprocessor_config.json").write_text(json.dumps(normalisation), encoding="utf-8")
        elif self.modality == "text" and self.prepare is not None:
            self.prepare.save_pretrained(folder)


def blank(modality: str) -> Any:
    """One row of input without content: a full stop, a black picture, or silence."""
    if modality == "text":
        return ["."]
    return torch.zeros(1, 96, 96, 3, dtype=torch.uint8) if modality == "image" else torch.zeros(1, 16_000)


def load_model(path: str, modality: str) -> tuple[Any, Any]:
    """A transformers model (the encoder alone, where it has a decoder too) and its configuration."""
    transformers, folder = installed("transformers"), Path(path)
    if not (folder / "config.json").is_file():
        raise TowerError(
            f"{path!r} is neither {', '.join(NAMED[modality])} nor a folder with a transformers config.json: "
            f"give the folder of a {modality} model"
        )
    config = read_config(folder)
    half = HALVES.get((config.model_type, modality))
    kind: Any = getattr(transformers, half or "AutoModel")
    if any(next(folder.glob(pattern), None) for pattern in WEIGHTS):
        model = read_model(kind, folder, unread="pooler")
    else:
        with refused(folder):
            if half:
                model = kind(config.vision_config if modality == "image" else config.text_config)
            else:
                model = kind.from_config(config, trust_remote_code=False)
    return (model.get_encoder() if config.is_encoder_decoder else model), model.config


def load_preparation(path: str, modality: str, name: str, config: Any) -> Any:
    """What turns raw inputs into a model's: a tokenizer (None for the world's own), or a function of tensors."""
    if modality == "text":
        return load_tokenizer(path, config)
    if modality == "image":
        return Pixels(path, config)
    return LogMel(config) if name == "input_features" else normalised_wave


def load_tokenizer(path: str, config: Any) -> Any:
    """The folder's tokenizer; None stands for the world's words, where the model has an embedding for each."""
    if any((Path(path) / name).is_file() for name in TOKENIZER_FILES):
        tokenizer = read_tokenizer(Path(path))
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
        return tokenizer
    if config.vocab_size < world_tokenizer().vocab_size:
        raise TowerError(
            f"{path} has no tokenizer, and its {config.vocab_size} embeddings are too few for the world's "
            f"{world_tokenizer().vocab_size} words: save the model's tokenizer beside it"
        )
    return None


class Pixels:
    """uint8 (B, H, W, 3) -> float (B, 3, side, side), normalised as the model's preprocessor_config.json says.

    Args:
        path: folder of the model.
        config: its configuration.
    """

    def __init__(self, path: str, config: Any) -> None:
        file = Path(path) / "preprocessor_config.json"
        settings = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        self.mean = torch.tensor(settings.get("image_mean", [0.5] * 3)).view(3, 1, 1)
        self.std = torch.tensor(settings.get("image_std", [0.5] * 3)).view(3, 1, 1)
        # A model without positions reads any size: at 96 pixels a stride of 32 gives a token for each cell.
        side = getattr(config, "image_size", None) or 96
        self.side = int(side[0] if isinstance(side, (list, tuple)) else side)

    def __call__(self, image: Tensor) -> Tensor:
        x = image.permute(0, 3, 1, 2).float() / 255
        x = F.interpolate(x, (self.side, self.side), mode="bilinear", antialias=True)
        return (x - self.mean.to(x.device)) / self.std.to(x.device)


def normalised_wave(audio: Tensor) -> Tensor:
    """Waveforms (B, T) of mean 0 and variance 1, as Wav2Vec2 was trained on."""
    return (audio - audio.mean(1, keepdim=True)) / (audio.var(1, keepdim=True) + 1e-7).sqrt()


class LogMel:
    """Waveforms (B, T) -> log-mel features (B, bands, frames) as Whisper reads them, cut or padded to its frames.

    Args:
        config: of a model with ``num_mel_bins`` and ``max_source_positions``.
    """

    def __init__(self, config: Any) -> None:
        import transformers

        self.samples = 2 * config.max_source_positions * 160
        extractor: Any = transformers.WhisperFeatureExtractor
        self.extract = extractor(feature_size=config.num_mel_bins, chunk_length=-(-self.samples // 16_000))

    def cut(self, audio: Tensor) -> Tensor:
        """Waveforms as long as the model reads, (B, samples)."""
        return F.pad(audio[:, : self.samples], (0, max(0, self.samples - audio.shape[1])))

    def __call__(self, audio: Tensor) -> Tensor:
        waves = list(self.cut(audio).cpu().numpy().astype(np.float32))
        frames: Tensor = self.extract(waves, sampling_rate=16_000, return_tensors="pt")["input_features"]
        return frames[..., : self.samples // 160]


def build_tower(kind: str, modality: str, width: int, frozen: bool = False) -> nn.Module:
    """An encoder by name or by path.

    Raises:
        TowerError: neither a name nor the folder of a model of this modality.
    """
    if kind not in NAMED[modality]:
        return PretrainedTower(kind, modality, width, frozen)
    if modality == "image":
        return ImageTower(kind, width)
    return AudioTower(width) if modality == "audio" else TextTower(width)
