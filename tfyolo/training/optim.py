"""Optimizers, their schedules, and the EMA of the weights."""

import math
from types import MappingProxyType

import keras
import tensorflow as tf

from tfyolo.config import ConfigError
from tfyolo.config.ranges import BelowOne, NonNegative
from tfyolo.graph.nodes import all_layers


def undecayed(network):
    """Finds the trainable variables that weight decay leaves out: offsets and scales, for which 0 may not be neutral.

    They are those of one dimension or none, and those that a layer declares: its `undecayed` names the attributes that
    hold them.

    Args:
        network: a Keras model or layer.

    Returns:
        [keras.Variable]
    """
    small = [variable for variable in network.trainable_variables if len(variable.shape) <= 1]
    return small + [getattr(layer, name) for layer in all_layers(network) for name in getattr(layer, "undecayed", ())]


def biases(network):
    """Finds the variables that are added to what a layer computes: what it holds as `bias`, or as norms do, as `beta`.

    Args:
        network: a Keras model or layer.

    Returns:
        [keras.Variable]
    """
    held = [getattr(layer, name, None) for layer in all_layers(network) for name in ("bias", "beta")]
    return [variable for variable in held if isinstance(variable, keras.Variable)]


def build_for(network, optimizer, backbone_rate=1.0):
    """Builds an optimizer for the trainable variables of a Keras model or layer, and names those without weight decay.

    Args:
        network: the model or layer.
        optimizer: a Keras optimizer, fresh.
        backbone_rate: the factor on the learning rate of variables of the backbone, above 0.

    Raises:
        ConfigError: the optimizer, of somebody's own, has one learning rate for all variables.
    """
    optimizer.exclude_from_weight_decay(var_list=undecayed(network))
    if backbone_rate != 1:
        if not isinstance(optimizer, PerVariable):
            raise ConfigError(
                f"train.backbone_rate: expected 1 with {type(optimizer).__name__}, which has one learning rate for all "
                f"variables, received {backbone_rate}"
            )
        own = [variable for variable in network.trainable_variables if variable.path.startswith("backbone.")]
        optimizer.factors = dict.fromkeys(map(id, own), backbone_rate)
    if isinstance(optimizer, WarmingSGD):
        optimizer.biases = frozenset(map(id, biases(network)))
    optimizer.build(network.trainable_variables)


def constant(stage, step, warmup, total):
    """1 throughout: the stage's rate."""
    return 1.0


def cosine(stage, step, warmup, total):
    """From 1 to stage.final along half a cosine (Loshchilov and Hutter 2017, arXiv:1608.03983)."""
    progress = tf.clip_by_value((step - warmup) / tf.maximum(total - warmup, 1.0), 0.0, 1.0)
    return stage.final + (1 - stage.final) * 0.5 * (1 + tf.cos(math.pi * progress))


def stepped(stage, step, warmup, total):
    """1, times stage.final at each of stage.steps."""
    drops = tf.reduce_sum(tf.cast(step / total >= tf.constant(stage.steps, tf.float32), tf.float32))
    return tf.pow(stage.final, drops)


# Each: (stage, step, warmup, total) -> the factor on the stage's learning rate. stage: a config.Stage. step: float32
# steps done. warmup: steps of the warm-up. total: steps of the stage; all three are tensors or variables.
SCHEDULES = {"constant": constant, "cosine": cosine, "step": stepped}


