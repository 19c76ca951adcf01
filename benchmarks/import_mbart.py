"""Time and peak memory of importing a 610M-parameter mBART: `python -m benchmarks.import_mbart [--torch]`.

Random weights in mbart-large-cc25's sizes (2.4 GB) are written to a temporary folder by one process; another
reads them into the text encoder, video encoder and decoder of the default configuration, or, with `--whole`,
into all 12 + 12 layers.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def write(folder: Path, as_torch: bool) -> None:
    """mBART of 12 + 12 layers, 250,027 tokens, every tensor random."""
    import numpy as np
    import torch
    from safetensors.numpy import save_file
    from transformers import MBartConfig, MBartForConditionalGeneration

    with torch.device("meta"):
        model = MBartForConditionalGeneration(MBartConfig(vocab_size=250_027, scale_embedding=True))
    rng = np.random.default_rng(0)
    copies = ("lm_head.weight", "model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight")
    tensors = {
        name: rng.standard_normal(tuple(value.shape), np.float32)
        for name, value in model.state_dict().items()
        if name not in copies
    }
    if as_torch:
        state = {name: torch.from_numpy(value) for name, value in tensors.items()}
        torch.save(state | dict.fromkeys(copies, state["model.shared.weight"]), folder / "pytorch_model.bin")
    else:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def read(folder: Path, whole: bool) -> None:
    """Imports, and prints parameters, seconds and peak memory."""
    import functools

    import jax
    import optax

    from sslssaw_jax.config.experiment import default, from_config_dict
    from sslssaw_jax.stages.pretrain import pretrain_stage
    from sslssaw_jax.training.sharding import abstract_state, make_mesh
    from sslssaw_jax.weights.mbart import load_mbart
    from sslssaw_jax.weights.torch_files import Checkpoint

    tree = default()
    if whole:
        tree.model.mbart.decoder_layers = 12
        tree.model.mbart.video_layers = 0
    config = from_config_dict(tree)
    stage = pretrain_stage(config, vocab_size=250_027)
    state = abstract_state(functools.partial(stage.init, optimizer=optax.identity()), make_mesh(config.mesh))
    before = peak_gb()
    start = time.perf_counter()
    params = load_mbart(state, Checkpoint(folder)).params
    arrays = [leaf for leaf in jax.tree.leaves(params) if isinstance(leaf, jax.Array)]
    jax.block_until_ready(arrays)
    seconds = time.perf_counter() - start
    size = sum(file.stat().st_size for file in folder.iterdir()) / 1e9
    print(
        f"{sum(leaf.size for leaf in arrays):,} parameters in {seconds:.1f} s; the process's peak is "
        f"{peak_gb():.2f} GB ({before:.2f} GB before), {peak_gb() / size:.2f} x the file ({size:.2f} GB)"
    )


def peak_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--torch", action="store_true", help="pytorch_model.bin instead of safetensors")
    parser.add_argument("--whole", action="store_true", help="import all layers")
    parser.add_argument("--step", choices=("write", "read"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step == "write":
        write(options.folder, options.torch)
    elif options.step == "read":
        read(options.folder, options.whole)
    else:
        with tempfile.TemporaryDirectory() as folder:
            for step in ("write", "read"):
                command = [sys.executable, "-m", "benchmarks.import_mbart", *sys.argv[1:]]
                subprocess.run([*command, f"--step={step}", f"--folder={folder}"], check=True)


if __name__ == "__main__":
    main()
