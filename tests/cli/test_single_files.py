"""Single files: ComfyUI's all-in-one and scaled fp8 files, GGUF, parts by option and beside the file."""

import hashlib
import json
import pathlib
import shutil
import unittest

from gguf_file import Gguf, Tensor
from harness import DEV, ROOT, CliTest, read_safetensors, run, write_safetensors

FILES = ROOT / "tests/golden/single_files"
ALL_IN_ONE = FILES / "flux1-dev-fp8.safetensors"
GGUF = FILES / "flux1-dev-Q2_K.gguf"
T5 = FILES / "t5-v1_1-encoder-Q8_0.gguf"
TOKENIZERS = ["--tokenizers", DEV]
OTHERS = [*TOKENIZERS, "--vae", ALL_IN_ONE, "--clip", ALL_IN_ONE, "--t5", T5]
PROMPT = ["--prompt", "a cat", "--seed", "1", "--height", "32", "--width", "48", "--steps", "2"]


def digest(file: pathlib.Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def part(prefix: str, target: pathlib.Path) -> None:
    """A file of the tensors of the all-in-one file under a prefix, without it."""
    header, data = read_safetensors(ALL_IN_ONE)
    parts, out = {}, b""
    for name, entry in sorted(header.items(), key=lambda item: item[0]):
        if not name.startswith(prefix):
            continue
        begin, end = entry["data_offsets"]
        offsets = [len(out), len(out) + end - begin]
        parts[name.removeprefix(prefix)] = entry | {"data_offsets": offsets}
        out += data[begin:end]
    write_safetensors(target, parts, out)


# llama.cpp's names of CLIP's tensors; of the MLP's two linears it calls the first "down".
LLAMA_CLIP = {
    "embeddings.token_embedding": "token_embd",
    "embeddings.position_embedding": "position_embd",
    "final_layer_norm": "post_ln",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.out_proj": "attn_out",
    "layer_norm1": "ln1",
    "layer_norm2": "ln2",
    "mlp.fc1": "ffn_down",
    "mlp.fc2": "ffn_up",
}


def llama_clip(target: pathlib.Path) -> None:
    """The CLIP of the all-in-one file as GGUF, in F16 as there."""
    header, data = read_safetensors(ALL_IN_ONE)
    prefix = "text_encoders.clip_l.transformer.text_model."
    file = Gguf()
    for name, entry in header.items():
        if not name.startswith(prefix):
            continue
        module, _, kind = name.removeprefix(prefix).rpartition(".")
        place = "t."
        if module.startswith("encoder.layers."):
            _, _, layer, module = module.split(".", 3)
            place += f"blk.{layer}."
        begin, end = entry["data_offsets"]
        file.data += b"\0" * (-len(file.data) % file.alignment)
        file.tensors.append(
            Tensor(f"{place}{LLAMA_CLIP[module]}.{kind}", entry["shape"][::-1], 1, len(file.data))
        )
        file.data += data[begin:end]
    file.write(target)


class SingleFilesTest(CliTest):
    def generate(self, name: str, *arguments) -> str:
        """The pixels' file of one call, without the name of the checkpoint in it."""
        out = self.directory / f"{name}.webp"
        latents = self.directory / f"{name}.safetensors"
        result = run("generate", *arguments, *PROMPT, "-o", out, "--save-latents", latents)
        self.assertEqual(result.code, 0, result.err)
        self.assertEqual(result.err, "")
        return digest(latents)

    def test_parts_by_option_and_beside_the_file_are_the_same(self):
        """An all-in-one file, its parts as files of their own, and a folder that has them all."""
        whole = self.generate("whole", ALL_IN_ONE, *TOKENIZERS)
        part("model.diffusion_model.", self.directory / "flux1-dev.safetensors")
        for folder in (self.directory, self.directory / "models/vae"):
            folder.mkdir(parents=True, exist_ok=True)
            part("vae.", folder / "ae.safetensors")
        part("text_encoders.clip_l.transformer.", self.directory / "clip_l.safetensors")
        part("text_encoders.t5xxl.transformer.", self.directory / "t5xxl_fp8_e4m3fn.safetensors")
        for tokenizer in ("tokenizer", "tokenizer_2"):
            shutil.copytree(DEV / tokenizer, self.directory / tokenizer)
        self.assertEqual(self.generate("beside", self.directory / "flux1-dev.safetensors"), whole)
        options = ["--transformer", self.directory / "flux1-dev.safetensors",
                   "--vae", self.directory / "ae.safetensors",
                   "--clip", self.directory / "clip_l.safetensors",
                   "--t5", self.directory / "t5xxl_fp8_e4m3fn.safetensors"]  # fmt: skip
        self.assertEqual(self.generate("options", ALL_IN_ONE, *TOKENIZERS, *options), whole)
        # As ComfyUI sorts them: folders beside one another.
        comfy = self.directory / "models/diffusion_models"
        comfy.mkdir()
        shutil.copy(self.directory / "flux1-dev.safetensors", comfy)
        for folder, name in (("text_encoders", "clip_l.safetensors"),
                             ("text_encoders", "t5xxl_fp8_e4m3fn.safetensors")):  # fmt: skip
            (self.directory / "models" / folder).mkdir(exist_ok=True)
            shutil.copy(self.directory / name, self.directory / "models" / folder)
        self.assertEqual(
            self.generate("comfy", comfy / "flux1-dev.safetensors", *TOKENIZERS), whole
        )

    def test_capitals_in_a_name(self):
        capitals = pathlib.Path(shutil.copy(GGUF, self.directory / "flux1.GGUF"))
        self.assertEqual(
            self.generate("capitals", capitals, *OTHERS), self.generate("small", GGUF, *OTHERS)
        )

    def test_a_variant_of_a_single_file(self):
        result = run("inspect", ALL_IN_ONE, *TOKENIZERS, "--variant", "fp16")
        self.assert_error(result, 1, f"there is {ALL_IN_ONE}; leave --variant out")

    def test_clip_with_the_names_of_llama_cpp(self):
        whole = self.generate("whole", ALL_IN_ONE, *TOKENIZERS)
        clip = self.directory / "clip_l.gguf"
        llama_clip(clip)
        options = [ALL_IN_ONE, *TOKENIZERS, "--clip", clip]
        self.assertEqual(self.generate("llama", *options), whole)
        report = json.loads(run("inspect", *options, "--json").out)
        self.assertEqual(report["components"]["text_encoder"]["layout"], "llama.cpp")

    def test_a_part_of_a_diffusers_checkpoint_is_replaced(self):
        own = self.generate("own", DEV)
        other = self.directory / "other"
        shutil.copytree(DEV / "vae", other)
        self.assertEqual(self.generate("same", DEV, "--vae", other), own)
        report = run("inspect", DEV, "--json", "--vae", other)
        self.assertEqual(json.loads(report.out)["components"]["vae"]["place"], str(other))
        # A transformer of other widths does not fit the rest.
        result = run("generate", DEV, *PROMPT, "--transformer", ALL_IN_ONE, "-o", "x.png",
                     cwd=self.directory)  # fmt: skip
        self.assert_error(result, 1, "parts are of different models")

    def test_a_repository_of_files_generates_the_same(self):
        for name, arguments in (
            ("fp8", [ALL_IN_ONE, *TOKENIZERS]),
            ("gguf", [GGUF, *OTHERS]),
            ("scaled", [FILES / "flux1-schnell-fp8-scaled.safetensors", *OTHERS]),
        ):
            direct = self.generate(name, *arguments)
            for weights in ("link", "copy", "reference"):
                repository = self.directory / f"{name}-{weights}"
                # The golden files may be on another file system.
                source, *parts = arguments
                if weights == "link":
                    source = pathlib.Path(shutil.copy(source, self.directory))
                    parts = [
                        shutil.copy(word, self.directory / f"part-{i}{pathlib.Path(word).suffix}")
                        if pathlib.Path(word).is_file()
                        else word
                        for i, word in enumerate(parts)
                    ]
                result = run("convert", source, repository, *parts, "--weights", weights)
                self.assertEqual(result.code, 0, result.err)
                self.assertEqual(self.generate(f"{name}-{weights}-served", repository), direct)
                again = self.directory / f"{name}-{weights}-again"
                self.assertEqual(run("convert", repository, again, "--weights", "copy").code, 0)
                self.assertEqual(self.generate(f"{name}-{weights}-twice", again), direct)

    def test_an_all_in_one_file_is_copied_once(self):
        repository = self.directory / "models"
        result = run("convert", ALL_IN_ONE, repository, *TOKENIZERS, "--weights", "copy")
        self.assertEqual(result.code, 0, result.err)
        copies = list(repository.rglob("*.safetensors"))
        self.assertEqual(len(copies), 5)  # one for each stage
        self.assertEqual(len({file.stat().st_ino for file in copies}), 1)

    def test_models_in_python_need_a_diffusers_checkpoint(self):
        result = run("convert", ALL_IN_ONE, self.directory / "models", *TOKENIZERS, "--backend",
                     "python")  # fmt: skip
        self.assert_error(result, 1, "a model in Python needs a diffusers checkpoint")

    def test_inspect_tells_layouts_types_and_places(self):
        result = run("inspect", GGUF, *OTHERS, "--json")
        self.assertEqual(result.code, 0, result.err)
        parts = json.loads(result.out)["components"]
        self.assertEqual(parts["transformer"]["layout"], "Black Forest Labs")
        self.assertEqual(parts["transformer"]["place"], str(GGUF))
        self.assertIn("Q2_K", parts["transformer"]["types"])
        self.assertEqual(parts["text_encoder_2"]["layout"], "llama.cpp")
        self.assertEqual(parts["text_encoder"]["layout"], "transformers")
        self.assertEqual(parts["vae"]["place"], str(ALL_IN_ONE))
        self.assertEqual(parts["tokenizer_2"]["place"], str(DEV / "tokenizer_2"))
        need = json.loads(result.out)["serving_memory"]
        stored = parts["transformer"]["bytes"] + parts["text_encoder_2"]["bytes"]
        for dtype, size in (("f32", 4), ("bf16", 2)):
            rest = sum(parts[name]["parameters"] for name in ("text_encoder", "vae")) * size
            self.assertLess(need[dtype]["weight_bytes"], 1.05 * (stored + rest))
        text = run("inspect", GGUF, *OTHERS).out
        self.assertRegex(text, rf"(?m)^transformer +Black Forest Labs names, Q2_K, .* in {GGUF}$")

    def test_check_and_bench_take_files(self):
        self.assertEqual(run("check", GGUF, *OTHERS).code, 0)
        self.assertEqual(run("bench", ALL_IN_ONE, *TOKENIZERS, "--height", "16", "--width", "16",
                             "--steps", "1", "--runs", "1", "--warmup", "0").code, 0)  # fmt: skip

    def test_the_tokenizer_of_a_gguf_t5(self):
        """Its ids are those of the tokenizer's files."""
        clip = ["--vae", ALL_IN_ONE, "--clip", ALL_IN_ONE, "--t5", T5]
        folder = self.directory / "clip"
        shutil.copytree(DEV / "tokenizer", folder / "tokenizer")
        for prompt in ("a cat", "un caf\u00e9 <extra_id_3> \ufb01re \u2460 \U0001f600", ""):
            ids = [
                json.loads(run("tokenize", GGUF, *clip, "--tokenizers", place, "--prompt",
                               prompt or " x").out)
                for place in (DEV, folder)
            ]  # fmt: skip
            self.assertEqual(ids[0], ids[1], prompt)

    def test_what_is_missing_is_named(self):
        shutil.copy(GGUF, self.directory)
        file = self.directory / GGUF.name
        for given, says in (
            ([], "holds no 'vae', and none of ae.safetensors, .* with --vae"),
            (OTHERS[2:4], "holds no 'text_encoder', .*clip_l.safetensors.* with --clip"),
            (OTHERS[2:6], "holds no 'text_encoder_2', .*t5xxl_fp16.* with --t5"),
            (OTHERS[2:], "'tokenizer' is neither there nor given: .* with --tokenizers"),
            (["--vae", "none"], "--vae none: no such file or directory"),
            (["--tokenizers", FILES], "holds neither tokenizer/ and tokenizer_2/ nor"),
        ):
            self.assert_error(run("inspect", file, *given), 1, says)
        self.assert_error(run("inspect", T5, *OTHERS), 1, "holds no transformer of FLUX.1")


if __name__ == "__main__":
    unittest.main()
