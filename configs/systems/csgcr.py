"""CSGCR. No code is public: sizes and recipe are SSL-SSAW's, and beam search finds 10 sentences."""

from typing import Any

_SHARED = {
    "decode.beams": 10,
    "data.max_glosses": 64,  # words of a sentence; one in PHOENIX has 46
}
_LAYERS = {f"model.mbart.{part}_layers": 2 for part in ("text", "video", "decoder")}
_HEADS = [f"model.mbart.{part}_heads" for part in ("text", "video", "decoder")]
SMALL = {
    "csgcr": {
        **_SHARED,
        **_LAYERS,
        **dict.fromkeys(_HEADS, 4),
        "model.mbart.d_model": 128,
        "model.mbart.ffn_dim": 512,
        "model.mbart.max_positions": 256,
    }
}
PUBLISHED = {"csgcr": {**_SHARED, **dict.fromkeys(_HEADS, 16)}}
PUBLISHED_ON: dict[str, dict[str, Any]] = {
    "phoenix/csgcr": {"model.mbart.weights": "./pretrained/mbart_trimmed"},
    "csl_daily/csgcr": {"model.mbart.weights": "./pretrained/mbart_trimmed_csl"},
}
"""What each dataset starts from."""
