"""Published counts of parameters and operations, and the figures that networks are built after."""

import functools

import keras
import numpy as np
import pytest
from conftest import load_config, slow, small

from tfyolo import model as models
from tfyolo.backbones import BACKBONES
from tfyolo.config import ConfigError
from tfyolo.graph.fusion import fuse
from tfyolo.graph.summary import summarize

NAMES = ("a", "b", "c")

# ../shared/FACTS.md, from the published cfgs: K classes, all floats, trainable, GFLOPs
PUBLISHED = [
    slow("yolov3", 416, 80, 62_001_757, 61_949_149, 65.86),
    ("yolov3-tiny", 416, 80, 8_858_734, 8_852_366, 5.56),
    pytest.param("yolov3-spp", 608, 80, 63_052_381, 62_998_749, 141.4, marks=pytest.mark.slow),
    pytest.param("yolov4", 608, 80, 64_429_405, 64_363_101, 128.4, marks=pytest.mark.slow),
    ("yolov4-tiny", 416, 80, 6_062_814, 6_056_606, 6.91),
    slow("yolov4-tiny-3l", 608, 80, 6_334_045, 6_327_453, 17.74),
    pytest.param("yolov4-csp", 512, 80, 52_986_205, 52_921_437, 77.0, marks=pytest.mark.slow),
    # Published GFLOPs are of the fused form, which lacks the 1x1 branches beside the 3x3 of YOLOv7's head: 1.2 %.
    ("yolov7-tiny", 640, 80, None, 6_228_762, 13.7),
    slow("yolov7", 640, 80, None, 37_622_682, 104.5 * 1.0117),
    pytest.param("yolov7x", 640, 80, None, 71_347_394, 189.7, marks=pytest.mark.slow),
    # And that of the P6 models lacks the auxiliary head.
    pytest.param("yolov7-w6", 1280, 80, None, 82_312_436, None, marks=pytest.mark.slow),
    pytest.param("yolov7-e6", 1280, 80, None, 111_898_292, None, marks=pytest.mark.slow),
    pytest.param("yolov7-d6", 1280, 80, None, 154_709_364, None, marks=pytest.mark.slow),
    pytest.param("yolov7-e6e", 1280, 80, None, 166_408_884, None, marks=pytest.mark.slow),
    # Published counts are of what is trained, with the 16 fixed places of the distributions' bins.
    ("yolov8n", 640, 80, None, 3_157_200 - 16, 8.7),
    pytest.param("yolov8s", 640, 80, None, 11_166_560 - 16, 28.6, marks=pytest.mark.slow),
    pytest.param("yolov8m", 640, 80, None, 25_902_640 - 16, 78.9, marks=pytest.mark.slow),
    pytest.param("yolov8l", 640, 80, None, 43_691_520 - 16, 165.2, marks=pytest.mark.slow),
    pytest.param("yolov8x", 640, 80, None, 68_229_648 - 16, 257.8, marks=pytest.mark.slow),
    # Published GFLOPs of YOLOX count batch norms and activations too.
    ("yolox-nano", 416, 80, 927_551, 912_159, 1.045),
    pytest.param("yolox-tiny", 416, 80, 5_073_183, 5_055_855, 6.41, marks=pytest.mark.slow),
    slow("yolox-s", 640, 80, 8_991_359, 8_968_255, 26.7),
    pytest.param("yolox-m", 640, 80, 25_369_791, 25_326_495, 73.5, marks=pytest.mark.slow),
    pytest.param("yolox-l", 640, 80, 54_278_143, 54_208_895, 155.3, marks=pytest.mark.slow),
    pytest.param("yolox-x", 640, 80, 99_172_415, 99_071_455, 281.4, marks=pytest.mark.slow),
    slow("yolo11n", 640, 80, None, 2_624_080 - 16, 6.5),
    pytest.param("yolo11s", 640, 80, None, 9_458_752 - 16, 21.5, marks=pytest.mark.slow),
    pytest.param("yolo11m", 640, 80, None, 20_114_688 - 16, 68.0, marks=pytest.mark.slow),
    pytest.param("yolo11l", 640, 80, None, 25_372_160 - 16, 86.9, marks=pytest.mark.slow),
    pytest.param("yolo11x", 640, 80, None, 56_966_176 - 16, 194.9, marks=pytest.mark.slow),
    pytest.param("yolov1", 448, 20, 271_703_550, 271_703_550, None, marks=pytest.mark.slow),
    pytest.param("m2det512-vgg", 512, 80, None, 133_159_604, None, marks=pytest.mark.slow),
    pytest.param("cornernet-hg104", 512, 80, None, 201_035_212, None, marks=pytest.mark.slow),
]


