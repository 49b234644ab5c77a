"""A transformers sequence classifier, or a vision-language model with a scalar head, as a reward function."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from mmenv.data.sample import Response, Sample
from mmenv.models.chat import ChatReader, Turns, check_embedding, last_real
from mmenv.models.checkpoints import WeightsError
from mmenv.models.folders import installed, read_config, read_model, read_processor, refused
from mmenv.rewards.judges.model_reward import ModelReward
from mmenv.rewards.judges.similarity import MODELS, SimilarityReward

HEAD_FILE = "reward_head.safetensors"


def load_classifier(folder: str | Path) -> ClassifierReward | VisionLanguageReward | SimilarityReward:
    """A reward from a folder that ``save_pretrained`` wrote; nothing is fetched and no code of the folder is run.

    If the folder has ``reward_head.safetensors`` (``weight`` (1, d), optional ``bias`` (1,)), this head reads the
    model's last state. A model like CLIP scores the similarity of response and image. Otherwise the folder must hold a
    sequence classifier with one label.

    Raises:
        WeightsError: the folder holds none of these, or the classifier has several labels.
        MissingExtraError: transformers is missing.
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


class ClassifierReward(ModelReward):
    """A sequence classifier with one label.

    Prompt and response form a conversation in the reader's chat template, or without a template a pair of texts. A
    tokenizer reads text alone; a processor for images also gets the image.

    Args:
        model: a ``...ForSequenceClassification`` with ``num_labels=1``.
        reader: its tokenizer or processor.
        name: name of the reward in ``info``.
    """

    def __init__(self, model: Any, reader: Any, name: str = "classifier") -> None:
        super().__init__(model, name)
        self.chat = ChatReader(reader, name)
        check_embedding(model, self.chat)
        self.text = model.config.get_text_config()
        most_positions = self.text.to_dict().get("max_position_embeddings", 512)
        self.longest = min(self.chat.tokenizer.model_max_length, most_positions)

    def score_batch(self, samples: Sequence[Sample], responses: Sequence[Response]) -> Tensor:
        """The classifier's logits, float32 (n,)."""
        if self.chat.is_processor or self.chat.reader.chat_template:
            pad_id = self.text.pad_token_id or 0
            return self._logits(conversations(self.chat, samples, responses, pad_id, self.longest))
        return self._logits(self._pairs(samples, responses))

    def _pairs(self, samples: Sequence[Sample], responses: Sequence[Response]) -> dict[str, Tensor]:
        """Prompts and responses as pairs of texts, with token types where the model reads them."""
        literal, names = self.chat.literal, self.chat.tokenizer.model_input_names
        pairs = [literal.encode_cut(self.longest, s.text, r.text) for s, r in zip(samples, responses, strict=True)]
        # Pad on the right, whatever the tokenizer's side: positions are counted from the first column.
        rows = {
            "input_ids": _padded([p.ids for p in pairs], self.text.pad_token_id or 0),
            "attention_mask": _padded([[1] * len(p.ids) for p in pairs], 0),
            "token_type_ids": _padded([p.type_ids for p in pairs], 0),
        }
        return {name: x for name, x in rows.items() if name != "token_type_ids" or name in names}

    def _logits(self, inputs: dict[str, Tensor]) -> Tensor:
        """Scores (n,).

        A decoder reads the score at the last token that is not the configured ``pad_token_id``. If that is None, a
        token that no row ends with serves as padding; the tokenizer's own may end every turn.
        """
        configured = self.text.pad_token_id
        if configured is None:
            ids, mask = inputs["input_ids"], inputs["attention_mask"].bool()
            ends = set(ids[torch.arange(len(ids)), last_real(mask.long())].tolist())
            self.text.pad_token_id = next(i for i in range(len(ends) + 1) if i not in ends)
            inputs = {**inputs, "input_ids": ids.masked_fill(~mask, self.text.pad_token_id)}
        try:
            return self.model(**inputs).logits[:, 0].float()
        finally:
            self.text.pad_token_id = configured


def _padded(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """Rows padded on the right, (n, S)."""
    return pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=value)


class VisionLanguageReward(ModelReward):
    """A scalar head on the hidden state of the last token, after image, prompt and response.

    Args:
        model: the body, as ``AutoModel`` loads it.
        reader: its processor, or its tokenizer if it reads text alone.
        head: (d,) -> (1,)
        name: name of the reward in ``info``.
    """

    def __init__(self, model: Any, reader: Any, head: nn.Linear, name: str = "vision-language") -> None:
        super().__init__(model, name)
        self.head = head.eval().requires_grad_(False)
        self.chat = ChatReader(reader, name)
        check_embedding(model, self.chat)

    def score_batch(self, samples: Sequence[Sample], responses: Sequence[Response]) -> Tensor:
        """The head's scores, float32 (n,)."""
        inputs = conversations(self.chat, samples, responses)
        states = self.model(**inputs).last_hidden_state  # (n, T, d)
        last = last_real(inputs["attention_mask"])
        return self.head(states[torch.arange(len(last)), last].float())[:, 0]


def written(reader: Any, samples: Sequence[Sample], responses: Sequence[Response]) -> dict[str, Tensor]:
    """Model inputs for images and conversations of prompt and response, by a tokenizer or processor."""
    return conversations(ChatReader(reader, type(reader).__name__), samples, responses)


def conversations(
    chat: ChatReader,
    samples: Sequence[Sample],
    responses: Sequence[Response],
    pad_id: int = 0,
    longest: int | None = None,
) -> dict[str, Tensor]:
    """Model inputs for prompts and responses in the chat template, with the media that the model reads.

    Raises:
        ValueError: the model reads images or sounds, and a sample lacks one.
    """
    reads_audio = "audio" in chat.media
    turns = [Turns(s.prompt if reads_audio else s.text, r.text) for s, r in zip(samples, responses, strict=True)]
    return chat.read(turns, **media_of(chat, samples), pad=("right", pad_id), longest=longest)


def media_of(chat: ChatReader, samples: Sequence[Sample]) -> dict[str, Any]:
    """The media of samples that the model reads, ``images`` and ``audio``, as ``ChatReader.read`` takes them.

    Raises:
        ValueError: a sample lacks one.
    """
    media = {kind: [getattr(s, kind) for s in samples] for kind in chat.media}
    for kind, each in media.items():
        lacking = [s.id for s, one in zip(samples, each, strict=True) if one is None]
        if lacking:
            raise ValueError(
                f"{lacking[0]!r} has no {kind}, and {type(chat.reader).__name__} reads one: take a text model"
            )
    return {"images" if kind == "image" else kind: each for kind, each in media.items()}
