"""`tinydiff doctor`: what this machine is, what is installed, what tinydiff makes of it, what is wrong."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import stat
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tinydiff._version import __version__
from tinydiff.commands import machine, settings
from tinydiff.commands.console import Console
from tinydiff.commands.info import table_text
from tinydiff.commands.interrupts import Interrupts
from tinydiff.commands.progress import byte_count
from tinydiff.errors import TinyDiffError
from tinydiff_kernels.errors import KernelError
from tinydiff_weights.errors import ModelFileError

NEEDED = ("numpy", "safetensors", "tokenizers", "pillow")
OPTIONAL = ("numba", "llvmlite", "huggingface_hub")
THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
LITTLE_MEMORY = 512 * 2**20
LITTLE_SPACE = 256 * 2**20


def run(args: argparse.Namespace, console: Console, interrupts: Interrupts) -> int:
    found = examine()
    console.result(json.dumps(found, indent=2) if args.json else as_text(found))
    return 0


def examine() -> dict[str, Any]:
    """Everything, ready for JSON. `problems` is a list of sentences, empty on a healthy machine."""
    found: dict[str, Any] = {
        "tinydiff": __version__,
        "python": {"version": platform.python_version(), "executable": sys.executable},
        "system": platform.platform(),
        "cpu": machine.cpu(),
        "memory": machine.memory(),
        "packages": {name: _version(name) for name in (*NEEDED, *OPTIONAL)},
        "backend": _backend(),
        "blas": _blas(),
        "threads": {name: os.environ[name] for name in THREAD_VARIABLES if os.environ.get(name)},
        "folders": _folders(),
        "config": _config(),
        "embedded_model": _embedded(),
    }
    found["problems"] = _problems(found)
    return found


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _backend() -> dict[str, Any]:
    """What `--backend auto` means here, and which kernel runs each operation."""
    from tinydiff.backends import chosen
    from tinydiff_kernels import dispatch, native

    found: dict[str, Any] = {"chosen": None, "why": None, "path": None, "source": None, "kernels": [], "problem": None}
    try:
        found["chosen"], found["why"] = chosen("auto")
        if found["chosen"] == "numba":
            choice = dispatch.choose()
            found["path"] = {"name": choice.path.name, "means": choice.path.means, "why": choice.why}
            found["source"] = native.library()[1]
            found["kernels"] = [asdict(kernel) for kernel in dispatch.running(choice)]
    except KernelError as error:
        found["problem"] = str(error)
    return found


def _kernel_rows(backend: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The chosen path, where its kernels come from, and one line for each operation."""
    path = backend["path"]
    if path is None:
        return []
    rows = [("path", f"{path['name']}, {path['means']}; {path['why']}"), ("kernels", backend["source"])]
    words = "{function} for {path}, {made_by}; {why}"
    return rows + [(f"  {kernel['operation']}", words.format(**kernel)) for kernel in backend["kernels"]]


def _blas() -> dict[str, Any]:
    """The library behind NumPy's matrix products, which the reference backend lives on."""
    if importlib.util.find_spec("numpy") is None:
        return {"name": None}
    import numpy as np

    try:
        config: Any = np.show_config(mode="dicts")
        blas = config["Build Dependencies"]["blas"]
    except (TypeError, KeyError, ImportError):
        return {"name": None}
    return {key: blas.get(key) for key in ("name", "version")}


def _folders() -> dict[str, dict[str, Any]]:
    from tinydiff_weights import hashes, hub

    places = {"cache": hashes.cache_folder(), "hub_cache": hub.cache_folder(), "current": Path.cwd()}
    return {name: _folder(path) for name, path in places.items()}


def _folder(path: Path) -> dict[str, Any]:
    """A folder that may not exist yet: then what its nearest parent tells."""
    existing = next((p for p in (path, *path.absolute().parents) if p.is_dir()), Path("/"))
    try:
        free: int | None = shutil.disk_usage(existing).free
    except OSError:
        free = None
    mode = os.stat(existing).st_mode
    return {
        "path": str(path),
        "exists": path.is_dir(),
        "writable": os.access(existing, os.W_OK | os.X_OK),
        "free": free,
        "open_to_all": path.is_dir() and bool(mode & stat.S_IWOTH) and not mode & stat.S_ISVTX,
    }


def _config() -> dict[str, Any]:
    file = settings.config_file()
    try:
        settings.settle({})
        problem = None
    except TinyDiffError as error:
        problem = str(error)
    variables = sorted(n for n in os.environ if n.startswith("TINYDIFF_"))
    return {"file": str(file), "exists": file.is_file(), "variables": variables, "problem": problem}


