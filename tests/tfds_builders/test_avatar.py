"""Properties of the rendered signer."""

import dataclasses
import subprocess
import sys
import zlib

import numpy as np
import pytest

from tfds_builders.avatar import JOINTS, Signer, distinct_signs, joints, render, sheet, sign_of
from tfds_builders.avatar.arms import BONE, HAND_DEPTH, elbow
from tfds_builders.avatar.motion import REST_HAND, Pose, poses
from tfds_builders.avatar_qa.grammar import LEXICON, SIGNERS
from tfds_builders.avatar_qa.vocabulary import GLOSSES

SIZE = (48, 48)


def _pose(gloss: str, signer: str, num_frames: int = 28, seed: int = 0) -> Pose:
    return poses([LEXICON[gloss]], num_frames, Signer.of(signer), np.random.default_rng(seed))


def _trajectory(gloss: str, signer: str, seed: int) -> np.ndarray:
    pose = _pose(gloss, signer, seed=seed)
    return np.concatenate([array.reshape(len(array), -1) for array in pose], axis=1).ravel()


def test_one_gloss_by_two_signers_is_nearer_than_any_other_gloss():
    first = np.stack([_trajectory(gloss, SIGNERS[0], seed=1) for gloss in GLOSSES])
    second = np.stack([_trajectory(gloss, SIGNERS[5], seed=2) for gloss in GLOSSES])
    distance = np.linalg.norm(first[:, None] - second[None], axis=-1)
    np.testing.assert_array_equal(distance.argmin(axis=1), np.arange(len(GLOSSES)))


def test_the_demo_has_no_two_signs_alike():
    by_hash = {gloss: sign_of(gloss) for gloss in GLOSSES}

    def smallest_difference(signs):
        fields = np.array([list(vars(sign).values()) for sign in signs.values()])
        differing = (fields[:, None] != fields[None]).sum(axis=-1)
        return (differing + 99 * np.eye(len(fields), dtype=int)).min()

    assert smallest_difference(LEXICON) >= 3 > smallest_difference(by_hash)


def test_a_sign_of_the_lexicon_does_not_depend_on_later_glosses():
    assert distinct_signs(GLOSSES[:10]) == {gloss: LEXICON[gloss] for gloss in GLOSSES[:10]}


def test_a_sheet_that_cannot_be_written_is_refused_before_it_is_drawn(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sheet, "contact_sheet", lambda: pytest.fail("drawn"))
    with pytest.raises(SystemExit):
        sheet.main([f"--out={tmp_path / 'avatar.txt'}"])
    assert "avatar.txt must end in .png" in capsys.readouterr().err


def test_every_process_renders_the_same_clip():
    code = (
        "import zlib; from tfds_builders.avatar import render;"
        "print(zlib.crc32(render(['REGEN', 'ÜBER'], 9, signer='Signer01', size=(48, 48), seed=5).tobytes()))"
    )
    # Another hash seed than this process's: nothing may depend on `hash`.
    other = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONHASHSEED": "123", "PYTHONPATH": "."},
        capture_output=True,
        text=True,
        check=True,
    )
    here = render(["REGEN", "ÜBER"], 9, signer="Signer01", size=SIZE, seed=5)
    assert int(other.stdout) == zlib.crc32(here.tobytes())


def test_hands_rest_at_both_ends_and_not_between():
    for gloss in GLOSSES:
        hand_Tx2 = _pose(gloss, SIGNERS[1]).hand[:, 0]
        from_rest = np.linalg.norm(hand_Tx2 - REST_HAND, axis=-1)
        assert from_rest[0] < 0.05 and from_rest[-1] < 0.05
        assert from_rest[14] > 0.2


