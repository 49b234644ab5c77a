"""Ids that agents train on: the task behind an id, its shipped start, and whether it is one to train on."""

from __future__ import annotations

from mmenv.registration import defaults_of, spec_of


def task_name(env_id: str) -> str:
    """Name of the task behind an id in shipped weights; ``""`` where none are shipped."""
    for part, name in (("VQA", "vqa"), ("Captioning", "captioning"), ("SpokenDialogue", "dialogue")):
        if f"/{part}" in env_id:
            return name
    return ""


def shipped_start(env_id: str) -> str:
    """Name of the shipped weights that a policy on an id starts from.

    Raises:
        ValueError: none are shipped for its task.
    """
    if name := task_name(env_id):
        return f"start-{name}"
    raise ValueError(
        f"no start is shipped for {env_id}: train one (python -m agents sft --env-id {env_id}), give --start"
    )


def check_ids(first: str, *others: str) -> None:
    """Check that a policy can be trained on the first id and evaluated on the others.

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
    for env_id in others:
        if task and task_name(spec_of(env_id).id) not in (task, ""):
            raise ValueError(f"{env_id} is another task than {first}: mmenv.evaluate plays any policy on any id")
