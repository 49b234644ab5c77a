"""PPO's response tokens a second beside its peers, each in a process of its own, taking turns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.shape import Shape

HERE = Path(__file__).parent / "peers"
PEERS_ENVIRONMENT = HERE.parents[1] / ".venv-peers"
PEERS_PYTHON = PEERS_ENVIRONMENT / "bin" / "python"
REQUIREMENTS = ("torch", "transformers", "tokenizers", "datasets", "accelerate", "trl==1.16.0")
SHARES = ("env_share", "reward_share", "rollout_share", "update_share")
SLOW = {"sb3_ppo": 3}  # divides the updates: it trains an order of magnitude slower


def set_up_peers() -> None:
    """Make the environment that TRL runs in."""
    subprocess.run([sys.executable, "-m", "venv", str(PEERS_ENVIRONMENT)], check=True)
    (PEERS_ENVIRONMENT / ".gitignore").write_text("*\n", encoding="utf-8")  # later Pythons write it themselves
    constraints = HERE.parents[1] / "constraints.txt"
    pip = [str(PEERS_PYTHON), "-m", "pip", "install", "--disable-pip-version-check", "-c", str(constraints)]
    subprocess.run([*pip, *REQUIREMENTS], check=True)


def run(script: str, shape: Shape) -> dict[str, float] | None:
    """What a script measured, or None where its packages are missing."""
    python = str(PEERS_PYTHON) if script == "trl_grpo" else sys.executable
    if not Path(python).is_file():
        return None
    environment = {**os.environ, "OMP_NUM_THREADS": str(shape.threads), "HF_HUB_OFFLINE": "1"}
    command = [python, str(HERE / f"{script}.py"), *shape.arguments()]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if result.returncode:
        said = result.stderr.strip().splitlines() or ["nothing"]
        if said[-1].startswith("ModuleNotFoundError"):
            return None
        raise RuntimeError(f"{script} failed; it said:\n" + "\n".join(said[-15:]))
    return json.loads(result.stdout.strip().splitlines()[-1])


def measure(quick: bool, threads: int) -> dict[str, Any]:
    """Medians over rounds in which everything runs once."""
    updates, repeats = (1, 1) if quick else (6, 3)
    # In groups of eight, as TRL's GRPO has them, the responses to a context share its reading; alone they cannot.
    scripts = {"bare_loop": 1, "mmenv_ppo": 1, "mmenv_ppo grouped": 8, "trl_grpo": 1, "sb3_ppo": 1, "sb3_fast_ppo": 1}
    results: dict[str, list[dict[str, float]]] = {name: [] for name in scripts}
    for _ in range(repeats):
        for name, group in scripts.items():
            few = max(1, updates // SLOW.get(name, 1))
            result = run(name.split()[0], Shape(updates=few, threads=threads, group=group))
            if result is not None:
                results[name].append(result)
    ours = results["mmenv_ppo"]
    if not ours:
        raise RuntimeError("mmenv_ppo found a package missing: pip install -c constraints.txt -e '.[agents]'")
    return {
        "ppo_tokens_per_second": _median(ours, "tokens_per_second"),
        "ppo_over_bare": _ratio(ours, results["bare_loop"]),
        "ppo_over_trl": _ratio(ours, results["trl_grpo"]),
        "ppo_over_sb3": _ratio(ours, results["sb3_ppo"]),
        "ppo_over_sb3_fast": _ratio(ours, results["sb3_fast_ppo"]),
        "ppo_grouped_over_trl": _ratio(results["mmenv_ppo grouped"], results["trl_grpo"]),
        **{share: _median(ours, share) for share in SHARES},
        "training": {"shape": vars(Shape(updates=updates, threads=threads)), "repeats": repeats, "runs": results},
    }


def _ratio(ours: list[dict[str, float]], theirs: list[dict[str, float]]) -> float | None:
    """Median of the ratios within a round: what slows the machine down for a while slows both."""
    pairs = zip(ours, theirs, strict=True) if theirs else ()
    ratios = [mine["tokens_per_second"] / other["tokens_per_second"] for mine, other in pairs]
    return float(np.median(ratios)) if ratios else None


def _median(found: list[dict[str, float]], key: str) -> float | None:
    return float(np.median([f[key] for f in found])) if found else None
