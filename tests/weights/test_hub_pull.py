"""`pull` against a hub of our own on 127.0.0.1 (HF_ENDPOINT), each time in a process of its own."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest

import tinydiff_weights
from tinydiff_weights.write import save_safetensors

COMMIT, LATER = "1" * 40, "2" * 40
STEM = "diffusion_pytorch_model"


@dataclass
class Hub:
    """What the server serves and how it misbehaves; `served` lists what was asked for."""

    files: dict[str, bytes]
    url: str = ""
    commits: dict[str, str] = field(default_factory=lambda: {"main": COMMIT, COMMIT: COMMIT})
    broken: set[str] = field(default_factory=set)  # 500 for these
    cut: set[str] = field(default_factory=set)  # the connection drops once, in the middle of these
    damaged: set[str] = field(default_factory=set)  # one byte is wrong in these
    status: int = 0  # answer everything so
    code: str = ""  # X-Error-Code with it
    served: list[str] = field(default_factory=list)
    ranges: list[str] = field(default_factory=list)

    def entry(self, name: str) -> dict[str, Any]:
        content = self.files[name]
        row: dict[str, Any] = {"size": len(content), "oid": hashlib.sha1(content).hexdigest()}
        if name.endswith((".safetensors", ".ckpt", ".bin")):
            row["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
        return row


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: ClassVar[Hub]

    def log_message(self, format: str, *args: object) -> None:
        pass

    def answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub, path = self.hub, unquote(urlsplit(self.path).path)
        if hub.status:
            return self.answer(hub.status, b"{}", {"X-Error-Code": hub.code} if hub.code else {})
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"] and parts[4] == "revision":
            return self.model_info("/".join(parts[5:]))
        if parts[:2] == ["api", "models"] and parts[4] == "tree":
            rows = [{"type": "file", "path": n, **hub.entry(n)} for n in hub.files]
            return self.answer(200, json.dumps(rows).encode(), {"Content-Type": "application/json"})
        if parts[2:3] == ["resolve"] and parts[3] in hub.commits.values():
            return self.file("/".join(parts[4:]), parts[3])
        return self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def model_info(self, revision: str) -> None:
        hub = self.hub
        if revision not in hub.commits:
            return self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        siblings = []
        for name in hub.files:
            row = hub.entry(name)
            sibling = {"rfilename": name, "size": row["size"], "blobId": row["oid"]}
            if "lfs" in row:
                sibling["lfs"] = {"sha256": row["lfs"]["oid"], "size": row["size"], "pointerSize": 130}
            siblings.append(sibling)
        body = json.dumps({"id": "org/name", "sha": hub.commits[revision], "siblings": siblings}).encode()
        return self.answer(200, body, {"Content-Type": "application/json"})

    def file(self, name: str, commit: str) -> None:
        hub = self.hub
        if name not in hub.files:
            return self.answer(404, b"{}", {"X-Error-Code": "EntryNotFound"})
        content, entry = hub.files[name], hub.entry(name)
        etag = entry["lfs"]["oid"] if "lfs" in entry else entry["oid"]
        headers = {"X-Repo-Commit": commit, "ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
        if self.command == "HEAD":
            return self.answer(200, content, {**headers, "Content-Length": str(len(content))})
        hub.served.append(name)
        if name in hub.broken:
            return self.answer(500, b"{}")
        if name in hub.damaged:
            content = bytes([content[0] ^ 1]) + content[1:]
        status = 200
        if asked := self.headers.get("Range"):
            hub.ranges.append(f"{name} {asked}")
            start = int(asked.removeprefix("bytes=").split("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            content, status = content[start:], 206
        if name in hub.cut:
            hub.cut.remove(name)
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
            self.close_connection = True
            return None
        return self.answer(status, content, headers)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    handler = type("OneHub", (Handler,), {"hub": Hub(model_files(tmp_path))})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    handler.hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield handler.hub
    server.shutdown()
    thread.join()
    server.server_close()


def model_files(folder: Path) -> dict[str, bytes]:
    """A repository as they are: the model, and the same weights in all the formats that must not be fetched."""

    def weights(*names: str) -> bytes:
        save_safetensors(folder / "x", {n: np.ones((64, 1024), np.float32) for n in names})
        return (folder / "x").read_bytes()

    def text(value: object) -> bytes:
        return json.dumps(value).encode()

    index = {
        "_class_name": "StableDiffusionPipeline",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "scheduler": ["diffusers", "PNDMScheduler"],
    }
    return {
        "README.md": b"# model",
        "model_index.json": text(index),
        "all.ckpt": b"\x80\x02pickle",
        "all.safetensors": weights("everything"),
        "unet/config.json": text({"_class_name": "UNet2DConditionModel", "cross_attention_dim": 768}),
        f"unet/{STEM}.bin": b"PK\x03\x04",
        f"unet/{STEM}.safetensors": weights("conv_in.weight"),
        f"unet/{STEM}.fp16.safetensors": weights("conv_in.weight"),
        "vae/config.json": text({"_class_name": "AutoencoderKL"}),
        f"vae/{STEM}.safetensors": weights("decoder.conv_in.weight"),
        "text_encoder/config.json": text({"architectures": ["CLIPTextModel"]}),
        "text_encoder/model.safetensors": weights("text_model.final_layer_norm.weight"),
        "tokenizer/vocab.json": text({"a": 0}),
        "tokenizer/merges.txt": b"#version: 0.2\n",
        "scheduler/scheduler_config.json": text({"_class_name": "PNDMScheduler"}),
        "safety_checker/model.safetensors": weights("x"),
    }


WANTED = {
    "model_index.json",
    "unet/config.json",
    f"unet/{STEM}.safetensors",
    "vae/config.json",
    f"vae/{STEM}.safetensors",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "tokenizer/vocab.json",
    "tokenizer/merges.txt",
    "scheduler/scheduler_config.json",
}

DRIVER = """
import json, sys
from tinydiff_weights.errors import ModelFileError
from tinydiff_weights.hub_pull import pull
results = []
for call in json.loads(sys.argv[1]):
    steps = []
    try:
        path = pull(*call, progress=lambda done, total: steps.append((done, total)))
    except ModelFileError as error:
        results.append({"error": str(error)})
    else:
        results.append({"path": str(path), "steps": steps})
