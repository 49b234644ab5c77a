"""Representation: encoders f_m, fusion g and projection h into a shared space, as one network."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from mmenv.models.blocks import Block
from mmenv.models.checkpoints import WeightsError, metadata_object, read_tensors
from mmenv.models.representation.config import AlignConfig
from mmenv.models.representation.contrast import late_interaction
from mmenv.models.representation.fusion import Pool, Tokens, build_fusion, run_blocks
from mmenv.models.representation.pairings import Examples
from mmenv.models.representation.reconstruction import Reconstruction
from mmenv.models.representation.towers import PretrainedTower, build_tower

WEIGHTS = "representation.safetensors"
SHARED = "all"


class Representation(nn.Module):
    """Image, audio and text as tokens, in a shared space, and joined.

    With ``strategy="separate"`` each modality has a transformer, a pooling and a projection of its own; with
    ``"shared"`` all modalities go through the same after their stems, marked with a vector each. A transformers model
    is its own transformer: with ``"separate"`` nothing but a projection follows it.

    Args:
        config: see ``AlignConfig``; its seed gives the first weights.
    """

    def __init__(self, config: AlignConfig) -> None:
        super().__init__()
        self.config = config
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            self._build()

    def _build(self) -> None:
        config, width = self.config, self.config.width
        self.modalities = tuple(config.encoders)
        self.towers = nn.ModuleDict(
            {m: build_tower(kind, m, width, config.frozen) for m, kind in config.encoders.items()}
        )
        keys = [SHARED] if config.strategy == "shared" else self.modalities
        self.trunks = nn.ModuleDict({k: nn.ModuleList(self._blocks(k)) for k in keys})
        self.norms = nn.ModuleDict({k: nn.RMSNorm(width) for k in keys})
        self.pools = nn.ModuleDict({k: Pool(width) for k in keys})
        self.projections = nn.ModuleDict({k: nn.Linear(width, config.dim) for k in keys})
        self.marks = nn.ParameterDict({m: nn.Parameter(0.1 * torch.randn(width)) for m in self.modalities})
        self.fusion = build_fusion(config.fusion, self.modalities, width, config.heads)
        self.fused_norm, self.fused_pool = nn.RMSNorm(width), Pool(width)
        self.match_head = nn.Linear(width, 1)
        self.log_scale, self.bias = nn.Parameter(torch.tensor(3.4)), nn.Parameter(torch.tensor(-6.0))
        self.reconstruction = Reconstruction(self.modalities, width, config.heads)

    def _blocks(self, key: str) -> list[Block]:
        if key != SHARED and isinstance(self.towers[key], PretrainedTower):
            return []
        blocks = [Block(self.config.width, self.config.heads) for _ in range(self.config.layers)]
        for block in blocks:
            # Small, so that the residual stream is almost the stem's token at first, and attention is learned.
            for layer in (block.out, block.down):
                nn.init.normal_(layer.weight, std=0.02)
        return blocks

    @property
    def device(self) -> torch.device:
        """Where the weights are; inputs are brought there."""
        return self.bias.device

    def _key(self, modality: str) -> str:
        return SHARED if self.config.strategy == "shared" else modality

    def encode(self, modality: str, inputs: Tensor | Sequence[str], present: Tensor | None = None) -> Tokens:
        """f_m: inputs of one modality -> tokens (n, S, width), masked in rows without it.

        Args:
            modality: ``"image"``, ``"audio"`` or ``"text"``.
            inputs: uint8 (n, H, W, 3), float32 (n, T) or n texts.
            present: bool (n,), or None where all rows have this modality.

        Raises:
            ValueError: this network has no encoder for the modality.
        """
        if modality not in self.towers:
            raise ValueError(f"no encoder of {modality!r}, only of {self.modalities}: train one with --{modality}")
        if present is not None and not present.all():
            return self._scatter(modality, inputs, present.to(self.device))
        if isinstance(inputs, Tensor):
            inputs = inputs.to(self.device)
        key = self._key(modality)
        tokens: Tokens = self.towers[modality](inputs)
        states, mask = run_blocks(self.trunks[key], Tokens(tokens.states + self.marks[modality], tokens.mask))  # type: ignore[arg-type]
        return Tokens(self.norms[key](states), mask)

    def _scatter(self, modality: str, inputs: Tensor | Sequence[str], has_modality: Tensor) -> Tokens:
        """Encode only the rows that have the modality, bool (n,)."""
        rows = has_modality.nonzero()[:, 0].tolist()
        width = self.config.width
        if not rows:
            return Tokens(self.match_head.weight.new_zeros(len(has_modality), 1, width), has_modality[:, None])
        present = inputs[rows] if isinstance(inputs, Tensor) else [inputs[i] for i in rows]
        states, mask = self.encode(modality, present)
        states = states.new_zeros(len(has_modality), states.shape[1], width).index_put((has_modality,), states)
        return Tokens(states, mask.new_zeros(states.shape[:2]).index_put((has_modality,), mask))

    def encode_all(self, examples: Examples) -> dict[str, Tokens]:
        """Tokens of every modality that the examples have and that this network reads."""
        inputs = examples.inputs()
        return {m: self.encode(m, x, examples.has(m)) for m, x in inputs.items() if m in self.towers}

    def fuse(self, parts: Mapping[str, Tokens]) -> Tokens:
        """g: tokens of one or more modalities -> joined tokens."""
        states, mask = self.fusion(parts)
        return Tokens(self.fused_norm(states), mask)

    def joint(self, parts: Mapping[str, Tokens]) -> Tensor:
        """One vector of all modalities that are present, (n, width)."""
        return self.fused_pool(self.fuse(parts))

    def match(self, parts: Mapping[str, Tokens]) -> Tensor:
        """Logit that the modalities belong to the same scene, (n,)."""
        return self.match_head(self.joint(parts))[:, 0]

    def project(self, modality: str, tokens: Tokens) -> tuple[Tokens, Tensor]:
        """h: unit vectors of the shared space and their weights (n, S); S is 1 if ``interaction="global"``."""
        key = self._key(modality)
        pool = self.pools[key]
        if self.config.interaction == "global":
            present = tokens.mask.any(1, keepdim=True)
            return Tokens(F.normalize(self.projections[key](pool(tokens)), dim=-1)[:, None], present), present.float()
        weights = pool.weights(tokens)  # type: ignore[operator]
        return Tokens(F.normalize(self.projections[key](tokens.states), dim=-1), tokens.mask), weights

    def embed(self, modality: str, tokens: Tokens) -> Tensor:
        """One vector of length 1 a row in the shared space, (n, dim)."""
        units, weights = self.project(modality, tokens)
        return F.normalize((units.states * weights[..., None]).sum(1), dim=-1)

    def similarity(self, modality: str, a: Tokens, other: str, b: Tokens, whole: bool = True) -> Tensor:
        """Similarities (n, m) in the shared space of n rows of one modality and m of another.

        Args:
            modality: of ``a``.
            a: tokens of n rows.
            other: the modality of ``b``.
            b: tokens of m rows.
            whole: False where a row of ``b`` describes only a part of what is in ``a``.
        """
        return late_interaction(*self.project(modality, a), *self.project(other, b), whole=whole)

    @property
    def scale(self) -> Tensor:
        """Inverse temperature of the similarities, at most 100."""
        return self.log_scale.exp().clamp(max=100.0)

    def features(self, parts: Mapping[str, Tokens]) -> Tokens:
        """Input of a head on a frozen representation: joined tokens, and how well each matches the others.

        Returns:
            (n, S, width + 1) and mask; the last number is a token's best cosine among the other modalities' tokens,
            or their similarity where the fusion keeps one token.
        """
        fused = self.fuse(parts)
        units = {m: self.project(m, tokens) for m, tokens in parts.items()}
        if fused.states.shape[1] == sum(tokens.mask.shape[1] for tokens in parts.values()):
            matched = torch.cat([self._best(m, units, tokens) for m, tokens in parts.items()], 1)
        else:
            of_each = [(self._best(m, units, t) * self.pools[self._key(m)].weights(t)).sum(1) for m, t in parts.items()]  # type: ignore[operator]
            matched = torch.stack(of_each, 1).mean(1, keepdim=True)
        return Tokens(torch.cat([fused.states, matched[..., None]], -1), fused.mask)

    def _best(self, modality: str, units: Mapping[str, tuple[Tokens, Tensor]], tokens: Tokens) -> Tensor:
        """Best cosine (n, S) of each token with those of the other modalities, row by row; 0 where there are none."""
        states = units[modality][0].states
        others = [u for m, (u, _) in units.items() if m != modality]
        if not others:
            return states.new_zeros(tokens.mask.shape)
        theirs, mask = (torch.cat(x, 1) for x in zip(*others))
        best = (states @ theirs.transpose(1, 2)).masked_fill(~mask[:, None], -1.0).amax(2)
        return best.expand(tokens.mask.shape) * mask.any(1, keepdim=True)


def save_representation(model: Representation, folder: Path) -> Path:
    """Weights as safetensors; configuration and tokenizer of each transformers model in a folder beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    for modality, tower in model.towers.items():
        if isinstance(tower, PretrainedTower):
            tower.save_description(folder / modality)
    tensors = {k: v.detach().clone().contiguous() for k, v in model.state_dict().items()}
    metadata = {"kind": "representation", "config": json.dumps(dataclasses.asdict(model.config))}
    save_file(tensors, folder / WEIGHTS, metadata)
    return folder / WEIGHTS


