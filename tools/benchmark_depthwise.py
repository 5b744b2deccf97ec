"""How long a depthwise convolution and its gradients take: tfyolo's kernels in bfloat16 beside TensorFlow's.

    python tools/benchmark_depthwise.py
    python tools/benchmark_depthwise.py --batch 8 --shape 64 144 5 2

A row is a shape of EfficientNet-Lite0 or YOLOX-nano at 256 pixels: forward and both gradients in one function, the
quickest of several runs that take turns, and the ratio to TensorFlow in bfloat16.
"""

import time

import click

from tfyolo.cli.app import Command
from tfyolo.devices import start as start_tensorflow

SHAPES = ((128, 16, 3, 2), (64, 32, 3, 2), (128, 96, 3, 2), (64, 144, 5, 2), (64, 144, 3, 1), (16, 672, 5, 1))
TURNS = 7


def pass_of(layer, x):
    """A function that takes one forward and backward pass over x."""
    import tensorflow as tf

    @tf.function
    def both():
        with tf.GradientTape() as tape:
            tape.watch(x)
            outputs = layer(x)
        return tape.gradient(outputs, [x, layer.kernel.value])

    return both


@click.command(cls=Command)
@click.option("--batch", default=16, show_default=True, help="Images.")
@click.option(
    "--shape",
    "shapes",
    nargs=4,
    type=click.IntRange(min=1),
    multiple=True,
    default=SHAPES,
    metavar="SIDE C KERNEL STRIDE",
    help="Of a feature map and its convolution.  [default: some of both networks]",
)
def main(batch, shapes):
    """Time depthwise convolutions and their gradients: tfyolo's kernels in bfloat16 beside TensorFlow's."""
    start_tensorflow(None)
    import keras
    import numpy as np
    import tensorflow as tf

    from tfyolo.nn.depthwise import DepthwiseConv2D

    print(
        "| side, channels, kernel, stride | float32 ms | bfloat16 ms | ours in bfloat16 ms | ratio |\n"
        "|---|---|---|---|---|"
    )
    for side, channels, kernel, stride in shapes:
        passes = []
        for cls, dtype in (
            (keras.layers.DepthwiseConv2D, "float32"),
            (keras.layers.DepthwiseConv2D, "mixed_bfloat16"),
            (DepthwiseConv2D, "mixed_bfloat16"),
        ):
            layer = cls(kernel, strides=stride, padding="same", use_bias=False, dtype=dtype)
            noise = np.random.default_rng(0).normal(size=(batch, side, side, channels))
            passes.append(pass_of(layer, tf.cast(noise, layer.compute_dtype)))
        best = [float("inf")] * len(passes)
        for _ in range(TURNS):
            for i, both in enumerate(passes):
                began = time.perf_counter()
                both()
                best[i] = min(best[i], time.perf_counter() - began)
        row = " | ".join(f"{1e3 * seconds:.1f}" for seconds in best)
        print(f"| {side}, {channels}, {kernel}, {stride} | {row} | {best[2] / best[1]:.2f} |", flush=True)


if __name__ == "__main__":
    main()
