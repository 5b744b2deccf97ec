"""From a config to a model, and back from a file of weights."""

import functools
import inspect
import math
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
from keras import layers

from tfyolo import checkpoint
from tfyolo import config as configs
from tfyolo.assigners import ASSIGNERS
from tfyolo.backbones import BACKBONES
from tfyolo.config import parts
from tfyolo.config.ranges import MOST_CLASSES
from tfyolo.darknet.layers import LocallyConnected
from tfyolo.decoders import DECODERS
from tfyolo.devices import check_process
from tfyolo.files import here
from tfyolo.graph.fusion import fuse
from tfyolo.graph.nodes import deferred_variables, unallocated_variables
from tfyolo.heads import HEADS
from tfyolo.losses import OBJECTIVES
from tfyolo.messages import listed, printable
from tfyolo.necks import NECKS
from tfyolo.nn.resample import Upsample
from tfyolo.origin import Origin, to_meta
from tfyolo.postprocess import POSTPROCESS
from tfyolo.structures import as_features, as_raw, can_read_aux

# 4 GB, of which training needs three to five times as much. The largest published detector has 0.3 billion.
MOST_PARAMETERS = 1_000_000_000
MOST_SCORES = 1 << 30  # candidates times classes of one image
TABLES = {"backbone": BACKBONES, "neck": NECKS, "head": HEADS, "decoder": DECODERS, "objective": OBJECTIVES}


class Model(NamedTuple):
    """A detector, assembled.

    Attributes:
        config: the Config that it was built from.
        classes: names in label order.
        network: a Keras model, images [B, H, W, 3] float32 in 0..1 -> Raw.
        decoder: Raw -> Candidates; one of decoders.DECODERS.
        objective: the loss, term by term; one of losses.OBJECTIVES.
        postprocess: Candidates -> Detections; one of postprocess.POSTPROCESS.
        origin: what its weights were initialised from; None: they began at random.
    """

    config: configs.Config
    classes: tuple[str, ...]
    network: keras.Model
    decoder: keras.layers.Layer
    objective: Any
    postprocess: Any
    origin: Origin | None = None

    @property
    def input_size(self) -> tuple[int, int]:
        """(H, W) of the images that it is made for, in pixels."""
        return tuple(self.config.model.input_size)

    @property
    def preprocess(self) -> str:
        """How images are brought to that size, a key of data.geometry.FITS."""
        return self.config.model.preprocess

    @property
    def is_quantized(self) -> bool:
        """Whether its network has fake quantization, learned by quantization-aware training."""
        return self.config.model.quantize


# --- building ---------------------------------------------------------------------------------------------------------


def resolve(config, path, part, table):
    """The builder of a part, and the part's options, checked against the builder's signature.

    Args:
        config: the Config.
        path: where the part stands in it, for errors.
        part: a config.Part.
        table: {name: builder}.

    Returns:
        (builder, {option: value}).

    Raises:
        ConfigError: the name is not in the table, or an option is unknown, missing or out of its range.
    """
    parts.check_name(config, path, part, table)
    builder = table[part.name]
    return builder, parts.check_options(config, path, part, parts.options_of(builder))


def _make(config, kind, *args, **kwargs):
    """Builds a part of the model; the ValueError of its builder becomes a ConfigError."""
    builder, options = resolve(config, f"model.{kind}", getattr(config.model, kind), TABLES[kind])
    try:
        return builder(*args, **options, **kwargs)
    except configs.ConfigError:
        raise
    except ValueError as error:
        raise config.error(f"model.{kind}", str(error)) from error


def build(
    config: configs.Config,
    classes: Sequence[str] | None = None,
    *,
    input_size: tuple[int | None, int | None] | None = None,
    precision: str = "float32",
) -> Model:
    """A Model as the config describes it.

    Args:
        config: the Config.
        classes: names in label order; None: the config's own.
        input_size: (H, W) in place of the config's. (None, None) leaves it open to every multiple of the largest
            stride, for networks without a fully connected layer.
        precision: "float32" or "bfloat16", in which the network computes; its weights are float32 either way.

    Returns:
        A Model, its weights initialised.

    Raises:
        ConfigError: the parts do not fit each other, or the network has more than MOST_PARAMETERS, which is checked
            before memory is allocated.
    """
    check_process()
    classes = tuple(map(printable, classes if classes is not None else config.model.classes or ()))
    if len(classes) > MOST_CLASSES:
        raise config.error("model.classes", f"expected at most {MOST_CLASSES:,} classes, received {len(classes):,}")
    if not classes:
        raise config.error("model.classes", "expected the names of the classes, here or by a data set, received none")
    if config.model.classes is not None and classes != config.model.classes:
        raise config.error(
            "model.classes", f"expected the data's {_listed(classes)}, received {_listed(config.model.classes)}"
        )
    size = tuple(input_size or config.model.input_size)
    decoder = _make(config, "decoder")
    if size != (None, None):
        check_size(config, size, decoder.multiple)
    previous = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16" if precision == "bfloat16" else "float32")
    try:
        network = _bounded_network(config, size, decoder, len(classes))
    finally:
        keras.config.set_dtype_policy(previous)
    objective = objective_of(config, decoder)
    has_aux = as_raw(network.output).aux is not None
    if objective.reads_aux not in (None, has_aux):
        raise config.error(
            "model.objective",
            f"expected its option `aux` with a head that gives auxiliary outputs, and with no other, received "
            f"{config.model.objective.name} {'without' if has_aux else 'with'} it for {config.model.head.name}",
        )
    return Model(config, classes, network, decoder, objective, postprocess(config))


