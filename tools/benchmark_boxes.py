"""What a loss and its gradient cost in images of many boxes and many classes: seconds and memory, family by family.

    python tools/benchmark_boxes.py
    python tools/benchmark_boxes.py yolov7 yolox-s --objects 700 --classes 1203 --batch 16

The decoder, the assigner and the objective of a config, above random outputs in place of a network, in a tf.function
on the CPU; a process of its own for each row. The network's outputs and their gradients, which any loss holds, are
"outputs GB", each once; the peak is that of the process, TensorFlow's own 0.5 GB included. A row that needs more than
--most GB of address space says so.
"""

import resource
import subprocess
import sys
import time

import click

from tfyolo.cli.app import Command
from tfyolo.devices import start as start_tensorflow

FAMILIES = ("yolov1", "yolov3", "yolov7", "yolov7-w6", "yolov8n", "yolox-s", "m2det512-vgg", "cornernet-small")


def measured(name, size, batch, objects, classes, crowds):
    """(seconds of the second call, GB of the outputs, GB at the peak)."""
    start_tensorflow(None)
    import numpy as np
    import tensorflow as tf

    from tfyolo import config as configs
    from tfyolo import model as models
    from tfyolo.structures import Sample

    config = configs.load(configs.zoo(name))
    size = size or config.model.input_size[0]
    outputs = models.outline_of(config, classes, (size, size)).output
    decoder = models.decoder_of(config)
    objective = models.objective_of(config, decoder)
    keys = iter(range(1000))
    raw = tf.nest.map_structure(
        lambda x: tf.random.stateless_normal((batch, *x.shape[1:]), (0, next(keys))) - 2, outputs
    )
    rng = np.random.default_rng(0)
    centers = rng.uniform(0, size, (batch, objects, 2))
    halves = np.exp(rng.uniform(2.3, 5, (batch, objects, 2))) / 2  # sides of 10 to 150 pixels
    boxes = np.clip(np.concatenate([centers - halves, centers + halves], axis=-1), 0, size).astype("float32")
    labels = rng.integers(0, classes, (batch, objects)).astype("int32")
    crowd = np.arange(objects) < crowds
    fields = (
        boxes,
        labels,
        np.tile(crowd, (batch, 1)),
        np.arange(batch, dtype="int32"),
        np.zeros((batch, 3, 3), "float32"),
    )

    @tf.function(autograph=False)
    def loss_and_gradients(raw, boxes, labels, crowd, *rest):
        sample = Sample(tf.zeros((batch, size, size, 3)), boxes, labels, crowd, *rest)
        with tf.GradientTape() as tape:
            tape.watch(tf.nest.flatten(raw))
            loss = tf.add_n(list(objective(raw, decoder(raw), sample).values()))
        return loss, tape.gradient(loss, tf.nest.flatten(raw))

    for _ in range(2):
        began = time.perf_counter()
        loss, gradients = loss_and_gradients(raw, *map(tf.constant, fields))
        seconds = time.perf_counter() - began
        assert np.isfinite(float(loss))
        del gradients
    gb = 4 * sum(np.prod(x.shape) for x in tf.nest.flatten(raw)) / 2**30
    return seconds, gb, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


@click.command(cls=Command)
@click.argument("names", nargs=-1)
@click.option("--objects", multiple=True, type=click.IntRange(min=1), default=(100, 700, 2000), show_default=True)
@click.option("--classes", multiple=True, type=click.IntRange(min=1), default=(80, 1203), show_default=True)
@click.option("--crowds", default=0, show_default=True, help="How many of the objects are crowds.")
@click.option("--batch", default=16, show_default=True, help="Images.")
@click.option("--size", default=640, show_default=True, help="Pixels of a side; 0: the config's own.")
@click.option("--most", default=18.0, show_default=True, help="GB of address space of a row's process.")
@click.option("--here", is_flag=True, hidden=True)
def main(names, objects, classes, crowds, batch, size, most, here):
    """Time a loss and its gradient in images of many boxes and many classes, and measure their memory."""
    if here:
        print(*(f"{value:.2f}" for value in measured(names[0], size, batch, objects[0], classes[0], crowds)), sep=" | ")
        return
    print("config | objects | classes | seconds | outputs GB | peak GB")
    limit = int(most * 2**30)
    for name in names or FAMILIES:
        for K in classes:
            for M in objects:
                command = [sys.executable, __file__, name, "--here", "--objects", M, "--classes", K, "--size", size]
                done = subprocess.run(
                    [*map(str, command), "--batch", str(batch), "--crowds", str(crowds)],
                    capture_output=True,
                    text=True,
                    preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
                )
                row = done.stdout.strip() or f"{done.stderr.strip().splitlines()[-1:] or 'killed'}"[:120]
                print(name, M, K, row, sep=" | ", flush=True)


if __name__ == "__main__":
    main()
