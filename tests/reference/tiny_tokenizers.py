"""Trains tiny CLIP and T5 tokenizers in the layout of the published FLUX checkpoints.

Both learn from sentences made here, in several scripts, so that prompts with accents, CJK and emoji give known and
unknown pieces alike. The files are what `CLIPTokenizer` and `T5TokenizerFast` load.
"""

import io
import json
import random
from collections import Counter
from pathlib import Path

import regex
import sentencepiece
from transformers import CLIPTokenizer, T5TokenizerFast

ADJECTIVES = "red green blue small large old bright dark wooden quiet golden painted broken tall soft".split()
NOUNS = "cat dog house river mountain bottle lantern garden bridge boat tree window street robot castle bird".split()
PLACES = [
    "in the rain",
    "on a table",
    "under the stars",
    "by the sea",
    "at night",
    "in the morning",
    "near a wall",
]
STYLES = [
    "a photo of",
    "an oil painting of",
    "a drawing of",
    "a close-up of",
    "a poster with",
    "watercolour of",
]
HEADS = "re un in over out under light sun moon water wood stone fire wind rain snow".split()
STEMS = "paint build turn play walk light shine land fall side work town form view mark line ground storm".split()
TAILS = ["", "s", "ed", "ing", "er", "less", "ful", "ly"]
OTHER = [
    "it's a dog that doesn't bark, they're happy and we've seen it; I'm sure you'll say he'd go",
    "numbers 0 1 2 3 4 5 6 7 8 9, 12 apples, 3.14 and 1999 (50%) #tag user@site #1 50-60 a/b c_d",
    "un café à la crème près de la forêt, l'été déjà passé, garçon naïf",
    "ein schöner grüner Garten mit Äpfeln, Straße und Fluss über dem Tal",
    "niño pequeño con una montaña, corazón y señal ¿dónde está? ¡aquí!",
    "маленький дом у реки, красная лодка и большое дерево",
    "ένα μικρό σπίτι δίπλα στη θάλασσα",
    "一只猫坐在桌子上 红色的房子 山和水",
    "猫が机の上に座っています 赤い家 カメラ",
    "고양이가 집 앞에 있다",
    "a cat 🐱 and a rocket 🚀 with sparkles ✨ and a heart ❤",
    'he said: "hello!" -- it is 5 o\'clock... (really?) [yes] {no} <tag> a+b=c & d*e ~ $9 ^2 |x|',
]
CLIP_WORDS = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+", regex.I)
BOS, EOS = "<|startoftext|>", "<|endoftext|>"


def sentences(count=3000, seed=1):
    """Returns `count` training sentences, the same for the same seed."""
    rng = random.Random(seed)
    pick = rng.choice
    made = [
        f"{pick(STYLES)} a {pick(ADJECTIVES)} {pick(NOUNS)} {pick(PLACES)} {pick(HEADS)}{pick(STEMS)}{pick(TAILS)}"
        for _ in range(count)
    ]
    return made + OTHER * (count // 100)


def write_json(path, value):
    Path(path).write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def byte_letters():
    """The printable letter that byte-level BPE writes for each byte: itself, or one from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {b: chr(b) if b in printable else chr(0x100 + others.index(b)) for b in range(256)}


def learn_merges(words, letters, count):
    """Learns `count` merges from a Counter of words: the most frequent pair each time, the first in order of equals.
    (The trainer of the tokenizers library breaks ties at random.)"""
    spelled = {}
    for word, times in words.items():
        symbols = [letters[byte] for byte in word.encode("utf-8")]
        spelled[(*symbols[:-1], symbols[-1] + "</w>")] = times
    merges = []
    for _ in range(count):
        pairs = Counter()
        for symbols, times in spelled.items():
            for pair in zip(symbols, symbols[1:]):
                pairs[pair] += times
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        spelled = {merged(symbols, best): times for symbols, times in spelled.items()}
    return merges


def merged(symbols, pair):
    if pair[0] not in symbols:
        return symbols
    out = []
    for symbol in symbols:
        if out and (out[-1], symbol) == pair:
            out[-1] += symbol
        else:
            out.append(symbol)
    return tuple(out)


def write_clip_tokenizer(
    folder, merges=300, end_is_highest=True, tokenizer_json=True, vocab_files=True
):
    """Writes a byte-level BPE tokenizer with `</w>` word ends into `folder` and returns (vocab size, end token id).

    end_is_highest: the two special tokens follow all others, as in the published vocabulary. Otherwise they stand
        before the merged tokens, so that the end token is not the highest id of a prompt.
    tokenizer_json, vocab_files: which of the two forms is written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    letters = byte_letters()
    words = Counter(word for text in sentences() for word in CLIP_WORDS.findall(text.lower()))
    pairs = [" ".join(pair) for pair in learn_merges(words, letters, merges)]
    alphabet = sorted(letters.values())
    singles = alphabet + [letter + "</w>" for letter in alphabet]
    longer = [pair.replace(" ", "") for pair in pairs]
    order = singles + longer + [BOS, EOS] if end_is_highest else singles + [BOS, EOS] + longer
    vocab = {}
    for token in order:
        vocab.setdefault(token, len(vocab))
    write_json(folder / "vocab.json", vocab)
    (folder / "merges.txt").write_text(
        "#version: 0.2\n" + "\n".join(pairs) + "\n", encoding="utf-8"
    )
    special = {"bos_token": BOS, "eos_token": EOS, "pad_token": EOS, "unk_token": EOS}
    write_json(folder / "special_tokens_map.json", special)
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": 77,
        "do_lower_case": True,
        "errors": "replace",
    }
    write_json(folder / "tokenizer_config.json", {**config, "add_prefix_space": False, **special})
    if tokenizer_json:
        backend = CLIPTokenizer.from_pretrained(folder).backend_tokenizer
        (folder / "tokenizer.json").write_text(backend.to_str(pretty=False), encoding="utf-8")
    if not vocab_files:
        (folder / "vocab.json").unlink()
        (folder / "merges.txt").unlink()
    return len(vocab), vocab[EOS]


def write_t5_tokenizer(folder, pieces=500, tokenizer_json=True, spiece=True):
    """Writes a sentencepiece unigram tokenizer (nmt_nfkc, no byte fallback) and returns its size with 100 extra ids."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences()),
        model_writer=model,
        vocab_size=pieces,
        model_type="unigram",
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        character_coverage=0.9998,
        num_threads=1,
        minloglevel=2,
    )
    (folder / "spiece.model").write_bytes(model.getvalue())
    special = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    write_json(folder / "special_tokens_map.json", special)
    config = {
        "tokenizer_class": "T5Tokenizer",
        "model_max_length": 512,
        "extra_ids": 100,
        **special,
    }
    write_json(folder / "tokenizer_config.json", config)
    loaded = T5TokenizerFast.from_pretrained(folder)
    if tokenizer_json:
        (folder / "tokenizer.json").write_text(
            loaded.backend_tokenizer.to_str(pretty=False), encoding="utf-8"
        )
    if not spiece:
        (folder / "spiece.model").unlink()
    return len(loaded)
