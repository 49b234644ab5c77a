"""The decoder: media and prompt as a prefix, a response after it, a KV cache with a length for every row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmenv.models.blocks import Block, Turn
from mmenv.models.cache import Cache
from mmenv.models.encoders import AudioEncoder, ImageEncoder
from mmenv.models.grounding import Grounding

PLACE_WAVES = 4  # of the code of a place along an axis; the first one is half a wave over the picture
PLACE_GAIN = 1.8  # by which the place that a token tells is made louder
PREFIX_SCALE = 2.2  # of tokens in the residual stream, against what the blocks add to it


@dataclass(frozen=True)
class NetworkConfig:
    """Shape of a ``Network``; plain numbers, so that it goes to JSON.

    Attributes:
        kind: what a file of these weights holds, in its metadata.
        vocab_size: number of tokens.
        pad_id: token that pads prompts and responses.
        modalities: media that the network can read.
        width: size of a token's state.
        layers: number of transformer blocks.
        heads: attention heads.
        max_prompt: longest prompt in tokens.
        max_response: longest response in tokens.
        max_audio_tokens: longest utterance in tenths of a second.
        image_side: pixels a side that the image encoder reads.
        image_grid: image tokens a side that the encoder makes.
        image_tokens: how many of them the decoder reads at most: those least like ``Network.nothing``.
    """

    kind: ClassVar[str] = "network"

    vocab_size: int
    pad_id: int = 0
    modalities: tuple[str, ...] = ("image", "audio")
    width: int = 128
    layers: int = 4
    heads: int = 4
    max_prompt: int = 48
    max_response: int = 96
    max_audio_tokens: int = 50
    image_side: int = 96
    image_grid: int = 6
    image_tokens: int = 36


class Prefix(NamedTuple):
    """The context of a response, encoded once: media tokens (B, M, width) and the prompt (B, P), right-padded."""

    media: Tensor
    prompt: Tensor

    def select(self, index: Tensor) -> Prefix:
        """The contexts ``index`` (n,), with the prompt as wide as before."""
        return Prefix(self.media[index], self.prompt[index])

    def join(self, others: Sequence[Prefix], pad_id: int) -> Prefix:
        """These contexts followed by those of ``others``, prompts padded to the longest."""
        every = (self, *others)
        wide = max(p.prompt.shape[1] for p in every)
        prompts = [F.pad(p.prompt, (0, wide - p.prompt.shape[1]), value=pad_id) for p in every]
        return Prefix(torch.cat([p.media for p in every]), torch.cat(prompts))

    def with_media(self, other: Prefix) -> Prefix:
        """These prompts with the media tokens of ``other``."""
        return self._replace(media=other.media)


class Network(nn.Module):
    """A multimodal decoder with a language head tied to the word embeddings, and a value head.

    A sequence is ``[image tokens][audio tokens][prompt][start][response]``. The prefix attends to all of itself, the
    response causally. Positions count within each segment, so padding never shifts them.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        d = config.width
        self.encoders = nn.ModuleDict()
        if "image" in config.modalities:
            self.encoders["image"] = ImageEncoder(d, config.image_side, config.image_grid)
        if "audio" in config.modalities:
            self.encoders["audio"] = AudioEncoder(d)
        self.embed = nn.Embedding(config.vocab_size, d)
        sizes = {"image": config.image_grid**2, "audio": config.max_audio_tokens}
        self.media_position = nn.ParameterDict({m: nn.Parameter(torch.zeros(sizes[m], d)) for m in self.encoders})
        self.register_buffer("nothing", torch.zeros(d))  # what an image token that holds nothing is near to
        # Directions in which an image token tells its place, x and y: a sine of each wave, then the cosines.
        self.register_buffer("place_basis", torch.zeros(2, 2, PLACE_WAVES, d))
        self.prompt_position = nn.Parameter(torch.zeros(config.max_prompt, d))
        self.response_position = nn.Parameter(torch.zeros(config.max_response, d))
        self.start_token = nn.Parameter(torch.zeros(d))
        self.grounding = Grounding(d)
        self.blocks = nn.ModuleList(Block(d, config.heads) for _ in range(config.layers))
        self.norm = nn.RMSNorm(d)
        self.value_head = nn.Linear(d, 1)
        self.nothing: Tensor
        self.place_basis: Tensor
        self._initialise()

    def _initialise(self) -> None:
        d = self.config.width
        nn.init.normal_(self.embed.weight, std=d**-0.5)
        for position in (self.prompt_position, self.response_position, *self.media_position.values()):
            nn.init.normal_(position, std=0.4 * d**-0.5)  # smaller than words, which carry the content
        nn.init.normal_(self.start_token, std=d**-0.5)
        for block in self.layers:
            nn.init.normal_(block.up.weight, std=0.03)
            nn.init.normal_(block.down.weight, std=0.03 / (2 * self.config.layers) ** 0.5)
            nn.init.normal_(block.qkv.weight, std=0.06)
            # Half of the heads begin with keys equal to their queries: a word attends to the token that it names.
            block.qkv.weight.data[d : d + d // 2] = block.qkv.weight.data[: d // 2]
            # Values come out as they went in: attention begins as copying, which answers with a word of the image.
            turn = torch.linalg.qr(torch.randn(d, d))[0]
            block.qkv.weight.data[2 * d :] = 0.2 * turn
            block.out.weight.data = 0.1 * turn.T.contiguous()
        # A critic that starts at zero leaves the first advantages to the rewards.
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)

    @property
    def forbidden_token_ids(self) -> tuple[int, ...]:
        """Tokens that a policy never samples."""
        return (self.config.pad_id,)

    def trained_state(self) -> dict[str, Tensor]:
        """All weights by name: a checkpoint of them needs no other file."""
        return self.state_dict()

    def load_trained_state(self, state: Mapping[str, Tensor]) -> None:
        """Put a ``trained_state`` back.

        Raises:
            RuntimeError: it is of a network of another shape.
        """
        self.load_state_dict(state)

    def frozen(self) -> Network:
        """A copy with its weights frozen; training this network does not change it."""
        network = Network(self.config)
        network.load_state_dict(self.state_dict())
        return network.requires_grad_(False)

    @property
    def layers(self) -> list[Block]:
        """The blocks, in order."""
        return cast(list[Block], self.blocks)

    def encoder_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters behind ``Prefix.media``, which reinforcement learning leaves frozen by default."""
        yield from self.encoders.parameters()
        yield from self.media_position.parameters()

    def encode(self, observations: Mapping[str, Tensor]) -> Prefix:
        """Observations of a batch -> its contexts, the prompt trimmed to the longest.

        Args:
            observations: image uint8 (B, H, W, 3), audio float32 (B, T), prompt int64 (B, P); media that the network
                cannot read are an error.
        """
        if "image" in self.encoders and "image" not in observations:
            raise ValueError(
                "this network reads a picture first: give an image, or take a network without that modality"
            )
        prompt = observations["prompt"]
        longest = int((prompt != self.config.pad_id).sum(1).max()) if prompt.numel() else 0
        media = [self.placed(m, self.read(m, observations[m])) for m in ("image", "audio") if m in observations]
        if not media:
            media = [self.embed.weight.new_zeros(prompt.shape[0], 0, self.config.width)]
        return Prefix(torch.cat(media, 1), prompt[:, :longest])

    def read(self, modality: str, x: Tensor) -> Tensor:
        """Tokens of an image or a sound without their positions, (B, M, width), each as long as a word embedding."""
        if modality not in self.encoders:
            raise ValueError(f"this network reads {self.config.modalities}, not {modality!r}: take one that does")
        return F.normalize(self.encoders[modality](x), dim=-1)

    def placed(self, modality: str, tokens: Tensor) -> Tensor:
        """Tokens of ``read`` with their positions, those that hold something, as ``Prefix.media`` has them."""
        placed = tokens + self.media_position[modality][: tokens.shape[1]]
        if modality != "image":
            return placed
        basis = self.place_basis.flatten(0, 2)
        placed = placed + PLACE_GAIN * tokens @ basis.T @ basis
        if self._image_tokens == tokens.shape[1]:
            return placed
        telling = (tokens @ -self.nothing).topk(self._image_tokens, dim=1).indices  # (B, kept)
        return placed.gather(1, telling[..., None].expand(-1, -1, placed.shape[2]))

    def _prefix_states(self, prefix: Prefix) -> tuple[Tensor, Tensor, Turn]:
        """States (B, M + P, width) before the first block, which of them are real (B, M + P), and their positions."""
        media, prompt = prefix
        words = self.embed(prompt)
        real = torch.cat([prompt.new_ones(media.shape[:2], dtype=torch.bool), prompt != self.config.pad_id], 1)
        x = torch.cat([media, words], 1)
        image, others = x[:, : self._image_tokens], x[:, self._image_tokens :]  # a spoken word is a word, too
        match = self.grounding.match(others, image) * real[:, self._image_tokens :, None]
        ground = torch.cat([self.grounding.of_image(match), PREFIX_SCALE * self.grounding.of_words(match, image)], 1)
        words = words + self.prompt_position[: prompt.shape[1]]
        states = PREFIX_SCALE * torch.cat([media, words], 1) + ground
        return states, real, self._turn(self._prefix_positions(media, prompt))

    @property
    def _image_tokens(self) -> int:
        """Number of image tokens at the beginning of a context."""
        grid = self.config.image_grid**2 if "image" in self.encoders else 0
        return min(grid, self.config.image_tokens)

    def start(self, prefix: Prefix, budget: int, written: Tensor | None = None) -> tuple[Tensor, Cache]:
        """Read the contexts; ``budget`` response tokens will fit.

        Args:
            prefix: B contexts.
            budget: longest response in tokens.
            written: int64 (B, T) right-padded, T < budget, what the responses hold already; None: nothing.

        Returns:
            hidden (B, width) that predicts the next token, and the cache.
        """
        x, real, turn = self._prefix_states(prefix)
        if written is None:
            written = prefix.prompt.new_zeros(len(x), 0)
        image = prefix.media[:, : self._image_tokens]
        states, covered = self._response_states(written, image)
        keys: list[Tensor] = []
        values: list[Tensor] = []
        y = self._read_and_write(x, real, turn, states, None, (keys, values))
        for tensors in (keys, values):
            for i, z in enumerate(tensors):
                tensors[i] = F.pad(z, (0, 0, 0, budget - y.shape[1]))
        lengths = (written != self.config.pad_id).sum(1)  # positions after the end of a shorter one are masked
        rows = torch.arange(len(x), device=x.device)
        cache = Cache(keys, values, real, lengths, image, covered[rows, lengths])
        return self.norm(y[rows, lengths]), cache

    def _response_states(self, written: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        """States before the first block: the start token, then ``written`` (B, T), grounded in ``image`` (B, N, width).

        Returns:
            (B, T + 1, width), and how far the words before and at each position name each image token, (B, T + 1, N).
        """
        words = self.embed(written)
        match = self.grounding.match(words, image)
        covered = F.pad(self.grounding.cover(words, match).cumsum(1), (0, 0, 1, 0))
        grounded = words + self.grounding.of_words(match, image)
        x = torch.cat([self.start_token.expand(len(written), 1, -1), grounded], 1)
        return x + self.response_position[: written.shape[1] + 1] + self.grounding.unsaid(covered, image), covered

    def step(self, tokens: Tensor, cache: Cache) -> Tensor:
        """Write ``tokens`` (B,) into the cache; hidden (B, width) predicts the next ones."""
        cache.lengths += 1
        lengths = cache.lengths.clamp(max=cache.keys[0].shape[2] - cache.prefix - 1)  # rows that ended stay in place
        rows = torch.arange(len(tokens), device=tokens.device)
        at = cache.prefix + lengths
        longest = cache.prefix + int(lengths.max()) + 1
        seen = torch.arange(cache.prefix, longest, device=tokens.device) <= at[:, None]  # (B, response so far)
        mask = torch.cat([cache.valid, seen], 1)[:, None, None]
        words = self.embed(tokens)[:, None]  # (B, 1, width)
        match = self.grounding.match(words, cache.image)
        cache.covered = cache.covered + self.grounding.cover(words, match)[:, 0]
        x = words + self.grounding.of_words(match, cache.image) + self.response_position[lengths][:, None]
        x = x + self.grounding.unsaid(cache.covered[:, None], cache.image)
        turn = self._turn(_in_text(lengths[:, None]))
        for block, keys, values in zip(self.layers, cache.keys, cache.values, strict=True):
            q, k, v = block.project(x, turn)
            keys[rows, :, at], values[rows, :, at] = k[:, :, 0], v[:, :, 0]
            x = block.attend(x, q, keys[:, :, :longest], values[:, :, :longest], mask)
        return self.norm(x[:, 0])

    def forward(self, prefix: Prefix, responses: Tensor, contexts: Tensor | None = None) -> Tensor:
        """Whole sequences at once: hidden[:, t] predicts responses[:, t].

        Args:
            prefix: K contexts.
            responses: int64 (B, T)
            contexts: int64 (B,), which of the K contexts each response belongs to; None: response i to context i.
                A context with several responses is read once.

        Returns:
            hidden (B, T, width)
        """
        x, real, turn = self._prefix_states(prefix)
        image = prefix.media[:, : self._image_tokens]
        states, _ = self._response_states(responses[:, :-1], image if contexts is None else image[contexts])
        return self.norm(self._read_and_write(x, real, turn, states, contexts))

    def _read_and_write(
        self,
        x: Tensor,
        real: Tensor,
        turn: Turn,
        y: Tensor,
        contexts: Tensor | None,
        cache: tuple[list[Tensor], list[Tensor]] | None = None,
    ) -> Tensor:
        """The blocks: prefixes ``x`` (K, S, width) see themselves, responses ``y`` (B, T, width) both.

        Args:
            x: states of the prefixes.
            real: (K, S), False on padding.
            turn: positions of the prefixes.
            y: states of the responses.
            contexts: (B,) as in ``forward``.
            cache: lists that take the keys and the values of each layer, (B, heads, S + T, width / heads).

        Returns:
            the responses' states after the last block, (B, T, width)
        """
        among_prefix = real[:, None, None]
        mask = self._response_mask(real if contexts is None else real[contexts], y.shape[1])
        own_turn = self._turn(_in_text(torch.arange(y.shape[1], device=y.device)[None]))
        for i, block in enumerate(self.layers):
            q, k, v = block.project(x, turn)
            # The prefix's output of the last layer is not used.
            x = block.attend(x, q, k, v, among_prefix) if i + 1 < len(self.layers) else x
            if contexts is not None:
                k, v = k.index_select(0, contexts), v.index_select(0, contexts)
            q, own_k, own_v = block.project(y, own_turn)
            k, v = torch.cat([k, own_k], 2), torch.cat([v, own_v], 2)
            y = block.attend(y, q, k, v, mask)
            if cache is not None:
                cache[0].append(k)
                cache[1].append(v)
        return y

    def _turn(self, positions: Tensor) -> Turn:
        return Turn.to(positions, self.config.width // self.config.heads // 2)

    def _prefix_positions(self, media: Tensor, prompt: Tensor) -> Tensor:
        """Positions (B, M + P, 3): a prompt's words count down to the response, which begins at 0.

        The tokens of a sound count up from 0; those of an image are where they say that they are.
        """
        heard = torch.arange(media.shape[1] - self._image_tokens, device=prompt.device).expand(len(prompt), -1)
        lengths = (prompt != self.config.pad_id).sum(1, keepdim=True)
        words = torch.arange(prompt.shape[1], device=prompt.device) - lengths  # (B, P)
        seen = F.pad(self._places(media[:, : self._image_tokens]), (1, 0))
        return torch.cat([seen, _in_text(heard), _in_text(words)], 1)

    @torch.no_grad()
    def _places(self, image: Tensor) -> Tensor:
        """Where image tokens (B, N, width) say that they are, in cells of the grid: x and y, (B, N, 2)."""
        sine, cosine = torch.einsum("bnd,asd->sbna", image.float(), self.place_basis[:, :, 0])
        return torch.atan2(sine, cosine) * (self.config.image_grid / torch.pi)

    @staticmethod
    def _response_mask(real: Tensor, t: int) -> Tensor:
        """(B, 1, T, S + T) bool, True where a response may look: the real prefix (B, S), and what came before."""
        b, s = real.shape
        causal = torch.ones(t, t, dtype=torch.bool, device=real.device).tril()
        return torch.cat([real[:, None].expand(b, t, s), causal.expand(b, t, t)], 2)[:, None]

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., width) -> (..., vocab_size)."""
        return F.linear(hidden, self.embed.weight)

    def value(self, hidden: Tensor) -> Tensor:
        """(..., width) -> (...)."""
        return self.value_head(hidden)[..., 0]


def _in_text(places: Tensor) -> Tensor:
    """Positions of ``places`` (B, S) in a text, (B, S, 3): they are nowhere in the image."""
    return F.pad(places[..., None].float(), (0, 2))
