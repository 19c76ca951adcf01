from pathlib import Path

import numpy as np
import pytest

from sslssaw_jax.weights.initial_state import WeightsError, variables
from sslssaw_jax.weights.word_vectors import TABLE, word_vectors
from tests.support.toy import VOCAB_SIZE, toy_state, toy_system, translate_stage

PIECES = ["<s>", "<pad>", "</s>", "<unk>", "▁der", "▁regen", *map(str, range(VOCAB_SIZE - 6))]
VECTORS = {"▁regen": np.arange(12) / 8, "▁schnee": np.ones(12), "▁der": -np.arange(12) / 4}


@pytest.fixture(scope="module")
def state():
    return toy_state(translate_stage(toy_system("tspnet")))


def write(path: Path, vectors: dict[str, np.ndarray], header: str = "3 12\n") -> str:
    lines = [" ".join([piece, *map(str, vector)]) + "\n" for piece, vector in vectors.items()]
    path.write_text(header + "".join(lines), encoding="utf-8")
    return str(path)


def test_pieces_begin_with_their_vectors_and_all_others_stay(state, tmp_path):
    started = word_vectors(write(tmp_path / "emb", VECTORS), PIECES)(state)
    old, new = (variables(one) for one in (state, started))
    table = np.array(old.pop(TABLE))
    table[4], table[5] = VECTORS["▁der"], VECTORS["▁regen"]
    np.testing.assert_array_equal(new.pop(TABLE), table)
    assert all(new[path] is old[path] for path in old)


@pytest.mark.parametrize(
    ("vectors", "header", "message"),
    [
        (VECTORS, "", "line 1: expected a header"),
        ({"▁der": np.ones(5)}, "1 12\n", "line 2: .*12 numbers"),
        ({"▁der": ["a"] * 12}, "1 12\n", "line 2: .*12 numbers"),
        ({"▁schnee": np.ones(12)}, "1 12\n", "no vector for any of the tokenizer's 40 pieces"),
        ({"▁der": np.ones(5)}, "1 5\n", "have 5 numbers, the embedding 12"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_with_its_line(state, tmp_path, vectors, header, message):
    with pytest.raises(WeightsError, match=message):
        word_vectors(write(tmp_path / "emb", vectors, header), PIECES)(state)


def test_the_binary_format_is_refused_with_its_line(tmp_path):
    rows = [f"{piece} ".encode() + np.float32(vector).tobytes() + b"\n" for piece, vector in VECTORS.items()]
    (tmp_path / "emb.bin").write_bytes(b"3 12\n" + b"".join(rows))
    with pytest.raises(WeightsError, match=r"line 2: expected a header .* the text format of word2vec"):
        word_vectors(str(tmp_path / "emb.bin"), PIECES)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(WeightsError, match="there is no file"):
        word_vectors(str(tmp_path / "emb"), PIECES)
