"""A transformers sequence classifier, or a vision-language model with a scalar head, as a reward function."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mmenv.data.sample import Response, Sample
from mmenv.models.checkpoints import WeightsError
from mmenv.rewards.similarity import MODELS, SimilarityReward

HEAD_FILE = "reward_head.safetensors"
BATCH = 32


def installed(name: str) -> Any:
    """A module of the extra ``hf``.

    Raises:
        ModuleNotFoundError: it is missing; the message has the command that installs it.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f'{error.name} is missing: pip install -c constraints.txt -e ".[hf]"', name=error.name
        ) from error


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
    if not (folder / "config.json").is_file():
        raise WeightsError(f"{folder} has no config.json: give a folder that save_pretrained wrote")
    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
        if (folder / HEAD_FILE).is_file():
            body = whole_model(transformers.AutoModel, folder)
            return VisionLanguageReward(body, processor_of(folder), _head(folder, config), folder.name)
        if config.model_type in MODELS:
            return SimilarityReward(whole_model(transformers.AutoModel, folder), processor_of(folder), folder.name)
        known = transformers.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
        if type(config) not in known:
            raise WeightsError(
                f"{folder} holds a {config.model_type}, which has no sequence classifier: train a linear layer on its "
                f"last state and write it beside the model with save_head, as {HEAD_FILE}"
            )
        if config.num_labels != 1:
            raise WeightsError(f"{folder} has {config.num_labels} labels: a reward has one, num_labels=1")
        classifier = whole_model(transformers.AutoModelForSequenceClassification, folder)
        return ClassifierReward(classifier, processor_of(folder), folder.name)
    except OSError as error:
        raise WeightsError(f"{folder} cannot be read ({str(error).splitlines()[0]}): save it again") from error


def whole_model(kind: Any, folder: Path) -> Any:
    """A model all of whose weights are in the folder: what is missing would be drawn at random."""
    model, told = kind.from_pretrained(folder, local_files_only=True, output_loading_info=True)
    if told["missing_keys"]:
        raise WeightsError(
            f"{folder} lacks {sorted(told['missing_keys'])[:3]}: train the head and save the model with it"
        )
    return model


def save_head(head: nn.Linear, folder: str | Path) -> None:
    """Write a scalar head beside a model that ``save_pretrained`` wrote."""
    tensors = {k: v.detach().contiguous() for k, v in head.state_dict().items()}
    save_file(tensors, Path(folder) / HEAD_FILE, {"kind": "reward head"})


def _head(folder: Path, config: Any) -> nn.Linear:
    tensors = load_file(folder / HEAD_FILE)
    width = config.get_text_config().hidden_size
    if "weight" not in tensors or tensors["weight"].shape != (1, width):
        shapes = {k: tuple(v.shape) for k, v in tensors.items()}
        raise WeightsError(f"{folder / HEAD_FILE} holds {shapes}: the model needs a weight of shape (1, {width})")
    head = nn.Linear(width, 1, bias="bias" in tensors)
    head.load_state_dict(tensors)
    return head


def processor_of(folder: Path) -> Any:
    """The folder's processor where the model has one, else its tokenizer."""
    import transformers

    return transformers.AutoProcessor.from_pretrained(folder, local_files_only=True)  # type: ignore[no-untyped-call]


class ClassifierReward:
    """A sequence classifier with one label; prompt and response are its pair of texts.

    A reader of text alone scores the words and sees no media; one with a processor for images is given the picture.

    Args:
        model: a ``...ForSequenceClassification`` with ``num_labels=1``.
        reader: its tokenizer or processor.
        name: name of the reward in ``info``.
    """

    def __init__(self, model: Any, reader: Any, name: str = "classifier") -> None:
        self.model = model.eval().requires_grad_(False)
        self.reader, self.name = reader, name
        self.sees = sees_images(reader)
        tokenizer = reader.tokenizer if self.sees else reader
        if tokenizer.pad_token_id is None:
            raise WeightsError(f"{name} has a tokenizer without a pad token: set tokenizer.pad_token and save it again")
        text = model.config.get_text_config()
        text.pad_token_id = tokenizer.pad_token_id  # a decoder looks for its last word by it
        self.longest = min(tokenizer.model_max_length, text.to_dict().get("max_position_embeddings", 512))

    @torch.no_grad()
    def __call__(self, samples: Sequence[Sample], responses: Sequence[Response]) -> np.ndarray:
        """The classifier's logits, float32 (n,)."""
        parts = []
        for i in range(0, len(samples), BATCH):
            some, said = samples[i : i + BATCH], responses[i : i + BATCH]
            inputs = written(self.reader, some, said) if self.sees else self._pairs(some, said)
            parts.append(self.model(**inputs).logits[:, 0].float())
        return torch.cat(parts).numpy()

    def _pairs(self, samples: Sequence[Sample], responses: Sequence[Response]) -> dict[str, Tensor]:
        prompts, texts = [s.prompt for s in samples], [r.text for r in responses]
        return self.reader(prompts, texts, padding=True, truncation=True, max_length=self.longest, return_tensors="pt")


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
        self.reader, self.name = reader, name

    @torch.no_grad()
    def __call__(self, samples: Sequence[Sample], responses: Sequence[Response]) -> np.ndarray:
        """The head's scores, float32 (n,)."""
        parts = []
        for i in range(0, len(samples), BATCH):
            inputs = written(self.reader, samples[i : i + BATCH], responses[i : i + BATCH])
            states = self.model(**inputs).last_hidden_state  # (n, T, d)
            real = inputs["attention_mask"]
            last = (real * torch.arange(1, real.shape[1] + 1)).argmax(1)  # wherever the padding stands
            parts.append(self.head(states[torch.arange(len(last)), last].float())[:, 0])
        return torch.cat(parts).numpy()


def sees_images(reader: Any) -> bool:
    """Whether it is a processor of images and text, and not a tokenizer alone."""
    import transformers

    return isinstance(reader, transformers.ProcessorMixin)


def written(reader: Any, samples: Sequence[Sample], responses: Sequence[Response]) -> dict[str, Tensor]:
    """What a processor makes of pictures and a conversation of prompt and response.

    The processor's chat template is used where it has one; else image token, prompt and response stand in lines.
    """
    sees = sees_images(reader)
    texts = [_conversation(reader, s, r, sees) for s, r in zip(samples, responses, strict=True)]
    if not sees:
        return reader(texts, padding=True, return_tensors="pt")
    images = [s.image for s in samples]
    blind = [s.id for s in samples if s.image is None]
    if blind:
        raise ValueError(f"{blind[0]!r} has no image, and {type(reader).__name__} reads one: take a text model")
    return reader(text=texts, images=images, padding=True, return_tensors="pt")


def _conversation(reader: Any, sample: Sample, response: Response, sees: bool) -> str:
    if reader.chat_template:
        asked: list[dict[str, str]] = [{"type": "image"}] if sees else []
        asked.append({"type": "text", "text": sample.prompt})
        said = [{"type": "text", "text": response.text}]
        turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
        if not sees:
            turns = [{"role": t["role"], "content": t["content"][-1]["text"]} for t in turns]  # type: ignore[index]
        return str(reader.apply_chat_template(turns, tokenize=False))
    lines = [sample.prompt, response.text]
    return "\n".join([str(reader.image_token), *lines] if sees else lines)
