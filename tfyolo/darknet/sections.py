"""Any Darknet network: the sections of its .cfg, each a class that says its shape and builds its layers.

Sections read what stands before them, or earlier sections by number: counted from 0, or back from themselves if
negative, as in the .cfg. Shapes are (h, w, c). Layers are named by the section's number: "backbone.12.conv".
"""

from typing import Annotated, Literal

from keras import layers
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from tfyolo.darknet.layers import LocallyConnected, MeanInside, Passthrough, Passthrough3d, WeightedSum, windows
from tfyolo.errors import Error
from tfyolo.nn.activations import ACTIVATIONS, activate
from tfyolo.nn.blocks import ChannelGroup, FitChannels, conv
from tfyolo.nn.pooling import max_pool
from tfyolo.nn.resample import Upsample

# Darknet's names of activations, and ours.
DARKNET_ACTIVATIONS = {name: name for name in ACTIVATIONS if name != "silu"} | {"swish": "silu"}

Activation = Literal["linear", "leaky", "relu", "relu6", "logistic", "mish", "swish"]
Positive = Annotated[int, Field(gt=0)]
Natural = Annotated[int, Field(ge=0)]
Earlier = Annotated[tuple[int, ...], Field(min_length=1)]

_section = dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))


class SectionError(Error):
    """A section does not fit those before it. number: which, from 0."""

    def __init__(self, number, message):
        super().__init__(f"section {number}: {message}")
        self.number, self.message = number, message


def _same(shapes):
    if len(set(shapes)) > 1:
        raise ValueError(f"expected maps of one shape (h, w, c), received {', '.join(map(str, shapes))}")
    return shapes[0]


def _stride(shape, small):
    """How many times larger than a small map one of a shape is, both (h, w, c); None if that is no whole number."""
    (height, width), (rows, columns) = shape[:2], small[:2]
    stride = height // rows
    return stride if stride >= 1 and (height, width) == (stride * rows, stride * columns) else None


class Section:
    """One section of a .cfg: sources(number), shape(shapes) and, but for heads, build(tensors, name) -> tensor."""

    def sources(self, number):
        """The numbers of the sections that this one, which is the number-th, reads; -1 is the image."""
        return [number - 1]

    def shape(self, shapes):
        """(h, w, c) of the output, from those of the sources. Raises ValueError where they do not fit."""
        return shapes[0]


class _Joins(Section):
    """Reads the section before it and earlier ones."""

    def sources(self, number):
        return [number - 1, *_absolute(self.inputs, number)]


def _absolute(inputs, number):
    return [index if index >= 0 else number + index for index in inputs]


@_section
class Crop(Section):
    """[crop]: the middle of the image, here all of it, from -1 to 1 unless noadjust, as YOLO's first networks begin."""

    type: Literal["crop"] = "crop"
    crop_height: Positive = 1
    crop_width: Positive = 1
    noadjust: bool = False

    def shape(self, shapes):
        if shapes[0][:2] != (self.crop_height, self.crop_width):
            raise ValueError(
                f"expected the whole map of shape {shapes[0]}, received {self.crop_height} x {self.crop_width} of it"
            )
        return shapes[0]

    def build(self, tensors, name):
        return tensors[0] if self.noadjust else layers.Rescaling(2.0, -1.0, name=f"{name}.adjust")(tensors[0])


