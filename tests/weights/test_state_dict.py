"""PyTorch files: read as PyTorch reads them, without torch; files from others can do no harm."""

import argparse
import collections
import io
import pickle
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sslssaw_jax.weights.initial_state import WeightsError
from sslssaw_jax.weights.state_dict import StateDict
from sslssaw_jax.weights.torch_files import Checkpoint
from tests.support.pytorch import torch

BASE = torch.arange(24.0).reshape(4, 6)
TENSORS = {
    "plain": BASE.clone(),
    "transposed": BASE.T,
    "part of another": BASE[1:3, ::2],
    "parameter": torch.nn.Parameter(torch.randn(2, 3)),
    "half": torch.randn(3).half(),
    "double": torch.randn(2).double(),
    "bfloat16": torch.randn(5).bfloat16(),
    "int": torch.tensor([1, -2, 2**40]),
    "number": torch.tensor(3.5),
    "empty": torch.zeros(0, 3),
}


@pytest.mark.parametrize("new", [True, False], ids=["zip", "before 1.6"])
def test_every_kind_of_tensor_is_read_as_torch_reads_it(tmp_path: Path, new: bool) -> None:
    path = tmp_path / "x.pth"
    torch.save(collections.OrderedDict(TENSORS), path, _use_new_zipfile_serialization=new)
    ours, theirs = StateDict(path), torch.load(path, weights_only=True)
    assert ours.shapes == {name: tuple(value.shape) for name, value in theirs.items()}
    for name, value in theirs.items():
        found = ours.read(name)
        assert found.dtype.itemsize == value.element_size() and found.shape == ours.shapes[name]
        np.testing.assert_array_equal(found.astype(np.float64), value.detach().double().numpy(), name)


class Logger:
    """An object of a training script that writes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("new", [True, False], ids=["zip", "before 1.6"])
def test_a_training_checkpoint_gives_its_entries_and_runs_no_code(tmp_path: Path, new: bool) -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    saved = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "args": argparse.Namespace(lr=1e-3, data={"a": [1, (2, 3)], 4: {5}}),
        "logger": Logger(tmp_path / "run"),
        "best": np.float64(3.0),
        "spread": torch.ones(1).expand(9),
    }
    torch.save(saved, tmp_path / "x.pth", _use_new_zipfile_serialization=new)
    (tmp_path / "run").unlink(missing_ok=True)
    found = StateDict(tmp_path / "x.pth", ("model", "absent"))
    assert found.shapes == {"model.weight": (2, 3), "model.bias": (2,)}
    np.testing.assert_array_equal(found.read("model.bias"), model.bias.detach().numpy())
    assert not (tmp_path / "run").exists()
    with pytest.raises(
        WeightsError, match="not a plain state dict: model, optimizer, args, logger, best, spread hold no"
    ):
        StateDict(tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: BASE.to_sparse(), "x hold no tensor but torch._utils._rebuild_sparse_tensor; save it dense"),
        (
            lambda: torch.quantize_per_tensor(BASE, 0.1, 0, torch.qint8),
            "_rebuild_qtensor; save it dense, as float32",
        ),
        (
            lambda: torch.ones(2, dtype=torch.complex64),
            "x hold no tensor but torch.ComplexFloatStorage",
        ),
        (lambda: torch.nn.Linear(1, 1), r"x hold no tensor but torch.nn.modules.linear.Linear"),
    ],
)
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_what_is_no_dense_tensor_is_named(tmp_path: Path, make: Callable[[], Any], told: str) -> None:
    torch.save({"x": make()}, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=told):
        StateDict(tmp_path / "x.pth")


def test_numbers_that_are_not_finite_or_not_weights_are_refused_by_name(tmp_path: Path) -> None:
    for value in (float("nan"), float("inf"), -float("inf")):
        torch.save({"fine": torch.ones(2), "bad.weight": torch.tensor([1, value])}, tmp_path / "x.pth")
        checkpoint = Checkpoint(tmp_path / "x.pth")
        assert checkpoint.read("fine").tolist() == [1, 1]
        with pytest.raises(WeightsError, match=r"bad\.weight of .*x\.pth holds NaN or infinity"):
            checkpoint.read("bad.weight")
    torch.save({"big": torch.tensor([1e300], dtype=torch.float64)}, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match="NaN or infinity"):
        Checkpoint(tmp_path / "x.pth").read("big")


def archive(path: Path, described: bytes, numbers: bytes = b"\0" * 16, method: int = 0) -> Path:
    with zipfile.ZipFile(path, "w", method) as file:
        file.writestr("x/data.pkl", described)
        file.writestr("x/data/0", numbers)
    return path


class Global:
    """A name that a pickle made here refers to."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name


