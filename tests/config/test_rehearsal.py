import pytest

from configs import rehearsal
from sslssaw_jax.config.checks import ConfigError
from sslssaw_jax.systems import read_config


def test_the_poor_recognizer_differs_in_its_training_alone():
    good, poor = (read_config(rehearsal.get_config(name)) for name in ("recognize", "recognize_poor"))
    assert good.stage == poor.stage == "recognize" and good.data == poor.data and good.model == poor.model
    assert good.recognize != poor.recognize


def test_rows_read_the_features_of_their_recognizer_and_start_alike():
    good, poor = (read_config(rehearsal.get_config(name)) for name in ("", "poor"))
    assert (good.data.features, poor.data.features) == (("good",), ("poor",))
    assert good.init_from != poor.init_from, "stage 1 reads features, too"
    assert good.translate == poor.translate and good.pretrain == poor.pretrain
    recognizer = read_config(rehearsal.get_config("recognize"))
    assert recognizer.data.frame_stride == good.data.frame_stride and not recognizer.data.features


def test_an_unknown_variant_is_refused_with_those_that_there_are():
    with pytest.raises(ConfigError, match=r":good is unknown; use one of poor, recognize, recognize_poor"):
        rehearsal.get_config("good")
