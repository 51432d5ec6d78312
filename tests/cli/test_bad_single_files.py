"""Files of weights that cannot be used, and the error each gives."""

import json
import os
import pathlib
import shutil
import struct
import unittest

from gguf_file import read_gguf, text, texts, values
from harness import DEV, ROOT, SMALL, CliTest, add_cases, read_safetensors, run, write_safetensors

FILES = ROOT / "tests/golden/single_files"
ALL_IN_ONE = FILES / "flux1-dev-fp8.safetensors"
SCALED = FILES / "flux1-schnell-fp8-scaled.safetensors"  # `_quantization_metadata`
OLD_SCALED = FILES / "flux1-dev-fp8-scaled.safetensors"  # `scaled_fp8`, `scale_weight`
GGUF = FILES / "flux1-dev-Q2_K.gguf"
T5 = FILES / "t5-v1_1-encoder-Q8_0.gguf"
PARTS = {"--tokenizers": DEV, "--vae": ALL_IN_ONE, "--clip": ALL_IN_ONE, "--t5": T5}
QKV = "double_blocks.0.img_attn.qkv.weight"
NAN = b"\x00\x00\xc0\x7f"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n"


def read_tensors(path, prefix: str = "") -> tuple:
    """({name: (dtype, shape, bytes)}, texts of the header) of a safetensors file."""
    header, data = read_safetensors(path)
    notes = header.pop("__metadata__", {})
    tensors = {
        name.removeprefix(prefix): (
            entry["dtype"], entry["shape"], data[slice(*entry["data_offsets"])]
        )
        for name, entry in header.items()
        if name.startswith(prefix)
    }  # fmt: skip
    return tensors, notes


def write(path, tensors: dict, notes: dict = {}) -> None:
    header, data = {"__metadata__": notes} if notes else {}, b""
    for name, (dtype, shape, content) in tensors.items():
        offsets = [len(data), len(data) + len(content)]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
        data += content
    write_safetensors(path, header, data)


def zeros(*shape) -> tuple:
    count = 1
    for size in shape:
        count *= size
    return "F32", list(shape), bytes(4 * count)


# Each of these returns what makes SOURCE, or a part, in a directory: {option: path}; "" is SOURCE.


def content(name: str, data: bytes, option: str = ""):
    def make(directory):
        (directory / name).write_bytes(data)
        return {option: directory / name}

    return make


def made(name: str, how, option: str = ""):
    def make(directory):
        how(directory / name)
        return {option: directory / name}

    return make


def cut(keep):
    """The beginning of a GGUF file: bytes, or a number of them before the data (negative)."""

    def make(directory):
        data = GGUF.read_bytes()
        size = keep if keep > 0 else len(read_gguf(GGUF).head()) + keep
        return content("cut.gguf", data[:size])(directory)

    return make


def gguf(change, source=GGUF, option: str = ""):
    """A GGUF file after `change(file)`."""

    def make(directory):
        file = read_gguf(source)
        change(file)
        file.write(directory / "changed.gguf")
        return {option: directory / "changed.gguf"}

    return make


def changed(change, source=OLD_SCALED, prefix: str = "", option: str = ""):
    """A safetensors file after `change(tensors, notes)`."""

    def make(directory):
        tensors, notes = read_tensors(source, prefix)
        change(tensors, notes)
        write(directory / "changed.safetensors", tensors, notes)
        return {option: directory / "changed.safetensors"}

    return make


def of_names(*names):
    """A file of small tensors of these names."""

    def make(directory):
        write(directory / "other.safetensors", {name: zeros(2, 2) for name in names})
        return {"": directory / "other.safetensors"}

    return make


def put(name: str, tensor: tuple):
    return changed(lambda tensors, notes: tensors.update({name: tensor}))


def replace_part(name: str, new: str):
    """A part of all tensors' names is another."""

    def change(tensors, notes):
        for old in list(tensors):
            tensors[old.replace(name, new)] = tensors.pop(old)

    return changed(change)


def set_type(kind: int):
    def change(file):
        file.tensor("single_blocks.0.linear2.weight").type = kind

    return gguf(change)


def set_value(key: str, kind: int, value: bytes, **options):
    return gguf(lambda file: file.metadata.update({key: (kind, value)}), **options)


