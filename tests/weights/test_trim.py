"""Trimmed mBART: the same function and the same segmentation on the texts that are kept."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
from safetensors.numpy import load_file, save_file
from transformers import MBartForConditionalGeneration, MBartTokenizer

from sslssaw_jax.data.clips import ClipSource
from sslssaw_jax.data.dataset import find_dataset, write_dataset_facts
from sslssaw_jax.data.fitting import trimmed_for_others
from sslssaw_jax.data.mbart_tokenizer import (
    LANGUAGES,
    LANGUAGES_50,
    MODEL_FILE,
    load_tokenizer,
    train_tokenizer,
    write_tokenizer,
)
from sslssaw_jax.data.text import clean_question
from sslssaw_jax.errors import UserError
from sslssaw_jax.weights import trim as module
from sslssaw_jax.weights.__main__ import main
from sslssaw_jax.weights.initial_state import WeightsError
from sslssaw_jax.weights.trim import count_unknowns, read_texts, trim
from sslssaw_jax.workdir import read_jsonl, write_jsonl
from tests.support.annotations import ANNOTATIONS, requires_phoenix, requires_tokenizer
from tests.support.mbart_reference import CONFIG, random_hugging_face, relative_error
from tests.support.pytorch import torch
from tests.support.tiny_dataset import FACTS

CORPUS = [
    "tomorrow it will rain in the north",
    "the sun shines in the south",
    "when will it snow in the east?",
    "at night it stays cold and foggy",
    "a warm wind comes from the west",
] * 3
KEPT = CORPUS[:2]


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole mBART with random weights."""
    folder = tmp_path_factory.mktemp("full") / "mbart"
    train_tokenizer(CORPUS, folder, vocab_size=70)
    theirs = random_hugging_face(6, CONFIG, load_tokenizer(folder, "en_XX").vocab_size)
    theirs.config.decoder_start_token_id = load_tokenizer(folder, "en_XX").language_id
    theirs.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def trimmed(full: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trimmed") / "mbart"
    trim(full, {"train": {"target": KEPT}}, {}, out)
    return out


def kept_rows(full: Path, trimmed: Path) -> list[int]:
    """The full model's id of each remaining token, found by name."""
    before, after = (load_tokenizer(folder, "en_XX") for folder in (full, trimmed))
    names = before.pieces(range(before.vocab_size))
    return [names.index(piece) for piece in after.pieces(range(after.vocab_size))]


def test_logits_in_pytorch_equal_the_full_models_on_the_kept_tokens(full: Path, trimmed: Path) -> None:
    kept = kept_rows(full, trimmed)
    before, after = (
        MBartForConditionalGeneration.from_pretrained(folder).eval() for folder in (full, trimmed)
    )
    assert 30 < len(kept) == after.config.vocab_size < before.config.vocab_size
    rng = np.random.default_rng(0)
    source, target = rng.integers(0, len(kept), (2, 3, 8))
    with torch.no_grad():
        expected = before(
            input_ids=torch.tensor(np.array(kept)[source]),
            decoder_input_ids=torch.tensor(np.array(kept)[target]),
        ).logits[..., kept]
        logits = after(input_ids=torch.tensor(source), decoder_input_ids=torch.tensor(target)).logits
    assert relative_error(logits, expected) < 1e-6


def test_kept_texts_keep_their_pieces_and_others_can_still_be_spelled(full: Path, trimmed: Path) -> None:
    before, after = (load_tokenizer(folder, "en_XX") for folder in (full, trimmed))
    for text in KEPT:
        ids = after.encode(text, 64)
        assert after.pieces(ids) == before.pieces(before.encode(text, 64))
        assert after.decode(ids) == text
    other = "no rain this month"  # other words with the same letters
    assert after.unk_id not in after.encode(other, 64)
    assert after.decode(after.encode(other, 64)) == other


def test_specials_codes_and_their_ids_in_the_configuration_stay(full: Path, trimmed: Path) -> None:
    after = load_tokenizer(trimmed, "en_XX")
    config = json.loads((trimmed / "config.json").read_text())
    assert config["decoder_start_token_id"] == after.language_id
    assert config["vocab_size"] == after.vocab_size
    assert (config["pad_token_id"], config["eos_token_id"]) == (after.pad_id, after.eos_id)
    assert after.pieces(range(after.vocab_size - len(LANGUAGES) - 1, after.vocab_size)) == [
        *LANGUAGES,
        "<mask>",
    ]
    theirs = MBartTokenizer.from_pretrained(trimmed, src_lang="en_XX")
    assert theirs(KEPT[0]).input_ids == after.encode(KEPT[0], 64)


def test_untied_tables_are_all_trimmed(full: Path, trimmed: Path, tmp_path: Path) -> None:
    tensors, config = load_file(full / "model.safetensors"), json.loads((full / "config.json").read_text())
    head = tensors["lm_head.weight"] = tensors["model.shared.weight"] + 1
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    (tmp_path / MODEL_FILE).write_bytes((full / MODEL_FILE).read_bytes())
    trim(tmp_path, {"train": {"target": KEPT}}, {}, tmp_path / "out")
    after = load_file(tmp_path / "out" / "model.safetensors")
    np.testing.assert_array_equal(after["lm_head.weight"], head[kept_rows(full, trimmed)])


def test_unknown_tokens_are_counted(trimmed: Path) -> None:
    processor = sentencepiece.SentencePieceProcessor(model_file=str(trimmed / MODEL_FILE))
    counts = count_unknowns(processor, [KEPT[0], "q", "the q", ""])
    assert (counts.texts, counts.texts_with_unknown, counts.unknown_tokens) == (4, 2, 2)
    assert count_unknowns(processor, KEPT).unknown_tokens == 0


def test_the_command_keeps_the_train_split_and_reports_every_split(
    tmp_path: Path, tiny_data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ignored = shutil.ignore_patterns("*.array_record*")
    prepared = shutil.copytree(tiny_data_dir, tmp_path / "data", ignore=ignored) / "avatar_qa" / "1.0.0"
    of_test = read_jsonl(prepared / "clips.test.jsonl")
    of_test[0]["target"] = "jazz"  # letters that train lacks
    write_jsonl(prepared / "clips.test.jsonl", of_test)
    texts = read_texts(prepared / "clips.train.jsonl", glosses=True)
    model = tmp_path / "mbart"
    everything = [text for kind in texts.values() for text in kind] + [*CORPUS, "jazz"]
    train_tokenizer(everything, model, vocab_size=80)
    random_hugging_face(7, CONFIG, load_tokenizer(model, "en_XX").vocab_size).save_pretrained(model)

    arguments = ["trim", f"--model={model}", f"--data_dir={tmp_path / 'data'}", "--dataset=avatar_qa"]
    main([*arguments, f"--out={tmp_path / 'plain'}"])
    report = capsys.readouterr().out
    for kind in ("train target", "train question"):
        assert any(
            line.startswith(kind) and " 0 (0.00%)" in line and " 0 of 24" in line
            for line in report.splitlines()
        )
    assert all(split in report for split in ("dev target", "test question"))
    assert "1 of 6" in next(line for line in report.splitlines() if line.startswith("test target"))
    main([*arguments, "--glosses", f"--out={tmp_path / 'glosses'}"])
    plain, glosses = (load_tokenizer(tmp_path / name, "en_XX") for name in ("plain", "glosses"))
    assert glosses.unk_id not in glosses.encode(texts["gloss"][0], 64)
    assert plain.unk_id in plain.encode(texts["gloss"][0], 64)
    assert texts["question"][0] == clean_question(texts["question"][0])

    (tmp_path / "a.txt").write_text("rain\n\nsnow\n")
    main(["trim", f"--model={model}", "--texts", str(tmp_path / "a.txt"), f"--out={tmp_path / 'texts'}"])
    assert "0 of 2" in capsys.readouterr().out

    def told(folder: str) -> str:
        clips = ClipSource(find_dataset(tmp_path / "data", "avatar_qa"), "train")
        return trimmed_for_others(clips, load_tokenizer(tmp_path / folder, "en_XX"))

    assert told("plain") == told("glosses") == ""
    of_train = read_jsonl(prepared / "clips.train.jsonl")
    write_jsonl(prepared / "clips.train.jsonl", [row | {"num_frames": 1} for row in of_train[::-1]])
    assert not told("plain"), "the frames or the order of clips change no token"
    write_jsonl(prepared / "clips.train.jsonl", [*of_train, of_train[0] | {"target": "jazz"}])
    assert "plain was trimmed for other texts (avatar_qa) than " in told("plain")
    assert not told("texts"), "which texts those were is unknown"


@pytest.mark.parametrize(
    ("removed", "told"),
    [("config.json", "holds no config.json"), (MODEL_FILE, rf"holds no {MODEL_FILE}"),
     ("model.safetensors", "holds no weights")],
)  # fmt: skip
def test_a_model_that_is_not_whole_is_refused_and_nothing_is_written(
    full: Path, tmp_path: Path, removed: str, told: str
) -> None:
    model = tmp_path / "mbart"
    model.mkdir()
    for file in full.iterdir():
        if file.name != removed:
            (model / file.name).symlink_to(file)
    with pytest.raises(WeightsError, match=told):
        trim(model, {"train": {"target": KEPT}}, {}, tmp_path / "out")
    assert list(tmp_path.iterdir()) == [model]


def test_a_text_that_would_be_segmented_otherwise_is_refused_and_nothing_is_written(
    full: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept_pieces = module._kept_pieces

    def without_the_longest(full: sentencepiece.SentencePieceProcessor, *others: Any) -> list[int]:
        kept = kept_pieces(full, *others)
        return [
            piece
            for piece in kept
            if piece != max(full.encode(KEPT[1]), key=lambda p: len(full.id_to_piece(p)))
        ]

    monkeypatch.setattr(module, "_kept_pieces", without_the_longest)
    with pytest.raises(WeightsError, match=f"failed its own check for the text '{KEPT[1]}'"):
        trim(full, {"train": {"target": KEPT[1:]}}, {}, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_mbart_50_keeps_its_52_codes(full: Path, tmp_path: Path) -> None:
    model = tmp_path / "mbart50"
    shutil.copytree(full, model)
    config, tensors = json.loads((model / "config.json").read_text()), load_file(model / "model.safetensors")
    config["vocab_size"] += 27
    (model / "config.json").write_text(json.dumps(config))
    for name, axis in {"model.shared.weight": 0, "final_logits_bias": 1}.items():
        more = np.take(tensors[name], range(27), axis)
        tensors[name] = np.concatenate([tensors[name], more], axis)
    save_file(tensors, model / "model.safetensors")
    with pytest.raises(WeightsError, match=r"'th_TH', only ar_AR.*mbart-large-50"):
        trim(full, {"train": {"target": KEPT}}, {}, tmp_path / "out", "th_TH")
    trim(model, {"train": {"target": KEPT}}, {}, tmp_path / "out", "th_TH")
    tokenizer = load_tokenizer(tmp_path / "out", "th_TH")
    assert tokenizer.languages == LANGUAGES_50
    kept = load_file(tmp_path / "out" / "model.safetensors")["model.shared.weight"]
    assert len(kept) == tokenizer.vocab_size
    before = load_tokenizer(model, "th_TH")
    np.testing.assert_array_equal(
        kept[tokenizer.language_id], tensors["model.shared.weight"][before.language_id]
    )


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"version https://git-lfs.github.com/spec/v1", "it is a Git LFS pointer"),
        (b"<html>", "it is a web page"),
        ("es regnet".encode("utf-16"), "it is UTF-16"),
        ("für".encode("latin-1"), "it is not UTF-8"),
    ],
)
@pytest.mark.parametrize("name", ["texts.txt", "clips.jsonl"])
def test_texts_that_are_something_else_are_named(
    tmp_path: Path, content: bytes, told: str, name: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"{name}.*: {told}"):
        read_texts(tmp_path / name)


def test_a_line_separator_within_a_text_ends_no_line(tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("es\u2028regnet\x85\nheute\n", encoding="utf-8")
    assert read_texts(tmp_path / "texts.txt") == {"text": ["es\u2028regnet\x85", "heute"]}


def test_mistakes_at_the_command_line_are_one_message(full: Path, tmp_path: Path) -> None:
    def answer(*arguments: str) -> str:
        with pytest.raises(SystemExit) as ended:
            main(["trim", *arguments])
        return str(ended.value.code)

    text = tmp_path / "a.txt"
    text.write_text("rain\n")
    out = f"--out={tmp_path / 'out'}"
    own = tmp_path / "custom_qa" / "1.0.0"
    write_jsonl(own / "clips.test.jsonl", [])
    write_dataset_facts(own, **FACTS)
    assert "but no train split" in answer("--model=x", "--dataset=custom_qa", f"--data_dir={tmp_path}", out)
    assert "no dataset y: there are avatar_qa" in answer(
        "--model=x", "--dataset=y", f"--data_dir={tmp_path}", out
    )
    assert "there is no" in answer("--model=x", "--texts", str(tmp_path / "b.txt"), out)
    assert "facebook/mbart-large-cc25" in answer("--model=./x", "--texts", str(text), out)
    (tmp_path / "b.jsonl").write_text('{"target": "rain"}\n')
    assert "one clip per line" in answer(f"--model={full}", "--texts", str(tmp_path / "b.jsonl"), out)
    assert "exists" in answer(f"--model={full}", "--texts", str(text), f"--out={full}")
    text.write_text("\n")
    assert "no text" in answer(f"--model={full}", "--texts", str(text), out)
    assert not (tmp_path / "out").exists()


@requires_tokenizer
@requires_phoenix
def test_trimmed_to_real_texts_all_real_sentences_keep_sentencepieces_ids(tmp_path: Path) -> None:
    """mBART's real pieces, trimmed further to the first half of the train split."""
    model = tmp_path / "mbart"
    model.mkdir()
    write_tokenizer(model, (ANNOTATIONS / "tokenizer" / MODEL_FILE).read_bytes())
    before = load_tokenizer(model, "de_DE")
    random_hugging_face(8, CONFIG, before.vocab_size).save_pretrained(model)
    rows = [row.split("%") for split in ("train", "dev", "test") for row in phoenix_rows(split)]
    targets = [row[0].split(" ", 1)[1] for row in rows]
    assert len(targets) == 8257
    half = {
        "target": [text for text in targets[:3500] if before.unk_id not in before.encode(text, 10_000)],
        "question": [
            text
            for text in (clean_question(row[1]) for row in rows[:3500])
            if before.unk_id not in before.encode(text, 10_000)
        ],
    }
    report = trim(model, {"train": half}, {"train": half}, tmp_path / "out")
    assert report.count(" 0 (0.00%)") == 2
    after = load_tokenizer(tmp_path / "out", "de_DE")
    assert 1000 < after.vocab_size < before.vocab_size
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "out" / MODEL_FILE))
    known = 0
    for text in targets:
        ids = after.encode(text, 10_000)
        expected = [piece + 1 if piece else after.unk_id for piece in pieces.encode(text)]
        assert ids == [*expected, after.eos_id, after.language_id]
        if after.unk_id not in ids:
            known += 1
            assert after.decode(ids) == text
    assert known > 7500


def phoenix_rows(split: str) -> list[str]:
    file = ANNOTATIONS / "phoenix2014t_qa" / f"{split}.txt"
    return file.read_text(encoding="utf-8").splitlines()