class Reference:
    def __init__(self, *parts: Any) -> None:
        self.parts = parts


def dump(value: Any) -> bytes:
    """Pickle a value by hand: names, persistent references and calls as an attacker can write them."""
    if isinstance(value, Global):
        return f"c{value.module}\n{value.name}\n".encode()
    if isinstance(value, Reference):
        return dump(value.parts) + b"Q"
    if isinstance(value, tuple):
        return b"(" + b"".join(map(dump, value)) + b"t"
    if isinstance(value, dict):
        return b"}(" + b"".join(dump(each) for pair in value.items() for each in pair) + b"u"
    if isinstance(value, list):  # a call: function, arguments
        return dump(value[0]) + dump(tuple(value[1:])) + b"R"
    if isinstance(value, str):
        return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
    return pickle.dumps(value, 2)[2:-1]


REBUILD = Global("torch._utils", "_rebuild_tensor_v2")


def tensor(shape: Any, strides: Any, *, offset: Any = 0, size: int = 4, key: str = "0") -> bytes:
    storage = Reference("storage", Global("torch", "FloatStorage"), key, "cpu", size)
    return b"\x80\x02" + dump({"x": [REBUILD, storage, offset, shape, strides, False, {}]}) + b"."


def test_the_attackers_writer_writes_what_torch_reads(tmp_path: Path) -> None:
    path = archive(tmp_path / "x.pth", tensor((2, 2), (2, 1)), np.arange(4, dtype="<f4").tobytes())
    np.testing.assert_array_equal(StateDict(path).read("x"), [[0, 1], [2, 3]])


def test_the_dictionaries_of_python_2_are_read(tmp_path: Path) -> None:
    pair = tensor((4,), (1,))[4:-2]
    described = b"\x80\x02ccollections\nOrderedDict\n](](" + pair + b"ee\x85R."
    assert StateDict(archive(tmp_path / "x.pth", described)).shapes == {"x": (4,)}


@pytest.mark.parametrize(
    "described",
    [
        tensor((1 << 20, 1 << 20), (0, 0)),  # 4 TB of one number
        tensor((1 << 40,), (0,)),
        tensor((2, 2), (1, 1), size=3),  # the file has 4
        tensor((2, 2), (2, 1), size=1 << 40),
        tensor((4,), (1,), offset=1),
        tensor((4,), (1 << 40,)),
        tensor((4,), (-1,)),
        tensor((4,), (1, 1)),
        tensor((-1,), (1,)),
        tensor((True,), (1,)),
        tensor(("a",), (1,)),
        tensor((1,) * 99, (1,) * 99),
        tensor((4,), (1,), key="absent"),
        tensor((4,), (1,), key="../data.pkl"),
        b"\x80\x02" + dump({"x": [REBUILD, 1, 2, 3, 4]}) + b".",
        b"\x80\x02" + dump({"x": [REBUILD]}) + b".",
        b"\x80\x02}X\xff\xff\xff\xffx.",  # a text of 4 GB
        b"\x80\x04\x8d" + b"\xff" * 7 + b"\x7fx.",
        b"\x80\x02Nr\xff\xff\xff\xff.",  # the 4,294,967,295th place of the memo
        b"\x80\x02((((.",
        b"\x80\x02t.",
        b"\x80\x02R.",
        b"\x80\x02",
        b"\x80\x02cos\nsystem\n(X\x04\x00\x00\x00truetR.",
        b"",
        b"\xff\xff",
    ],
)
def test_a_file_cannot_ask_for_more_than_it_has(tmp_path: Path, described: bytes) -> None:
    path = archive(tmp_path / "x.pth", described)
    tracemalloc.start()
    with pytest.raises(WeightsError, match=r"x\.pth"):
        StateDict(path).read("x")
    assert tracemalloc.get_traced_memory()[1] < 1 << 22
    tracemalloc.stop()


def test_depth_and_doubling_end_nothing(tmp_path: Path) -> None:
    deep = b"\x80\x02}" + dump("x") + b")" + b"\x85" * 300_000 + b"s."
    doubled = b"\x80\x02}" + dump("x") + b")" + b"2\x86" * 100_000 + b"s."
    as_key = b"\x80\x02})" + b"2\x86" * 100_000 + dump("x") + b"s."
    in_lists = b"\x80\x02}" + dump("x") + b"]" * 300_000 + b"a" * 299_999 + b"s."
    for described, reason in (
        (deep, "in tuples, 100 deep"),
        (doubled, "same tuples"),
        (as_key, "same tuples"),
    ):
        with pytest.raises(WeightsError, match=reason):
            StateDict(archive(tmp_path / "x.pth", described))
    with pytest.raises(WeightsError, match="not a plain state dict: x hold no tensor"):
        StateDict(archive(tmp_path / "x.pth", in_lists))


