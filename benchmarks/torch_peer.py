"""The same model in PyTorch, in the style of the parent project (GFSLT-VLP).

It concatenates frames through a ResNet-18, pads the features, and uses temporal convolutions and Hugging
Face's mBART. With our weights (`load_ours`) it computes the same loss:
`tests/benchmarks/test_torch_peer.py`.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import MBartConfig, MBartForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

from sslssaw_jax.config.experiment import Config

EDGE = 8  # repetitions of a clip's first frame
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # torchvision's


class Inputs(NamedTuple):
    """A batch as made by the parent project's loader."""

    frames: Tensor  # f32[N, 3, H, W], normalised; of all clips, one after the other
    lengths: list[int]  # frames of each clip
    question: Tensor  # i64[B, L], `tokens </s> <language>`
    question_mask: Tensor  # i64[B, L]
    target: Tensor
    target_mask: Tensor


def inputs(batch: Mapping[str, np.ndarray], device: str = "cpu") -> Inputs:
    """Convert the valid clips of our batch, given as fields."""
    rows = np.flatnonzero(batch["valid"])
    lengths = batch["frame_count"][rows].tolist()
    pixels = torch.from_numpy(batch["frames"][: sum(lengths)]).to(device).float() / 255
    pixels = (pixels - torch.tensor(MEAN, device=device)) / torch.tensor(STD, device=device)
    texts = []
    for name in ("question", "target"):
        longest = batch[f"{name}_mask"][rows].sum(1).max()
        for field in (name, f"{name}_mask"):
            texts.append(torch.from_numpy(batch[field][rows, :longest]).long().to(device))
    return Inputs(pixels.permute(0, 3, 1, 2).contiguous(), lengths, *texts)


def _conv(before: int, after: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(before, after, kernel, stride, padding=kernel // 2, bias=False)


class BasicBlock(nn.Module):
    def __init__(self, before: int, after: int, stride: int):
        super().__init__()
        self.conv1, self.norm1 = _conv(before, after, 3, stride), nn.BatchNorm2d(after)
        self.conv2, self.norm2 = _conv(after, after, 3), nn.BatchNorm2d(after)
        self.shortcut: nn.Module | None = None
        if stride > 1 or before != after:
            self.shortcut = nn.Module()
            self.shortcut.conv, self.shortcut.norm = _conv(before, after, 1, stride), nn.BatchNorm2d(after)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)), inplace=True)
        y = self.norm2(self.conv2(y))
        return F.relu(y + (x if self.shortcut is None else self.shortcut.norm(self.shortcut.conv(x))))


class ResNet(nn.Module):
    """A CNN from frames [N, 3, H, W] to features [N, C]."""

    def __init__(self, depths: tuple[int, ...], width: int):
        super().__init__()
        self.stem, self.stem_norm = _conv(3, width, 7, 2), nn.BatchNorm2d(width)
        blocks, before = [], width
        for level, depth in enumerate(depths):
            for i in range(depth):
                blocks.append(BasicBlock(before, width * 2**level, 2 if level and not i else 1))
                before = width * 2**level
        self.blocks, self.features = nn.ModuleList(blocks), before

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.stem_norm(self.stem(x)), inplace=True), 3, 2, padding=1)
        for block in self.blocks:
            x = block(x)
        return x.mean((2, 3))


class TemporalConv(nn.Module):
    """A Conv1D-BN-ReLU-MaxPool2 over padded clips [B, C, T]."""

    def __init__(self, before: int, after: int):
        super().__init__()
        self.conv, self.norm = nn.Conv1d(before, after, 5), nn.BatchNorm1d(after)

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool1d(F.relu(self.norm(self.conv(x))), 2)


class SSAW(nn.Module):
    """A fusion by Eq. 3 and 4, with the gate computed by torch's own post-norm layer."""

    def __init__(self, d_model: int, heads: int, ffn_dim: int, dropout: float):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(d_model, heads, ffn_dim, dropout, batch_first=True)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return x * torch.sigmoid(self.layer(x, src_key_padding_mask=mask == 0))


