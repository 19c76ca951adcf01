"""SLRT and GASLT compared with a small PyTorch twin written from the papers' description."""

import math
from functools import partial

import jax
import numpy as np
import pytest
from flax import nnx

from sslssaw_jax.models.decoder_inputs import text_stream
from sslssaw_jax.systems import SYSTEMS
from tests.support.toy import (
    assert_close,
    evaluated,
    jit,
    loss_of,
    toy_batch,
    toy_state,
    toy_system,
    translate_stage,
)

torch = pytest.importorskip("torch")

D, HEADS, FFN = 16, 2, 24


def tensor(value):
    return torch.tensor(np.asarray(value))


def load_linear(linear, ours):
    """Copy a kernel [in, out], or norms' scale, with its bias if any."""
    linear.weight.data = tensor(ours["kernel"].T if "kernel" in ours else ours["scale"])
    if "bias" in ours:
        linear.bias.data = tensor(ours["bias"])


class Attention(torch.nn.Module):
    """Multi-head attention, written out."""

    def __init__(self, ours):
        super().__init__()
        self.parts = torch.nn.ModuleList(torch.nn.Linear(D, D) for _ in "qkvo")
        for part, name in zip(self.parts, ("q_proj", "k_proj", "v_proj", "out_proj"), strict=True):
            load_linear(part, ours[name])

    def forward(self, query, memory, seen):
        """`seen` [B, L or 1, S] is True where a query may look."""

        def heads(x):
            return x.reshape(*x.shape[:2], HEADS, -1).transpose(1, 2)

        q, k, v = (heads(part(x)) for part, x in zip(self.parts[:3], (query, memory, memory), strict=True))
        scores = (q @ k.transpose(-1, -2) / math.sqrt(D // HEADS)).masked_fill(~seen[:, None], -1e30)
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        return self.parts[3](mixed)


class Layer(torch.nn.Module):
    """A pre-norm layer; with `encoder_attn`, a decoder's."""

    def __init__(self, ours):
        super().__init__()
        self.attention = Attention(ours["self_attn"])
        self.cross = Attention(ours["encoder_attn"]) if "encoder_attn" in ours else None
        self.norms = torch.nn.ModuleList(torch.nn.LayerNorm(D) for _ in range(3))
        load_linear(self.norms[0], ours["self_attn_layer_norm"])
        if self.cross:
            load_linear(self.norms[1], ours["encoder_attn_layer_norm"])
        inner = ours["feed_forward"]
        load_linear(self.norms[2], inner["final_layer_norm"])
        self.fc1, self.fc2 = torch.nn.Linear(D, FFN), torch.nn.Linear(FFN, D)
        load_linear(self.fc1, inner["fc1"])
        load_linear(self.fc2, inner["fc2"])

    def forward(self, x, seen, memory=None, memory_seen=None):
        normed = self.norms[0](x)
        x = x + self.attention(normed, normed, seen)
        if self.cross:
            x = x + self.cross(self.norms[1](x), memory, memory_seen)
        return x + self.fc2(self.fc1(self.norms[2](x)).relu())


class Twin(torch.nn.Module):
    """A sign transformer from the video's positions on, in training: BatchNorm sees the batch."""

    def __init__(self, params):
        super().__init__()
        self.table = torch.nn.Parameter(tensor(params["table"]["embedding"]))
        self.target_norm, self.question_norm = torch.nn.BatchNorm1d(D), torch.nn.BatchNorm1d(D)
        load_linear(self.target_norm, params["target_norm"])
        load_linear(self.question_norm, params["question_norm"])
        self.encoder, self.decoder = (
            torch.nn.ModuleList(Layer(layer) for layer in params[half]["layers"].values())
            for half in ("encoder", "decoder")
        )
        self.encoder_norm, self.decoder_norm = torch.nn.LayerNorm(D), torch.nn.LayerNorm(D)
        load_linear(self.encoder_norm, params["encoder"]["layer_norm"])
        load_linear(self.decoder_norm, params["decoder"]["layer_norm"])
        self.head = torch.nn.Parameter(tensor(params["head"]["kernel"].T))

    def words(self, norm, ids, mask):
        """Embedding, BatchNorm over the words only, softsign; no scale."""
        flat = torch.nn.functional.softsign(norm(self.table[ids[mask]]))
        embedded = torch.zeros(*ids.shape, D)
        embedded[mask] = flat
        return embedded

    def forward(self, video, video_mask, question, question_mask, target, target_mask):
        asked = self.words(self.question_norm, question, question_mask)
        length = int((question_mask.sum(1) + video_mask.sum(1)).max())
        joint, mask = torch.zeros(len(video), length, D), torch.zeros(len(video), length, dtype=bool)
        for row in range(len(video)):  # the video right after the question's last word
            parts = torch.cat([asked[row][question_mask[row]], video[row][video_mask[row]]])
            joint[row, : len(parts)], mask[row, : len(parts)] = parts, True
        x = joint + waves(length)
        for layer in self.encoder:
            x = layer(x, mask[:, None])
        states = self.encoder_norm(x)
        y = self.words(self.target_norm, target, target_mask) + waves(target.shape[1])
        causal = torch.ones(target.shape[1], target.shape[1], dtype=bool).tril()
        for layer in self.decoder:
            y = layer(y, causal & target_mask[:, None], states, mask[:, None])
        return self.decoder_norm(y) @ self.head.T, states, mask


def waves(length):
    """Sine and cosine in turn."""
    place = torch.arange(length)[:, None] * torch.exp(-math.log(1e4) * torch.arange(0, D, 2) / D)
    return torch.stack([place.sin(), place.cos()], dim=-1).flatten(1)


@pytest.fixture(scope="module")
def batch():
    return toy_batch(seed=3, clips=4)


def test_slrt_s_loss_and_gradients_equal_those_of_a_torch_twin(batch):
    """Training step, label smoothing, loss per clip, words through BatchNorm and softsign."""
    config = toy_system("slrt", **{"translate.label_smoothing": 0.2, "translate.normalize": "clips"})
    stage = translate_stage(config)
    state = toy_state(stage)
    texts = batch.decoder_texts
    model = nnx.merge(stage.train_def, state.params, state.batch_stats, copy=True)
    video, video_mask = jax.device_get(
        jit(lambda model, batch: _video(stage, config, model, batch))(model, batch)
    )

    def objective(params):
        model = nnx.merge(stage.train_def, params, state.batch_stats, copy=True)
        return loss_of(stage, model, batch)[0]

    loss, gradients = jax.device_get(jit(jax.value_and_grad(objective))(state.params))

    twin = Twin(jax.device_get(nnx.to_pure_dict(state.params))).train()
    stream = jax.device_get(text_stream(texts.target, texts.target_mask))
    args = (video, video_mask, texts.question, texts.question_mask, stream.tokens, stream.mask)
    logits, *_ = twin(
        *(tensor(np.asarray(arg)).to(torch.long if arg.dtype == np.int32 else None) for arg in args)
    )
    scored = tensor(stream.scored)
    labels = tensor(stream.labels).long()[scored]
    summed = torch.nn.functional.cross_entropy(logits[scored], labels, label_smoothing=0.2, reduction="sum")
    expected = summed / len(batch.valid)
    expected.backward()
    assert_close(loss, expected.detach().numpy())
    ours = nnx.to_pure_dict(gradients)
    assert_close(ours["table"]["embedding"], twin.table.grad.numpy(), 1e-4)
    assert_close(ours["target_norm"]["scale"], twin.target_norm.weight.grad.numpy(), 1e-4)
    assert_close(ours["question_norm"]["bias"], twin.question_norm.bias.grad.numpy(), 1e-4)
    assert_close(ours["head"]["kernel"].T, twin.head.grad.numpy(), 1e-4)
    first = ours["encoder"]["layers"][0]["feed_forward"]["fc1"]["kernel"]
    assert_close(first.T, twin.encoder[0].fc1.weight.grad.numpy(), 1e-4)


def _video(stage, config, model, batch):
    from sslssaw_jax.stages.video import embed_video

    return embed_video(model.video, batch, config.data, None)


def test_gaslt_adds_ten_times_the_pairwise_error_of_two_cosines(batch):
    """Compare with the formula in NumPy: pooled states and word counts, over pairs of clips."""
    config = toy_system("gaslt")
    stage = translate_stage(config)
    model = evaluated(stage, toy_state(stage))
    total, metrics = jax.device_get(jit(partial(loss_of, stage))(model, batch))
    encoded = jax.device_get(
        jit(lambda model, batch: stage.translation.encode(model, batch)[3:5])(model, batch)
    )
    states, mask = encoded
    pooled = np.stack([row[seen].mean(axis=0) for row, seen in zip(states, mask, strict=True)])
    texts = batch.decoder_texts
    counts = np.stack(
        [
            np.bincount(row[seen][:-2], minlength=40)
            for row, seen in zip(texts.target, texts.target_mask, strict=True)
        ]
    ).astype(float)

    def cosines(x):
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
        return x @ x.T

    error = np.square(cosines(pooled) - cosines(counts))
    others = ~np.eye(len(error), dtype=bool)
    expected = np.mean([row[other].mean() for row, other in zip(error, others, strict=True)])
    assert_close(metrics["loss_similarity"], np.float32(expected), 1e-4)
    assert_close(total, metrics["loss_sentence"] + 10 * metrics["loss_similarity"])


@pytest.mark.parametrize(("system", "inside"), [("gaslt", 0.5), ("slrt", 0.1), ("signbt", 0.1)])
def test_a_tenth_of_what_enters_the_layers_is_dropped_however_much_is_inside(system, inside):
    """These are the numbers of both public codes."""
    published = SYSTEMS[system].config()
    rates = {f"model.{key}": getattr(published, key) for key in ("dropout", "embedding_dropout")}
    stage = translate_stage(toy_system(system, **rates))
    model = nnx.eval_shape(lambda: stage.make_model(jax.random.key(0)))
    for half in (model.encoder, model.decoder):
        assert (half.input.dropout.rate, half.layers[0].dropout.rate) == (0.1, inside)
