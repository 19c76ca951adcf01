import dataclasses

import numpy as np
import pytest

from sslssaw_jax.config.data import DataConfig
from sslssaw_jax.config.stages import StageConfig
from sslssaw_jax.data.batches import train_batches
from sslssaw_jax.data.glosses import GlossVocabulary
from sslssaw_jax.data.mbart_tokenizer import load_tokenizer
from sslssaw_jax.data.sign_bank import (
    SIGN_BANK,
    BankSource,
    Sentences,
    SignBank,
    cut_glosses,
    keep_bank,
    keep_glosses,
    read_sentences,
)
from sslssaw_jax.workdir import DamagedFileError

GLOSSES = GlossVocabulary(("RAIN", "NORTH", "SUN"))
RAIN, NORTH = GLOSSES.encode("RAIN NORTH")
BANK = SignBank(
    positions=np.arange(24, dtype=np.float16).reshape(12, 2),
    clips=np.array([[0, 5], [5, 0], [5, 7]]),
    pieces=np.array([[RAIN, 0, 2], [RAIN, 5, 3], [RAIN, 8, 1], [NORTH, 2, 3], [NORTH, 9, 3]]),
)
WRITTEN = [
    ("rain in the north", "RAIN NORTH"),
    ("sun, then rain", "SUN RAIN"),  # the bank has no SUN
    ("sun", "SUN"),
    ("north, north and north", "NORTH NORTH NORTH"),
    ("hail in the north", "HAIL NORTH"),
]


def source(ratio: float = 2.0) -> BankSource:
    real = Sentences(["first", "known by its text alone", "third"], "train")
    real.dataset = None
    return BankSource(real, BANK, 4, WRITTEN, GLOSSES, ratio)


@pytest.mark.parametrize(
    ("path", "pieces"),
    [
        ([0, 0, 1, 2], [(0, 0, 2), (1, 2, 1), (2, 3, 1)]),
        ([-1, -1, 0, -1], [(0, 0, 4)]),
        ([0, -1, -1, 1], [(0, 0, 2), (1, 2, 2)]),
        ([0, -1, -1, -1, 1], [(0, 0, 3), (1, 3, 2)]),  # the middle belongs to the earlier
        ([-1, 0, 0, -1, 1, -1, 2, 2, -1], [(0, 0, 4), (1, 4, 2), (2, 6, 3)]),
    ],
)
def test_a_blank_belongs_to_the_nearer_gloss(path, pieces) -> None:
    assert cut_glosses(np.array(path)) == pieces


def test_a_bank_is_read_back_and_a_damaged_one_is_named(tmp_path) -> None:
    BANK.save(tmp_path)
    loaded = SignBank.load(tmp_path)
    for name in ("positions", "clips", "pieces"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(BANK, name))
    (tmp_path / SIGN_BANK).write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(DamagedFileError, match=r"sign_bank\.npz is damaged .* delete it"):
        SignBank.load(tmp_path)


