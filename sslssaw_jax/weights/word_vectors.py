"""Word vectors in the text format of word2vec, such as BPEmb's, as the start of a token embedding."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import logging

from sslssaw_jax.types import TrainState
from sslssaw_jax.weights.initial_state import InitialWeights, WeightsError, replace_variables, whole_variable
from sslssaw_jax.workdir import user_path

TABLE = ("embed_target", "embed", "embedding")


def word_vectors(file: str, pieces: Sequence[str]) -> InitialWeights:
    """Return a function that sets known pieces' vectors; others stay random.

    The function raises WeightsError if the vectors have another width than the embedding.

    Args:
        file: A header `count width`, then a line `piece number ... number` for each vector.
        pieces: The pieces of the tokenizer by id.

    Raises:
        WeightsError: There is no such file, a line is not a vector, or no piece has one.
    """
    vectors = _read(user_path(file), set(pieces))
    known = [i for i, piece in enumerate(pieces) if piece in vectors]
    if not known:
        raise WeightsError(f"{file} has no vector for any of the tokenizer's {len(pieces):,} pieces")
    logging.info("%s has vectors of %d of %d pieces", file, len(known), len(pieces))

    def start(state: TrainState) -> TrainState:
        table_VxD = whole_variable(state, TABLE)
        width = len(vectors[pieces[known[0]]])
        if width != table_VxD.shape[1]:
            raise WeightsError(
                f"the vectors of {file} have {width} numbers, the embedding {table_VxD.shape[1]}: set "
                f"config.model.decoder_d_model to {width}, or choose other vectors"
            )
        table_VxD[known] = [vectors[pieces[i]] for i in known]
        return replace_variables(state, [(TABLE, table_VxD)])

    return start


def _read(file: Path, wanted: set[str]) -> dict[str, np.ndarray]:
    if not file.is_file():
        raise WeightsError(
            f"there is no file {file} of word vectors, which config.model.embedding_weights names"
        )
    vectors, width = {}, -1
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                piece, *values = line.decode().rstrip().split(" ")
                if number == 1 and len(values) == 1 and piece.isdigit() and values[0].isdigit():
                    width = int(values[0])
                    continue
                vector = np.array(values, np.float32)
            except ValueError:  # also for word2vec's binary format, which is not UTF-8
                vector = np.zeros(0, np.float32)
            if len(vector) != width:
                raise WeightsError(
                    f"{file}, line {number}: expected a header `count width`, then lines of a piece and "
                    f"{max(width, 1)} numbers, the text format of word2vec"
                )
            if piece in wanted:
                vectors[piece] = vector
    return vectors
