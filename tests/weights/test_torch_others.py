"""Checkpoints of other networks are named by what they are."""

import collections

import numpy as np
import pytest
from torch_files import Calls, as_module, reported, saved, tensors

from tfyolo.weights.torch import foreign, unpickle

OLD = {
    "model.0.conv.weight": (16, 3, 3, 3),
    "model.22.cv2.0.2.bias": (64,),
    "model.22.cv3.0.2.bias": (80,),
}  # yolov8n's
NEW = {
    "model.0.conv.weight": (16, 3, 3, 3),
    "model.23.cv2.0.2.bias": (64,),
    "model.23.cv3.0.2.bias": (80,),
}  # yolo11n's
ANCHORED = {"model.24.anchors": (3, 3, 2), "model.24.m.0.weight": (255, 128, 1, 1), "model.24.m.0.bias": (255,)}
SEGMENT = {**OLD, "model.22.cv4.0.2.bias": (32,), "model.22.proto.cv1.conv.weight": (64, 64, 3, 3)}
P2 = {"model.0.conv.weight": (16, 3, 3, 3), "model.28.cv3.0.2.bias": (80,)}
# What is reported; the classes of the model and its layers, "u." for Ultralytics' package; tensors; the file that is
# named as its description.
PICKLED = [
    ("YOLOv5 (C3, yolov5s.yaml)", "models.yolo.DetectionModel models.common.C3 models.yolo.Detect", ANCHORED,
    "yolov5s.yaml"),
    ("YOLOv5 (BottleneckCSP, Focus)", "models.yolo.Model models.common.Focus models.common.BottleneckCSP", ANCHORED,
    ""),
    ("YOLOv5 for segmentation (C3, Segment)", "models.yolo.Model models.common.C3 models.yolo.Segment", ANCHORED, ""),
    ("YOLOv5u (C3)", "u.tasks.DetectionModel u.modules.block.C3 u.modules.head.Detect", OLD, ""),
    ("YOLOv3 (Bottleneck); import it from Darknet's", "models.yolo.Model models.common.Bottleneck", ANCHORED, ""),
    ("YOLOv9 (DualDDetect, RepNCSPELAN4)", "models.yolo.Model models.common.RepNCSPELAN4 models.yolo.DualDDetect",
    OLD, ""),
    ("YOLOv9 (RepNCSPELAN4, SPPELAN, yolov9t.yaml)", "u.tasks.DetectionModel u.modules.block.SPPELAN "
                                                     "u.modules.block.RepNCSPELAN4",
     OLD, "yolov9t.yaml"),
    ("YOLOv10 (SCDown, v10Detect, yolov10n.yaml)", "u.tasks.DetectionModel u.modules.block.SCDown "
                                                   "u.modules.head.v10Detect",
     NEW, "yolov10n.yaml"),
    ("YOLO12 (A2C2f, AAttn)", "u.tasks.DetectionModel u.modules.block.A2C2f u.modules.block.AAttn", OLD, ""),
    ("YOLO26 (model.23.one2one_cv2.0.2.bias, yolo26n.yaml)", "u.tasks.DetectionModel u.modules.block.C3k2 "
                                                             "u.modules.head.Detect",
     {**NEW, "model.23.one2one_cv2.0.2.bias": (4,)}, "yolo26n.yaml"),
    ("YOLO26 for pose (Pose26, PoseModel)", "u.tasks.PoseModel u.modules.block.C3k2 u.modules.head.Pose26", NEW, ""),
    ("YOLOv8 for segmentation (Segment, SegmentationModel, yolov8m-seg.yaml); take the detector of that family, "
     "published as yolov8m.pt",
     "u.tasks.SegmentationModel u.modules.block.C2f u.modules.head.Segment", SEGMENT, "yolov8m-seg.yaml"),
    ("YOLO11 for pose (Pose, PoseModel, yolo11-pose.yaml); take the detector of that family, published as yolo11s.pt",
     "u.tasks.PoseModel u.modules.block.C3k2 u.modules.head.Pose", NEW, "yolo11-pose.yaml"),
    ("YOLO11 for oriented boxes (OBB, OBBModel)", "u.tasks.OBBModel u.modules.block.C3k2 u.modules.head.OBB", NEW, ""),
    ("YOLOv8 for classification (", "u.tasks.ClassificationModel u.modules.block.C2f u.modules.head.Classify", OLD, ""),
    ("YOLOv7 for pose (IKeypoint)", "models.yolo.Model models.common.SPPCSPC models.yolo.IKeypoint",
    {"model.8.m_kpt.0.weight": (8,)}, ""),
    ("YOLO-World (C2fAttn, WorldDetect, WorldModel)", "u.tasks.WorldModel u.modules.block.C2fAttn "
                                                      "u.modules.head.WorldDetect", OLD, ""),
    ("YOLOE for segmentation (", "u.tasks.YOLOESegModel u.modules.block.C3k2 u.modules.head.YOLOESegment", NEW, ""),
    ("RT-DETR (RTDETRDecoder, RTDETRDetectionModel)", "u.tasks.RTDETRDetectionModel u.modules.head.RTDETRDecoder",
    OLD, ""),
    ("YOLOv6 (Model, RepVGGBlock)", "yolov6.models.yolo.Model yolov6.layers.common.RepVGGBlock", OLD, ""),
    ("YOLO-NAS (YoloNAS_S)", "super_gradients.training.models.YoloNAS_S", OLD, ""),
    ("YOLOv8 of another layout (2 tensors, the first model.28.cv3.0.2.bias, model.0.conv.weight; layers CBAM; "
     "described "
     "in yolov8n-p2.yaml)",
     "u.tasks.DetectionModel u.modules.block.C2f u.modules.conv.CBAM", P2, "yolov8n-p2.yaml"),
]  # fmt: skip
# What is reported of a state dict, by the names and shapes of its tensors.
STATES = {
    "YOLOv5 (model.24.m.0.weight)": ANCHORED,
    "YOLOv9 (model.4.cv2.0.cv1.conv.weight)": {
        **{**OLD, "model.4.cv2.0.cv1.conv.weight": (8,)},
        **{"model.22.cv4.0.2.bias": (64,), "model.22.cv5.0.2.bias": (80,)},
    },
    "YOLOv9 of another layout (2 tensors, the first model.0.conv.weight": {
        "0.conv.weight": (16, 3, 3, 3), "24.heads.0.class_conv.2.weight": (80, 80, 1, 1)
    },
    "YOLOv10 (model.23.one2one_cv2.0.2.bias)": {**NEW, "model.23.one2one_cv2.0.2.bias": (64,)},
    "YOLO26 (model.23.one2one_cv2.0.2.bias)": {**NEW, "model.23.one2one_cv2.0.2.bias": (4,)},
    "YOLO12 (model.6.m.0.0.attn.qkv.conv.weight)": {**OLD, "model.6.m.0.0.attn.qkv.conv.weight": (192, 64, 1, 1)},
    "YOLOv8 for segmentation (model.22.proto.cv1.conv.weight); take the detector": SEGMENT,
    "YOLO11 for pose (model.23.cv4.0.2.bias)": {**NEW, "model.23.cv4.0.2.bias": (51,)},
    "YOLO11 for oriented boxes (model.23.cv4.0.2.bias)": {**NEW, "model.23.cv4.0.2.bias": (1,)},
    "YOLOv8 for classification (model.9.linear.weight)": {"model.0.conv.weight": (16, 3, 3, 3),
    "model.9.linear.weight": (1000, 1280)},
    "RT-DETR (decoder.dec_score_head.0.weight)": {"backbone.conv1.conv1_1.conv.weight": (8,),
    "decoder.dec_score_head.0.weight": (80, 256)},
    "D-FINE or DEIM (": {"decoder.pre_bbox_head.layers.0.weight": (4, 4), "decoder.dec_score_head.0.bias": (80,)},
    "YOLOX of another layout (2 tensors": {"backbone.backbone.stem.conv.conv.weight": (16, 12, 3, 3),
                                         "head.cls_preds.0.weight": (80, 64, 1, 1)},
    "YOLOX with Darknet-53 (": {"backbone.backbone.stem.0.conv.weight": (32, 3, 3, 3),
                                "head.cls_preds.0.weight": (80, 64, 1, 1)},
    "YOLO-NAS (": {"heads.head1.cls_pred.weight": (80, 64, 1, 1)},
    "YOLOv6 (": {"detect.cls_preds.0.weight": (80, 64, 1, 1)},
    "PP-YOLOE (": {"head.pred_cls.0.weight": (80, 96, 3, 3)},
    "Faster or Mask R-CNN (": {"backbone.body.conv1.weight": (64, 3, 7, 7),
    "roi_heads.box_predictor.cls_score.weight": (91, 1024)},
    "SSD, RetinaNet or FCOS (": {"head.classification_head.cls_logits.weight": (819, 256, 3, 3)},
    "MMDetection's or MMYOLO's (": {"bbox_head.rtm_cls.0.weight": (80, 128, 1, 1)},
    "a network of Darknet's, such as YOLOv3 or YOLOv4, in PyTorch (": {"module_list.0.Conv2d.weight": (32, 3, 3, 3)},
    "a network for classification (fc.weight)": {"conv1.weight": (64, 3, 7, 7), "fc.weight": (1000, 512)},
    "another network (1 tensor, the first encoder.weight); take a checkpoint of one of these": {"encoder.weight": (3,
    3)},
}  # fmt: skip


