"""Passes over objects in parts."""

import numpy as np
import pytest
import tensorflow as tf

from tfyolo.nn.chunks import over_chunks


@pytest.mark.parametrize("count", [0, 1, 4, 7])
@pytest.mark.parametrize("size", [1, 3, 10])
@pytest.mark.parametrize("traced", [False, True])
def test_parts_add_up_to_the_whole(count, size, traced):
    values = np.random.default_rng(0).normal(size=(2, count, 5)).astype("float32")

    def summed(values):
        def part(carried, own):
            assert own.shape[1:] == (size, 5)
            return (carried[0] + tf.reduce_sum(own, axis=1), carried[1] + 1), (tf.reduce_max(own, axis=-1),)

        return over_chunks(part, (tf.zeros((2, 5)), 0), [(values, 0.0)], size, ("float32",))

    spec = tf.TensorSpec((None, None, 5))
    (total, parts), (most,) = (tf.function(summed, input_signature=[spec]) if traced else summed)(tf.constant(values))
    np.testing.assert_allclose(total, values.sum(axis=1), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(most, values.max(axis=-1))
    assert parts == max(-(-count // size), 1)