def test_hands_move_without_jumps():
    """With twice the frames, about half the distance from frame to frame."""
    signs = [LEXICON[gloss] for gloss in GLOSSES]

    def longest_step(num_frames):
        pose = poses(signs, num_frames, Signer.of(0), np.random.default_rng(0))
        return np.linalg.norm(np.diff(pose.hand, axis=0), axis=-1).max()

    assert longest_step(59 * 40) < 0.6 * longest_step(59 * 10)


def test_elbow_keeps_both_bones_within_their_length():
    rng = np.random.default_rng(0)
    shoulder = np.array([-0.4, 0.96])
    wrist = shoulder + rng.uniform(-0.6, 0.6, (200, 2))
    joint = elbow(shoulder, wrist, side=0)
    # Seen from the front a bone can only look shorter than it is.
    assert np.linalg.norm(joint - shoulder, axis=-1).max() <= BONE + 1e-9
    assert np.linalg.norm(joint - wrist, axis=-1).max() <= BONE + 1e-9
    assert np.hypot(0.6, HAND_DEPTH) < 2 * BONE


def test_joints_are_where_the_picture_shows_them():
    person = dataclasses.replace(Signer.of(SIGNERS[2]), noise=0.0)
    take = {"signer": person, "size": (260, 210), "seed": 3, "lexicon": LEXICON}
    clip, places = render(["RAIN", "NORTH"], 24, **take), joints(["RAIN", "NORTH"], 24, **take)
    assert places.shape == (24, len(JOINTS), 2)
    column_row_TxKx2 = (places * (210, 260)).astype(int)

    def colours(name):
        x, y = column_row_TxKx2[:, JOINTS.index(name)].T
        inside = (x < 210) & (y < 260)
        return clip[inside, y[inside], x[inside]].astype(int)

    # knuckles and outstretched tips of the hand in front are skin; a rest shows the eyes
    for number in (5, 9, 13, 17):
        assert np.abs(colours(f"right_hand_{number}") - person.skin).max() < 15
    for side in ("left", "right"):
        assert np.abs(colours(f"{side}_eye")[0] - (44, 34, 34)).max() < 40
    left, right = (places[:, JOINTS.index(f"{side}_shoulder"), 0] for side in ("left", "right"))
    assert (left > right).all(), "left is the signer's"
    assert (places[:, JOINTS.index("face_62"), 1] < places[:, JOINTS.index("face_66"), 1]).all()


def test_signers_look_different_and_takes_differ_a_little():
    def first_frame(signer, seed):
        return render([], 1, signer=signer, size=SIZE, seed=seed)[0].astype(float)

    people = [first_frame(signer, 0) for signer in SIGNERS]
    take = np.abs(first_frame(SIGNERS[0], 1) - people[0]).mean()
    between = [np.abs(a - b).mean() for i, a in enumerate(people) for b in people[:i]]
    assert 0 < take < min(between)


def test_a_number_and_its_text_name_one_signer():
    assert Signer.of(3) == Signer.of("3") != Signer.of("4")


@pytest.mark.parametrize("num_frames", [1, 2, 500])
@pytest.mark.parametrize("num_glosses", [0, 1, 40])
def test_any_length_gives_a_full_clip(num_frames, num_glosses):
    glosses = [f"GLOSS{i}" for i in range(num_glosses)]
    clip = render(glosses, num_frames, signer="x", size=(52, 42), seed=0)
    assert clip.shape == (num_frames, 52, 42, 3) and clip.dtype == np.uint8
    assert clip.std(axis=(1, 2)).min() > 10  # somebody is in every frame


def test_every_fourth_frame_is_that_of_the_whole_clip():
    take = {"signer": "x", "size": SIZE, "seed": 0}
    for draw in (render, joints):
        whole, quarter = (draw(["REGEN", "ÜBER"], 30, **take, every=every) for every in (1, 4))
        np.testing.assert_array_equal(quarter, whole[::4])


def test_a_clip_of_no_frames_is_refused():
    with pytest.raises(ValueError, match="0 frames"):
        render(["RAIN"], 0, signer=0, size=SIZE, seed=0)
