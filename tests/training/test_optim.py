"""Optimizers against their sums in float64."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfyolo.config import ConfigError, Stage
from tfyolo.training.optim import Schedule, adamw, build_for, sgd


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("options", [{}, {"warmup_momentum": 0.8, "warmup_bias_lr": 0.1}, {"momentum": 0.0}])
def test_sgd_equals_the_sums(options, nesterov):
    layer = keras.layers.Dense(2)
    layer.build((None, 3))
    layer.bias.assign([0.5, -0.25])
    schedule = Schedule(Stage(epochs=6, lr=0.1, warmup=2.0, schedule="cosine", final=0.1), steps_per_epoch=3)
    optimizer = sgd(schedule, nesterov=nesterov, weight_decay=0.05, **{"momentum": 0.9, **options})
    build_for(layer, optimizer)
    rng = np.random.default_rng(0)
    values = {variable.name: np.asarray(variable, "float64") for variable in layer.trainable_variables}
    velocity = {name: 0.0 for name in values}
    last = options.get("momentum", 0.9)
    first = options.get("warmup_momentum", last)
    for step in range(12):
        gradients = {name: rng.normal(size=value.shape) for name, value in values.items()}
        optimizer.apply([gradients[variable.name].astype("float32") for variable in layer.trainable_variables])
        warm = min(step / 6, 1)  # two epochs of three steps
        rate, momentum = float(schedule(step)), first + (last - first) * warm
        for name, gradient in gradients.items():
            own = rate + (options.get("warmup_bias_lr", 0) * (1 - warm) if name == "bias" else 0)
            if name == "kernel":
                values[name] = values[name] * (1 - 0.05 * rate)
            velocity[name] = momentum * velocity[name] - own * gradient
            values[name] = values[name] + (
                momentum * velocity[name] - own * gradient if nesterov and last else velocity[name]
            )
    for variable in layer.trainable_variables:
        np.testing.assert_allclose(variable, values[variable.name], rtol=1e-4, atol=1e-6)


def test_adamw_equals_keras():
    schedule = Schedule(Stage(epochs=6, lr=0.1, warmup=2.0, schedule="cosine", final=0.1), steps_per_epoch=3)
    results = []
    for make in (adamw, keras.optimizers.AdamW):
        layer = keras.layers.Dense(2, kernel_initializer="ones")
        layer.build((None, 3))
        optimizer = make(schedule, weight_decay=0.05, beta_1=0.85)
        build_for(layer, optimizer)
        rng = np.random.default_rng(0)
        for _ in range(12):
            gradients = [rng.normal(size=variable.shape).astype("float32") for variable in layer.trainable_variables]
            optimizer.apply([tf.constant(gradient) for gradient in gradients])
        results.append([np.asarray(variable) for variable in [*layer.trainable_variables, *optimizer.variables]])
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("make", [sgd, adamw])
def test_the_backbone_has_a_learning_rate_of_its_own(make):
    """A factor on the rate, weight decay and biases' warm-up included: each half of the network steps as by itself."""

    def trained(names, lr, backbone_rate=1.0):
        schedule = Schedule(Stage(epochs=6, lr=lr, warmup=2.0, schedule="cosine", final=0.1), steps_per_epoch=3)
        inputs = keras.Input((3,))
        halves = {
            name: keras.layers.Dense(2, kernel_initializer="ones", name=f"{name}.dense")(inputs) for name in names
        }
        network = keras.Model(inputs, halves)
        optimizer = make(schedule, weight_decay=0.5)
        build_for(network, optimizer, backbone_rate)
        for step in range(12):
            rng = np.random.default_rng(step)
            gradients = {shape: rng.normal(size=shape).astype("f4") for shape in ((3, 2), (2,))}
            optimizer.apply([gradients[tuple(variable.shape)] for variable in network.trainable_variables])
        return {variable.path: np.asarray(variable) for variable in network.trainable_variables}

    both = trained(("backbone", "backbones"), 0.1, backbone_rate=0.25)
    alone = trained(("backbone",), 0.025) | trained(("backbones",), 0.1)
    for path, values in both.items():
        np.testing.assert_allclose(values, alone[path], rtol=1e-5, err_msg=path)
    assert not np.allclose(both["backbone.dense/kernel"], both["backbones.dense/kernel"], rtol=1e-2)


def test_an_optimizer_of_somebodys_own_has_one_learning_rate():
    layer = keras.layers.Dense(2)
    layer.build((None, 3))
    with pytest.raises(ConfigError, match=r"train\.backbone_rate: expected 1 with Lion"):
        build_for(layer, keras.optimizers.Lion(0.1), 0.5)
