"""The commands of the command line: a dataclass each, whose fields are its options."""

from __future__ import annotations

import dataclasses
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import gymnasium as gym
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text
from tyro.conf import Positional, UseAppendAction, arg

from mmenv.cards import write_card
from mmenv.data.sample import SPLITS
from mmenv.envs.checker import FIRST_CHECKS, ConformanceError, checks_of, run_check
from mmenv.feedback.pages.config import LabelOptions
from mmenv.models.representation.config import AlignConfig
from mmenv.playing import play, print_plain
from mmenv.registration import TABLE, default_task, import_module, spec_of, user_ids
from mmenv.rewards.loading import is_server, resolve_reward
from mmenv.rewards.preference.config import RewardConfig
from mmenv.rewards.remote.config import Serving
from mmenv.tasks.base import Task


class Command(Protocol):
    """What a person typed: the options of a command."""

    def execute(self, console: Console) -> int:
        """Do it; the exit code."""


@dataclass(frozen=True)
class List:
    """The ids: modalities, words of the vocabulary, tokens of a response (R), samples of each split."""

    packages: Positional[tuple[str, ...]] = ()
    """packages that register ids of their own, which are listed too"""

    def execute(self, console: Console) -> int:
        """Print the table; ``-`` where a task has samples only with a dataset."""
        for package in self.packages:
            import_module(package.partition(":")[0], f"list {package}")
        table = Table(box=SIMPLE_HEAD, padding=0, show_edge=False)  # 79 columns: a terminal of 80 cuts nothing off
        for column in ("id", "modalities", "words", "R", *SPLITS):
            table.add_column(column, justify="left" if column in ("id", "modalities") else "right", no_wrap=True)
        for env_id in dict.fromkeys((*TABLE, *user_ids())):
            task = default_task(env_id)
            vocabulary, response = f"{task.tokenizer.vocab_size:,}", f"{task.max_response_tokens:,}"
            sizes = (_size(task, split) for split in SPLITS)
            table.add_row(Text(env_id), ", ".join(task.modalities), vocabulary, response, *sizes)
        console.print(table)
        return 0


def _size(task: Task, split: str) -> str:
    try:
        return f"{task.size(split):,}"
    except NotImplementedError:  # such a task asks for a dataset
        return "-"


@dataclass(frozen=True)
class _Environment:
    id: Positional[str]
    """an id of the list, or package:namespace/Name-v0 of a package that registers it"""
    reward: Annotated[str | None, arg(help_behavior_hint="(default: that of the id)")] = None
    """preference, preference-weak, gold, the path of saved weights, or a reward server"""

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of the environment that were given."""
        values = {name: getattr(self, name, None) for name in ("reward", "split", "dataset")}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class _Samples(_Environment):
    split: Literal["train", "validation", "test", "comp", "all"] = "test"
    """which samples"""
    dataset: Annotated[str | None, arg(help_behavior_hint="(default: the world that is built in)")] = None
    """path of a dataset: see check-data"""


@dataclass(frozen=True, kw_only=True)
class Card(_Samples):
    """Write a page about an id, with pictures of episodes."""

    out: Path
    """the page, a Markdown file (.md); its pictures are written beside it as PAGE-EPISODE-FRAME.png"""
    episodes: int = 3
    """episodes that are shown, from sample 0 on"""

    def execute(self, console: Console) -> int:
        """Write page and pictures."""
        files = write_card(self.id, self.out, self.episodes, **self.arguments)
        print_plain(console, f"{self.out} and {len(files) - 1} pictures")
        return 0


@dataclass(frozen=True)
class Play(_Samples):
    """Respond yourself, and see reward and gold."""

    index: Annotated[int | None, arg(help_behavior_hint="(default: drawn at random)")] = None
    """number of the sample"""
    media: Path = Path(tempfile.gettempdir()) / "mmenv-play"
    """folder where pictures and sounds are put"""

    def execute(self, console: Console) -> int:
        """Play one episode."""
        play(console, self.id, self.index, self.media, **self.arguments)
        return 0


@dataclass(frozen=True)
class Check(_Environment):
    """Check that an id keeps the contract of environments."""

    def execute(self, console: Console) -> int:
        """Run every check, also after one has failed; 1 where one fails."""
        env = gym.make(spec_of(self.id, foreign=True), **self.arguments)
        failed = 0
        for check in checks_of(env):
            try:
                passed = run_check(check, env)
                print_plain(console, Text.assemble(("ok  ", "green"), f" {passed.name}: {passed.claim}"))
            except ConformanceError as error:
                failed += 1
                print_plain(console, Text.assemble(("fail", "red"), f" {error}"))
                if check in FIRST_CHECKS:
                    print_plain(console, "the other checks need what is missing here")
                    break
        env.close()
        verdict = f"{failed} of the checks failed" if failed else "keeps the contract"
        print_plain(console, f"{self.id}: {verdict}")
        return 1 if failed else 0


@dataclass(frozen=True)
class CheckData:
    """List every fault of a dataset with its line, and what the dataset holds."""

    path: Positional[str]
    """a folder with metadata.jsonl, a .jsonl file, COCO's captions or VQAv2's questions (.json); ?images=FOLDER behind
    it says where the pictures of a .json file are"""

    def execute(self, console: Console) -> int:
        """Read the dataset; 1 where there are faults."""
        from mmenv.data.readers.by_path import check_dataset, described_data

        dataset, faults = check_dataset(self.path)
        for fault in faults:
            print_plain(console, fault, style="red")
        if dataset is not None:
            for name, text in (described_data(dataset) | {"ids": _playable(dataset)}).items():
                print_plain(console, f"{name:<12}{text}")
        print_plain(console, f"{self.path}: {f'{len(faults)} faults' if faults else 'no faults'}")
        return 1 if faults or dataset is None else 0


def _playable(dataset: Any) -> str:
    """The ids whose observations a dataset can fill, one of each task."""
    env_ids = (*user_ids(), *reversed(TABLE))
    tasks = {type(task): (env_id, task) for env_id in env_ids for task in [default_task(env_id)]}
    ids = sorted(env_id for env_id, task in tasks.values() if dataset.modalities() >= set(task.modalities))
    return ", ".join(ids) or "none can play it: a sample needs a picture, in spoken dialogue a sound as well"


@dataclass(frozen=True)
class Label(LabelOptions):
    """Judge responses in the browser."""

    def execute(self, console: Console) -> int:
        """Serve the labelling pages until interrupted."""
        from mmenv.feedback.pages.command import label

        return label(console, self)


@dataclass(frozen=True)
class Feedback:
    """Import comparisons from files into a store of judgements, or export them from it."""

    direction: Positional[Literal["import", "export"]]
    """into the store, or out of it"""
    path: Positional[Path]
    """the file; for an export of preferences, a folder"""
    store: str
    """a SQLite file, made by an import where it is missing, or postgresql://user@host/name"""
    format: Literal["comparisons", "preferences", "label-studio"] = "comparisons"
    """JSON lines of comparisons, columns of prompt, chosen and rejected, or tasks of Label Studio"""
    annotator: Annotated[str | None, arg(help_behavior_hint="")] = None
    """import: name for judgements without one; export: only the judgements of this one"""
    media: UseAppendAction[tuple[Path, ...]] = ()
    """a folder, beside that of the store, in which items have their media"""

    def execute(self, console: Console) -> int:
        """Move the judgements; 1 where the store failed or something could not be read."""
        from mmenv.feedback.exchange.files import command

        return command(console, self.direction, self.path, self.store, self.format, self.annotator, self.media)


