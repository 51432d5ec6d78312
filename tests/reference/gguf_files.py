"""GGUF files: a FLUX transformer, a T5 encoder with its tokenizer, one tensor of each type; and their reader."""

import os
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Type

import k_quants

PLAIN = (Type.F32, Type.F16, Type.BF16)
TYPES = [*PLAIN, Type.Q8_0, Type.Q5_0, Type.Q5_1, Type.Q4_0, Type.Q4_1, *k_quants.BYTES]


def encode(values, kind):
    return (
        k_quants.quantize(values, kind)
        if kind in k_quants.BYTES
        else gguf.quants.quantize(values, kind)
    )


def add(writer, name, tensor, kind):
    """Adds a tensor as `kind` where its rows allow that: else as F16, and as F32 with one dimension."""
    values = np.ascontiguousarray(tensor.float().numpy())
    if values.ndim == 1:
        kind = Type.F32
    elif values.shape[-1] % gguf.GGML_QUANT_SIZES[kind][0]:
        kind = Type.F16
    writer.add_tensor(name, encode(values, kind), raw_dtype=kind)


def close(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_transformer(path, tensors, file_type, kind_of, prefix=""):
    """Writes a transformer with Black Forest Labs' names; kind_of(name) is the type of its matrices."""
    writer = gguf.GGUFWriter(path, "flux")
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_file_type(file_type)
    for name, tensor in tensors.items():
        add(writer, prefix + name, tensor, kind_of(name))
    close(writer)


def add_tokenizer(writer, folder, vocab_size):
    """The tokenizer of a T5 as llama.cpp's converter stores it: pieces, then unused ids up to the embedding's rows."""
    from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2

    spec = sentencepiece_model_pb2.ModelProto()
    spec.ParseFromString((folder / "spiece.model").read_bytes())
    model = SentencePieceProcessor(model_file=os.fspath(folder / "spiece.model"))
    tokens = [f"[PAD{i}]".encode() for i in range(vocab_size)]
    scores = [-10000.0] * vocab_size
    kinds = [gguf.TokenType.UNUSED] * vocab_size
    for i in range(model.vocab_size()):
        tokens[i], scores[i] = model.IdToPiece(i).encode(), model.GetScore(i)
        kinds[i] = gguf.TokenType.NORMAL
        if model.IsUnknown(i):
            kinds[i] = gguf.TokenType.UNKNOWN
        elif model.IsControl(i):
            kinds[i] = gguf.TokenType.CONTROL
    writer.add_tokenizer_model("t5")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(kinds)
    writer.add_add_space_prefix(spec.normalizer_spec.add_dummy_prefix)
    writer.add_remove_extra_whitespaces(spec.normalizer_spec.remove_extra_whitespaces)
    writer.add_precompiled_charsmap(spec.normalizer_spec.precompiled_charsmap)
    gguf.SpecialVocab(folder, n_vocab=vocab_size).add_to_gguf(writer)


def write_t5(path, tensors, config, tokenizer, file_type, kind):
    """Writes a T5 encoder with llama.cpp's names and keys; `tokenizer` is a folder with spiece.model."""
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH.T5ENCODER])
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name("Tiny T5")
    writer.add_context_length(512)
    writer.add_embedding_length(config.d_model)
    writer.add_feed_forward_length(config.d_ff)
    writer.add_block_count(config.num_layers)
    writer.add_head_count(config.num_heads)
    writer.add_key_length(config.d_kv)
    writer.add_value_length(config.d_kv)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)
    writer.add_relative_attn_buckets_count(config.relative_attention_num_buckets)
    writer.add_layer_norm_rms_eps(config.layer_norm_epsilon)
    writer.add_file_type(file_type)
    add_tokenizer(writer, Path(tokenizer), config.vocab_size)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for name, tensor in tensors.items():
        add(writer, name, tensor, kind)
    close(writer)


def read(path, prefix=""):
    """The float32 values of a file's tensors, as the gguf package decodes them."""
    values = {}
    for tensor in gguf.GGUFReader(path).tensors:
        shape = [int(size) for size in reversed(tensor.shape)]
        decoded = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        name = tensor.name.removeprefix(prefix)
        values[name] = torch.from_numpy(np.array(decoded, np.float32)).reshape(shape)
    return values