def test_a_process_that_writes_no_files_needs_none(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("sslssaw_jax.workdir.is_first_process", lambda: False)
    assert keep_bank(tmp_path, lambda: BANK, begun=False) is BANK
    texts, glosses = zip(*WRITTEN)
    assert keep_glosses(tmp_path, texts, lambda: glosses, begun=False) == WRITTEN
    assert not list(tmp_path.iterdir())


def test_what_a_run_kept_before_it_began_is_made_anew(tmp_path) -> None:
    texts, glosses = zip(*WRITTEN)
    keep_bank(tmp_path, lambda: BANK, begun=False)
    keep_glosses(tmp_path, texts, lambda: glosses, begun=False)
    other = dataclasses.replace(BANK, positions=BANK.positions + 1)
    for begun, bank, written in ((True, BANK, WRITTEN), (False, other, [("snow", "SNOW")])):
        found = keep_bank(tmp_path, lambda: other, begun=begun)
        np.testing.assert_array_equal(found.positions, bank.positions)
        assert keep_glosses(tmp_path, ["snow"], lambda: ["SNOW"], begun=begun) == written


def test_glosses_without_a_piece_are_dropped_and_sentences_without_glosses_left_out() -> None:
    spliced = source().clips[3:]
    assert [(clip.target, clip.gloss) for clip in spliced] == [
        ("rain in the north", "RAIN NORTH"),
        ("sun, then rain", "RAIN"),
        ("north, north and north", "NORTH NORTH NORTH"),
        ("hail in the north", "NORTH"),
    ]


def test_an_epoch_has_the_clips_with_video_and_other_sentences_each_time() -> None:
    drawn = [source(ratio=1.0).of_epoch(48, seed=0, epoch=epoch)[0].tolist() for epoch in range(8)]
    assert all(index[:2] == [0, 2] and len(set(index[2:])) == 2 for index in drawn)
    assert len({tuple(index) for index in drawn}) > 2
    assert len(source(ratio=9.0).of_epoch(48, 0, 0)[0]) == 2 + 4, "no sentence comes twice"
    assert source(ratio=0.0).of_epoch(32, 0, 0)[0].tolist() == [0, 2]


def test_a_splice_too_long_for_a_batch_is_left_out() -> None:
    index, lengths = source().of_epoch(20, seed=0, epoch=0)  # 5 positions
    assert lengths[2:].max() <= 5
    assert 3 + 2 not in index, "three times NORTH has 9"


def test_batches_hold_the_pieces_that_the_plan_counted_wherever_they_begin(tiny_data_dir) -> None:
    folder = tiny_data_dir / "avatar_qa" / "1.0.0" / "tokenizer"
    stage = StageConfig(epochs=4, clips_per_batch=3, frame_budget=24)
    data = DataConfig(max_frames=48, num_threads=1, max_glosses=3, max_target_tokens=12)

    def batches():
        tokenizer = load_tokenizer(folder, "en_XX")
        return train_batches(source(), tokenizer, data, stage, seed=3, glosses=GLOSSES)

    pieces = {tuple(row[1:]) for row in BANK.pieces.tolist()}
    seen, splices = list(batches()), set()
    for batch in seen:
        rows = batch.features[0]
        for place in np.flatnonzero(batch.valid):
            numbers = rows.values[rows.start[place] :][: rows.count[place], 0].astype(int) // 2
            if batch.index[place] == 3:
                two = [
                    (a, b)
                    for a, b in ((len(numbers) - n, n) for n in range(1, len(numbers)))
                    if (numbers[0], a) in pieces and (numbers[a], b) in pieces
                ]
                assert two, f"{numbers} are not two pieces"
                splices.add(tuple(numbers.tolist()))
                np.testing.assert_array_equal(batch.gloss[place][:2], [RAIN, NORTH])
            elif batch.index[place] < 3:
                first, count = BANK.clips[batch.index[place]]
                np.testing.assert_array_equal(numbers, np.arange(first, first + count))
    assert len(splices) > 1, "each epoch draws its own pieces"
    for start in (1, len(seen) - 2):  # a run that continues
        for batch, same in zip(batches().iterator(start), seen[start:], strict=True):
            for one, other in (
                (batch.index, same.index),
                (batch.features[0].values, same.features[0].values),
            ):
                np.testing.assert_array_equal(one, other)


def test_sentences_are_the_lines_of_a_text_file(tmp_path) -> None:
    file = tmp_path / "sentences.txt"
    file.write_text("heute regen \n\n am nachmittag sonne\n", encoding="utf-8")
    assert read_sentences(str(file)) == ["heute regen", "am nachmittag sonne"]
    with pytest.raises(
        DamagedFileError, match=r"there is no .*none\.txt, which config\.model\.sentences names"
    ):
        read_sentences(str(tmp_path / "none.txt"))
