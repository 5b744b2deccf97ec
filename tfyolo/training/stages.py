"""What one stage trains: its model, optimizer, EMA, batches and step."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfyolo import checkpoint
from tfyolo.data import datasets
from tfyolo.graph.calibration import CALIBRATION_IMAGES, calibrate
from tfyolo.graph.quantization import quantization_aware
from tfyolo.model import Model, build, multiple, resolve
from tfyolo.training.checks import frozen_layers, loss_weights
from tfyolo.training.optim import EMA, OPTIMIZERS, Schedule, build_for
from tfyolo.training.reading import stage_seed, unexpected_lines
from tfyolo.training.steps import make_step, scales
from tfyolo.weights.initial import initialise, initialise_backbone


class Trainee(NamedTuple):
    """A stage, ready for its next step.

    Attributes:
        model: the Model, in the precision of training.
        optimizer: a Keras optimizer, made for its trainable variables.
        schedule: its learning rate.
        ema: the EMA of its weights.
        batches: an iterator of distributed Samples.
        step: what make_step() returns.
        steps: how many an epoch has.
        size: (H, W) of the images in the batches.
        sizes: the sizes of multi-scale training, of which each step takes one; () without.
        unexpected: {"skipped", "resized"}: images that could not be read, or have another size than annotated, by
            their record's place in the Source: {place: message or (H, W)}. The batches fill it as they are made.
        reported: how many of each are printed already.
    """

    model: Model
    optimizer: Any
    schedule: Schedule
    ema: EMA
    batches: Iterator
    step: Callable
    steps: int
    size: tuple
    sizes: tuple
    unexpected: dict
    reported: dict

    def step_size(self, seed, *place):
        """The (H, W) of the step at a place of the run, (stage, epoch, step): the same whenever it is asked for."""
        return self.sizes[np.random.default_rng((seed, *place)).integers(len(self.sizes))] if self.sizes else None


def build_stage(job, at, stage_index):
    """Builds what a stage trains, as far as the run is.

    Args:
        job: the run's Job.
        at: its Progress. Where nothing is kept yet, weights may come from train.init: `origin` is then set.
        stage_index: which of train.stages.

    Returns:
        A Trainee.

    Raises:
        ConfigError: the stage freezes what is not there.
        CheckpointError: the arrays that are kept, or the weights to start from, do not fit the model.
    """
    config, strategy, saved = job.config, job.strategy, at.saved
    stage, (source, _) = config.train.stages[stage_index], job.sources[stage_index]
    size = stage.image_size or config.model.input_size
    sizes = tuple(scales(size, stage.multi_scale, multiple(job.model))) if stage.multi_scale else ()
    epochs_done = at.state["epoch"] - job.epochs_before(stage_index)
    steps_done = at.running["step"] if at.running else 0
    with strategy.scope():
        model = build(
            config, job.model.classes, input_size=(None, None) if sizes else size, precision=config.train.precision
        )
        if not saved:
            model, at.origin, at.ready = _initialised(job.team, model, source, size)
        elif config.model.quantize:
            model = quantization_aware(model)
        for layer in frozen_layers(config, stage_index, model.network):
            layer.trainable = False
        ema = EMA(model.network, config.train.ema)
        unexpected = {"skipped": {}, "resized": {}}
        batches, steps = batches_of(job, stage_index, size, unexpected, epochs_done, steps_done)
        builder, options = resolve(config, "train.optimizer", config.train.optimizer, OPTIMIZERS)
        schedule = Schedule(stage, steps)
        optimizer = builder(schedule, **options)
        build_for(model.network, optimizer, config.train.backbone_rate)
    if saved:
        file = job.folder / "last.h5"
        checkpoint.assign(model.network, saved["weights"], source=f"{file}: its weights")
        # The last.h5 of earlier versions has no count of the EMA's steps: it is that of its stage.
        ema.load(saved["averages"], at.state.get("averaged", saved["optimizer"]["iteration"]))
        checkpoint.assign_random(model.network, saved["random"])
        if epochs_done or steps_done:  # within a stage: the next one's optimizer starts afresh
            variables = {variable.name: variable for variable in optimizer.variables}
            checkpoint.assign_variables(variables, saved["optimizer"], f"{file}: the optimizer's arrays")
    step = make_step(
        model,
        optimizer,
        ema,
        strategy,
        batches.element_spec,
        said=job.agreement and job.agreement.said,
        sizes=sizes,
        accumulate=config.train.accumulate,
        clip=config.train.clip,
        weights=loss_weights(config, stage_index, model.objective),
        eager=config.train.eager,
    )
    reported = dict.fromkeys(unexpected, 0)
    return Trainee(model, optimizer, schedule, ema, batches, step, steps, size, sizes, unexpected, reported)


def batches_of(job, stage_index, size, unexpected, epochs_done, steps_done=0):
    """The batches of a stage that are left.

    Args:
        job: the run's Job.
        stage_index: which of train.stages.
        size: (H, W) of the images.
        unexpected: as Trainee's.
        epochs_done: of this stage.
        steps_done: of the epoch after them.

    Returns:
        (an iterator of distributed Samples, the steps of an epoch)
    """
    config, stage, team = job.config, job.config.train.stages[stage_index], job.team
    data, _ = config.stage_data(stage_index)
    dataset, steps = datasets.train_dataset(
        job.sources[stage_index][0],
        size=size,
        batch=config.train.batch,
        augment=config.augment,
        seed=stage_seed(config, stage_index),
        epochs=stage.epochs,
        plain_epochs=stage.plain_epochs,
        start_epoch=epochs_done,
        start_step=steps_done,
        part=(team.index, team.size),
        pieces=job.strategy.num_replicas_in_sync // team.size if team.together else 1,
        preprocess=config.model.preprocess,
        reduce=data.reduce,
        in_order=data.shuffle == "window",
        workers=config.train.workers,
        **unexpected,
    )
    if not team.together:
        return iter(job.strategy.experimental_distribute_dataset(dataset)), steps
    # The steps are counted: of a stream without end TensorFlow does not ask all workers at each whether there is more.
    endless = dataset.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))
    return iter(job.strategy.distribute_datasets_from_function(lambda _: endless)), steps


def _initialised(team, model, source, size):
    """Gives a new run's Model the weights that its config names.

    Args:
        team: the run's Team; what each worker has computed might differ in the last digits.
        model: the Model, in the precision of training.
        source: the Source that is trained on; some of its images give batch norms statistics, or calibrate.
        size: (H, W) of the images.

    Returns:
        The Model, with fake quantization if the config has it; what it comes from, as Progress.origin; and whether it
        is ready, as Progress.ready.
    """
    config, unreadable, ready = model.config, {}, False
    few = source._replace(records=datasets.sampled(source.records, CALIBRATION_IMAGES))
    images = functools.partial(
        datasets.prepared_batches,
        few.records,
        size,
        preprocess=config.model.preprocess,
        skipped=unreadable,
        most_pixels=few.max_pixels,
    )
    if config.train.init:
        report, origin, ready = initialise(model, config.train.init, images)
        team.say("\n".join(f"{config.train.init}: {line}" for line in report))
    else:
        report, origin = initialise_backbone(model)
        for line in report:
            team.say(f"backbone: {line}")
    if config.model.quantize:
        model = calibrate(model, images, gates=False).quantized()
    if unreadable:
        team.say("calibration: " + unexpected_lines("skipped", unreadable, 0, few))
    checkpoint.assign(model.network, team.arrays(checkpoint.weights_of(model.network)))
    return model, origin, ready
