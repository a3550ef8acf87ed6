"""From a prompt to what the UNet reads: one CLIP (SD 1 and 2) or two side by side (SDXL)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from tinydiff.clip import CLIPTextEncoder
from tinydiff.conditioning import Conditioning, Prompt
from tinydiff.errors import InvalidArgumentError
from tinydiff.tokenizer import Tokenizer
from tinydiff_kernels.rows import tokens_from_rows


class PromptWarning(UserWarning):
    """The prompt is used, but not all of it."""


class TextStack:
    """Tokenizers and encoders of a model.

    `zero_empty`: a negative prompt that was not given is a zero vector, not the encoding of "" (SDXL base).
    """

    def __init__(self, pairs: Sequence[tuple[Tokenizer, CLIPTextEncoder]], *, zero_empty: bool = False) -> None:
        self.pairs, self.zero_empty = tuple(pairs), zero_empty

    @property
    def width(self) -> int:
        """Channels of the context."""
        return sum(encoder.config.hidden_size for _, encoder in self.pairs)

    def encode(self, text: str, clip_skip: int | None = None) -> Prompt:
        """One text -> Prompt of 77 tokens. SDXL: both encoders' penultimate layers side by side, and the pooled
        vector of the second. `clip_skip` counts layers left out, as diffusers does."""
        check_prompt("prompt", text)
        hidden, pooled = [], None
        for tokenizer, encoder in self.pairs:
            skip = (clip_skip or 0) + (1 if encoder.penultimate else 0)
            if not 0 <= skip < encoder.config.layers:
                most = encoder.config.layers - 1 - (1 if encoder.penultimate else 0)
                raise InvalidArgumentError(f"clip_skip {clip_skip} is not possible: from 0 to {most}")
            out = encoder.forward(encoder.backend, tokenizer(text), skip)
            unnormed = encoder.penultimate
            hidden.append(tokens_from_rows(out.hidden if unnormed else out.normed)[0])
            pooled = out.pooled.array[0] if encoder.penultimate else None
        joined = np.concatenate(hidden, 1).astype(np.float32, copy=False)
        return Prompt(joined, None if pooled is None else pooled.astype(np.float32, copy=False))

    def condition(self, prompt: str, negative: str | None, clip_skip: int | None) -> Conditioning:
        """Warns (PromptWarning) of tokens beyond the 75 that fit."""
        self._warn_if_cut("prompt", prompt)
        positive = self.encode(prompt, clip_skip)
        if negative is None and self.zero_empty:
            zero = None if positive.pooled is None else np.zeros_like(positive.pooled)
            return Conditioning((positive,), Prompt(np.zeros_like(positive.hidden), zero))
        self._warn_if_cut("negative prompt", negative or "")
        return Conditioning((positive,), self.encode(negative or "", clip_skip))

    def _warn_if_cut(self, what: str, text: str) -> None:
        check_prompt(what, text)
        tokenizer = self.pairs[0][0]
        dropped = tokenizer.dropped(text)
        if dropped:
            shown = " ".join(dropped[:20]) + (" ..." if len(dropped) > 20 else "")
            room = tokenizer.max_length - 2
            message = f"the {what} is longer than {room} tokens; {len(dropped)} were dropped: {shown}"
            warnings.warn(message, PromptWarning, stacklevel=4)


def check_prompt(what: str, text: object) -> None:
    """Any text will do, except what no tokenizer can mean."""
    if not isinstance(text, str):
        raise InvalidArgumentError(f"the {what} must be text, not {type(text).__name__}")
    if "\x00" in text:
        raise InvalidArgumentError(f"the {what} holds a NUL character")
    if any("\ud800" <= c <= "\udfff" for c in text):
        raise InvalidArgumentError(f"the {what} is not valid Unicode (it was not UTF-8)")
