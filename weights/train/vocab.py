"""Learn a byte-pair vocabulary in the file format of CLIP's tokenizer (Sennrich et al. 2016, arXiv:1508.07909).

The format: text is lower-cased and split into words; a word is spelled in bytes, each byte shown as one printable
character, the last one marked with `</w>`; then the learned merges join neighbours, earliest learned first.
`vocab.json` maps token -> id in the order bytes, bytes with `</w>`, merges, `<|startoftext|>`, `<|endoftext|>`;
`merges.txt` lists one merge a line below a version line.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from heapq import heappop, heappush
from itertools import pairwise
from pathlib import Path

START, END = "<|startoftext|>", "<|endoftext|>"
# CLIP's splitting pattern, written for `re`: contractions, runs of letters, single digits, runs of other signs.
WORDS = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[^\W\d_]+|\d|[^\s\w]+|_+")
POSITIONS = 77

Symbols = tuple[str, ...]


def byte_table() -> dict[int, str]:
    """byte -> one printable character, in GPT-2's order: printable Latin-1 stands for itself, the rest from U+0100."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + index) for index, byte in enumerate(others)}


def spell(word: str, table: dict[int, str]) -> Symbols:
    """The symbols of a word before any merge: "fox" -> ("f", "o", "x</w>")."""
    symbols = [table[byte] for byte in word.encode()]
    return (*symbols[:-1], symbols[-1] + "</w>")


def join(word: Symbols, pair: tuple[str, str]) -> Symbols:
    """Replace each occurrence of the neighbours `pair`, from the left, by one symbol."""
    out: list[str] = []
    at = 0
    while at < len(word):
        if word[at : at + 2] == pair:
            out.append(word[at] + word[at + 1])
            at += 2
        else:
            out.append(word[at])
            at += 1
    return tuple(out)


def learn_merges(texts: list[str], count: int) -> list[tuple[str, str]]:
    """The `count` most frequent merges, greedily; ties go to the alphabetically first pair. Stops at pairs seen once.

    `pairs` counts neighbours over all words and `homes` knows which words hold a pair, so that a merge touches
    only the words it changes; `queue` has the most frequent pair first.
    """
    table = byte_table()
    words = Counter(spell(word, table) for text in texts for word in WORDS.findall(text.lower()))
    pairs: Counter[tuple[str, str]] = Counter()
    homes: defaultdict[tuple[str, str], set[Symbols]] = defaultdict(set)
    queue: list[tuple[int, tuple[str, str]]] = []  # (-count, pair), old counts among them

    def account(word: Symbols, seen: int) -> None:
        for pair in pairwise(word):
            pairs[pair] += seen
            homes[pair].add(word)
            heappush(queue, (-pairs[pair], pair))

    for word, seen in words.items():
        account(word, seen)
    merges: list[tuple[str, str]] = []
    while len(merges) < count and queue:
        often, best = heappop(queue)
        if pairs[best] != -often:
            continue  # an old count of this pair
        if pairs[best] < 2:
            break
        merges.append(best)
        for word in homes.pop(best):
            seen = words.pop(word, 0)  # 0: an old spelling, merged further since
            if seen:
                account(word, -seen)
                merged = join(word, best)
                words[merged] += seen
                account(merged, seen)
        del pairs[best]
    return merges


def write_tokenizer(folder: Path, merges: list[tuple[str, str]]) -> None:
    """vocab.json, merges.txt and the two small configs that diffusers pipelines carry beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    characters = list(byte_table().values())
    tokens = [*characters, *(character + "</w>" for character in characters)]
    tokens += ["".join(merge) for merge in merges] + [START, END]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}  # two merges may meet in one token
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(merge) for merge in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    special = {"bos_token": START, "eos_token": END, "pad_token": END, "unk_token": END}
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n")
    config = {
        **special,
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": POSITIONS,
        "do_lower_case": True,
        "add_prefix_space": False,
        "errors": "replace",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
