"""Reward models behind vLLM's score and pooling endpoints, and judges behind OpenAI's chat completions."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import logging
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
from PIL import Image

from mmenv.data.sample import Response, Sample
from mmenv.rewards.base import RewardError, RewardFunction
from mmenv.rewards.remote.client import Calling, Connection, RefusedRequestError, RemoteReward, gathered
from mmenv.rewards.remote.replies import grade, reply_of
from mmenv.rewards.remote.wire import MessageError, json_object, number

logger = logging.getLogger(__name__)
UNGRADED = (400, 413, 422, 451)  # of a service that does not judge this one response: filtered, too long
FEW_REFUSALS = 8  # so many are exceptions, whatever share they are

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
    settings = _settings(url, query, OPTIONS[kind])
    if not kind:
        return RemoteReward(address, **settings)
    if kind == "openai":
        return ChatJudge(address, **settings)
    base, _, end = address.rstrip("/").rpartition("/")
    kinds: dict[str, Callable[..., RewardFunction]] = {"score": VLLMScore, "pooling": VLLMPooling}
    if end not in kinds:
        raise ValueError(f"reward={url!r} is no endpoint of vLLM: give vllm+http://HOST:PORT/score or /pooling")
    return kinds[end](base, **settings)


def _or_none(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    """A reader of values that takes ``none`` as None."""
    return lambda text: None if text == "none" else kind(text)


# What a query sets beside the numbers of ``Calling``, by kind of server.
OPTIONS: dict[str, dict[str, Callable[[str], Any]]] = {
    "": {"batch_size": int},
    "vllm": {"model": str},
    "openai": {
        "model": str, "attempts": int, "temperature": _or_none(float), "max_tokens": _or_none(int),
        "max_completion_tokens": _or_none(int), "on_refusal": _or_none(float),
    },
}  # fmt: skip


def _settings(url: str, query: str, options: dict[str, Callable[[str], Any]]) -> dict[str, Any]:
    """The fields of ``Calling`` and the options that a query sets."""
    calling = {f.name: type(f.default) for f in dataclasses.fields(Calling) if f.name not in ("token", "variable")}
    kinds: dict[str, Callable[[str], Any]] = {**options, **calling}
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
                f"{self.prefix}/models", lambda body: read(lambda: str(json_object(body)["data"][0]["id"])), "GET"
            )
        return self._model


def read(part: Callable[[], Any]) -> Any:
    """What ``part`` finds in an answer.

    Raises:
        MessageError: the answer is built otherwise.
    """
    try:
        return part()
    except MessageError:
        raise
    except (LookupError, TypeError, ValueError) as error:
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


def by_index(body: bytes, key: str, n: int) -> np.ndarray:
    """The numbers of an answer's ``data``, each at its own ``index``: float32 (n,).

    Raises:
        MessageError: one is missing, or the answer is built otherwise.
        RewardError: one is no finite number.
    """
    rows = read(lambda: {row["index"]: row[key] for row in json_object(body)["data"]})
    if any(type(index) is not int for index in rows) or sorted(rows) != list(range(n)):
        raise MessageError(f"scores came for {list(rows)[:5]}, {len(rows)} of {n}")
    return np.array([number(rows[i]) for i in range(n)], np.float32)


def last_number(body: bytes) -> np.ndarray:
    """The score that a pooling answer ends with: float32 (1,).

    Raises:
        MessageError: the answer is built otherwise.
        RewardError: a token has several numbers, or the last one is no finite number.
    """
    rows = read(lambda: json_object(body)["data"][0]["data"])
    if not isinstance(rows, list) or not rows:
        raise MessageError(f"pooled data {rows!r:.80}")
    last = rows[-1] if isinstance(rows[0], list) else rows  # else one vector for the whole conversation
    if not isinstance(last, list) or len(last) != 1:
        count = len(last) if isinstance(last, list) else 0
        raise RewardError(
            f"the model answers with {count} numbers, an embedding or several classes: serve a reward model with one "
            "label"
        )
    return np.array([number(last[0])], np.float32)


class ChatJudge:
    """A judge by prompt behind ``/chat/completions`` of OpenAI's interface: vLLM, llama.cpp, Ollama, or a service.

    A reply that was cut, filtered or refused, that calls a tool, or that holds no number of the range after its
    reasoning is asked for again, ``attempts`` times in all. Then it is an error, unless ``on_refusal`` says what such a
    response scores: a judgement that nobody made is never silently a score.

    Args:
        url: address with its version, for example ``http://gpu:8000/v1``.
        model: its name there; None asks.
        rubric: what the judge is told; ``{what}``, ``{least}`` and ``{most}`` are filled in.
        least, most: the range of its grades; scores are grades moved to [0, 1].
        images: whether pictures are sent.
        attempts: replies asked for until one can be read.
        temperature: of the first; later ones have at least 0.7, or the same would be said again. None leaves it out,
            for models that take none.
        max_tokens: of a reply, reasoning included; None leaves it out.
        max_completion_tokens: the same under its newer name; where it is given, ``max_tokens`` is left out.
        on_refusal: score in [0, 1] of a response that the judge refuses or cannot grade. Each is counted and logged;
            where most responses are such, it is an error. With None the first is an error.
        parse: text of a reply -> grade, or None where it holds none; by default ``grade``.
        **settings: the fields of ``Calling``.

    Attributes:
        failures: replies that could not be read.
        graded, refusals: responses that the judge graded, and those that were given ``on_refusal``.

    Raises:
        ValueError: names the argument and the remedy.
    """

    name = "judge"

    def __init__(
        self, url: str, model: str | None = None, rubric: str = RUBRIC, least: int = 1, most: int = 5,
        images: bool = True, attempts: int = 3, temperature: float | None = 0.0, max_tokens: int | None = 16,
        max_completion_tokens: int | None = None, on_refusal: float | None = None,
        parse: Callable[[str, int, int], float | None] | None = None, **settings: Any,
    ) -> None:  # fmt: skip
        if least >= most or attempts < 1:
            raise ValueError(f"least={least}, most={most}, attempts={attempts}: give a range, and 1 attempt or more")
        if on_refusal is not None and not 0 <= on_refusal <= 1:
            raise ValueError(f"on_refusal={on_refusal} is no score: give a number from 0 to 1, or None for an error")
        if temperature is not None and not temperature >= 0:
            raise ValueError(f"temperature={temperature} is negative: give 0 or more, or None to leave it out")
        tokens = ("max_tokens", max_tokens) if max_completion_tokens is None else (
            "max_completion_tokens", max_completion_tokens
        )  # fmt: skip
        if tokens[1] is not None and tokens[1] < 1:
            raise ValueError(f"{tokens[0]}={tokens[1]} is too small: give 1 or more, or None to leave it out")
        self.endpoint = Endpoint(url, model, "", Calling(**{"variable": "OPENAI_API_KEY", **settings}))
        self.rubric, self.least, self.most, self.images = rubric, least, most, images
        self.attempts, self.temperature, self.parse = attempts, temperature, parse or grade
        self.limits = {} if tokens[1] is None else {tokens[0]: tokens[1]}
        self.on_refusal = on_refusal
        self.failures = self.graded = self.refusals = 0

    def __call__(self, samples: Sequence[Sample], responses: Sequence[Response]) -> np.ndarray:
        """The judge's grades, moved to [0, 1]: float32 (n,).

        Raises:
            RewardError: no reply about a response could be read, and ``on_refusal`` is None; or about most of them.
        """
        pairs = list(zip(samples, responses, strict=True))
        return gathered(lambda pair: self._judge(*pair), pairs, self.endpoint.connection)

    def _judge(self, sample: Sample, response: Response) -> np.ndarray:
        messages, problem = self.messages(sample, response), ""
        for attempt in range(self.attempts):
            try:
                value, problem = self._ask(messages, attempt)
            except RefusedRequestError as error:
                if error.status not in UNGRADED:
                    raise
                problem = str(error)
                break  # the same request would be refused again
            if value is not None:
                self._count(graded=1)
                return np.array([(value - self.least) / (self.most - self.least)], np.float32)
            self._count(failures=1)
        return self._refused(sample, problem)

    def _ask(self, messages: list[dict[str, Any]], attempt: int) -> tuple[float | None, str]:
        """A grade, or None and what is wrong with the reply."""
        body = {"model": self.endpoint.model, "messages": messages, **self.limits}
        if self.temperature is not None:
            body["temperature"] = self.temperature if attempt == 0 else max(0.7, self.temperature)
        text, problem = self.endpoint.connection.ask("/chat/completions", reply_of, json=body)
        if text is None:
            return None, problem
        value = self.parse(text, self.least, self.most)
        if value is None or not self.least <= value <= self.most:
            return None, f"no number from {self.least} to {self.most} in {text[:200]!r}"
        return value, ""

    def _refused(self, sample: Sample, problem: str) -> np.ndarray:
        """The score of a response that was not graded; an error where there is none, or where most are not graded."""
        judge = f"judge {self.endpoint.model!r}"
        if self.on_refusal is None:
            raise RewardError(
                f"{judge} did not grade the response to sample {sample.id!r}: {problem}. Mend the rubric, give parse= "
                "or more max_tokens=, or temperature=None and max_completion_tokens= to models that refuse those; "
                "on_refusal=SCORE says what such responses score (?on_refusal=0.5 in an address, also in a run's "
                "config.json before --resume)"
            )
        self._count(refusals=1)
        logger.warning("%s did not grade sample %r, on_refusal=%g: %s", judge, sample.id, self.on_refusal, problem)
        if self.refusals > max(FEW_REFUSALS, self.graded):
            raise RewardError(
                f"{judge} graded {self.graded} responses and not the other {self.refusals}, and on_refusal is for "
                f"exceptions. The last: {problem}"
            )
        return np.array([self.on_refusal], np.float32)

    def _count(self, **more: int) -> None:
        """Add to counters; threads judge at once. The connection's lock is new in a forked process."""
        with self.endpoint.connection.lock:
            for name, n in more.items():
                setattr(self, name, getattr(self, name) + n)

    def messages(self, sample: Sample, response: Response) -> list[dict[str, Any]]:
        """What the judge is sent; the response stands in JSON quotes, so that it ends where it seems to end."""
        sees = self.images and sample.image is not None
        what = "a picture with a question" if sees else "a question"
        told = self.rubric.format(what=what, least=self.least, most=self.most)
        answer = {"type": "text", "text": f"Answer: {json.dumps(response.text, ensure_ascii=False)}"}
        return [{"role": "system", "content": told}, {"role": "user", "content": [*shown(sample, self.images), answer]}]
