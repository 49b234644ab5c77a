"""python -m mmenv list | card | play | check | check-data | label | feedback | train-reward | serve-reward | align"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import inspect
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.error import Error as GymnasiumError
from PIL import Image
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.style import Style
from rich.table import Table
from rich.text import Text

from mmenv.cards import described, write_card
from mmenv.data.sample import ALL, SPLITS
from mmenv.envs.checker import FIRST_CHECKS, ConformanceError, checks_of, run_check
from mmenv.envs.setup import SERVERS, resolve_reward
from mmenv.envs.view import EpisodeView
from mmenv.models.representation.config import AlignConfig
from mmenv.registration import TABLE, default_task, import_module, own_ids, spec_of
from mmenv.rewards.base import RewardError
from mmenv.rewards.preference.config import SCORES, TIES, RewardConfig
from mmenv.rewards.remote.hosts import allow_addresses
from mmenv.tasks.base import Task
from mmenv.tokenizer import Tokenizer

COMMANDS = {
    "list": "the ids: what is perceived, words of the vocabulary, tokens of a response (R), samples of each split",
    "card": "write a page about an id, with pictures of episodes",
    "play": "answer yourself, and see what reward and gold say",
    "check": "check that an id keeps the contract of environments",
    "check-data": "list every fault of a dataset of your own with its line, or say what the dataset holds",
    "label": "judge responses in the browser",
    "feedback": "bring comparisons from files into a store of judgements, and judgements out of it",
    "train-reward": "learn a preference model from judged comparisons",
    "serve-reward": "serve a reward function to environments of other processes and machines",
    "align": "pretrain encoders of image, audio and text",
}


def _say(console: Console, text: str | Text, style: str | None = None) -> None:
    """Print a text as it is, whatever in it looks like markup; the terminal breaks lines, so that paths stay whole."""
    console.print(text, style=style, markup=False, emoji=False, highlight=False, soft_wrap=True)


def list_ids(console: Console, packages: list[str]) -> int:
    """The ids as a table, with those that ``packages`` register; ``-`` where a task has samples only with a dataset."""
    for package in packages:
        import_module(package.partition(":")[0], f"list {package}")
    table = Table(box=SIMPLE_HEAD, padding=0, show_edge=False)  # 79 columns: a terminal of 80 cuts nothing off
    for column in ("id", "modalities", "words", "R", *SPLITS):
        table.add_column(column, justify="left" if column in ("id", "modalities") else "right", no_wrap=True)
    for env_id in dict.fromkeys((*TABLE, *own_ids())):
        task = default_task(env_id)
        numbers = (task.tokenizer.vocab_size, task.max_response_tokens)
        sizes = (_size(task, split) for split in SPLITS)
        table.add_row(Text(env_id), ", ".join(task.modalities), *(f"{n:,}" for n in numbers), *sizes)
    console.print(table)
    return 0


def _size(task: Task, split: str) -> str:
    try:
        return f"{task.size(split):,}"
    except NotImplementedError:  # such a task asks for a dataset
        return "-"


def check(console: Console, env_id: str, **arguments: Any) -> int:
    """Every check of the contract, also after one has failed; 1 where one fails."""
    env = gym.make(spec_of(env_id, foreign=True), **arguments)
    failed = 0
    for one in checks_of(env):
        try:
            passed = run_check(one, env)
            _say(console, Text.assemble(("ok  ", "green"), f" {passed.name}: {passed.claim}"))
        except ConformanceError as error:
            failed += 1
            _say(console, Text.assemble(("fail", "red"), f" {error}"))
            if one in FIRST_CHECKS:
                _say(console, "the other checks need what is missing here")
                break
    env.close()
    _say(console, f"{env_id}: {'keeps the contract' if not failed else f'{failed} of the checks failed'}")
    return 1 if failed else 0


def check_data(console: Console, path: str) -> int:
    """Every fault of a dataset, a line each, and what it holds; 1 where there are faults."""
    from mmenv.data.readers.reading import check_dataset
    from mmenv.data.readers.summary import described_data

    dataset, faults = check_dataset(path)
    for fault in faults:
        _say(console, fault, style="red")
    if dataset is not None:
        for name, text in (described_data(dataset) | {"ids": _playable(dataset)}).items():
            _say(console, f"{name:<12}{text}")
    _say(console, f"{path}: {f'{len(faults)} faults' if faults else 'no faults'}")
    return 1 if faults or dataset is None else 0


def _playable(dataset: Any) -> str:
    """The ids whose observations a dataset can fill, one of each task."""
    tasks = {type(task): (env_id, task) for env_id in (*own_ids(), *reversed(TABLE)) for task in [default_task(env_id)]}
    ids = sorted(env_id for env_id, task in tasks.values() if dataset.modalities() >= set(task.modalities))
    return ", ".join(ids) or "none can play it: a sample needs a picture, in spoken dialogue a sound as well"


def play(console: Console, env_id: str, index: int | None, folder: Path, **arguments: Any) -> int:
    """A person answers, word by word or all at once, and is shown what it was worth."""
    env = gym.make(spec_of(env_id), **arguments)
    env.reset(options={} if index is None else {"sample_index": index})
    tokenizer, terminated = env.get_wrapper_attr("tokenizer"), False
    while not terminated:
        _show(console, env.get_wrapper_attr("view")(), folder)
        words = _ask(console, tokenizer)
        if words is None:
            _say(console, "\nbye")
            return 0
        before, (reward, terminated, info) = env.get_wrapper_attr("view")().sample, _write(env, words)
        _say(console, f"your answer: {info['response'] or '(silence)'}, ended by {info['stop']}")
        gold = f", gold {info['gold']:.2f}" if "gold" in info else ""
        _say(console, f"reward {reward:+.2f}{gold}", style="bold")
        if before.references:
            _say(console, f"right would be: {' | '.join(dict.fromkeys(before.references))}")
    env.close()
    return 0


def _write(env: gym.Env, words: list[int]) -> tuple[float, bool, dict[str, Any]]:
    """Step through an answer and its end, as far as the budget goes."""
    for token in (*words, env.get_wrapper_attr("tokenizer").end_id):
        _, reward, terminated, _, info = env.step(token)
        if "response" in info:
            break
    return float(reward), terminated, info


def _ask(console: Console, tokenizer: Tokenizer) -> list[int] | None:
    """Tokens of what is typed; None at the end of the input. Words that no token stands for are asked for again."""
    while True:
        try:
            text = console.input("your answer> ")
        except (EOFError, KeyboardInterrupt):
            return None
        if not sys.stdin.isatty():  # no terminal has shown what came through a pipe
            _say(console, text)
        strangers = unknown_words(text, tokenizer)
        if not strangers:
            return tokenizer.encode(text)
        _say(console, f"not in the vocabulary: {', '.join(strangers)}; put it in other words")


def unknown_words(text: str, tokenizer: Tokenizer) -> list[str]:
    """The words of a text that its tokens do not give back."""

    def given_back(word: str) -> str:
        return "".join(tokenizer.decode(tokenizer.encode(word)).split())

    return [word for word in text.split() if given_back(word).lower() != word.lower()]


def _show(console: Console, view: EpisodeView, folder: Path) -> None:
    """Picture, sound and prompt; files where a terminal cannot show them."""
    sample, stem = view.sample, view.sample.id.replace("/", "-")
    if sample.image is not None:
        if console.is_terminal:
            console.print(half_blocks(sample.image))
        folder.mkdir(parents=True, exist_ok=True)
        enlarged(sample.image).save(folder / f"{stem}.png")
        _say(console, f"picture: {folder / f'{stem}.png'}")
    if sample.audio is not None:
        import soundfile

        folder.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / f"{stem}.wav", sample.audio, 16_000)
        _say(console, f"sound: {folder / f'{stem}.wav'}")
    if view.prompt or not sample.said:
        _say(console, f"prompt: {view.prompt or '(spoken)'}", style="bold")
    if sample.said:
        _say(console, f"the user says: {sample.said}", style="bold")


def enlarged(image: np.ndarray, side: int = 384) -> Image.Image:
    """A picture (H, W, 3) whose pixels are squares, so many that its shorter side has ``side`` pixels or more."""
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


def align(console: Console, out: Path, given: dict[str, Any]) -> int:
    """Pretrain a representation of image, audio and text."""
    from mmenv.models.representation import command

    fields = {f.name for f in dataclasses.fields(AlignConfig)}
    command.run(AlignConfig(**{k: v for k, v in given.items() if k in fields}), out, console, given["device"])
    return 0


class WithDefaults(argparse.ArgumentDefaultsHelpFormatter):
    """Ends an option's help with its default, where it has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        told = action.default is not None and action.default is not False and action.default != []
        return super()._get_help_string(action) if told else action.help