@dataclass(frozen=True, kw_only=True)
class TrainReward(RewardConfig):
    """Train a preference model on judged comparisons."""

    comparisons: tuple[Path, ...] = ()
    """files of judged comparisons, JSON lines, with their media beside them"""
    store: Annotated[str | None, arg(help_behavior_hint="")] = None
    """a store of judgements: a SQLite file, or postgresql://user@host/name"""
    media: UseAppendAction[tuple[Path, ...]] = ()
    """a folder, beside that of the store, in which items have their media"""
    out: Path
    """the weights, NAME.safetensors, for --reward; a report goes to NAME.json and NAME-reliability.png"""
    members: int = 5
    """models in the ensemble; 1 for a plain model"""
    combine: Literal["mean", "minimum", "variance"] = "mean"
    """reward of the ensemble: its mean, its least, or the mean less the variance"""
    weight: float = 1.0
    """of the variance that is subtracted from the mean"""
    held_out: float = 0.2
    """share of the samples that is held out for report and temperature"""
    backbone: str = "start"
    """shipped name, file or run's folder of the network that every model begins as"""

    def execute(self, console: Console) -> int:
        """Train, save and report."""
        from mmenv.rewards.preference.command import TrainRewardConfig, train_reward

        names = {field.name for field in dataclasses.fields(TrainRewardConfig)} - {"learning"}
        values = {name: getattr(self, name) for name in names}
        train_reward(console, TrainRewardConfig(learning=_as(RewardConfig, self), **values))
        return 0


def _as(cls: Any, options: Any) -> Any:
    """The dataclass that the options of a command extend, without what the command adds."""
    return cls(**{field.name: getattr(options, field.name) for field in dataclasses.fields(cls) if field.init})


@dataclass(frozen=True, kw_only=True)
class ServeReward(Serving):
    """Serve a reward function to environments of other processes and machines."""

    reward: str
    """preference, preference-weak, the path of saved weights or of a model's folder, or module:function"""
    env_id: str = "mmenv/VQA-v0"
    """id whose preference models are meant"""

    def execute(self, console: Console) -> int:
        """Serve until interrupted."""
        from mmenv.rewards.remote.server import imported, serve

        reward = self.reward
        if reward == "gold":
            raise ValueError("reward='gold' needs the truth of the world, which is never sent: use it where the env is")
        if ":" in reward and not is_server(reward) and not Path(reward).exists():
            return serve(console, imported(reward), self)
        return serve(console, resolve_reward(reward, default_task(self.env_id)), self)


@dataclass(frozen=True, kw_only=True)
class Align(AlignConfig):
    """Pretrain encoders of image, audio and text."""

    out: Path
    """folder for representation.safetensors, metrics.json and retrieval.png"""
    device: str = "cpu"
    """where it is trained: cpu, cuda, cuda:1"""

    def execute(self, console: Console) -> int:
        """Pretrain, save and evaluate."""
        from mmenv.models.representation import command

        command.run(_as(AlignConfig, self), self.out, console, self.device)
        return 0


COMMANDS: dict[str, type[Command]] = {
    "list": List, "card": Card, "play": Play, "check": Check, "check-data": CheckData, "label": Label,
    "feedback": Feedback, "train-reward": TrainReward, "serve-reward": ServeReward, "align": Align,
}  # fmt: skip
