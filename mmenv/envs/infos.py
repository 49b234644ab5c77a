"""The infos of a vector environment: writing ended responses into them, and reading them back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmenv.data.sample import Response, Sample
from mmenv.envs.judging import Judged


@dataclass(frozen=True)
class Finished:
    """The responses that ended in a step.

    Attributes:
        lanes: int64 (n,)
        response: n texts.
        stop: n of ``"eos"`` and ``"budget"``.
        family: n kinds of questions, ``""`` where a sample has none.
        gold: float64 (n,), nan where it is unknown.
        gold_parts: parts of gold by name, each float64 (n,), nan where a response's gold has no such part.
        parts: components of a composed reward by name, each float64 (n,), nan where a response was not scored.
    """

    lanes: np.ndarray
    response: list[str]
    stop: list[str]
    family: list[str]
    gold: np.ndarray
    gold_parts: dict[str, np.ndarray]
    parts: dict[str, np.ndarray]


def finished(infos: Mapping[str, Any]) -> Finished:
    """The ended responses of a vector env's ``infos``, from the top level and ``final_info``, in the order of lanes."""
    sources = [s for s in (infos, infos.get("final_info", {})) if "_response" in s]
    ended = sorted(((lane, k) for k, s in enumerate(sources) for lane in np.flatnonzero(s["_response"]).tolist()))
    keys = sorted({key for s in sources for key in s})

    def column(key: str) -> np.ndarray:
        values = [
            sources[k][key][lane] if key in sources[k] and sources[k][f"_{key}"][lane] else np.nan for lane, k in ended
        ]
        return np.array(values, dtype=np.float64)

    def columns(prefix: str) -> dict[str, np.ndarray]:
        return {key.removeprefix(prefix): column(key) for key in keys if key.startswith(prefix)}

    return Finished(
        lanes=np.array([lane for lane, _ in ended], dtype=np.int64),
        response=[sources[k]["response"][lane] for lane, k in ended],
        stop=[sources[k]["stop"][lane] for lane, k in ended],
        family=[sources[k]["family"][lane] or "" if "family" in sources[k] else "" for lane, k in ended],
        gold=column("gold"),
        gold_parts=columns("gold/"),
        parts=columns("rewards/"),
    )


def without_gold(info: Mapping[str, Any]) -> dict[str, Any]:
    """The info of a scalar environment without what only the world knows, so that it may be sent to another party.

    Left out are ``gold``, its parts ``gold/<name>``, the reward's part ``rewards/gold`` and ``family``.
    """
    hidden = ("gold", "rewards/gold", "family")
    return {key: value for key, value in info.items() if key not in hidden and not key.startswith("gold/")}


def add_response_infos(
    infos: dict[str, Any],
    num_envs: int,
    lanes: np.ndarray,
    samples: Sequence[Sample],
    responses: Sequence[Response],
    judged: Judged,
) -> None:
    """Write ended responses into ``infos``, each key with its mask, as Gymnasium's vector envs do.

    Args:
        infos: changed in place.
        num_envs: number of lanes N.
        lanes: int64 (n,), where they ended.
        samples: n, what was responded to.
        responses: n of them.
        judged: their scores and gold.
    """
    everywhere = np.ones(len(lanes), bool)
    texts = np.array([r.text for r in responses], dtype=object)
    stops = np.array([r.stop for r in responses], dtype=object)
    columns: list[tuple[str, np.ndarray, np.ndarray]] = [("response", texts, everywhere), ("stop", stops, everywhere)]
    families = np.array([s.family for s in samples], dtype=object)
    columns += [("family", families, families.astype(bool))]
    columns += [("gold", judged.gold, ~np.isnan(judged.gold))]
    columns += [(f"gold/{name}", part, ~np.isnan(part)) for name, part in judged.gold_parts.items()]
    columns += [(f"rewards/{name}", part, ~np.isnan(part)) for name, part in judged.parts.items()]
    for key, values, has_value in columns:
        if has_value.any():
            blank = np.full(num_envs, None, object) if values.dtype == object else np.zeros(num_envs)
            mask = np.zeros(num_envs, bool)
            blank[lanes[has_value]] = values[has_value]
            mask[lanes] = has_value
            infos[key], infos[f"_{key}"] = blank, mask


def split_final_infos(infos: Mapping[str, Any], ended: np.ndarray) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split infos into those that stay at the top level and those of ended episodes, under ``final_info``.

    Args:
        infos: as ``add_response_infos`` wrote them.
        ended: (N,) bool, the lanes whose episode is over.
    """
    stays: dict[str, Any] = {}
    final: dict[str, Any] = {}
    for key in [k for k in infos if not k.startswith("_")]:
        for part, mask in ((stays, infos[f"_{key}"] & ~ended), (final, infos[f"_{key}"] & ended)):
            if mask.any():
                blank = np.zeros_like(infos[key]) if infos[key].dtype != object else np.full(len(mask), None, object)
                blank[mask] = infos[key][mask]
                part[key], part[f"_{key}"] = blank, mask
    return stays, {"final_info": final}
