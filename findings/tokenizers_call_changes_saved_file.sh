#!/usr/bin/env bash
# transformers 5.24.0 with tokenizers.
# Padding and truncation are arguments of one call in transformers, but that call leaves them in the Rust tokenizer
# behind it, and save_pretrained writes them into tokenizer.json. transformers ignores them when it reads that file;
# the tokenizers library, which owns the format, applies them.
# Seen: "a red circle" from the saved file: 3 ids by tokenizers before any call, 12 after one call with
# padding="max_length", max_length=12; by transformers 3 ids both times.
# Expected: a call that only asks for ids does not change what is saved, and both libraries read one file alike.
# Why it matters: whether a published tokenizer.json pads depends on what its author happened to call last. A reader
# of the format in another language must not take padding and truncation from the file if it is to agree with
# transformers, and a test on files saved without a call before would never show it.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet transformers==5.24.0

cd "$work"
TRANSFORMERS_VERBOSITY=error "$work/venv/bin/python" - <<'TRY'
import importlib.metadata
import json
import sys

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

print(*(f"{name} {importlib.metadata.version(name)}" for name in ("transformers", "tokenizers")))
words = ["[PAD]", "[UNK]", "a", "red", "circle"]
raw = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
raw.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="[PAD]", unk_token="[UNK]", model_max_length=77)

lengths = {}


def look(name):
    tokenizer.save_pretrained(name)
    stored = json.load(open(f"{name}/tokenizer.json"))
    by_rust = Tokenizer.from_file(f"{name}/tokenizer.json").encode("a red circle").ids
    by_transformers = AutoTokenizer.from_pretrained(name)("a red circle").input_ids
    lengths[name] = (len(by_rust), len(by_transformers))
    print(f"{name}: tokenizers {by_rust}, transformers {by_transformers}")
    print(f"  padding {stored['padding']}\n  truncation {stored['truncation']}")


look("before")
tokenizer("a red circle", padding="max_length", max_length=12, truncation=True)
look("after")

holds = lengths == {"before": (3, 3), "after": (12, 3)}
print("HOLDS (expected: 3 ids all four times)" if holds else "STALE: the behaviour has changed")
sys.exit(not holds)
TRY
