"""Ways to damage a packed file, from blind to well informed; a number chooses them and all their details.

    blind         bytes of the header or of the data; a file cut or grown
    header        values of its JSON; offsets, dtypes, shapes and names of tensors
    metadata      values of the metadata's JSON; values of the networks' configs
    numbers       what tensors hold: NaN, infinity, zero, the largest of its kind; a vocabulary's JSON
    consistent    a layer or tensor of another shape or kind, with everything else made to fit: such a file is whole for
                  the container, and only the network or the kernels could mind

Most files get one damage, some two or three.
"""

from __future__ import annotations

import contextlib
import json
import marshal
import random
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

from tinydiff_weights.packed_format import KINDS, PADDING, USES, LayerFormat
from tinydiff_weights.packed_layout import lay_out

Table = dict[str, Any]
STRANGE: list[Any] = [
    None, True, 0, -1, 1, 7, 2**31, 2**63, 10**30, 0.5, -0.0, 1e308, "", "f32", "i4", "gated", "upsampled", "U8", [],
    [0], {}, [1, 2, 3, 4], "\x00", "�", "x" * 600,
]  # fmt: skip
DTYPES = ("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL", "F8_E4M3", "Q4")
STRANGE_NUMBERS = {
    "F32": ("<f", (float("nan"), float("inf"), -1.0, 0.0, 1e-45, 3e38)),
    "I32": ("<i", (2**31 - 1, -(2**31), 0, 1)),
    "F16": ("<e", (float("nan"), float("inf"), 0.0, 65504.0)),
}
# A damage that needs what an earlier one took away is left out.
LOST = (LookupError, TypeError, AttributeError, ValueError, struct.error, OverflowError, StopIteration)
LARGEST_LAYER = 2**20  # bytes that a changed layer may have
LARGEST_FILE = 2**26  # bytes that its tensors may have then


