"""Necks: which levels they return, and what the blocks of each level are made of."""

import keras
import pytest
from conftest import slow

from tfyolo.necks import NECKS
from tfyolo.structures import as_features

SMALL = {
    "elan_pan": {"width": 0.125, "hidden": 8},
    "elan_pan_p6": {"width": 0.125, "hidden": 8},
    "elan_pan_tiny": {"width": 0.125},
}


def features_of(*levels, channels=8):
    return {level: keras.Input((*[128 >> int(level[1:])] * 2, channels), name=level) for level in levels}


@pytest.mark.parametrize("levels", [("p4", "p5"), slow(("p3", "p4", "p5", "p6")), ("p5",)], ids="-".join)
@pytest.mark.parametrize("neck", ["up_cat", "spp_pan", "csp_pan", "pan", "c3k2_pan", *SMALL])
def test_a_neck_returns_the_levels_and_grids_of_any_backbone(neck, levels):
    features = features_of(*levels)
    outputs = NECKS[neck](features, **SMALL.get(neck, {}))
    outputs = as_features(outputs)
    for found in filter(None, (outputs, outputs.aux)):
        grids = {level: x.shape[1:3] for level, x in found.levels.items()}
        assert grids == {level: x.shape[1:3] for level, x in features.items()}


@pytest.mark.parametrize("neck, hidden", [("elan_pan", [16, 32, 64]), ("elan_pan_p6", [16, 32, 48])])
def test_levels_of_one_width_keep_their_own_hidden_channels(neck, hidden):
    features = features_of("p3", "p4", "p5")
    outputs = NECKS[neck](features, width=0.03, hidden=16, aux=False)
    assert outputs["p3"].shape[-1] == outputs["p4"].shape[-1] == 8
    network = keras.Model(features, outputs)
    found = [network.get_layer(f"neck.{part}.skip.conv").filters for part in ("p3", "p4", "n4", "n5")]
    assert found == [hidden[0], hidden[1], hidden[1], hidden[2]]


@pytest.mark.parametrize("neck", ["up_cat_tiny", "up_cat_tiny_3l"])
def test_levels_that_a_tiny_neck_lacks_are_named(neck):
    with pytest.raises(ValueError, match=rf"{neck}: expected a backbone with levels p\d .* p5, received p3, p4"):
        NECKS[neck](features_of("p3", "p4"))
