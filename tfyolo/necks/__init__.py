"""Necks: Features -> Features of the same levels, each enriched by the others.

    def up_cat(features, *, name="neck") -> Features

A new one is a function in a file of its lineage and a line in the dict below.
"""

from tfyolo.necks.mlfpn import mlfpn
from tfyolo.necks.pan import c3k2_pan, csp_pan, elan_pan, elan_pan_p6, elan_pan_tiny, pan, spp_pan
from tfyolo.necks.up_cat import up_cat, up_cat_tiny, up_cat_tiny_3l


def identity(features, *, name="neck"):
    """No neck: the backbone's features as they are."""
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
    "mlfpn": mlfpn,
}
