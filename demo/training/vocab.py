"""Makes both tokenizers from the prompts themselves and a little general English.

CLIP's is a byte-level BPE, T5's a sentencepiece unigram model; both are written as transformers
writes them, with every file that FLUX.1-dev has (vocab.json, merges.txt, tokenizer.json; spiece.model,
tokenizer.json).
"""

import argparse
import datetime
import decimal
import io
import json
import logging
import pathlib
import random
import statistics
import textwrap

from .scenes import scene

ENGLISH = (argparse, decimal, statistics, datetime, textwrap, logging, pathlib, random, json)
BOS, EOS = "<|startoftext|>", "<|endoftext|>"
CLIP_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def corpus():
    """20000 prompts and the sentences of some of Python's own documentation."""
    r = random.Random(1)
    texts = [scene(r)["prompt"] for _ in range(20000)]
    for m in ENGLISH:
        for doc in [m.__doc__] + [getattr(v, "__doc__", None) for v in vars(m).values()]:
            lines = doc.splitlines() if isinstance(doc, str) else []
            texts += [line.strip() for line in lines if line.strip()]
    return texts


def make_clip(folder, texts):
    """Byte-level BPE whose words end in </w>. The end token has the highest number: CLIP with the
    legacy eos_token_id 2 pools where the token number is highest."""
    import regex
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    model = models.BPE(unk_token=EOS, end_of_word_suffix="</w>", continuing_subword_prefix="")
    tk = Tokenizer(model)
    tk.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tk.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    split = regex.compile(CLIP_WORDS, regex.I)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=1020,
        end_of_word_suffix="</w>",
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tk.train_from_iterator([w for t in texts for w in split.findall(t.lower())], trainer)
    merges = json.loads(tk.to_str())["model"]["merges"]
    merges = [m if isinstance(m, str) else " ".join(m) for m in merges]
    joined = [m.replace(" ", "") for m in merges]
    vocab = {}
    for w in alphabet + [a + "</w>" for a in alphabet] + joined + [BOS, EOS]:
        vocab.setdefault(w, len(vocab))
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    special = {"bos_token": BOS, "eos_token": EOS, "pad_token": EOS, "unk_token": EOS}
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2))
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": 77,
        "do_lower_case": True,
        "add_prefix_space": False,
        "errors": "replace",
        **special,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2))
    CLIPTokenizer.from_pretrained(folder).backend_tokenizer.save(str(folder / "tokenizer.json"))


def make_t5(folder, texts):
    """A sentencepiece unigram model of 1000 pieces; T5's 100 extra ids follow."""
    import sentencepiece
    from transformers import T5TokenizerFast

    folder.mkdir(parents=True, exist_ok=True)
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=out,
        vocab_size=1000,
        model_type="unigram",
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        character_coverage=1.0,
        minloglevel=2,
    )
    (folder / "spiece.model").write_bytes(out.getvalue())
    special = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2))
    config = {
        "tokenizer_class": "T5Tokenizer",
        "model_max_length": 512,
        "extra_ids": 100,
        **special,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2))
    T5TokenizerFast.from_pretrained(folder).save_pretrained(folder)


def make_tokenizers(out):
    """Writes out/tokenizer and out/tokenizer_2 (out: a Path)."""
    texts = corpus()
    make_clip(out / "tokenizer", texts)
    make_t5(out / "tokenizer_2", texts)
