"""Folders of models from elsewhere: no code of theirs runs, no pickle is opened, and what is wrong is one sentence."""

from __future__ import annotations

import ast
import io
import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from agents.policies.transformers.config import HFConfig
from agents.policies.transformers.loading import load_transformers
from benchmarks.models import llama, words
from mmenv.models.checkpoints import WeightsError, load_pretrained
from mmenv.models.representation.towers import PretrainedTower
from mmenv.rewards.judges.prompted import load_judge
from mmenv.rewards.loading import load_reward
from tests.backbones import small_backbone

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return llama(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def folder(whole, tmp_path):
    """A copy that a test may break."""
    return shutil.copytree(whole, tmp_path / "model")


def edit(folder, name, **fields):
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def pickled(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def indexed(folder, shard):
    names = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, shard)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def without_end(folder):
    for name in ("config.json", "generation_config.json"):
        edit(folder, name, eos_token_id=None)
    fields = json.loads((folder / "tokenizer_config.json").read_text())
    del fields["eos_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(fields))


def with_a_token_more(folder):
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([f"new{i}" for i in range(3)])
    tokenizer.save_pretrained(folder)


EVIL = {"AutoTokenizer": ["evil.T", None]}
BROKEN = {
    "pickled weights": (pickled, r"pytorch_model\.bin and no safetensors, and pickled weights are not opened"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), r"has no \*\.safetensors"),
    "header of weights": (lambda f: (f / "model.safetensors").write_bytes(b"\xff" * 99), "SafetensorError"),
    "cut weights": (lambda f: (f / "model.safetensors").write_bytes(b"\x08" + b"\0" * 11), "SafetensorError"),
    "weights outside": (lambda f: indexed(f, "/etc/passwd"), "names '/etc/passwd', which is no file of the folder"),
    "weights above": (lambda f: indexed(f, "../x.safetensors"), "which is no file of the folder"),
    "no such shard": (lambda f: indexed(f, "x.safetensors"), "'x.safetensors', which is no file of the folder"),
    "index of no object": (lambda f: (f / "model.safetensors.index.json").write_text("[]"), "TypeError"),
    "quantisation": (lambda f: edit(f, "config.json", quantization_config={"quant_method": "gptq", "bits": 4}), "GPTQ"),
    "code of a model": (
        lambda f: edit(f, "config.json", model_type="evil", auto_map={"AutoConfig": "evil.C"}), "contains custom code",
    ),
    "code of a tokenizer": (
        lambda f: edit(f, "tokenizer_config.json", tokenizer_class="Evil", auto_map=EVIL),
        "contains custom code",
    ),
    "adapters": (lambda f: (f / "adapter_config.json").write_text("{}"), "holds adapters, and no model"),
    "configuration of no object": (lambda f: (f / "config.json").write_text("[]"), "Unrecognized model"),
    "configuration of bytes": (lambda f: (f / "config.json").write_bytes(b"\xff\xfe"), "not a valid JSON file"),
    "width of text": (lambda f: edit(f, "config.json", hidden_size="wide"), "hidden_size"),
    "no heads": (lambda f: edit(f, "config.json", num_attention_heads=0), "ZeroDivisionError"),
    "another width": (lambda f: edit(f, "config.json", hidden_size=64), "RuntimeError"),
    "more layers": (lambda f: edit(f, "config.json", num_hidden_layers=3), "lacks"),
    "tokenizer of nothing": (lambda f: (f / "tokenizer.json").write_text("{}"), "cannot be read"),
    "no end": (without_end, "no end token"),
    "more tokens than embedded": (
        with_a_token_more, rf"embeds {len(words())} tokens .* has {len(words()) + 3}: call model\.resize_token",
    ),
    "template": (
        lambda f: (f / "chat_template.jinja").write_text("{{ messages.__class__.__mro__ }}"),
        "the chat template of .* cannot be read",
    ),
    "template without the question": (
        lambda f: (f / "chat_template.jinja").write_text("hello"), "leaves out the user's message",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_folder_is_refused_in_a_sentence(folder, what, monkeypatch):
    spoil, message = BROKEN[what]
    (folder / "evil.py").write_text("raise SystemExit('ran')")
    spoil(folder)
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 9))
    with pytest.raises(WeightsError, match=message) as caught:
        load_transformers(HFConfig(str(folder), lora_rank=0))
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("load", [load_reward, load_judge, lambda f: PretrainedTower(str(f), "text", 8)])
@pytest.mark.parametrize("what", ["pickled weights", "header of weights", "code of a model", "weights outside"])
def test_rewards_judges_and_towers_refuse_them_too(folder, what, load, monkeypatch):
    spoil, message = BROKEN[what]
    edit(folder, "config.json", num_labels=1)
    (folder / "evil.py").write_text("raise SystemExit('ran')")
    spoil(folder)
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 9))
    with pytest.raises(WeightsError, match=message):
        load(folder)


