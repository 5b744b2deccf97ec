""".cfg texts of small networks, and .weights files with random values for them."""

import math

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from tfyolo.cli import app
from tfyolo.weights.darknet import files as darknet_files
from tfyolo.weights.darknet import layout
from tfyolo.weights.darknet.cfg import read_cfg

ORACLE = pytest.mark.skipif(
    not hasattr(cv2.dnn, "readNetFromDarknet"), reason="needs OpenCV 4, which reads Darknet networks"
)


def section(kind, **options):
    return f"[{kind}]\n" + "".join(f"{key}={value}\n" for key, value in options.items())


def conv(filters, size=3, stride=1, activation="leaky", batch_normalize=1, **more):
    norm = {"batch_normalize": 1} if batch_normalize else {}
    return section(
        "convolutional", **norm, filters=filters, size=size, stride=stride, pad=1, activation=activation, **more
    )


def out(boxes=2, classes=3, activation="linear"):
    return conv(boxes * (5 + classes), 1, activation=activation, batch_normalize=0)


def yolo(mask="0,1", classes=3, **more):
    anchors = "8,9, 20,16, 30,44, 60,31"
    return section("yolo", mask=mask, anchors=anchors, classes=classes, num=4, **more)


def net(height=64, width=64, **more):
    return section("net", batch=1, subdivisions=1, width=width, height=height, channels=3, **more)


def shortcut(source, activation="leaky", **more):
    return section("shortcut", **{"from": source}, activation=activation, **more)


def route(*layers):
    return section("route", layers=",".join(map(str, layers)))


STEM = conv(8, stride=2) + conv(16, stride=2) + conv(16, stride=2)


def cross_stage_partial(width, narrow, blocks):
    """CSPResNeXt's stage: grouped bottlenecks whose first sum has fewer channels on its other side (narrow < width)."""
    bottleneck = conv(width, 1) + conv(width, groups=4) + conv(width, 1, activation="linear") + shortcut(-4)
    return (
        conv(width, 1) + route(-2) + conv(narrow, 1) + blocks * bottleneck + conv(width, 1) + route(-1, -4 - 4 * blocks)
        + conv(2 * width, 1)
    )  # fmt: skip


def inverted(inside, outside, size=3, stride=1, residual=False):
    """EfficientNet's block."""
    padding = {"batch_normalize": 1, "stride": stride, "pad": 1}
    return (
        conv(inside, 1, activation="swish")
        + section("convolutional", filters=inside, size=size, groups=inside, activation="swish", **padding)
        + section("avgpool") + conv(4, 1, activation="swish", batch_normalize=0)
        + conv(inside, 1, activation="logistic", batch_normalize=0) + section("scale_channels", **{"from": -4})
        + conv(outside, 1, activation="linear")
        + (section("dropout", probability=".0") + shortcut(-9, "linear") if residual else "")
    )  # fmt: skip


def branch(dilation, first=None):
    """TridentNet's: a bottleneck and one that strides, at a dilation; first: the number of the section whose weights
    it has, and so on.
    """

    def shared(number):
        return {} if first is None else {"share_index": first + number}

    return (
        conv(8, 1, **shared(0)) + conv(8, dilation=dilation, **shared(1))
        + conv(16, 1, activation="linear", **shared(2))
        + shortcut(-4) + conv(12, 1, **shared(4)) + conv(12, stride=2, dilation=dilation, **shared(5))
        + conv(24, 1, activation="linear", **shared(6)) + shortcut(-2)
    )  # fmt: skip


