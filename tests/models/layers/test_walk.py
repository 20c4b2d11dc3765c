"""The walk hands every layer its input, with what was done to the layers before."""

import numpy as np
import pytest
import tf_keras

from kwsq.models.layers.walk import layer_inputs


def network() -> tf_keras.Sequential:
    tf_keras.utils.set_random_seed(0)
    layers = [tf_keras.layers.Dense(4, name="first"), tf_keras.layers.ReLU(), tf_keras.layers.Dense(2, name="last")]
    model = tf_keras.Sequential(layers)
    model.build((None, 3))
    return model


FEATURES = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)


@pytest.mark.parametrize("batch", [None, 1, 3, 7, 100])
def test_every_layer_comes_with_its_input(batch: int | None) -> None:
    model = network()
    walked = list(layer_inputs(model, FEATURES, batch))
    assert [layer for layer, _ in walked] == model.layers
    first, relu, last = (values.numpy() for _, values in walked)
    np.testing.assert_array_equal(first, FEATURES)
    # A matrix product may sum in another order for another number of rows.
    np.testing.assert_allclose(relu, model.layers[0](FEATURES).numpy(), rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(last, np.maximum(relu, 0.0))


def test_what_is_done_to_a_layer_counts_from_the_next_one_on() -> None:
    model = network()
    seen = {}
    for layer, values in layer_inputs(model, FEATURES):
        seen[layer.name] = values.numpy()
        if layer.name == "first":
            layer.kernel.assign(layer.kernel * 0.0)
            layer.bias.assign([1.0, -1.0, 2.0, 0.0])
    np.testing.assert_array_equal(seen["last"], np.tile(np.float32([1.0, 0.0, 2.0, 0.0]), (7, 1)))
