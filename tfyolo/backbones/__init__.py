"""Backbones: images [B, H, W, 3] -> Features {"p3": [B, H / 8, W / 8, C], ...}.

    def darknet53(images, *, width=1.0, name="backbone") -> Features

Images are RGB, 0..1. Level pL is 2^L times smaller than the image.

A new backbone is a function in a file of its lineage and a line in the dict below.
"""

from tfyolo.backbones.applications import applications
from tfyolo.backbones.baselines import csp_vovnet, densenet, resnext, vovnet
from tfyolo.backbones.csp_darknet import csp_darknet53, csp_darknet_tiny
from tfyolo.backbones.darknet import darknet53, darknet_tiny, darknet_v1
from tfyolo.backbones.darknet_cfg import darknet_cfg
from tfyolo.backbones.efficientnet_lite import efficientnet_lite0, efficientnet_lite1, efficientnet_lite2
from tfyolo.backbones.hourglass import hourglass, hourglass104
from tfyolo.backbones.resnet import resnet
from tfyolo.backbones.vgg import vgg16
from tfyolo.backbones.yolov7 import elan, elan_p6, elan_tiny
from tfyolo.backbones.yolov8 import c2f, c3k2
from tfyolo.backbones.yolov9 import gelan, gelan_c
from tfyolo.backbones.yolox import c3

BACKBONES = {
    "darknet_v1": darknet_v1,
    "darknet53": darknet53,
    "darknet_tiny": darknet_tiny,
    "csp_darknet53": csp_darknet53,
    "csp_darknet_tiny": csp_darknet_tiny,
    "elan": elan,
    "elan_tiny": elan_tiny,
    "elan_p6": elan_p6,
    "vovnet": vovnet,
    "csp_vovnet": csp_vovnet,
    "densenet": densenet,
    "resnext": resnext,
    "c2f": c2f,
    "c3k2": c3k2,
    "c3": c3,
    "gelan": gelan,
    "gelan_c": gelan_c,
    "vgg16": vgg16,
    "resnet": resnet,
    "hourglass": hourglass,
    "hourglass104": hourglass104,
    "efficientnet_lite0": efficientnet_lite0,
    "efficientnet_lite1": efficientnet_lite1,
    "efficientnet_lite2": efficientnet_lite2,
    "applications": applications,
    "darknet_cfg": darknet_cfg,
}