def _network(config, size, decoder, num_classes):
    """The Keras model of backbone, neck and head: images [B, H, W, 3] -> Raw. Raises ConfigError."""
    images = keras.Input((*size, 3), name="images")
    features = as_features(_make(config, "backbone", images, name="backbone"))
    if features.aux is not None:
        for kind in ("neck", "head"):
            _check_reads_aux(config, kind, "model.backbone", "features of earlier stacks", "stacks: 1")
    features = as_features(_make(config, "neck", _given(config, "neck", features), name="neck"))
    levels = sorted(features.levels)
    if levels != sorted(decoder.levels):
        raise config.error(
            "model.decoder",
            f"expected the levels {_listed(levels)} that the neck gives, received {_listed(decoder.levels)}",
        )
    if features.aux is not None:
        _check_reads_aux(config, "head", "model.neck", "features for an auxiliary head", "aux: false")
    raw = _make(
        config, "head", _given(config, "head", features), decoder.parts(num_classes), decoder.num_anchors, name="head"
    )
    try:
        decoder.check(raw)
    except ValueError as error:
        raise config.error("model.decoder", str(error)) from error
    return keras.Model(images, raw, name=config.name.replace("/", "."))


def _reads_aux(config, kind):
    builder, _ = resolve(config, f"model.{kind}", getattr(config.model, kind), TABLES[kind])
    return can_read_aux(builder)


def _given(config, kind, features):
    """What the neck or head is called with: Features if it reads auxiliary ones, else the levels."""
    return features if _reads_aux(config, kind) else features.levels


def _check_reads_aux(config, kind, path, given, expected):
    """Raises ConfigError unless the neck or head reads the auxiliary features that the part at a path gives."""
    if not _reads_aux(config, kind):
        choices = ", ".join(name for name, builder in sorted(TABLES[kind].items()) if can_read_aux(builder))
        raise config.error(
            path,
            f"it gives {given}, which model.{kind}, {getattr(config.model, kind).name}, does not read; of its choices "
            f"{choices} would; expected {expected}",
        )


def _bounded_network(config, size, decoder, num_classes):
    """_network, which raises ConfigError if it is too large, before its variables are allocated."""
    with deferred_variables():
        network = _network(config, size, decoder, num_classes)
        total = sum(math.prod(variable.shape) for variable in network.variables)
        if total > MOST_PARAMETERS:
            raise config.error(
                "model",
                f"expected a network of at most {MOST_PARAMETERS:,} parameters, received {total:,}; make it narrower "
                "(width), or give it fewer classes",
            )
        candidates = 0 if None in size else decoder.count(network.output)
        if candidates * num_classes > MOST_SCORES:
            raise config.error(
                "model",
                f"expected at most {MOST_SCORES:,} scores of an image, received {candidates:,} candidates of "
                f"{num_classes:,} classes each",
            )
    return network


def outline(model, num_classes):
    """A Model's network as it would be with another number of classes: names and shapes, without values.

    Args:
        model: a Model.
        num_classes: K.

    Returns:
        keras.Model; its variables have no memory.
    """
    return outline_of(model.config, num_classes, model.network.input_shape[1:3])


def outline_of(config, num_classes, size=None):
    """The network that a config describes: names and shapes, without values.

    Args:
        config: the Config.
        num_classes: K.
        size: (H, W) in place of the config's.

    Returns:
        keras.Model; its variables have no memory.
    """
    with unallocated_variables():
        return _network(config, size or tuple(config.model.input_size), decoder_of(config), num_classes)


