"""Makes tests/golden/tokenizer: small tokenizers and the ids that transformers gives for many prompts.

Run from the repository root, in an environment with transformers 5, sentencepiece and protobuf:
    python tests/reference/make_tokenizer_golden.py
Each cases_*.json names the files of one tokenizer directory (the test puts the same directory
together), and for each prompt the ids, with the padding at the end cut off.
"""

import json
import pathlib
import random
import shutil
import tempfile

import sentencepiece
import transformers
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "golden" / "tokenizer"
T5_LENGTH = 64
T5_PIECES = 220
WORDS = """a the of on in and with photograph illustration painting red green blue yellow large small
cat dog sitting standing beautiful mountain river city night light circle square triangle background
left right above below astronaut riding horse cafe garden portrait detailed cinematic it's don't
we're they've I'm you'll he'd unbelievably running quickly 1 2 3 10 2024""".split()

PIECES = [
    " ", "  ", "\t", "\n", "\r\n", "\u00a0", "\u3000", "\u200b", "\u200d", "\u200c", "\ufeff", "\u2028",
    "\u0085", "\x1c", "\x00", "\x01", "\x7f", "'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "'LL",
    "\u2019s", "''", '"', "...", "!!!", "?!", "--", "_", "#", "$", "\u20ac", "<|startoftext|>",
    "<|endoftext|>", "<|StartOfText|>", "<|ENDOFTEXT|>", "<|", "|>", "<pad>", "</s>", "<unk>", "<s>", "<PAD>",
    "\uff1cpad\uff1e", "<extra_id_0>", "<extra_id_99>", "<extra_id_100>", "<extra_id_", "\u00e9", "e\u0301",
    "\u00c0\u00c9\u00ce", "A\u030a\u0301", "\ufb01", "\ufb00", "\u00df", "\u1e9e", "\u0130", "I\u0307", "\u0131",
    "\u03a3", "\u039f\u0394\u039f\u03a3", "\u03c2", "\uff21", "\uff21\u0301", "\uff41\uff42", "\uff11\uff12",
    "\u2460", "\u00bd", "\u00b2", "\u2167", "\u2122", "\u2122\u0301", "\u2103", "\u337f", "\u00a9\u200d", "\u00ae\ufe0f",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001f3f3\ufe0f\u200d\U0001f308", "\U0001f1e9\U0001f1ea",
    "\U0001f44d\U0001f3fd", "\u2764\ufe0f", "\u65e5\u672c\u8a9e", "\u6f22\u5b57", "\ud55c\uad6d\uc5b4",
    "\u1112\u1161\u11ab", "\u1100\u1161\u11a7", "\u304b\u3099", "\uff76\uff9e",
    "\u0627\u0644\u0639\u0631\u0628\u064a\u0629", "\u0633\u064e\u0644\u064e\u0627\u0645", "\ufdfa",
    "\u0939\u093f\u0928\u094d\u0926\u0940", "\u0915\u094d\u0937", "\u0915\u094d\u0958\u0301", "\u0958\u0301",
    "\u0e44\u0e17\u0e22", "\u05e2\u05b4\u05d1\u05b0\u05e8\u05b4\u05d9\u05ea", "\u0440\u0443\u0441\u0441\u043a\u0438\u0439",
    "\u0418\u0306", "\ufffd", "\ue000", "\U000f0000", "\U0010ffff", "\u0378", "\U0001e4ec\u0301", "\u0301",
    "\u0307\u0323", "q\u0307\u0323", "\u0344", "\u1dfa\u0301", "\u1c89", "\ua7cb", "\ua7dc", "\U00010d50",
    "\U00016ea0", "\U00011935\U00011930", "\u0600a", "\u2581", "\u2581a", "a\u2581b", "\uff21\u0897", "\u00ad",
    "\u2060", "\u180e", "3.14", "1000000", "x\u00b2",
]