def _parser() -> argparse.ArgumentParser:
    """Every command with its options."""
    about = "Look at environments, play and check them; judge responses, and learn from judgements."
    parser = argparse.ArgumentParser(prog="python -m mmenv", description=about)
    commands = parser.add_subparsers(dest="command", required=True)
    flags = {
        "list": _add_list, "card": _add_card, "play": _add_play, "check": _add_id, "check-data": _add_check_data,
        "label": _add_label, "feedback": _add_feedback, "train-reward": _add_train_reward,
        "serve-reward": _add_serve_reward, "align": _add_align,
    }  # fmt: skip
    for name, text in COMMANDS.items():
        sentence = f"{text[0].upper()}{text[1:]}."
        command = commands.add_parser(name, help=text, description=sentence, formatter_class=WithDefaults)
        if name in flags:
            flags[name](command)
    return parser


def _add_list(command: argparse.ArgumentParser) -> None:
    packages = "packages that register ids of their own, which are listed too"
    command.add_argument("packages", nargs="*", metavar="package", help=packages)


def _add_id(command: argparse.ArgumentParser) -> None:
    """Which environment, and who judges."""
    command.add_argument("id", help="an id of the list, or package:namespace/Name-v0 of a package that registers it")
    reward = "preference, preference-weak, gold, the path of saved weights, or a reward server; without it the id's"
    command.add_argument("--reward", help=reward)