def decoder_of(config):
    """The decoder that a config describes."""
    return _make(config, "decoder")


def objective_of(config, decoder):
    """The objective that a config describes, with its assigner, for a decoder."""
    assigner = None
    if config.model.assigner is not None:
        builder, options = resolve(config, "model.assigner", config.model.assigner, ASSIGNERS)
        assigner = functools.partial(builder, **options)
    return _make(config, "objective", decoder, assigner)


def scaling(config, depth=1.0, width=1.0):
    """Overrides that make a config's network deeper and wider: the options `depth` and `width` of its parts.

    Args:
        config: the Config.
        depth: factor on the option `depth` of every part that has it, above 0.
        width: factor on the option `width`, above 0.

    Returns:
        ["model.backbone.depth=0.5", ...].

    Raises:
        ConfigError: a factor is not 1, and no part has such an option.
    """
    overrides = []
    for option, factor in (("depth", depth), ("width", width)):
        found = False
        for kind in ("backbone", "neck", "head"):
            builder, options = resolve(config, f"model.{kind}", getattr(config.model, kind), TABLES[kind])
            known = inspect.signature(builder).parameters
            if option in known:
                found = True
                overrides.append(
                    f"model.{kind}.{option}={round(options.get(option, known[option].default) * factor, 6)}"
                )
        if factor != 1 and not found:
            raise config.error(
                "model", f"expected a backbone, neck or head with an option {option!r} to scale by, found none"
            )
    return overrides


def check_size(config, size, multiple, place="model.input_size"):
    """Checks that the sides of an input size are multiples of a decoder's largest stride.

    Args:
        config: the Config, for errors.
        size: (H, W) in pixels.
        multiple: of the decoder, in pixels.
        place: where the size stands in the config.

    Raises:
        ConfigError: they are not.
    """
    if size[0] % multiple or size[1] % multiple:
        near = [max(multiple, round(side / multiple) * multiple) for side in size]
        raise config.error(
            place,
            f"expected multiples of {multiple}, the largest stride, for example {near}, received {list(size)}",
        )