def zeros(shapes):
    return tensors({name: np.zeros(shape, "float16") for name, shape in shapes.items()})


@pytest.mark.parametrize(
    "expected, names, shapes, described", PICKLED, ids=[each[0].partition(" (")[0] for each in PICKLED]
)
def test_a_model_of_another_network_is_named(expected, names, shapes, described, classes, tmp_path):
    """By the classes in its pickle; in the place of what it lacks of the network that its first tensors are like."""
    kinds = [
        classes(name.replace("u.", "ultralytics.nn.", 1)) if name[:2] == "u." else classes(name)
        for name in names.split()
    ]
    model = as_module(state := zeros(shapes), ("red", "green"))
    model.__class__ = kinds[0]
    model.criterion = [kind() for kind in kinds[1:]]  # anywhere
    if described:
        model.yaml = {"nc": 80, "yaml_file": f"/home/me/{described}", "scale": "s"}
    message = reported({"epoch": -1, "model": model, "train_args": {"imgsz": 640}}, state.values(), tmp_path)
    assert message.startswith(f"{foreign.IMPORTED}, received {expected}")


@pytest.mark.parametrize("expected", STATES)
def test_a_state_dict_of_another_network_is_named(expected, fake_torch, tmp_path):
    state = zeros(STATES[expected])
    message = reported(dict(state), state.values(), tmp_path)
    assert message.startswith(f"{foreign.IMPORTED}, received {expected}")