def _add_data(command: argparse.ArgumentParser) -> None:
    """Which environment, and which samples."""
    _add_id(command)
    command.add_argument("--split", choices=(*SPLITS, ALL), default="test", help="which samples")
    command.add_argument("--dataset", help="samples of your own, as a path: see check-data")


def _add_check_data(command: argparse.ArgumentParser) -> None:
    layouts = "a folder with metadata.jsonl, a .jsonl file, COCO's captions or VQAv2's questions (.json)"
    command.add_argument("path", help=f"{layouts}; ?images=FOLDER behind it says where a .json file's pictures lie")


def _add_card(command: argparse.ArgumentParser) -> None:
    _add_data(command)
    page = "the page, a Markdown file (.md); its pictures are written beside it as PAGE-EPISODE-FRAME.png"
    command.add_argument("--out", type=Path, required=True, metavar="PAGE.md", help=page)
    command.add_argument("--episodes", type=int, default=3, help="episodes that are shown, from sample 0 on")


def _add_play(command: argparse.ArgumentParser) -> None:
    _add_data(command)
    command.add_argument("--index", type=int, help="number of the sample; without it one at random")
    media = Path(tempfile.gettempdir()) / "mmenv-play"
    command.add_argument("--media", type=Path, default=media, help="folder where pictures and sounds are put")


def _add_feedback(command: argparse.ArgumentParser) -> None:
    command.add_argument("direction", choices=("import", "export"), help="into the store, or out of it")
    command.add_argument("path", type=Path, help="the file; where preferences are exported, a folder")
    store = "a SQLite file, made by an import where it is not there, or postgresql://user@host/name"
    command.add_argument("--store", required=True, help=store)
    formats = "JSON lines of comparisons, columns of prompt, chosen and rejected, or tasks of Label Studio"
    choices = ("comparisons", "preferences", "label-studio")
    command.add_argument("--format", choices=choices, default="comparisons", help=formats)
    command.add_argument("--annotator", help="import: name for judgements without one; export: only this one's")
    _add_media(command)


def _add_media(command: argparse.ArgumentParser) -> None:
    media = "a folder beside the store's own in which items have their media; may be given again"
    command.add_argument("--media", type=Path, action="append", default=[], metavar="DIR", help=media)


