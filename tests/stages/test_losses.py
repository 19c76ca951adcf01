from itertools import groupby, product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sslssaw_jax.stages.alignment import aligned_cosine
from sslssaw_jax.stages.losses import contrastive_loss, cross_entropy, ctc_loss, similarity_loss

jitted_cross_entropy = jax.jit(cross_entropy)


@jax.jit
def jitted_contrastive_loss(video, text, logit_scale, valid):
    """With a vector for each clip and each sentence."""
    one = valid[:, None]
    cosine = aligned_cosine(video[:, None], one, text[:, None], one)
    return contrastive_loss(cosine, logit_scale, valid, valid.sum())


RNG = np.random.default_rng(0)
SCALE = jnp.log(1 / 0.07)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_cross_entropy_equals_torch(label_smoothing):
    torch = pytest.importorskip("torch")
    logits = RNG.normal(size=(3, 5, 7)).astype(np.float32) * 3
    labels = RNG.integers(0, 7, (3, 5))
    mask = RNG.random((3, 5)) < 0.6
    expected = torch.nn.CrossEntropyLoss(label_smoothing=label_smoothing, ignore_index=-100)(
        torch.tensor(logits).flatten(0, 1), torch.tensor(np.where(mask, labels, -100)).flatten()
    )
    loss = jitted_cross_entropy(logits, np.where(mask, labels, -100), mask, mask.sum(), label_smoothing)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_cross_entropy_of_an_empty_mask_is_zero_with_finite_gradient():
    logits = jnp.ones((2, 3, 4))
    labels, mask = jnp.zeros((2, 3), int), jnp.zeros((2, 3), bool)
    loss, gradient = jax.jit(jax.value_and_grad(cross_entropy))(logits, labels, mask, mask.sum())
    assert loss == 0
    np.testing.assert_array_equal(gradient, 0)


def test_contrast_of_the_valid_clips_equals_clip_on_them_alone():
    torch = pytest.importorskip("torch")
    video, text = RNG.normal(size=(2, 6, 8)).astype(np.float32)
    valid = np.array([True, False, True, True, False, True])
    normalise = torch.nn.functional.normalize
    logits = normalise(torch.tensor(video[valid])) @ normalise(torch.tensor(text[valid])).T / 0.07
    own = torch.arange(4)
    expected = (
        torch.nn.functional.cross_entropy(logits, own) + torch.nn.functional.cross_entropy(logits.T, own)
    ) / 2
    loss, metrics = jitted_contrastive_loss(video, text, SCALE, valid)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["video_to_text"], (logits.argmax(1) == own).float().mean())
    np.testing.assert_allclose(metrics["text_to_video"], (logits.argmax(0) == own).float().mean())


def test_retrieval_counts_the_clips_that_find_their_own_sentence():
    video = jnp.eye(4)
    text = video[jnp.array([0, 1, 3, 2])]  # the last two are exchanged
    _, metrics = jitted_contrastive_loss(video, text, SCALE, jnp.ones(4, bool))
    assert metrics["video_to_text"] == metrics["text_to_video"] == 0.5


@pytest.mark.parametrize("num_valid", [0, 1])
def test_contrast_is_zero_and_its_gradient_finite_without_a_pair_to_contrast(num_valid):
    valid = np.arange(3) < num_valid
    clips = np.where(valid[:, None], np.ones((3, 4), np.float32), 0)  # rows without a clip are all zeros
    gradient = jax.jit(jax.value_and_grad(jitted_contrastive_loss, argnums=(0, 1, 2), has_aux=True))
    (loss, metrics), gradients = gradient(clips, clips, SCALE, valid)
    assert loss == 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((metrics, gradients)))


def test_contrastive_scale_is_capped_as_in_clip():
    video, text = RNG.normal(size=(2, 4, 8)).astype(np.float32)
    valid = jnp.ones(4, bool)
    capped = jitted_contrastive_loss(video, text, jnp.float32(9.0), valid)[0]
    np.testing.assert_allclose(
        capped, jitted_contrastive_loss(video, text, jnp.log(100.0), valid)[0], rtol=1e-6
    )
    gradient = jax.grad(lambda scale, right: contrastive_loss(right * jnp.eye(4), scale, valid, 4)[0])
    assert gradient(4.0, 0.01) < 0 == gradient(9.0, 0.01)
    assert gradient(9.0, -0.01) > 0  # pairs are wrong: a scale beyond the cap finds its way back