# As published ones are made, in small: all have sums of maps with unequal channels.
LIKE_PUBLISHED = {
    "csresnext50-panet-spp": conv(16, 7, 2) + section("maxpool", size=2, stride=2) + cross_stage_partial(16, 8, 2)
    + conv(32, groups=8, stride=2) + cross_stage_partial(32, 24, 1) + out() + yolo(),
    "yolov3-tiny-prn": STEM + conv(24) + section("maxpool", size=2, stride=2) + conv(32)
    + section("maxpool", size=2, stride=1)
    + conv(32) + shortcut(-3) + conv(16, 1) + conv(16) + shortcut(-2) + out() + yolo("2,3") + route(-4) + conv(12, 1)
    + section("upsample", stride=2) + shortcut(3) + conv(12) + shortcut(-3) + shortcut(3) + out() + yolo("0,1"),
    "enet-coco": conv(8, stride=2, activation="swish") + inverted(12, 8, stride=2) + inverted(16, 10, stride=2)
    + inverted(16, 10, 5, residual=True) + inverted(20, 12, stride=2) + conv(16, 1) + conv(16) + shortcut(-2) + out()
    + yolo("2,3") + route(-4) + conv(12, 1) + section("upsample", stride=2) + shortcut(16) + conv(12) + shortcut(-3)
    + shortcut(14) + out() + yolo("0,1"),
    "resnet152_trident": conv(8, 7, 2) + section("maxpool", size=2, stride=2) + conv(8, 1) + conv(8)
    + conv(16, 1, activation="linear") + shortcut(-4) + conv(12, 1) + conv(12, stride=2)
    + conv(16, 1, activation="linear")
    + shortcut(-2) + branch(3) + conv(24, 1) + out() + yolo() + route(9) + branch(2, 10) + conv(16, 1)
    + section("upsample", stride=2) + route(-1, 9) + conv(16, 1) + out() + yolo() + route(9) + branch(1, 22)
    + conv(16, 1)
    + section("upsample", stride=4) + route(-1, 5) + conv(16, 1) + out() + yolo(),
}  # fmt: skip

# Small networks that between them have every section and option; those that OpenCV reads are held against it.
SMALL = {
    "plain": STEM + out() + yolo(),
    "activations": "".join(conv(8, activation=name) for name in ("relu", "logistic", "mish", "swish", "linear"))
    + STEM + out() + yolo(),
    "depthwise": STEM + conv(16, groups=16) + conv(16, 5, groups=16) + conv(24, 1, activation="linear") + out()
    + yolo(),
    "grouped": STEM + conv(24, groups=4) + out() + yolo(),
    "unpadded": STEM + section("convolutional", filters=8, size=3, stride=1, padding=1, activation="leaky") + out()
    + yolo(),
    "shortcut": STEM + conv(16) + conv(16) + section("shortcut", **{"from": -3}, activation="leaky") + out() + yolo(),
    "routes": STEM + section("route", layers=-1, groups=2, group_id=1) + conv(8) + section("route", layers="-1, -3")
    + section("route", layers="0") + section("maxpool", size=4, stride=4) + section("route", layers="-1,-3") + out()
    + yolo(),
    "pools": conv(8) + section("maxpool", size=2, stride=2) + section("maxpool", size=3, stride=2) + conv(16, stride=2)
    + section("maxpool", size=2, stride=1) + section("maxpool", size=5, stride=1) + section("route", layers=-2)
    + section("maxpool", size=9, stride=1) + section("route", layers="-1,-3,-4") + out() + yolo(),
    "two levels": STEM + conv(24, stride=2) + out() + yolo("2,3", scale_x_y=1.05) + section("route", layers=-3)
    + conv(8, 1)
    + section("upsample", stride=2) + section("route", layers="-1, 2") + conv(16) + out() + yolo("0,1", scale_x_y=1.2),
    "new coordinates": STEM + out(activation="logistic") + yolo(new_coords=1, scale_x_y=2.0),
    "region": STEM + conv(16, stride=2) + section("route", layers=-2) + conv(8, 1) + section("reorg", stride=2)
    + section("route", layers="-1,-4") + out() + section("region", anchors="1,1.5, 2.5,2", classes=3, coords=4,
    num=2, softmax=1),
    "squeeze": STEM + section("avgpool") + conv(4, 1, batch_normalize=0, activation="relu")
    + conv(16, 1, activation="logistic",
    batch_normalize=0) + section("scale_channels", **{"from": -4}, activation="linear") + out() + yolo(),
    "unequal": STEM + conv(24) + shortcut(-2) + conv(8) + shortcut(-2, "linear") + out() + yolo(),
    "dilated and shared": conv(8, stride=2) + conv(16, 3, 2, dilation=2) + conv(16, 5, dilation=3)
    + conv(16, groups=16, dilation=2)
    + conv(16, 5, 2, share_index=2) + conv(16, 5, activation="swish", share_index=-1)
    + conv(8, 1, batch_normalize=0, activation="logistic") + conv(16, 1) + conv(8, 1, batch_normalize=0, share_index=-2)
    + out() + yolo(),
    **LIKE_PUBLISHED,
    "attention": STEM + conv(16, activation="logistic") + section("sam", **{"from": -2})
    + section("dropout", probability=".2")
    + out() + yolo(),
}  # fmt: skip
BY_HAND = {
    "relu6": STEM + conv(16, activation="relu6") + out() + yolo(),
    "weighted, more channels added": STEM + conv(24) + conv(8) + shortcut("-2,-3", weights_type="per_channel",
    weights_normalization="softmax") + out() + yolo(),
    "weighted, lesser channels added": STEM + conv(24) + shortcut(-2, weights_type="per_channel",
    weights_normalization="relu") + out() + yolo(),
    "several added": STEM + conv(12) + conv(16) + shortcut("-2,-3", "linear") + out() + yolo(),
    "weighted by map": STEM + conv(16) + conv(16) + section("shortcut", **{"from": "-2,-3"}, weights_type="per_feature",
    weights_normalization="softmax") + out() + yolo(),
    "weighted by channel": STEM + conv(16) + conv(16)
    + section("shortcut", **{"from": "-2,-3"}, weights_type="per_channel",
    weights_normalization="relu") + out() + yolo(),
    "larger added": STEM + conv(24) + shortcut(-3) + out() + yolo(),
    "reorg3d": STEM + section("reorg3d", stride=2) + out() + yolo(),
    "means": STEM + section("local_avgpool", size=2, stride=2, padding=0) + conv(8, cbn=1, batch_normalize=0) + out()
    + yolo(),
    "means at edges": STEM + section("local_avgpool", size=4, stride=2) + section("local_avgpool", size=3, stride=1)
    + out() + yolo(),
    "adjusted": section("crop", crop_height=64, crop_width=64) + STEM + out() + yolo(),
    "local": STEM + section("local", filters=5, size=3, stride=1, pad=1, activation="leaky") + out() + yolo(),
    "grid": STEM + section("dropout", probability=".5")
    + section("connected", output=40, activation="leaky", batch_normalize=1)
    + section("connected", output=8 * 8 * (3 + 5 * 2), activation="linear")
    + section("detection", classes=3, coords=4, side=8, num=2, softmax=0, sqrt=1),
    "grid of a map": STEM + section("connected", output=8 * 8 * (3 + 5 * 2), activation="linear")
    + section("detection", classes=3, coords=4, side=8, num=2, softmax=0, sqrt=1),
}  # fmt: skip
EVERY = {**SMALL, **BY_HAND}


