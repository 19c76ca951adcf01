"""What TSPNet refuses: windows other than its own, and settings that do not fit together."""

import re

import pytest

from sslssaw_jax.config.checks import ConfigError
from sslssaw_jax.stages.stage import StageInputs
from sslssaw_jax.systems import tspnet
from sslssaw_jax.types import FeatureSize
from tests.support.toy import toy_system

SETS = {"data.features": ("first", "second", "third")}


@pytest.mark.parametrize(
    "wrong",
    [FeatureSize(16, 2, 12), FeatureSize(16, 4, 5), FeatureSize(8, 2, 5)],
    ids=["span", "stride", "width"],
)
def test_feature_sets_of_other_windows_are_refused_by_name(wrong):
    right = [FeatureSize(16, 2, span) for span in (3, 5, 7)]
    config = toy_system("tspnet", **SETS)
    assert tspnet.make_stages(config, StageInputs(40, features=right))
    with pytest.raises(ConfigError, match=r"names 'second', rows of width .* the span 5 of \(3, 5, 7\)"):
        tspnet.make_stages(config, StageInputs(40, features=[right[0], wrong, right[2]]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.spans": (8, 8)}, "spans is (8, 8); each must be positive and longer"),
        ({"model.spans": ()}, "spans is ()"),
        ({"model.decoder_heads": 5}, "decoder_heads is 5; it must divide decoder_d_model 12"),
        ({"model.max_positions": 4}, "clips of 12 frames have 5 windows"),
        (SETS | {"model.spans": (3, 5)}, "name one set for each span"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        toy_system("tspnet", **changes)
