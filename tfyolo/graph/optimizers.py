"""What Keras's optimizers have no argument for."""


def take_summed_gradients(optimizer):
    """Has an optimizer take gradients that are summed over the replicas already: it would sum them once more.

    tf.keras had an argument for that. In Keras 3 one private method sums.

    Args:
        optimizer: a keras.optimizers.Optimizer.

    Returns:
        Whether it has that method: False of a version of Keras that sums elsewhere, or not at all.
    """
    known = hasattr(type(optimizer), "_all_reduce_sum_gradients")
    optimizer._all_reduce_sum_gradients = lambda gradients_and_variables: gradients_and_variables
    return known
