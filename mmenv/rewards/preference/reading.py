"""What a preference model reads: media encoded once a context, prompts, and responses in one spelling."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mmenv.data.sample import Response, Sample, distinct_contexts
from mmenv.models.transformer import Network, Prefix
from mmenv.rewards.base import RewardError
from mmenv.tokenizer import Tokenizer, UnicodeTokenizer, WordTokenizer, normalise

MOST_UNKNOWN = 0.5  # share of unknown words beyond which a warning says that scores mean little
PART = 512  # responses that are read at once


_SENTENCE_ENDS = re.compile(r"[.!?;:\n]+")


def one_spelling(text: str) -> str:
    """A text as models read it: its sentences in the spelling of ``normalise``, full stops between them.

    So case, articles, digits or number words, contractions, hyphens and a last full stop make no difference to a score,
    as they make none to gold.
    """
    return " . ".join(filter(None, map(normalise, _SENTENCE_ENDS.split(text))))


class Reading(NamedTuple):
    """n responses to K contexts, as a network reads them.

    Attributes:
        prefix: the contexts, each of them once; the media tokens may have half precision.
        contexts: int64 (n,), the index of each response's context.
        tokens: int64 (n, T), right-padded.
        mask: float32 (n, T), 1 for tokens, 0 on padding.
    """

    prefix: Prefix
    contexts: Tensor
    tokens: Tensor
    mask: Tensor

    def take(self, rows: Tensor) -> Reading:
        """The responses ``rows`` int64 (m,), cut to their longest, with the contexts that they answer."""
        mask = self.mask[rows]
        longest = int(mask.sum(1).max())
        used, contexts = torch.unique(self.contexts[rows], return_inverse=True)
        return Reading(self.prefix.select(used), contexts, self.tokens[rows, :longest], mask[:, :longest])

    def by_length(self) -> list[Tensor]:
        """Rows of the responses in one part or two: those longer than twice the mean would pad all others."""
        lengths = self.mask.sum(1)
        long = lengths > 2 * lengths.mean()
        return [rows for rows in (torch.nonzero(~long)[:, 0], torch.nonzero(long)[:, 0]) if len(rows)]


def joined(parts: Sequence[Reading], pad_id: int) -> Reading:
    """Readings one after another, padded to the longest prompt and the longest response."""
    firsts = np.cumsum([0, *(len(part.prefix.prompt) for part in parts)]).tolist()
    longest = max(part.tokens.shape[1] for part in parts)
    gaps = [(0, longest - part.tokens.shape[1]) for part in parts]
    return Reading(
        parts[0].prefix.join([part.prefix for part in parts[1:]], pad_id),
        torch.cat([part.contexts + first for part, first in zip(parts, firsts, strict=False)]),
        torch.cat([F.pad(part.tokens, gap, value=pad_id) for part, gap in zip(parts, gaps, strict=True)]),
        torch.cat([F.pad(part.mask, gap) for part, gap in zip(parts, gaps, strict=True)]),
    )


class Reader:
    """Turns samples and responses into what a network reads; warns once of what it does not know or cuts off.

    Responses are read in ``one_spelling``, prompts as they are.

    Args:
        network: encodes the media; its sizes bound texts and sounds.
        tokenizer: the network's; responses are read as text, so a policy may use another.
        name: of the model, for warnings.
    """

    def __init__(self, network: Network, tokenizer: Tokenizer, name: str) -> None:
        self.network, self.tokenizer, self.name = network, tokenizer, name
        self._unchecked_calls = 16  # calls whose words are still checked against the vocabulary
        self._warned_cuts = set[str]()  # kinds of inputs whose truncation was warned of

    @property
    def longest(self) -> int:
        """Tokens of a response that the network reads, its end included; what follows is cut."""
        return self.network.config.max_response - 1

    def tokens_of(self, response: Response) -> tuple[int, ...]:
        """The tokens of a response as the model reads them: unknown words are alike, and the end may be cut."""
        return tuple(self._encode(response)[: self.longest])

    def _encode(self, response: Response) -> list[int]:
        # The end of a response is a token like others; a response cut off by its budget has none.
        end = [self.tokenizer.end_id] if response.stop == "eos" else []
        return [*self.tokenizer.encode(one_spelling(response.text)), *end]

    @torch.no_grad()
    def read(self, samples: Sequence[Sample], responses: Sequence[Response]) -> Reading:
        """n samples and a response to each.

        Raises:
            RewardError: the samples differ in their media.
        """
        tokens, mask = self._tokenize(responses)
        self._warn_of_unknown_words(samples, responses)
        firsts, contexts = distinct_contexts(samples)
        prefix = self._prefix([samples[i] for i in firsts])
        return Reading(prefix, torch.from_numpy(contexts), tokens, mask)

    def read_many(self, samples: Sequence[Sample], responses: Sequence[Response]) -> Reading:
        """As ``read``, for training: in parts of neighbours, with media in half precision.

        A context with 36 image tokens of 128 numbers takes 9 kB, 30,000 of them 276 MB. Equal contexts are read once
        where they are in the same part.
        """
        parts = []
        for i in range(0, len(samples), PART):
            part = self.read(samples[i : i + PART], responses[i : i + PART])
            parts.append(part._replace(prefix=part.prefix._replace(media=part.prefix.media.half())))
        return joined(parts, self.network.config.pad_id)

    def _tokenize(self, responses: Sequence[Response]) -> tuple[Tensor, Tensor]:
        """Tokens (n, T) of the responses' text, cut at the network's longest, and which are real (n, T)."""
        rows = [self._encode(r) or [self.network.config.pad_id] for r in responses]
        # An end token that is cut off alone changes no text.
        texts = [len(row) - (r.stop == "eos") for row, r in zip(rows, responses, strict=True)]
        self._warn_of_cuts("responses", texts, self.longest)
        rows = [row[: self.longest] for row in rows]
        tokens = torch.full((len(rows), max(map(len, rows))), self.network.config.pad_id)
        mask = torch.zeros(tokens.shape)
        for i, row in enumerate(rows):
            tokens[i, : len(row)] = torch.tensor(row)
            mask[i, : len(row)] = 1.0
        return tokens, mask

    def _prefix(self, samples: Sequence[Sample]) -> Prefix:
        """The contexts of samples, whose media must be of one kind."""
        kinds = {(s.image is None or s.image.shape, s.audio is None): s.id for s in samples}
        if len(kinds) > 1:
            one, other = list(kinds.values())[:2]
            raise RewardError(
                f"samples {one!r} and {other!r} differ in their media (an image or a sound that one lacks, or "
                "the size of the image): score samples of one kind in a call"
            )
        observations = {"prompt": self._prompts(samples)}
        if samples[0].image is not None:
            observations["image"] = torch.from_numpy(np.stack([s.image for s in samples if s.image is not None]))
        if samples[0].audio is not None:
            observations["audio"] = self._sounds([s.audio for s in samples if s.audio is not None])
        return self.network.encode(observations)

    def _prompts(self, samples: Sequence[Sample]) -> Tensor:
        """Prompts as int64 (K, P), padded."""
        most = self.network.config.max_prompt
        rows = [self.tokenizer.encode(s.prompt) for s in samples]
        self._warn_of_cuts("prompts", [len(row) for row in rows], most)
        rows = [row[:most] for row in rows]
        prompts = torch.full((len(rows), max(1, *map(len, rows), 1)), self.network.config.pad_id)
        for i, row in enumerate(rows):
            prompts[i, : len(row)] = torch.tensor(row, dtype=torch.long)
        return prompts

    def _sounds(self, waves: Sequence[np.ndarray]) -> Tensor:
        """Sounds as float32 (K, the network's longest), padded with silence."""
        audio = np.zeros((len(waves), self.network.config.max_audio_tokens * 1600), np.float32)
        self._warn_of_cuts("sounds", [len(w) for w in waves], audio.shape[1], "values")
        for i, wave in enumerate(waves):
            audio[i, : len(wave)] = wave[: audio.shape[1]]
        return torch.from_numpy(audio)

    def _warn_of_unknown_words(self, samples: Sequence[Sample], responses: Sequence[Response]) -> None:
        """Warn once if most words are unknown, and so the same token to this model."""
        if not self._unchecked_calls:
            return
        self._unchecked_calls -= 1
        for texts in ({s.prompt for s in samples}, {one_spelling(r.text) for r in responses}):
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
