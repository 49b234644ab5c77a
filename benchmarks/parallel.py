"""PPO on two processes with a core each, over one process with one core: python -m benchmarks.parallel

Both train with the same lanes in all, taking turns. The cores must be idle: what else runs on one of them holds up both
processes, which wait for each other at every gradient step.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from agents import files
from benchmarks.__main__ import machine

WARM = 2  # updates left out: the first ones read weights and fill caches


def speed(cores: list[int], env_id: str, num_envs: int, tokens: int) -> float:
    """Tokens a second of a run with a process on each of ``cores``.

    Raises:
        RuntimeError: a process failed.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    several = {"WORLD_SIZE": str(len(cores)), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-m", "agents", "ppo", "--env-id", env_id, "--num-envs", str(num_envs), "--threads", "1",
            "--total-tokens", str(tokens), "--eval-episodes", "0", "--no-pictures", "--checkpoint-every", "1000",
            "--out", f"{folder}/run",
        ]  # fmt: skip
        processes = [
            subprocess.Popen(
                command, stdout=subprocess.DEVNULL, preexec_fn=functools.partial(os.sched_setaffinity, 0, {core}),
                env={**os.environ, "OMP_NUM_THREADS": "1", **several, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            )
            for rank, core in enumerate(cores)
        ]  # fmt: skip
        codes = [process.wait() for process in processes]
        if any(codes):
            raise RuntimeError(f"processes ended with {codes}: their messages stand above")
        rows = files.read_lines(Path(folder) / "run" / "metrics.jsonl")
    return (rows[-1]["tokens"] - rows[WARM - 1]["tokens"]) / (rows[-1]["seconds"] - rows[WARM - 1]["seconds"])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.parallel", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("parallel.json"), help="where the figures go, as JSON")
    parser.add_argument("--env-id", default="mmenv/VQA-v0")
    parser.add_argument("--num-envs", type=int, default=512, help="lanes in all; few for each, and the steps cost more")
    parser.add_argument("--tokens", type=int, default=16_000, help="of each run")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        parser.error("this process may use one core: two are compared with one")
    found: dict[str, list[float]] = {"one": [], "two": []}
    for _ in range(given.rounds):
        found["one"].append(speed(cores[:1], given.env_id, given.num_envs, given.tokens))
        found["two"].append(speed(cores, given.env_id, given.num_envs, given.tokens))
    ratios = [two / one for one, two in zip(found["one"], found["two"], strict=True)]
    ratio = float(np.median(ratios))
    setting = {"env_id": given.env_id, "num_envs": given.num_envs, "tokens": given.tokens}
    result = {"machine": machine(), **setting, "tokens_per_second": found, "two_over_one": ratio}
    given.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(
        f"one process {np.median(found['one']):,.0f} tokens/s, two {np.median(found['two']):,.0f}: {ratio:.2f} times "
        f"({min(ratios):.2f} to {max(ratios):.2f})"
    )


if __name__ == "__main__":
    main()
