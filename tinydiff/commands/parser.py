"""The tree of commands and flags. Values stay texts here: `settings` reads them, so that a bad one is named alike
wherever it comes from.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from typing import Any, NoReturn

from tinydiff._version import __version__
from tinydiff.errors import InvalidArgumentError
from tinydiff.suggest import nearest

SETTINGS_HELP = """\
A flag wins over an environment variable (--clip-skip: TINYDIFF_CLIP_SKIP), that over the same key in
$XDG_CONFIG_HOME/tinydiff/config.toml (clip-skip = 2), that over the model's own default.
Exit codes: 0 done, 1 error, 2 usage, 130 interrupted."""


class Parser(argparse.ArgumentParser):
    """argparse, but what is wrong is raised, and abbreviated flags are not guessed."""

    def __init__(self, *args: Any, **options: Any) -> None:
        options.setdefault("allow_abbrev", False)
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(*args, **options)

    def error(self, message: str) -> NoReturn:
        if "expected one argument" in message:
            message += " (a value that begins with '-' is given as --flag=VALUE)"
        raise InvalidArgumentError(f"{message.removeprefix('argument ')}; see {self.prog} --help")

    def _print_message(self, message: str, file: Any = None) -> None:
        """argparse passes over a full disk or a closed pipe in silence."""
        if message and (file := file or sys.stderr) is not None:
            file.write(message)

    def flags(self) -> list[str]:
        return [flag for action in self._actions for flag in action.option_strings]


def parse(argv: list[str]) -> argparse.Namespace:
    """The arguments, with `run` the command's function. Raises InvalidArgumentError, SystemExit after --help."""
    parser, commands = build()
    if not argv:
        raise InvalidArgumentError('what shall be done? For a picture: tinydiff generate "a red apple"; see --help')
    _check_command(argv[0], parser, commands)
    parsed, extra = parser.parse_known_args(argv)
    if extra:
        raise _unexpected(extra, commands[parsed.command])
    return parsed