class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """The learning rate of one stage: a warm-up, linear or another power, under one of SCHEDULES.

    Called with the number of steps done, it gives the rate of the next.

    Args:
        stage: a config.Stage.
        steps_per_epoch: optimizer steps.

    Attributes:
        total: a variable, the steps of the stage.
        warmup: a variable, those of the warm-up.
    """

    def __init__(self, stage, steps_per_epoch):
        if stage.schedule not in SCHEDULES:  # of a run that another program began
            choices = ", ".join(SCHEDULES)
            raise ConfigError(f"train.stages.*.schedule: expected one of {choices}, received {stage.schedule!r}")
        self.stage, self.steps_per_epoch = stage, steps_per_epoch
        self.total, self.warmup = (tf.Variable(0.0, trainable=False) for _ in range(2))
        self.fit(stage.epochs)

    def fit(self, epochs):
        """Takes another number of epochs, while it is in use."""
        self.total.assign(epochs * self.steps_per_epoch)
        self.warmup.assign(min(self.stage.warmup, epochs / 3) * self.steps_per_epoch)

    def __call__(self, step):
        """The learning rate of the step after so many: a float32 scalar."""
        stage, step = self.stage, tf.cast(step, tf.float32)
        warmup = tf.minimum(1.0, (step + 1) / tf.maximum(self.warmup, 1.0)) ** stage.warmup_power
        return stage.lr * warmup * SCHEDULES[stage.schedule](stage, step, self.warmup, self.total)


class PerVariable:
    """What the optimizers below add to Keras's: a factor on the learning rate of a variable and its weight decay.

    They decay a variable as they update it; Keras does before, at one rate for all.
    """

    factors = MappingProxyType({})  # {id of a variable: factor}, 1 where unnamed; build_for knows them

    def own_rate(self, variable, learning_rate):
        """The learning rate of a variable, which is decayed at it."""
        factor = self.factors.get(id(self._trainable_variables[self._get_variable_index(variable)]), 1.0)
        rate = learning_rate if factor == 1 else learning_rate * factor
        if self.weight_decay is not None and self._use_weight_decay(variable):
            self.assign_sub(variable, variable * self.weight_decay * rate)
        return rate

    def _apply_weight_decay(self, variables):
        pass


class WarmingSGD(PerVariable, keras.optimizers.SGD):
    """SGD in whose warm-up the momentum rises too, and the rate of biases falls from a large one to that of the others.

    A detector first learns, in its biases, how rare objects are; YOLOv5 and its successors warm up so.

    Args:
        schedule: a Schedule.
        warmup_momentum: the momentum at step 0.
        warmup_bias_lr: what is added to the learning rate of biases at step 0.
        **kwargs: those of keras.optimizers.SGD.
    """

    def __init__(self, schedule, *, warmup_momentum, warmup_bias_lr, **kwargs):
        super().__init__(schedule, **kwargs)
        self.schedule = schedule
        self.warmup_momentum, self.warmup_bias_lr = warmup_momentum, warmup_bias_lr
        self.biases = frozenset()  # ids of variables; build_for knows them

    def update_step(self, gradient, variable, learning_rate):
        """Updates one variable, as Keras asks for it."""
        learning_rate = self.own_rate(variable, learning_rate)
        if not self.momentum:
            return super().update_step(gradient, variable, learning_rate)
        index, warmup = self._get_variable_index(variable), tf.maximum(self.schedule.warmup, 1.0)
        cold = 1.0 - tf.minimum(tf.cast(self.iterations.value, tf.float32) / warmup, 1.0)
        momentum = self.momentum + (self.warmup_momentum - self.momentum) * cold
        if id(self._trainable_variables[index]) in self.biases:
            learning_rate = learning_rate + self.warmup_bias_lr * cold
        velocity = momentum * self.momentums[index] - gradient * learning_rate
        self.assign(self.momentums[index], velocity)
        self.assign_add(variable, momentum * velocity - gradient * learning_rate if self.nesterov else velocity)


def sgd(
    schedule,
    *,
    momentum: BelowOne = 0.9,
    nesterov: bool = True,
    weight_decay: NonNegative = 0.0,
    warmup_momentum: BelowOne | None = None,
    warmup_bias_lr: NonNegative = 0.0,
):
    """SGD with momentum; weight decay is decoupled and scaled by the learning rate.

    Args:
        schedule: a Schedule.
        momentum: of the velocity, in [0, 1).
        nesterov: whether the gradient is taken ahead of the velocity.
        weight_decay: from 0 up.
        warmup_momentum: from it the momentum rises during the stage's warm-up; None: it is the same throughout.
        warmup_bias_lr: added to the learning rate of biases; it falls to 0 during the warm-up.

    Returns:
        A Keras optimizer.
    """
    return WarmingSGD(
        schedule,
        momentum=momentum,
        nesterov=nesterov,
        weight_decay=weight_decay or None,
        warmup_momentum=momentum if warmup_momentum is None else warmup_momentum,
        warmup_bias_lr=warmup_bias_lr,
    )