class Seed:
    """A healthy file, taken apart once."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        start = 8 + struct.unpack("<Q", content[:8])[0]
        header: Table = json.loads(content[8:start])
        texts = header.pop("__metadata__")
        self.meta = {k: json.loads(v) if v.startswith("{") else v for k, v in texts.items()}
        self.data = content[start:]
        self._header = marshal.dumps(header)  # the fastest deep copy of plain tables
        self._meta = {key: marshal.dumps(value) for key, value in self.meta.items()}
        self._texts = texts

    def parts(self) -> Parts:
        return Parts(marshal.loads(self._header), dict(self._texts), dict(self._meta), bytearray(self.data))


class Parts:
    """A file in pieces: `header` without metadata, `texts` of the metadata, `data`."""

    def __init__(self, header: Table, texts: Table, stored: dict[str, bytes], data: bytearray) -> None:
        self.header, self.texts, self.data = header, texts, data
        self._stored, self._tables = stored, dict[str, Any]()

    def table(self, key: str) -> Any:
        """The metadata's object under a key, for changes; what is not asked for is not parsed."""
        if key not in self._tables:
            self._tables[key] = marshal.loads(self._stored[key])
        return self._tables[key]

    def join(self) -> bytes:
        for key, value in self._tables.items():
            self.texts[key] = value if isinstance(value, str) else json.dumps(value)
        text = json.dumps({"__metadata__": self.texts, **self.header}).encode("utf-8", "surrogatepass")
        text += b" " * (-(8 + len(text)) % 64)
        return struct.pack("<Q", len(text)) + text + self.data

    def rows(self) -> list[tuple[str, str, tuple[int, ...], bytes]]:
        """(name, dtype, shape, bytes) of the tensors in order, without padding."""
        found = []
        for name, row in self.header.items():
            begin, end = row["data_offsets"]
            if not name.startswith(PADDING):
                found.append((name, row["dtype"], tuple(row["shape"]), bytes(self.data[begin:end])))
        return found

    def rebuild(self, rows: list[tuple[str, str, tuple[int, ...], bytes]]) -> None:
        """Lay the tensors out anew, their bytes repeated or cut to what their shapes ask for."""
        slots = lay_out([row[:3] for row in rows])
        if slots and slots[-1].begin + slots[-1].nbytes > LARGEST_FILE:  # shapes that an earlier damage has enlarged
            raise ValueError
        contents = {row[0]: row[3] for row in rows}
        self.header, self.data = {}, bytearray()
        for slot in slots:
            offsets = [slot.begin, slot.begin + slot.nbytes]
            self.header[slot.name] = {"dtype": slot.dtype, "shape": list(slot.shape), "data_offsets": offsets}
            content = contents.get(slot.name, b"") or b"\0"
            self.data += (content * (slot.nbytes // len(content) + 1))[: slot.nbytes]


class Damage(NamedTuple):
    name: str
    weight: int
    change: Callable[[Parts, random.Random], None]


def damaged(seed: Seed, rng: random.Random) -> tuple[bytes, str]:
    """A damaged file, and what was done to it first."""
    count = rng.choice((1, 1, 1, 1, 2, 3))
    chosen = rng.choices(DAMAGES, WEIGHTS, k=count)
    blind = [d for d in chosen if d.change is nothing]
    parts, content = seed.parts(), seed.content
    if len(blind) < count:
        for damage in chosen:
            with contextlib.suppress(*LOST):
                damage.change(parts, rng)
        content = parts.join()
    for damage in blind:
        content = BLIND[damage.name](content, rng)
    return content, chosen[0].name


# ---------------------------------------------------------------------------------------------------- blind


def nothing(parts: Parts, rng: random.Random) -> None:
    """Of a blind damage: it is done to the bytes afterwards."""


def in_header_bytes(content: bytes, rng: random.Random) -> bytes:
    start = min(8 + struct.unpack("<Q", content[:8])[0], len(content) - 1) if len(content) > 8 else 1
    return _in_bytes(content, rng, rng.randrange(start))


def in_data_bytes(content: bytes, rng: random.Random) -> bytes:
    """In place: the file keeps its length."""
    at, length = rng.randrange(max(len(content), 1)), rng.choice((1, 4, 64, 4096))
    return content[:at] + rng.randbytes(min(length, len(content) - at)) + content[at + length :]


def cut_or_grown(content: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(content) + 1)
    return rng.choice((content[:at], content + rng.randbytes(rng.choice((1, 64))), content[at:], content[:at] * 2))


def _in_bytes(content: bytes, rng: random.Random, at: int) -> bytes:
    length = rng.choice((1, 1, 2, 8, 64))
    middle = rng.choice(
        (rng.randbytes(length), b"", content[at : at + length] * 2, rng.choice(b'09-"{[]},:n').to_bytes())
    )
    return content[:at] + middle + content[at + length :]


# ---------------------------------------------------------------------------------------------------- tables


def header_value(parts: Parts, rng: random.Random) -> None:
    change_value(parts.header, rng)


def header_row(parts: Parts, rng: random.Random) -> None:
    """One tensor's row, or two tensors exchanged."""
    names = list(parts.header)
    one, other = (parts.header[rng.choice(names)] for _ in range(2))
    match rng.randrange(7):
        case 0:
            one["dtype"] = rng.choice(DTYPES)
        case 1:
            rng.shuffle(one["shape"])
        case 2:
            one["shape"] = _nudged(one["shape"], rng)
        case 3:
            one["data_offsets"], other["data_offsets"] = other["data_offsets"], one["data_offsets"]
        case 4:
            one["data_offsets"] = _nudged(one["data_offsets"], rng)
        case 5:
            end = rng.choice(names)
            parts.header[end[: rng.randrange(len(end))] + rng.choice(("", "x", ".data", ".01"))] = parts.header.pop(end)
        case 6:
            same = [r for r in parts.header.values() if r["shape"] == one["shape"] and r is not one] or [other]
            twin = rng.choice(same)
            one["data_offsets"], twin["data_offsets"] = twin["data_offsets"], one["data_offsets"]


def metadata_value(parts: Parts, rng: random.Random) -> None:
    key = rng.choice(("model", "components", "components", "provenance", "format", "format_version", ""))
    if key in ("model", "components", "provenance"):
        change_value(parts.table(key), rng)
    else:
        change_value(parts.texts, rng)


def layer_value(parts: Parts, rng: random.Random) -> None:
    change_value(rng.choice(list(parts.table("components").values()))["layers"], rng)


def config_value(parts: Parts, rng: random.Random) -> None:
    """Of a network, of the scheduler or of a tokenizer."""
    tables = [network["config"] for network in parts.table("components").values()]
    model = parts.table("model")
    change_value(rng.choice([*tables, model["scheduler"], model["tokenizers"], model["defaults"]]), rng)


def change_value(tree: Any, rng: random.Random) -> None:
    """Somewhere in nested lists and objects: a value replaced, taken away, doubled, moved, or a number nudged."""
    while True:
        keys: list[Any] = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
        if not keys:
            return
        key = rng.choice(keys)
        value = tree[key]
        if isinstance(value, (dict, list)) and value and rng.random() < 0.85:
            tree = value
            continue
        match rng.randrange(5):
            case 0:
                tree[key] = rng.choice(STRANGE)
            case 1:
                del tree[key]
            case 2 if isinstance(tree, dict):
                tree[rng.choice(keys)] = value
            case 3 if isinstance(tree, list):
                tree.append(value)
            case _ if type(value) in (int, float):
                tree[key] = _number(value, rng)
            case _:
                tree[key] = rng.choice(STRANGE)
        return


def _number(value: float, rng: random.Random) -> float:
    return value + rng.choice((-64, -1, 1, 64, value, -value))


def _nudged(numbers: list[int], rng: random.Random) -> list[int]:
    """A list of sizes with one a little off, one more or one less."""
    changed, at = list(numbers), rng.randrange(len(numbers))
    match rng.randrange(4):
        case 0:
            changed[at] = rng.choice((0, 1, -1, 2**31, 2**62))
        case 1:
            changed.insert(at, 1)
        case 2:
            del changed[at]
        case _:
            changed[at] = int(_number(changed[at], rng))
    return changed


# ---------------------------------------------------------------------------------------------------- numbers


def strange_number(parts: Parts, rng: random.Random) -> None:
    row = parts.header[rng.choice(list(parts.header))]
    begin, end = row["data_offsets"]
    code, values = STRANGE_NUMBERS.get(row["dtype"], ("B", (0, 64, 127, 128, 255)))
    size = struct.calcsize(code)
    for _ in range(rng.choice((1, 1, 16))):
        at = begin + rng.randrange((end - begin) // size) * size
        struct.pack_into(code, parts.data, at, rng.choice(values))


def vocabulary(parts: Parts, rng: random.Random) -> None:
    rows = parts.rows()
    at = next(i for i, row in enumerate(rows) if row[0].endswith("/vocabulary"))
    name, dtype, _, content = rows[at]
    table = json.loads(content)
    change_value(table, rng)
    text = json.dumps(table).encode("utf-8", "surrogatepass")
    rows[at] = (name, dtype, (len(text),), text)
    parts.rebuild(rows)


# ---------------------------------------------------------------------------------------------------- consistent


def other_layer(parts: Parts, rng: random.Random) -> None:
    """A layer of another shape, kind or use, in the metadata and in its tensors alike."""
    component, table = rng.choice(list(parts.table("components").items()))
    row = rng.choice(table["layers"])
    old = LayerFormat(row["name"], row["kind"], tuple(row["shape"]), row["use"], row["bias"])
    match rng.randrange(5):
        case 0 | 1:
            row["shape"] = _nudged(row["shape"], rng)
        case 2:
            row["kind"] = rng.choice(KINDS)
        case 3:
            row["use"] = rng.choice(USES)
        case 4:
            row["bias"] = not row["bias"]
    new = LayerFormat(row["name"], row["kind"], tuple(row["shape"]), row["use"], row["bias"])
    if new.problem() is not None or new.nbytes > LARGEST_LAYER:
        return
    prefix = f"{component}/{row['name']}."
    rows, mine = parts.rows(), {f"{prefix}{part.name}" for part in old.parts()}
    contents = {r[0].rsplit("/", 1)[1][len(row["name"]) + 1 :].split(".")[0]: r[3] for r in rows if r[0] in mine}
    made = [(f"{prefix}{p.name}", p.dtype, p.shape, contents.get(p.name.split(".")[0], b"\1")) for p in new.parts()]
    parts.rebuild([r for r in rows if r[0] not in mine] + made)


def other_tensor(parts: Parts, rng: random.Random) -> None:
    """A tensor of another shape or dtype, of another's bytes, lost or doubled, and the file laid out for it."""
    rows = parts.rows()
    at = rng.randrange(len(rows))
    name, dtype, shape, content = rows[at]
    match rng.randrange(5):
        case 0:
            rows[at] = (name, dtype, tuple(max(d, 0) % 5000 for d in _nudged(list(shape), rng)), content)
        case 1:
            rows[at] = (name, rng.choice(DTYPES[:-1]), shape, content)
        case 2:
            rows[at] = (name, dtype, shape, rng.choice(rows)[3])
        case 3:
            del rows[at]
        case 4:
            rows.append((f"{name}{rng.choice(('', 'x', '.00'))}", dtype, shape, content))
    parts.rebuild(rows)


BLIND = {"header bytes": in_header_bytes, "data bytes": in_data_bytes, "cut or grown": cut_or_grown}
DAMAGES = [
    Damage("header bytes", 8, nothing),
    Damage("data bytes", 8, nothing),
    Damage("cut or grown", 3, nothing),
    Damage("header value", 8, header_value),
    Damage("header row", 12, header_row),
    Damage("metadata value", 12, metadata_value),
    Damage("layer value", 10, layer_value),
    Damage("config value", 15, config_value),
    Damage("strange number", 10, strange_number),
    Damage("vocabulary", 3, vocabulary),
    Damage("other layer", 7, other_layer),
    Damage("other tensor", 4, other_tensor),
]
WEIGHTS = [damage.weight for damage in DAMAGES]