print(json.dumps(results if len(results) > 1 else results[0]))
"""


def run(hub: Hub, home: Path, *args: str | list[str], script: str = DRIVER, **variables: str) -> Any:
    """Pull every one of `args` in a new process with only our hub in reach; one result, or a list of them."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGINGFACE_", "TRANSFORMERS_"))}
    env |= {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home / "hf"),
        "XDG_CACHE_HOME": str(home / "cache"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "*",
        "PYTHONPATH": str(Path(tinydiff_weights.__file__).parents[1]),
        **variables,
    }
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps([[a] if isinstance(a, str) else a for a in args])],
        env=env,
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "%|" not in done.stderr  # no progress bars but ours
    return json.loads(done.stdout)


OPEN_OFFLINE = """
import json, socket, sys
def refuse(*args, **kwargs): raise AssertionError("a socket was opened")
socket.socket = socket.create_connection = refuse
from tinydiff_weights.open import open_model
source = open_model(*json.loads(sys.argv[1])[0])
print(json.dumps({"path": str(source.path), "tensors": {n: list(c.tensors) for n, c in source.components.items()}}))
"""


def test_fetches_what_it_opens_and_opens_it_offline(hub: Hub, tmp_path: Path) -> None:
    result = run(hub, tmp_path, "org/name")
    assert sorted(hub.served) == sorted(WANTED)  # each once, and none of the others
    assert result["path"] == str(tmp_path / "hf/hub/models--org--name/snapshots" / COMMIT)
    total = sum(len(hub.files[n]) for n in WANTED)
    assert result["steps"][-1] == [total, total]
    assert [s[0] for s in result["steps"]] == sorted(s[0] for s in result["steps"])
    assert (tmp_path / "hf/hub/models--org--name/refs/main").read_text() == COMMIT
    opened = run(hub, tmp_path, "org/name", script=OPEN_OFFLINE, HF_HUB_OFFLINE="1")
    assert opened["path"] == result["path"]
    assert opened["tensors"]["unet"] == ["conv_in.weight"]


