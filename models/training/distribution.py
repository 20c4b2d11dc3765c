"""One recipe on one processor, one or several GPUs, or several workers: the strategy, and a step that spans it.

Every worker runs the same command with its own TF_CONFIG, holds the same seed and so draws the same epoch; it reads
and augments the rows of its own replicas only (`kwsq.models.data.share`). With R replicas of equal shares and losses
l_r,

  (1) loss = (1 / R) sum_r l_r        (2) gradient = sum_r d(l_r / R)

are those of the whole batch on one device, up to rounding, because each l_r is a mean over its share. Batch norms
take their statistics over all replicas (`synchronize_norms`), as equations (1) and (2) need. Activation ranges, which
follow minima and maxima of a batch, follow the mean of the replicas' instead: there several replicas differ from one.

Source: TensorFlow's guide "Distributed training"; the division of rows is ours.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras
from numpy.typing import NDArray

from kwsq.ir.errors import Problem, UsageError
from kwsq.models.data.share import WHOLE, Share
from kwsq.models.training.cluster import read_cluster, wait_for_others

_CHOSEN: dict[str, Any] = {}
"""By what the environment asks for: workers join once, and of a second strategy collectives would meet the first's."""


def chosen_strategy(show: Callable[[str], None] = lambda _: None) -> Any:
    """Return the strategy that the environment asks for, the same one again; before anything else uses TensorFlow.

    Args:
        show: called before workers are waited for.

    Returns:
        MultiWorkerMirroredStrategy where TF_CONFIG is set, MirroredStrategy on several GPUs, else the default.

    Raises:
        UsageError: TF_CONFIG does not say which workers there are and which this one is, or they cannot be joined.
    """
    asked = os.environ.get("TF_CONFIG", "")
    if asked not in _CHOSEN:
        _CHOSEN[asked] = _joined(show) if asked else _of_this_machine()
    return _CHOSEN[asked]


def _of_this_machine() -> Any:
    several = len(tf.config.list_logical_devices("GPU")) > 1
    return tf.distribute.MirroredStrategy() if several else tf.distribute.get_strategy()


def _joined(show: Callable[[str], None]) -> Any:
    cluster = read_cluster(os.environ["TF_CONFIG"])
    if len(cluster.addresses) > 1:
        show(f"waiting for {len(cluster.addresses)} workers: {', '.join(cluster.addresses)}")
    wait_for_others(cluster)
    try:
        with ended_by_signals():
            return tf.distribute.MultiWorkerMirroredStrategy()
    except (tf.errors.OpError, ValueError, RuntimeError) as error:
        found, remedy = (
            (str(error) or type(error).__name__).splitlines()[0],
            "see that the address of this worker is its own, and free",
        )
        raise UsageError(Problem("TF_CONFIG", found, "workers that can be joined", remedy)) from error


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let interruption end the process at once while it is in C++, where it has written nothing; then put all back.

    A handler in Python would run when C++ returns. TensorFlow puts one of its own in place of that for termination,
    which would keep the process from ending ever after. Signals that are ignored stay so.
    """
    is_main = threading.current_thread() is threading.main_thread()  # no other may set handlers
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM) if is_main}
    handlers = {number: handler for number, handler in handlers.items() if callable(handler)}
    for number in handlers:
        signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def is_chief(strategy: Any) -> bool:
    """Return whether this process is the one that speaks for all: the only one, the chief, or else worker 0.

    Args:
        strategy: that of this process.

    Source: the task types are those of TF_CONFIG, TensorFlow's guide "Multi-worker training".
    """
    resolver = strategy.cluster_resolver
    if resolver is None or not resolver.task_type:
        return True
    if "chief" in resolver.cluster_spec().jobs:
        return bool(resolver.task_type == "chief")
    return bool(resolver.task_id == 0)


def synchronize_norms(model: Any) -> None:
    """Make batch norms use the statistics of the whole batch; nothing changes where there is one replica."""
    if tf.distribute.get_strategy().num_replicas_in_sync == 1:
        return
    for layer in model.layers:
        if isinstance(layer, tf_keras.layers.BatchNormalization):
            layer.synchronized, layer.fused = True, False


@contextmanager
def ended_workers_named() -> Iterator[None]:
    """Say that another worker has ended, where TensorFlow notices.

    Raises:
        UsageError: it has; what it says itself is the reason.
    """
    try:
        yield
    except (tf.errors.UnavailableError, tf.errors.AbortedError) as error:
        if "TF_CONFIG" not in os.environ:
            raise
        remedy = "see what the others say, then start all again: they go on from the last epoch that was kept"
        raise UsageError(Problem("TF_CONFIG", "workers that have ended", "all workers to the end", remedy)) from error


def replica_loss(loss: Any) -> Any:
    """Return what one replica differentiates: its share of equation (2)."""
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    return loss if replicas == 1 else loss / replicas


def own_share(batch_size: int) -> Share:
    """Return the rows of every batch that this worker's replicas train on.

    Args:
        batch_size: clips of a global batch.

    Raises:
        UsageError: replicas would have different numbers of rows.
    """
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    if batch_size % replicas:
        found = f"batches of {batch_size} clips for {replicas} replicas"
        remedy = "correct the recipe, or train on more clips where there are fewer than a batch"
        raise UsageError(Problem("recipe: batch_size", found, "a multiple of the replicas", remedy))
    return WHOLE if replicas == 1 else Share(replicas, own_replicas())


def own_replicas() -> tuple[int, ...]:
    """Return the numbers of this worker's replicas, in ascending order."""
    mine = []

    def noted(context: Any) -> Any:
        mine.append(context.replica_id_in_sync_group)
        return tf.constant(0)

    tf.distribute.get_strategy().experimental_distribute_values_from_function(noted)
    return tuple(sorted(mine))


