#!/usr/bin/env bash
# transformers 5.23.0, tokenizers 0.23.3, gguf 0.19.0, sentencepiece 0.2.3 (torch 2.11.0, which reading GGUF asks for).
# A sentencepiece model carries precompiled_charsmap, its normalisation (nmt_nfkc in every T5): ligatures, full-width and
# composed letters become those of the vocabulary. llama.cpp's converter stores it in the GGUF file, too, as
# tokenizer.ggml.precompiled_charsmap. The tokenizer that transformers makes of that file has no normaliser at all.
# Seen: from spiece.model normalizer Precompiled, from the GGUF file of the same model None. "fire" has the same ids from
# both; written with the ligature U+FB01, with full-width letters or with a combining accent it has <unk> from GGUF.
# Expected: the ids of spiece.model, or a warning.
# Why it matters: text that is pasted from a PDF, and NFD text as macOS makes it, is embedded as unknown tokens while all
# tests on plain ASCII pass. Take the tokenizer from spiece.model or tokenizer.json, not from the GGUF file.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet transformers==5.23.0 tokenizers==0.23.3 gguf==0.19.0 \
  sentencepiece==0.2.3 protobuf==7.36.2 torch==2.11.0 numpy==2.4.6

cd "$work"
TRANSFORMERS_VERBOSITY=error "$work/venv/bin/python" - <<'TRY'
import importlib.metadata
import sys

import gguf
import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from transformers import AutoTokenizer, T5TokenizerFast

print(*(f"{name} {importlib.metadata.version(name)}" for name in ("transformers", "gguf", "sentencepiece")))
words = ["fire", "camp fire", "a caf\u00e9", "red stars", "blue circle", "a large green square", "the cat"]
sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(words * 20), model_prefix="spiece", vocab_size=60, model_type="unigram", pad_id=0,
    eos_id=1, unk_id=2, bos_id=-1, normalization_rule_name="nmt_nfkc", hard_vocab_limit=False, minloglevel=2)
model = sentencepiece.SentencePieceProcessor(model_file="spiece.model")
spec = sentencepiece_model_pb2.ModelProto()
with open("spiece.model", "rb") as file:
    spec.ParseFromString(file.read())
size = model.vocab_size()
kinds = [gguf.TokenType.UNKNOWN if model.IsUnknown(i) else
         gguf.TokenType.CONTROL if model.IsControl(i) else gguf.TokenType.NORMAL for i in range(size)]

writer = gguf.GGUFWriter("t5.gguf", "t5encoder")
writer.add_name("t5")
writer.add_tokenizer_model("t5")
writer.add_tokenizer_pre("default")
writer.add_token_list([model.IdToPiece(i).encode() for i in range(size)])
writer.add_token_scores([model.GetScore(i) for i in range(size)])
writer.add_token_types(kinds)
writer.add_precompiled_charsmap(spec.normalizer_spec.precompiled_charsmap)
writer.add_add_space_prefix(True)
writer.add_remove_extra_whitespaces(True)
writer.add_pad_token_id(0)
writer.add_eos_token_id(1)
writer.add_unk_token_id(2)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()

files = T5TokenizerFast.from_pretrained(".", extra_ids=0)
packed = AutoTokenizer.from_pretrained(".", gguf_file="t5.gguf")
stored = gguf.GGUFReader("t5.gguf").fields["tokenizer.ggml.precompiled_charsmap"]
kept = bytes(stored.contents()) == spec.normalizer_spec.precompiled_charsmap
normalizers = [type(tokenizer.backend_tokenizer.normalizer).__name__ for tokenizer in (files, packed)]
print(f"the charsmap is in the file: {kept}; normalizer: {normalizers[0]}, from GGUF {normalizers[1]}")
seen = {}
for text in ("fire", "\ufb01re", "\uff46\uff49\uff52\uff45", "a cafe\u0301"):
    truth = [*model.EncodeAsIds(text), 1]
    ids = packed(text).input_ids
    seen[text] = (files(text).input_ids == truth, ids == truth, 2 in ids, 2 in truth)
    print(f"{ascii(text)}: sentencepiece {truth}, spiece.model {files(text).input_ids}, GGUF {ids}")

plain = seen.pop("fire")
holds = (kept and normalizers == ["Precompiled", "NoneType"] and plain == (True, True, False, False)
         and all(of == (True, False, True, False) for of in seen.values()))
print("HOLDS (expected: three equal lists a line)" if holds else "STALE: the behaviour has changed")
sys.exit(not holds)
TRY