class FusedAdamW(PerVariable, keras.optimizers.AdamW):
    """Keras's AdamW with TensorFlow's kernel for it: one pass over a variable in place of eleven."""

    def apply(self, grads, trainable_variables=None):
        """Updates all variables. What is the same for each is computed once: a network has hundreds."""
        step = tf.cast(self.iterations.value + 1, tf.float32)
        self.constants = {
            "beta1_power": tf.pow(self.beta_1, step),
            "beta2_power": tf.pow(self.beta_2, step),
            "beta1": tf.constant(self.beta_1),
            "beta2": tf.constant(self.beta_2),
            "epsilon": tf.constant(self.epsilon),
        }
        super().apply(grads, trainable_variables)
        self.constants = {}  # tensors of a graph that is done

    def update_step(self, gradient, variable, learning_rate):
        """Updates one variable, as Keras asks for it."""
        learning_rate = self.own_rate(variable, learning_rate)
        index = self._get_variable_index(variable)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            lr=tf.cast(learning_rate, tf.float32),
            grad=gradient,
            **self.constants,
        )


def adamw(schedule, *, beta_1: BelowOne = 0.9, beta_2: BelowOne = 0.999, weight_decay: NonNegative = 0.01):
    """Adam with decoupled weight decay.

    Args:
        schedule: a Schedule.
        beta_1: decay of the mean of gradients, in [0, 1).
        beta_2: decay of the mean of their squares, in [0, 1).
        weight_decay: from 0 up; scaled by the learning rate.

    Returns:
        A Keras optimizer.

    Source: Loshchilov and Hutter 2019, arXiv:1711.05101.
    """
    return FusedAdamW(schedule, weight_decay=weight_decay, beta_1=beta_1, beta_2=beta_2)


OPTIMIZERS = {"sgd": sgd, "adamw": adamw}


class EMA:
    """Exponential moving average of a network's weights, batch-norm statistics included, which Keras's own leaves out.

    Args:
        network: a Keras model.
        decay: of one step, in [0, 1). The first steps use the smaller (1 + n) / (10 + n), n the steps so far, so that
            the random start is soon forgotten; n goes on where the optimizer of a later stage starts afresh. 0: no
            EMA, the values are the weights themselves.
    """

    def __init__(self, network, decay):
        self.decay = decay
        self.weights = network.weights
        self.values = [tf.Variable(weight, trainable=False) for weight in self.weights] if decay else self.weights
        self.steps = tf.Variable(0, trainable=False, dtype=tf.int64)

    def update(self, strategy):
        """Takes in the weights after a further step; called in the strategy's cross-replica context."""
        if not self.decay:
            return
        strategy.extended.update(self.steps, lambda steps: steps.assign_add(1), group=False)
        step = tf.cast(self.steps.read_value(), tf.float32)
        new = 1 - tf.minimum(self.decay, (1 + step) / (10 + step))
        for value, weight in zip(self.values, self.weights, strict=True):
            strategy.extended.update(value, lambda v, w: v.assign_sub(new * (v - w)), args=(weight.value,), group=False)

    def arrays(self):
        """The EMA's values: {"layer/variable": numpy array}."""
        return {weight.path: value.numpy() for weight, value in zip(self.weights, self.values, strict=True)}

    def load(self, arrays, steps):
        """Goes on from another EMA.

        Args:
            arrays: its arrays().
            steps: how many steps it has taken in.
        """
        self.steps.assign(steps)
        for weight, value in zip(self.weights, self.values, strict=True):
            value.assign(arrays[weight.path])