def test_every_call_that_reads_a_folder_says_that_no_code_of_it_runs():
    calls, wrong = 0, []
    for path in (
        p for room in ("mmenv", "agents", "examples", "scripts", "benchmarks") for p in (ROOT / room).rglob("*.py")
    ):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("from_pretrained", "from_config"):
                calls += 1
                said = {k.arg: ast.unparse(k.value) for k in node.keywords}
                if said.get("trust_remote_code") != "False":
                    wrong.append(f"{path.name}:{node.lineno}")
    assert calls > 5
    assert not wrong


NETWORK = {"vocab_size": 8, "width": 4, "layers": 1, "heads": 1}
LIES = {
    "no configuration": ({}, "has no 'config' in its metadata"),
    "no JSON": ({"config": "{"}, "broken 'config'"),
    "no object": ({"config": "[]"}, "has list for 'config'"),
    "a field less": ({"config": json.dumps({"width": 4})}, r"lacks or adds \['vocab_size'\]"),
    "a field more": ({"config": json.dumps({**NETWORK, "evil": 1})}, r"lacks or adds \['evil'\]"),
    "a text for a number": ({"config": json.dumps({**NETWORK, "layers": "2"})}, "layers='2'"),
    "four terabytes": ({"config": json.dumps({**NETWORK, "width": 10**6})}, "which its 4096 numbers do not hold"),
    "layers without end": ({"config": json.dumps({**NETWORK, "layers": 10**9})}, "which its 4096 numbers do not hold"),
    "modalities": ({"config": json.dumps({**NETWORK, "modalities": 3})}, "modalities=3"),
    "other tensors": ({"config": json.dumps(NETWORK)}, "does not fit its own configuration"),
}


@pytest.mark.parametrize("what", LIES)
def test_weights_whose_metadata_lie_are_refused_in_a_sentence(tmp_path, what):
    metadata, message = LIES[what]
    save_file({"embed.weight": torch.zeros(64, 64)}, tmp_path / "w.safetensors", {"kind": "network", **metadata})
    with pytest.raises(WeightsError, match=message) as caught:
        load_pretrained(tmp_path / "w.safetensors")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        ("preference", None, "has no 'preference'"),
        ("preference", [], "has list for 'preference'"),
        ("preference", {}, "mean=None"),
        ("preference", {"head": "mean", "mean": 0.0, "std": 0.0}, "std=0.0"),
        ("preference", {"head": "odd", "mean": 0.0, "std": 1.0}, "does not fit"),
        ("ensemble", None, "has no 'ensemble'"),
        ("ensemble", {"members": 3}, "members=3"),
        ("ensemble", {"members": [[0.0, 1.0]], "combine": "odd", "weight": 1.0}, "combine='odd'"),
    ],
)
def test_reward_models_whose_metadata_lie_are_refused_in_a_sentence(tmp_path, kind, fields, message):
    small_backbone(tmp_path, width=16, heads=2)
    metadata = {"kind": kind, "parent": "small.safetensors"} | ({} if fields is None else {kind: json.dumps(fields)})
    save_file({"x": torch.zeros(2)}, tmp_path / "r.safetensors", metadata)
    with pytest.raises(WeightsError, match=message):
        load_reward(tmp_path / "r.safetensors")
