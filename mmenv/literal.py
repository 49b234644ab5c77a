"""Text as text, for tokenizers of transformers: a marker that a user spells is not the model's marker.

Tokenizers read ``<image>`` or ``<eos>`` as one token wherever it stands. Only a chat template may write such a token;
in what a user or a policy wrote it is a row of letters.
"""

from __future__ import annotations

import functools
import json
import re
import secrets
from collections.abc import Iterable, Mapping
from typing import Any


class LiteralEncoder:
    """Encodes texts without markers, and rendered templates in which the template's own markers alone count.

    Markers are the special tokens, and the added tokens that a template names; an added token that no template names is
    a word like others, and one of spaces is no marker.

    Args:
        tokenizer: a fast tokenizer of transformers; it is not changed.
        named: chat templates and other texts that name markers, beside the tokenizer's own template.

    Raises:
        ValueError: the tokenizer is not a fast one.
    """

    def __init__(self, tokenizer: Any, named: Iterable[str] = ()) -> None:
        if not tokenizer.is_fast:
            raise ValueError(f"{type(tokenizer).__name__} is no fast tokenizer: save one that has a tokenizer.json")
        self.tokenizer = tokenizer
        text = "\0".join([*named, *templates(tokenizer.chat_template)])
        special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
        special |= {tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id} - {None}
        self.markers = {
            token.content: number
            for number, token in tokenizer.added_tokens_decoder.items()
            if number in special or _is_marker(token, tokenizer.unk_token, text)
        }
        self._ids = frozenset(self.markers.values())
        longest_first = sorted(self.markers, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        self._nonce = secrets.token_hex(8)  # no text can hold it by chance, nor on purpose

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, none of them a marker."""
        ids = list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        if self._ids.isdisjoint(ids):
            return ids
        self._renamed.no_truncation()
        return list(self._renamed.encode(text, add_special_tokens=False).ids)

    def spells_marker(self, text: str) -> bool:
        """Whether the tokenizer, or a processor that looks for strings, would take a part of the text for a marker."""
        if self._pattern.search(text):
            return True
        return not self._ids.isdisjoint(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def placeholder(self, number: int) -> str:
        """What stands for a user's text while a template is rendered around it."""
        return f"{self._nonce}t{number}t"

    def encode_rendered(self, text: str, texts: Mapping[str, str], add_special_tokens: bool) -> list[int]:
        """Token ids of a rendered template, encoded whole.

        Args:
            text: what the template made; its markers count.
            texts: placeholder -> the user's text that belongs there, whose markers do not.
            add_special_tokens: whether the tokenizer adds the tokens that its texts begin and end with.
        """
        inside = {place: words for place, words in texts.items() if place in text}
        if not inside:
            return list(self.tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"])
        self._renamed.no_truncation()
        text = self._pattern.sub(lambda match: self._names[match.group()], text)
        for place, words in inside.items():
            text = text.replace(place, words)
        return list(self._renamed.encode(text, add_special_tokens=add_special_tokens).ids)

    def encode_cut(self, longest: int, *texts: str) -> Any:
        """An encoding of a text or of two, with what the tokenizer writes around them, cut to ``longest`` tokens."""
        self._renamed.enable_truncation(longest)
        return self._renamed.encode(*texts)

    @functools.cached_property
    def _names(self) -> dict[str, str]:
        return {marker: f"{self._nonce}m{number}m" for marker, number in self.markers.items()}

    @functools.cached_property
    def _renamed(self) -> Any:
        """The tokenizer with names for its markers that nobody spells; ids stay."""
        from tokenizers import Tokenizer

        state, names = json.loads(self.tokenizer.backend_tokenizer.to_str()), self._names
        state["padding"] = state["truncation"] = None
        for token in state["added_tokens"]:
            if token["content"] in names:
                token.update(content=names[token["content"]], single_word=False)
        _rename_in_model(state["model"], names)
        renamed = Tokenizer.from_str(json.dumps(state))
        renamed.encode_special_tokens = False
        moved = [m for m, name in names.items() if renamed.token_to_id(name) != self.markers[m]]
        if moved:
            name = self.tokenizer.name_or_path
            raise ValueError(f"the tokenizer {name!r} numbers {moved[:3]} otherwise: save it again")
        return renamed


def templates(template: str | Mapping[str, str] | None) -> list[str]:
    """The chat templates of a tokenizer or processor, which has none, one, or several by name."""
    if template is None:
        return []
    return [template] if isinstance(template, str) else list(template.values())


def _is_marker(token: Any, unknown: str | None, named: str) -> bool:
    text = token.content
    return text != unknown and not text.isspace() and bool(token.special or text in named)


def _rename_in_model(model: dict[str, Any], names: Mapping[str, str]) -> None:
    """Rename words of a tokenizer's model, in its JSON, so that no text becomes them."""
    if isinstance(model["vocab"], dict):
        model["vocab"] = {names.get(word, word): number for word, number in model["vocab"].items()}
    else:  # pieces with their scores
        model["vocab"] = [[names.get(piece, piece), score] for piece, score in model["vocab"]]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    if "merges" in model:
        pairs = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]
        model["merges"] = [list(p) for p in pairs if names.keys().isdisjoint((*p, "".join(p)))]
