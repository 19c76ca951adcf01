"""mBART reads glosses and mapped features as Hugging Face's reads embedded tokens, followed by its ending."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sslssaw_jax.models.decoder_inputs import Stream
from sslssaw_jax.models.mbart_writer import MBartWriterConfig, Projection, Rewriter
from sslssaw_jax.weights.initial_state import variables
from sslssaw_jax.weights.mbart import load_mbart
from sslssaw_jax.weights.torch_files import Checkpoint
from tests.support.mbart_reference import CONFIG, VOCAB_SIZE, random_hugging_face, random_tokens
from tests.support.pretrained import state_of
from tests.support.pytorch import torch
from tests.support.toy import assert_close, jit

WRITER = MBartWriterConfig(
    d_model=32, ffn_dim=48, encoder_layers=2, decoder_layers=2, heads=2, max_positions=32
)
GLOSSES, INPUTS = 9, 5
LENGTHS = (4, 0, 2)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    theirs = random_hugging_face(0, type(CONFIG)(**{**vars(CONFIG), "text_heads": 2}))
    folder = tmp_path_factory.mktemp("mbart")
    theirs.save_pretrained(folder)
    model = nnx.view(Rewriter(WRITER, VOCAB_SIZE, GLOSSES, dtype=jnp.float32, rngs=nnx.Rngs(0)),
                     deterministic=True)  # fmt: skip
    state = load_mbart(state_of(model), Checkpoint(folder))
    return theirs, nnx.merge(nnx.graphdef(model), state.params)


def stream(rng):
    tokens, mask = random_tokens(rng, [3, 5, 1])
    return Stream(tokens, mask, tokens, mask)


def expected_logits(theirs, model, embedded, text):
    """Hugging Face's logits for each clip alone, from unscaled embeddings without the ending."""
    logits = []
    for row, clip in enumerate(embedded):
        ending = torch.tensor(np.asarray(model.ending[...]))
        states = theirs.model.encoder(inputs_embeds=torch.cat([clip, ending])[None] * 32**0.5)
        length = int(text.mask[row].sum())
        found = theirs(
            encoder_outputs=states, decoder_input_ids=torch.tensor(text.tokens[row : row + 1, :length])
        )
        logits.append(found.logits[0])
    return logits


def test_glosses_are_written_out_as_hugging_face_writes(pair):
    theirs, model = pair
    rng = np.random.default_rng(1)
    gloss = rng.integers(0, GLOSSES, (3, 5))
    mask, text = np.arange(5) < np.array(LENGTHS)[:, None], stream(rng)

    @jit
    def write(model, gloss, mask):
        states = model.read_ids(gloss, mask, np.ones(3, bool), None)
        return model.write(text, *states, None)

    found = write(model, gloss, mask)
    table = torch.tensor(np.asarray(model.source_embedding.embedding[...]))
    embedded = [table[torch.tensor(ids[:length])] for ids, length in zip(gloss, LENGTHS)]
    with torch.no_grad():
        for row, expected in enumerate(expected_logits(theirs, model, embedded, text)):
            assert_close(found[row, : len(expected)], expected.numpy())
    other = write(model, np.where(mask, gloss, 7), mask)
    np.testing.assert_array_equal(other, found)


def test_mapped_features_are_written_out_with_the_mapper_s_gradients(pair):
    theirs, model = pair
    rng = np.random.default_rng(2)
    mapper = Projection(INPUTS, 32, dtype=jnp.float32, rngs=nnx.Rngs(3))
    feature = rng.normal(size=(3, 5, INPUTS)).astype(np.float32)
    mask, text = np.arange(5) < np.array(LENGTHS)[:, None], stream(rng)
    cotangent = rng.normal(size=(*text.tokens.shape, VOCAB_SIZE)).astype(np.float32)
    cotangent *= text.mask[..., None]

    @jit
    def gradients(mapper, model):
        def objective(mapper):
            states = model.read(mapper(feature), mask, np.ones(3, bool), None)
            logits = model.write(text, *states, None)
            return (logits * cotangent).sum(), logits

        found, logits = nnx.grad(objective, has_aux=True)(mapper)
        return nnx.to_pure_dict(found), logits

    linear = torch.nn.Linear
    twin = torch.nn.Sequential(linear(INPUTS, 32), torch.nn.ReLU(), linear(32, 32))
    with torch.no_grad():
        for ours, layer in ((mapper.hidden, twin[0]), (mapper.output, twin[2])):
            layer.weight.copy_(torch.tensor(np.asarray(ours.kernel[...]).T))
            layer.bias.copy_(torch.tensor(np.asarray(ours.bias[...])))
    found, logits = gradients(mapper, model)
    embedded = [twin(torch.tensor(clip[:length])) for clip, length in zip(feature, LENGTHS)]
    total = torch.zeros(())
    for row, expected in enumerate(expected_logits(theirs, model, embedded, text)):
        assert_close(logits[row, : len(expected)], expected.detach().numpy())
        total = total + (expected * torch.tensor(cotangent[row, : len(expected)])).sum()
    total.backward()
    for name, layer in (("hidden", twin[0]), ("output", twin[2])):
        assert_close(found[name]["kernel"], layer.weight.grad.numpy().T, 1e-4)
        assert_close(found[name]["bias"], layer.bias.grad.numpy(), 1e-4)


def test_a_later_stage_finds_mbart_s_parts_under_their_names(pair):
    _, model = pair
    own = {path[0] for path in variables(state_of(model))}
    assert own == {"embedding", "ending", "encoder", "decoder", "source_embedding"}
