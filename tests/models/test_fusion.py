import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sslssaw_jax.models.fusion import FUSIONS, concatenate_valid
from tests.support.toy import assert_close, jit, random_model, toy_config

CONFIG = toy_config().model
D = CONFIG.mbart.d_model


@pytest.fixture(scope="module", params=FUSIONS)
def fusion(request):
    return make_fusion(request.param)


def make_fusion(kind: str, **changes) -> nnx.Module:
    def make():
        config = dataclasses.replace(CONFIG.fusion, **changes)
        return FUSIONS[kind](D, config, dtype=jnp.float32, rngs=nnx.Rngs(0))

    return nnx.view(random_model(make), deterministic=True, raise_if_not_found=False)


def random_part(seed: int, lengths: list[int], padding: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """States [B, T, D] with noise after each row's own, and their mask; more padding changes no state."""
    rng = np.random.default_rng(seed)
    mask = np.arange(max(lengths) + padding) < np.array(lengths)[:, None]
    states = np.full((*mask.shape, D), 100.0, np.float32)
    for row, length in enumerate(lengths):
        states[row, :length] = rng.normal(size=(length, D))
    return states, mask


@jit
def joined_and_fused(fusion, question, video):
    joint, mask = concatenate_valid(*question, *video)
    return joint, mask, *fusion(joint, mask)


def fuse(fusion, question, video):
    """Fused states, weights and mask."""
    _, mask, fused, gate = jax.device_get(joined_and_fused(fusion, question, video))
    return fused, mask.astype(np.float32) if gate is None else gate, mask


def test_join_puts_the_video_right_behind_the_question():
    question, question_mask = random_part(0, [3, 1, 0, 4])
    video, video_mask = random_part(1, [2, 5, 3, 0], padding=2)
    joint, mask = jax.device_get(jit(concatenate_valid)(question, question_mask, video, video_mask))
    np.testing.assert_array_equal(mask.sum(axis=1), [5, 6, 3, 4])
    for row in range(4):
        both = np.concatenate([question[row][question_mask[row]], video[row][video_mask[row]]])
        np.testing.assert_array_equal(joint[row], np.pad(both, ((0, len(mask[row]) - len(both)), (0, 0))))
        np.testing.assert_array_equal(mask[row], np.arange(len(mask[row])) < len(both))


def test_padding_of_question_or_video_changes_no_state_and_no_weight(fusion):
    questions, videos = [3, 1, 4, 2], [2, 5, 3, 4]
    fused, gate, mask = fuse(fusion, random_part(0, questions), random_part(1, videos))
    assert np.abs(fused[~mask]).max() == 0
    for question_padding, video_padding in [(2, 0), (0, 3), (2, 3)]:
        question = random_part(0, questions, question_padding)
        more_fused, more_gate, more_mask = fuse(fusion, question, random_part(1, videos, video_padding))
        assert more_mask.shape[1] == mask.shape[1] + question_padding + video_padding
        assert_close(more_fused[more_mask], fused[mask])
        assert_close(more_gate[more_mask], gate[mask])
        assert np.abs(more_fused[~more_mask]).max() == 0


def test_a_row_without_a_clip_keeps_values_and_gradients_finite(fusion):
    question, video = random_part(0, [3, 0, 2]), random_part(1, [4, 0, 1])
    graphdef, params = nnx.split(fusion)

    @jit
    def fuse_and_differentiate(params, question_states):
        def energy(params, question_states):
            fused, gate = nnx.merge(graphdef, params)(
                *concatenate_valid(question_states, question[1], *video)
            )
            return jnp.square(fused).sum() + (0 if gate is None else gate.sum()), fused

        return jax.value_and_grad(energy, argnums=(0, 1), has_aux=True)(params, question_states)

    (_, fused), gradients = fuse_and_differentiate(params, question[0])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((fused, gradients)))
    assert np.abs(fused[0]).max() > 0
    assert np.abs(gradients[1][1]).max() == 0


@pytest.mark.parametrize("fusion", ["ssaw"], indirect=True)
def test_weights_lie_between_zero_and_one_and_padding_has_none(fusion):
    _, gate, mask = fuse(fusion, random_part(0, [3, 1, 0]), random_part(1, [2, 5, 0]))
    np.testing.assert_array_equal(gate[~mask], 0)
    assert ((gate[mask] > 0) & (gate[mask] < 1)).all()


