"""Conversations as inputs of a transformers model: the rendered chat template, encoded, with pictures and sound."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from mmenv.data.media import RATE
from mmenv.literal import LiteralEncoder, templates
from mmenv.models.checkpoints import WeightsError
from mmenv.models.folders import installed, refused

PARTS = {"image": "image_processor", "audio": "feature_extractor"}
QUESTION, ANSWER = "what7question7text", "what7answer7text"  # stand for texts while a template is looked at


class Turns(NamedTuple):
    """A conversation: what the user says and, where there is one, what the model answered."""

    question: str
    answer: str | None = None


class ChatReader:
    """A tokenizer or processor of transformers that reads conversations; it is not changed.

    The chat template is used where there is one; else the media's tokens, the question and the answer stand in lines.
    What a user or a policy wrote is text: markers that it spells are none.

    Args:
        reader: a tokenizer, or a processor with a tokenizer.
        name: of the model, for messages.

    Attributes:
        media: ``"image"``, ``"audio"``: what the processor reads beside text.
        tokenizer: the reader's.
        place_ids: tokens that a processor's texts hold in places of media.
        lead: what the template writes between a question and where the answer is asked for.
        gap: spaces that it writes between that place and an answer, as in ``[/INST] yes``.
        turn_end: the token that the template writes after an answer; None where it writes none.

    Raises:
        WeightsError: the template leaves out the user's message or cannot be rendered, or the tokenizer is not a fast
            one.
    """

    def __init__(self, reader: Any, name: str) -> None:
        # A processor names its parts; a tokenizer has none.
        parts = reader.get_attributes() if isinstance(reader, installed("transformers").ProcessorMixin) else []
        self.reader, self.name, self.is_processor = reader, name, bool(parts)
        self.media = [kind for kind, part in PARTS.items() if part in parts]
        self.tokenizer = reader.tokenizer if parts else reader
        # What processors look for in a text: image_token, video_token, boi_token, ...
        attributes = {**vars(type(reader)), **vars(reader)} if parts else {}
        self._places = [v for k, v in attributes.items() if k.endswith("_token") and isinstance(v, str) and v]
        try:
            self.literal = LiteralEncoder(self.tokenizer, [*templates(reader.chat_template), *self._places])
        except ValueError as error:
            raise WeightsError(f"{name}: {error}") from error
        numbers = self.tokenizer.get_vocab()
        self.place_ids = frozenset(numbers[p] for p in self._places if p in numbers)
        self._in_parts = bool(self.media) and self._takes_parts()
        rendered = self._render(Turns(QUESTION), True)
        if QUESTION not in rendered:
            raise WeightsError(f"the chat template of {name} leaves out the user's message: correct it")
        self.lead = rendered.rpartition(QUESTION)[2]
        self.gap, self.turn_end = self._around_answer(rendered)

    def read(
        self,
        conversations: Sequence[Turns],
        images: Sequence[Any] | None = None,
        audio: Sequence[Any] | None = None,
        asks: bool = False,
        pad: tuple[Literal["left", "right"], int] = ("right", 0),
        longest: int | None = None,
    ) -> dict[str, Tensor]:
        """Inputs of the model for n conversations.

        Args:
            conversations: n of them.
            images: one of each question, where the model reads images.
            audio: one of each question at 16 kHz, where the model reads sound.
            asks: whether the template goes on to where the model's answer begins.
            pad: the side that is padded, and the token there.
            longest: most tokens; what is behind them is cut off. Models with media cannot be cut.

        Returns:
            ``input_ids`` and ``attention_mask`` (n, S), and what the processor makes of the media.
        """
        texts: dict[str, str] = {}
        rendered = [self._render(self._covered(turns, texts), asks) for turns in conversations]
        tokenizer = _PaddingTokenizer(self.literal, texts, pad, longest, self._added_end() if asks else 0)
        more: dict[str, Any] = {} if self._adds_special_tokens(rendered[0]) else {"add_special_tokens": False}
        if not self.is_processor:
            return dict(tokenizer(rendered, return_tensors="pt", **more))
        processor = copy.copy(self.reader)
        processor.tokenizer = tokenizer
        if images is not None:
            more["images"] = [[image] for image in images]
        if audio is not None:
            more |= {"audio": list(audio), "sampling_rate": RATE}
        return dict(processor(text=rendered, padding=True, return_tensors="pt", **more))

    def _place(self, kind: str) -> str:
        """The token that stands for a picture or sound in a text."""
        token = getattr(self.reader, f"{kind}_token", None)
        if token is None:
            raise WeightsError(
                f"{self.name} has no chat template, and its processor no {kind}_token: give it a template"
            )
        return str(token)

    def _takes_parts(self) -> bool:
        """Whether the template of a processor reads messages in parts; else it would print them as Python does."""
        try:
            return "'type'" not in self._render(Turns(QUESTION), True, in_parts=True)
        except WeightsError:
            return False

    def _around_answer(self, question: str) -> tuple[str, int | None]:
        """Spaces before an answer, and the first token behind it, where it is an added token.

        Args:
            question: the rendered template of a question alone, with the generation prompt.
        """
        if not self.reader.chat_template:
            return "", None
        try:
            answered = self._render(Turns(QUESTION, ANSWER), False)
        except WeightsError:  # a template of questions alone
            return "", None
        before, answer, after = answered.rpartition(ANSWER)
        gap = before.removeprefix(question) if answer and before.startswith(question) else ""
        ids = self.literal.encode_rendered(after.lstrip() if answer else "", {}, add_special_tokens=False)
        turn_end = ids[0] if ids and ids[0] in self.tokenizer.added_tokens_decoder else None
        return gap if gap.isspace() else "", turn_end

    def _covered(self, turns: Turns, texts: dict[str, str]) -> Turns:
        """A conversation in which texts that spell markers are behind placeholders, which are noted in ``texts``."""
        covered: list[Any] = []
        for text in turns:
            if text is not None and (any(p in text for p in self._places) or self.literal.spells_marker(text)):
                place = self.literal.placeholder(len(texts))
                texts[place] = text
                text = place
            covered.append(text)
        return Turns(*covered)

    def _render(self, turns: Turns, asks: bool, in_parts: bool | None = None) -> str:
        """The conversation as the template writes it; media come before the question."""
        messages = [t for t in turns if t is not None]
        if not self.reader.chat_template:
            return "\n".join([*(self._place(kind) for kind in self.media), *messages, *([""] if asks else [])])
        in_parts = self._in_parts if in_parts is None else in_parts
        contents: list[Any] = list(messages)
        if in_parts:
            contents = [[{"type": "text", "text": text}] for text in messages]
            contents[0] = [*({"type": kind} for kind in self.media), *contents[0]]
        elif self.media:
            contents[0] = "\n".join([*(self._place(kind) for kind in self.media), messages[0]])
        chat = [{"role": role, "content": c} for role, c in zip(("user", "assistant"), contents, strict=False)]
        with refused(f"the chat template of {self.name}"):
            return str(self.reader.apply_chat_template(chat, tokenize=False, add_generation_prompt=asks))

    def _added_end(self) -> int:
        """Tokens that the tokenizer adds behind a text, an end token for example; no answer follows those."""
        ids, place = self.literal.encode_rendered("a", {}, True), self.literal.encode_rendered("a", {}, False)
        starts = next((i for i in range(len(ids)) if ids[i : i + len(place)] == place), len(ids))
        return max(0, len(ids) - starts - len(place))

    def _adds_special_tokens(self, rendered: str) -> bool:
        """Whether the tokenizer writes the token that texts begin with: once, as ``apply_chat_template`` has it."""
        if not self.reader.chat_template:
            return True
        begins = self.tokenizer.bos_token
        return self.is_processor and not (begins and rendered.startswith(begins))


class _PaddingTokenizer:
    """The tokenizer that a processor calls: fills in users' texts, encodes the template, pads with any token."""

    def __init__(
        self,
        literal: LiteralEncoder,
        texts: Mapping[str, str],
        pad: tuple[Literal["left", "right"], int],
        longest: int | None,
        added_end: int = 0,
    ) -> None:
        self._literal, self._texts, self._longest, self._added_end = literal, texts, longest, added_end
        self._side, self._pad_id = pad

    def __getattr__(self, name: str) -> Any:
        return getattr(self._literal.tokenizer, name)

    def __call__(
        self, text: str | Sequence[str], return_tensors: str | None = None, add_special_tokens: bool = True, **_: Any
    ) -> Any:
        """Texts, in which the processor has made room for media -> ``input_ids`` and ``attention_mask``."""
        texts = [text] if isinstance(text, str) else text
        rows = [self._literal.encode_rendered(t, self._texts, add_special_tokens) for t in texts]
        if add_special_tokens and self._added_end:  # an answer follows: nothing has ended
            rows = [row[: -self._added_end] for row in rows]
        rows = [row[: self._longest] for row in rows]
        wide = max(map(len, rows))
        ids, mask = [], []
        for row in rows:
            gap = wide - len(row)
            before, after = (gap, 0) if self._side == "left" else (0, gap)
            ids.append([self._pad_id] * before + row + [self._pad_id] * after)
            mask.append([0] * before + [1] * len(row) + [0] * after)
        encoded = installed("transformers").BatchEncoding({"input_ids": ids, "attention_mask": mask})
        return encoded if return_tensors is None else encoded.convert_to_tensors(return_tensors)


def last_real(mask: Tensor) -> Tensor:
    """Where the last token of each row is, int64 (n,), whatever side is padded: mask (n, S)."""
    return (mask * torch.arange(1, mask.shape[1] + 1, device=mask.device)).argmax(1)


def check_embedding(model: Any, chat: ChatReader) -> None:
    """Refuse a tokenizer with more tokens than the model embeds: an added one would be read as nothing, or crash.

    Raises:
        WeightsError: it has more.
    """
    embedded, tokens = model.get_input_embeddings().weight.shape[0], 1 + max(chat.tokenizer.get_vocab().values())
    if tokens > embedded:
        raise WeightsError(
            f"{chat.name} embeds {embedded} tokens and its tokenizer has {tokens}: call "
            f"model.resize_token_embeddings({tokens}), train what is new, and save both again"
        )
