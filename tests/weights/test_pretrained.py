"""Which pretrained weights each stage of a chain begins with."""

import pytest

from sslssaw_jax.models import s3d, two_stream
from sslssaw_jax.systems import SYSTEMS
from sslssaw_jax.weights import pretrained
from tests.support.toy import QuickS3D, make_stages, toy_system

CNN, MBART, S3D = ({f"model.{part}.weights": "a file"} for part in ("cnn", "mbart", "s3d"))
MBERT = {"model.mbert.weights": "a file"}
RESNET = {"model.cnn.resnet.depths": (1,), "model.cnn.resnet.stem": "conv7_pool"}
SEES = {"recognize": ["cnn"], "translate": ["cnn"]}


@pytest.mark.parametrize(
    ("system", "changes", "expected"),
    [
        ("ssl_ssaw", CNN | MBART, {"translate": ["mbart", "cnn"]}),
        (
            "ssl_ssaw",
            CNN | MBART | MBERT | {"model.text_encoder": "mbert", "pretrain.epochs": 1, "init_from": "one"},
            {"pretrain": ["mbart", "mbert", "cnn"]},  # and stage 2 goes on from there
        ),
        ("slrt", CNN | {"recognize.epochs": 1}, SEES),
        ("nslt", CNN, {"translate": ["cnn"]}),
        (
            "gbt",
            CNN
            | MBERT
            | {"model.question_words": "mbert", "model.mbert.d_model": 16, "model.mbert.heads": 2},
            SEES | {"translate": ["mbert", "cnn"]},
        ),
        ("stmc_t", CNN, SEES),
        ("signbt", CNN, SEES),
        ("csgcr", CNN | MBART, {"translate": ["mbart", "cnn"]}),
        ("csgcr", CNN | MBART | {"pretrain.epochs": 1}, {"pretrain": ["mbart", "cnn"]}),
        ("mmtlb", S3D | MBART | {"model.visual": "s3d"}, {"recognize": ["s3d"], "gloss2text": ["mbart"]}),
        (
            "ts_slt",
            S3D | MBART | {"model.visual": "s3d"},
            {"recognize": ["s3d", "keypoint_s3d but for its first layer"], "gloss2text": ["mbart"]},
        ),
        ("tspnet", CNN | {"model.embedding_weights": "a file"}, {"translate": ["cnn", "vectors"]}),
    ],
)
def test_each_stage_begins_with_the_weights_of_its_parts(system, changes, expected, monkeypatch) -> None:
    for name in ("mbart", "mbert", "cnn"):
        monkeypatch.setattr(pretrained, f"pretrained_{name}", lambda *_, name=name: name)

    def pretrained_s3d(_, module: str = "s3d", *, first: bool = True) -> str:
        return module if first else f"{module} but for its first layer"

    monkeypatch.setattr(pretrained, "pretrained_s3d", pretrained_s3d)
    for module in (s3d, two_stream):
        monkeypatch.setattr(module, "S3D", QuickS3D)
    monkeypatch.setattr(pretrained, "word_vectors", lambda *_: "vectors")
    config = toy_system(system, **RESNET | changes)
    mbert, tokenizer = SYSTEMS[system].text_tower(config.model), _Tokenizer()
    found = {
        stage.name: pretrained.pretrained_parts(stage, config.model, mbert, config.data, tokenizer)
        for stage in make_stages(config)
        if stage.starts_pretrained
    }
    assert {name: parts for name, parts in found.items() if parts} == expected


class _Tokenizer:
    vocab_size = 0

    def pieces(self, ids: range) -> list[str]:
        return []