def random_bytes(rng, kind, columns):
    """One row of random bits, with finite float16 factors in a quantised type and finite values in a float one."""
    block, size = gguf.GGML_QUANT_SIZES[kind]
    if kind in PLAIN:
        width = np.dtype(np.uint32 if kind == Type.F32 else np.uint16)
        bits = rng.integers(0, 1 << 8 * width.itemsize, columns, dtype=width.type, endpoint=False)
        exponent = {Type.F32: 0x7F800000, Type.F16: 0x7C00, Type.BF16: 0x7F80}[kind]
        bits[bits & width.type(exponent) == exponent] ^= width.type(exponent & -exponent)
        return bits.view(np.uint8)
    blocks = rng.integers(0, 256, (columns // block, size), dtype=np.uint8)
    set_factors(blocks, kind, lambda count: rng.integers(0, 1 << 16, count, dtype=np.uint16))
    return blocks.reshape(-1)


def set_factors(blocks, kind, make):
    """Sets the float16 factors of each block to the bits that `make(number of blocks)` gives, made finite."""
    last = {Type.Q2_K: [80, 82], Type.Q3_K: [108], Type.Q6_K: [208]}
    two = (Type.Q5_1, Type.Q4_1, Type.Q4_K, Type.Q5_K)
    for at in last.get(kind, [0, 2] if kind in two else [0]):
        bits = np.asarray(make(len(blocks)), np.uint16)
        bits = np.where(bits & 0x7C00 == 0x7C00, bits & 0x83FF, bits)
        blocks[:, at : at + 2] = bits.astype("<u2").reshape(-1, 1).view(np.uint8)


def rows_of_bits(rng, kind, columns):
    """Rows of a quantised type: ordinary values; zero, subnormal, negative and largest factors; extreme quants."""
    block, size = gguf.GGML_QUANT_SIZES[kind]
    ordinary = rng.standard_normal((1, columns)).astype(np.float32)
    rows = [np.asarray(encode(ordinary, kind)).reshape(-1)]
    factors = {
        "zero": lambda n: np.full(n, 0),
        "minus zero": lambda n: np.full(n, 0x8000),
        "subnormal": lambda n: rng.integers(1, 0x400, n) | rng.integers(0, 2, n) << 15,
        "negative": lambda n: rng.integers(0x8400, 0xC000, n),
        "largest": lambda n: np.where(rng.integers(0, 2, n), 0x7BFF, 0xFBFF),
    }
    for make in factors.values():
        blocks = rng.integers(0, 256, (columns // block, size), dtype=np.uint8)
        set_factors(blocks, kind, make)
        rows.append(blocks.reshape(-1))
    for fill in (0x00, 0xFF):
        blocks = np.full((columns // block, size), fill, np.uint8)
        set_factors(blocks, kind, lambda n: rng.integers(0x2000, 0x3C00, n))
        rows.append(blocks.reshape(-1))
    return np.stack([*rows, random_bytes(rng, kind, columns)])


def rows_of_floats(rng, kind, columns):
    one = {Type.F32: np.uint32, Type.F16: np.uint16, Type.BF16: np.uint16}[kind]
    bits = 8 * np.dtype(one).itemsize
    mantissa = {Type.F32: 23, Type.F16: 10, Type.BF16: 7}[kind]
    exponents = ((1 << (bits - 1)) - 1) & ~((1 << mantissa) - 1)
    edges = [0, 1, (1 << mantissa) - 1, 1 << mantissa, exponents - 1]
    edges += [edge | 1 << (bits - 1) for edge in edges]
    row = np.resize(np.array(edges, one), columns)
    return np.stack([row.view(np.uint8)] + [random_bytes(rng, kind, columns) for _ in range(2)])


def write_types(path, seed=1):
    """Writes one tensor a type, named as the type, and returns the float32 values that gguf decodes."""
    writer = gguf.GGUFWriter(path, "flux")
    for i, kind in enumerate(TYPES):
        rng = np.random.default_rng([seed, i])
        make = rows_of_floats if kind in PLAIN else rows_of_bits
        columns = 512 if kind in k_quants.BYTES else 128
        writer.add_tensor(kind.name, make(rng, kind, columns), raw_dtype=kind)
    close(writer)
    return read(path)
