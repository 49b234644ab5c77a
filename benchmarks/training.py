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
    scripts = ("bare_loop", "mmenv_ppo", "trl_grpo", "sb3_ppo")
    results: dict[str, list[dict[str, float]]] = {name: [] for name in scripts}
    for _ in range(repeats):
        for name in scripts:
            few = max(1, updates // SLOW.get(name, 1))
            result = run(name, Shape(updates=few, threads=threads))
            if result is not None:
                results[name].append(result)
    speed = {name: _median(found, "tokens_per_second") for name, found in results.items()}
    ours = speed["mmenv_ppo"]
    if ours is None:
        raise RuntimeError("mmenv_ppo found a package missing: install mmenv[agents]")
    ratio = {name: None if other is None else ours / other for name, other in speed.items()}
    return {
        "ppo_tokens_per_second": ours,
        "ppo_over_bare": ratio["bare_loop"],
        "ppo_over_trl": ratio["trl_grpo"],
        "ppo_over_sb3": ratio["sb3_ppo"],
        **{share: _median(results["mmenv_ppo"], share) for share in SHARES},
        "training": {"shape": vars(Shape(updates=updates, threads=threads)), "repeats": repeats, "runs": results},
    }


def _median(found: list[dict[str, float]], key: str) -> float | None:
    return float(np.median([f[key] for f in found])) if found else None
