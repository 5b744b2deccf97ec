"""One backward pass over real images, for `tfyolo summary --backward`."""

import tensorflow as tf

from tfyolo.data import datasets
from tfyolo.graph.summary import gradient_norms
from tfyolo.training.reading import other_classes, read_stage
from tfyolo.training.steps import loss_terms


def first_batch_norms(model):
    """Takes one backward pass over the first batch of the training data, without augmentation.

    Args:
        model: a Model whose config names data.

    Returns:
        {term: loss} and {stage of the model: gradient norm}.

    Raises:
        ConfigError: the data has other classes than the model.
    """
    source, _ = read_stage(model.config, 0, overfit=None)
    if source.classes != model.classes:
        raise model.config.error("data", other_classes(source, source._replace(classes=model.classes)))
    first = source._replace(records=source.records[: model.config.train.batch])
    size, preprocess = model.input_size, model.preprocess
    sample = next(iter(datasets.eval_dataset(first, size=size, batch=len(first.records), preprocess=preprocess)))
    with tf.GradientTape() as tape:
        terms = loss_terms(model, sample)
        loss = tf.add_n(list(terms.values()))
    gradients = tape.gradient(
        loss, model.network.trainable_variables, unconnected_gradients=tf.UnconnectedGradients.ZERO
    )
    return {name: float(value) for name, value in terms.items()}, gradient_norms(model, gradients)
