"""The vocabulary of CLIP's byte-pair tokenizer, for checkpoints that bring none (every single file).

CLIP (Radford et al. 2021, https://arxiv.org/abs/2103.00020) published a list of merges, from which the
vocabulary follows: 256 byte symbols, the same 256 ending a word, one entry per merge, two special tokens.
`SOURCE.md` beside this file says where the list comes from, `LICENSE` under which terms.
"""

from __future__ import annotations

import gzip
import zlib
from functools import lru_cache
from itertools import islice
from pathlib import Path

from tinydiff_weights.errors import ModelFileError

MERGES_FILE = Path(__file__).parent / "bpe_simple_vocab_16e6.txt.gz"
MERGE_COUNT = 48_894  # lines 1 to 48894; the file goes on to 262,144, CLIP never used the rest
WORD_END = "</w>"
SPECIAL_TOKENS = ("<|startoftext|>", "<|endoftext|>")


def byte_symbols() -> list[str]:
    """The printable character that stands for each byte, in CLIP's order (GPT-2's byte-to-unicode table).

    Printable Latin-1 bytes stand for themselves and come first; the other 68 become U+0100, U+0101, ...
    so that no symbol is a space or a control character.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = 256 - len(printable)
    return [chr(byte) for byte in printable] + [chr(0x100 + i) for i in range(others)]


@lru_cache(maxsize=1)
def _merges() -> tuple[tuple[str, str], ...]:
    try:
        with gzip.open(MERGES_FILE, "rt", encoding="utf-8", newline="\n") as lines:
            pairs = [tuple(line.split()) for line in islice(lines, 1, 1 + MERGE_COUNT)]
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise ModelFileError(
            MERGES_FILE, f"CLIP's merges cannot be read: {error}", hint="Reinstall tinydiff"
        ) from error
    merges = tuple((pair[0], pair[1]) for pair in pairs if len(pair) == 2)
    if len(merges) != MERGE_COUNT:
        raise ModelFileError(MERGES_FILE, f"{len(merges)} merges, not {MERGE_COUNT}", hint="Reinstall tinydiff")
    return merges


def clip_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """CLIP's vocabulary (49,408 tokens: text -> id) and its merges, first to apply first.

    The same content as the `vocab.json` and `merges.txt` of openai/clip-vit-large-patch14. Each call gives
    fresh containers, free to change.
    """
    merges = list(_merges())
    symbols = byte_symbols()
    tokens = [
        *symbols,
        *(symbol + WORD_END for symbol in symbols),
        *(a + b for a, b in merges),
        *SPECIAL_TOKENS,
    ]
    return {token: index for index, token in enumerate(tokens)}, merges
