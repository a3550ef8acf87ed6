"""Text to the integers that a CLIP text encoder reads.

    text ─ NFC, spaces, lower case ─ words ─ bytes ─ byte pairs merged by rank ─ ids ─ [BOS, up to 75 ids, EOS, padding]

Byte-pair encoding (Sennrich et al. 2016, https://arxiv.org/abs/1508.07909) on bytes as in GPT-2, with "</w>" at the
end of each word, from CLIP (Radford et al. 2021, https://arxiv.org/abs/2103.00020). The `tokenizers` library does
the work; this file says how CLIP configures it. The ids equal those of transformers' CLIPTokenizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tinydiff.errors import InvalidArgumentError, ModelFileError
from tinydiff.stored_vocabulary import vocabulary_of
from tinydiff.vocabulary import Vocabulary
from tinydiff_weights.source import TokenizerSource

if TYPE_CHECKING:
    import tokenizers

WORD_END = "</w>"
# A word is: a special token, an English contraction, letters, one digit, or anything else that is no space.
WORDS = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d"
    r"|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)
MAX_LENGTHS = range(3, 4097)  # of a row of ids: room for BOS, a token and EOS; and nothing absurd


class Tokenizer:
    """CLIP's tokenizer. Raises ModelFileError or UnsupportedModelError if the files of `source` are no good."""

    def __init__(self, source: TokenizerSource):
        vocabulary = vocabulary_of(source)
        if source.model_max_length not in MAX_LENGTHS:
            reason = f"model_max_length is {source.model_max_length}, not from 3 to {MAX_LENGTHS[-1]}"
            raise ModelFileError(vocabulary.path, reason)
        self._path = vocabulary.path
        self._backend = _backend(vocabulary)
        self.max_length = source.model_max_length
        self.bos_id = self._id(vocabulary.named["bos_token"])
        self.eos_id = self._id(vocabulary.named["eos_token"])
        self.pad_id = self._id(vocabulary.named["pad_token"])
        self.vocab_size: int = self._backend.get_vocab_size()
        added = (self._backend.token_to_id(token.content) for token in vocabulary.special)
        # Ids may have gaps: an embedding needs a row for the largest, however few there are.
        self.largest_id = max([*vocabulary.ids.values(), *(index for index in added if index is not None)])

    def __call__(self, text: str | Sequence[str]) -> NDArray[np.int64]:
        """Ids of one text, (1, max_length), or of several, (B, max_length); int64.

        Each row is BOS, the first max_length - 2 tokens, EOS, padding. `dropped` says what did not fit.
        """
        if not isinstance(text, (str, list, tuple)):
            raise InvalidArgumentError(f"a prompt must be text or a list of texts, not {type(text).__name__}")
        texts = [text] if isinstance(text, str) else text
        rows = np.full((len(texts), self.max_length), self.pad_id, np.int64)
        for row, each in zip(rows, texts, strict=True):
            ids = [self.bos_id, *self.encode(each)[: self.max_length - 2], self.eos_id]
            row[: len(ids)] = ids
        return rows

    def encode(self, text: str) -> list[int]:
        """All ids of `text`, neither cut nor enclosed in BOS and EOS."""
        return list(self._encoding(text).ids)

    def dropped(self, text: str) -> list[str]:
        """The words of `text`, as written there, that `__call__` cuts off; of a word cut in two, its rest."""
        spans: list[tuple[int, int]] = []  # start and end in characters of `text`
        for start, end in self._encoding(text).offsets[self.max_length - 2 :]:
            if spans and start <= spans[-1][1]:  # no space between: the same word
                start, last = spans.pop()
                end = max(last, end)
            spans.append((start, end))
        return [text[start:end] for start, end in spans if end > start]

    def _id(self, token: str) -> int:
        index = self._backend.token_to_id(token)
        if index is None:  # an added token that the library would not take, such as ""
            raise ModelFileError(self._path, f"{token!r:.40} cannot be a special token")
        return index

    def _encoding(self, text: str) -> tokenizers.Encoding:
        if not isinstance(text, str):
            raise InvalidArgumentError(f"a prompt must be text, not {type(text).__name__}")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            code = f"U+{ord(text[error.start]):04X}"
            raise InvalidArgumentError(
                f"the prompt is not valid Unicode: lone surrogate {code} at character {error.start} "
                "(on a command line: bytes that are not UTF-8)"
            ) from None
        try:
            return self._backend.encode(text, add_special_tokens=False)
        except Exception as error:  # the library raises bare Exception, for instance for an unknown token
            raise ModelFileError(self._path, f"cannot tokenize with this vocabulary: {error!s:.200}") from error


def _backend(vocabulary: Vocabulary) -> tokenizers.Tokenizer:
    """The `tokenizers` pipeline with CLIP's normalizer, word splitter and byte-pair model."""
    from tokenizers import AddedToken, Regex, models, normalizers, pre_tokenizers
    from tokenizers import Tokenizer as Backend

    try:
        model = models.BPE(
            vocab=vocabulary.ids,
            merges=vocabulary.merges,
            continuing_subword_prefix="",
            end_of_word_suffix=WORD_END,
            fuse_unk=False,
            unk_token=vocabulary.named["unk_token"],
        )
        backend = Backend(model)
        backend.add_tokens([AddedToken(token.content, **token.options) for token in vocabulary.special])
    except Exception as error:  # the library raises bare Exception, for instance for a merge of unknown tokens
        raise ModelFileError(vocabulary.path, f"is not a usable vocabulary: {error!s:.200}") from error
    backend.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    split = pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    return backend