@pytest.mark.parametrize(
    ("kind", "gate_norm", "scale"), [("ssaw", True, 1.0), ("ssaw", False, 2.0), ("transformer", True, 1.0)]
)
def test_ssaw_is_a_post_norm_transformer_block_whose_sigmoid_weights_its_input(kind, gate_norm, scale):
    """Eq. 3 and 4 with PyTorch's own block, clip by clip; `transformer` is the block itself."""
    torch = pytest.importorskip("torch")
    ours = make_fusion(kind, gate_norm=gate_norm, gate_scale=scale)
    theirs = torch.nn.TransformerEncoderLayer(
        D,
        CONFIG.fusion.heads,
        CONFIG.fusion.ffn_dim,
        dropout=0.0,
        activation="relu",
        norm_first=False,
        batch_first=True,
    )
    attention, parts = ours.attention, {"linear1": ours.linear1, "linear2": ours.linear2}
    parts |= {"norm1": ours.attention_norm, "self_attn.out_proj": attention.out_proj}
    if gate_norm:
        parts["norm2"] = ours.ffn_norm
    else:
        theirs.norm2 = torch.nn.Identity()
    weights = {}
    for name, part in parts.items():
        weight = part.scale if "norm" in name else part.kernel
        weights |= {f"{name}.weight": weight[...].T, f"{name}.bias": part.bias[...]}
    projections = attention.q_proj, attention.k_proj, attention.v_proj
    weights["self_attn.in_proj_weight"] = np.concatenate([part.kernel[...].T for part in projections])
    weights["self_attn.in_proj_bias"] = np.concatenate([part.bias[...] for part in projections])
    theirs.load_state_dict({name: torch.tensor(np.asarray(value)) for name, value in weights.items()})

    question, video = random_part(0, [3, 1, 4]), random_part(1, [2, 5, 3])
    joint, mask, fused, gate = jax.device_get(joined_and_fused(ours, question, video))
    for row in range(3):
        f_c = torch.tensor(joint[row][mask[row]])
        with torch.no_grad():
            f_f = theirs.train()(f_c[None])[0]
        expected = f_f if kind == "transformer" else f_c * scale * torch.sigmoid(f_f)
        assert_close(fused[row][mask[row]], expected.numpy())
        if kind == "ssaw":
            assert_close(gate[row][mask[row]], torch.sigmoid(f_f).mean(-1).numpy())


def test_the_lstm_is_torch_s_in_both_directions():
    torch = pytest.importorskip("torch")
    ours, theirs = make_fusion("lstm"), torch.nn.LSTM(D, D // 2, bidirectional=True)
    weights = {}
    for rnn, end in ((ours.forward, ""), (ours.backward, "_reverse")):
        read, carried = rnn.cell.dense_i, rnn.cell.dense_h
        weights |= {f"weight_ih_l0{end}": read.kernel[...].T, f"weight_hh_l0{end}": carried.kernel[...].T}
        bias = carried.bias[...]
        weights |= {f"bias_ih_l0{end}": 0 * bias, f"bias_hh_l0{end}": bias}
    theirs.load_state_dict({name: torch.tensor(np.asarray(value)) for name, value in weights.items()})

    question, video = random_part(0, [3, 1, 4]), random_part(1, [2, 5, 3])
    joint, mask, fused, _ = jax.device_get(joined_and_fused(ours, question, video))
    for row in range(3):
        with torch.no_grad():
            expected, _ = theirs(torch.tensor(joint[row][mask[row]]))
        assert_close(fused[row][mask[row]], expected.numpy())


@pytest.mark.parametrize("fusion", ["lstm", "tcn", "ssaw"], indirect=True)
def test_every_fused_position_depends_on_every_other(fusion):
    question, video = random_part(0, [3]), random_part(1, [4])

    graphdef, params = nnx.split(fusion)

    @jit
    def reach(question_states, video_states):
        def energies(question_states, video_states):
            fused, _ = nnx.merge(graphdef, params, copy=True)(
                *concatenate_valid(question_states, question[1], video_states, video[1])
            )
            return jnp.square(fused[0]).sum(axis=-1)

        return jax.jacobian(energies, argnums=(0, 1))(question_states, video_states)

    for jacobian in reach(question[0], video[0]):
        assert (jnp.abs(jacobian).max(axis=-1) > 0).all()


def test_no_fusion_keeps_random_state(fusion):
    assert not jax.tree.leaves(nnx.state(fusion, nnx.RngState))


def test_a_fusion_of_the_video_alone_does_not_see_its_padding(fusion):
    video, mask = random_part(1, [2, 5, 3])
    shown = np.asarray(mask)[..., None]
    fused = jit(lambda fusion, video: fusion(video, mask)[0])
    noisy, clean = (fused(fusion, each) for each in (video, video * shown))
    assert_close(noisy * shown, clean * shown)