def multiple(model):
    """What the sides of a Model's images must be multiples of, in pixels: for its decoder and its upsampled maps."""
    height = model.network.input_shape[1]
    upsampled = [layer.input.shape[1] for layer in model.network.layers if isinstance(layer, Upsample)]
    return max(model.decoder.multiple, *(height // side for side in upsampled), 1)


def check_other_size(model, size, place="model.input_size"):
    """Checks that a Model's weights fit images of another size.

    Args:
        model: a Model.
        size: (H, W) in pixels.
        place: where the size stands in the config.

    Raises:
        ConfigError: its sides are no multiples of the stride, or a layer takes one size alone.
    """
    own = model.input_size
    if tuple(size) != own and any(map(_takes_one_size, model.network.layers)):
        raise model.config.error(
            place,
            f"expected {list(own)}, the one size that its fully or locally connected layers take, received "
            f"{list(size)}",
        )
    check_size(model.config, size, model.decoder.multiple, place)


def _takes_one_size(layer):
    """Whether a layer has weights for every cell of its grid, or hands all cells on to one that has."""
    if isinstance(layer, layers.Reshape):  # of cells, and not of what a global pooling leaves
        return len(layer.input.shape) == 4 and layer.input.shape[1:3] != (1, 1) and -1 not in layer.target_shape
    return isinstance(layer, layers.Flatten | LocallyConnected)


def resized(model, size):
    """The Model for images of another size.

    Args:
        model: a Model.
        size: (H, W) in pixels.

    Returns:
        A Model with a copy of the weights; its config has the new size.

    Raises:
        ConfigError: from check_other_size.
    """
    check_other_size(model, size)
    section = model.config.model.model_copy(update={"input_size": tuple(size)})
    config = model.config.model_copy(update={"model": section})
    return model._replace(config=config, network=network_for(model, tuple(size)))


def network_for(model, size):
    """A Model's network for images of another size, with a copy of the weights.

    Args:
        model: a Model.
        size: (H, W) in pixels; (None, None): any.

    Returns:
        keras.Model, images -> Raw.
    """
    other = _with_quantization(build(model.config, model.classes, input_size=size))
    checkpoint.assign(other.network, checkpoint.weights_of(model.network))
    return other.network


def _with_quantization(model):
    """The Model with fake quantization if its config has it, as its weights then have."""
    if not model.is_quantized:
        return model
    from tfyolo.graph.quantization import quantization_aware

    return quantization_aware(model)


def without_quantization(model):
    """Takes away the fake quantization that a Model may have been trained with.

    Args:
        model: a Model.

    Returns:
        A fused Model with a copy of its other weights; the given one if its config has no quantization.
    """
    if not model.is_quantized:
        return model
    size = model.network.input_shape[1:3]
    other = fuse(build(model.config, model.classes, input_size=size))
    weights = checkpoint.weights_of(model.network)
    checkpoint.assign(other.network, {name: weights[name] for name in checkpoint.weights_of(other.network)})
    return other


def with_largest_box(model, side):
    """Limits the sides of a Model's boxes.

    Args:
        model: a Model.
        side: the longest, in pixels.

    Returns:
        A Model with the same network; the given one if its decoder has no such limit.
    """
    if not model.decoder.has_largest:
        return model
    builder, options = resolve(model.config, "model.decoder", model.config.model.decoder, DECODERS)
    return model._replace(decoder=builder(**options | {"largest": side}))


def postprocess(config, **options):
    """The config's post-processing.

    Args:
        config: the Config.
        options: in place of the config's.

    Returns:
        Candidates -> Detections, with the options as attributes: postprocess.Nms or another of POSTPROCESS.

    Raises:
        ConfigError: an option is unknown or out of its range, or two contradict each other.
    """
    part = config.model.postprocess
    builder, own = resolve(config, "model.postprocess", part, POSTPROCESS)
    given = configs.Part(name=part.name, **options)
    options = parts.check_options(config, "model.postprocess", given, parts.options_of(builder))
    if options.keys() & NMS_VARIANTS:  # they exclude each other
        own = {name: value for name, value in own.items() if name not in NMS_VARIANTS}
    try:
        return builder(**{**own, **options})
    except ValueError as error:
        raise config.error("model.postprocess", str(error)) from error


NMS_VARIANTS = {"soft_sigma", "soft_linear", "distance_power"}


def _listed(names):
    return f"{len(names)} ({listed(names, 6)})"


# --- saving and loading -----------------------------------------------------------------------------------------------


def weights_file(path):
    """The file of weights that a path names.

    Args:
        path: of a .h5 file or of a run's folder.

    Returns:
        pathlib.Path: the path itself, or the folder's best.h5, else last.h5.

    Raises:
        CheckpointError: it is a config, or a folder without either.
    """
    path = here(path)
    if path.suffix in (".yaml", ".yml") and path.is_file():
        runs = [path.parent / name for name in ("best.h5", "last.h5")]
        folder = path.parent if any(file.exists() for file in runs) else "runs/NAME"
        raise checkpoint.CheckpointError(
            f"{path}: this is a config; name the folder of the run trained with it: {folder}"
        )
    if not path.is_dir():
        return path
    for name in ("best.h5", "last.h5"):
        if (path / name).exists():
            return path / name
    raise checkpoint.CheckpointError(
        f"{path}: expected a run's folder with best.h5 or last.h5, or a SavedModel's with saved_model.pb; it holds "
        f"{', '.join(sorted(os.listdir(path))[:8]) or 'nothing'}"
    )


def load_model(path: str | os.PathLike) -> Model:
    """A Model with the weights of a run or a .h5 file.

    Args:
        path: of a run's folder, which stands for its best.h5, else last.h5; or of a .h5 file. Of last.h5 the EMA
            weights are loaded, which training evaluates.

    Returns:
        A Model.

    Raises:
        CheckpointError: it is no such file, or does not fit this version.
    """
    if message := configs.foreign(path, "a run or a .h5 file"):
        raise checkpoint.CheckpointError(message)
    file = weights_file(path)
    meta, weights = checkpoint.load(file, checkpoint.FOR_USE)
    config = checkpoint.config_of(file, meta)
    with checkpoint.fits_this_version(file):
        model = _with_quantization(build(config, meta["classes"]))
    checkpoint.assign(model.network, weights, source=f"{file}: its weights")
    return model._replace(origin=checkpoint.origin_of(meta))


def save_model(path, model, **meta):
    """Writes a Model's weights, config and class names into one .h5 file.

    Args:
        path: of the file.
        model: a Model.
        meta: further entries of the file's metadata, of types that JSON has.
    """
    checkpoint.save(path, describe(model, **meta), weights=checkpoint.weights_of(model.network))


def describe(model, **meta):
    """The metadata of every checkpoint and export, so that later commands need no other source.

    Args:
        model: a Model.
        meta: further entries, of types that JSON has.

    Returns:
        {"config": ..., "classes": [...], "origin": origin.to_meta's, ...}.
    """
    own = {"config": configs.to_json(model.config), "classes": list(model.classes), "origin": to_meta(model.origin)}
    return own | meta