def random_weights(path, understood, seed=0, header=(0, 2, 5, 32013312)):
    """A .weights file with sane random values: no map grows, none dies."""
    rng = np.random.default_rng(seed)
    with open(path, "wb") as file:
        file.write(darknet_files.Header(*header).bytes)
        for _, arrays in layout.layout(understood):
            for array in arrays:
                name = array.variable.rpartition("/")[2]
                low, high = {"moving_variance": (0.5, 1.5), "gamma": (0.3, 0.7), "weights": (0.2, 1)}.get(
                    name, (-0.2, 0.2)
                )
                values = rng.uniform(low, high, array.shape)
                if name == "kernel":
                    gain = 0.5 if ".out/" in array.variable else 1.4
                    values = rng.normal(0, gain / math.sqrt(math.prod(array.shape[1:])), array.shape)
                file.write(values.astype("<f4").tobytes())
    return path


def written(tmp_path, text, name="small", **options):
    cfg = tmp_path / f"{name}.cfg"
    cfg.write_text(text)
    return cfg, random_weights(tmp_path / f"{name}.weights", read_cfg(cfg), **options)


def tfyolo(*arguments):
    result = CliRunner().invoke(app.main, [str(argument) for argument in arguments], prog_name="tfyolo")
    if not isinstance(result.exception, SystemExit | None):
        raise result.exception
    return result


PUBLISHED = {
    "yolov2-tiny": None, "yolov3-tiny": "yolov3-tiny", "yolov4-tiny": "yolov4-tiny", "yolov4-tiny-3l": "yolov4-tiny-3l",
    "yolov7-tiny": "yolov7-tiny", "yolov2": None, "yolov3": "yolov3", "yolov3-spp": "yolov3-spp", "yolov4": "yolov4",
    "yolov4-csp": "yolov4-csp", "yolov7": "yolov7", "yolov7x": "yolov7x",
}  # fmt: skip
LIGHT = ("yolov3-tiny", "yolov4-tiny")
