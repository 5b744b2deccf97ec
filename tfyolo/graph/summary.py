"""A model summary: the stages of a detector with their shapes, parameters and FLOPs, and which stage reads which."""

import keras
import numpy as np

from tfyolo.graph.nodes import nodes
from tfyolo.messages import counted

# Names of layers are paths, "backbone.p2.split.conv", whose first two parts are the stage, "backbone.p2". Where the
# third is one of these, it belongs to the stage: what stands between the blocks of a level, and the branches of a
# decoupled head.
OWN = ("down", "up", "lateral", "merge", "box", "obj", "cls")
PARTS = ("backbone", "neck", "head")


def _named(name):
    """The stage of a layer by its name, "backbone.p2.split.conv" -> "backbone.p2"; None for a name that is no path."""
    part, *rest = name.split(".")
    if part not in PARTS or not rest:
        return None
    return ".".join([part, *rest[: 2 if rest[1:2] and rest[1] in OWN else 1]])


def _staged(network):
    """[(node, its stage, the stages it reads)] of all calls but the input's, each after those that it reads."""
    found, owner = [], {}
    for node in nodes(network)[0]:
        sources = [owner[id(x)] for x in node.input_tensors]
        stage = "images" if node.is_input else _named(node.operation.name)
        if stage is None:  # a bare operation, such as a split, or a user's own layer: it goes with what it reads
            stage = PARTS[0] if sources[0] == "images" else sources[0]
        owner.update((id(x), stage) for x in node.output_tensors)
        if not node.is_input:
            found.append((node, stage, sources))
    return found


def summarize(model):
    """The model summary of a detector.

    Args:
        model: a tfyolo.model.Model.

    Returns:
        {"name", "input_size", "classes", "candidates", "parameters", "trainable", "flops", "stages"}.

        stages: a dict for each, after those that it reads: {"stage", "inputs", "output", "stride", "parameters",
        "flops"}. inputs: names of stages, or "images". output: [h, w, ...] of its last layer. stride: pixels of the
        image along a cell's side, None where there are no cells. flops: 2 x multiply-adds of convolutions and fully
        connected layers, batch 1.
    """
    height = model.network.input_shape[1]
    rows, seen = {}, set()
    for node, stage, sources in _staged(model.network):
        row = rows.setdefault(
            stage, {"stage": stage, "inputs": [], "output": None, "stride": None, "parameters": 0, "flops": 0}
        )
        row["inputs"] += [source for source in sources if source != stage and source not in row["inputs"]]
        layer, shape = node.operation, list(node.output_tensors[0].shape[1:])
        if isinstance(layer, keras.layers.Layer):
            row["output"], row["stride"] = shape, height / shape[0] if len(shape) > 2 else None
            own = {id(variable): variable for variable in layer.weights if id(variable) not in seen}
            row["parameters"] += sum(int(np.prod(variable.shape)) for variable in own.values())
            row["flops"] += _flops(layer, shape)
            seen.update(own)
    return {
        "name": model.config.name,
        "input_size": list(model.network.input_shape[1:3]),
        "classes": len(model.classes),
        "candidates": model.decoder.count(model.network.output),
        "parameters": model.network.count_params(),
        "trainable": sum(int(np.prod(variable.shape)) for variable in model.network.trainable_variables),
        "flops": sum(row["flops"] for row in rows.values()),
        "stages": sorted(rows.values(), key=lambda row: PARTS.index(row["stage"].partition(".")[0])),
    }


def gradient_norms(model, gradients):
    """The norm of the gradient of each stage's weights.

    Args:
        model: a tfyolo.model.Model.
        gradients: [array], of the network's trainable variables, in their order.

    Returns:
        {stage: norm}
    """
    stages = {node.operation.name: stage for node, stage, _ in _staged(model.network)}
    squares = {}
    for variable, gradient in zip(model.network.trainable_variables, gradients, strict=True):
        stage = stages[variable.path.partition("/")[0]]
        squares[stage] = squares.get(stage, 0.0) + float(np.sum(np.square(np.asarray(gradient, "float64"))))
    return {stage: square**0.5 for stage, square in squares.items()}


def _flops(layer, output):
    if isinstance(layer, keras.layers.Conv2D | keras.layers.DepthwiseConv2D):
        return 2 * int(np.prod(layer.kernel.shape)) * output[0] * output[1]
    if isinstance(layer, keras.layers.Dense):
        return 2 * int(np.prod(layer.kernel.shape))
    return 0


def table(summary) -> str:
    """Formats a summary for people: a line for each stage, with its gradient norm if the rows have one, and the totals.

    Args:
        summary: from summarize(). Its rows may have "gradient_norm" too, and it may have "loss", {term: value} of the
            data's first batch.

    Returns:
        The lines.
    """
    has_gradients = any("gradient_norm" in row for row in summary["stages"])
    last = f"{'gradient':>12}" if has_gradients else ""
    lines = [f"{'stage':<24}{'output':<20}{'stride':>7}{'parameters':>14}{'MFLOPs':>12}{last}   reads"]
    for row in summary["stages"]:
        shape, stride = " x ".join(map(str, row["output"])), f"{row['stride']:g}" if row["stride"] else ""
        line = f"{row['stage']:<24}{shape:<20}{stride:>7}{row['parameters']:>14,}{row['flops'] / 1e6:>12,.1f}"
        if has_gradients:
            line += f"{row['gradient_norm']:>12.3g}" if row["gradient_norm"] is not None else f"{'':>12}"
        lines.append(f"{line}   {', '.join(row['inputs'])}")
    classes = counted(summary["classes"], "class")
    scores = counted(summary["classes"], "class score")
    lines.append(f"{summary['candidates']:,} candidates, each 4 box values and {scores}")
    if "loss" in summary:
        terms = ", ".join(f"{name} {value:.4g}" for name, value in summary["loss"].items())
        lines.append(f"loss of the first batch: {terms}")
    height, width = summary["input_size"]
    lines.append(f"{summary['name']} at {height} x {width}, {classes}: {totals(summary)} (2 x multiply-adds)")
    return "\n".join(lines)


def totals(summary) -> str:
    """Formats the totals of a summary: "1,234 parameters (1,200 trainable), 5.67 GFLOPs"."""
    flops = f"{summary['flops'] / 1e9:.2f} GFLOPs"
    return f"{summary['parameters']:,} parameters ({summary['trainable']:,} trainable), {flops}"