def _embedded() -> dict[str, Any]:
    from tinydiff.commands.info import describe
    from tinydiff_weights.open import DEFAULT_MODEL, open_model

    try:
        found = describe(open_model())
    except ModelFileError as error:
        return {"path": str(DEFAULT_MODEL), "problem": str(error)}
    return {"path": found["path"], "bytes": found["bytes"], "problem": found["problem"]}


# ------------------------------------------------------------------------------------------------ judging


def _problems(found: Mapping[str, Any]) -> list[str]:
    problems = [f"{name} is not installed: pip install {name}" for name in NEEDED if found["packages"][name] is None]
    if sys.maxsize < 2**32:
        problems.append("this Python is 32 bits: models of gigabytes cannot be mapped; take a 64-bit one")
    memory = found["memory"]
    bounds = [memory["available"], memory["cgroup_limit"], memory["address_space_limit"]]
    least = min((b for b in bounds if b is not None), default=None)
    if least is not None and least < LITTLE_MEMORY:
        problems.append(f"only {byte_count(least)} of memory can be used: close other programs, or take small sizes")
    for name, folder in found["folders"].items():
        if not folder["writable"]:
            problems.append(f"{name.replace('_', ' ')} folder {folder['path']!r} cannot be written")
        if folder["free"] is not None and folder["free"] < LITTLE_SPACE:
            problems.append(f"only {byte_count(folder['free'])} of disk are free at {folder['path']!r}")
    if found["folders"]["cache"]["open_to_all"]:
        problems.append(f"cache folder {found['folders']['cache']['path']!r} can be written by anybody: chmod 700 it")
    problems += [found[part]["problem"] for part in ("backend", "config", "embedded_model") if found[part]["problem"]]
    problems += settings.unknown_variables()
    return problems


def as_text(found: Mapping[str, Any]) -> str:
    cpu, memory, config = found["cpu"], found["memory"], found["config"]
    cores = f"{cpu['usable_cores']} of {cpu['cores']} cores usable"
    if cpu["quota_cores"] is not None:
        cores += f", {cpu['quota_cores']:g} by the control group's quota"
    clusters = ", ".join(f"{c['cores']} x {_speed(c['max_khz_or_capacity'])}" for c in cpu["clusters"])
    limits = [
        f"{words} {byte_count(memory[key])}"
        for key, words in (
            ("cgroup_limit", "control group allows"),
            ("address_space_limit", "address space limited to"),
        )
        if memory[key] is not None
    ]
    ram = [f"{byte_count(memory[k])} {k}" for k in ("total", "available") if memory[k] is not None]
    rows: list[tuple[str, Any]] = [
        ("tinydiff", found["tinydiff"]),
        ("python", f"{found['python']['version']} ({found['python']['executable']})"),
        ("system", found["system"]),
        ("cpu", f"{', '.join(cpu['models'])} ({cpu['architecture']})"),
        ("cores", cores + (f"; clusters: {clusters}" if clusters else "")),
        ("features", " ".join(cpu["features"]) or "none that matter are known"),
        ("memory", ", ".join(ram + limits) or "unknown"),
    ]
    rows += [(name, version or "not installed") for name, version in found["packages"].items()]
    rows += [
        (
            "backend",
            f"{found['backend']['chosen'] or 'none'}: {found['backend']['why'] or found['backend']['problem']}",
        ),
        *_kernel_rows(found["backend"]),
        ("numpy's BLAS", " ".join(str(v) for v in found["blas"].values() if v) or "unknown"),
        ("threads", ", ".join(f"{k}={v}" for k, v in found["threads"].items()) or "as the BLAS chooses"),
    ]
    rows += [(f"{name.replace('_', ' ')} folder", _folder_text(f)) for name, f in found["folders"].items()]
    rows.append(("config file", config["file"] + ("" if config["exists"] else " (none)")))
    rows.append(("variables", ", ".join(config["variables"]) or "none set"))
    embedded = found["embedded_model"]
    rows.append(("embedded model", "not usable" if embedded["problem"] else byte_count(embedded["bytes"])))
    rows += [("problem", p) for p in found["problems"]] or [("problems", "none found")]
    return table_text(rows)


def _speed(khz_or_capacity: int) -> str:
    """The kernel's `cpu_capacity` is 1024 for the fastest core; a clock in kHz is never that low."""
    return f"{khz_or_capacity / 1e6:.2g} GHz" if khz_or_capacity > 1024 else f"capacity {khz_or_capacity}"


def _folder_text(folder: Mapping[str, Any]) -> str:
    free = "" if folder["free"] is None else f", {byte_count(folder['free'])} free"
    return f"{folder['path']}{'' if folder['exists'] else ' (not there yet)'}{free}"