class Peer(nn.Module):
    """A translator for a configuration (fusion `ssaw` or `concat`, SSL `prefix` or `off`).

    Args:
        config: Our configuration.
        vocab_size: Number of tokens.
        repeat_frames: Whether to repeat a clip's edge frames before the CNN, as the parent project does, or
            their features, as ours does: the same function in evaluation, for less work.
    """

    def __init__(self, config: Config, vocab_size: int, *, repeat_frames: bool = False):
        super().__init__()
        model, sizes = config.model, config.model.mbart
        self.repeat_frames, self.ssl = repeat_frames, model.ssl
        self.smoothing = config.translate.label_smoothing
        self.cnn = ResNet(model.cnn.resnet.depths, model.cnn.resnet.width)
        self.conv1 = TemporalConv(self.cnn.features, sizes.d_model)
        self.conv2 = TemporalConv(sizes.d_model, sizes.d_model)
        self.project = nn.Linear(sizes.d_model, sizes.d_model)
        self.project_norm = nn.BatchNorm1d(sizes.d_model)
        self.fusion: SSAW | None = None
        if model.fusion.kind == "ssaw":
            self.fusion = SSAW(sizes.d_model, model.fusion.heads, model.fusion.ffn_dim, model.fusion.dropout)
        self.mbart = MBartForConditionalGeneration(
            MBartConfig(
                vocab_size=vocab_size,
                d_model=sizes.d_model,
                encoder_layers=sizes.video_layers,
                decoder_layers=sizes.decoder_layers,
                encoder_ffn_dim=sizes.ffn_dim,
                decoder_ffn_dim=sizes.ffn_dim,
                encoder_attention_heads=sizes.video_heads,
                decoder_attention_heads=sizes.decoder_heads,
                max_position_embeddings=sizes.max_positions,
                dropout=sizes.dropout,
                attention_dropout=sizes.attention_dropout,
                scale_embedding=True,
            )
        )

    def video(self, x: Inputs) -> tuple[Tensor, Tensor]:
        """Return the video embedding [B, T, D] and its mask [B, T]."""
        clips = x.frames.split(x.lengths)
        if self.repeat_frames:
            clips = [repeat_edges(clip) for clip in clips]
            features = self.cnn(torch.cat(clips)).split([len(clip) for clip in clips])
        else:
            features = [repeat_edges(clip) for clip in self.cnn(x.frames).split(x.lengths)]
        hidden = self.conv2(self.conv1(pad_sequence(features, batch_first=True).transpose(1, 2)))
        hidden = F.relu(self.project_norm(self.project(hidden.transpose(1, 2)).transpose(1, 2)))
        lengths = [((len(clip) - 4) // 2 - 4) // 2 for clip in features]
        mask = torch.arange(hidden.shape[2]) < torch.tensor(lengths)[:, None]
        return hidden.transpose(1, 2), mask.long().to(hidden.device)

    def encode(self, x: Inputs) -> tuple[Tensor, Tensor]:
        """Return encoder states [B, T, D] and their mask [B, T]."""
        video, video_mask = self.video(x)
        question = self.mbart.get_input_embeddings()(x.question)
        joint, mask = torch.cat([question, video], 1), torch.cat([x.question_mask, video_mask], 1)
        if self.fusion is not None:
            joint = self.fusion(joint, mask)
        return self.mbart.get_encoder()(inputs_embeds=joint, attention_mask=mask).last_hidden_state, mask

    def forward(self, x: Inputs) -> Tensor:
        """Return the sentence's smoothed loss (Eq. 6), with SSL plus the question's."""
        states, mask = self.encode(x)
        tokens, tokens_mask = _shift_right(x.target, x.target_mask), x.target_mask
        if self.ssl == "prefix":
            tokens = torch.cat([_shift_right(x.question, x.question_mask), tokens], 1)
            tokens_mask = torch.cat([x.question_mask, tokens_mask], 1)
        logits = self.mbart(
            encoder_outputs=BaseModelOutput(last_hidden_state=states),
            attention_mask=mask,
            decoder_input_ids=tokens,
            decoder_attention_mask=tokens_mask,
            use_cache=False,
        ).logits
        loss = _loss(logits[:, -x.target.shape[1] :], x.target, x.target_mask, self.smoothing)
        if self.ssl == "prefix":
            loss = loss + _loss(logits[:, : x.question.shape[1]], x.question, x.question_mask, 0.0)
        return loss

    @torch.no_grad()
    def load_ours(self, params: Mapping[str, Any], batch_stats: Mapping[str, Any]) -> None:
        """Copy all weights and running statistics of our model from nested dictionaries."""
        from flax import traverse_util  # here, since a process that measures torch must not load JAX

        from sslssaw_jax.weights.mbart import to_hugging_face

        state = {f"mbart.{key}": value for key, value in to_hugging_face(params, "encoder").items()}
        fusion = dict(params.get("fusion", {}))
        if fusion:
            attention = fusion.pop("attention")
            for leaf, end in (("kernel", "weight"), ("bias", "bias")):
                parts = [np.asarray(attention[f"{name}_proj"][leaf]).T for name in "qkv"]
                state[f"fusion.layer.self_attn.in_proj_{end}"] = np.concatenate(parts)
            names = {"attention_norm": "norm1", "ffn_norm": "norm2"}
            fusion = {names.get(name, name): value for name, value in fusion.items()}
            fusion["self_attn"] = {"out_proj": attention["out_proj"]}
        ours = {"video": params["video"], "fusion": {"layer": fusion} if fusion else {}}
        leaves = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
        for tree in (ours, {"video": batch_stats["video"]}):
            for path, leaf in traverse_util.flatten_dict(tree).items():
                name = ".".join(map(str, (*path[:-1], leaves.get(path[-1], path[-1]))))
                value = np.asarray(leaf)
                axes = {2: (1, 0), 3: (2, 1, 0), 4: (3, 2, 0, 1)}.get(value.ndim)
                state[name.removeprefix("video.")] = value.transpose(axes)
        tensors = {name: torch.tensor(np.array(value)) for name, value in state.items()}
        left = self.load_state_dict(tensors, strict=False)
        kept = ("num_batches_tracked", "embed_tokens.weight", "lm_head.weight")  # counters, and tied copies
        missing = [name for name in left.missing_keys if not name.endswith(kept)]
        if missing or left.unexpected_keys:
            raise ValueError(f"missing {missing}, unexpected {left.unexpected_keys}")


def repeat_edges(clip: Tensor) -> Tensor:
    """Repeat the first and the last of a clip's frames or features."""
    after = -len(clip) % 4 + EDGE
    return torch.cat([clip[:1].expand(EDGE, *clip.shape[1:]), clip, clip[-1:].expand(after, *clip.shape[1:])])


def _shift_right(text: Tensor, mask: Tensor) -> Tensor:
    language = text.gather(1, mask.sum(1, keepdim=True) - 1)
    return torch.cat([language, text[:, :-1]], 1)


def _loss(logits: Tensor, text: Tensor, mask: Tensor, smoothing: float) -> Tensor:
    """Return the mean over the tokens up to `</s>`, without language code."""
    scored = F.pad(mask[:, 1:], (0, 1)) == 1
    labels = text.masked_fill(~scored, -100)
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), label_smoothing=smoothing)