def _add_train_reward(command: argparse.ArgumentParser) -> None:
    """Where comparisons come from and weights go, and every field of ``RewardConfig``."""
    files = "files of judged comparisons, their media beside them"
    command.add_argument("--comparisons", type=Path, nargs="*", default=[], metavar="FILE.jsonl", help=files)
    command.add_argument("--store", help="a store of judgements: a SQLite file, or postgresql://user@host/name")
    _add_media(command)
    out = "the weights, to be given as --reward; a report is written beside them, NAME.json and NAME-reliability.png"
    command.add_argument("--out", type=Path, required=True, metavar="NAME.safetensors", help=out)
    command.add_argument("--members", type=int, default=5, help="models in the ensemble; 1 for a plain model")
    combine = "what the ensemble pays: its mean, its least, or the mean less the variance"
    command.add_argument("--combine", choices=("mean", "minimum", "variance"), default="mean", help=combine)
    command.add_argument("--weight", type=float, default=1.0, help="of the variance that is taken off the mean")
    command.add_argument(
        "--held-out", type=float, default=0.2, help="share of the samples kept for report and temperature"
    )
    head = "a score summed over tokens, or one read off the last state"
    command.add_argument("--head", choices=("token", "state"), default="token", help=head)
    command.add_argument("--backbone", default="base", help="shipped name or path of the frozen network")
    choices, meanings = {"ties": TIES, "scores": SCORES}, described(inspect.getdoc(RewardConfig) or "", "Attributes")
    for field in dataclasses.fields(RewardConfig):
        flag = f"--{field.name}"
        about = {"help": meanings[field.name].replace("`", "").removesuffix("."), "default": field.default}
        if isinstance(field.default, bool):
            command.add_argument(flag, action="store_true", **about)  # type: ignore[arg-type]
        else:
            command.add_argument(flag, type=type(field.default), choices=choices.get(field.name), **about)  # type: ignore[arg-type]


def _add_serve_reward(command: argparse.ArgumentParser) -> None:
    reward = "preference, preference-weak, the path of saved weights or of a model's folder, or module:function"
    command.add_argument("--reward", required=True, help=reward)
    command.add_argument("--env-id", default="mmenv/VQA-v0", help="id whose preference models are meant")
    command.add_argument("--host", default="127.0.0.1", help="address to listen at")
    command.add_argument("--port", type=int, default=8766, help="port to listen at; 0 takes a free one")
    token = (
        "what every request has to carry; MMENV_REWARD_TOKEN keeps it out of the list of processes; without "
        "either a new one is made and printed"
    )
    command.add_argument("--token", help=token)
    name = "a name that others know the server by, beside its address; may be given again"
    command.add_argument("--name", action="append", default=[], help=name)
    waiting = "most requests that wait; one more is told to come again"
    command.add_argument("--waiting", type=int, default=256, help=waiting)
    merge = "score requests that wait in one call of so many responses; changes a network's scores in their last bits"
    command.add_argument("--merge", type=int, default=0, help=merge)


def _add_align(command: argparse.ArgumentParser) -> None:
    """An option for each field of ``AlignConfig``."""
    for option in dataclasses.fields(AlignConfig):
        name, kind, text = f"--{option.name.replace('_', '-')}", type(option.default), option.metadata["help"]
        if kind is bool:
            command.add_argument(name, action="store_true", help=text)
        else:
            command.add_argument(name, type=kind, default=option.default, choices=option.metadata["choices"], help=text)
    out = "folder for representation.safetensors, metrics.json and retrieval.png"
    command.add_argument("--out", type=Path, required=True, help=out)
    command.add_argument("--device", default="cpu", help="where it is trained: cpu, cuda, cuda:1")


