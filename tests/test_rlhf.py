"""The loop: its phases leave what they promise, a kill in any of them loses no label and pays for none twice."""

import json
import shutil
import signal
import socket
import threading

import httpx
import pytest
import torch
from processes import Command, Signal

from agents import files
from agents.__main__ import main
from agents.rlhf.config import RLHFConfig, RoundPPOConfig
from agents.rlhf.loop import RLHFLoop, resume
from agents.training import checkpoints
from mmenv.feedback.comparison_files import read_comparisons
from mmenv.feedback.store import FeedbackStore
from mmenv.models.checkpoints import save_network
from mmenv.models.transformer import Network, NetworkConfig
from mmenv.rewards.preference.ensemble import load_ensemble
from mmenv.worlds.vocabulary import world_tokenizer

LABELS, ROUNDS = 48, 2


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("start") / "start.safetensors"
    save_network(Network(NetworkConfig(vocab_size=world_tokenizer().vocab_size, width=32, layers=1, heads=2)), path)
    return path


def arguments(start, out, *more):
    return [
        "rlhf", "--env-id", "mmenv/VQA-v0", "--rounds", str(ROUNDS), "--labels", str(LABELS), "--members", "2",
        "--weight", "2", "--epochs", "1", "--start", str(start), "--out", str(out), "--ppo.total-tokens", "300",
        "--ppo.num-envs", "16", "--ppo.eval-episodes", "4", "--ppo.checkpoint-every", "1", "--ppo.threads", "1",
        "--ppo.no-pictures", *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def whole(start, tmp_path_factory):
    """A loop that nobody interrupted."""
    out = tmp_path_factory.mktemp("whole") / "loop"
    assert main(arguments(start, out)) == 0
    return out


def labels_of(folder):
    with FeedbackStore(folder / "feedback.db") as store:
        return [(c.provenance["round"], c.provenance["pair"], c.choice) for c in store.judgements()]


def weights_of(folder):
    return checkpoints.load_checkpoint(folder / f"round-{ROUNDS}" / "ppo")[0]["policy"]


def test_a_loop_leaves_a_folder_a_round_and_a_figure(whole):
    assert {p.name for p in whole.iterdir()} >= {
        "config.json", "feedback.db", "round-1", "round-2", "rounds.jsonl", "rounds.png", "summary.json",
    }  # fmt: skip
    rows = files.read_lines(whole / "rounds.jsonl")
    assert [r["labels"] for r in rows] == [LABELS, 2 * LABELS]
    assert json.loads((whole / "summary.json").read_text())["rounds"] == ROUNDS
    reading = read_comparisons(whole / "round-1" / "samples.jsonl")
    assert len(reading.comparisons) == LABELS
    assert not reading.faults
    assert not any(c.decided for c in reading.comparisons)
    assert all((whole / "round-1" / c.image).is_file() for c in reading.comparisons)


@pytest.mark.slow
def test_what_to_ask_may_be_chosen_by_doubt(start, tmp_path):
    out = tmp_path / "loop"
    assert main(arguments(start, out, "--select", "mixed", "--pool", "3")) == 0
    second = read_comparisons(out / "round-2" / "samples.jsonl").comparisons
    assert len(second) == LABELS
    assert max(c.provenance["pair"] for c in second) >= LABELS, "chosen among three times as many"


def test_every_pair_is_labelled_once(whole):
    labels = labels_of(whole)
    assert len(labels) == len({(r, p) for r, p, _ in labels}) == ROUNDS * LABELS


def test_a_second_round_begins_with_the_policy_of_the_first(whole):
    first = checkpoints.load_checkpoint(whole / "round-1" / "ppo")[0]["policy"]
    second = checkpoints.load_checkpoint(whole / "round-2" / "ppo")[0]["reference"]
    assert all(torch.equal(first[k], second[k]) for k in first)


@pytest.mark.parametrize(
    "phase",
    [
        pytest.param("round-1/media", marks=pytest.mark.slow),
        "feedback.db",
        pytest.param("round-1/reward.safetensors", marks=pytest.mark.slow),
        "round-1/ppo/metrics.jsonl",
        pytest.param("round-2/media", marks=pytest.mark.slow),
    ],
)
def test_a_kill_in_any_phase_changes_nothing(start, whole, tmp_path, phase):
    out = tmp_path / "loop"
    # Killed as soon as the phase has begun to leave something behind.
    process = Command("agents", *arguments(start, out), watch=Signal(signal.SIGKILL, out / phase))
    process.ended()
    assert process.code == -signal.SIGKILL
    assert not (out / "summary.json").exists(), "the kill came too late to test anything"
    assert main(["rlhf", "--resume", str(out)]) == 0
    assert labels_of(out) == labels_of(whole)
    mine, theirs = weights_of(out), weights_of(whole)
    assert all(torch.equal(mine[k], theirs[k]) for k in theirs)


def test_models_pay_their_mean_less_the_weight_asked_for_of_their_variance(whole):
    for name in ("reward", "judge"):
        model = load_ensemble(whole / "round-2" / f"{name}.safetensors")
        assert (model.combine, model.weight, len(model.models)) == ("variance", 2.0, 2)


def test_the_threads_of_ppo_are_those_of_every_phase(tmp_path):
    """A sum depends on them to the last bit, and a resumed loop begins in another phase."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    RLHFLoop(RLHFConfig(ppo=RoundPPOConfig(threads=1)), tmp_path / "loop")
    now = torch.get_num_threads()
    torch.set_num_threads(before)
    assert now == 1


def test_a_whole_loop_is_not_gone_round_again(start, whole, tmp_path):
    copy = tmp_path / "loop"
    shutil.copytree(whole, copy)
    stamp = (copy / "round-2" / "ppo" / "summary.json").stat().st_mtime_ns
    assert main(["rlhf", "--resume", str(copy)]) == 0
    assert (copy / "round-2" / "ppo" / "summary.json").stat().st_mtime_ns == stamp


def test_other_settings_are_refused_in_the_same_folder(start, whole, capsys):
    assert main(arguments(start, whole, "--flip", "0.3")) == 1
    assert "flip 0.1 -> 0.3" in capsys.readouterr().err


def test_a_folder_older_than_a_setting_has_its_default(start, whole, tmp_path, capsys):
    copy = tmp_path / "loop"
    shutil.copytree(whole, copy)
    path = copy / "config.json"
    kept = json.loads(path.read_text())
    files.write_json(path, {k: v for k, v in kept.items() if k != "overlap"})
    assert main(["rlhf", "--resume", str(copy)]) == 0
    files.write_json(path, {k: v for k, v in kept.items() if k != "weight"})
    assert main(arguments(start, copy)) == 1
    assert "weight 1.0 -> 2.0" in capsys.readouterr().err


def test_wrong_settings_are_named():
    with pytest.raises(ValueError, match="labels=0"):
        RLHFConfig(labels=0)
    with pytest.raises(ValueError, match="flip=2"):
        RLHFConfig(flip=2)
    with pytest.raises(ValueError, match="weight=-1"):
        RLHFConfig(weight=-1)


def test_a_folder_that_holds_no_loop_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        resume(tmp_path)


@pytest.mark.timeout(120)
def test_people_label_where_they_are_asked(start, tmp_path):
    """The loop serves the pages and waits: five pairs are judged over HTTP, one is skipped, and it goes on."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    config = RLHFConfig(env_id="mmenv/VQA-v0", labels=6, rounds=1, annotator="browser", start=str(start), port=port)
    loop, folder = RLHFLoop(config, tmp_path / "loop"), tmp_path / "loop" / "round-1"
    folder.mkdir(parents=True)
    loop._sample(0, folder)

    def answer():
        with httpx.Client(base_url=url, headers={"origin": url}, transport=httpx.HTTPTransport(retries=20)) as client:
            client.get("/login")  # once it answers, the token is there
            token = (tmp_path / "loop" / "feedback.db.token").read_text()
            assert client.post("/login", data={"token": token}).status_code == 303
            assert client.post("/name", data={"name": "ann"}).status_code == 303
            for i in range(6):
                item = client.post("/api/next", json={"queue": []}).json()["item"]
                said = {"skipped": True} if i == 3 else {"choice": i % 2}
                body = {"item": item["id"], "key": f"the key {i}", **said}
                client.post("/api/judgements", json=body).raise_for_status()

    with FeedbackStore(tmp_path / "loop" / "feedback.db") as store:
        person = threading.Thread(target=answer)
        person.start()
        loop._label(0, folder, store)
        person.join()
        assert len(store.judgements()) == 5
        assert loop._judged(store, 0) == 5


def test_the_loop_samples_from_the_distribution_that_ppo_trains(start, tmp_path, monkeypatch):
    seen = []

    def sample_pairs(policies, *rest):
        seen.extend((p.temperature, p.top_p, p.device.type) for p in policies)
        raise InterruptedError

    monkeypatch.setattr("agents.rlhf.loop.pairs.sample_pairs", sample_pairs)
    config = RLHFConfig(start=str(start), ppo=RoundPPOConfig(temperature=0.7, top_p=0.9))
    with pytest.raises(InterruptedError):
        RLHFLoop(config, tmp_path / "loop").run()
    assert seen == [(0.7, 0.9, "cpu")]
    assert (tmp_path / "loop" / "round-1").is_dir()
