import numpy as np

from sslssaw_jax.data.mbart_tokenizer import load_tokenizer
from sslssaw_jax.stages.gloss2text import embed_glosses


def test_a_gloss_starts_as_the_mean_of_its_pieces_in_lower_case(tiny_data_dir):
    tokenizer = load_tokenizer(tiny_data_dir / "avatar_qa" / "1.0.0" / "tokenizer", "en_XX")
    table = np.random.default_rng(0).normal(size=(tokenizer.vocab_size, 3)).astype(np.float32)
    found = embed_glosses(("RAIN", "NORTH"), table, tokenizer)
    blank, unknown, rain, north = found
    assert not blank.any()
    np.testing.assert_array_equal(unknown, table[tokenizer.unk_id])
    for row, word in ((rain, "rain"), (north, "north")):
        pieces = tokenizer.encode(word, 20)[:-2]
        np.testing.assert_allclose(row, table[pieces].mean(axis=0), rtol=1e-6)
    assert not np.allclose(rain, north)
