"""Losses of one element each, which objectives sum up."""

from keras import ops


def bce(targets, logits):
    """Binary cross-entropy of logits, elementwise, in the form that does not overflow.

    Args:
        targets: [...] in 0..1.
        logits: [...], before the sigmoid.

    Returns:
        [...], at least 0.
    """
    return ops.maximum(logits, 0.0) - logits * targets + ops.log1p(ops.exp(-ops.absolute(logits)))


def bce_of_others(labels, logits, off=0.0):
    """The sum of `bce` over all classes but one, with the same target.

    Args:
        labels: [...] int, the class left out; -1 for none.
        logits: [..., K], before the sigmoid.
        off: the target, in 0..1.

    Returns:
        [...], at least 0.
    """
    own = ops.expand_dims(labels, -1) == ops.arange(logits.shape[-1], dtype=labels.dtype)
    values = ops.sum(ops.softplus(ops.where(own, -float("inf"), logits)), axis=-1)
    return values - off * ops.sum(ops.where(own, 0.0, logits), axis=-1) if off else values


def logits_of(labels, logits):
    """Each one's logit of its class: labels [...] int32 in 0..K-1, logits [..., K] -> [...]."""
    return ops.take_along_axis(logits, ops.expand_dims(labels, -1), axis=-1)[..., 0]


def bce_of_class(labels, logits, on=1.0, off=0.0):
    """The sum of `bce` over all classes, without a tensor of their targets.

    Args:
        labels: [...] int32, the class with the target `on`.
        logits: [..., K], before the sigmoid.
        on: [...] or a number, in 0..1.
        off: the target of the other classes, in 0..1.

    Returns:
        [...], at least 0.
    """
    return bce_of_others(labels, logits, off) + bce(on, logits_of(labels, logits))


def focal(targets, logits, alpha=0.25, gamma=2.0):
    """Focal loss, elementwise: easy examples count less.

    Args:
        targets: [...] in 0..1.
        logits: [...], before the sigmoid.
        alpha: the weight of positives, 0..1; negatives have 1 - alpha.
        gamma: the power, at least 0; 0 is cross-entropy.

    Returns:
        [...], at least 0.

    Source: Lin et al. 2017, arXiv:1708.02002, eq. 5.
    """
    p = ops.sigmoid(logits)
    p_t = targets * p + (1 - targets) * (1 - p)
    weight = targets * alpha + (1 - targets) * (1 - alpha)
    # The floor keeps the gradient of the power finite where p_t rounds to 1.
    return weight * ops.power(ops.maximum(1 - p_t, 1e-9), gamma) * bce(targets, logits)


def smooth_l1(targets, values):
    """Huber's loss, elementwise [...]: squared errors below 1, absolute ones above.

    Source: Girshick 2015, arXiv:1504.08083, eq. 3.
    """
    error = ops.absolute(targets - values)
    return ops.where(error < 1, 0.5 * ops.square(error), error - 0.5)


def squared(targets, values):
    """Squared error, elementwise: [...], [...] -> [...]."""
    return ops.square(targets - values)


TERMS = {"bce": bce, "focal": focal, "squared": squared}


def softmax_cross_entropy(targets, logits):
    """Cross-entropy of one class out of K: targets [..., K] that add up to 1, logits [..., K] -> [...]."""
    return -ops.sum(targets * ops.log_softmax(logits), axis=-1)


def softmax_cross_entropy_of_class(labels, logits):
    """Cross-entropy of one class out of K: labels [...] int32 in 0..K-1, logits [..., K] -> [...]."""
    return ops.logsumexp(logits, axis=-1) - logits_of(labels, logits)


def distribution_focal(targets, logits):
    """Distribution focal loss: the cross-entropies of the two bins beside a target.

    Args:
        targets: [...] in bins; clipped to 0 .. bins - 1.01, so that each lies between two.
        logits: [..., bins], before the softmax.

    Returns:
        [...], at least 0.

    Source: Li et al. 2020, arXiv:2006.04388, eq. 6.
    """
    bins = logits.shape[-1]
    targets = ops.clip(targets, 0.0, bins - 1 - 0.01)
    # Each bin's share: 1 less its distance to the target, at least 0.
    share = ops.maximum(1 - ops.absolute(ops.expand_dims(targets, -1) - ops.arange(bins, dtype="float32")), 0.0)
    return softmax_cross_entropy(share, logits)
