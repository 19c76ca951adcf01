"""The modules of GFSLT-VLP in PyTorch, rewritten with its names, and its checkpoints."""

import argparse
import dataclasses
from pathlib import Path
from typing import Any, ClassVar

from transformers import MBartForConditionalGeneration

from sslssaw_jax.config.experiment import Config
from tests.support.mbart_reference import random_hugging_face
from tests.support.pytorch import torch
from tests.support.resnet_reference import randomise_torch
from tests.support.torchvision_reference import torchvision_model


class Frames(torch.nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.resnet = torchvision_model(config.model.cnn)
        self.resnet.fc = torch.nn.Identity()


class Convolutions(torch.nn.Module):
    def __init__(self, inputs: int, width: int):
        super().__init__()
        layers: list[torch.nn.Module] = []
        for channels in (inputs, width):
            layers += [torch.nn.Conv1d(channels, width, 5), torch.nn.BatchNorm1d(width)]
            layers += [torch.nn.ReLU(), torch.nn.MaxPool1d(2)]
        self.temporal_conv = torch.nn.Sequential(*layers)


class FeatureExtracter(torch.nn.Module):
    """Encode a clip, its edges repeated, as features [1, T, D]."""

    def __init__(self, config: Config):
        super().__init__()
        self.conv_2d = Frames(config)
        resnet = config.model.cnn.resnet
        self.conv_1d = Convolutions(resnet.width * 2 ** (len(resnet.depths) - 1), config.model.mbart.d_model)

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        return self.conv_1d.temporal_conv(self.conv_2d.resnet(clip).T[None]).transpose(1, 2)


class VEncoder(torch.nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.src_emb = torch.nn.Linear(width, width)
        self.bn_ac = torch.nn.Sequential(torch.nn.BatchNorm1d(width), torch.nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn_ac(self.src_emb(x).transpose(1, 2)).transpose(1, 2)


class GlossFreeModel(torch.nn.Module):
    """The model of stage 2."""

    def __init__(self, config: Config, vocab_size: int):
        super().__init__()
        self.backbone = FeatureExtracter(config)
        self.sign_emb = VEncoder(config.model.mbart.d_model)
        randomise_torch(self, seed=1)
        self.mbart = small_mbart(config, vocab_size)

    def forward(self, clip: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        embedded = self.sign_emb(self.backbone(clip))
        return self.mbart(inputs_embeds=embedded, decoder_input_ids=tokens).logits


class ImageCLIP(torch.nn.Module):
    def __init__(self, config: Config, vocab_size: int):
        super().__init__()
        width = config.model.mbart.d_model
        self.model = FeatureExtracter(config)
        self.lm_head = torch.nn.Linear(width, width, bias=False)
        randomise_torch(self, seed=2)
        self.trans_encoder = small_mbart(config, vocab_size).get_encoder()
        self.cls_token = torch.nn.Parameter(torch.randn(1, 1, width))


class TextCLIP(torch.nn.Module):
    def __init__(self, config: Config, vocab_size: int):
        super().__init__()
        self.model_txt = small_mbart(config, vocab_size).get_encoder()
        self.lm_head = torch.nn.Identity()


class SLRCLIP(torch.nn.Module):
    """The model of stage 1."""

    def __init__(self, config: Config, vocab_size: int):
        super().__init__()
        self.model_txt = TextCLIP(config, vocab_size)
        self.model_images = ImageCLIP(config, vocab_size)
        self.logit_scale = torch.nn.Parameter(torch.tensor(2.6))


class TextDecoder(torch.nn.Module):
    """A decoder that restores words in stage 1."""

    def __init__(self, config: Config, vocab_size: int):
        super().__init__()
        mbart = small_mbart(config, vocab_size, seed=7)
        self.text_decoder = mbart.get_decoder()
        self.lm_head = mbart.get_output_embeddings()
        self.register_buffer("final_logits_bias", mbart.final_logits_bias)

    def forward(self, states: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        hidden = self.text_decoder(input_ids=tokens, encoder_hidden_states=states)[0]
        return self.lm_head(hidden) + self.final_logits_bias


def small_mbart(config: Config, vocab_size: int, seed: int = 3) -> MBartForConditionalGeneration:
    """Make `mytran`: random weights, ReLU and an untied head; no two tables are alike."""
    sizes = config.model.mbart
    mbart = random_hugging_face(
        seed,
        dataclasses.replace(sizes, text_layers=sizes.video_layers, text_heads=sizes.video_heads),
        vocab_size,
    )
    with torch.no_grad():
        mbart.model.encoder.embed_tokens.weight.normal_()
    return mbart


def save_checkpoint(path: Path, model: torch.nn.Module, decoder: TextDecoder | None = None) -> Path:
    """Save a checkpoint with optimizer, arguments and logger, as the training of GFSLT-VLP does."""
    entries: dict[str, Any] = {
        "model": model.state_dict(),
        "optimizer": torch.optim.AdamW(model.parameters()).state_dict(),
        "epoch": 3,
        "args": argparse.Namespace(lr=0.01, output_dir=Path("out"), run=Logger()),
    }
    if decoder:  # wrapped by DistributedDataParallel
        entries["text_decoder"] = {f"module.{name}": value for name, value in decoder.state_dict().items()}
    torch.save(entries, path)
    return path


class Logger:
    """A class that prints where it is unpickled."""

    unpickled: ClassVar[list[str]] = []

    def __init__(self) -> None:
        self.name = "run"

    def __setstate__(self, state: dict[str, str]) -> None:
        self.unpickled.append(state["name"])
