"""Reward models behind vLLM's score and pooling endpoints, and judges behind OpenAI's chat completions."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import re
import threading
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
from PIL import Image

from mmenv.data.sample import Response, Sample
from mmenv.rewards.base import RewardError, RewardFunction
from mmenv.rewards.remote import Calling, Connection, RemoteReward, gathered
from mmenv.rewards.wire import MessageError

RUBRIC = (
    "You are shown {what} and an answer to it. Judge how correct, complete and brief the answer is, and reply with "
    "one whole number from {least} (wrong) to {most} (perfect), and nothing else."
)


def reward_of_url(url: str) -> RewardFunction:
    """The reward behind an address.

    ``http(s)://`` is a server of ours, ``vllm+http(s)://.../score`` and ``.../pooling`` are vLLM's, and
    ``openai+http(s)://.../v1`` is a judge with the rubric above. A query sets what is a number of ``Calling``, and
    ``model``, as in ``http://gpu:8766?patience=60``; everything else is for the classes. No token: runs write the
    address down.

    Raises:
        ValueError: the address is none of these, or its query sets something else.
    """
    kind, plus, rest = url.partition("+")
    if not plus or kind not in ("vllm", "openai"):
        kind, rest = "", url
    address, _, query = rest.partition("?")
    settings = _settings(url, query, "batch_size" if not kind else "model")
    if not kind:
        return RemoteReward(address, **settings)
    if kind == "openai":
        return ChatJudge(address, **settings)
    base, _, end = address.rstrip("/").rpartition("/")
    kinds: dict[str, Callable[..., RewardFunction]] = {"score": VLLMScore, "pooling": VLLMPooling}
    if end not in kinds:
        raise ValueError(f"reward={url!r} is no endpoint of vLLM: give vllm+http://HOST:PORT/score or /pooling")
    return kinds[end](base, **settings)


def _settings(url: str, query: str, own: str) -> dict[str, Any]:
    """The fields of ``Calling`` and the one more that a query sets."""
    kinds: dict[str, Callable[[str], Any]] = {own: int if own == "batch_size" else str}
    kinds |= {f.name: type(f.default) for f in dataclasses.fields(Calling) if f.name not in ("token", "variable")}
    try:
        return {name: kinds[name](value) for name, value in parse_qsl(query, True, True)}
    except (KeyError, ValueError) as error:
        raise ValueError(f"reward={url!r} sets {error}: give numbers or names for {', '.join(kinds)}") from error


class Endpoint:
    """A connection to a server that lists its models.

    Args:
        url: address of the server.
        model: name of the model; None takes the first of those that the server lists.
        prefix: of the path of that list.
        calling: how the server is asked.
    """

    def __init__(self, url: str, model: str | None, prefix: str, calling: Calling) -> None:
        self.connection, self.prefix, self._model = Connection(url, calling), prefix, model

    @property
    def model(self) -> str:
        """The model's name, asked for once."""
        if self._model is None:
            self._model = self.connection.ask(
                f"{self.prefix}/models", lambda answer: read(lambda: str(answer.json()["data"][0]["id"])), "GET"
            )
        return self._model


def read(part: Callable[[], Any]) -> Any:
    """What ``part`` finds in an answer.

    Raises:
        MessageError: the answer is built otherwise.
    """
    try:
        return part()
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise MessageError(f"an unknown form of answer ({type(error).__name__}: {error})") from error


