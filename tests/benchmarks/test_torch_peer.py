"""The benchmarks compare equal things: PyTorch's model is ours, with our weights and size."""

from dataclasses import MISSING, fields

import jax
import numpy as np
import pytest
from flax import nnx

from tests.support.pytorch import torch  # isort: skip  # benchmarks.torch_peer needs it, too

from benchmarks.compare import CASES, make_batch
from benchmarks.torch_peer import Peer, inputs
from sslssaw_jax.stages.step import eval_step
from sslssaw_jax.types import Batch, Texts
from tests.support.toy import VOCAB_SIZE, jit, toy_batch, toy_config, toy_state, translate_stage, with_texts


def test_what_is_compared_reads_a_whole_batch() -> None:
    needed = {field.name for field in fields(Batch) if field.default is field.default_factory is MISSING}
    assert needed - {"decoder_texts", "text_tower_texts"} <= make_batch(CASES["decode"]).keys()
    assert set(Texts._fields) <= make_batch(CASES["decode"]).keys()


@pytest.mark.slow
@pytest.mark.parametrize(("fusion", "ssl"), [("ssaw", "prefix"), ("concat", "off")])
def test_the_peer_has_our_loss_and_our_number_of_parameters(fusion: str, ssl: str) -> None:
    config = toy_config(
        **{
            "model.fusion.kind": fusion,
            "model.ssl": ssl,
            "model.cnn.resnet.stem": "conv7_pool",
            "model.cnn.resnet.depths": (1, 1),
            "translate.label_smoothing": 0.2,
        }
    )
    stage = translate_stage(config, VOCAB_SIZE)
    state = toy_state(stage, seed=1)
    batch = toy_batch(0)
    rows = batch.decoder_texts.question_mask.shape
    # the parent project leaves padding between question and video, which shifts the video's positions
    batch = with_texts(batch, question_mask=np.ones(rows, bool))
    step = jit(
        lambda params, stats: eval_step(params, stats, batch, graphdef=stage.eval_def, loss=stage.loss)
    )
    ours = step(state.params, state.batch_stats)["loss"]

    for repeat_frames in (False, True):
        peer = Peer(config, VOCAB_SIZE, repeat_frames=repeat_frames).eval()
        peer.load_ours(nnx.to_pure_dict(state.params), nnx.to_pure_dict(state.batch_stats))
        with torch.no_grad():
            theirs = peer(inputs(vars(batch) | batch.decoder_texts._asdict()))
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)
        assert sum(leaf.size for leaf in jax.tree.leaves(state.params)) == VOCAB_SIZE + sum(
            weight.numel() for weight in peer.parameters()
        )  # theirs has the head's bias in a buffer
