"""python -m benchmarks --out bench.json [--quick] [--threads N] [--setup-peers]"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import mmenv
from benchmarks import environments, training

MEANINGS = {
    "vector_over_sync": "native vector env over Gymnasium's SyncVectorEnv, the slower task",
    "vector_tokens_per_second": "native vector env, 256 lanes, gold reward, the slower task",
    "scalar_tokens_per_second": "one scalar env",
    "dialogue_tokens_per_second": "spoken dialogue, utterances made while stepping",
    "fresh_tokens_per_second": "VQA, scenes drawn while stepping",
    "ppo_tokens_per_second": "PPO with environment, reward and reference",
    "ppo_over_bare": "... over rollout and passes on made-up tensors",
    "ppo_over_trl": "... over TRL's GRPO, text only",
    "ppo_over_sb3": "... over stable-baselines3's PPO",
    "ppo_over_sb3_fast": "... over the same PPO through FastTokenPolicy and SequenceBuffer; at most 2 is the aim",
    "ppo_grouped_over_trl": "PPO with eight responses to a context, as GRPO has, over TRL's GRPO",
    "env_share": "share of PPO's time spent in the environment, reward left out",
    "reward_share": "share spent in the reward",
    "rollout_share": "share spent in rollouts, environment included",
    "update_share": "share spent in updates, reference included",
}


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    names = ("torch", "numpy", "gymnasium", "stable_baselines3")
    return {
        "platform": platform.platform(), "processor": _processor(), "cores": os.cpu_count(),
        "load": os.getloadavg(), "python": platform.python_version(),
        "versions": {"mmenv": mmenv.__version__} | {n: metadata.version(n) for n in names},
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }  # fmt: skip


def _processor() -> str:
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text(encoding="utf-8").splitlines() if listing.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def show(result: dict[str, Any], console: Console) -> None:
    """The figures as a table."""
    threads = result["training"]["shape"]["threads"]
    table = Table(
        title=f"{result['machine']['processor']}, load {result['machine']['load'][0]:.1f}, {threads} torch threads"
    )
    table.add_column("figure", no_wrap=True)
    table.add_column("value", justify="right")
    table.add_column("what it is")
    for name, meaning in MEANINGS.items():
        value = result[name]
        text = "not measured" if value is None else f"{value:.3f}" if value < 100 else f"{value:,.0f}"
        table.add_row(name, text, meaning)
    console.print(table)
    for env_id, megabytes in result["environments"]["pool_megabytes"].items():
        console.print(f"pool of {result['environments']['pool']} samples of {env_id}: {megabytes:.0f} MB")
    if result["ppo_over_trl"] is None:
        console.print("TRL was not measured: python -m benchmarks --setup-peers makes an environment for it")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("bench.json"), help="where the figures go, as JSON")
    parser.add_argument("--quick", action="store_true", help="one short round, to see that everything runs")
    # With more, whatever else runs on the machine stalls the threads at their barriers, and the figures mean nothing.
    parser.add_argument("--threads", type=int, default=1, help="torch threads when training; more on idle cores")
    parser.add_argument("--setup-peers", action="store_true", help="make .venv-peers, where TRL runs, and stop")
    given = parser.parse_args(arguments)
    if given.setup_peers:
        training.set_up_peers()
        return 0
    result = {"machine": machine(), "quick": given.quick, **environments.measure(given.quick)}
    result.update(training.measure(given.quick, given.threads))
    given.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    show(result, Console())
    return 0


if __name__ == "__main__":
    sys.exit(main())
