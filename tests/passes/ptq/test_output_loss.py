"""The output loss: zero for the same output, bounded, blind to what softmax does not see, found behind what follows."""

from itertools import pairwise

import numpy as np
import pytest
from builders import Model, grid
from numpy.typing import NDArray

from kwsq.ir import ops
from kwsq.ir.graph import Graph
from kwsq.passes.ptq.output_loss import Head, OutputLoss, find_heads


def classifier(*after: object) -> tuple[Graph, str]:
    model = Model()
    logits = model.dense(model.input("x", (1, 8)), 5)
    y = logits
    for op in after:
        y = model.node(op, y)  # type: ignore[arg-type]
    return model.graph(y), logits


@pytest.mark.parametrize(
    ("after", "kind"),
    [
        ((), "softmax"),
        ((ops.Softmax(1),), "softmax"),
        ((ops.Softmax(1), ops.FakeQuant(grid(1 / 256, -128)), ops.Reshape((5,))), "softmax"),
        ((ops.Sigmoid(),), "sigmoid"),
    ],
)
def test_logits_are_found_behind_the_last_activation(after: tuple[object, ...], kind: str) -> None:
    graph, logits = classifier(*after)
    assert find_heads(graph) == (Head(logits, kind, 1),)  # type: ignore[arg-type]


def test_other_outputs_are_compared_as_they_are() -> None:
    graph, _ = classifier(ops.Reshape((1, 5, 1)))
    (head,) = find_heads(graph)
    assert head == Head(graph.outputs[0], "plain", 2)


def test_states_are_not_scored_beside_an_output() -> None:
    model = Model()
    state = model.node(ops.Add(), model.input("x", (1, 4)), model.input("s", (1, 4)))
    y = model.dense(state, 3)
    assert [head.tensor for head in find_heads(model.graph(y, state, states=(("s", state),)))] == [y]
    assert [head.tensor for head in find_heads(model.graph(state, states=(("s", state),)))] == [state]


def test_a_scalar_behind_a_sigmoid_has_an_axis() -> None:
    model = Model()
    scalar = model.node(ops.Mean((0, 1), False), model.input("x", (1, 4)))
    (head,) = find_heads(model.graph(model.node(ops.Sigmoid(), scalar)))
    assert head == Head(scalar, "sigmoid", 0)
    z = np.array([0.5, -1.0, 2.0], np.float32)
    np.testing.assert_array_equal(
        OutputLoss((head,), {scalar: z}, 3).per_clip({scalar: z + 1}), loss_of("sigmoid", z[:, None], z[:, None] + 1)
    )


def loss_of(kind: str, reference: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float64]:
    head = Head("z", kind, 1)  # type: ignore[arg-type]
    return OutputLoss((head,), {"z": reference}, len(reference)).per_clip({"z": other})


@pytest.mark.parametrize("kind", ["softmax", "sigmoid", "plain"])
def test_from_zero_to_one(kind: str) -> None:
    z = np.random.default_rng(0).normal(0, 4, (50, 6)).astype(np.float32)
    assert loss_of(kind, z, z).max() < 1e-7  # a square root of float64 rounding errors
    noise = np.random.default_rng(1).normal(0, 1, z.shape).astype(np.float32)
    losses = [loss_of(kind, z, z + scale * noise) for scale in (0.01, 0.1, 1, 1000)]
    assert all(a.mean() < b.mean() for a, b in pairwise(losses))
    assert losses[-1].max() <= 1


def test_a_shift_of_all_logits_is_no_error() -> None:
    z = np.random.default_rng(0).normal(0, 4, (50, 6)).astype(np.float32)
    assert loss_of("softmax", z, z + 100).max() < 1e-4  # float32 logits near 100 keep 2**-17
    assert loss_of("plain", z, z + 100).min() > 0.9


