"""Two worker processes train as one does: same recipe, same code, rows divided, gradients and norms joined."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from keyword_cases import synthetic_keywords

from kwsq.ir.errors import UsageError
from kwsq.models.data.record_shards import write_shards
from kwsq.models.data.share import WHOLE
from kwsq.models.training.distribution import chosen_strategy, is_chief, own_share, replica_loss, spanning_step

SCRIPT = Path(__file__).resolve().parents[2] / "distributed_run.py"
UNIT = 2.0**-24
# The longest chain of float32 sums behind a loss: 5 taps x 64 bands, 24 clips x 32 frames of norm statistics (twice,
# sums and squares), 16 channels, 24 clips; each term adds one unit of rounding on either side, backwards as well.
CHAIN = 5 * 64 + 2 * 24 * 32 + 16 + 24
LOSS_SIZE = 8.0


def run_workers(count: int, *options: str) -> list[dict[str, Any]]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = ",".join(str(server.getsockname()[1]) for server in sockets)
    for server in sockets:
        server.close()
    environment = os.environ | {
        "CUDA_VISIBLE_DEVICES": "-1",
        "TF_NUM_INTRAOP_THREADS": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    environment["PYTHONPATH"] = os.pathsep.join([str(SCRIPT.parent), os.environ.get("PYTHONPATH", "")])
    commands = [[sys.executable, str(SCRIPT), ports, str(index), *options] for index in range(count)]
    workers = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for command in commands
    ]
    results = []
    for worker in workers:
        out, err = worker.communicate(timeout=300)
        assert worker.returncode == 0, err[-2000:]
        results.append(json.loads(out.splitlines()[-1]))
    return results


@pytest.mark.slow
def test_two_workers_have_the_loss_of_one() -> None:
    (alone,) = run_workers(1)
    first, second = run_workers(2)
    assert first == second
    assert_equal_up_to_rounding(first["losses"], alone["losses"])
    unjoined = run_workers(2, "unsynchronized")[0]["losses"]
    with pytest.raises(AssertionError, match="differs"):
        assert_equal_up_to_rounding(unjoined, alone["losses"])


@pytest.mark.slow
def test_two_workers_have_the_loss_of_one_with_everything_quantized() -> None:
    (alone,) = run_workers(1, "parameter_bits")
    first, second = run_workers(2, "parameter_bits")
    assert first == second
    assert_equal_up_to_rounding(first["losses"] + first["ranged"], alone["losses"] + alone["ranged"])
    assert not first["moved"]
    assert not alone["moved"]


@pytest.mark.slow
def test_two_workers_that_each_read_half_of_the_shards_have_the_loss_of_one(tmp_path: Path) -> None:
    shards = str(sharded(tmp_path / "of.shards"))
    (alone,) = run_workers(1, shards)
    first, second = run_workers(2, shards)
    assert first == second
    assert len(first["losses"]) == 4
    assert_equal_up_to_rounding(first["losses"], alone["losses"])
    assert alone["losses"] != run_workers(1)[0]["losses"]


def sharded(folder: Path) -> Path:
    clips = synthetic_keywords(100, seed=1)
    rows = zip(clips.features, clips.labels.tolist(), clips.speakers, clips.is_noise.tolist(), strict=True)
    write_shards(rows, folder, shards=4)
    return folder


@pytest.mark.slow
def test_a_worker_whose_shard_is_damaged_names_it_and_the_other_does_not_wait(tmp_path: Path) -> None:
    path = sharded(tmp_path / "of.shards") / "clips-00003-of-00004.tfrecord"
    data = bytearray(path.read_bytes())
    data[-10] ^= 1
    path.write_bytes(data)
    first, second = run_workers(2, str(path.parent), f"{tmp_path / 'out'}/")
    assert f"{path}: found a damaged clip after 24" in second["refused"]
    assert "found workers that have ended" in first["refused"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folders of two workers that have trained, and the digest of what they ended with."""
    folder = tmp_path_factory.mktemp("workers")
    first, second = run_workers(2, f"{folder}/")
    assert first == second
    return folder, first["weights"]


def laid_out(trained: Path, out: Path, states: list[dict[str, str]]) -> str:
    """Give each worker the state files that it has kept, by stage; return the folder as the program takes it."""
    for worker, kept in enumerate(states):
        (out / str(worker) / "state").mkdir(parents=True)
        for stage, name in kept.items():
            shutil.copy(trained / str(worker) / name, out / str(worker) / "state" / f"{stage}.npz")
    return f"{out}/"


@pytest.mark.slow
def test_workers_killed_between_two_saves_go_on_from_the_last_one(trained: tuple[Path, str], tmp_path: Path) -> None:
    folder, weights = trained
    behind = {"float": "state/float.npz", "w4-stage1": "epoch1"}
    ahead_but_for_a_lost_file = {"w4-stage1": "epoch2"}
    out = laid_out(folder, tmp_path, [behind, ahead_but_for_a_lost_file])
    assert run_workers(2, out) == [{"weights": weights}] * 2


@pytest.mark.slow
def test_all_workers_refuse_where_one_has_the_state_of_another_run(trained: tuple[Path, str], tmp_path: Path) -> None:
    out = laid_out(trained[0], tmp_path, [{"float": "state/float.npz"}, {"float": "state/w4-stage2.npz"}])
    first, second = run_workers(2, out)
    assert "states of another run, or damaged ones, on workers [1]" in first["refused"]
    assert "the state of another run: stage w4-stage2, " in second["refused"]


def assert_equal_up_to_rounding(found: list[float], wanted: list[float]) -> None:
    """Every step forward and backward once through the chain on both sides; the steps before add theirs."""
    bound = 4 * CHAIN * UNIT * LOSS_SIZE * np.arange(1, len(wanted) + 1)
    difference = np.abs(np.array(found) - np.array(wanted))
    assert max(wanted) < LOSS_SIZE
    assert (difference <= bound).all(), f"{difference} differs by more than {bound}"


def test_one_replica_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TF_CONFIG", raising=False)
    assert chosen_strategy().num_replicas_in_sync == 1
    assert is_chief(chosen_strategy())
    assert spanning_step(max) is max
    assert replica_loss(3.0) == 3.0
    assert own_share(5) == WHOLE


@pytest.mark.parametrize(
    ("others", "task", "found"),
    [
        ({}, ("worker", 0), True),
        ({}, ("worker", 1), False),
        ({"chief": ["127.0.0.1:3"]}, ("worker", 0), False),
        ({"chief": ["127.0.0.1:3"]}, ("chief", 0), True),
    ],
)
def test_one_worker_speaks_for_all(
    monkeypatch: pytest.MonkeyPatch, others: dict[str, list[str]], task: tuple[str, int], found: bool
) -> None:
    import tensorflow as tf

    cluster = {"worker": ["127.0.0.1:1", "127.0.0.1:2"]} | others
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": {"type": task[0], "index": task[1]}}))
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    assert is_chief(SimpleNamespace(cluster_resolver=resolver)) is found


def test_a_batch_that_replicas_do_not_divide_is_refused() -> None:
    import tensorflow as tf

    devices = tf.config.list_logical_devices("CPU")
    with tf.distribute.MirroredStrategy([devices[0].name]).scope():
        assert spanning_step(max) is max
        assert is_chief(tf.distribute.get_strategy())
    strategy = type("TwoReplicas", (), {"num_replicas_in_sync": 2})()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tf.distribute, "get_strategy", lambda: strategy)
        with pytest.raises(UsageError, match=r"found batches of 5 clips for 2 replicas"):
            own_share(5)
