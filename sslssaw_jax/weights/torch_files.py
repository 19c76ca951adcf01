"""Checkpoints of other projects, on disk or on the Hugging Face hub."""

import contextlib
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  lets NumPy know bfloat16
import numpy as np
from safetensors import SafetensorError, safe_open

from sslssaw_jax.data.mbart_tokenizer import MODEL_FILE
from sslssaw_jax.weights.initial_state import WeightsError
from sslssaw_jax.weights.state_dict import StateDict
from sslssaw_jax.workdir import describe, read_json, user_path

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
_WEIGHT_FILES = (  # in order of preference
    WEIGHTS_FILE,
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+")


class Checkpoint:
    """A file or several shards whose tensors are read one by one.

    No tensor is kept, so a large model takes no more memory than the parts of it in use.

    Args:
        path: A `.safetensors`, `.bin` or `.pth` file, or a Hugging Face folder, sharded or not.
        entries: The entries of a PyTorch training checkpoint that are state dicts; names of their tensors
            begin with the name of the entry. Nothing else in the file is read.

    Raises:
        WeightsError: There is no such file, or it cannot be read.
    """

    def __init__(self, path: Path, entries: Sequence[str] = ()) -> None:
        self.path = path
        file = path if path.is_file() else _weight_file(path)
        if file is None:
            raise WeightsError(f"{path} holds no weights; expected one of {', '.join(_WEIGHT_FILES)}")
        self._files: dict[str, _SafetensorsFile | StateDict] = {}
        for shard in _shards(file) if file.suffix == ".json" else [file]:
            opened = _SafetensorsFile(shard) if shard.suffix == ".safetensors" else StateDict(shard, entries)
            self._files |= dict.fromkeys(opened.shapes, opened)
        self.shapes: dict[str, tuple[int, ...]] = {
            name: file.shapes[name] for name, file in self._files.items()
        }

    def read(self, name: str) -> np.ndarray:
        """Read a tensor; floating point numbers become float32.

        Raises:
            WeightsError: A number is not finite, as after training that diverged, or in a damaged file.
        """
        array = self._files[name].read(name)
        if np.issubdtype(array.dtype, np.integer):
            return array
        with np.errstate(over="ignore"):
            array = array.astype(np.float32, copy=False)
        if not np.isfinite(array).all():
            raise WeightsError(f"{name} of {self.path} holds NaN or infinity: take an earlier checkpoint")
        return array

    @property
    def config(self) -> dict[str, Any]:
        """Return the model's `config.json`; empty if there is none.

        Raises:
            DamagedFileError: The file is something else.
        """
        file = self.path / CONFIG_FILE
        return read_json(file) if file.is_file() else {}

    def require_settings(self, settings: Mapping[str, Any], flags: Mapping[str, str] | None = None) -> None:
        """Raise WeightsError if `config.json` has other settings, which no shape shows.

        Args:
            settings: The values by key.
            flags: The flag of each key that can be changed here.
        """
        config = self.config
        for key, value in settings.items():
            if (theirs := config.get(key, value)) != value:
                flag = (flags or {}).get(key)
                remedy = f"add --{flag}={theirs}" if flag else "such weights cannot be used"
                raise WeightsError(f"{self.path} has {key}={theirs!r}; here it is {value!r}: {remedy}")


class _SafetensorsFile:
    """A file of safetensors."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._open() as file:
            names = file.keys()
            self.shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}

    def read(self, name: str) -> np.ndarray:
        # reopened for each tensor: pages of a mapped file count as memory while it is open
        with self._open() as file:
            try:
                return file.get_tensor(name)
            # also for a type that NumPy lacks, such as float8
            except (SafetensorError, TypeError, AttributeError) as error:
                raise WeightsError(
                    f"{name} of {self.path} cannot be read: {error}; save it as float32"
                ) from error

    def _open(self) -> Any:
        try:
            return safe_open(self.path, "numpy")
        except (OSError, SafetensorError) as error:
            known = describe(self.path) or f"{error}; download it again"
            raise WeightsError(f"{self.path} cannot be read: {known}") from error


def _weight_file(folder: Path) -> Path | None:
    return next((folder / name for name in _WEIGHT_FILES if (folder / name).is_file()), None)


def _shards(index: Path) -> list[Path]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise WeightsError(f"{index} names no files of weights; download it again")
    names = sorted(set(map(str, weight_map.values())))
    if outside := [name for name in names if Path(name).name != name]:
        raise WeightsError(f"{index} names files in other folders: {', '.join(outside[:3])}")
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise WeightsError(f"{index.parent} lacks {', '.join(missing)}, which {index.name} names")
    return [index.parent / name for name in names]


def find_model(model: str | Path, tokenizer_file: str = MODEL_FILE) -> Path:
    """Return the path of a model, downloaded from the hub if necessary.

    Args:
        model: A path, or a name on the hub. A text that begins with `.`, `/` or `~` is always a path. The
            model of a name is taken from the hub's local cache if it is there.
        tokenizer_file: The file to download together with configuration and weights.

    Raises:
        WeightsError: There is no such file, folder or model.
    """
    path = user_path(model)
    if path.exists():
        return path
    if not _HUB_NAME.fullmatch(str(model)):
        raise WeightsError(f"there is no {model}")
    from huggingface_hub import snapshot_download

    failure: Exception | None = None
    for weights in ("model*.safetensors*", "pytorch_model*.bin*"):
        try:
            folder = Path(
                snapshot_download(str(model), allow_patterns=[CONFIG_FILE, tokenizer_file, weights])
            )
        except Exception as error:  # of the hub, of its HTTP library, or of its storage
            failure = error
            continue
        if _weight_file(folder):
            return folder
    reason = next(iter(str(failure).strip().splitlines()), repr(failure)) if failure else "no weights there"
    if failure and not isinstance(failure, (OSError, ValueError)):  # not an answer of the hub
        reason += ". Run again to continue; behind a proxy, HF_HUB_DISABLE_XET=1 in the environment may help"
    raise WeightsError(f"there is no folder {model}, nor is it available from the Hugging Face hub: {reason}")


@contextlib.contextmanager
def atomic_folder(out: Path) -> Iterator[Path]:
    """Yield a folder that becomes `out` at the end, unless something fails.

    Raises:
        WeightsError: `out` exists.
    """
    if out.exists():
        raise WeightsError(f"{out} exists: delete it to write it again, or choose another --out")
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        yield temporary
        temporary.chmod(0o755)  # mkdtemp keeps others out
        temporary.rename(out)
    except BaseException:
        shutil.rmtree(temporary)
        raise
