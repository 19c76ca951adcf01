"""Translate videos: `sslssaw translate clip.mp4 --question="Where did she go?" --model=runs/demo`."""

import argparse
import json
import logging
from collections.abc import Sequence

from sslssaw_jax.errors import ends_in_one_line, printable, set_up_output
from sslssaw_jax.inference.demo import DEMO
from sslssaw_jax.workdir import picture_path


@ends_in_one_line()
def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="sslssaw translate",
        description="Answer questions about a video, with a sentence for each question.",
        epilog='example: sslssaw translate clip.mp4 --question="Where did she go?" --model=runs/demo',
    )
    parser.add_argument("video", help="a video file (mp4, webm, avi, mov) or a folder of frames")
    parser.add_argument(
        "--question", action="append", metavar="TEXT", help="the question that is answered; repeatable"
    )
    parser.add_argument(
        "--model",
        default=DEMO,
        metavar="NAME",
        help="a run's workdir, a folder of Translator.save_pretrained, or user/name on the Hugging Face hub "
        "(default: the demo that comes with the package, which knows only rendered signers)",
    )
    parser.add_argument("--json", action="store_true", help="print everything found, a JSON object per line")
    parser.add_argument(
        "--explain",
        metavar="PNG",
        type=picture_path,
        help="a picture of what each sentence depends on: words and stretches of video",
    )
    _translate(parser.parse_args(arguments))


def _translate(options: argparse.Namespace) -> None:
    # takes seconds, and --help should not wait
    from sslssaw_jax.inference.translator import Translator
    from sslssaw_jax.training.compilation_cache import AUTO, cache_compilation

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # reports each attempt to reach the hub
    cache_compilation(AUTO)
    translator = Translator.from_pretrained(options.model)
    clips = translator.read(options.video, options.question or [""])
    answers = translator.answer(clips, explain=bool(options.explain))
    for answer in answers:
        if options.json:
            found = {"video": options.video, **answer.to_json()}
            text = json.dumps(found, ensure_ascii=False)
            print(text if text == printable(text) else json.dumps(found))  # JSON has escapes of its own
        else:
            print(printable("\n".join(filter(None, (answer.question, f"  {answer}")))))
    if options.explain:
        translator.draw(clips[0], answers, options.explain)
        if not options.json:
            print(f"what the sentences depend on: {options.explain}")


if __name__ == "__main__":
    set_up_output()
    main()
