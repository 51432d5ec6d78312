"""Checkpoints that cannot be used, and the error each gives."""

import json
import os
import pathlib
import shutil
import struct
import subprocess
import unittest

from harness import (
    DEV,
    SCHNELL,
    SMALL,
    CliTest,
    add_cases,
    read_safetensors,
    run,
    write_safetensors,
)

TRANSFORMER = "transformer/diffusion_pytorch_model.safetensors"
SHARD_INDEX = "transformer/diffusion_pytorch_model.safetensors.index.json"
CLIP = "text_encoder/model.safetensors"


def edit_json(name: str, change):
    """A spoiler that changes a JSON file through `change(object)`."""

    def spoil(root: pathlib.Path) -> None:
        content = json.loads((root / name).read_text())
        change(content)
        (root / name).write_text(json.dumps(content))

    return spoil


def set_key(name: str, key: str, value):
    return edit_json(name, lambda content: content.update({key: value}))


def content(name: str, data: bytes):
    """A spoiler that replaces a file's content."""
    return lambda root: (root / name).write_bytes(data)


def cut(name: str, keep):
    """A spoiler that keeps the first bytes of a file, or a share of them."""

    def spoil(root: pathlib.Path) -> None:
        data = (root / name).read_bytes()
        (root / name).write_bytes(data[: int(len(data) * keep) if keep < 1 else keep])

    return spoil


def remove(name: str):
    def spoil(root: pathlib.Path) -> None:
        path = root / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return spoil


def replace(name: str, make):
    """A spoiler that puts something else where a file was."""

    def spoil(root: pathlib.Path) -> None:
        (root / name).unlink()
        make(root / name)

    return spoil


def cyclic(name: str):
    """A spoiler that puts a link to itself where a file or directory was."""

    def spoil(root: pathlib.Path) -> None:
        remove(name)(root)
        (root / name).symlink_to((root / name).name)

    return spoil


def edit_header(name: str, change):
    """A spoiler that changes the header of a safetensors file through `change(header)`."""

    def spoil(root: pathlib.Path) -> None:
        header, data = read_safetensors(root / name)
        changed = change(header)
        write_safetensors(root / name, header if changed is None else changed, data)

    return spoil


def edit_tensor(key: str, value, tensor: str = "final_layer_norm.bias"):
    """A spoiler that sets one entry of a tensor of the CLIP weights."""

    def change(header: dict) -> None:
        name = next(name for name in header if name.endswith(tensor))
        header[name][key] = value

    return edit_header(CLIP, change)


def not_finite(root: pathlib.Path) -> None:
    """NaN in a tensor that each prompt meets."""
    header, data = read_safetensors(root / CLIP)
    name = next(name for name in header if name.endswith("final_layer_norm.bias"))
    begin, end = header[name]["data_offsets"]
    write_safetensors(root / CLIP, header, data[:begin] + b"\xff" * (end - begin) + data[end:])


def as_fp8(root: pathlib.Path) -> None:
    """A tensor that each prompt meets, stored as fp8 would be."""

    def change(header: dict) -> None:
        name = next(name for name in header if name.endswith("final_layer_norm.bias"))
        begin, end = header[name]["data_offsets"]
        header[name] |= {"dtype": "F8_E5M2", "shape": [end - begin]}

    edit_header(CLIP, change)(root)


def first_two(header: dict) -> list:
    """Names of the tensors that come first in the data."""
    names = [name for name in header if name != "__metadata__"]
    return sorted(names, key=lambda name: header[name]["data_offsets"][0])[:2]


def overlap(header: dict) -> None:
    first, second = first_two(header)
    size = header[second]["data_offsets"][1] - header[second]["data_offsets"][0]
    begin = header[first]["data_offsets"][0]
    header[second]["data_offsets"] = [begin, begin + size]


def rename_tensor(header: dict) -> None:
    name = next(name for name in header if name.endswith("final_layer_norm.bias"))
    header[name + "_renamed"] = header.pop(name)


def transpose_tensor(header: dict) -> None:
    name = next(name for name in header if name.endswith("mlp.fc1.weight"))
    header[name]["shape"].reverse()


def name_twice(header: dict) -> bytes:
    name = first_two(header)[0]
    text = json.dumps(header)
    return (text[:-1] + "," + json.dumps(name) + ":" + json.dumps(header[name]) + "}").encode()


def append(name: str, data: bytes):
    return lambda root: (root / name).write_bytes((root / name).read_bytes() + data)