def test_similarity_is_compared_over_the_pairs_of_valid_clips():
    clips, sentences = RNG.normal(size=(2, 4, 4)).astype(np.float32)
    valid = np.array([True, True, False, True])
    pairs = [(i, j) for i in (0, 1, 3) for j in (0, 1, 3) if i != j]
    expected = np.mean([(clips[pair] - sentences[pair]) ** 2 for pair in pairs])
    np.testing.assert_allclose(similarity_loss(clips, sentences, valid, 3), expected, rtol=1e-6)
    half = similarity_loss(clips, sentences, valid, 6)  # of two batches with three clips each
    np.testing.assert_allclose(half, expected / 2, rtol=1e-6)
    assert similarity_loss(clips, sentences, np.arange(4) < 1, 1) == 0


# of four clips, the third is one position too short for its repeated gloss; the fourth is not a clip
GLOSS = np.array([[2, 1, 0], [1, 0, 0], [2, 2, 0], [0, 0, 0]])
LENGTH = np.array([4, 3, 2, 0])
CTC_LOGITS = RNG.normal(size=(4, 5, 3)).astype(np.float32)
jitted_ctc_loss = jax.jit(ctc_loss, static_argnames="per_gloss")


def test_ctc_is_the_sum_over_all_paths_and_an_impossible_clip_costs_nothing():
    log_probs = np.asarray(jax.nn.log_softmax(CTC_LOGITS))
    losses = []
    for gloss, length, scores in zip(GLOSS[:2], LENGTH, log_probs):
        total = 0.0
        for path in product(range(3), repeat=length):
            if [one for one, _ in groupby(path) if one] == [one for one in gloss if one]:
                total += np.exp(scores[np.arange(length), path].sum())
        losses.append(-np.log(total))
    found = jitted_ctc_loss(CTC_LOGITS, LENGTH, GLOSS, GLOSS > 0, 3)
    np.testing.assert_allclose(found, sum(losses) / 3, rtol=1e-6)
    per_gloss = jitted_ctc_loss(CTC_LOGITS, LENGTH, GLOSS, GLOSS > 0, 3, per_gloss=True)
    np.testing.assert_allclose(per_gloss, (losses[0] / 2 + losses[1]) / 3, rtol=1e-6)
    parts = [jitted_ctc_loss(CTC_LOGITS[i::2], LENGTH[i::2], GLOSS[i::2], GLOSS[i::2] > 0, 3) for i in (0, 1)]
    np.testing.assert_allclose(sum(parts), found, rtol=1e-6)


def test_ctc_and_its_gradient_equal_torch():
    torch = pytest.importorskip("torch")
    logits = torch.tensor(CTC_LOGITS[:3], requires_grad=True)
    ctc = torch.nn.CTCLoss(zero_infinity=True, reduction="sum")
    lengths = torch.tensor(LENGTH[:3]), torch.tensor((GLOSS[:3] > 0).sum(axis=1))
    expected = ctc(logits.log_softmax(-1).transpose(0, 1), torch.tensor(GLOSS[:3]), *lengths) / 3
    expected.backward()
    found, gradient = jax.jit(jax.value_and_grad(ctc_loss))(CTC_LOGITS, LENGTH, GLOSS, GLOSS > 0, 3)
    np.testing.assert_allclose(found, expected.item(), rtol=1e-5)
    np.testing.assert_allclose(gradient[:3], logits.grad.numpy(), atol=1e-6)
    assert not gradient[2:].any()


def test_noise_behind_a_clip_and_its_glosses_changes_no_ctc_loss():
    noisy, gloss = CTC_LOGITS.copy(), np.pad(GLOSS, ((0, 0), (0, 1)), constant_values=2)
    for row, length in enumerate(LENGTH):
        noisy[row, length:] = 50
    mask = np.pad(GLOSS > 0, ((0, 0), (0, 1)))
    gloss = np.where(mask, gloss, 2)
    expected = ctc_loss(CTC_LOGITS, LENGTH, GLOSS, GLOSS > 0, 3)
    np.testing.assert_allclose(jitted_ctc_loss(noisy, LENGTH, gloss, mask, 3), expected, rtol=1e-6)
