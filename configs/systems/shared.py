"""What recipes of several systems have in common."""

from typing import Any

WITHOUT_QUESTION = {"model.reads_question": False}
SMALL_TRANSFORMER = {
    "translate.normalize": "clips",
    "model.d_model": 128,
    "model.ffn_dim": 512,
    "model.encoder_layers": 2,
    "model.decoder_layers": 2,
    "model.heads": 4,
    "model.max_positions": 256,
    "model.dropout": 0.1,
    "model.attention_dropout": 0.0,
    "model.activation_dropout": 0.0,
}
# The public codes score dev every 100 steps of 32 clips, 2.2 times an epoch of PHOENIX and 5.7 of CSL-Daily;
# here dev is scored once an epoch, with a patience of about as many steps. Their alpha of -1 means no
# division by length.
CSL_DAILY_PATIENCE = {"translate.optim.patience": 1}
# SLRT's code ends when the rate falls after a rate without a better score: at the second fall in a row.
TWO_FALLS = {"translate.patience": 8}
CSL_DAILY_TWO_FALLS = CSL_DAILY_PATIENCE | {"translate.patience": 4}
ADAM = {"name": "adam", "b1": 0.9, "b2": 0.998, "weight_decay": 1e-3}  # of SLRT's code and its successors
SIGNJOEY = {
    "translate.epochs": 500,  # the plateau ends training
    "translate.normalize": "clips",
    "translate.clips_per_batch": 24,  # 16 on average, see `configs/phoenix_stage2.py`
    "translate.frame_budget": 1872,
    "translate.accumulate": 2,
    **{f"translate.optim.{key}": value for key, value in ADAM.items()},
    "translate.optim.schedule": "plateau",
    "translate.optim.final_learning_rate": 1e-7,
}


def small_stage(name: str, clips: int, frames: int) -> dict[str, Any]:
    """Return the small recipe for a stage before the translation."""
    optim = {
        "name": "adamw",
        "learning_rate": 1e-3,
        "final_learning_rate": 1e-5,
        "b2": 0.999,
        "weight_decay": 1e-4,
        "clip_norm": 1.0,
    }
    batches = {f"{name}.clips_per_batch": clips, f"{name}.frame_budget": frames}
    return batches | {f"{name}.optim.{key}": value for key, value in optim.items()}