def test_goes_on_after_an_interruption(hub: Hub, tmp_path: Path) -> None:
    hub.broken.add(f"vae/{STEM}.safetensors")
    assert "org/name" in run(hub, tmp_path, "org/name")["error"]
    assert not (tmp_path / "hf/hub/models--org--name/refs/main").exists()  # not whole, so not opened by name
    first = set(hub.served)
    hub.broken.clear()
    hub.served.clear()
    assert "path" in run(hub, tmp_path, "org/name")
    complete = first - {f"vae/{STEM}.safetensors"}
    assert complete
    assert not complete & set(hub.served)  # what was there was not fetched again
    hub.served.clear()
    assert "path" in run(hub, tmp_path, "org/name")
    assert hub.served == []


def test_a_dropped_connection_is_resumed_where_it_broke(hub: Hub, tmp_path: Path) -> None:
    """24 MiB, because huggingface_hub keeps what it has in pieces of 10 MiB."""
    name = "big.safetensors"
    save_safetensors(tmp_path / "x", {"w": np.arange(6 * 2**20, dtype=np.float32)})
    hub.files[name] = (tmp_path / "x").read_bytes()
    hub.cut.add(name)
    path = Path(run(hub, tmp_path, f"org/name/{name}")["path"])
    assert path.read_bytes() == hub.files[name]
    assert hub.served == [name, name]
    (asked,) = hub.ranges
    assert int(asked.removeprefix(f"{name} bytes=").removesuffix("-")) > 2**20


def test_is_pinned_to_the_commit_and_follows_main_when_asked_again(hub: Hub, tmp_path: Path) -> None:
    first = run(hub, tmp_path, "org/name")["path"]
    hub.commits = {"main": LATER, COMMIT: COMMIT, LATER: LATER, "v1": COMMIT}
    again = run(hub, tmp_path, "org/name", script=OPEN_OFFLINE)
    assert again["path"] == first  # opening looks at the cache only
    main, tag, commit = (r["path"] for r in run(hub, tmp_path, "org/name", ["org/name", "v1"], f"org/name@{COMMIT}"))
    assert main.endswith(LATER)
    assert tag == commit == first
    refs = tmp_path / "hf/hub/models--org--name/refs"
    assert {p.name: p.read_text() for p in refs.iterdir()} == {"main": LATER, "v1": COMMIT}


def test_one_file(hub: Hub, tmp_path: Path) -> None:
    result = run(hub, tmp_path, "org/name/all.safetensors")
    assert hub.served == ["all.safetensors"]
    assert Path(result["path"]).read_bytes() == hub.files["all.safetensors"]


def test_damage_on_the_way_is_found_and_removed(hub: Hub, tmp_path: Path) -> None:
    name = f"unet/{STEM}.safetensors"
    hub.damaged.add(name)
    assert "arrived damaged" in run(hub, tmp_path, "org/name")["error"]
    hub.damaged.clear()
    hub.served.clear()
    assert "path" in run(hub, tmp_path, "org/name")
    assert hub.served == [name]


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (401, "RepoNotFound", "is not on the hub, or is private"),
        (404, "RepoNotFound", "is not on the hub, or is private"),
        (403, "GatedRepo", "wants its terms accepted"),
        (500, "", "cannot be fetched"),
    ],
)
def test_refusals_of_the_hub(hub: Hub, tmp_path: Path, status: int, code: str, expected: str) -> None:
    hub.status, hub.code = status, code
    assert expected in run(hub, tmp_path, "org/name")["error"]


def test_no_such_revision_no_network_no_name(hub: Hub, tmp_path: Path) -> None:
    no_revision, no_name = run(hub, tmp_path, "org/name@v9", "../name")
    assert "no such revision" in no_revision["error"]
    assert "is no hub id" in no_name["error"]
    assert "HF_HUB_OFFLINE is set" in run(hub, tmp_path, "org/name", HF_HUB_OFFLINE="1")["error"]
    assert "cannot be fetched" in run(hub, tmp_path, "org/name", HF_ENDPOINT="http://127.0.0.1:9")["error"]
    assert hub.served == []