def set_shard(value):
    """A spoiler that places one tensor of the transformer in another file."""

    def change(index: dict) -> None:
        index["weight_map"][next(iter(index["weight_map"]))] = value

    return edit_json(SHARD_INDEX, change)


INDEX_CASES = [
    ("index_missing", remove("model_index.json"), "there is no model_index.json; give"),
    ("index_cut", cut("model_index.json", 0.5), "model_index.json: .*JSON"),
    ("index_empty", content("model_index.json", b""), "model_index.json: the file is empty"),
    ("index_list", content("model_index.json", b"[1, 2]"), "_class_name"),
    ("index_binary", content("model_index.json", os.urandom(99)), "model_index.json: .*JSON"),
    ("index_deep", content("model_index.json", b"[" * 200000), "model_index.json: .*(deep|nest)"),
    ("index_huge", content("model_index.json", b" " * (65 << 20)), "model_index.json: .*bytes"),
    ("index_directory", replace("model_index.json", os.mkdir), "not a regular file"),
    ("index_newer", set_key("model_index.json", "flux_triton", {"format": 2}),
     "made by a newer version of this program: its format is 2, and this one reads formats up to 1"),
    ("index_format", set_key("model_index.json", "flux_triton", {"format": "1"}), "'format' of"),
    ("index_own_key", set_key("model_index.json", "flux_triton", {"size": 1}),
     "'size' of 'flux_triton' is not known: use default_size, format and name"),
    ("index_own_list", set_key("model_index.json", "flux_triton", []), "is \\[\\], expected an obj"),
    ("index_size", set_key("model_index.json", "flux_triton", {"default_size": 512}),
     "'default_size' of 'flux_triton' is 512, expected a text such as"),
    ("index_size_odd", set_key("model_index.json", "flux_triton", {"default_size": "512x500"}),
     "default_size 512x500: 500 is not a multiple of"),
    ("index_fifo", replace("model_index.json", os.mkfifo), "not a regular file"),
    (
        "index_cyclic",
        replace("model_index.json", lambda path: path.symlink_to(path.name)),
        "model_index.json: cannot be opened: Too many levels",
    ),
    (
        "other_pipeline",
        set_key("model_index.json", "_class_name", "StableDiffusionPipeline"),
        "StableDiffusionPipeline.*expected FluxPipeline",
    ),
    (
        "unknown_class",
        set_key("model_index.json", "transformer", ["diffusers", "SD3Transformer2DModel"]),
        "'transformer' has class 'SD3Transformer2DModel', expected FluxTransformer2DModel",
    ),
    (
        "component_unnamed",
        edit_json("model_index.json", lambda index: index.pop("vae")),
        "component 'vae' is missing",
    ),
    ("component_missing", remove("text_encoder_2"), "text_encoder_2: .*missing"),
    ("component_cyclic", cyclic("text_encoder_2"), "text_encoder_2: cannot be opened: Too many levels"),
    ("weights_cyclic", cyclic("text_encoder/model.safetensors"), "safetensors: cannot be opened: Too many levels"),
]

CONFIG_CASES = [
    ("config_missing", remove("vae/config.json"), "vae/config.json: cannot be opened"),
    ("config_not_utf8", content("vae/config.json", b'{"a": "\xff\xfe"}'), "vae/config.json: .*JSON"),
    (
        "config_negative",
        set_key("text_encoder/config.json", "hidden_size", -24),
        "'hidden_size' is -24: expected an integer from 1",
    ),
    (
        "config_huge",
        set_key("text_encoder_2/config.json", "d_ff", 1 << 62),
        "'d_ff' is 4611686018427387904: expected an integer",
    ),
    (
        "config_text_for_number",
        set_key("transformer/config.json", "num_layers", "two"),
        "'num_layers' is \"two\": expected an integer",
    ),
    (
        "config_fraction",
        set_key("transformer/config.json", "num_layers", 1.5),
        "'num_layers' is 1.5: expected an integer",
    ),
    (
        "config_heads_do_not_divide",
        set_key("text_encoder/config.json", "num_attention_heads", 7),
        "hidden_size 24 is not a multiple of num_attention_heads 7",
    ),
    (
        "config_parts_differ",
        set_key("transformer/config.json", "joint_attention_dim", 41),
        "'joint_attention_dim' is 41, expected 40",
    ),
    (
        "config_more_layers_than_weights",
        set_key("transformer/config.json", "num_layers", 3),
        "tensor .*transformer_blocks.2.*",
    ),
    (
        "config_activation",
        set_key("text_encoder/config.json", "hidden_act", "mish"),
        "'hidden_act' is \"mish\"",
    ),
    (
        "config_scheduler_shift",
        set_key("scheduler/scheduler_config.json", "time_shift_type", "cubic"),
        "'time_shift_type' is \"cubic\"",
    ),
    (
        "config_rope_axes",
        set_key("transformer/config.json", "axes_dims_rope", [2, 4, 8]),
        "axes_dims_rope",
    ),
    (
        "config_vae_groups",
        set_key("vae/config.json", "norm_num_groups", 5),
        "norm_num_groups",
    ),
]

