import json
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import cv2
import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from sslssaw_jax import Answer, Translator
from sslssaw_jax.data.clips import ClipSource
from sslssaw_jax.data.dataset import DatasetFacts, find_dataset
from sslssaw_jax.data.mbart_tokenizer import TokenizerError, load_tokenizer, write_tokenizer
from sslssaw_jax.data.text import clean_question
from sslssaw_jax.errors import UserError
from sslssaw_jax.evaluation.predictions import read_predictions
from sslssaw_jax.evaluation.programs import Programs
from sslssaw_jax.evaluation.runner import Runner
from sslssaw_jax.evaluation.understanding import UNDERSTANDING
from sslssaw_jax.evaluator import Evaluator
from sslssaw_jax.inference.trained_model import ModelError, save_folder
from sslssaw_jax.inference.videos import VideoError, read_frames
from sslssaw_jax.systems import read_config
from sslssaw_jax.training.checkpoints import Checkpointer
from sslssaw_jax.training.sharding import make_mesh
from sslssaw_jax.weights.initial_state import WeightsError, variables
from sslssaw_jax.workdir import CHECKPOINTS, FINISHED, METRICS, TOKENIZER, read_json, read_notes, write_json
from tests.support.small_runs import make_run
from tests.support.tiny_dataset import FACTS, SIDE
from tests.support.toy import toy_state, toy_system, translate_stage

FRAMES = np.zeros((5, SIDE, SIDE, 3), np.uint8)
MBERT = {
    "model.text_encoder": "mbert",
    **{"model.mbert.d_model": 16, "model.mbert.ffn_dim": 24, "model.mbert.heads": 2},
    "model.mbert.num_layers": 1,
}


@pytest.fixture(scope="module")
def clips(tiny_data_dir: Path) -> ClipSource:
    return ClipSource(find_dataset(tiny_data_dir, "avatar_qa"), "test")


