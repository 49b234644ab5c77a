"""The task that an environment's arguments describe: datasets are read, samples and arguments checked."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from mmenv.arguments import ArgumentError, ArgumentTypeError, positive
from mmenv.data.sample import DatasetWarning, Sample
from mmenv.tasks.base import Task
from mmenv.tokenizer import Tokenizer, WordTokenizer

LONGEST_QUOTE = 200  # characters of a value in an error message
SAMPLES_READ = 8  # of a split, to find words outside the vocabulary
WORDS_NAMED = 10
VOCABULARY_REMEDY = (
    "override default_tokenizer of the task (mmenv.learn_tokenizer([...]) makes a tokenizer from texts), or pass "
    "tokenizer="
)


@runtime_checkable
class SampleSource(Protocol):
    """A sequence of samples: a length, and samples by index."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Sample: ...


def make_task(
    make: Task | Callable[..., Task],
    dataset: Any = None,
    image_size: Any = None,
    tokenizer: Any = None,
    level: Any = None,
    shift: Any = None,
) -> Task:
    """The task that ``make`` is, or the one it makes from these arguments; paths of datasets are read.

    ``level`` and ``shift`` go to tasks that have them, where they are not None.

    Raises:
        ArgumentError: an argument has the wrong type or is out of range.
    """
    if tokenizer is not None and not isinstance(tokenizer, Tokenizer):
        raise ArgumentTypeError(
            f"tokenizer={tokenizer!r} is not a Tokenizer: give an object with the methods of mmenv.Tokenizer"
        )
    if image_size is not None:
        image_size = positive("image_size", image_size)
    world = {name: value for name, value in (("level", level), ("shift", shift)) if value is not None}
    if isinstance(make, Task):
        given = {"dataset": dataset, "image_size": image_size, "tokenizer": tokenizer, **world}
        for name, value in given.items():
            if value is not None:
                raise ArgumentError(f"{name}={value!r}, but the task exists already: pass {name}= to the task itself")
        return make
    if not callable(make):
        raise ArgumentTypeError(f"task={make!r} is not a task: give a Task, its class, or a function that makes one")
    for name, value in world.items():
        if not _takes(make, name):
            raise ArgumentError(
                f"{name}={value!r}: this task has no {name}, only those of mmenv's worlds do; leave it out"
            )
    task = make(dataset=_samples_of(dataset, image_size), image_size=image_size, tokenizer=tokenizer, **world)
    if dataset is None and task.image_size not in task.image_sizes:
        raise ArgumentError(f"image_size={image_size!r} is unknown: give one of {task.image_sizes}")
    return task


def _takes(make: Callable[..., Task], name: str) -> bool:
    """Whether a class or function that makes tasks has an argument of this name."""
    parameters = inspect.signature(make).parameters
    return name in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def warn_of_unknown_words(task: Task, split: str) -> None:
    """Warn of words of a task's own prompts and references that its tokenizer lacks: no policy reads or writes them.

    Samples of a dataset are not loaded for it, and a test reads those of the tasks of ``mmenv.tasks``.
    """
    if task.dataset is not None or type(task).__module__.startswith("mmenv.tasks."):
        return
    if unknown := unknown_words(task, split):
        more = ", ..." if len(unknown) > WORDS_NAMED else ""
        warnings.warn(
            f"the task {task.name!r} has words outside its vocabulary of {task.tokenizer.vocab_size} tokens, which all "
            f"become the unknown word: {', '.join(unknown[:WORDS_NAMED])}{more}; {VOCABULARY_REMEDY}",
            DatasetWarning,
            stacklevel=3,
        )


def unknown_words(task: Task, split: str) -> list[str]:
    """Words of the prompts and references of a few samples that the task's tokenizer lacks, in alphabetical order.

    Args:
        task: gives samples and tokenizer; only a ``WordTokenizer`` can lack words.
        split: whose samples are read, at places that are spread over it.
    """
    if not isinstance(task.tokenizer, WordTokenizer):
        return []
    texts = {text for sample in few_samples(task, split) for text in (sample.prompt, *sample.references)}
    return task.tokenizer.unknown_words(texts)


def few_samples(task: Task, split: str) -> list[Sample]:
    """Up to ``SAMPLES_READ`` samples of a task, at places that are spread over a split.

    Raises:
        ArgumentTypeError: one is no sample, or a field of it has the wrong type.
    """
    size = task.size(split)
    places = sorted({k * size // SAMPLES_READ for k in range(SAMPLES_READ)}) if size > 0 else []
    samples = [task.sample(split, place) for place in places]
    for sample in samples:
        check_sample(sample)
    return samples


def _samples_of(dataset: Any, image_size: int | None) -> Any:
    """A dataset as a sequence of samples; paths and tables of ``datasets`` are read, None stays None."""
    if isinstance(dataset, str | Path):
        from mmenv.data.readers.by_path import read_dataset

        return read_dataset(dataset, image_size)
    if type(dataset).__module__.partition(".")[0] == "datasets":  # a test that does not import the package
        from mmenv.data.readers.hub import from_datasets

        return from_datasets(dataset, image_size=image_size)
    if isinstance(dataset, list | tuple):
        for sample in dataset:
            check_sample(sample)
    is_sequence = isinstance(dataset, SampleSource) and not isinstance(dataset, Mapping | bytes | bytearray)
    if dataset is None or is_sequence:
        return dataset
    raise ArgumentTypeError(f"dataset={dataset!r} is neither a path nor a sequence of samples: give one of these")


def check_sample(sample: Any) -> None:
    """Check that something is a ``Sample`` whose fields have their types; media are checked where they are used.

    Raises:
        ArgumentTypeError: names the sample, the field and its value.
    """
    if not isinstance(sample, Sample):
        raise ArgumentTypeError(
            f"{_quoted(sample)} is not an mmenv.Sample: give samples, such as "
            "mmenv.Sample('mine/0', 0, 'what is it ?', image=...), or the path of a dataset"
        )
    _check_field(sample, "id", isinstance(sample.id, str), "a str")
    _check_field(sample, "index", isinstance(sample.index, int | np.integer), "an int")
    _check_field(sample, "prompt", isinstance(sample.prompt, str), "a str")
    texts = sample.references
    are_texts = isinstance(texts, tuple | list) and all(isinstance(text, str) for text in texts)
    _check_field(sample, "references", are_texts, "a tuple of str")
    _check_field(sample, "said", isinstance(sample.said, str), "a str")


def _check_field(sample: Sample, name: str, is_right: bool, wanted: str) -> None:
    if not is_right:
        raise ArgumentTypeError(f"sample {sample.id!r} has {name}={_quoted(getattr(sample, name))}: give {wanted}")


def _quoted(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST_QUOTE else f"{text[:LONGEST_QUOTE]}..."
