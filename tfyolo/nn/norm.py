"""Batch normalisation over the whole global batch, on one replica and on several."""

import numpy as np
import tensorflow as tf
from keras import layers, ops


def merged_sums(values):
    """The sums of tensors over all replicas of a tf.distribute strategy, by one reduction; no gradient flows back.

    Args:
        values: a nest of tensors, in replica context.

    Returns:
        The same nest of their sums.
    """

    def reduce(strategy, *values):
        pairs = [(value, value) for value in values]
        return strategy.extended.batch_reduce_to(tf.distribute.ReduceOp.SUM, pairs)

    # stop_gradient before and after: custom_gradient looks for variables behind its outputs, and would traverse the
    # graphs of all replicas at every layer. all_reduce does so, which takes minutes to trace for a deep network.
    flat = tuple(tf.stop_gradient(value) for value in tf.nest.flatten(values))
    if tf.distribute.get_strategy().num_replicas_in_sync == 1:
        return tf.nest.pack_sequence_as(values, flat)
    sums = tf.distribute.get_replica_context().merge_call(reduce, args=flat) if flat else ()
    return tf.nest.pack_sequence_as(values, [tf.stop_gradient(value) for value in sums])


@tf.custom_gradient
def sum_over_replicas(x):
    """The sum of a tensor over all replicas of a tf.distribute strategy; its gradient is the same sum.

    Args:
        x: a tensor, in replica context.

    Returns:
        A tensor of x's shape, the same on every replica.
    """
    return merged_sums(x), merged_sums


class BatchNorm(layers.Layer):
    """Batch normalisation over the whole global batch, [B, h, w, C] -> the same shape.

    Two reasons against Keras's own: on one replica this one trains through TensorFlow's fused kernel; on several it
    exchanges sums, while Keras's traverses the whole graph at each layer as it is traced. Frozen (trainable=False), it
    uses the moving statistics.

    Args:
        momentum: of the moving statistics. It is below Darknet's .99: a run over a few hundred images has too few steps
            for that.
        epsilon: added to the variance; the default is Darknet's.
        kwargs: of Layer.

    Source: Ioffe and Szegedy 2015, arXiv:1502.03167.
    """

    fusion, quantization = "affine", "float"  # float where it follows no convolution

    def __init__(self, momentum=0.97, epsilon=1e-5, **kwargs):
        super().__init__(**kwargs)
        self.momentum, self.epsilon = momentum, epsilon

    def build(self, shape):
        """Adds scale, offset and moving statistics, [C] each, in float32."""

        def statistic(name, initializer, **kwargs):
            return self.add_weight((shape[-1],), initializer, dtype="float32", autocast=False, name=name, **kwargs)

        # All replicas compute the same: none need be asked.
        same = {"aggregation": "only_first_replica"}
        self.gamma = statistic("gamma", "ones")
        self.beta = statistic("beta", "zeros")
        self.moving_mean = statistic("moving_mean", "zeros", trainable=False, **same)
        self.moving_variance = statistic("moving_variance", "ones", trainable=False, **same)

    def call(self, x, training=False):
        """[B, h, w, C] -> the same shape; by the moving statistics, except in training."""
        if not (training and self.trainable):
            return self._normalise(x, self.moving_mean, self.moving_variance)
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        if replicas == 1:
            outputs, mean, variance = self._fused(x)
        else:
            mean, variance = self._moments(x, replicas)
            outputs = self._normalise(x, mean, variance)
        self.moving_mean.assign(self.moving_mean * self.momentum + mean * (1 - self.momentum))
        self.moving_variance.assign(self.moving_variance * self.momentum + variance * (1 - self.momentum))
        return outputs

    def affine(self):
        """The layer outside training as x * scale + shift.

        Returns:
            (scale, shift), both float64 [C].
        """
        gamma, beta, mean, variance = (
            np.asarray(each, "float64") for each in (self.gamma, self.beta, self.moving_mean, self.moving_variance)
        )
        scale = gamma / np.sqrt(variance + self.epsilon)
        return scale, beta - mean * scale

    def _normalise(self, x, mean, variance):
        scale = self.gamma * ops.rsqrt(variance + self.epsilon)
        return ops.cast(ops.cast(x, "float32") * scale + (self.beta - mean * scale), x.dtype)

    def _fused(self, x):
        gamma, beta = tf.convert_to_tensor(self.gamma), tf.convert_to_tensor(self.beta)
        outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            x, gamma, beta, epsilon=self.epsilon, is_training=True
        )
        # The kernel gives the unbiased variance; Darknet, and several replicas here, keep the biased one.
        count = tf.cast(tf.size(x) // x.shape[-1], tf.float32)
        return outputs, mean, variance * (count - 1) / count

    @staticmethod
    def _moments(x, replicas):
        x = ops.cast(x, "float32")
        axes = (0, 1, 2)
        # Strategies give every replica the same share.
        count = tf.cast(tf.size(x) // x.shape[-1], tf.float32) * replicas
        mean = sum_over_replicas(tf.reduce_sum(x, axes)) / count
        # Deviations from the mean of all: the difference of two large sums would lose the digits in which two replicas
        # and one must agree.
        return mean, sum_over_replicas(tf.reduce_sum(tf.square(x - mean), axes)) / count


class SharedBatchNorm(BatchNorm):
    """A batch norm with the weights of another, its owner, moving statistics included.

    Args:
        owner: a built BatchNorm.
        kwargs: of Layer.
    """

    def __init__(self, owner, **kwargs):
        super().__init__(owner.momentum, owner.epsilon, **kwargs)
        self._owner = lambda: owner

    def build(self, shape):
        """Takes the owner's weights."""
        owner = self._owner()
        self.gamma, self.beta = owner.gamma, owner.beta
        self.moving_mean, self.moving_variance = owner.moving_mean, owner.moving_variance
