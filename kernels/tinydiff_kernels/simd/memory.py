"""Loads, stores and atomics on raw addresses: (address, byte offset), both int64, of any alignment.

Compiled with TINYDIFF_CHECK=1 every access is looked up in the table of registered buffers first (`checked.py`).
"""

from __future__ import annotations

from typing import Any

from tinydiff_kernels import checked
from tinydiff_kernels._numba import cgutils, ir, types
from tinydiff_kernels.simd.define import Lowered, operation, refuse, vector_class
from tinydiff_kernels.simd.emit import I32, I64, Emit, Value
from tinydiff_kernels.simd.lanes import scalar_of
from tinydiff_kernels.simd.target import Target, target_of
from tinydiff_kernels.simd.types import VectorType

Type = Any
CHECK_NAME = "tinydiff_check_access"


def _nbytes(kind: Any) -> int:
    return int(kind.nbytes if isinstance(kind, VectorType) else kind.bitwidth // 8)


def _ir_type(kind: Any) -> Any:
    if isinstance(kind, VectorType):
        return kind.ir
    return ir.FloatType() if isinstance(kind, types.Float) else ir.IntType(kind.bitwidth)


def _memory_class(name: str, given: Any) -> Any:
    """A vector type (f32x8) or a scalar one (f32, i64) given as the first argument."""
    if isinstance(given, types.NumberClass) and given.instance_type != types.float64:
        return given.instance_type
    return vector_class(name, given)


def _require_integers(name: str, *given: Any) -> None:
    if not all(isinstance(g, types.Integer) for g in given):
        raise refuse(name, "address and offset must be integers", *given)


def _check_function(module: Any, target: Target) -> Any:
    """IR of: the address itself where it is registered, else the address of the zeros or of the sink.

    The loop walks the ranges (start, end, writable); the first violation is remembered, the others counted.
    """
    if CHECK_NAME in module.globals:
        return module.globals[CHECK_NAME]
    function = ir.Function(module, ir.FunctionType(I64, [I64, I64, I64]), CHECK_NAME)
    function.linkage = "linkonce_odr"
    address, size, is_store = function.args
    entry, head, body, following, bad, first, done, good = (
        function.append_basic_block(n) for n in ("entry", "head", "body", "next", "bad", "first", "done", "good")
    )
    b = ir.IRBuilder(entry)
    table = _table_pointer(b, module, target)

    def word(index: Any) -> Any:
        return b.gep(table, [I64(index) if isinstance(index, int) else index])

    count = b.load(word(checked.COUNT))
    end = b.add(address, size)
    b.branch(head)
    b.position_at_end(head)
    i = b.phi(I64)
    i.add_incoming(I64(0), entry)
    b.cbranch(b.icmp_signed("<", i, count), body, bad)
    b.position_at_end(body)
    base = b.add(b.mul(i, I64(checked.RANGE_WORDS)), I64(checked.RANGES))
    start_of, end_of, writable = (b.load(word(b.add(base, I64(n)))) for n in range(3))
    inside = b.and_(b.icmp_signed("<=", start_of, address), b.icmp_signed("<=", end, end_of))
    b.cbranch(b.and_(inside, b.icmp_signed("<=", is_store, writable)), good, following)
    b.position_at_end(following)
    i.add_incoming(b.add(i, I64(1)), following)
    b.branch(head)
    b.position_at_end(bad)
    earlier = b.atomic_rmw("add", word(checked.VIOLATIONS), I64(1), "monotonic")
    b.cbranch(b.icmp_signed("==", earlier, I64(0)), first, done)
    b.position_at_end(first)
    for index, value in ((checked.ADDRESS, address), (checked.SIZE, size), (checked.KIND, is_store)):
        b.store(value, word(index))
    b.branch(done)
    b.position_at_end(done)
    instead = b.select(b.icmp_signed("==", is_store, I64(0)), word(checked.ZEROS), word(checked.SINK))
    b.ret(b.ptrtoint(instead, I64))
    b.position_at_end(good)
    b.ret(address)
    return function


def _table_pointer(b: Any, module: Any, target: Target) -> Any:
    if not target.ahead:
        return b.inttoptr(I64(checked.table_address()), I64.as_pointer())
    words = ir.ArrayType(I64, checked.TABLE_WORDS)
    if checked.SYMBOL not in module.globals:
        table = ir.GlobalVariable(module, words, checked.SYMBOL)
        table.linkage = "linkonce_odr"
        table.initializer = ir.Constant(words, None)
    return b.gep(module.globals[checked.SYMBOL], [I64(0), I64(0)])


def pointer(context: Any, builder: Any, kind: Any, address: Value, offset: Value, is_store: bool) -> Value:
    """A typed LLVM pointer to address + offset, checked where the target asks for it."""
    target = target_of(context)
    if target.checked:
        check = _check_function(builder.module, target)
        whole = builder.add(address, offset)
        whole = builder.call(check, [whole, I64(_nbytes(kind)), I64(int(is_store))])
        return builder.inttoptr(whole, _ir_type(kind).as_pointer())
    byte = builder.inttoptr(address, ir.IntType(8).as_pointer())
    return builder.bitcast(builder.gep(byte, [offset]), _ir_type(kind).as_pointer())


@operation
def bytes_of(kind: Type) -> Any:
    """`bytes_of(f32x8)`: how far apart such vectors lie in memory, a constant."""
    vec = vector_class("bytes_of", kind)
    return types.int64(kind), lambda context, builder, signature, values: I64(vec.nbytes)


@operation
def load(kind: Type, address: Type, offset: Type) -> Any:
    """`load(f32x8, address, offset)`: a vector, or a scalar with `load(i64, ...)`, from any alignment."""
    loaded = _memory_class("load", kind)
    _require_integers("load", address, offset)

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        where = pointer(context, builder, loaded, values[1], values[2], False)
        return builder.load(where, align=1)

    return loaded(kind, types.int64, types.int64), generate


def _write_volatile(instruction: Any) -> None:
    """llvmlite has no word for it, so it goes into the text of the instruction."""
    write = instruction.descr

    def descr(buffer: list[str]) -> None:
        text: list[str] = []
        write(text)
        buffer.append("".join(text).replace("load ", "load volatile ", 1))

    instruction.descr = descr


@operation
def load_in_order(kind: Type, address: Type, offset: Type) -> Any:
    """As `load`, but LLVM moves it past no other such load and joins no two of them into one (volatile)."""
    loaded = _memory_class("load_in_order", kind)
    _require_integers("load_in_order", address, offset)

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        instruction = builder.load(pointer(context, builder, loaded, values[1], values[2], False), align=1)
        _write_volatile(instruction)
        return instruction

    return loaded(kind, types.int64, types.int64), generate


@operation
def store(address: Type, offset: Type, value: Type) -> Any:
    """`store(address, offset, x)`: a vector or a scalar, to any alignment."""
    if not isinstance(value, (VectorType, types.Integer, types.Float)):
        raise refuse("store", "needs a vector or a number", address, offset, value)
    _require_integers("store", address, offset)

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        builder.store(values[2], pointer(context, builder, value, values[0], values[1], True), align=1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, value), generate


@operation
def load_splat(kind: Type, address: Type, offset: Type) -> Any:
    """`load_splat(f32x8, address, offset)`: one element from memory in every lane."""
    vec = vector_class("load_splat", kind)
    return _broadcast(vec, scalar_of(vec), kind, address, offset)


@operation
def load_group(kind: Type, address: Type, offset: Type) -> Any:
    """`load_group(u8x32, address, offset)`: four bytes from memory, repeated: the left operand of `dot`."""
    vec = vector_class("load_group", kind)
    if vec.element.bits > 16 or vec.nbytes < 16:
        raise refuse("load_group", "needs a vector of 8 or 16 bit integers, 16 bytes or wider", vec)
    return _broadcast(vec, types.int32, kind, address, offset)


def _broadcast(vec: VectorType, unit: Any, kind: Any, address: Any, offset: Any) -> Lowered:
    _require_integers("load_splat", address, offset)

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        scalar = builder.load(pointer(context, builder, unit, values[1], values[2], False), align=1)
        units = ir.VectorType(_ir_type(unit), vec.nbytes // _nbytes(unit))
        emit = Emit(builder, target_of(context), vec, ())
        return builder.bitcast(emit.splat(units, scalar), vec.ir)

    return vec(kind, types.int64, types.int64), generate


def _prefetch(name: str, level: int, address: Type, offset: Type) -> Lowered:
    _require_integers(name, address, offset)

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        byte = builder.inttoptr(builder.add(values[0], values[1]), ir.IntType(8).as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [byte.type, I32, I32, I32])
        hint = builder.module.declare_intrinsic("llvm.prefetch", (byte.type,), kind)
        builder.call(hint, [byte, I32(0), I32(4 - level), I32(1)])  # to read, into a cache, data
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@operation
def prefetch(address: Type, offset: Type) -> Any:
    """Ask for the cache line at an address, which will be read soon. Any address will do: it faults nowhere."""
    return _prefetch("prefetch", 1, address, offset)


@operation
def prefetch_far(address: Type, offset: Type) -> Any:
    """The same for what will be read later: from memory into the third level, or the second (prefetcht2)."""
    return _prefetch("prefetch_far", 3, address, offset)


def _fetch_add(name: str, order: str, address: Type, amount: Type) -> Lowered:
    _require_integers(name, address, amount)

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        where = pointer(context, builder, types.int64, values[0], I64(0), True)
        return builder.atomic_rmw("add", where, values[1], order)

    return types.int64(types.int64, types.int64), generate


@operation
def fetch_add(address: Type, amount: Type) -> Any:
    """Atomically add to the int64 at an address; the value before. Workers take tiles with it, so order does not matter
    (relaxed): what they read was published by starting them, what they write is by their return."""
    return _fetch_add("fetch_add", "monotonic", address, amount)


@operation
def load_acquire(address: Type) -> Any:
    """The int32 at an address, read atomically with acquire order: the cancel word, which another thread sets."""
    _require_integers("load_acquire", address)

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        where = pointer(context, builder, types.int32, values[0], I64(0), False)
        return builder.load_atomic(where, "acquire", 4)

    return types.int32(types.int64), generate


@operation
def fetch_add_in_order(address: Type, amount: Type) -> Any:
    """As fetch_add, in the one order that all threads see (sequentially consistent): for agreements between threads."""
    return _fetch_add("fetch_add_in_order", "seq_cst", address, amount)


@operation
def relax() -> Any:
    """Tell the core that this is a loop that waits (`pause`, `yield`), so that it takes less from its neighbours."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        arch, module = str(builder.module.triple).split("-")[0], builder.module
        if arch == "x86_64":
            kind = ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(module, kind, "llvm.x86.sse2.pause"), [])
        elif arch == "aarch64":
            kind = ir.FunctionType(ir.VoidType(), [I32])
            builder.call(cgutils.get_or_insert_function(module, kind, "llvm.aarch64.hint"), [I32(1)])  # yield
        return context.get_dummy_value()

    return types.void(), generate


@operation
def call_kernel(address: Type, desc: Type, counter: Type, cancel: Type) -> Any:
    """Call a kernel by the address of its code: a C function where code is compiled ahead of time, else one of Numba's,
    which take two pointers more, for a result and an exception, and use neither in kernels."""
    _require_integers("call_kernel", address, desc, counter, cancel)

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        if target_of(context).ahead:
            kind = ir.FunctionType(ir.VoidType(), [I64] * 3)
            builder.call(builder.inttoptr(values[0], kind.as_pointer()), values[1:])
        else:
            place = ir.IntType(8).as_pointer().as_pointer()
            kind = ir.FunctionType(I32, [place, place, I64, I64, I64])
            unused = [cgutils.alloca_once(builder, place.pointee) for _ in range(2)]
            builder.call(builder.inttoptr(values[0], kind.as_pointer()), [*unused, *values[1:]])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), generate