def test_attributes_of_a_dictionary_change_nothing(tmp_path: Path) -> None:
    """An instance's own `items` would come before that of its class."""
    made = dump([Global("collections", "OrderedDict")])
    described = b"\x80\x02" + made + dump({"items": Global("os", "system")}) + b"b."
    assert StateDict(archive(tmp_path / "x.pth", described)).shapes == {}


@pytest.mark.parametrize("new", [True, False], ids=["zip", "before 1.6"])
def test_tensors_are_read_one_by_one(tmp_path: Path, new: bool) -> None:
    saved = {str(number): torch.full((1 << 18,), float(number)) for number in range(16)}
    torch.save(saved, tmp_path / "x.pth", _use_new_zipfile_serialization=new)
    tracemalloc.start()
    found = StateDict(tmp_path / "x.pth")
    in_use = tracemalloc.get_traced_memory()[0]
    assert all((found.read(name) == float(name)).all() for name in found.shapes)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found.shapes) == 16 and in_use < 1 << 17
    assert peak < (4 if new else 20) << 20  # the first 16 MiB may hold an old file's pickle


def test_archives_that_unpack_to_more_than_their_size_are_refused(tmp_path: Path) -> None:
    described = tensor((1 << 22,), (1,), size=1 << 22)
    bomb = archive(tmp_path / "x.pth", described, b"\0" * (1 << 24), zipfile.ZIP_DEFLATED)
    assert bomb.stat().st_size < 1 << 16
    with pytest.raises(WeightsError, match="it is compressed"):
        StateDict(bomb)
    overlapping = archive(tmp_path / "y.pth", tensor((4,), (1,)), b"\0" * 4096)
    data = overlapping.read_bytes()
    entry = data.rindex(b"PK\x01\x02")
    overlapping.write_bytes(data[: entry + 20] + struct.pack("<II", 1 << 30, 1 << 30) + data[entry + 28 :])
    with pytest.raises(WeightsError, match="its parts are longer than the file"):
        StateDict(overlapping)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0",
            "Git LFS pointer.*git lfs pull",
        ),
        (b"<!DOCTYPE html><title>Sign in</title>", "web page"),
        (b"\n<html>", "web page"),
        (b"", "it is empty"),
        (b"\x1f\x8b\x08", "compressed by gzip"),
        (b"nonsense", "download it again"),
    ],
)
@pytest.mark.parametrize("name", ["x.bin", "model.safetensors"])
def test_what_is_something_else_is_said(tmp_path: Path, content: bytes, told: str, name: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=rf"{name} cannot be read: .*{told}"):
        Checkpoint(tmp_path / name)


@pytest.mark.parametrize("new", [True, False], ids=["zip", "before 1.6"])
def test_a_file_that_ends_early_is_refused(tmp_path: Path, new: bool) -> None:
    buffer = io.BytesIO()
    torch.save({"x": BASE.clone()}, buffer, _use_new_zipfile_serialization=new)
    whole = buffer.getvalue()
    path = tmp_path / "x.pth"
    for end in (3, 20, 60, len(whole) // 2, len(whole) - 4):
        path.write_bytes(whole[:end])
        with pytest.raises(WeightsError, match=r"x\.pth cannot be read: .*; download it again"):
            StateDict(path)
    path.write_bytes(whole)
    found = StateDict(path)
    path.write_bytes(whole[:60])
    with pytest.raises(WeightsError, match=r"x\.pth ends within x; download it again"):
        found.read("x")


def test_an_old_file_that_lies_about_its_numbers_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save({"x": BASE.clone()}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes().replace(struct.pack("<q", 24), struct.pack("<q", 1 << 50)))
    with pytest.raises(WeightsError, match=r"x\.pth cannot be read"):
        StateDict(path)
    torch.save({"x": BASE.to(torch.complex64)}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(WeightsError, match=r"it holds a tensor of torch\.ComplexFloatStorage.*as float32"):
        StateDict(path)
    parts = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {}, {})]
    parts.append(b"\x80\x04]" + b"(" * 100_000 + b"N" + b"\x91" * 100_000 + b"a.")  # no message can show it
    path.write_bytes(b"".join(parts))
    with pytest.raises(WeightsError, match=r"it is damaged \(KeyError\)"):
        StateDict(path)