WEIGHT_CASES = [
    ("weights_missing", remove(CLIP), "text_encoder: neither model.safetensors nor"),
    ("weights_empty", content(CLIP, b""), "model.safetensors: the file is empty"),
    ("weights_tiny", content(CLIP, b"\x04\0\0\0"), "4 bytes, shorter than its length field"),
    ("weights_cut", cut(CLIP, 0.5), "model.safetensors: .*data offsets"),
    ("weights_cut_in_header", cut(CLIP, 100), "a header of .* bytes does not fit into 100 bytes"),
    (
        "weights_header_huge",
        content(CLIP, struct.pack("<Q", 1 << 63) + b"{}"),
        "a header of 9223372036854775808 bytes does not fit",
    ),
    ("weights_torch", content(CLIP, b"\x80\x02}q\x00." + bytes(100)), "is a pickle file of torch"),
    ("weights_no_json", edit_header(CLIP, lambda _: b"what is this"), "header is not JSON"),
    ("weights_list", edit_header(CLIP, lambda _: b"[]"), "header is not a JSON object"),
    ("weights_deep", edit_header(CLIP, lambda _: b'{"a":' + b"[" * 5000), "nests deeper"),
    ("weights_trailing", append(CLIP, b"more"), "end at byte .* of .* bytes of data"),
    ("weights_overlap", edit_header(CLIP, overlap), "begins at byte .*, the one before ends at"),
    ("weights_twice", edit_header(CLIP, name_twice), "is named twice"),
    ("weights_offset_negative", edit_tensor("data_offsets", [-8, 88]), "not a non-negative"),
    ("weights_offset_beyond", edit_tensor("data_offsets", [0, 1 << 40]), "do not fit into"),
    ("weights_offset_reversed", edit_tensor("data_offsets", [96, 0]), "do not fit into"),
    ("weights_offset_single", edit_tensor("data_offsets", [0]), "is not a pair"),
    ("weights_offset_float", edit_tensor("data_offsets", [0.5, 96]), "not a non-negative"),
    ("weights_size_negative", edit_tensor("shape", [-24]), "not a non-negative"),
    ("weights_size_overflow", edit_tensor("shape", [1 << 40, 1 << 40]), "too large"),
    ("weights_size_wrong", edit_tensor("shape", [25]), "takes 100 bytes, .* hold 96"),
    ("weights_lfs", content(CLIP, b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
     "text_encoder/model.safetensors: is a git LFS pointer"),
    ("config_web_page", content("vae/config.json", b"<!DOCTYPE html><html>"),
     "vae/config.json: is a web page"),
    ("config_refused", content("vae/config.json", b"Access to model a/b is restricted."),
     "vae/config.json: .*accept the model's licence"),
    ("quantized", set_key("transformer/config.json", "quantization_config",
                          {"quant_method": "bitsandbytes", "load_in_4bit": True}),
     "transformer/config.json: 'quantization_config' is \"bitsandbytes\""),
    ("weights_variant", lambda root: (root / CLIP).rename(root / "text_encoder/model.fp16.safetensors"),
     "but model.fp16.safetensors; take that variant with --variant fp16"),
    ("weights_pickle", lambda root: (root / CLIP).rename(root / "text_encoder/pytorch_model.bin"),
     "but pytorch_model.bin, a pickle file of torch"),
    ("weights_fp8", as_fp8, "final_layer_norm.bias' is stored as F8_E5M2, expected F32"),
    ("weights_rank", edit_tensor("shape", [1] * 65 + [24]), "not a list of at most"),
    ("weights_dtype_unknown", edit_tensor("dtype", "F8_E4M3"), "F8_E4M3 takes 24 bytes"),
    ("weights_dtype_number", edit_tensor("dtype", 7), "dtype 7 is not a text"),
    ("weights_dtype_integer", edit_tensor("dtype", "I32"), "final_layer_norm.bias.*i32"),
    ("weights_tensor_missing", edit_header(CLIP, rename_tensor), "final_layer_norm.bias.* missing"),
    ("weights_shape", edit_header(CLIP, transpose_tensor), "fc1.weight.*\\[24, 50\\].*\\[50, 24\\]"),
    ("weights_directory", replace(CLIP, os.mkdir), "not a regular file"),
    ("weights_fifo", replace(CLIP, os.mkfifo), "not a regular file"),
    ("weights_dangling", replace(CLIP, lambda path: path.symlink_to("gone")), "neither model.safe"),
]

SHARD_CASES = [
    ("shard_missing", set_shard("gone.safetensors"), "gone.safetensors: cannot be opened"),
    ("shard_outside", set_shard("../vae/x.safetensors"), "must be a file beside its index"),
    ("shard_absolute", set_shard("/etc/passwd"), "must be a file beside its index"),
    ("shard_number", set_shard(3), "expected a file name"),
    ("shard_no_map", set_key(SHARD_INDEX, "weight_map", []), "no object 'weight_map'"),
    (
        "shard_wrong",
        set_shard("diffusion_pytorch_model-00003-of-00003.safetensors"),
        "tensor .* is missing, although .*index.json places it there",
    ),
    (
        "shard_twice",
        lambda root: shutil.copy(
            root / "transformer/diffusion_pytorch_model-00001-of-00003.safetensors",
            root / "transformer/diffusion_pytorch_model-00002-of-00003.safetensors",
        ),
        "is in .* too|is missing, although",
    ),
    ("tokenizer_cut", cut("tokenizer/vocab.json", 0.5), "tokenizer/vocab.json: "),
    ("tokenizer_missing", remove("tokenizer/vocab.json"), "tokenizer"),
    ("merges_of_others", content("tokenizer/merges.txt", b"no where\n"), "tokenizer/merges.txt: merge 0"),
    ("merges_binary", content("tokenizer/merges.txt", os.urandom(300)), "tokenizer/merges.txt"),
    ("spiece_cut", cut("tokenizer_2/spiece.model", 0.5), "tokenizer_2/spiece.model: "),
    ("spiece_missing", remove("tokenizer_2/spiece.model"), "tokenizer_2"),
]


def more_words(root: pathlib.Path) -> None:
    """A tokenizer that gives ids which the text encoder has no rows for."""
    tokenizer = json.loads((root / "tokenizer/tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    for piece in vocabulary:
        vocabulary[piece] += 100000
    (root / "tokenizer/tokenizer.json").write_text(json.dumps(tokenizer))


TOKENIZER_CASES = [
    ("tokenizer_json_cut", cut("tokenizer/tokenizer.json", 0.5), "tokenizer/tokenizer.json: "),
    (
        "tokenizer_json_other",
        content("tokenizer_2/tokenizer.json", b'{"model": {"type": "WordPiece"}}'),
        "tokenizer_2/tokenizer.json: ",
    ),
    ("tokenizer_empty", lambda root: [p.unlink() for p in (root / "tokenizer").iterdir()],
     "tokenizer"),
    ("tokenizer_ids_too_large", more_words, "tokenizer"),
]
NOT_FINITE = "output pooled_prompt_embeds of clip_encoder holds values that are not finite: the .* f32$"
RESULT_CASES = [("weights_not_finite", not_finite, NOT_FINITE)]


class BadCheckpointTest(CliTest):
    """`generate` says what is wrong with a checkpoint, and leaves no file."""

    def run_case(self, source, spoil, pattern):
        checkpoint = self.copy_checkpoint(source)
        spoil(checkpoint)
        output = self.directory / "output"
        output.mkdir()
        result = run(
            "generate", checkpoint, "--prompt", "a star", *SMALL, "-o", output / "image.png"
        )
        self.assert_error(result, 1, pattern)
        self.assertEqual(result.out, "")
        self.assert_no_files(output)

    def test_no_such_directory(self):
        self.assert_error(run("inspect", self.directory / "none"), 1, "none: no such file or directory")

    def test_a_directory_that_must_not_be_read(self):
        closed = self.directory / "closed"
        closed.mkdir(mode=0)
        options = {"preexec_fn": lambda: os.setuid(65534)} if os.geteuid() == 0 else {}
        for command in (["inspect"], ["generate", "--prompt", "a"]):
            try:
                result = run(*command, closed / "flux", **options)
            except (PermissionError, subprocess.SubprocessError):
                self.skipTest("another user may not run the program")
            self.assert_error(result, 1, "flux.*: cannot be (used|opened): Permission denied")

    def test_source_is_a_file(self):
        self.assert_error(run("inspect", DEV / "model_index.json"), 1, "is a file, but none of weights")
        weights = DEV / "vae/diffusion_pytorch_model.safetensors"
        self.assert_error(run("inspect", weights), 1, "holds no transformer of FLUX.1, but 'vae'; .*--vae$")

    def test_source_is_a_link_to_itself(self):
        (self.directory / "loop").symlink_to("loop")
        for source in (self.directory / "loop", self.directory / "loop/flux1-dev.gguf"):
            for command in (["inspect", source], ["generate", source, "--prompt", "x", "-o", "x.png"]):
                self.assert_error(run(*command), 1, "loop.*: cannot be opened: Too many levels")

    def test_source_is_a_component(self):
        self.assert_error(run("inspect", DEV / "vae/"), 1, f"component of the checkpoint {DEV}: give")

    def test_source_is_around_checkpoints(self):
        around = self.directory / "around"
        (around / "notes").mkdir(parents=True)
        (around / "notes/model.ckpt").touch()
        (around / "b").symlink_to(DEV)
        (around / "flux1-dev.safetensors").touch()
        self.assert_error(run("inspect", around), 1, f"it holds a checkpoint: give {around}/b$")
        (around / "a").symlink_to(SCHNELL)
        self.assert_error(
            run("inspect", around), 1, f"it holds 2 checkpoints: give one of them, such as {around}/a$"
        )

    def test_source_is_a_part_of_a_repository(self):
        repository = self.directory / "repository"
        for name, models, given in [
            ("", "", repository),
            ("one", "one_", repository / "one"),
            ("two", "", repository / "bls"),
        ]:
            options = ["--name", name] if name else []
            self.assertEqual(run("convert", DEV, repository, *options).code, 0)
            for part in ("bls/1", "bls/1/transformer", "dit_transformer", "dit_transformer/1",
                         "vae_decoder/1/vae", "vae_decoder/1/vae/config.json"):  # fmt: skip
                source = repository / f"{models}{part}"
                says = f"{source}: is a part of a model repository: give {given}$"
                self.assert_error(run("inspect", source), 1, says)
                self.assertEqual(run("inspect", given).code, 0)
        self.assert_error(run("inspect", repository / "vae_decoder/2"), 1, "no such file or directory")

    def test_source_is_around_a_repository(self):
        self.assertEqual(run("convert", DEV, self.directory / "models").code, 0)
        says = f"{self.directory}: holds a model repository: give {self.directory}/models$"
        self.assert_error(run("inspect", self.directory), 1, says)

    def test_source_is_a_cache_of_downloads(self):
        cache = self.directory / "models--black-forest-labs--FLUX.1-dev"
        (cache / "blobs").mkdir(parents=True)
        self.assert_error(run("inspect", cache), 1, "cache of downloads that holds no snapshot")
        (cache / "snapshots" / "0ef5fff").mkdir(parents=True)
        self.assert_error(run("inspect", cache), 1, "give .*/snapshots/0ef5fff")

    def test_source_holds_single_files(self):
        (self.directory / "flux").mkdir()
        (self.directory / "flux/flux1-dev.safetensors").touch()
        (self.directory / "flux/ae.safetensors").touch()
        self.assert_error(run("inspect", self.directory / "flux"), 1, "it holds files of weights: .*/flux/ae.safetensors")

    def test_unreadable_file(self):
        if os.getuid() != 0:
            reader = {}
        else:
            reader = {"user": 65534, "group": 65534, "extra_groups": []}
        checkpoint = self.copy_checkpoint()
        self.directory.chmod(0o755)
        (checkpoint / CLIP).chmod(0)
        try:
            result = run("inspect", checkpoint, **reader)
        except PermissionError:
            self.skipTest("the program cannot be run by another user")
        self.assert_error(result, 1, "model.safetensors: cannot be opened: Permission denied")

    def test_good_checkpoints_pass(self):
        """The table proves nothing if the untouched copies fail as well."""
        for source in (DEV, SCHNELL):
            checkpoint = self.directory / source.name
            shutil.copytree(source, checkpoint)
            result = run(
                "generate", checkpoint, "--prompt", "a star", *SMALL, "-o",
                self.directory / "image.png",
            )
            self.assertEqual(result.code, 0, result.err)


for _source, _cases in (
    (DEV, INDEX_CASES + CONFIG_CASES + WEIGHT_CASES + TOKENIZER_CASES + RESULT_CASES),
    (SCHNELL, SHARD_CASES),
):
    add_cases(BadCheckpointTest, "bad", [(name, _source, *rest) for name, *rest in _cases])


if __name__ == "__main__":
    unittest.main()
