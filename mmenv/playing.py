"""A person plays an environment in the terminal."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from PIL import Image
from rich.console import Console
from rich.style import Style
from rich.text import Text

from mmenv.envs.text import say
from mmenv.envs.view import EpisodeView
from mmenv.registration import spec_of
from mmenv.tokenizer import Tokenizer


def print_plain(console: Console, text: str | Text, style: str | None = None) -> None:
    """Print a text as it is, without reading markup in it; only the terminal breaks its lines, so paths stay in one."""
    console.print(text, style=style, markup=False, emoji=False, highlight=False, soft_wrap=True)


def play(console: Console, env_id: str, index: int | None, folder: Path, **arguments: Any) -> None:
    """Ask a person for responses until the episode ends, and print reward, gold and references of each.

    Args:
        console: where the episode is shown.
        env_id: id of the environment.
        index: of the sample; None draws one.
        folder: where pictures and sounds are written.
        **arguments: of the environment.
    """
    env = gym.make(spec_of(env_id), **arguments)
    env.reset(options={} if index is None else {"sample_index": index})
    terminated = False
    while not terminated:
        view = env.get_wrapper_attr("view")()
        _show(console, view, folder)
        tokens = _ask(console, env.get_wrapper_attr("tokenizer"))
        if tokens is None:
            print_plain(console, "\nbye")
            return
        _, reward, terminated, _, info = say(env, tokens)
        print_plain(console, f"your answer: {info['response'] or '(silence)'}, ended by {info['stop']}")
        gold = f", gold {info['gold']:.2f}" if "gold" in info else ""
        print_plain(console, f"reward {reward:+.2f}{gold}", style="bold")
        if view.sample.references:
            print_plain(console, f"right would be: {' | '.join(dict.fromkeys(view.sample.references))}")
    env.close()


def _ask(console: Console, tokenizer: Tokenizer) -> list[int] | None:
    """Tokens of the next line of input that has only words of the vocabulary; None at the end of the input."""
    while True:
        try:
            text = console.input("your answer> ")
        except (EOFError, KeyboardInterrupt):
            return None
        if not sys.stdin.isatty():  # a terminal has echoed the line, a pipe has not
            print_plain(console, text)
        unknown = unknown_words(text, tokenizer)
        if not unknown:
            return tokenizer.encode(text)
        print_plain(console, f"not in the vocabulary: {', '.join(unknown)}; put it in other words")


def unknown_words(text: str, tokenizer: Tokenizer) -> list[str]:
    """The words of a text that are not recovered by decoding their tokens."""

    def decoded(word: str) -> str:
        return "".join(tokenizer.decode(tokenizer.encode(word)).split())

    return [word for word in text.split() if decoded(word).lower() != word.lower()]


def _show(console: Console, view: EpisodeView, folder: Path) -> None:
    """Print the prompt, draw the picture if the console is a terminal, and write picture and sound to files."""
    sample = view.sample
    stem = sample.id.replace("/", "-")
    if sample.image is not None:
        if console.is_terminal:
            console.print(half_blocks(sample.image))
        folder.mkdir(parents=True, exist_ok=True)
        enlarged(sample.image).save(folder / f"{stem}.png")
        print_plain(console, f"picture: {folder / f'{stem}.png'}")
    if sample.audio is not None:
        import soundfile

        folder.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / f"{stem}.wav", sample.audio, 16_000)
        print_plain(console, f"sound: {folder / f'{stem}.wav'}")
    if view.prompt or not sample.said:
        print_plain(console, f"prompt: {view.prompt or '(spoken)'}", style="bold")
    if sample.said:
        print_plain(console, f"the user says: {sample.said}", style="bold")


def enlarged(image: np.ndarray, side: int = 384) -> Image.Image:
    """A picture (H, W, 3) with each pixel repeated, so often that its shorter side has at least ``side`` pixels."""
    times = max(1, -(-side // min(image.shape[:2])))
    return Image.fromarray(image.repeat(times, 0).repeat(times, 1))


def half_blocks(image: np.ndarray, width: int = 48) -> Text:
    """A picture (H, W, 3) in coloured characters, each of them two pixels high."""
    height = 2 * max(1, round(width * image.shape[0] / image.shape[1] / 2))
    small = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BOX)).tolist()
    text = Text(no_wrap=True)
    for upper, lower in zip(small[::2], small[1::2], strict=True):
        for above, below in zip(upper, lower, strict=True):
            text.append("▀", Style(color="rgb({},{},{})".format(*above), bgcolor="rgb({},{},{})".format(*below)))
        text.append("\n")
    return text
