"""Checks before the first step: whether model, data and devices can give what a config asks of a training."""

import importlib.util
import multiprocessing

from tfyolo.errors import MissingError
from tfyolo.model import check_other_size
from tfyolo.training.reading import other_classes


def check_batch(config, replicas):
    """Checks that a batch can be shared by the replicas, and cut into equal parts.

    Args:
        config: the Config of the run.
        replicas: how many devices train.

    Raises:
        ConfigError: it cannot.
    """
    if config.train.batch % (replicas * config.train.accumulate):
        raise config.error(
            "train.batch",
            f"expected a multiple of {replicas} replicas x {config.train.accumulate} parts (train.accumulate), "
            f"received {config.train.batch}",
        )


def check_classes(config, sources):
    """Checks that all Sources of a run have the classes of the first, in its order.

    Args:
        config: the Config of the run.
        sources: for each stage a pair of Sources, to train on and to evaluate on.

    Raises:
        ConfigError: one has others.
    """
    first = sources[0][0]
    for i, pair in enumerate(sources):
        for source in pair:
            if source.classes != first.classes:
                raise config.error(config.stage_data(i)[1], other_classes(source, first))


def check_workers(workers):
    """Checks that other processes can make the batches.

    Args:
        workers: how many.

    Raises:
        MissingError: the package grain is not installed.
    """
    if workers and importlib.util.find_spec("grain") is None:
        raise MissingError(
            f"train.workers={workers}: expected the package grain, which is not installed; pip install "
            "'tfyolo[workers]' brings it, train.workers=0 does without"
        )


def runs_script_anew():
    """Whether this is a process that is to make batches, and has run the script that trains on its way to that."""
    return multiprocessing.current_process().name.startswith("grain-process")


def check_quantize(config, resumed):
    """Checks that a config with model.quantize goes on from trained weights, in float32 and at one image size.

    Args:
        config: the Config of the run.
        resumed: whether the run goes on from its own weights.

    Raises:
        ConfigError: it does not.
    """
    if not config.model.quantize:
        return
    if config.train.init is None and not resumed:
        raise config.error(
            "model.quantize", "expected train.init, a run whose trained weights it goes on from, received none"
        )
    if config.train.precision != "float32":
        raise config.error("train.precision", "expected float32 with model.quantize, which quantizes by itself")
    for i, stage in enumerate(config.train.stages):
        if stage.multi_scale:
            raise config.error(
                f"train.stages.{i}.multi_scale", "expected none with model.quantize: ranges are of one image size"
            )


def check_stage(config, stage_index, model):
    """Checks what a stage asks of a Model now, before its turn comes.

    Args:
        config: the Config of the run.
        stage_index: of the stage, from 0.
        model: the Model.

    Raises:
        ConfigError: the Model cannot take its image size, or lacks a term or a part that it names.
    """
    if size := config.train.stages[stage_index].image_size:
        check_other_size(model, size, f"train.stages.{stage_index}.image_size")
    loss_weights(config, stage_index, model.objective)
    frozen_layers(config, stage_index, model.network)


def frozen_layers(config, stage_index, network):
    """Finds the layers that a stage freezes: those whose dotted name begins with one of `freeze`.

    Args:
        config: the Config of the run.
        stage_index: of the stage, from 0.
        network: a Keras model.

    Returns:
        [layer]

    Raises:
        ConfigError: no layer begins so, or nothing is left to train.
    """
    frozen = []
    for i, prefix in enumerate(config.train.stages[stage_index].freeze):
        layers = [layer for layer in network.layers if f"{layer.name}.".startswith(f"{prefix}.")]
        if not layers:
            parts = sorted({".".join(layer.name.split(".")[:2]) for layer in network.layers if "." in layer.name})
            raise config.error(
                f"train.stages.{stage_index}.freeze.{i}",
                f"expected the name of a part, such as {', '.join(parts)}, received {prefix!r}",
            )
        frozen += layers
    if not any(layer.trainable_variables for layer in network.layers if layer not in frozen):
        raise config.error(
            f"train.stages.{stage_index}.freeze", "expected a part that is left to train, everything is frozen"
        )
    return frozen


def loss_weights(config, stage_index, objective):
    """Reads the weights of a stage's loss terms.

    Args:
        config: the Config of the run.
        stage_index: of the stage, from 0.
        objective: the Model's.

    Returns:
        {term: factor}, for the terms that the stage names.

    Raises:
        ConfigError: the objective has no such term.
    """
    weights = config.train.stages[stage_index].loss_weights
    for name in weights:
        if name not in objective.terms:
            raise config.error(
                f"train.stages.{stage_index}.loss_weights.{name}",
                f"expected a term of the loss ({', '.join(objective.terms)})",
            )
    return weights
