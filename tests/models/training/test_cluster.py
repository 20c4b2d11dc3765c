"""TF_CONFIG is checked before TensorFlow waits for what it names, and the wait can be ended."""

import json
import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import pytest

from kwsq.ir.errors import UsageError
from kwsq.models.training.cluster import EXAMPLE, Cluster, read_cluster, wait_for_others
from kwsq.models.training.distribution import chosen_strategy, ended_by_signals

PAIR = ["10.0.0.1:2222", "10.0.0.2:2222"]
PROGRAM = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
from kwsq.models.training.distribution import chosen_strategy
strategy = chosen_strategy(lambda line: print(line, flush=True))
print(strategy.num_replicas_in_sync, "replicas", flush=True)
while True:
    time.sleep(0.1)
"""


TWICE = """
from kwsq.models.training.distribution import chosen_strategy
lines = []
strategies = [chosen_strategy(lines.append) for _ in range(2)]
print(strategies[0] is strategies[1], strategies[0].num_replicas_in_sync, lines)
"""


def ports(sockets: list[socket.socket]) -> list[int]:
    return [each.getsockname()[1] for each in sockets]


def config(cluster: Any, task: Any) -> str:
    return json.dumps({"cluster": cluster, "task": task})


def worker(index: Any) -> dict[str, Any]:
    return {"type": "worker", "index": index}


def test_the_example_of_every_refusal_is_taken() -> None:
    assert read_cluster(EXAMPLE) == Cluster(tuple(PAIR), PAIR[0])


@pytest.mark.parametrize("index", [0, 1, "1"])
def test_all_workers_are_named_the_chief_first(index: Any) -> None:
    found = read_cluster(config({"worker": PAIR, "chief": ["c:1"]}, worker(index)))
    assert found == Cluster(("c:1", *PAIR), PAIR[int(index)])
    assert read_cluster(config({"chief": ["c:1"]}, {"type": "chief", "index": 0})) == Cluster(("c:1",), "c:1")


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("garbage", ["TF_CONFIG"]),
        ("[" * 100_000, ["TF_CONFIG"]),
        ("[]", ["TF_CONFIG: cluster", "TF_CONFIG: task"]),
        ("{}", ["TF_CONFIG: cluster", "TF_CONFIG: task"]),
        (config({}, worker(0)), ["TF_CONFIG: cluster", "TF_CONFIG: task.type"]),
        (config([], worker(0)), ["TF_CONFIG: cluster", "TF_CONFIG: task.type"]),
        (config({"worker": PAIR}, worker(2)), ["TF_CONFIG: task.index"]),
        (config({"worker": PAIR}, worker(-1)), ["TF_CONFIG: task.index"]),
        (config({"worker": PAIR}, worker(True)), ["TF_CONFIG: task.index"]),
        (config({"worker": PAIR}, worker("two")), ["TF_CONFIG: task.index"]),
        (config({"worker": PAIR}, {"index": 0}), ["TF_CONFIG: task.type"]),
        (config({"worker": PAIR}, {"type": "chief", "index": 0}), ["TF_CONFIG: task.type"]),
        (config({"worker": PAIR}, {"type": ["worker"], "index": 0}), ["TF_CONFIG: task.type"]),
        (config({"worker": PAIR}, 3), ["TF_CONFIG: task"]),
        (config({"worker": []}, worker(0)), ["TF_CONFIG: cluster.worker", "TF_CONFIG: task.index"]),
        (config({"worker": {"0": "a:1"}}, worker(0)), ["TF_CONFIG: cluster.worker"]),
        (config({"worker": ["a", "b:99999", 3, "c:1"]}, worker(0)), ["TF_CONFIG: cluster.worker"] * 3),
        (config({"worker": ["a:1", "a:1"]}, worker(0)), ["TF_CONFIG: cluster.worker"]),
        (config({"worker": PAIR, "ps": ["p:1"]}, worker(0)), ["TF_CONFIG: cluster.ps"]),
        (config({"worker": PAIR, "chief": ["c:1", "d:1"]}, worker(0)), ["TF_CONFIG: cluster.chief"]),
    ],
)
def test_what_does_not_say_which_workers_there_are_is_refused(
    text: str, wrong: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(UsageError) as caught:
        chosen_strategy()
    assert [problem.where for problem in caught.value.problems] == wrong


def free_addresses(count: int) -> list[str]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    found = [f"127.0.0.1:{port}" for port in ports(sockets)]
    for each in sockets:
        each.close()
    return found


def start(addresses: list[str], index: int, program: str = PROGRAM) -> "subprocess.Popen[str]":
    environment = os.environ | {
        "TF_CONFIG": config({"worker": addresses}, worker(index)), "CUDA_VISIBLE_DEVICES": "-1",
    }  # fmt: skip
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", program], text=True, env=environment, **pipes)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_that_waits_for_another_says_so_and_ends_when_it_is_told(number: signal.Signals) -> None:
    """The other one never comes. In TensorFlow this one would wait with it, whatever it is sent."""
    addresses = free_addresses(2)
    with start(addresses, 0) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"waiting for 2 workers: {addresses[0]}, {addresses[1]}\n"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=2)
        process.send_signal(number)
        try:
            assert process.wait(timeout=30) in (143, -signal.SIGINT)
        finally:
            process.kill()


@pytest.mark.slow
def test_workers_that_come_one_after_the_other_are_joined_and_hear_signals_afterwards() -> None:
    addresses = free_addresses(2)
    with start(addresses, 0) as first:
        assert first.stdout is not None
        first.stdout.readline()
        with start(addresses, 1) as second:
            assert second.stdout is not None
            second.stdout.readline()
            assert (first.stdout.readline(), second.stdout.readline()) == ("2 replicas\n", "2 replicas\n")
            for process in (first, second):
                process.terminate()
            assert {process.wait(timeout=60) for process in (first, second)} == {143}


def test_a_process_joins_once_however_many_recipes_it_trains() -> None:
    with start(free_addresses(1), 0, TWICE) as process:
        out, err = process.communicate(timeout=60)
    assert out == "True 1 []\n", err


def test_workers_are_waited_for_until_each_was_there_once() -> None:
    addresses = free_addresses(3)

    def joined(own: str) -> socket.socket:
        wait_for_others(Cluster(tuple(addresses), own))
        return socket.create_server(("127.0.0.1", int(own.rpartition(":")[2])))  # as TensorFlow does

    with ThreadPoolExecutor() as pool:
        waiting = [pool.submit(joined, own) for own in addresses[:2]]
        assert not wait(waiting, timeout=1).done
        waiting.append(pool.submit(joined, addresses[2]))
    for each in waiting:
        each.result().close()
    wait_for_others(Cluster((addresses[0],), addresses[0]))  # alone


def test_a_port_that_is_taken_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        (port,) = ports([taken])
        with pytest.raises(UsageError, match=rf"TF_CONFIG: found 127\.0\.0\.1:{port}: Address already in use"):
            wait_for_others(Cluster((f"127.0.0.1:{port}",), f"127.0.0.1:{port}"))


def test_handlers_are_put_back_and_what_is_ignored_stays_ignored() -> None:
    def handler(*_: object) -> None:
        raise AssertionError

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        signal.signal(signal.SIGTERM, handler)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with ended_by_signals():
            assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
            assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) is handler
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        for number, kept in before.items():
            signal.signal(number, kept)