@pytest.fixture(scope="module")
def run(tiny_data_dir: Path, clips: ClipSource, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that translated its test split with its best state, and then saved a worse one."""
    workdir = tmp_path_factory.mktemp("runs") / "toy"
    config = make_run(workdir, tiny_data_dir)
    tokenizer = load_tokenizer(clips.dataset.tokenizer_folder, clips.dataset.language)
    stage = translate_stage(config, tokenizer.vocab_size)
    notes = read_notes(workdir)
    with Checkpointer(workdir / CHECKPOINTS) as checkpoints:
        checkpoints.add_scores(0, {"bleu4": 2.0})
        checkpoints.save(toy_state(stage, seed=1).replace(step=1), data={}, meta=notes)
        checkpoints.add_scores(1, {"bleu4": 1.0})
    runner = Runner(stage, config, tokenizer, make_mesh(config.mesh))
    Evaluator(Programs(runner, clips.dataset), workdir, notes).translate_test()
    return workdir


@pytest.fixture(scope="module")
def translator(run: Path) -> Translator:
    return Translator.from_pretrained(run)


@pytest.fixture(scope="module")
def folders(clips: ClipSource, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The test clips as folders of frames."""
    parent = tmp_path_factory.mktemp("clips")
    for clip in (clips[index] for index in range(len(clips))):
        (parent / clip.id).mkdir()
        for number, jpeg in enumerate(clip.video, start=1):
            (parent / clip.id / f"{number:04d}.jpg").write_bytes(jpeg)
    return sorted(parent.iterdir())


def as_array(folder: Path) -> np.ndarray:
    return np.stack([cv2.imread(str(file))[..., ::-1] for file in sorted(folder.iterdir())])


def assert_same(answer: Answer, expected: Answer) -> None:
    assert answer.text == expected.text
    assert answer.score == pytest.approx(expected.score, abs=1e-4)


def test_a_run_that_has_not_finished_says_so(run: Path, tmp_path: Path, capsys: Any) -> None:
    shutil.copytree(run, tmp_path / "run")
    Translator.from_pretrained(tmp_path / "run")
    assert f"{tmp_path / 'run'} has not finished its training" in capsys.readouterr().err
    (tmp_path / "run" / FINISHED).touch()
    Translator.from_pretrained(tmp_path / "run")
    assert "finished" not in capsys.readouterr().err


def test_a_finished_run_that_was_never_evaluated_says_so(run: Path, tmp_path: Path, capsys: Any) -> None:
    told = f"{tmp_path / 'run'} has not been evaluated"
    shutil.copytree(run, tmp_path / "run")
    Translator.from_pretrained(tmp_path / "run")
    assert told not in capsys.readouterr().err, "one message, of the training"
    (tmp_path / "run" / FINISHED).touch()
    Translator.from_pretrained(tmp_path / "run")
    assert told in capsys.readouterr().err
    write_json(tmp_path / "run" / METRICS, {"dev": {}})
    Translator.from_pretrained(tmp_path / "run")
    assert told not in capsys.readouterr().err


def test_the_best_checkpoint_translates(translator):
    model = translator.model
    jax.tree.map(np.testing.assert_array_equal, model.state.params, toy_state(model.stage).params)


def test_a_run_of_an_earlier_stage_is_refused_by_its_name(run: Path, translator, tmp_path: Path) -> None:
    shutil.copytree(run / TOKENIZER, tmp_path / TOKENIZER)
    with Checkpointer(tmp_path / CHECKPOINTS) as checkpoints:
        notes = read_notes(run) | {"stage": "pretrain"}
        checkpoints.save(toy_state(translator.model.stage), data={}, meta=notes)
    with pytest.raises(ModelError, match=r"run of the stage pretrain, .*: name the run of the stage trans"):
        Translator.from_pretrained(tmp_path)


@pytest.mark.slow
def test_the_same_clips_give_the_predictions_of_the_run(run, translator, folders):
    expected = read_predictions(run / "predictions.test.jsonl")
    answers = translator(folders, [row.question for row in expected])
    assert [answer.text for answer in answers] == [row.prediction for row in expected]
    assert [answer.score for answer in answers] == pytest.approx([row.score for row in expected], abs=1e-4)
    assert len({answer.text for answer in answers}) > 1, "if all sentences were alike, this would say little"
    assert [answer.question for answer in answers] == [row.question for row in expected]


def test_a_clip_alone_is_translated_as_among_others(translator, folders):
    among = translator(folders, "What comes today?")
    assert len({len(list(folder.iterdir())) > 12 for folder in folders}) == 2, "two sizes of batch"
    for folder, expected in zip(folders, among):
        assert_same(translator(str(folder), "What comes today?"), expected)


def test_an_array_is_translated_as_its_frames(translator, folders):
    assert_same(translator(as_array(folders[0]), "Why?"), translator(folders[0], "Why?"))


def test_one_clip_serves_all_questions(translator, folders):
    questions = ["What comes today?", "Where is the wind?"]
    answers = translator(folders[0], questions)
    assert [answer.question for answer in answers] == questions
    assert answers[0].score != answers[1].score
    for question, answer in zip(questions, answers):
        assert_same(answer, translator([folders[0]], question)[0])


def test_alternatives_are_other_sentences_in_order(translator, folders):
    answer = translator(folders[0], "What comes today?")
    texts = [answer.text, *(other.text for other in answer.alternatives)]
    scores = [answer.score, *(other.score for other in answer.alternatives)]
    assert len(texts) == len(set(texts)) == 4
    assert scores == sorted(scores, reverse=True)


def test_the_gate_has_a_weight_for_each_word_and_video_position(translator, folders):
    gate = translator(folders[0], "What comes today?").gate
    assert gate.tokens[-2:] == ["</s>", "en_XX"]
    assert len(gate.weights) > len(gate.tokens)


def test_what_the_texts_hang_on_is_drawn(translator, folders, tmp_path):
    clip, *_ = clips = translator.read(folders[0], ["What comes today?", "Where is fog?"])
    answers = translator.answer(clips, explain=True)
    words = [[part.word for part in answer.explanation.words] for answer in answers]
    assert words == [["what", "comes", "today"], ["where", "is", "fog"]]
    for answer in answers:
        assert answer.explanation.sentence == answer.text
        assert answer.explanation.stretches[-1].stop == pytest.approx(
            clip.num_frames / translator.model.facts.fps
        )
    translator.draw(clip, answers, tmp_path / "out.png")
    assert cv2.imread(str(tmp_path / "out.png")).size


def test_after_compiling_no_length_of_a_clip_compiles_again(tiny_data_dir, tmp_path):
    make_run(tmp_path / "run", tiny_data_dir)
    translator = Translator.from_pretrained(tmp_path / "run")
    translator.compile()
    compiled = {**translator._compiled}
    for num_frames in (1, 6, 7, 12, 13, 24, 30):
        translator(np.zeros((num_frames, SIDE, SIDE, 3), np.uint8))
    assert translator._compiled == compiled and len(compiled) == 3


def test_a_sentence_below_the_threshold_is_not_understood(translator, folders, monkeypatch):
    answer = translator(folders[0], "What comes today?")
    assert answer.understood, "without an evaluation the threshold is unknown"
    assert str(answer) == answer.text
    for threshold, understood in ((answer.score - 0.01, True), (answer.score + 0.01, False)):
        scores = {"dev": {UNDERSTANDING: {"threshold": threshold}}}
        monkeypatch.setattr(translator, "model", translator.model._replace(scores=scores))
        found = translator(folders[0], "What comes today?")
        assert found.understood == understood
    assert str(found) == f"not understood, did you mean: {answer.text}"
    [clip] = translator.read(folders[0])
    for shortest, understood in ((clip.num_frames, True), (clip.num_frames + 1, False)):
        scores = {"dev": {UNDERSTANDING: {"threshold": -1e9, "shortest": shortest}}}
        monkeypatch.setattr(translator, "model", translator.model._replace(scores=scores))
        assert translator(folders[0], "What comes today?").understood == understood


@pytest.mark.parametrize(
    ("video", "question", "message"),
    [
        (FRAMES, None, "the question None is not a text"),
        (FRAMES, [b"Why?"], "the question b'Why\\?' is not a text"),
        (b"an upload", "Why?", "not int: write what was uploaded to a file"),
        ([None], "Why?", "not NoneType: write"),
    ],
)
def test_what_is_no_video_or_no_question_is_one_clear_error(translator, video, question, message):
    with pytest.raises(VideoError, match=message):
        translator.read(video, question)


def test_videos_and_questions_of_other_numbers_are_refused(translator, folders):
    with pytest.raises(ValueError, match="3 videos and 2 questions"):
        translator(folders[:3], ["a", "b"])


def test_a_video_of_which_most_is_left_out_is_a_warning(translator):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for frames in (48, 49):
            translator.read(np.zeros((frames, SIDE, SIDE, 3), np.uint8))
    [warning] = [each for each in told if each.category is UserWarning]
    assert "has 49 frames, but the model reads at most 24: cut it" in str(warning.message)


def test_a_question_whose_end_is_ignored_is_a_warning(translator):
    video = np.zeros((1, SIDE, SIDE, 3), np.uint8)
    short, long = "What comes today?", f"What {'well ' * 22}comes today?"
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        clips = translator.read(video, [short, long, long])
    assert [clip.question for clip in clips] == [short, long, long], "nothing of it is lost on the way"
    [warning] = [each for each in told if each.category is UserWarning]
    needed = len(translator.model.tokenizer.encode(clean_question(long), 10_000))
    assert f"{long[:40]!r} has {needed} tokens, but the model reads 16: its end is" in str(warning.message)


def test_a_wide_array_is_cropped_as_preparation_crops_a_wide_picture(translator, tmp_path):
    video = np.random.default_rng(0).integers(0, 256, (3, 60, 90, 3), np.uint8)
    for number, frame in enumerate(video):
        cv2.imwrite(str(tmp_path / f"{number}.png"), frame[..., ::-1])
    frames = read_frames(video, translator.model.facts)
    assert frames == read_frames(tmp_path, translator.model.facts)
    assert cv2.imdecode(np.frombuffer(frames[0], np.uint8), cv2.IMREAD_COLOR).shape == (SIDE, SIDE, 3)


def test_a_video_file_is_read_at_the_rate_of_the_models_training(tmp_path):
    writer = cv2.VideoWriter(str(tmp_path / "a.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 25, (SIDE, SIDE))
    for shade in range(0, 250, 10):
        writer.write(np.full((SIDE, SIDE, 3), shade, np.uint8))
    writer.release()
    facts = DatasetFacts(**FACTS | {"fps": 5.0, "fingerprint": ""})
    frames = [
        cv2.imdecode(np.frombuffer(frame, np.uint8), 0) for frame in read_frames(tmp_path / "a.avi", facts)
    ]
    assert np.diff([frame.mean() for frame in frames]) == pytest.approx([50] * 4, abs=3), "every fifth frame"


def test_frames_of_a_size_that_the_model_does_not_know_are_refused():
    """Nothing resizes the frames of a model that was trained on frames as they came."""
    facts = DatasetFacts(**FACTS | {"resize": "none", "fingerprint": ""})
    assert len(read_frames(np.zeros((2, SIDE, SIDE, 3), np.uint8), facts)) == 2
    with pytest.raises(
        VideoError, match=rf"frames of \(60, 40\) pixels .* on \({SIDE}, {SIDE}\), .*resize=none"
    ):
        read_frames(np.zeros((2, 60, 40, 3), np.uint8), facts)


def test_frames_that_cannot_be_read_are_counted_and_named(translator, folders, tmp_path):
    shutil.copytree(folders[0], tmp_path / "clip")
    files = sorted((tmp_path / "clip").iterdir())
    for file in files[1:3]:
        file.write_text("a letter")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        [clip] = translator.read(tmp_path / "clip")
    [warning] = [each for each in told if each.category is UserWarning]
    dropped = f"2 of {len(files)}: {files[1].name}, {files[2].name}"
    assert str(warning.message).endswith(f"clip: frames unreadable, dropped: {dropped}")
    [whole] = translator.read(folders[0])
    assert list(clip.video) == [whole.video[0], *whole.video[3:]], "the others, in order"


@pytest.mark.parametrize(
    ("video", "message"),
    [
        ("absent.mp4", "there is no video .*absent.mp4"),
        ("text.mp4", "text.mp4 cannot be translated: no readable video"),
        ("empty", "empty cannot be translated: no frames"),
        (np.zeros((2, 8, 8, 3)), r"\[2, 8, 8, 3\] of float64 is not a video: give frames as uint8"),
        (np.zeros((0, 8, 8, 3), np.uint8), "is not a video"),
        (np.zeros((8, 8, 3), np.uint8), "is not a video"),
    ],
)
def test_what_is_no_video_is_refused(translator, tmp_path, video, message):
    (tmp_path / "text.mp4").write_text("a letter")
    (tmp_path / "empty").mkdir()
    with pytest.raises(VideoError, match=message):
        translator(tmp_path / video if isinstance(video, str) else video, "Why?")


@pytest.mark.parametrize("changes", [{}, MBERT])
def test_a_saved_model_is_the_same_bit_for_bit(tiny_data_dir, tmp_path, changes):
    make_run(tmp_path / "run", tiny_data_dir, **changes)
    model = Translator.from_pretrained(tmp_path / "run").model
    Translator(model).save_pretrained(tmp_path / "saved")
    loaded = Translator.from_pretrained(tmp_path / "saved").model
    assert model.tokenizer.fingerprints == loaded.tokenizer.fingerprints
    assert (model.facts, model.config.model) == (loaded.facts, loaded.config.model)
    before, after = variables(model.state), variables(loaded.state)
    jax.tree.map(np.testing.assert_array_equal, before, after)
    assert len(before) > 50
    Translator(loaded).save_pretrained(tmp_path / "again")
    for file in (tmp_path / "saved").rglob("*.*"):
        assert (tmp_path / "again" / file.relative_to(tmp_path / "saved")).read_bytes() == file.read_bytes()
    written = "".join(file.read_text() for file in tmp_path.glob("saved/*.json"))
    assert str(tmp_path) not in written and str(tiny_data_dir) not in written


def test_a_model_is_saved_whatever_the_layout_of_its_arrays(translator, tmp_path):
    state = translator.model.state
    columns = jax.tree.map(np.asfortranarray, state.params)
    save_folder(translator.model._replace(state=state.replace(params=columns)), tmp_path)
    saved = Translator.from_pretrained(tmp_path).model.state
    jax.tree.map(np.testing.assert_array_equal, variables(saved), variables(state))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stage": translate_stage(toy_system("mmtlb", stage="gloss2text"))}, "reads neither videos nor"),
        ({"facts": DatasetFacts(**FACTS | {"frame_size": (0, 0), "fingerprint": ""})}, "--mode=translate"),
    ],
)
def test_a_model_that_no_video_can_be_shown_is_refused(translator, changes, message):
    with pytest.raises(ModelError, match=message):
        Translator(translator.model._replace(**changes))


@pytest.mark.parametrize(
    ("system", "files"),
    [
        ("ssl_ssaw", ["mbart.weights", "mbert.weights"]),
        ("mmtlb", ["s3d.weights", "mbart.weights"]),
        ("tspnet", ["embedding_weights"]),
        ("signbt", ["sentences"]),
    ],
)
def test_a_saved_model_names_no_file_of_the_machine(translator, tmp_path, system, files):
    keys = ["compilation_cache", "data.data_dir", "data.cache_dir", "data.tokenizer", "init_from"]
    keys += ["evaluation.question_only_run", *(f"model.{name}" for name in files)]
    config = toy_system(system, **dict.fromkeys(keys, "/home/me/file"))
    save_folder(translator.model._replace(config=config), tmp_path)
    notes = read_json(tmp_path / "config.json")
    assert "/home/me" not in json.dumps(notes)
    read_config(ConfigDict(notes["config"]))


def test_a_saved_model_translates_as_the_run(translator, folders, tmp_path):
    translator.save_pretrained(tmp_path)
    saved = Translator.from_pretrained(tmp_path)
    assert saved(folders[0], "Why?").alternatives == translator(folders[0], "Why?").alternatives


def test_a_model_is_saved_over_one_that_mbert_reads(tiny_data_dir, translator, tmp_path):
    make_run(tmp_path / "run", tiny_data_dir, **MBERT)
    for model in (Translator.from_pretrained(tmp_path / "run"), translator):
        model.save_pretrained(tmp_path / "saved")
        loaded = Translator.from_pretrained(tmp_path / "saved").model
        assert loaded.tokenizer.fingerprints == model.model.tokenizer.fingerprints


def spoil(folder: Path, how: str) -> None:
    if how == "other tokenizer":
        model = folder / "tokenizer" / "sentencepiece.bpe.model"
        from sentencepiece import sentencepiece_model_pb2

        changed = sentencepiece_model_pb2.ModelProto.FromString(model.read_bytes())
        changed.pieces[5].score -= 1
        write_tokenizer(model.parent, changed.SerializeToString())
    elif how == "other sizes":
        file = folder / "config.json"
        file.write_text(re.sub(r'"ffn_dim": 24', '"ffn_dim": 32', file.read_text()))
    elif how == "cut weights":
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-9])
    elif how == "no tokenizer":
        (folder / "tokenizer" / "sentencepiece.bpe.model").unlink()
    else:
        (folder / "config.json").write_text(how)


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ("other tokenizer", ModelError, "is not the tokenizer of the model next to it"),
        (
            "other sizes",
            WeightsError,
            r"(?s)do not fit its configuration:\n  .*\(16, 24\) in the file, \(16, 32\)",
        ),
        ("cut weights", ModelError, "is not the folder of a model"),
        ("no tokenizer", TokenizerError, "holds no sentencepiece.bpe.model"),
        ("{}", ModelError, "config.json does not describe a model of sslssaw_jax"),
        ('{"config": {}, "dataset": {}, "tokenizer": ""}', ModelError, "does not describe a model of"),
        ("{", ModelError, "is not the folder of a model"),
    ],
)
def test_a_spoilt_model_folder_is_refused(translator, tmp_path, how, error, message):
    translator.save_pretrained(tmp_path)
    spoil(tmp_path, how)
    with pytest.raises(error, match=message):
        Translator.from_pretrained(tmp_path)
    assert issubclass(error, UserError)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("empty", ModelError, "is not the folder of a model"),
        ("empty/nothing", ModelError, "no model empty/nothing: empty is a folder here, and has no no"),
        ("nobody/nothing", ModelError, "there is no model nobody/nothing"),
        ("a/b/c", ModelError, "there is no model a/b/c.*leave out --model"),
    ],
)
def test_what_is_no_model_is_refused(tmp_path, monkeypatch, name, error, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(error, match=message):
        Translator.from_pretrained(name)