@pytest.mark.parametrize("name, size, classes, parameters, trainable, gflops", PUBLISHED)
def test_published_counts(name, size, classes, parameters, trainable, gflops):
    config = load_config(name)
    assert config.model.input_size == (size, size)
    summary = summarize(models.build(config, [str(i) for i in range(classes)]))
    assert (summary["parameters"], summary["trainable"]) == (parameters or summary["parameters"], trainable)
    assert sum(stage["parameters"] for stage in summary["stages"]) == summary["parameters"]
    if gflops:
        assert summary["flops"] / 1e9 == pytest.approx(gflops, rel=5e-3)


@pytest.mark.parametrize(
    "name, parameters, gflops",
    [
        ("yolov7-tiny", 6_219_709, 13.7),
        pytest.param("yolov7", 36_905_341, 104.5, marks=pytest.mark.slow),
        pytest.param("yolov7x", 71_311_741, 189.7, marks=pytest.mark.slow),
        pytest.param("yolov7-w6", 70_394_300, 360, marks=pytest.mark.slow),
        pytest.param("yolov7-e6", 97_202_940, 515, marks=pytest.mark.slow),
        pytest.param("yolov7-d6", 133_757_052, 702, marks=pytest.mark.slow),
        pytest.param("yolov7-e6e", 151_687_420, 842, marks=pytest.mark.slow),
    ],
)
def test_published_counts_of_the_fused_form(name, parameters, gflops):
    summary = summarize(fuse(models.build(load_config(name), [str(i) for i in range(80)])))
    assert summary["parameters"] == parameters and summary["flops"] / 1e9 == pytest.approx(gflops, rel=5e-3)


@pytest.mark.parametrize(
    "name, overrides, depth, width, trainable",
    [
        ("yolov8n", [], 1.0, 2.0, 11_166_560 - 16),  # yolov8s
        slow("yolox-s", [], 2.0, 1.5, 25_326_495),  # yolox-m
        slow("yolov7", ["model.neck.full=true", "model.head.rep=false"], 1.5, 1.25, 71_347_394),  # yolov7x
    ],
)
def test_scaling_leads_to_the_published_larger_model(name, overrides, depth, width, trainable):
    scaled = load_config(name, *overrides, *models.scaling(load_config(name, *overrides), depth, width))
    model = models.build(scaled, [str(i) for i in range(80)])
    assert sum(int(np.prod(v.shape)) for v in model.network.trainable_variables) == trainable


def test_what_has_no_depth_cannot_be_scaled_by_it():
    with pytest.raises(ConfigError, match=r"an option 'depth' to scale by, found none"):
        models.scaling(load_config("yolov3"), depth=2.0)


def _norm_conv(inputs, outputs, kernel=1, groups=1):
    """Weights of a convolution and its batch norm's scale and shift."""
    return kernel**2 * inputs // groups * outputs + 2 * outputs