def load_representation(folder: str | Path) -> Representation:
    """Load what ``save_representation`` wrote, in eval mode; the pretrained models that it began with are not needed.

    Raises:
        WeightsError: the folder holds no representation, or a broken one.
    """
    path = Path(folder) / WEIGHTS
    if not path.is_file():
        raise WeightsError(f"{folder} holds no {WEIGHTS}: make one with python -m mmenv align --out {folder}")
    tensors, metadata = read_tensors(path)
    if metadata.get("kind") != "representation":
        raise WeightsError(f"{path} holds {metadata.get('kind', 'something else')!r}, not a representation")
    fields = metadata_object(metadata, "config", path)
    width, most = fields.get("width"), sum(tensor.numel() for tensor in tensors.values())
    if not isinstance(width, int) or not 0 < width <= most:
        raise WeightsError(f"{path} has width={width!r} in its configuration, and {most} numbers: copy it again")
    for modality in ("image", "audio", "text"):
        if (Path(folder) / modality).is_dir():
            fields[modality] = str(Path(folder) / modality)
    try:
        model = Representation(AlignConfig(**fields))
        model.load_state_dict(tensors)
    except (RuntimeError, ValueError, TypeError, LookupError, ArithmeticError) as error:
        raise WeightsError(f"{path} does not fit its own configuration: {error}") from error
    return model.eval()