def data_url(image: np.ndarray) -> str:
    """A picture uint8 (H, W, 3) as a URL that holds it, a PNG."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def shown(sample: Sample, images: bool) -> list[dict[str, Any]]:
    """A sample as the parts of a message: its picture where it has one and pictures are sent, and its prompt."""
    parts: list[dict[str, Any]] = []
    if images and sample.image is not None:
        parts.append({"type": "image_url", "image_url": {"url": data_url(sample.image)}})
    # What was said aloud stands nowhere else that a reader of text could find it.
    return [*parts, {"type": "text", "text": " ".join(filter(None, (sample.prompt, sample.said)))}]


class VLLMScore:
    """The score endpoint of vLLM: a cross-encoder or reranker reads prompt and response as a pair.

    Pairs of texts travel many to a request; with pictures each pair is a request of its own.

    Args:
        url: address of the server, for example ``http://gpu:8000``.
        model: its name there; None asks.
        images: whether pictures are sent; the model must read them.
        activation: vLLM's ``use_activation``: False for raw logits, None for the model's own way.
        batch_size: most pairs of one request.
        **settings: the fields of ``Calling``.
    """

    name = "vllm-score"

    def __init__(
        self, url: str, model: str | None = None, images: bool = False, activation: bool | None = None,
        batch_size: int = 64, **settings: Any,
    ) -> None:  # fmt: skip
        self.endpoint = Endpoint(url, model, "/v1", Calling(**{"variable": "VLLM_API_KEY", **settings}))
        self.images, self.batch_size = images, batch_size
        self.more = {} if activation is None else {"use_activation": activation}

    def __call__(self, samples: Sequence[Sample], responses: Sequence[Response]) -> np.ndarray:
        """The server's scores, float32 (n,)."""
        step = 1 if self.images else self.batch_size
        cuts = [slice(i, i + step) for i in range(0, len(samples), step)]
        return gathered(lambda cut: self._ask(samples[cut], responses[cut]), cuts, self.endpoint.connection)

    def _ask(self, samples: Sequence[Sample], responses: Sequence[Response]) -> np.ndarray:
        seen = [shown(s, self.images) for s in samples]
        asked = [parts[-1]["text"] if len(parts) == 1 else {"content": parts} for parts in seen]
        body = {"model": self.endpoint.model, "text_1": asked, "text_2": [r.text for r in responses], **self.more}
        if len(samples) == 1:
            body |= {"text_1": asked[0], "text_2": responses[0].text}  # older servers take no list of pictures
        return self.endpoint.connection.ask("/score", lambda a: by_index(a, "score", len(samples)), json=body)


class VLLMPooling:
    """The pooling endpoint of vLLM: a reward model reads the conversation of prompt and response.

    A model that scores every token (vLLM's way with reward models) is read at the last one.

    Args:
        url: address of the server.
        model: its name there; None asks.
        images: whether pictures are sent; the model must read them.
        activation: vLLM's ``use_activation``: False for raw logits, None for the model's own way.
        **settings: the fields of ``Calling``.
    """

    name = "vllm-pooling"

    def __init__(
        self, url: str, model: str | None = None, images: bool = False, activation: bool | None = None, **settings: Any
    ) -> None:
        self.endpoint = Endpoint(url, model, "/v1", Calling(**{"variable": "VLLM_API_KEY", **settings}))
        self.images, self.more = images, {} if activation is None else {"use_activation": activation}

    def __call__(self, samples: Sequence[Sample], responses: Sequence[Response]) -> np.ndarray:
        """The server's scores, float32 (n,).

        Raises:
            RewardError: the model gives an embedding and no score.
        """
        pairs = list(zip(samples, responses, strict=True))
        return gathered(lambda pair: self._ask(*pair), pairs, self.endpoint.connection)

    def _ask(self, sample: Sample, response: Response) -> np.ndarray:
        seen = shown(sample, self.images)
        user: Any = seen if len(seen) > 1 else seen[0]["text"]
        turns = [{"role": "user", "content": user}, {"role": "assistant", "content": response.text}]
        body = {"model": self.endpoint.model, "messages": turns, **self.more}
        return self.endpoint.connection.ask("/pooling", last_number, json=body)


def by_index(answer: Any, key: str, n: int) -> np.ndarray:
    """The numbers of an answer's ``data``, each at its own ``index``: float32 (n,).

    Raises:
        MessageError: one is missing, or the answer is built otherwise.
    """
    found = read(lambda: {int(row["index"]): float(row[key]) for row in answer.json()["data"]})
    if sorted(found) != list(range(n)):
        raise MessageError(f"scores came for {sorted(found)[:5]}, {len(found)} of {n}")
    return np.array([found[i] for i in range(n)], np.float32)


def last_number(answer: Any) -> np.ndarray:
    """The score that a pooling answer ends with: float32 (1,).

    Raises:
        MessageError: the answer is built otherwise.
        RewardError: a token has several numbers.
    """
    rows = read(lambda: np.array(answer.json()["data"][0]["data"], np.float64))
    if rows.ndim not in (1, 2) or not rows.size:
        raise MessageError(f"pooled data of shape {rows.shape}")
    if rows.ndim == 1:
        rows = rows[None]  # one vector for the whole conversation
    if rows.shape[1] != 1:
        raise RewardError(
            f"the model answers with {rows.shape[1]} numbers, an embedding or several classes: serve a reward model "
            "with one label"
        )
    return rows[-1].astype(np.float32)