def prompts():
    rng = random.Random(20240801)
    texts = ["", " ", "\t\n", "a", "A photograph of an astronaut riding a horse"]
    texts += PIECES
    texts += [f"a{piece}b" for piece in PIECES]
    texts += [f"the {piece} cat" for piece in PIECES]
    for _ in range(150):
        parts = [rng.choice(WORDS + PIECES) for _ in range(rng.choice([2, 4, 8, 16]))]
        texts.append(rng.choice(["", " "]).join(parts))
    for _ in range(100):  # any characters of the planes in use
        codes = (rng.choice([rng.randrange(0x20, 0x250), rng.randrange(0x250, 0x3400),
                             rng.randrange(0xa000, 0xd7ff), rng.randrange(0xe000, 0x20000)])
                 for _ in range(rng.randrange(1, 12)))
        texts.append("".join(map(chr, codes)))
    cases = [{"text": text} for text in texts]
    for text, times in (("a", 65536), ("ab", 5000), ("cat ", 16384), ("<|endoftext|>", 5000),
                        ("\u0301", 32768), ("\U0001f468\u200d", 9000), ("</s> ", 9000), ("!", 65536),
                        (" ", 65536), ("\u0915\u094d", 10000), ("photographs of cats. ", 60)):
        cases.append({"text": text, "times": times})
    return cases


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=True, separators=(",", ":")) + "\n")


def corpus():
    rng = random.Random(7)
    lines = [" ".join(rng.choice(WORDS) for _ in range(10)) for _ in range(2000)]
    rare = [piece for piece in PIECES if piece.isprintable() and "<" not in piece]
    return lines + [" ".join(rng.choice(WORDS + rare) for _ in range(10)) for _ in range(600)]


def train_clip():
    """OpenAI's layout: bytes, bytes with </w>, merges, the two marks. One byte is left out, so that
    the unknown token is met."""
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    bpe.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"),
                             behavior="removed", invert=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False)])
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet(), key=lambda c: (ord(c) > 255, ord(c)))
    bpe.train_from_iterator(corpus(), trainers.BpeTrainer(
        vocab_size=900, end_of_word_suffix="</w>", initial_alphabet=alphabet, show_progress=False))
    merges = [m if isinstance(m, str) else " ".join(m) for m in json.loads(bpe.to_str())["model"]["merges"]]
    letters = [c for c in alphabet if c != "\u0143"]  # byte 0xad
    merges = [m for m in merges if "\u0143" not in m]
    names = letters + [c + "</w>" for c in letters]
    names += [name for name in dict.fromkeys(m.replace(" ", "") for m in merges) if name not in set(names)]
    names += ["<|startoftext|>", "<|endoftext|>"]
    return {name: i for i, name in enumerate(names)}, merges


