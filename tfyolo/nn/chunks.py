"""Passes over many objects a part at a time: keras.ops has no such loop."""

import tensorflow as tf


def over_chunks(function, carried, items, size, outputs=()):
    """Computes something of every object, where all objects at once would need too much memory.

    No gradient flows through it.

    Args:
        function: (carried, *parts) -> (carried, a tuple of outputs [B, size]); parts: `size` objects of each item.
        carried: a tensor or a tuple of tensors, whose shapes stay as they are.
        items: [(tensor [B, M, ...], the number that stands in rows of padding)]; M may be open, and 0.
        size: the objects of a part, at least 1.
        outputs: dtypes of the outputs.

    Returns:
        (carried after the last part, a list of the outputs [B, M]).
    """
    count = tf.shape(items[0][0])[1]
    parts = tf.maximum(-(-count // size), 1)
    padded = [
        tf.pad(
            tf.stop_gradient(item),
            [[0, 0], [0, parts * size - count], *[[0, 0]] * (len(item.shape) - 2)],
            constant_values=fill,
        )
        for item, fill in ((tf.convert_to_tensor(item), fill) for item, fill in items)
    ]

    def body(i, carried, arrays):
        several = [item[:, i * size : (i + 1) * size] for item in padded]
        for one in several:
            one.set_shape([one.shape[0], size, *one.shape[2:]])
        carried, values = function(carried, *several)
        return i + 1, carried, [array.write(i, value) for array, value in zip(arrays, values, strict=True)]

    arrays = [tf.TensorArray(dtype, parts) for dtype in outputs]
    carried = tf.nest.map_structure(lambda x: tf.stop_gradient(tf.convert_to_tensor(x)), carried)
    loop = tf.while_loop(lambda i, *_: i < parts, body, (0, carried, arrays), parallel_iterations=1)
    stacked = [tf.transpose(array.stack(), (1, 0, 2)) for array in loop[2]]  # [B, parts, size]
    return loop[1], [tf.reshape(each, (tf.shape(each)[0], -1))[:, :count] for each in stacked]
