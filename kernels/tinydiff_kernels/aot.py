"""Compile kernels ahead of time, for this machine or another one: Numba's front end, LLVM for any target.

    machine = Machine.of(path, "aarch64")
    compiled = compile_object({"add_rows": (add_rows, "void(int64, int64, int64)")}, machine)
    link_shared([compiled.object], Path("kernels.so"), find_linker(machine.triple))

A tool of builds and tests: it uses Numba's private code generator (tried with 0.66 and 0.68) and is never imported
at run time. The functions get plain C entry points, so ctypes calls them where neither Numba nor LLVM is installed.
"""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinydiff_kernels import dispatch, elf
from tinydiff_kernels._numba import cgutils, codegen, compiler, compiler_lock, cpu_target, ir, llvm, sigutils, types
from tinydiff_kernels._numba import version as numba_version
from tinydiff_kernels.cpu import this_cpu
from tinydiff_kernels.errors import KernelError

Exports = Mapping[str, tuple[Callable[..., Any], str]]  # symbol -> (Python function, Numba signature)
TRIPLES = {
    "x86_64": "x86_64-unknown-linux-gnu",
    "aarch64": "aarch64-unknown-linux-gnu",
    "aarch64-android": "aarch64-linux-android",
}


@dataclass(frozen=True, slots=True)
class Machine:
    """What LLVM compiles for. `checked` puts a test before every memory access (`checked.py`)."""

    triple: str
    cpu: str
    features: str
    checked: bool = False

    @classmethod
    def of(cls, path: dispatch.Path, target: str, *, checked: bool = False) -> Machine:
        """A dispatch path on a target: "x86_64", "aarch64" or "aarch64-android"."""
        if target not in TRIPLES:
            raise KernelError(f"unknown target {target!r}; known: {', '.join(TRIPLES)}")
        arch = target.split("-")[0]
        if path.arch not in (None, arch):
            raise KernelError(f"the path {path.name} does not exist on {arch}")
        return cls(TRIPLES[target], path.llvm_cpu(arch), path.llvm_features, checked)


@dataclass(frozen=True, slots=True)
class Compiled:
    """One object file with its text forms, for looking at loops and for llvm-mca."""

    ir: str
    assembly: str
    object: bytes

    @property
    def undefined(self) -> list[str]:
        """Functions that the object expects from elsewhere; kernels must need none."""
        return sorted(elf.read(self.object).undefined)


class _Library(codegen.AOTCodeLibrary):  # type: ignore[misc]
    """Compiled functions, none of which may call the C library.

    "no-builtins": a loop that stores zeros must stay one. LLVM would make it a call of memset.
    """

    def add_llvm_module(self, module: Any) -> None:
        text = re.sub(r"^(define .*) \{$", r'\1 "no-builtins" {', str(module), flags=re.MULTILINE)
        super().add_llvm_module(llvm.parse_assembly(text))


class _Codegen(codegen.CPUCodegen):  # type: ignore[misc]
    """Numba's CPU code generator with a target machine of our choice and no execution engine."""

    _library_class = _Library
    tinydiff_ahead = True

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.tinydiff_checked = machine.checked
        super().__init__("tinydiff")

    def _init(self, _module: Any) -> None:
        m = self.machine
        self._tm_features = m.features
        target = llvm.Target.from_triple(m.triple)
        self._tm = target.create_target_machine(cpu=m.cpu, features=m.features, opt=3, reloc="pic", codemodel="default")
        self._target_data = self._tm.target_data
        self._data_layout = str(self._target_data)
        self._engine = None
        self._loopvect, self._opt_level = False, 0

    def _create_empty_module(self, name: str) -> Any:
        module = ir.Module(cgutils.normalize_ir_text(name))
        module.triple = self.machine.triple
        if self._data_layout:  # not yet known for the very first module
            module.data_layout = self._data_layout
        return module

    def _add_module(self, module: Any) -> None:
        """Nothing to execute here."""

    def _get_host_cpu_name(self) -> str:
        return self.machine.cpu

    def magic_tuple(self) -> tuple[str, str, str]:
        return self.machine.triple, self.machine.cpu, self.machine.features


def _compile_flags() -> Any:
    """As `_jit.py` has them: no exceptions for division, no bounds checks, no reference counting, no Python."""
    flags = compiler.Flags()
    flags.nrt = False
    flags.no_compile = flags.no_cpython_wrapper = flags.no_cfunc_wrapper = True
    flags.error_model = "numpy"
    flags.boundscheck = False
    return flags


def _add_entry(context: Any, library: Any, symbol: str, result: Any) -> None:
    """A C function that calls the compiled one, whose own convention returns a status beside the value."""
    module = context.create_module(f"entry_{symbol}")
    inner = context.declare_function(module, result.fndesc)
    arguments, returned = result.signature.args, result.signature.return_type
    is_void = returned in (types.void, types.none)
    kind = ir.VoidType() if is_void else context.get_value_type(returned)
    function = ir.Function(module, ir.FunctionType(kind, [context.get_value_type(a) for a in arguments]), symbol)
    builder = ir.IRBuilder(function.append_basic_block())
    _, value = context.call_conv.call_function(builder, inner, returned, arguments, function.args)
    if is_void:
        builder.ret_void()
    else:
        builder.ret(value)
    library.add_ir_module(module)