def make_clip():
    vocab, merges = train_clip()
    write(GOLDEN / "clip/vocab.json", vocab)
    (GOLDEN / "clip/merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    start, end = "<|startoftext|>", "<|endoftext|>"
    token = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    write(GOLDEN / "clip/published.json", {
        "add_prefix_space": False, "bos_token": start, "eos_token": end, "pad_token": end, "unk_token": end,
        "model_max_length": 77, "tokenizer_class": "CLIPTokenizer", "do_lower_case": True,
        "added_tokens_decoder": {str(vocab[name]): {"content": name, **token, "special": True}
                                 for name in (start, end)}})
    write(GOLDEN / "clip/map.json", {
        "bos_token": {"content": start, **token}, "eos_token": {"content": end, **token, "rstrip": True},
        "unk_token": {"content": end, **token}, "pad_token": "!"})
    write(GOLDEN / "clip/short.json", {
        "model_max_length": 16, "padding_side": "left", "truncation_side": "left",
        "additional_special_tokens": [
            {"__type": "AddedToken", "content": "cat", "single_word": True, "lstrip": True, "special": True},
            {"__type": "AddedToken", "content": "A\u0301", "normalized": True, "special": False}]})
    added = [{"id": vocab[name], "content": name, "single_word": False, "lstrip": False, "rstrip": False,
              "normalized": False, "special": True} for name in (start, end)]
    write(GOLDEN / "clip/tokenizer.json", {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
        "pre_tokenizer": None, "post_processor": None, "decoder": None,
        "model": {"type": "BPE", "dropout": None, "unk_token": end, "continuing_subword_prefix": "",
                  "end_of_word_suffix": "</w>", "fuse_unk": False, "vocab": vocab, "merges": merges}})
    slow = {"vocab.json": "clip/vocab.json", "merges.txt": "clip/merges.txt"}
    fast = {"tokenizer.json": "clip/tokenizer.json"}
    limit = {"tokenizer_config.json": "clip/limit.json"}
    write(GOLDEN / "clip/limit.json", {"model_max_length": 77})
    cases("clip_published", "clip", {**slow, "tokenizer_config.json": "clip/published.json"})
    cases("clip_map", "clip", {**slow, **limit, "special_tokens_map.json": "clip/map.json"})
    cases("clip_json", "clip", {**fast, **limit})
    cases("clip_short", "clip", {**fast, "tokenizer_config.json": "clip/short.json"})


def make_t5():
    (GOLDEN / "t5").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        text = pathlib.Path(folder) / "corpus.txt"
        text.write_text("\n".join(line.replace("\n", " ") for line in corpus()))
        sentencepiece.SentencePieceTrainer.train(
            input=str(text), model_prefix=folder + "/spiece", vocab_size=T5_PIECES, model_type="unigram",
            normalization_rule_name="nmt_nfkc", pad_id=0, eos_id=1, unk_id=2, bos_id=-1, num_threads=1,
            character_coverage=0.995, minloglevel=2)
        shutil.copy(folder + "/spiece.model", GOLDEN / "t5/spiece.model")
    extra = [f"<extra_id_{i}>" for i in range(100)]
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    decoder = {str(i): {"content": name, **flags} for i, name in enumerate(["<pad>", "</s>", "<unk>"])}
    for i, name in enumerate(reversed(extra)):
        decoder[str(T5_PIECES + i)] = {"content": name, **flags, "lstrip": True, "rstrip": True}
    write(GOLDEN / "t5/published.json", {
        "added_tokens_decoder": decoder, "additional_special_tokens": extra, "eos_token": "</s>",
        "extra_ids": 100, "model_max_length": 512, "pad_token": "<pad>", "tokenizer_class": "T5Tokenizer",
        "unk_token": "<unk>"})
    model = {"spiece.model": "t5/spiece.model"}
    cases("t5_spiece", "t5", model)
    cases("t5_published", "t5", {**model, "tokenizer_config.json": "t5/published.json"})


def load(kind, files):
    with tempfile.TemporaryDirectory() as folder:
        for name, source in files.items():
            shutil.copy(GOLDEN / source, pathlib.Path(folder) / name)
        kinds = {"clip": transformers.CLIPTokenizer, "t5": transformers.T5TokenizerFast}
        return kinds[kind].from_pretrained(folder)


def cases(name, kind, files):
    tokenizer = load(kind, files)
    length = tokenizer.model_max_length if kind == "clip" else T5_LENGTH
    rows = []
    for case in prompts():
        row = tokenizer([case["text"] * case.get("times", 1)], padding="max_length", max_length=length,
                        truncation=True).input_ids[0]
        assert len(row) == length
        while len(row) > 1 and row[-1] == tokenizer.pad_token_id == row[-2]:
            row.pop()
        rows.append(row)
    write(GOLDEN / f"cases_{name}.json", {
        "made_with": f"transformers {transformers.__version__}", "kind": kind, "files": files,
        "max_length": length, "pad": tokenizer.pad_token_id, "ids": rows})


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    write(GOLDEN / "prompts.json", prompts())
    make_clip()
    make_t5()
