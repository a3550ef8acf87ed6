"""How each program of a comparison is started: its script, and the interpreter of an environment of its own.

A program is named as on compare.py's command line, `kind:setting`. `options` has its flags: model, part, size, threads,
avx2, file, packed, and `peers`, the folder of environments that make_env.sh makes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

HERE = Path(__file__).resolve().parent
SCRIPTS = {
    "ours": "ours.py",
    "torch": "torch_diffusers.py",
    "openvino": "openvino_step.py",
    "onnxruntime": "onnxruntime_step.py",
    "sdcpp": "sdcpp.py",
}
DEFAULTS = {"ours": "float32", "torch": "eager", "openvino": "f32", "onnxruntime": "f32", "sdcpp": "q8_0"}
CONVERTED = ("openvino", "onnxruntime")  # torch's environment exports their models, their own quantises them


def interpreter(kind: str, options: argparse.Namespace) -> str:
    """Each peer has an environment of its own, stable-diffusion.cpp one for each way in which it is built."""
    if kind == "ours":
        return sys.executable
    return str(options.peers / ("sdcpp-avx2" if kind == "sdcpp" and options.avx2 else kind) / "bin" / "python")


def missing(python: str) -> str:
    """Why an interpreter cannot be started; nothing if it can."""
    place = Path(python)
    return "" if place.exists() else f"no environment {place.parents[1].name}: bench/peers/make_env.sh makes it"


def command_of(name: str, options: argparse.Namespace) -> list[str]:
    kind, _, given = name.partition(":")
    setting, common = given or DEFAULTS[kind], [str(options.size), str(options.threads)]
    start = [interpreter(kind, options), str(HERE / SCRIPTS[kind])]
    if kind == "sdcpp":
        return [*start, options.file or "", setting, *common]
    model = options.packed if kind == "ours" and options.packed and setting == "int8" else options.model
    return [*start, options.part, model, setting, *common]


def convert(name: str, options: argparse.Namespace, environment: Mapping[str, str]) -> bool:
    """Make the model that a program reads, if it reads another format; one process for each step, for its memory."""
    kind, _, setting = name.partition(":")
    if kind not in CONVERTED:
        return True
    export = [str(HERE / "export.py"), kind, options.part, options.model, str(options.size)]
    commands = [[interpreter("torch", options), *export]]
    if (setting or DEFAULTS[kind]) != "f32":
        commands.append([*command_of(name, options), "convert"])
    started, failed = time.monotonic(), ""
    for command in commands:
        failed = failed or missing(command[0])
        if not failed and subprocess.run(command, env=environment, check=False).returncode:
            failed = "FAILED"
    print(f"{options.part} {name} {options.size}: {failed or 'done'}, {time.monotonic() - started:.0f} s", flush=True)
    return not failed