def test_equation_50_by_hand() -> None:
    z = np.array([[2.0, 0.0], [0.0, 2.0]], np.float32)
    other = np.array([[1.0, 0.0], [0.0, 2.0]], np.float32)
    p, q = np.exp([2.0, 0.0]) / np.exp([2.0, 0.0]).sum(), np.exp([1.0, 0.0]) / np.exp([1.0, 0.0]).sum()
    divergence = float((p * np.log(p / q)).sum())
    distance = ((0.5 - 1.0) ** 2 * 2) / 2.0  # centred (0.5, -0.5) against (1, -1); variance |(1, -1)|^2 = 2
    expected = np.sqrt(1 - np.exp(-(divergence + distance)))
    np.testing.assert_allclose(loss_of("softmax", z, other), [expected, 0.0], atol=1e-7)


def test_an_undefined_output_is_as_unlike_as_can_be() -> None:
    z = np.random.default_rng(2).normal(size=(4, 3)).astype(np.float32)
    other = z.copy()
    other[1, 2] = np.nan
    loss = OutputLoss((Head("z", "softmax", 1),), {"z": z}, 4).per_clip({"z": other})
    assert loss[1] == 1
    np.testing.assert_allclose(np.delete(loss, 1), 0, atol=1e-6)


def test_one_wild_clip_does_not_decide() -> None:
    z = np.random.default_rng(0).normal(0, 4, (100, 6)).astype(np.float32)
    wild = z.copy()
    wild[0] += np.array([1000, 0, 0, 0, 0, 0], np.float32)
    assert loss_of("softmax", z, wild).mean() <= 0.01


def test_fewer_clips_are_compared_with_the_first() -> None:
    z = np.random.default_rng(0).normal(0, 4, (20, 6)).astype(np.float32)
    np.testing.assert_array_equal(
        OutputLoss((Head("z", "softmax", 1),), {"z": z}, 20).per_clip({"z": z[:7] + 0.1 * z[7:14]}),
        loss_of("softmax", z, np.concatenate([z[:7] + 0.1 * z[7:14], z[7:]]))[:7],
    )


def test_a_tensor_that_is_two_heads_has_a_reference_for_each() -> None:
    """Attention scores, an output themselves and under a softmax along another axis."""
    rng = np.random.default_rng(0)
    z, other = (rng.normal(0, 2, (20, 3, 7)).astype(np.float32) for _ in range(2))
    heads = Head("z", "softmax", 1), Head("z", "plain", 2)
    both = OutputLoss(heads, {"z": z}, 20)
    apart = [OutputLoss((head,), {"z": z}, 20).per_clip({"z": other}) for head in heads]
    # (50): what is left of both likenesses multiplies.
    left = np.sqrt(1 - (1 - np.square(apart[0])) * (1 - np.square(apart[1])))
    np.testing.assert_allclose(both.per_clip({"z": other}), left, rtol=1e-9)
    assert both.per_clip({"z": z}).max() < 1e-6


@pytest.mark.parametrize("shape", [(4,), (4, 1)])
def test_classes_may_lie_along_the_axis_that_clips_are_stacked_on(shape: tuple[int, ...]) -> None:
    """A model without a batch: its clips' classes follow one another."""
    rng = np.random.default_rng(0)
    z, other = (rng.normal(0, 2, (20, 4)).astype(np.float32) for _ in range(2))
    stacked = {name: values.reshape(20 * shape[0], *shape[1:]) for name, values in (("z", z), ("other", other))}
    found = OutputLoss((Head("z", "softmax", 0),), {"z": stacked["z"]}, 20).per_clip({"z": stacked["other"]})
    np.testing.assert_allclose(found, loss_of("softmax", z, other), rtol=1e-9)
    assert found.min() > 0.01


@pytest.mark.parametrize("order", [1, -1])
def test_the_spread_kept_is_the_least_of_a_tensors_heads(order: int) -> None:
    """What all logits have in common is still there, their differences are gone."""
    heads = (Head("z", "softmax", 1), Head("z", "sigmoid", 1))[::order]
    z = np.random.default_rng(4).normal(size=(30, 5)).astype(np.float32)
    common = z[:, :1].repeat(5, axis=1)
    assert OutputLoss(heads, {"z": z}, 30).kept_spread({"z": common}) == {"z": 0.0}
    assert OutputLoss(heads, {"z": z}, 30).kept_spread({"z": z}) == {"z": 1.0}
