"""A Hugging Face hub in this process, with what uploads and downloads of models need."""

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

SHA = 40 * "a"  # of the only commit


@contextmanager
def local_hub() -> Iterator[tuple[str, dict[str, bytes]]]:
    """Serve a hub; yield its address and the files by `user/name/path`."""
    files: dict[str, bytes] = {}
    created: set[str] = set()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            repo = "/".join(self.path.split("/")[3:5])  # of /api/models/USER/NAME/...
            if self.path == "/api/validate-yaml":
                self.answer({"errors": [], "warnings": []})
            elif self.path == "/api/repos/create":
                created.add(repo := f"somebody/{json.loads(body)['name']}")
                self.answer({"url": f"{address}/{repo}"})
            elif "/preupload/" in self.path:
                names = [file["path"] for file in json.loads(body)["files"]]
                modes = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
                self.answer({"files": [{"path": name} | modes for name in names]})
            else:
                for line in map(json.loads, body.splitlines()):
                    if line["key"] == "file":
                        files[f"{repo}/{line['value']['path']}"] = base64.b64decode(line["value"]["content"])
                    elif line["key"] == "deletedFile":
                        del files[f"{repo}/{line['value']['path']}"]
                self.answer({"commitUrl": f"{address}/{repo}/commit/{SHA}", "commitOid": SHA})

        def do_GET(self) -> None:
            path = self.path.split("?")[0]
            repo, _, name = path.removeprefix("/").partition("/resolve/")
            if path.startswith("/api/"):
                start = "/".join(path.split("/")[3:5]) + "/"
                own = {key.removeprefix(start): files[key] for key in files if key.startswith(start)}
                if not own and start[:-1] not in created:
                    self.answer({"error": "Repository not found"}, 404, **{"X-Error-Code": "RepoNotFound"})
                elif "/tree/" in path:
                    oid = {key: hashlib.sha1(own[key]).hexdigest() for key in own}
                    entries = [
                        {"type": "file", "path": key, "size": len(own[key]), "oid": oid[key]} for key in own
                    ]
                    self.answer(entries)
                else:
                    siblings = [{"rfilename": key} for key in own]
                    self.answer({"id": start[:-1], "sha": SHA, "siblings": siblings})
            elif content := files.get(f"{repo}/{name.partition('/')[2]}"):
                etag = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": SHA}
                self.answer(content, **etag)
            else:
                self.answer({"error": "not found"}, 404, **{"X-Error-Code": "RepoNotFound"})

        do_HEAD = do_GET

        def answer(self, content: Any, status: int = 200, **headers: str) -> None:
            body = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            for key, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, *arguments: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    address = f"http://127.0.0.1:{server.server_port}"
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield address, files
    finally:
        server.shutdown()
        server.server_close()