# Of one stage, from its input channels c to d, with 3x3 convolutions of h channels: counted on paper from the figures.
BLOCKS = {
    "vovnet": lambda c, d, h: _norm_conv(c, h, 3) + 3 * _norm_conv(h, h, 3) + _norm_conv(c + 4 * h, d),
    "csp_vovnet": lambda c, d, h: (
        2 * _norm_conv(c, d // 2)
        + (_norm_conv(d // 2, h, 3) + 3 * _norm_conv(h, h, 3) + _norm_conv(d // 2 + 4 * h, d // 2))
        + _norm_conv(d, d)
    ),
    "densenet": lambda c, d, h: (
        sum(_norm_conv(c + i * h, 4 * h) + _norm_conv(4 * h, h, 3) for i in range(4)) + _norm_conv(c + 4 * h, d)
    ),
    "resnext": lambda c, d, h: (
        (_norm_conv(c, h) + _norm_conv(h, h, 3, 32) + _norm_conv(h, d) + (_norm_conv(c, d) if c != d else 0))
        + (_norm_conv(d, h) + _norm_conv(h, h, 3, 32) + _norm_conv(h, d))
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, hidden",
    [
        ("csp_vovnet", 22),
        ("vovnet", 22),
        ("densenet", 10),
        ("resnext", 96),
    ],
)
def test_the_baselines_of_elan_are_as_their_figures_and_as_large_as_it(name, hidden):
    images = keras.Input((640, 640, 3))
    backbone = keras.Model(images, BACKBONES[name](images))
    expected = _norm_conv(3, 32, 3) + _norm_conv(32, 64, 3)
    expected += sum(
        BLOCKS[name](c, d, hidden << i) for i, (c, d) in enumerate([(64, 64), (64, 128), (128, 256), (256, 512)])
    )
    assert sum(int(np.prod(v.shape)) for v in backbone.trainable_variables) == expected
    both = [
        summarize(models.build(load_config(each), ["x"])) for each in (f"{name.replace('_', '-')}-tiny", "yolov7-tiny")
    ]
    mine, elans = (sum(row["flops"] for row in each["stages"] if row["stage"].startswith("backbone")) for each in both)
    assert mine == pytest.approx(elans, rel=0.03)


def test_yolov7_without_implicit_knowledge_counts():
    model = models.build(load_config("yolov7", "model.head.knowledge=false"), [str(i) for i in range(80)])
    assert summarize(model)["trainable"] == 37_620_125


@pytest.mark.slow
def test_yolov1_with_batch_norm_counts():
    model = models.build(load_config("yolov1", "model.backbone.norm=true"), [str(i) for i in range(20)])
    assert summarize(model)["trainable"] == 271_716_734


@pytest.mark.slow
def test_a_further_class_costs_its_channels_of_the_head():
    counts = [models.build(small("yolov3"), [str(i) for i in range(k)]).network.count_params() for k in (1, 2)]
    channels = [128, 64, 32]  # of the 3x3 convolutions before the outputs, at width 1/8
    assert counts[1] - counts[0] == sum(3 * (c + 1) for c in channels)


def test_the_neck_upsamples_what_the_five_convolutions_output():
    network = models.build(small("yolov3"), NAMES).network
    lateral = network.get_layer("neck.p4.lateral.conv")
    assert lateral.input is network.get_layer("neck.p5.conv5.act").output


@functools.cache
def built_once(name):
    return models.build(small(name), NAMES).network


@pytest.mark.parametrize(
    "name, layer, inputs",
    [
        # Layers of the cfgs, in the order of their routes: published weights fit no other order of concatenation.
        slow("yolov4", "backbone.p5.concat", ["backbone.p5.transition.act", "backbone.p5.skip.act"]),
        slow("yolov4", "neck.p4.merge", ["neck.p4.lateral.act", "neck.p4.up"]),
        slow("yolov4", "neck.n5.merge", ["neck.n5.down.act", "neck.p5.spp.conv3.act"]),
        slow("yolov4-csp", "neck.n4.merge", ["neck.n4.down.act", "neck.p4.join.act"]),
        slow("yolov4-csp", "neck.p3.partial", ["neck.p3.conv4.act", "neck.p3.skip.act"]),
        ("yolov4-tiny", "backbone.p3.concat", ["backbone.p3.conv2.act", "backbone.p3.conv1.act"]),
        ("yolov4-tiny", "backbone.p3.join", ["backbone.p3.whole.act", "backbone.p3.transition.act"]),
        ("yolov4-tiny", "neck.p4.merge", ["neck.p4.up", "backbone.p4.transition.act"]),
        ("yolov4-tiny-3l", "neck.p3.lateral.conv", ["neck.p4.expand.act"]),
        ("yolov4-tiny-3l", "head.p4.out", ["neck.p4.expand.act"]),
        # Concatenations 11, 14, 17 and 20 of yolov8.yaml.
        ("yolov8n", "neck.p4.merge", ["neck.p4.up", "backbone.p4.join.act"]),
        ("yolov8n", "neck.p3.merge", ["neck.p3.up", "backbone.p3.join.act"]),
        ("yolov8n", "neck.n4.merge", ["neck.n4.down.act", "neck.p4.join.act"]),
        ("yolov8n", "neck.n5.merge", ["neck.n5.down.act", "backbone.sppf.join.act"]),
        ("yolov8n", "head.p4.cls.conv1.conv", ["neck.n4.join.act"]),
        # The forward pass of the code published with YOLOX.
        slow("yolox-nano", "backbone.p3.concat", ["backbone.p3.bottleneck3.add", "backbone.p3.skip.act"]),
        slow("yolox-nano", "neck.p4.merge", ["neck.p4.up", "backbone.p4.join.act"]),
        slow("yolox-nano", "neck.p3.merge", ["neck.p3.up", "backbone.p3.join.act"]),
        slow("yolox-nano", "neck.n4.merge", ["neck.n4.down.point.act", "neck.p3.up.act"]),
        slow("yolox-nano", "neck.n5.merge", ["neck.n5.down.point.act", "neck.p4.up.act"]),
        slow("yolox-nano", "head.p4.obj.out", ["head.p4.box.conv2.point.act"]),
    ],
)
def test_features_meet_as_in_the_published_networks(name, layer, inputs):
    network = built_once(name)
    received = network.get_layer(layer).input
    received = received if isinstance(received, list) else [received]
    expected = [network.get_layer(source).output for source in inputs]
    assert len(received) == len(expected) and all(a is b for a, b in zip(received, expected, strict=True))