def test_a_task_is_named_though_nothing_else_shows_it(classes, tmp_path):
    model = as_module(state := zeros(OLD), ("red", "green"))
    model.task, model.layer = "obb", classes("ultralytics.nn.modules.block.C2f")()
    assert "received YOLOv8 for oriented boxes; take the detector" in reported(
        {"model": model}, state.values(), tmp_path
    )


@pytest.mark.parametrize("wrap", ["ema", "net", "state_dict"])
def test_a_state_dict_is_named_wherever_it_lies(wrap, fake_torch, tmp_path):
    state = tensors({"heads.head1.cls_pred.weight": np.zeros((80, 64, 1, 1), "f4")})
    value = {"ema": {"ema": {"module": state}}, "net": {"net": state}, "state_dict": {"state_dict": state}}[wrap]
    assert "received YOLO-NAS (heads.head1.cls_pred.weight)" in reported(value, state.values(), tmp_path)


@pytest.mark.parametrize(
    "value, expected",
    [
        (
            {"state": {0: {"momentum_buffer": None}}, "param_groups": [{"lr": 0.1}]},
            "the state of an optimizer without a network; take the file",
        ),
        ({"epoch": 3, "optimizer": {"state": {}}, "model": None}, "the state of an optimizer without a network"),
        ({"epoch": 3, "loss": [0.1]}, "no network's weights, but epoch, loss; save the model, or its state_dict"),
        ([1, 2], "nothing; save the model, or its state_dict"),
    ],
)
def test_a_checkpoint_without_a_network_is_named(value, expected, fake_torch, tmp_path):
    assert f"received {expected}" in reported(value, [], tmp_path)


def test_a_checkpoint_that_cannot_be_read_is_named_too(classes, tmp_path):
    """Here by what its pickle names before it comes to a call, which is refused."""
    model = as_module({}, ("red",))
    model.__class__ = classes("ultralytics.nn.modules.head.v10Detect")
    assert "received YOLOv10 (v10Detect)" in reported({"model": model, "z": Calls(eval, "1")}, [], tmp_path)


def test_what_a_training_state_holds_besides_is_passed_over(classes, tmp_path):
    """Arrays of NumPy's, counters and mappings with classes of their own, as optimizers, schedulers and loggers leave
    them.
    """
    state = tensors({"conv.weight": np.arange(6, dtype="f4").reshape(2, 3), "bn.running_mean": np.ones(2, "f4")})
    bag = classes("theirs.Bag")()
    value = {
        "model": as_module(state, ("red", "green")),
        "best_fitness": np.array([0.5]),
        "scheduler": {"milestones": collections.Counter([3, 5]), "factors": collections.defaultdict(list)},
        "updates": {("a", 1): 2, frozenset([1]): bag, 3: {1, (2, 3)}},
    }
    loaded = unpickle.read(saved(tmp_path / "last.pt", value, state.values()))
    arrays = unpickle.state_dict(loaded)
    assert arrays.keys() == state.keys() and loaded["scheduler"]["milestones"] == {3: 1, 5: 1}
    assert all(np.array_equal(array, state[name].array) for name, array in arrays.items())
