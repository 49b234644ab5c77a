"""Ids that agents train on: the task behind an id, its shipped start, and whether it is one to train on."""

from __future__ import annotations

from mmenv.registration import TABLE, defaults_of, spec_of, task_of

START = "start"  # the shipped network that policies start from: one for all tasks of the world but these
STARTS = {"guess": "start-guess"}


def task_name(env_id: str) -> str:
    """Name of the task behind an id in shipped preference models; ``""`` where no weights are shipped for it.

    They are shipped for the classes of the shipped ids, by whatever id a class is registered.

    Raises:
        ValueError: there is no such id.
    """
    task = task_of(env_id)
    return str(getattr(task, "name", "")) if task in {task_of(shipped) for shipped in TABLE} else ""


def shipped_start(env_id: str) -> str:
    """Name of the shipped weights that a policy on an id starts from.

    Raises:
        ValueError: none are shipped for its task; the message says what to do.
    """
    if name := task_name(env_id):
        return STARTS.get(name, START)
    raise ValueError(
        f"no start is shipped for {env_id}: train one (python -m agents sft --env-id {env_id} --out runs/start) "
        "and give --start runs/start, or give other weights"
    )


def id_and_split(entry: str, split: str) -> tuple[str, str]:
    """Id and split of an entry of ``also``, which is ``ID`` or ``ID@SPLIT``.

    Args:
        entry: of ``also``.
        split: where the entry names none.
    """
    env_id, _, other = entry.partition("@")
    return env_id, other or split


def check_ids(first: str, *others: str) -> None:
    """Check that a policy can be trained on the first id and evaluated on the others, given as ID or ID@SPLIT.

    Raises:
        ValueError: one is no environment of mmenv, or of another task than the first, or the first shows another split
            than train; the message names it.
    """
    spec = spec_of(first)
    if (split := defaults_of(spec.kwargs["env_id"]).get("split", "train")) != "train":
        plain = first.replace("Shifted-", "-")
        remedy = f"train on {plain} and give --also {first}" if plain != first else "train on one that shows train"
        raise ValueError(f"{first} shows its {split} split, which is for evaluation: {remedy}")
    task = task_name(spec.id)
    for entry in others:
        env_id, _ = id_and_split(entry, "")
        if task and task_name(spec_of(env_id).id) not in (task, ""):
            raise ValueError(f"{env_id} is another task than {first}: mmenv.evaluate plays any policy on any id")