def build() -> tuple[Parser, dict[str, Parser]]:
    parser = Parser(prog="tinydiff", description="Stable Diffusion on a phone's CPU.", epilog=SETTINGS_HELP)
    parser.add_argument("--version", action="version", version=f"tinydiff {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    commands: dict[str, Parser] = {}
    for name, what, arguments in (
        ("generate", "make a picture from a prompt", _generate),
        ("plan", "say what memory a picture would take, without reading weights", _plan),
        ("resume", "go on with a picture that was interrupted", _resume),
        ("info", "say what a model is, without reading its weights", _info),
        ("quantize", "pack a model into one file of int8 or int4 weights", _quantize),
        ("doctor", "say what this machine is and how tinydiff uses it", _doctor),
        ("bench", "measure speed and memory on this machine, compare measurements", _bench),
        ("warmup", "compile the kernels ahead of the first picture", _warmup),
        ("pull", "download a model from the Hugging Face hub into the local cache", _pull),
    ):
        commands[name] = subparsers.add_parser(name, help=what, description=f"{what[0].upper()}{what[1:]}.")
        commands[name].set_defaults(run=_lazily(name))
        arguments(commands[name])
    return parser, commands


def _lazily(name: str) -> Any:
    def run(parsed: argparse.Namespace, *rest: Any) -> int:
        module = importlib.import_module(f"tinydiff.commands.{name}")
        code: int = module.run(parsed, *rest)
        return code

    return run


# ------------------------------------------------------------------------------------------------ arguments


def _generate(p: Parser) -> None:
    p.epilog = SETTINGS_HELP
    p.add_argument("prompt", nargs="?", metavar="PROMPT", help="what to draw; - reads it from standard input")
    for flag, value, what in (
        ("-o", "FILE", "the PNG to write (default: SEED-1.png, SEED-2.png ... in this folder, the first free one)"),
        (
            "--model",
            "PATH",
            "diffusers folder, .safetensors file or id in the hub's cache (default: embedded model)",
        ),
        (
            "--vae",
            "PATH",
            "an autoencoder instead of the model's: folder, file, or taesd: the small one that it brings",
        ),
        ("--negative", "TEXT", "what not to draw"),
        ("--steps", "N", "denoising steps"),
        ("--cfg", "S", "guidance scale; 1 switches guidance off and halves the work"),
        ("--size", "WxH", "width and height in pixels"),
        ("--seed", "N", "0 to 2^64 - 1 (default: a new one each time); image i of a batch has seed + i"),
        ("--sampler", "NAME", 'such as "Euler a" or EulerAncestralDiscreteScheduler; "list" shows all'),
        ("--batch", "N", "how many pictures"),
        ("--clip-skip", "N", "text layer counted from the end, as AUTOMATIC1111 counts: 1 is the last"),
        ("--prediction-type", "TYPE", "epsilon, v_prediction or sample, where the model's own word is wrong"),
        ("--eta", "X", "noise added back by DDIM and its like, 0 to 1"),
        ("--guidance-rescale", "X", "0 to 1; tames the contrast of guided v-prediction and zero-SNR models"),
        (
            "--guidance-interval",
            "A:B",
            "guide between these shares of the steps only (default: 0:1)",
        ),
        ("--weights", "W", "auto (as stored), float32, float16, int8 or int4"),
        ("--memory", "SIZE", "memory to stay within, files included, such as 450MB or auto; see `tinydiff plan`"),
        ("--backend", "B", "auto, numba or reference"),
        ("--threads", "N", "CPU threads"),
    ):
        p.add_argument(flag, dest="output" if flag == "-o" else None, metavar=value, help=what)
    p.add_argument(
        "--journal",
        nargs="?",
        const="on",
        metavar="FILE",
        help="keep what is done after every step, for `tinydiff resume`; FILE.journal names where, off switches it off "
        "(default: on phones only)",
    )
    p.add_argument(
        "--timings", action="store_true", help="say how long each stage took, and its memory beside the plan"
    )
    p.add_argument("--force", action="store_true", help="replace FILE if it exists")
    p.add_argument("--no-metadata", action="store_true", help="leave prompt and settings out of the PNG")
    p.add_argument("--quiet", action="store_true", help="no progress, hints or summary; warnings and errors only")


def _resume(p: Parser) -> None:
    p.add_argument("journal", nargs="?", metavar="JOURNAL", help="the journal (default: of the latest picture)")
    p.add_argument("-o", dest="output", metavar="FILE", help="the PNG to write (default: as it was asked for)")
    p.add_argument("--force", action="store_true", help="replace FILE if it exists")
    p.add_argument("--quiet", action="store_true", help="no progress, hints or summary; warnings and errors only")


def _plan(p: Parser) -> None:
    p.epilog = SETTINGS_HELP
    p.add_argument("model", nargs="?", metavar="MODEL", help="as generate's --model (default: the model it would use)")
    for flag, value, what in (
        ("--size", "WxH", "width and height in pixels"),
        ("--memory", "SIZE", "the budget, such as 450MB or auto (default: no limit)"),
        ("--weights", "W", "auto (as stored), float32, float16, int8 or int4"),
        ("--vae", "PATH", "an autoencoder instead of the model's, as generate's"),
        ("--steps", "N", "denoising steps"),
        ("--cfg", "S", "guidance scale; 1 switches guidance off and halves the activations"),
        ("--batch", "N", "how many pictures"),
        ("--threads", "N", "CPU threads"),
    ):
        p.add_argument(flag, metavar=value, help=what)
    _json(p)


def _info(p: Parser) -> None:
    p.add_argument("path", nargs="?", metavar="PATH", help="as generate's --model (default: the model it would use)")
    _json(p)
    p.add_argument("--hash", action="store_true", help="compute the SHA-256 of the weights if it is not known yet")
    p.add_argument("--verify", action="store_true", help="read a packed file whole and check its sums")


def _quantize(p: Parser) -> None:
    p.add_argument("source", metavar="SRC", help="diffusers folder, .safetensors file or id in the hub's cache")
    p.add_argument("target", metavar="DST", help="the .safetensors file to write")
    for flag, value, what in (
        ("--weights", "W", "int8, int4, or mixed: 8 bits where they help most, 4 elsewhere"),
        ("--target-size", "SIZE", "of the file with --weights mixed, such as 900MB (default: half-way)"),
        ("--sensitivity", "FILE", "how much each layer matters, measured (bench/quality.py), for --weights mixed"),
        ("--wide", "W", "other layers: auto (float16 where it loses nothing), float16 or float32"),
        ("--vae", "PATH", "an autoencoder to pack instead of the model's"),
    ):
        p.add_argument(flag, metavar=value, help=what)
    kept = "layers to leave wide, such as 'unet.mid_block.*'; may be given several times"
    p.add_argument("--keep", metavar="PATTERN", action="append", help=kept)
    p.add_argument("--report", action="store_true", help="then compare it with float32: pictures, steps, layers (slow)")
    p.add_argument("--force", action="store_true", help="replace DST if it exists")
    p.add_argument("--quiet", action="store_true", help="no progress or summary")


def _doctor(p: Parser) -> None:
    _json(p)


def _bench(p: Parser) -> None:
    p.epilog = """\
tinydiff bench                        measure; every combination of the values that have commas
tinydiff bench compare A.json B.json  the second against the first, with intervals
tinydiff bench plot A.json FILE.png   (needs matplotlib)
tinydiff bench predict --device NAME  what a machine that is not here would take; --model sd15, sd21, sdxl or bk-tiny
The JSON is described in tinydiff/bench/schema.py."""
    p.add_argument("words", nargs="*", metavar="WORD", help="nothing, or one of the forms below")
    for flag, value, what in (
        ("--model", "PATH", "as generate's (default: embedded model)"),
        ("--weights", "W,...", "auto, float32, float16, int8, int4"),
        ("--size", "WxH,...", "pixels"),
        ("--threads", "N,...", "CPU threads"),
        ("--memory", "SIZE,...", "memory to stay within"),
        ("--steps", "N", "denoising steps"),
        ("--cfg", "S", "guidance scale"),
        ("--backend", "B", "auto, numba or reference"),
        ("--device", "NAME", "of predict: pixel-8, galaxy-s23, raspberry-pi-5, raspberry-pi-4 ..."),
        ("--minutes", "M", "then pictures without a pause for so long: does it slow down?"),
        ("--plot", "FILE", "a PNG of the times (needs matplotlib)"),
        ("--submit-file", "FILE", "write the JSON there, to be added to bench/results/"),
    ):
        p.add_argument(flag, metavar=value, help=what)
    p.add_argument("--rounds", metavar="N", default="5", help="pictures of each combination, after a first one (5)")
    p.add_argument("--cold", action="store_true", help="also time a start with the model out of the page cache")
    _json(p)
    p.add_argument("--quiet", action="store_true", help="no progress")


def _warmup(p: Parser) -> None:
    p.add_argument("--quiet", action="store_true", help="no progress")


def _pull(p: Parser) -> None:
    p.add_argument("name", metavar="HUB_ID", help="org/name, or org/name/file.safetensors")
    p.add_argument("--revision", metavar="R", help="branch, tag or commit (default: main)")
    p.add_argument("--variant", metavar="V", help="weights to prefer where there are several, such as fp16")
    p.add_argument("--quiet", action="store_true", help="no progress")


def _json(p: Parser) -> None:
    p.add_argument("--json", action="store_true", help="machine-readable output")


# ------------------------------------------------------------------------------------------------ refusals


def _check_command(word: str, parser: Parser, commands: dict[str, Parser]) -> None:
    if word in commands:
        return
    if word.startswith("-"):
        if word not in parser.flags():
            raise _unexpected([word], parser)
        return
    like = nearest(word, commands)
    if like is None and (" " in word.strip() or not word.isascii()):
        raise InvalidArgumentError("a prompt goes after a command: tinydiff generate PROMPT")
    hint = f"did you mean {like!r}?" if like else f"known are {', '.join(commands)}"
    raise InvalidArgumentError(f"unknown command {word[:60]!r}: {hint}")


def _unexpected(extra: list[str], parser: Parser) -> InvalidArgumentError:
    flags = [word.split("=")[0] for word in extra if word.startswith("-")]
    if not flags:
        return InvalidArgumentError(f"unexpected argument {extra[0][:60]!r}; a prompt of several words needs quotes")
    like = nearest(flags[0], parser.flags())
    hint = f"did you mean {like}?" if like else f"see {parser.prog} --help"
    return InvalidArgumentError(f"unknown flag {flags[0][:60]!r}: {hint}")
