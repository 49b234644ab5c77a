"""A transformers sequence classifier, or a vision-language model with a scalar head, as a reward function."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from mmenv.data.sample import Response, Sample
from mmenv.models.chat import ChatReader, Turns, check_embedding, last_real
from mmenv.models.checkpoints import WeightsError
from mmenv.models.folders import installed, read_config, read_model, read_processor, refused
from mmenv.rewards.judges.similarity import MODELS, SimilarityReward

HEAD_FILE = "reward_head.safetensors"
BATCH = 32


def load_classifier(folder: str | Path) -> ClassifierReward | VisionLanguageReward | SimilarityReward:
    """A reward from a folder that ``save_pretrained`` wrote; nothing is fetched and no code of the folder is run.

    Where the configuration has a sequence classifier, that is taken (one label); where the folder holds
    ``reward_head.safetensors`` (``weight`` (1, d), ``bias`` (1,) optional), the model's last state is read by it. A
    model like CLIP says how near response and picture are.

    Raises:
        WeightsError: the folder holds neither, or the classifier has several labels.
        ModuleNotFoundError: transformers is missing.
    """
    folder, transformers = Path(folder), installed("transformers")
    config = read_config(folder)
    if (folder / HEAD_FILE).is_file():
        body, reader = read_model(transformers.AutoModel, folder), read_processor(folder)
        return VisionLanguageReward(body, reader, _head(folder, config), folder.name)
    if config.model_type in MODELS:
        return SimilarityReward(read_model(transformers.AutoModel, folder), read_processor(folder), folder.name)
    if type(config) not in transformers.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise WeightsError(
            f"{folder} holds a {config.model_type}, which has no sequence classifier: train a linear layer on its "
            f"last state and write it beside the model with save_head, as {HEAD_FILE}"
        )
    if config.num_labels != 1:
        raise WeightsError(f"{folder} has {config.num_labels} labels: a reward has one, num_labels=1")
    classifier = read_model(transformers.AutoModelForSequenceClassification, folder)
    return ClassifierReward(classifier, read_processor(folder), folder.name)


def save_head(head: nn.Linear, folder: str | Path) -> None:
    """Write a scalar head beside a model that ``save_pretrained`` wrote."""
    tensors = {k: v.detach().contiguous() for k, v in head.state_dict().items()}
    save_file(tensors, Path(folder) / HEAD_FILE, {"kind": "reward head"})


def _head(folder: Path, config: Any) -> nn.Linear:
    with refused(folder / HEAD_FILE):
        tensors = load_file(folder / HEAD_FILE)
    width = config.get_text_config().hidden_size
    shapes = {k: tuple(v.shape) for k, v in tensors.items()}
    if shapes not in ({"weight": (1, width)}, {"weight": (1, width), "bias": (1,)}):
        raise WeightsError(f"{folder / HEAD_FILE} holds {shapes}: the model needs a weight of shape (1, {width})")
    head = nn.Linear(width, 1, bias="bias" in tensors)
    head.load_state_dict(tensors)
    return head


class ClassifierReward:
    """A sequence classifier with one label.

    Prompt and response are a conversation in the reader's chat template; without one they are a pair of texts. A reader
    of text alone scores the words and sees no media; one with a processor for images is given the picture.

    Args:
        model: a ``...ForSequenceClassification`` with ``num_labels=1``.
        reader: its tokenizer or processor.
        name: name of the reward in ``info``.
    """

    def __init__(self, model: Any, reader: Any, name: str = "classifier") -> None:
        self.model = model.eval().requires_grad_(False)
        self.chat, self.name = ChatReader(reader, name), name
        check_embedding(model, self.chat)
        tokenizer, self.text = self.chat.tokenizer, model.config.get_text_config()
        self.longest = min(tokenizer.model_max_length, self.text.to_dict().get("max_position_embeddings", 512))

    @torch.no_grad()
    def __call__(self, samples: Sequence[Sample], responses: Sequence[Response]) -> np.ndarray:
        """The classifier's logits, float32 (n,)."""
        parts = []
        for i in range(0, len(samples), BATCH):
            some, said = samples[i : i + BATCH], responses[i : i + BATCH]
            if self.chat.is_processor or self.chat.reader.chat_template:
                inputs = conversations(self.chat, some, said, self.text.pad_token_id or 0, self.longest)
            else:
                inputs = self._pairs(some, said)
            parts.append(self._logits(inputs))
        return torch.cat(parts).numpy()

    def _pairs(self, samples: Sequence[Sample], responses: Sequence[Response]) -> dict[str, Tensor]:
        """Prompts and responses as the pairs that the tokenizer makes; which of both a token belongs to goes along."""
        literal, names = self.chat.literal, self.chat.tokenizer.model_input_names
        pairs = [literal.encode_cut(self.longest, s.text, r.text) for s, r in zip(samples, responses, strict=True)]
        # Padding stands on the right, whatever the tokenizer's side: positions are counted from the first column.
        rows = {
            "input_ids": _padded([p.ids for p in pairs], self.text.pad_token_id or 0),
            "attention_mask": _padded([[1] * len(p.ids) for p in pairs], 0),
            "token_type_ids": _padded([p.type_ids for p in pairs], 0),
        }
        return {name: x for name, x in rows.items() if name != "token_type_ids" or name in names}

    def _logits(self, inputs: dict[str, Tensor]) -> Tensor:
        """Scores (n,). A decoder takes its last token that does not pad for the last word of a row.

        Where its configuration has no such token, one pads that no row ends with; the tokenizer's may end every turn.
        """
        if (own := self.text.pad_token_id) is None:
            ids, mask = inputs["input_ids"], inputs["attention_mask"].bool()
            ends = set(ids[torch.arange(len(ids)), last_real(mask.long())].tolist())
            self.text.pad_token_id = next(i for i in range(len(ends) + 1) if i not in ends)
            inputs = {**inputs, "input_ids": ids.masked_fill(~mask, self.text.pad_token_id)}
        try:
            return self.model(**inputs).logits[:, 0].float()
        finally:
            self.text.pad_token_id = own


