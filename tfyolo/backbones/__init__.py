"""Backbones: a picture [B, H, W, 3] -> Features {"p3": [B, H/8, W/8, C], ...}.

    def darknet53(images, *, width=1.0, name="backbone") -> Features

A new one is a function in a file of its lineage and a line in the dict below.
"""

from tfyolo.backbones.ancestors import csp_vovnet, densenet, resnext, vovnet
from tfyolo.backbones.c2f import c2f, c3k2
from tfyolo.backbones.csp_darknet import csp_darknet53, csp_darknet_tiny
from tfyolo.backbones.darknet import darknet53, darknet_tiny, darknet_v1
from tfyolo.backbones.elan import elan, elan_p6, elan_tiny
from tfyolo.backbones.hourglass import hourglass, hourglass104
from tfyolo.backbones.sections import darknet_cfg
from tfyolo.backbones.vgg import resnet, vgg16

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
    "vgg16": vgg16,
    "resnet": resnet,
    "hourglass": hourglass,
    "hourglass104": hourglass104,
    "darknet_cfg": darknet_cfg,
}