class ChatJudge:
    """A judge by prompt behind ``/chat/completions`` of OpenAI's interface: vLLM, llama.cpp, Ollama, or a service.

    What cannot be read as a number of the range is asked for again, ``attempts`` times in all, and then it is an error:
    a judgement that nobody made is never a score. ``failures`` counts the replies that could not be read.

    Args:
        url: address with its version, for example ``http://gpu:8000/v1``.
        model: its name there; None asks.
        rubric: what the judge is told; ``{what}``, ``{least}`` and ``{most}`` are filled in.
        least, most: the range of its grades; scores are grades moved to [0, 1].
        images: whether pictures are sent.
        attempts: replies asked for until one can be read.
        temperature: of the first; later ones have at least 0.7, or the same would be said again.
        max_tokens: of a reply.
        parse: text of a reply -> grade, or None where it holds none; by default ``grade``.
        **settings: the fields of ``Calling``.
    """

    name = "judge"

    def __init__(
        self, url: str, model: str | None = None, rubric: str = RUBRIC, least: int = 1, most: int = 5,
        images: bool = True, attempts: int = 3, temperature: float = 0.0, max_tokens: int = 16,
        parse: Callable[[str, int, int], float | None] | None = None, **settings: Any,
    ) -> None:  # fmt: skip
        if least >= most or attempts < 1:
            raise ValueError(f"least={least}, most={most}, attempts={attempts}: give a range, and 1 attempt or more")
        self.endpoint = Endpoint(url, model, "", Calling(**{"variable": "OPENAI_API_KEY", **settings}))
        self.rubric, self.least, self.most, self.images = rubric, least, most, images
        self.attempts, self.temperature, self.max_tokens, self.parse = attempts, temperature, max_tokens, parse or grade
        self.failures = 0
        self._begin()

    def _begin(self) -> None:
        self.counting = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "counting"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()

    def __call__(self, samples: Sequence[Sample], responses: Sequence[Response]) -> np.ndarray:
        """The judge's grades, moved to [0, 1]: float32 (n,).

        Raises:
            RewardError: no reply about a response could be read.
        """
        pairs = list(zip(samples, responses, strict=True))
        grades = gathered(lambda pair: self._judge(*pair), pairs, self.endpoint.connection)
        return (grades - np.float32(self.least)) / np.float32(self.most - self.least)

    def _judge(self, sample: Sample, response: Response) -> np.ndarray:
        messages, said = self.messages(sample, response), ""
        for attempt in range(self.attempts):
            body = {
                "model": self.endpoint.model, "messages": messages, "max_tokens": self.max_tokens,
                "temperature": self.temperature if attempt == 0 else max(0.7, self.temperature),
            }  # fmt: skip
            said = self.endpoint.connection.ask("/chat/completions", reply_text, json=body)
            found = self.parse(said, self.least, self.most)
            if found is not None and self.least <= found <= self.most:
                return np.array([found], np.float32)
            with self.counting:
                self.failures += 1
        raise RewardError(
            f"judge {self.endpoint.model!r} gave no number from {self.least} to {self.most} about sample {sample.id!r} "
            f"in {self.attempts} attempts, last {said[:200]!r}: mend the rubric, or give max_tokens= or parse="
        )

    def messages(self, sample: Sample, response: Response) -> list[dict[str, Any]]:
        """What the judge is sent; the response stands in JSON quotes, so that it ends where it seems to end."""
        sees = self.images and sample.image is not None
        what = "a picture with a question" if sees else "a question"
        told = self.rubric.format(what=what, least=self.least, most=self.most)
        answer = {"type": "text", "text": f"Answer: {json.dumps(response.text, ensure_ascii=False)}"}
        return [{"role": "system", "content": told}, {"role": "user", "content": [*shown(sample, self.images), answer]}]


def reply_text(answer: Any) -> str:
    """The text of a chat completion.

    Raises:
        MessageError: the answer is built otherwise.
    """
    return str(read(lambda: answer.json()["choices"][0]["message"]["content"] or ""))


def grade(text: str, least: int, most: int) -> float | None:
    """The one number of the range that a reply holds: ``"4"``, ``"Score: 4/5"``, ``"**4**"``.

    None where it holds none, or several that differ: "either 2 or 4" is no judgement.
    """
    text = re.sub(rf"(?<=[\d*_])\s*(?:/|out of)\s*{most}(?![\d.,]\d|\d)", "", text)
    numbers = set(re.findall(r"(?<![\w.])-?\d+(?:[.,:/–-]+\d+)*", text))  # "1-5" and "4.5.6" are one, and none
    if len(numbers) != 1 or not re.fullmatch(r"-?\d+(\.\d+)?", found := numbers.pop()):
        return None
    return float(found) if least <= float(found) <= most else None
