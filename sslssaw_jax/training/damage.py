"""Whether a checkpoint is whole, found by reading all of it in the layout that Orbax gives it."""

import json
from pathlib import Path
from typing import Any

import tensorstore


def damage(folder: Path) -> str:
    """What is wrong with a checkpoint, in words; "" where its notes and each of its arrays can be read.

    Orbax itself does not find out quietly: where one of its many concurrent reads fails, the others fill the
    terminal with tracebacks.
    """
    state = folder / "state"
    try:
        for notes in (folder / "data" / "metadata", folder / "meta" / "metadata", state / "_sharding"):
            read_json(notes)
        for part in (state / "array_metadatas").iterdir():  # one of each process
            read_json(part)
        for leaf in read_json(state / "_METADATA")["tree_metadata"].values():
            if not leaf["value_metadata"]["skip_deserialize"]:  # no array but an empty node
                name = ".".join(str(level["key"]) for level in leaf["key_metadata"])
                kvstore = {"driver": "ocdbt", "base": f"file://{state}/"}
                array = {"driver": "zarr", "kvstore": kvstore, "path": name}
                tensorstore.open(array, read=True).result().read().result()
    except (MemoryError, PermissionError):
        raise
    except Exception as error:  # whatever the readers below stumble over
        return first_line(error)
    return ""


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def first_line(error: Exception) -> str:
    """What went wrong, without what a library adds for its developers."""
    text = str(error).split(" [tensorstore_spec")[0]
    return next(iter(text.splitlines()), "") or type(error).__name__
