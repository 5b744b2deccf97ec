"""What goes through a detector, stage by stage: shapes, parameters, FLOPs, and what each stage reads."""

import keras
import numpy as np

from tfyolo.fusion import nodes

# What stands between the blocks of a level is a stage of its own; so are the branches of a decoupled head.
OWN = ("down", "up", "lateral", "merge", "box", "cls")
PARTS = ("backbone", "neck", "head")


def stage_of(name):
    """The stage that a layer belongs to, by its dotted name; None if to none: "backbone.p2.split.conv" -> "backbone.p2"."""
    part, *rest = name.split(".")
    if part not in PARTS or not rest:
        return None
    return ".".join([part, *rest[: 2 if rest[1:2] and rest[1] in OWN else 1]])


def walk(model):
    """{"name", "input_size", "classes", "candidates", "parameters", "trainable", "flops", "stages"} of a Model.

    stages: a row for each, every one after those that it reads: {"stage", "inputs", "output", "stride", "parameters", "flops"}. inputs:
    other stages, or "images". output: [h, w, ...], the last layer's. stride: pixels of the picture that a cell of it stands for, None
    where there are no cells. flops: 2 x multiply-adds of convolutions and fully connected layers, batch 1.
    """
    height = model.network.input_shape[1]
    rows, owner, seen = {}, {}, set()
    for node in nodes(model.network)[0]:
        layer = node.operation
        stage = "images" if node.is_input else stage_of(layer.name)
        sources = [owner[id(x)] for x in node.input_tensors]
        # Bare operations, such as a split, have no path for a name: they go with what they read.
        stage = stage or sources[0]
        owner.update((id(x), stage) for x in node.output_tensors)
        if stage == "images":
            continue
        row = rows.setdefault(
            stage, {"stage": stage, "inputs": [], "output": None, "stride": None, "parameters": 0, "flops": 0}
        )
        row["inputs"] += [source for source in sources if source != stage and source not in row["inputs"]]
        if not isinstance(layer, keras.layers.Layer):
            continue
        shape = list(node.output_tensors[0].shape[1:])
        row["output"], row["stride"] = shape, height / shape[0] if len(shape) > 2 else None
        if layer not in seen:
            row["parameters"] += layer.count_params()
        seen.add(layer)
        row["flops"] += _flops(layer, shape)
    candidates = sum(int(np.prod(x.shape[1:4])) for x in model.network.output["box"].values())
    return {
        "name": model.config.name,
        "input_size": list(model.network.input_shape[1:3]),
        "classes": len(model.classes),
        "candidates": candidates,
        "parameters": model.network.count_params(),
        "trainable": sum(int(np.prod(variable.shape)) for variable in model.network.trainable_variables),
        "flops": sum(row["flops"] for row in rows.values()),
        "stages": sorted(rows.values(), key=lambda row: PARTS.index(row["stage"].partition(".")[0])),
    }


def gradient_norms(model, gradients):
    """{stage: norm of the gradient of all its weights}. gradients: of the network's trainable variables, in their order."""
    squares = {}
    for variable, gradient in zip(model.network.trainable_variables, gradients, strict=True):
        stage = stage_of(variable.path.partition("/")[0])
        squares[stage] = squares.get(stage, 0.0) + float(np.sum(np.square(np.asarray(gradient, "float64"))))
    return {stage: square**0.5 for stage, square in squares.items()}


def _flops(layer, output):
    if isinstance(layer, keras.layers.Conv2D | keras.layers.DepthwiseConv2D):
        return 2 * int(np.prod(layer.kernel.shape)) * output[0] * output[1]
    if isinstance(layer, keras.layers.Dense):
        return 2 * int(np.prod(layer.kernel.shape))
    return 0
