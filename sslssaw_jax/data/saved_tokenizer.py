"""The tokenizers that stay with a trained model, in its workdir or model folder."""

import shutil
from pathlib import Path

from sslssaw_jax.data.mbart_tokenizer import MODEL_FILE, Tokenizer, load_tokenizer, write_tokenizer
from sslssaw_jax.data.mbert_tokenizer import BertTokenizer, load_bert_tokenizer
from sslssaw_jax.workdir import TEXT_TOWER, TOKENIZER


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write `FOLDER/tokenizer/`, and `FOLDER/text_tower/` if mBERT reads the texts."""
    (folder / TOKENIZER).mkdir(parents=True, exist_ok=True)
    write_tokenizer(folder / TOKENIZER, (tokenizer.folder / MODEL_FILE).read_bytes(), tokenizer.languages)
    if isinstance(tokenizer.text_tower, BertTokenizer):
        (folder / TEXT_TOWER).mkdir(exist_ok=True)
        tokenizer.text_tower.save(folder / TEXT_TOWER)
    else:  # the other model's would be loaded as this one's
        shutil.rmtree(folder / TEXT_TOWER, ignore_errors=True)


def load_saved_tokenizer(folder: Path, language: str) -> Tokenizer:
    """Load what `save_tokenizer` wrote.

    Raises:
        TokenizerError: A tokenizer is missing or unreadable.
    """
    tower = folder / TEXT_TOWER
    return load_tokenizer(
        folder / TOKENIZER, language, load_bert_tokenizer(tower) if tower.exists() else None
    )