@_section
class Convolutional(Section):
    """[convolutional]: a convolution with its batch norm and activation; others may share its weights."""

    type: Literal["convolutional"] = "convolutional"
    filters: Positive = 1
    size: Positive = 1
    stride: Positive = 1
    groups: Positive = 1
    dilation: Positive = 1
    padding: Natural = 0  # pixels on every side, before dilation
    batch_normalize: bool = False
    activation: Activation = "logistic"
    share_index: int | None = None  # the section whose weights it has, numbered as sources are

    def shape(self, shapes):
        ((height, width, channels),) = shapes
        if channels % self.groups or self.filters % self.groups:
            raise ValueError(f"{channels} channels and {self.filters} filters do not divide into {self.groups} groups")
        # Darknet counts windows as if nothing were dilated, which has to come to the same.
        if self.dilation > 1 and self.size != 2 * self.padding + 1:
            raise ValueError(
                f"expected padding={self.size // 2} with dilation={self.dilation}, received {self.padding}"
            )
        return (*(windows(side, self.size, self.stride, self.padding) for side in (height, width)), self.filters)

    def kernel(self, channels):
        """What shared weights have alike: (filters, channels of each, rows, columns), and whether a batch norm."""
        return (self.filters, channels // self.groups, self.size, self.size), self.batch_normalize

    def is_depthwise(self, channels):
        """Whether it convolves each of so many channels by itself."""
        return 1 < self.groups == self.filters == channels

    def build(self, tensors, name, owner=None):
        """owner: the output of the section whose weights it has."""
        return conv(
            tensors[0],
            self.filters,
            self.size,
            self.stride,
            norm=self.batch_normalize,
            activation=DARKNET_ACTIVATIONS[self.activation],
            groups=self.groups,
            dilation=self.dilation,
            pad=self.padding,
            owner=owner,
            name=name,
        )


@_section
class Connected(Section):
    """Fully connected: a 1x1 convolution of the map laid out as one pixel."""

    type: Literal["connected"] = "connected"
    output: Positive = 1
    batch_normalize: bool = False
    activation: Activation = "logistic"

    def shape(self, shapes):
        return (1, 1, self.output)

    def build(self, tensors, name):
        (x,) = tensors
        height, width, channels = x.shape[1:]
        if (height, width) != (1, 1):
            x = layers.Reshape((1, 1, height * width * channels), name=f"{name}.flatten")(x)
        activation = DARKNET_ACTIVATIONS[self.activation]
        return conv(x, self.output, norm=self.batch_normalize, activation=activation, name=name)


@_section
class Local(Section):
    """[local]: a convolution with another kernel at every place."""

    type: Literal["local"] = "local"
    filters: Positive = 1
    size: Positive = 1
    stride: Positive = 1
    pad: bool = False
    activation: Activation = "logistic"

    def shape(self, shapes):
        ((height, width, _),) = shapes
        if self.pad and self.size != 3:
            raise ValueError(f"expected size=3 with pad=1, which Darknet takes for one pixel, received {self.size}")
        return (*(windows(side, self.size, self.stride, int(self.pad)) for side in (height, width)), self.filters)

    def build(self, tensors, name):
        x = LocallyConnected(self.filters, self.size, self.stride, int(self.pad), name=f"{name}.local")(tensors[0])
        return activate(x, DARKNET_ACTIVATIONS[self.activation], name=name)


@_section
class Maxpool(Section):
    """[maxpool], padded by `padding` cells, both sides together."""

    type: Literal["maxpool"] = "maxpool"
    size: Positive = 1
    stride: Positive = 1
    padding: Natural = 0  # pixels in all, the smaller half before

    def shape(self, shapes):
        ((height, width, channels),) = shapes
        if self.padding >= 2 * self.size:
            raise ValueError(f"expected less padding than two windows of {self.size}, received {self.padding}")
        sides = [(side + self.padding - self.size) // self.stride + 1 for side in (height, width)]
        if min(sides) < 1:
            raise ValueError(f"a window of {self.size} pixels does not fit into {height} x {width}")
        return (*sides, channels)

    def build(self, tensors, name):
        return max_pool(tensors[0], self.size, self.stride, pad=self.padding, name=f"{name}.pool")


@_section
class LocalAvgpool(Maxpool):
    """Means of windows; padding counts for nothing."""

    type: Literal["local_avgpool"] = "local_avgpool"

    def build(self, tensors, name):
        if self.padding == 0:
            pool = layers.AveragePooling2D(self.size, self.stride, data_format="channels_last", name=f"{name}.pool")
        else:
            pool = MeanInside(self.size, self.stride, self.padding, name=f"{name}.pool")
        return pool(tensors[0])


@_section
class Avgpool(Section):
    """The mean of the whole map."""

    type: Literal["avgpool"] = "avgpool"

    def shape(self, shapes):
        return (1, 1, shapes[0][2])

    def build(self, tensors, name):
        pool = layers.GlobalAveragePooling2D(keepdims=True, data_format="channels_last", name=f"{name}.pool")
        return pool(tensors[0])


@_section
class Upsampling(Section):
    """[upsample]: the nearest cell, `stride` times."""

    type: Literal["upsample"] = "upsample"
    stride: Positive = 2

    def shape(self, shapes):
        ((height, width, channels),) = shapes
        return (height * self.stride, width * self.stride, channels)

    def build(self, tensors, name):
        return Upsample(self.stride, name=f"{name}.up")(tensors[0])


@_section
class Reorg(Section):
    """[reorg] or [reorg3d]: blocks of stride x stride cells become channels."""

    type: Literal["reorg", "reorg3d"] = "reorg"
    stride: Positive = 1

    def shape(self, shapes):
        ((height, width, channels),) = shapes
        block = self.stride**2
        if height % self.stride or width % self.stride or (self.type == "reorg" and channels % block):
            raise ValueError(f"stride {self.stride} does not divide a map of shape {shapes[0]}")
        return (height // self.stride, width // self.stride, channels * block)

    def build(self, tensors, name):
        layer = Passthrough if self.type == "reorg" else Passthrough3d
        return layer(self.stride, name=f"{name}.reorg")(tensors[0])


@_section
class Dropout(Section):
    """[dropout]: so many of the values become 0 in training."""

    type: Literal["dropout"] = "dropout"
    probability: Annotated[float, Field(ge=0, lt=1)] = 0.5

    def build(self, tensors, name):
        return layers.Dropout(self.probability, name=f"{name}.dropout")(tensors[0])


@_section
class Route(Section):
    """Joins the channels of earlier sections; of each, if groups > 1, only the group_id-th of equal parts."""

    type: Literal["route"] = "route"
    inputs: Earlier
    groups: Positive = 1
    group_id: Natural = 0

    def sources(self, number):
        return _absolute(self.inputs, number)

    def shape(self, shapes):
        if len({shape[:2] for shape in shapes}) > 1:
            raise ValueError(f"expected maps of one size (h, w), received {', '.join(map(str, shapes))}")
        if self.group_id >= self.groups or any(channels % self.groups for _, _, channels in shapes):
            raise ValueError(f"there is no group {self.group_id} of {self.groups} in {', '.join(map(str, shapes))}")
        return (*shapes[0][:2], sum(channels for _, _, channels in shapes) // self.groups)

    def build(self, tensors, name):
        if self.groups > 1:
            tensors = [
                ChannelGroup(self.groups, self.group_id, name=f"{name}.group{i}")(x) for i, x in enumerate(tensors)
            ]
        return layers.Concatenate(name=f"{name}.concat")(tensors) if len(tensors) > 1 else tensors[0]


@_section
class Shortcut(_Joins):
    """[shortcut]: the section before it, with earlier ones added.

    Maps may differ in channels: the sum has those of the first, the others are added to as many of them as both have
    (Darknet's shortcut_multilayer_cpu). One without weights may be a whole number of times larger: of it every
    so-many-th cell is added (the first Darknet's shortcut_cpu, in ResNets).
    """

    type: Literal["shortcut"] = "shortcut"
    inputs: Earlier
    weights_type: Literal["none", "per_feature", "per_channel"] = "none"
    weights_normalization: Literal["none", "relu", "softmax"] = "none"
    activation: Activation = "linear"

    def shape(self, shapes):
        first, *others = shapes
        strides = {_stride(shape, first) for shape in others}
        if None in strides or (strides != {1} and (len(others) > 1 or self.weights_type != "none")):
            raise ValueError(f"expected maps of one size (h, w), received {', '.join(map(str, shapes))}")
        return first

    def build(self, tensors, name):
        x, *others = tensors
        for i, other in enumerate(others):
            if (stride := _stride(other.shape[1:], x.shape[1:])) > 1:
                other = layers.MaxPooling2D(1, stride, data_format="channels_last", name=f"{name}.pick{i}")(other)
            if other.shape[-1] != x.shape[-1]:
                other = FitChannels(x.shape[-1], name=f"{name}.fit{i}")(other)
            others[i] = other
        if self.weights_type == "none":
            for i, other in enumerate(others, start=1):  # two at a time, each sum of which int8 gives a range
                x = layers.Add(name=f"{name}.add" if i == len(others) else f"{name}.add{i}")([x, other])
        else:
            options = (self.weights_type == "per_channel", self.weights_normalization)
            x = WeightedSum(*options, name=f"{name}.sum")([x, *others])
        return activate(x, DARKNET_ACTIVATIONS[self.activation], name=name)


@_section
class ScaleChannels(_Joins):
    """Squeeze and excitation: an earlier map, each channel times a number that was made from all of it."""

    type: Literal["scale_channels"] = "scale_channels"
    inputs: Annotated[Earlier, Field(max_length=1)]
    activation: Activation = "linear"

    def shape(self, shapes):
        factors, shape = shapes
        if factors != (1, 1, shape[2]):
            raise ValueError(f"expected one number for each channel of {shape}, received a map of shape {factors}")
        return shape

    def build(self, tensors, name):
        x = layers.Multiply(name=f"{name}.scale")(tensors)
        return activate(x, DARKNET_ACTIVATIONS[self.activation], name=name)


@_section
class Sam(ScaleChannels):
    """Spatial attention, YOLOv4's pointwise form: the two maps have one shape."""

    type: Literal["sam"] = "sam"

    def shape(self, shapes):
        return _same(shapes)


@_section
class Output(Section):
    """The place of a level's last convolution, which is the head's: what it reads is the level's feature."""

    type: Literal["output"] = "output"
    level: Annotated[str, Field(pattern=r"^p[0-9]$")]


@_section
class Prediction(Section):
    """Where the .cfg says how outputs become boxes, which is the decoder's."""

    type: Literal["prediction"] = "prediction"


HEADS = (Output, Prediction)
AnySection = Annotated[
    Crop | Convolutional | Connected | Local | Maxpool | LocalAvgpool | Avgpool | Upsampling | Reorg | Dropout | Route
    | Shortcut | ScaleChannels | Sam | Output | Prediction,
    Field(discriminator="type"),
]  # fmt: skip


# --- the network ------------------------------------------------------------------------------------------------------


def owners(sections):
    """[the number of the section whose weights each has]: its own, if it does not share those of an earlier one.

    Raises SectionError where that is none that has such weights.
    """
    found = []
    for number, section in enumerate(sections):
        if getattr(section, "share_index", None) is None:
            found.append(number)
            continue
        (index,) = _absolute([section.share_index], number)
        if not 0 <= index < number or not isinstance(sections[index], Convolutional):
            raise SectionError(
                number, f"share_index: expected the number of an earlier [convolutional], received {index}"
            )
        found.append(found[index])
    return found


def _check_shared(section, channels, first, its_channels):
    """Raises ValueError unless a section can have the weights of the first; channels: that they read."""
    (expected, its_norm), (received, norm) = first.kernel(its_channels), section.kernel(channels)
    if (expected, its_norm) != (received, norm):
        raise ValueError(
            f"share_index: expected a kernel (filters, channels, rows, columns) of {expected} and "
            f"batch_normalize={int(its_norm)}, "
            f"received {received} and {int(norm)}"
        )
    if section.is_depthwise(channels) or first.is_depthwise(its_channels):
        raise ValueError("share_index: the weights of a depthwise convolution cannot be shared")


def trace(sections, size):
    """The shape (h, w, c) of every section's output for images of `size` (H, W), without building any.

    The sections of heads have the shape of what they read. Raises SectionError where sections do not fit each other.
    """
    shapes, channels = [], []  # channels: that each reads first
    for (number, section), first in zip(enumerate(sections), owners(sections), strict=True):
        sources = section.sources(number)
        for source in sources:
            if not -1 <= source < number:
                raise SectionError(number, f"expected the number of an earlier section, received {source}")
            if source >= 0 and isinstance(sections[source], HEADS) and not isinstance(section, HEADS):
                raise SectionError(number, f"reads section {source}, which is a head: nothing can follow it")
        inputs = [shapes[source] if source >= 0 else (*size, 3) for source in sources]
        channels.append(inputs[0][2])
        try:
            shapes.append(section.shape(inputs))
            if first != number:
                _check_shared(section, channels[number], sections[first], channels[first])
        except ValueError as error:
            raise SectionError(number, str(error)) from error
    return shapes