def spanning_step(step: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Return a step over global batches, from one over a replica's rows.

    Args:
        step: (features, labels) to the mean loss of these rows, with an update by `replica_loss`'s gradient.

    Returns:
        A function of this worker's rows of a global batch (`own_share`), called on all workers at once, that gives
        equation (1); `step` itself where there is one replica.
    """
    strategy = tf.distribute.get_strategy()
    replicas = strategy.num_replicas_in_sync
    if replicas == 1:
        return step
    mine = own_replicas()

    @tf.function(reduce_retracing=True)
    def on_replicas(features: Any, labels: Any) -> Any:
        return strategy.reduce(tf.distribute.ReduceOp.MEAN, strategy.run(step, args=(features, labels)), axis=None)

    def whole(features: Any, labels: Any) -> Any:
        parts = [
            strategy.experimental_distribute_values_from_function(
                lambda context, array=array: tf.constant(
                    array[mine.index(context.replica_id_in_sync_group) :: len(mine)]
                )
            )
            for array in (features, labels)
        ]
        return on_replicas(*parts)

    return whole


def gathered(own: NDArray[np.float32]) -> tuple[NDArray[np.float32], tuple[int, ...]]:
    """Return what every replica's worker states, and which replicas are this worker's.

    Args:
        own: (n,) numbers, n the same on all workers; every worker calls this at the same point.

    Returns:
        (replicas, n), and numbers of rows.
    """
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    rows = _summed(lambda replica: np.where(np.arange(replicas)[:, None] == replica, own, np.float32(0.0)))
    return rows, own_replicas()


def copied_from(replica: int, own: bytes) -> bytes:
    """Return the bytes that the worker of a replica holds.

    Args:
        replica: its number.
        own: what this worker holds; every worker calls this at the same point.
    """
    parts = np.array(divmod(len(own), 2**16), np.float32)  # float32 is exact below 2^24 only
    high, low = _summed(lambda number: parts * np.float32(number == replica)).tolist()
    size = int(high) * 2**16 + int(low)

    def content(number: int) -> NDArray[np.float32]:
        return np.frombuffer(own, np.uint8).astype(np.float32) if number == replica else np.zeros(size, np.float32)

    return bytes(_summed(content).astype(np.uint8).tobytes())


def _summed(of_replica: Callable[[int], NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return the sum over all replicas; where all but one give 0 it is exact."""
    strategy = tf.distribute.get_strategy()
    parts = strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(of_replica(context.replica_id_in_sync_group))
    )
    total: NDArray[np.float32] = strategy.reduce(tf.distribute.ReduceOp.SUM, parts, axis=None).numpy()
    return total