def _padded(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """Rows (n, S), filled up on the right."""
    return pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=value)


class VisionLanguageReward:
    """A scalar head on the state of a model's last token, after image, prompt and response.

    Args:
        model: the body, as ``AutoModel`` loads it.
        reader: its processor, or its tokenizer where it reads text alone.
        head: (d,) -> (1,)
        name: name of the reward in ``info``.
    """

    def __init__(self, model: Any, reader: Any, head: nn.Linear, name: str = "vision-language") -> None:
        self.model, self.head = model.eval().requires_grad_(False), head.eval().requires_grad_(False)
        self.chat, self.name = ChatReader(reader, name), name
        check_embedding(model, self.chat)

    @torch.no_grad()
    def __call__(self, samples: Sequence[Sample], responses: Sequence[Response]) -> np.ndarray:
        """The head's scores, float32 (n,)."""
        parts = []
        for i in range(0, len(samples), BATCH):
            inputs = conversations(self.chat, samples[i : i + BATCH], responses[i : i + BATCH])
            states = self.model(**inputs).last_hidden_state  # (n, T, d)
            last = last_real(inputs["attention_mask"])
            parts.append(self.head(states[torch.arange(len(last)), last].float())[:, 0])
        return torch.cat(parts).numpy()


def written(reader: Any, samples: Sequence[Sample], responses: Sequence[Response]) -> dict[str, Tensor]:
    """What a tokenizer or processor makes of pictures and a conversation of prompt and response."""
    return conversations(ChatReader(reader, type(reader).__name__), samples, responses)


def conversations(
    chat: ChatReader,
    samples: Sequence[Sample],
    responses: Sequence[Response],
    pad_id: int = 0,
    longest: int | None = None,
) -> dict[str, Tensor]:
    """Prompts and responses in the model's chat template, with the pictures and sounds that it reads.

    Raises:
        ValueError: the model reads images or sounds, and a sample has none.
    """
    hears = "audio" in chat.media
    turns = [Turns(s.prompt if hears else s.text, r.text) for s, r in zip(samples, responses, strict=True)]
    return chat.read(turns, **media_of(chat, samples), pad=("right", pad_id), longest=longest)


def media_of(chat: ChatReader, samples: Sequence[Sample]) -> dict[str, Any]:
    """What the model reads of samples beside text: ``images`` and ``audio``, as ``ChatReader.read`` takes them.

    Raises:
        ValueError: a sample has none.
    """
    media = {kind: [getattr(s, kind) for s in samples] for kind in chat.media}
    for kind, each in media.items():
        lacking = [s.id for s, one in zip(samples, each, strict=True) if one is None]
        if lacking:
            raise ValueError(
                f"{lacking[0]!r} has no {kind}, and {type(chat.reader).__name__} reads one: take a text model"
            )
    return {"images" if kind == "image" else kind: each for kind, each in media.items()}
