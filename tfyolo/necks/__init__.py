"""Necks: Features -> Features of the same levels, each merged with the others.

    def up_cat(features, *, name="neck") -> Features

Letters in the shapes: B images, h w the grid of a level, C channels. Level pL is 2^L times smaller than the image: the
finest has the lowest L. A merged feature map is named in comments for what it contains, p4p5 or p3p4p5; the head finds
it under the name of its level. mlfpn alone changes the levels.

A new neck is a function in a file of its lineage and a line in the dict below.
"""

from tfyolo.necks.mlfpn import mlfpn
from tfyolo.necks.yolov3 import up_cat, up_cat_tiny
from tfyolo.necks.yolov4 import csp_pan, spp_pan, up_cat_tiny_3l
from tfyolo.necks.yolov7 import elan_pan, elan_pan_p6, elan_pan_tiny
from tfyolo.necks.yolov8 import c3k2_pan, pan
from tfyolo.necks.yolov9 import gelan_c_pan, gelan_pan
from tfyolo.necks.yolox import c3_pan
from tfyolo.structures import reads_aux


@reads_aux
def identity(features, *, name="neck"):
    """No neck: the backbone's features unchanged.

    Args:
        features: Features, auxiliary ones included.
        name: unused; every neck takes one.

    Returns:
        `features` itself.
    """
    return features


NECKS = {
    "identity": identity,
    "up_cat": up_cat,
    "up_cat_tiny": up_cat_tiny,
    "up_cat_tiny_3l": up_cat_tiny_3l,
    "spp_pan": spp_pan,
    "csp_pan": csp_pan,
    "elan_pan": elan_pan,
    "elan_pan_tiny": elan_pan_tiny,
    "elan_pan_p6": elan_pan_p6,
    "pan": pan,
    "c3k2_pan": c3k2_pan,
    "c3_pan": c3_pan,
    "gelan_pan": gelan_pan,
    "gelan_c_pan": gelan_c_pan,
    "mlfpn": mlfpn,
}
