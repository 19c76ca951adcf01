"""The model that comes with the package fits the code, and says what its examples promise."""

from sslssaw_jax import Translator
from sslssaw_jax.inference.demo import DEMO, read_examples


def test_the_shipped_model_answers_its_examples():
    translator, examples = Translator.from_pretrained(), read_examples()
    one, other, *_ = examples
    assert one.video == other.video and one.text != other.text
    for example in examples:
        assert translator(example.video, example.question).text == example.text


def test_the_shipped_model_is_small():
    assert sum(file.stat().st_size for file in DEMO.rglob("*")) < 6e6