def _add_label(command: argparse.ArgumentParser) -> None:
    source = command.add_mutually_exclusive_group(required=True)
    source.add_argument("--run", type=Path, help="a run's folder; its samples.jsonl is labelled")
    source.add_argument("--pairs", type=Path, help="a file of comparisons, one a line")
    store = "where answers go: a SQLite file or postgresql://user@host/name; without it feedback.db beside the file"
    command.add_argument("--store", help=store)
    command.add_argument("--host", default="127.0.0.1", help="address to listen at; beyond this machine asks a token")
    command.add_argument("--port", type=int, default=8765, help="port to listen at; 0 takes a free one")
    mode = "choose one of the responses, put them in order, or give each 1 to 5 points"
    command.add_argument("--mode", choices=("compare", "rank", "score"), default="compare", help=mode)
    command.add_argument("--overlap", type=int, default=1, help="annotators that judge an item")
    repeats = "share of items that come again to the same annotator, to measure self-agreement"
    command.add_argument("--repeats", type=float, default=0.05, help=repeats)
    command.add_argument("--certificate", type=Path, help="PEM file, to serve https")
    command.add_argument("--private-key", type=Path, help="PEM file of its key")
    command.add_argument("--https", action="store_true", help="browsers come by way of a proxy that speaks https")
    name = "a name that browsers know the server by, beside its address; may be given again"
    command.add_argument("--name", action="append", default=[], help=name)
    _add_media(command)


def _parsed(arguments: list[str]) -> dict[str, Any]:
    """What the command line says; a command that is none ends the program, with the one that was meant."""
    parser = _parser()
    near = difflib.get_close_matches(arguments[0], COMMANDS, 1) if arguments else []
    if near and arguments[0] not in COMMANDS:
        parser.error(f"unknown command {arguments[0]!r}: did you mean {near[0]!r}? There are {', '.join(COMMANDS)}")
    return vars(parser.parse_args(arguments))


def label(console: Console, given: dict[str, Any]) -> int:
    """Serve the labelling pages until interrupted."""
    from mmenv.feedback.pages.command import Served, label
    from mmenv.feedback.pages.server import LabelConfig

    labelling = LabelConfig(given["mode"], given["overlap"], given["repeats"])
    same = ("run", "pairs", "store", "host", "port", "certificate", "private_key", "https")
    served = Served(
        **{k: given[k] for k in same}, names=tuple(given["name"]), media=tuple(given["media"]), labelling=labelling
    )
    return label(console, served)


def serve_reward(console: Console, given: dict[str, Any]) -> int:
    """Serve a reward function until interrupted."""
    from mmenv.rewards.remote.server import Serving, imported, serve

    reward, same = given["reward"], ("host", "port", "token", "waiting", "merge")
    serving = Serving(**{k: given[k] for k in same}, names=tuple(given["name"]))
    if reward == "gold":
        raise ValueError("reward='gold' is the world's truth, which does not travel: give it where the environment is")
    if ":" in reward and not reward.startswith(SERVERS) and not Path(reward).exists():
        return serve(console, imported(reward), serving)
    return serve(console, resolve_reward(reward, default_task(given["env_id"])), serving)


def main(arguments: list[str] | None = None, console: Console | None = None) -> int:
    """Run the command line; 0 when all went well, 1 for a wrong argument or a failed check."""
    if arguments is None:
        arguments = sys.argv[1:]
        allow_addresses(arguments)  # typed by the person
    given = _parsed(arguments)
    # A pipe has no width to keep to, unless COLUMNS names one. Paths and data are shown as they are, never as markup.
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 120
    console = console or Console(width=width, emoji=False, markup=False)
    chosen = {k: given[k] for k in ("reward", "split", "dataset") if given.get(k) is not None}
    try:
        if given["command"] == "list":
            return list_ids(console, given["packages"])
        if given["command"] == "feedback":
            from mmenv.feedback.exchange.files import command  # the database comes with an extra

            return command(console, *(given[k] for k in ("direction", "path", "store", "format", "annotator", "media")))
        if given["command"] == "label":
            return label(console, given)
        if given["command"] == "serve-reward":
            return serve_reward(console, given)
        if given["command"] == "align":
            return align(console, given["out"], given)
        if given["command"] == "check-data":
            return check_data(console, given["path"])
        if given["command"] == "check":
            return check(console, given["id"], **chosen)
        if given["command"] == "play":
            return play(console, given["id"], given["index"], given["media"], **chosen)
        if given["command"] == "train-reward":
            from mmenv.rewards.preference.command import from_flags  # loads torch

            from_flags(console, given)
            return 0
        files = write_card(given["id"], given["out"], given["episodes"], **chosen)
        _say(console, f"{given['out']} and {len(files) - 1} pictures")
        return 0
    except (ValueError, RewardError, GymnasiumError, OSError, ImportError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
