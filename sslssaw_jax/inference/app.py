"""Serve the page to ask, sign and read: `sslssaw app --model=runs/demo`.

The file is also the `app.py` of a Hugging Face Space; see docs/app.md.
"""

import argparse
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from sslssaw_jax.errors import ends_in_one_line, set_up_output
from sslssaw_jax.inference.demo import DEMO
from sslssaw_jax.workdir import user_path


@ends_in_one_line()
def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="sslssaw app",
        description="Serve a page to ask a question, sign the answer into the camera, and read it.",
        epilog="example: sslssaw app --model=runs/demo",
    )
    parser.add_argument(
        "--model",
        "--workdir",
        default=os.environ.get("SSLSSAW_MODEL", DEMO),
        metavar="NAME",
        help="a run's workdir, a folder of Translator.save_pretrained, or user/name on the Hugging Face hub; "
        "by default the environment variable SSLSSAW_MODEL, otherwise the demo that comes with the "
        "package, which knows only rendered signers",
    )
    parser.add_argument("--host", help="0.0.0.0 lets other machines in; by default only this one")
    parser.add_argument("--port", type=_port, help="by default the first free one from 7860 on")
    parser.add_argument(
        "--ssl_certfile",
        metavar="FILE",
        type=_file,
        help="serve https with this certificate: browsers allow other machines the camera over https only",
    )
    parser.add_argument("--ssl_keyfile", metavar="FILE", type=_file, help="the key of the certificate")
    options = parser.parse_args(arguments)
    if bool(options.ssl_certfile) != bool(options.ssl_keyfile):
        parser.error("https needs --ssl_certfile and --ssl_keyfile; name a file that holds both twice")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # so that the folder below is deleted
    with tempfile.TemporaryDirectory(prefix="sslssaw-app-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = f"{folder}/sent"  # receives what visitors send
        try:
            _serve(options, Path(folder) / "examples")
        except ModuleNotFoundError as error:
            if error.name != "gradio":
                raise
            raise SystemExit('error: the page needs gradio: pip install "gradio>=6.31,<7"') from error


def _port(text: str) -> int:
    if not (text.isdecimal() and 0 < int(text) < 2**16):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port, 1 to {2**16 - 1}")
    return int(text)


def _file(name: str) -> str:
    path = user_path(name)
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"there is no file {path}")
    return str(path)


def _serve(options: argparse.Namespace, folder: Path) -> None:
    direct = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
    if direct != "*":  # gradio calls its own page at the start
        own = ("localhost", "127.0.0.1", options.host)
        os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(filter(None, (direct, *own)))
    from sslssaw_jax.inference.examples import find_examples
    from sslssaw_jax.inference.page import launch, make_page  # these take seconds, and --help should not wait
    from sslssaw_jax.inference.translator import Translator
    from sslssaw_jax.training.compilation_cache import AUTO, cache_compilation

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # reports each attempt to reach the hub
    cache_compilation(AUTO)
    print(f"loading {options.model}", flush=True)
    translator = Translator.from_pretrained(options.model)
    examples = find_examples(options.model, translator, folder)
    translator.compile()
    launch(
        make_page(translator, examples),
        server_name=options.host,
        server_port=options.port,
        ssl_certfile=options.ssl_certfile,
        ssl_keyfile=options.ssl_keyfile,
        ssl_verify=False,  # gradio calls its own page at the start, where the certificate names another host
    )


if __name__ == "__main__":
    set_up_output()
    main()
