"""Reading the chat completion of a judge: a grade, or the reason why there is none."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from mmenv.rewards.remote.messages import MessageError, json_object

# Values of finish_reason for a complete reply; some servers send None.
COMPLETE = (None, "stop", "eos", "eos_token", "end_turn", "stop_sequence")
NAMES = "think|thinking|thought|thoughts|reason|reasoning|reflection|analysis|scratchpad"
# <think>, <seed:think>, <thinking_process>, <|begin_of_thought|>, and channels of harmony and of Gemma
TAG = rf"\|?(?:[\w:.-]*[_:.-]|ant)?(?:{NAMES})(?:[_:.-][\w:.-]*)?(?:\s[^<>]*)?\|?>"
THOUGHT = re.compile(rf"<{TAG}|\[THINK\]|◁think▷|<\|channel\|?>\s*(?:analysis|commentary|thought)|<unused94>", re.I)
THOUGHT_END = re.compile(
    rf"<(?:/|\|/|\|?end_of_){TAG}|\[/THINK\]|◁/think▷|<\|channel\|>\s*final\s*<\|message\|>|<channel\|>|<unused95>",
    re.I,
)


class Reply(NamedTuple):
    """A reply without its reasoning, or None and the reason why it cannot be read."""

    text: str | None
    problem: str = ""


def reply_of(body: bytes) -> Reply:
    """The reply in a chat completion.

    A reply that is truncated, filtered or refused, or that calls a tool, is not a judgement, whatever numbers it holds.

    Raises:
        MessageError: the body is not a chat completion.
    """
    answer = json_object(body)
    choices = answer.get("choices")
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        raise MessageError(f"an unknown form of answer: its choices are {choices!r:.80}")
    choice = choices[0] if choices else {}
    if error := answer.get("error") or choice.get("error"):
        return Reply(None, f"the service failed: {error!r:.200}")
    message = choice.get("message")
    if not isinstance(message, dict):
        return Reply(None, "it holds no message")
    if refusal := _refusal(message):
        return Reply(None, f"the model refused: {refusal!r:.200}")
    end = choice.get("finish_reason")
    if end not in COMPLETE:
        remedy = ": the reply was cut, give more max_tokens" if end in ("length", "max_tokens") else ""
        return Reply(None, f"finish_reason is {end!r:.80}{remedy}")
    if message.get("tool_calls") or message.get("function_call"):
        return Reply(None, "it calls a tool")
    text = _text(message.get("content"))
    if text is None or not text.strip():
        return Reply(None, "it is empty")
    answer_text = without_thoughts(text)
    return Reply(answer_text) if answer_text is not None else Reply(None, "its reasoning has no end")


def _refusal(message: Mapping[str, Any]) -> Any:
    """The refusal in a message, from its own field or from a part of the content; None without one."""
    content = message.get("content")
    parts = content if isinstance(content, list) else []
    refusals = [part for part in parts if isinstance(part, dict) and part.get("type") == "refusal"]
    return message.get("refusal") or (refusals[0].get("refusal") or "no reason" if refusals else None)


def _text(content: Any) -> str | None:
    """The text of a message's content: a string, or the text parts of a list."""
    if isinstance(content, list):
        parts = [p.get("text") for p in content if isinstance(p, dict) and p.get("type") in ("text", "output_text")]
        return "".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else None


def without_thoughts(text: str) -> str | None:
    """What follows the reasoning, ``"<think>3?</think>1"`` -> ``"1"``; None where the reasoning does not end."""
    answer = THOUGHT_END.split(text)[-1]
    return None if THOUGHT.search(answer) else answer.strip()


def grade(text: str, least: int, most: int) -> float | None:
    """The one number in the range that a reply holds: ``"4"``, ``"Score: 4/5"``, ``"**4**"``.

    None if it holds no number or different numbers: "either 2 or 4" is not a judgement.
    """
    text = re.sub(r"[\u2212\u2013](?=\d)(?<!\d.)", "-", text)  # typographic signs; "1–5" is a range
    text = re.sub(rf"\s*(?:/|\bout of|(?<=\d )of)\s*{most}(?![\d.,]\d|\d)", "", text)
    if most == 100:
        text = text.replace("%", "")
    # "1-5", "4.5.6", "3rd" and "40%" match as one piece, which is not a grade; the 4 of "GPT-4" does not match.
    numbers = set(re.findall(r"(?<![\w.])(?<!\w-)-?\d+(?:[.,:/–-]+\d+)*[a-zA-Z%¼-¾]*", text))
    if len(numbers) != 1:
        return None
    number = numbers.pop()
    if not re.fullmatch(r"-?\d+(\.\d+)?", number):
        return None
    return float(number) if least <= float(number) <= most else None