def unaligned(file) -> None:
    file.tensors[1].offset += 8


def twice(file) -> None:
    file.tensors[1].name = file.tensors[0].name


def huge(file) -> None:
    file.tensors[0].sizes = [1 << 40, 1 << 40]


def empty_and_huge(file) -> None:
    file.tensors[0].sizes = [0, 1 << 40, 1 << 40]


def tokens(key: str, value: tuple):
    """A T5 with another entry of its tokenizer, which no directory has."""

    def make(directory):
        shutil.copytree(DEV / "tokenizer", directory / "words/tokenizer")
        change = gguf(lambda file: file.metadata.update({"tokenizer.ggml." + key: value}), T5, "--t5")
        return {"--tokenizers": directory / "words"} | change(directory)

    return make


def nvfp4(tensors: dict, notes: dict) -> None:
    """As ComfyUI stores a layer: two values a byte, a block's scales, and a note in bytes."""
    rows, columns = tensors[QKV][1]
    layer = QKV.removesuffix(".weight")
    note = json.dumps({"format": "nvfp4"}).encode()
    tensors.pop(layer + ".scale_weight")
    tensors[QKV] = ("U8", [rows, columns // 2], bytes(rows * columns // 2))
    tensors[layer + ".weight_scale"] = ("F8_E4M3", [rows, columns // 16], bytes(rows * columns // 16))
    tensors[layer + ".weight_scale_2"] = zeros()
    tensors[layer + ".comfy_quant"] = ("U8", [len(note)], note)


def int8(tensors: dict, notes: dict) -> None:
    formats = json.loads(notes["_quantization_metadata"])
    formats["layers"][QKV.removesuffix(".weight")] = {"format": "int8_tensorwise"}
    notes["_quantization_metadata"] = json.dumps(formats)
    tensors[QKV] = ("I8", tensors[QKV][1], tensors[QKV][2])


def as_bf16(tensors: dict, notes: dict) -> None:
    shape = tensors[QKV][1]
    tensors[QKV] = ("BF16", shape, bytes(2 * shape[0] * shape[1]))


def rows_cut(tensors: dict, notes: dict) -> None:
    rows, columns = tensors[QKV][1]
    tensors[QKV] = zeros(rows - 1, columns)
    tensors.pop(QKV.replace("weight", "scale_weight"))


def no_rows(tensors: dict, notes: dict) -> None:
    tensors[QKV] = ("F8_E4M3", [0, tensors[QKV][1][1]], b"")
    tensors.pop(QKV.replace("weight", "scale_weight"))


def not_finite(tensors: dict, notes: dict) -> None:
    shape = tensors["img_in.bias"][1]
    tensors["img_in.bias"] = ("F32", shape, NAN * shape[0])


def bitsandbytes(tensors: dict, notes: dict) -> None:
    rows, columns = tensors[QKV][1]
    tensors[QKV] = ("U8", [rows * columns // 2, 1], bytes(rows * columns // 2))
    for name in ("absmax", "quant_map", "quant_state.bitsandbytes__nf4"):
        tensors[f"{QKV}.{name}"] = ("U8", [4], bytes(4))


def nunchaku(tensors: dict, notes: dict) -> None:
    layer = "double_blocks.0.img_attn.qkv"
    tensors.pop(QKV)
    tensors[layer + ".qweight"] = ("I8", [4, 4], bytes(16))
    tensors[layer + ".wscales"] = zeros(4, 4)


def flux2(tensors: dict, notes: dict) -> None:
    tensors["double_stream_modulation_img.lin.weight"] = zeros(4, 4)


def other_channels(tensors: dict, notes: dict) -> None:
    sizes = tensors["decoder.conv_in.weight"][1]
    tensors["decoder.conv_in.weight"] = zeros(sizes[0], 2 * sizes[1], *sizes[2:])


def other_width(tensors: dict, notes: dict) -> None:
    tensors["shared.weight"] = zeros(605, 48)


def two_files(path) -> None:
    path.mkdir()
    for name in ("ae.safetensors", "other.safetensors"):
        shutil.copy(ALL_IN_ONE, path / name)


def tokenizers_without(*names):
    def make(directory):
        for folder in ("tokenizer", "tokenizer_2"):
            shutil.copytree(DEV / folder, directory / "words" / folder)
        for name in names:
            (directory / "words" / name).unlink()
        return {"--tokenizers": directory / "words"}

    return make


def link_to_itself(path) -> None:
    path.symlink_to(path.name)


GGUF_CASES = [
    ("cut_in_counts", cut(10), "ends at byte 10, in the number of tensors that begins at byte 8; download"),
    ("cut_in_metadata", cut(60), "cut.gguf: not a usable GGUF file: it ends at byte 60, in the "),
    ("cut_in_names", cut(-20), "it ends at byte .*, in the .* that begins at byte .*; download it again$"),
    ("cut_in_data", cut(100_000), "tensor '.*' (has|begins at) .* data.*; download it again$"),
    ("noise", content("noise.gguf", os.urandom(999)), 'it does not begin with "GGUF"; download it again'),
    ("version", gguf(lambda file: setattr(file, "version", 1)),
     "its version is 1, 2 and 3 are read; convert the model again$"),
    ("big_endian", content("big.gguf", b"GGUF" + struct.pack(">IQQ", 3, 0, 0)),
     "it is big-endian, little-endian is read; convert the model again$"),
    ("alignment", set_value("general.alignment", 4, struct.pack("<I", 24)),
     "general.alignment is 24, expected a power of two up to 65536; convert"),
    ("alignment_text", set_value("general.alignment", 8, text("32")), "general.alignment is no integer, expected"),
    ("unaligned", gguf(unaligned), "tensor '.*' begins at byte .* of the data, which are aligned to 32; convert"),
    ("named_twice", gguf(twice), "tensor '.*' is named twice; convert the model again"),
    ("huge", gguf(huge), "tensor '.*' is too large: dimension 1 is 1099511627776"),
    ("empty_and_huge", gguf(empty_and_huge), "tensor '.*' is too large: dimension 2 is 1099511627776"),
    ("iq4_nl", set_type(20),
     "changed.gguf: tensor 'single_blocks.0.linear2.weight' is stored as IQ4_NL, expected F32, .*; use a file of"),
    ("mxfp4", set_type(39), "'single_blocks.0.linear2.weight' is stored as MXFP4, expected F32, "),
    ("type_unknown", set_type(77), "'single_blocks.0.linear2.weight' is stored as type 77, expected F32, "),
    ("tokens_more_scores", tokens("scores", values(6, "f", 0.5, 0.5)),
     "'tokenizer.ggml.scores' has 2 numbers, expected one for each of 605 tokens; .* --tokenizers"),
    ("tokens_scores_integers", tokens("scores", values(5, "i", *range(605))),
     "'tokenizer.ggml.scores' is no list of floats of 4 bytes; .* --tokenizers"),
    ("tokens_of_no_kind", tokens("token_type", values(5, "i", *[9] * 605)), "token 0 is of type 9, 1 to 6 are expected; .*--tok"),
    ("tokens_none", tokens("tokens", texts()), "its tokenizer has 0 tokens: 1 to 1048576 are expected"),
    ("tokens_charsmap", tokens("precompiled_charsmap", values(0, "B", 255, 255, 255, 255, 0)),
     "changed.gguf: precompiled_charsmap says its trie has 4294967295 bytes, of 1 there"),
]  # fmt: skip

FOREIGN_CASES = [
    ("lfs", content("flux1-dev.gguf", LFS), "flux1-dev.gguf: is a git LFS pointer, .*`git lfs pull`"),
    ("lfs_safetensors", content("flux1-dev.safetensors", LFS), "flux1-dev.safetensors: is a git LFS pointer"),
    ("lfs_part", content("ae.safetensors", LFS, "--vae"), "ae.safetensors: is a git LFS pointer"),
    ("web_page", content("flux1-dev.gguf", b"<!doctype html><html>"), "is a web page, not the file itself"),
    ("gated", content("flux1-dev.safetensors", b"Access to model a/b is restricted. You must"),
     "refused the download: accept the model's licence"),
    ("ckpt", content("flux1-dev.ckpt", b"PK\x03\x04" + bytes(99)), "flux1-dev.ckpt: is a pickle file of torch: conv"),
    ("pt", content("flux1-dev.pt", b"\x80\x02}q\x00." + bytes(99)), "flux1-dev.pt: is a pickle file of torch: conv"),
    ("empty", content("flux1-dev.safetensors", b""), "flux1-dev.safetensors: the file is empty; download it again"),
    ("fifo", made("flux1-dev.gguf", os.mkfifo), "flux1-dev.gguf: not a regular file; put the file itself there"),
    ("fifo_part", made("ae.safetensors", os.mkfifo, "--vae"), "ae.safetensors: not a regular file"),
    ("loop", made("flux1-dev.gguf", link_to_itself), "flux1-dev.gguf: cannot be opened: Too many levels"),
    ("loop_part", made("ae.safetensors", link_to_itself, "--vae"), "--vae .*: cannot be opened: Too many levels"),
    ("ending", content("flux1-dev.txt", LFS), "flux1-dev.txt: is a file, but none of weights by its name; give "),
    ("two_files", made("vae", two_files, "--vae"),
     "vae: holds 2 files of weights, ae.safetensors and other.safetensors among them, .* give the file"),
    ("no_tokenizer", tokenizers_without("tokenizer/vocab.json", "tokenizer/tokenizer.json"),
     "words/tokenizer: neither tokenizer.json nor both vocab.json and merges.txt are there"),
    ("no_tokenizer_2", tokenizers_without("tokenizer_2/spiece.model", "tokenizer_2/tokenizer.json"),
     "words/tokenizer_2: neither tokenizer.json nor spiece.model is there"),
]  # fmt: skip

MODEL_CASES = [
    ("nvfp4", changed(nvfp4), f"tensor '{QKV}' is stored in ComfyUI's format \"nvfp4\", expected float8_e4m3fn or"),
    ("int8", changed(int8, SCALED), f"tensor '{QKV}' is stored in ComfyUI's format \"int8_tensorwise\", expected"),
    ("scale_shape", put(QKV.replace("weight", "scale_weight"), zeros(5)),
     f"tensor '{QKV}' has the scale '.*qkv.scale_weight', which has shape \\[5\\] and is stored as f32: "
     "expected f32, bf16 or f16, one number or one for each of the [0-9]+ rows; use another file"),
    ("scale_type", put(QKV.replace("weight", "scale_weight"), ("F8_E8M0", [1], b"\x7f")),
     f"tensor '{QKV}' has the scale '.*qkv.scale_weight', which is stored as F8_E8M0, "),
    ("scale_nan", put(QKV.replace("weight", "scale_weight"), ("F32", [], NAN)),
     "has the scale '.*qkv.scale_weight', which holds nan: finite numbers are expected"),
    ("scale_beside_bf16", changed(as_bf16),
     f"tensor '{QKV}' has the scale '.*qkv.scale_weight', and is stored as bf16: F8_E4M3 is expected then"),
    ("bitsandbytes", changed(bitsandbytes),
     "holds no transformer of FLUX.1: it seems to hold weights quantised by bitsandbytes; give a file that does"),
    ("nunchaku", changed(nunchaku), "it seems to hold weights quantised by Nunchaku or another library"),
    ("lora", of_names("transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight"),
     "holds no transformer of FLUX.1: it seems to hold a LoRA, not a model; give"),
    ("lora_kohya", of_names("lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight"), "to hold a LoRA"),
    ("sdxl", of_names("model.diffusion_model.input_blocks.0.0.weight"), "to hold a UNet of Stable Diffusion"),
    ("sd3", of_names("model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight"),
     "to hold a transformer of Stable Diffusion 3"),
    ("flux2", changed(flux2), "to hold a transformer of FLUX.2"),
    ("unknown", of_names("a.weight", "b.weight"), "holds no transformer of FLUX.1; give a file that does, in F32"),
    ("t5_as_source", lambda directory: {"": T5},
     "holds no transformer of FLUX.1, but 'text_encoder_2'; give the transformer's file, and this one with --t5"),
    ("part_of_others", lambda directory: {"--vae": T5}, "Q8_0.gguf: holds no 'vae', but 'text_encoder_2'; give a file of 'vae' there"),
    ("part_of_nothing", lambda directory: {"--vae": of_names("a.weight")(directory)[""]},
     "holds no weights of component 'vae' by any name that is known; give another file"),
    ("vae_channels", changed(other_channels, ALL_IN_ONE, "vae.", "--vae"),
     "'in_channels' is [0-9]+, expected [0-9]+, which is 4 x vae's latent_channels; the parts are of different"),
    ("t5_width", changed(other_width, ALL_IN_ONE, "text_encoders.t5xxl.transformer.", "--t5"),
     "'joint_attention_dim' is 64, expected 48, which is text_encoder_2's d_model; the parts are of different"),
    ("qkv_rows", changed(rows_cut), f"tensor '{QKV}' has shape \\[.*\\], expected a first dimension of 3 equal parts"),
    ("qkv_empty", changed(no_rows), f"tensor '{QKV}' has shape \\[0, 32\\], expected \\[32, 32\\]; the weights are not those of their"),
    ("hole", replace_part("double_blocks.1.", "double_blocks.3."),
     r"tensor 'double_blocks.3..*' is there, and none with 1 in place of its 3; the file lacks a part"),
    ("number_huge", replace_part("single_blocks.1.", "single_blocks.999999."),
     r"tensor 'single_blocks.999999.* is there, and none with 1 in place of its 999999"),
    ("tensor_missing", changed(lambda tensors, notes: tensors.pop("double_blocks.0.img_mlp.0.weight")),
     "changed.safetensors: tensor 'double_blocks.0.img_mlp.0.weight' is missing, expected with shape .*; the weights are inc"),
    ("same_tensor", put("transformer_blocks.0.attn.to_out.0.weight", zeros(4, 4)),
     "tensors '.*' and '.*' are both 'transformer_blocks.0.attn.to_out.0.weight' of diffusers; use a file"),
    ("head_of_nothing", put("double_blocks.0.img_attn.norm.query_norm.scale", zeros(0)),
     "tensor 'double_blocks.0.img_attn.norm.query_norm.scale' has shape \\[0\\], expected 1 dimensions"),
    ("scalar", put("txt_in.bias", zeros()), r"tensor 'txt_in.bias' has shape \[\], expected \["),
    ("not_finite", changed(not_finite), "noise_pred of dit_transformer holds values that are not finite"),
]  # fmt: skip


def arguments_of(given: dict) -> list:
    places = PARTS | given
    source = places.pop("", GGUF)
    return [source, *(word for pair in places.items() for word in pair)]


class BadSingleFileTest(CliTest):
    """`generate` says what is wrong with a file, and leaves none."""

    def run_case(self, make, pattern):
        output = self.directory / "output"
        output.mkdir()
        arguments = arguments_of(make(self.directory))
        result = run("generate", *arguments, "--prompt", "a star", "--dtype", "f32", *SMALL,
                     "-o", output / "image.png")  # fmt: skip
        self.assert_error(result, 1, pattern)
        self.assert_no_files(output)

    def test_a_tensor_that_no_layer_takes_is_told(self):
        for names in (["img_in.more"], ["img_in.more", "single_blocks.0.a", "single_blocks.0.b", "z.b"]):
            def more(tensors, notes, names=names):
                tensors.update({name: zeros(2) for name in names})

            arguments = arguments_of(changed(more)(self.directory))
            result = run("generate", *arguments, "--prompt", "a star", "--dtype", "f32", *SMALL, "-o",
                         self.directory / "image.png")  # fmt: skip
            self.assertEqual(result.code, 0, result.err)
            told = (f"tensor '{names[0]}' is not used" if len(names) == 1 else
                    "4 tensors are not used: 'img_in.more', 'single_blocks.0.a', 'single_blocks.0.b', ...")  # fmt: skip
            self.assertEqual(result.err, f"flux-triton: warning: {arguments[0]}: {told}\n")

    def test_good_files_pass(self):
        """The tables prove nothing if files that are only read and written again fail as well."""
        for make in (gguf(lambda file: None), changed(lambda *_: None), changed(lambda *_: None, SCALED),
                     gguf(lambda file: None, T5, "--t5"), tokenizers_without()):  # fmt: skip
            result = run("generate", *arguments_of(make(self.directory)), "--prompt", "a star", "--dtype",
                         "f32", *SMALL, "-o", self.directory / "image.png")  # fmt: skip
            self.assertEqual((result.code, result.err), (0, ""))


add_cases(BadSingleFileTest, "bad", GGUF_CASES + FOREIGN_CASES + MODEL_CASES)


if __name__ == "__main__":
    unittest.main()
