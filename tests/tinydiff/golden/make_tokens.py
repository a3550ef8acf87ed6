"""Write tokens.json: ids of transformers' CLIPTokenizer for `test_tokenizer.py`. Needs transformers.

python tests/tinydiff/golden/make_tokens.py
"""

from __future__ import annotations

import json
from pathlib import Path

import transformers

from tinydiff_weights.clip_bpe import clip_vocabulary

TEXTS = [
    "",
    "a photo of a cat",
    "A Photo  of\ta\nCAT",
    "caf\u00e9 cafe\u0301 \u00c5ngstr\u00f6m",
    "日本語 한국어 🐱👍🏽",
    "it's I'M don't 12 345 (a:1.2), [b]",
    "<|endoftext|> a<|startoftext|>b <|EndOfText|>",
    "\x00\x01 \x7f \ufeff",
    "a cat! !",
    "masterpiece, best quality, ultra-detailed, 8k uhd, dslr, soft lighting, film grain, Fujifilm XT3",
]


def main() -> None:
    vocab, merges = clip_vocabulary()
    rows = []
    for pad in ("<|endoftext|>", "!"):
        tokenizer = transformers.CLIPTokenizer(vocab=vocab, merges=merges, pad_token=pad, model_max_length=77)
        for text in TEXTS:
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            rows.append({"pad_token": pad, "text": text, "ids": ids})
    lines = ",\n".join(json.dumps(row) for row in rows)
    content = f'{{"transformers": "{transformers.__version__}", "rows": [\n{lines}\n]}}\n'
    Path(__file__).with_name("tokens.json").write_text(content)


if __name__ == "__main__":
    main()
