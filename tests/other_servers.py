"""A server in vLLM's and OpenAI's wire formats, strict about what it is sent: ``python other_servers.py --port N``."""

from __future__ import annotations

import argparse
import base64
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from PIL import Image

MODEL = "tiny-reward"


class Refused(Exception):
    """A request that vLLM would answer with status 400."""


def of_words(text: str) -> float:
    """A score of a text: it differs between texts."""
    return sum((i + 1) * ord(c) for i, c in enumerate(text)) % 1009 / 1009


def of_picture(part: dict[str, Any]) -> float:
    """A score of a picture in a part of a message."""
    head, _, data = part["image_url"]["url"].partition(",")
    if head != "data:image/png;base64":
        raise Refused(f"unknown picture {head[:40]}")
    return float(np.asarray(Image.open(io.BytesIO(base64.b64decode(data, validate=True)))).mean() / 255)


def of_content(content: Any) -> float:
    """A score of what a message holds: text, or parts."""
    if isinstance(content, str):
        return of_words(content)
    kinds = [p["type"] for p in content]
    if not set(kinds) <= {"text", "image_url"} or kinds.count("image_url") > 1:
        raise Refused(f"unknown parts {kinds}")
    return sum(of_words(p["text"]) if p["type"] == "text" else of_picture(p) for p in content)


def score(body: dict[str, Any]) -> dict[str, Any]:
    """``POST /score``: pairs of lists of one length, or one pair."""
    one, two = body["text_1"], body["text_2"]
    ones, twos = (x if isinstance(x, list) else [x] for x in (one, two))
    if len(ones) != len(twos) or (any(isinstance(x, dict) for x in ones) and len(ones) > 1):
        raise Refused("pairs of lists of one length, please")
    pairs = [(of_content(x["content"] if isinstance(x, dict) else x), of_content(y)) for x, y in zip(ones, twos)]
    raw = body.get("use_activation", True) is False
    rows = [{"index": i, "object": "score", "score": a - 2 * b - raw} for i, (a, b) in enumerate(pairs)]
    return {"id": "score-1", "object": "list", "model": MODEL, "data": rows[::-1], "usage": {"prompt_tokens": 3}}


def pooling(body: dict[str, Any]) -> dict[str, Any]:
    """``POST /pooling``: a number for every token of a conversation."""
    roles = [m["role"] for m in body["messages"]]
    if roles != ["user", "assistant"]:
        raise Refused(f"roles {roles}")
    user, said = (m["content"] for m in body["messages"])
    if said == "embed me":
        data: Any = [0.1, 0.2, 0.3]
    elif said == "whole":
        data = [of_content(user)]
    else:
        data = [[0.5], [9.0], [of_content(user) - 2 * of_words(said)]]
    return {"id": "pool-1", "object": "list", "model": MODEL, "data": [{"index": 0, "object": "pooling", "data": data}]}


class Chat:
    """``POST /v1/chat/completions``: grades by the length of the answer, and mumbles about some."""

    def __init__(self) -> None:
        self.lock, self.asked = threading.Lock(), dict[str, int]()

    def __call__(self, body: dict[str, Any]) -> dict[str, Any]:
        system, user = body["messages"]
        if system["role"] != "system" or user["role"] != "user" or not body["max_tokens"]:
            raise Refused("a system message, a user message and max_tokens, please")
        of_content(user["content"])
        answer = json.loads(user["content"][-1]["text"].removeprefix("Answer: "))
        with self.lock:
            self.asked[answer] = self.asked.get(answer, 0) + 1
        said: str | None = f"Score: {min(5, 1 + len(answer.split()))}/5"
        if "mumble" in answer and (body["temperature"] < 0.5 or self.asked[answer] < 2):
            said = "between 2 and 4, I would say"
        if "never" in answer:
            said = None
        message = {"role": "assistant", "content": said}
        return {"id": "chat-1", "object": "chat.completion", "choices": [{"index": 0, "message": message}]}


def handler() -> type[BaseHTTPRequestHandler]:
    """A handler with a judge of its own."""
    answers = {"/score": score, "/pooling": pooling, "/v1/chat/completions": Chat()}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            assert self.path == "/v1/models"
            self.reply(200, {"object": "list", "data": [{"id": MODEL, "object": "model"}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            try:
                if body["model"] != MODEL:
                    raise Refused(f"the model {body['model']!r} does not exist")
                self.reply(200, answers[self.path](body))
            except Refused as error:
                self.reply(400, {"error": {"message": str(error), "type": "BadRequestError", "code": 400}})

        def reply(self, status: int, said: dict[str, Any]) -> None:
            data = json.dumps(said).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    return Handler


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    with ThreadingHTTPServer(("127.0.0.1", parser.parse_args().port), handler()) as served:
        print(f"http://127.0.0.1:{served.server_address[1]}", flush=True)
        served.serve_forever()