def _optimise(module: Any, machine: Any, exports: Exports) -> None:
    """Hide everything but the entries, so that LLVM inlines the kernels and drops the rest."""
    keep = set(exports) | {"tinydiff_check_table"}
    for symbol in (*module.functions, *module.global_variables):
        if not symbol.is_declaration and symbol.name not in keep:
            symbol.linkage = llvm.Linkage.internal
    options = llvm.PipelineTuningOptions(speed_level=3)
    options.loop_vectorization = options.slp_vectorization = True
    passes = llvm.create_pass_builder(machine, options)
    passes.getModulePassManager().run(module, passes)


@compiler_lock  # type: ignore[untyped-decorator]
def compile_object(exports: Exports, machine: Machine) -> Compiled:
    """Compile functions into one object file with C entry points named as in `exports`."""
    if not hasattr(llvm, "create_pass_builder"):
        raise KernelError(f"compiling ahead of time needs a newer Numba than {numba_version}; 0.66 and 0.68 were tried")
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    typing = cpu_target.typing_context
    typing.refresh()
    cpu_target.target_context.refresh()
    generator = _Codegen(machine)
    context = cpu_target.target_context.subtarget(_internal_codegen=generator, aot_mode=True)
    context.cached_internal_func = {}  # shared with the JIT otherwise, which compiles for this machine
    library = generator.create_library("tinydiff_kernels")
    for symbol, (function, signature) in exports.items():
        arguments, returned = sigutils.normalize_signature(signature)
        result = compiler.compile_extra(
            typing, context, function, arguments, returned or types.void, _compile_flags(), {}, library=library
        )
        _add_entry(context, library, symbol, result)
    library.finalize()
    module = library._final_module
    _optimise(module, generator._tm, exports)
    return Compiled(str(module), generator._tm.emit_assembly(module), generator._tm.emit_object(module))


def constant_object(symbol: str, content: bytes, machine: Machine) -> bytes:
    """An object file that holds one constant."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    escaped = "".join(f"\\{byte:02x}" for byte in content)
    text = f'target triple = "{machine.triple}"\n@{symbol} = constant [{len(content)} x i8] c"{escaped}"\n'
    target = llvm.Target.from_triple(machine.triple).create_target_machine(machine.cpu, reloc="pic")
    return bytes(target.emit_object(llvm.parse_assembly(text)))


def find_linker(triple: str) -> str:
    """A linker for a target: LLVM's, which knows all of them, else GNU's for that architecture."""
    arch = triple.split("-")[0]
    names = ["ld.lld", *(f"ld.lld-{version}" for version in range(25, 12, -1)), f"{arch}-linux-gnu-ld"]
    if arch == this_cpu().arch:
        names.append("ld")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        raise KernelError(
            f"no linker for {triple}: install LLVM's (Debian, Ubuntu: apt install lld; Fedora: dnf install lld; Termux:"
            f" pkg install lld) or GNU's (apt install binutils-{arch.replace('_', '-')}-linux-gnu), or name one"
        )
    return found


def link_shared(objects: Sequence[bytes], output: Path, linker: str) -> None:
    """Join object files into a shared library without undefined symbols, aligned for 16 KiB pages (Android 15)."""
    options = ["-shared", "--strip-all", "--no-undefined", "--hash-style=both", "-z", "max-page-size=16384"]
    with tempfile.TemporaryDirectory(dir=output.parent) as folder:
        names = [Path(folder) / f"{i}.o" for i in range(len(objects))]
        for name, content in zip(names, objects, strict=True):
            name.write_bytes(content)
        made = Path(folder) / output.name
        command = [linker, *options, "-soname", output.name, "-o", str(made), *map(str, names)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as error:
            raise KernelError(f"the linker {linker} does not start: {error}") from error
        if done.returncode:
            raise KernelError(f"{linker} could not link {output}: {done.stderr.strip()[:2000]}")
        made.replace(output)  # never half a file where others look for one


class Loaded:
    """An object file made for this machine, in this process's memory: for tests that compare paths."""

    def __init__(self, content: bytes, symbols: Sequence[str]) -> None:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        self._jit = llvm.create_lljit_compiler()
        builder = llvm.JITLibraryBuilder().add_object_img(content).add_current_process()
        for symbol in symbols:
            builder.export_symbol(symbol)
        self._addresses = builder.link(self._jit, f"tinydiff_{id(self)}")

    def address(self, symbol: str) -> int:
        return int(self._addresses[symbol])

    def function(self, symbol: str, arguments: int) -> Callable[..., None]:
        """A function of so many int64 that returns nothing; calling it releases the interpreter's lock."""
        made: Any = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * arguments)(self.address(symbol))
        made.owner = self  # the code lives as long as this object
        return made  # type: ignore[no-any-return]
