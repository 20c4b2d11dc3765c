"""The workers that TF_CONFIG names: checked, and waited for, before TensorFlow does so.

    {"cluster": {"worker": ["10.0.0.1:2222", "10.0.0.2:2222"]}, "task": {"type": "worker", "index": 0}}

TensorFlow waits without an end, holds Python's lock meanwhile and takes SIGTERM for itself: such a process hears
nothing. So every worker first listens on its own port until it has reached all others once, then leaves the port to
TensorFlow, which listens there as well: whoever is still looking finds one or the other.

Source: the form is that of TensorFlow's guide "Multi-worker training with Keras"; the waiting is ours.
"""

import json
import re
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kwsq.ir.errors import Problem, UsageError
from kwsq.models.allowed import require_none, shown

KINDS = ("chief", "worker")
EXAMPLE = '{"cluster": {"worker": ["10.0.0.1:2222", "10.0.0.2:2222"]}, "task": {"type": "worker", "index": 0}}'
RETRY_SECONDS, CONNECT_SECONDS = 0.5, 2.0
_ADDRESS = re.compile(r"(\S+):([0-9]{1,5})")
_REMEDY = f"write it like {EXAMPLE}"


@dataclass(frozen=True, slots=True)
class Cluster:
    """Addresses, host:port, of all workers, a chief first, and that of this one."""

    addresses: tuple[str, ...]
    own: str


def read_cluster(config: str) -> Cluster:
    """Return the workers.

    Args:
        config: value of TF_CONFIG.

    Raises:
        UsageError: it is no JSON of that form, or names a task that is none of the cluster's; all of it at once.
    """
    try:
        facts = json.loads(config)
    except (ValueError, RecursionError) as error:
        expected = "the workers and which one this is"
        raise UsageError(Problem("TF_CONFIG", f"no JSON ({error})", expected, _REMEDY)) from error
    stated: dict[str, Any] = facts if isinstance(facts, dict) else {}
    cluster, task = stated.get("cluster"), stated.get("task")
    require_none([*_wrong_cluster(cluster), *_wrong_task(task, cluster)])
    kinds, this = stated["cluster"], stated["task"]
    addresses = tuple(address for kind in KINDS for address in kinds.get(kind, ()))
    return Cluster(addresses, kinds[this["type"]][int(this["index"])])


def wait_for_others(cluster: Cluster) -> None:
    """Return once every other worker has been reached; signals are heard meanwhile.

    Raises:
        UsageError: this worker cannot listen on its port.
    """
    missing = [address for address in cluster.addresses if address != cluster.own]
    with _listening(cluster.own):
        while missing := [address for address in missing if not _answers(address)]:
            time.sleep(RETRY_SECONDS)


def _listening(own: str) -> socket.socket:
    port = _host_and_port(own)[1]
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    try:  # who connects is not answered: that it can is enough
        return socket.create_server(("", port), family=family, dualstack_ipv6=both, backlog=1024)
    except OSError as error:
        found, expected = f"{own}: {error.strerror or error}", "a port that is free, on this machine"
        raise UsageError(Problem("TF_CONFIG", found, expected, "end what uses it, or name another one")) from error


def _answers(address: str) -> bool:
    try:
        with socket.create_connection(_host_and_port(address), timeout=CONNECT_SECONDS):
            return True
    except OSError:  # also of names that nobody knows yet
        return False


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _wrong_cluster(cluster: Any) -> Iterator[Problem]:
    if not isinstance(cluster, dict) or not cluster:
        yield Problem("TF_CONFIG: cluster", shown(cluster), 'addresses, such as {"worker": ["host:port"]}', _REMEDY)
        return
    seen: list[Any] = []
    for kind, addresses in cluster.items():
        where = f"TF_CONFIG: cluster.{kind}"
        if kind not in KINDS:
            yield Problem(where, "another kind of process", f"{' and '.join(KINDS)} alone", "leave it out")
        elif not isinstance(addresses, list) or not addresses or (kind == "chief" and len(addresses) > 1):
            expected = "a list of one address" if kind == "chief" else "a list of addresses"
            yield Problem(where, shown(addresses), expected, _REMEDY)
        else:
            for address in addresses:
                if not _is_address(address):
                    yield Problem(where, shown(address), "host:port", "correct it")
                elif address in seen:
                    yield Problem(where, f"{address} again", "an address of its own for each", "correct it")
                seen.append(address)


def _is_address(address: Any) -> bool:
    found = _ADDRESS.fullmatch(address) if isinstance(address, str) else None
    return found is not None and 0 < int(found[2]) < 2**16


def _wrong_task(task: Any, cluster: Any) -> Iterator[Problem]:
    if not isinstance(task, dict):
        yield Problem("TF_CONFIG: task", shown(task), 'which one this is: {"type": ..., "index": ...}', _REMEDY)
        return
    known = cluster if isinstance(cluster, dict) else {}
    kind, index = task.get("type"), task.get("index")
    if not isinstance(kind, str) or kind not in known:
        yield Problem("TF_CONFIG: task.type", shown(kind), f"one of {', '.join(map(str, known))}", "correct it")
    elif isinstance(known[kind], list) and not _is_index(index, len(known[kind])):
        expected = f"a whole number from 0 to {len(known[kind]) - 1}, the place in cluster.{kind}"
        yield Problem("TF_CONFIG: task.index", shown(index), expected, "correct it")


def _is_index(index: Any, count: int) -> bool:
    """TensorFlow takes digits in quotes too."""
    if isinstance(index, str) and re.fullmatch("[0-9]{1,9}", index):
        index = int(index)
    return type(index) is int and 0 <= index < count
