"""Makes tests/golden/single_files: tiny checkpoints in the forms in which people share FLUX.1, and golden results.

python tests/reference/make_single_files.py [--check] [--all DIRECTORY]

The results are what diffusers and transformers compute in float32 from the dequantised values, read back from the file
with the gguf and safetensors packages. `--all` writes every other form into DIRECTORY instead, each transformer with a
result, and `--check` compares what diffusers' own readers load from the files without scales.
"""

import argparse
import json
import shutil
import struct
from importlib.metadata import version
from pathlib import Path

import diffusers
import gguf
import safetensors
import torch
import transformers
from gguf import GGMLQuantizationType as Type
from safetensors.torch import save_file

import cases
import fp8_files
import gguf_files
import single_file_models as models
from make_golden import Writer, run_transformer, transformer_inputs
from reference import generate
from single_files import CLIP, DIFFUSION, T5, VAE

FOLDER = models.GOLDEN / "single_files"
ALL_IN_ONE = "flux1-dev-fp8.safetensors"
MIXED = "flux1-dev-Q2_K.gguf"
OLDER = "flux1-dev-fp8-scaled.safetensors"
NEWER = "flux1-schnell-fp8-scaled.safetensors"
T5_FILE = "t5-v1_1-encoder-Q8_0.gguf"
# file -> (model, prefix of its transformer)
TRANSFORMERS = {
    ALL_IN_ONE: ("small", DIFFUSION),
    MIXED: ("wide", ""),
    OLDER: ("narrow", ""),
    NEWER: ("schnell", ""),
}
MODELSPEC = {
    "modelspec.architecture": "Flux.1-dev",
    "modelspec.title": "Flux.1-dev",
    "modelspec.sai_model_spec": "1.0.0",
}
# The first part of a name that fits decides, else it is Q2_K: a file of every type, and small. Published files have
# one or two types in their blocks and F16, BF16 or F32 elsewhere.
MIXED_TYPES = {
    "img_in.": Type.F16,
    "final_layer.linear": Type.BF16,
    "txt_in.": Type.Q8_0,
    "vector_in.in_layer": Type.Q5_1,
    "vector_in.out_layer": Type.Q4_1,
    "time_in.in_layer": Type.Q4_0,
    "time_in.out_layer": Type.Q5_0,
    "img_attn.qkv": Type.Q4_K,
    "img_attn.proj": Type.Q6_K,
    "txt_attn.proj": Type.Q5_K,
    "img_mlp.2": Type.Q3_K,
}
REQUEST = dict(
    prompt=[cases.PROMPTS[1]],
    seed=42,
    height=24,
    width=32,
    num_inference_steps=2,
    max_sequence_length=77,
)
TRANSFORMER_CASE = dict(
    batch=2,
    tokens=(2, 3),
    text_tokens=7,
    timesteps=[873.25, 41.6],
    guidance=[3.5, 0.75],
    seed=31,
)


def save(tensors, path, **metadata):
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(tensors, path, metadata={"format": "pt", **metadata})
    # safetensors writes the metadata in another order each time, and gives the file to its owner alone.
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    path.write_bytes(content[:8] + text.ljust(length) + content[8 + length :])
    path.chmod(0o644)


def mixed_type(name):
    return next((kind for part, kind in MIXED_TYPES.items() if part in name), Type.Q2_K)


def write_all_in_one(path):
    """The file that ComfyUI saves: transformer and T5 in fp8 throughout, CLIP with a projection that FLUX never uses."""
    clip = {f"transformer.{k}": v.half() for k, v in models.clip().named().items()}
    clip["transformer.text_projection.weight"] = torch.eye(models.CLIP_WIDTH).half()
    clip["logit_scale"] = torch.tensor(4.6055)
    t5 = {f"transformer.{k}": v for k, v in fp8_files.plain(models.t5().named()).items()}
    t5["logit_scale"] = torch.tensor(4.6055)
    parts = {
        DIFFUSION: fp8_files.plain(models.transformer("small").named()),
        CLIP: clip,
        T5: t5,
        VAE: {k: v.bfloat16() for k, v in models.vae("tiny").named().items()},
    }
    save({p + k: v for p, part in parts.items() for k, v in part.items()}, path, **MODELSPEC)


def write_files(folder):
    write_all_in_one(folder / ALL_IN_ONE)
    wide = models.transformer("wide").named()
    kind = gguf.LlamaFileType.MOSTLY_Q2_K
    gguf_files.write_transformer(folder / MIXED, wide, kind, mixed_type)
    save(fp8_files.older(models.transformer("narrow").named()), folder / OLDER)
    tensors, metadata = fp8_files.newer(models.transformer("schnell").named())
    save(tensors, folder / NEWER, **metadata)
    t5 = models.t5()
    tokenizer = models.TOKENIZERS / "tokenizer_2"
    kind = gguf.LlamaFileType.MOSTLY_Q8_0
    named = t5.named("llama")
    gguf_files.write_t5(folder / T5_FILE, named, t5.module.config, tokenizer, kind, Type.Q8_0)
    save(gguf_files.write_types(folder / "gguf_types.gguf"), folder / "gguf_values.safetensors")


def read(path, prefix=""):
    return (gguf_files if path.suffix == ".gguf" else fp8_files).read(path, prefix)


class FileWriter(Writer):
    """Collects cases whose `parts` name the files that they take their models from."""

    def __init__(self, folder):
        self.folder = folder
        self.cases = []
        self.files = {}

    def close(self):
        packages = (torch, diffusers, transformers, safetensors)
        versions = {package.__name__: package.__version__ for package in packages}
        versions["gguf"] = version("gguf")
        tokenizers = models.TOKENIZERS.relative_to(models.GOLDEN).as_posix()
        index = {
            "tokenizers": tokenizers,
            "made_with": versions,
            "files": self.files,
            "cases": self.cases,
        }
        text = json.dumps(index, ensure_ascii=False, indent=1)
        (self.folder / "index.json").write_text(text + "\n", encoding="utf-8")


def stem(file):
    return file.rsplit(".", 1)[0]


def transformer_case(writer, file, pipe):
    inputs = transformer_inputs(pipe, TRANSFORMER_CASE, "f32")
    tensors = {**inputs, "noise_pred": run_transformer(pipe, inputs)}
    parts = {"transformer": file}
    writer.add(f"transformer_{stem(file)}", "dit_transformer", "f32", tensors, parts=parts)


def text_cases(writer, pipe, clip_file, t5_file, only=None):
    prompts = [cases.PROMPTS[i] for i in (1, 3, 5)]
    length = 77
    options = dict(padding="max_length", truncation=True, return_tensors="pt")
    if only != "t5":
        ids = pipe.tokenizer(prompts, max_length=77, **options).input_ids
        embeds = pipe._get_clip_prompt_embeds(prompts)
        tensors = {"input_ids": ids.int(), "pooled_prompt_embeds": embeds}
        recipe = {"prompts": prompts, "parts": {"clip": clip_file}}
        writer.add(f"clip_{stem(clip_file)}", "clip_encoder", "f32", tensors, **recipe)
    if only == "clip":
        return
    rows = torch.tensor([*range(6), *range(6, length, 14), length - 1])
    embeds = pipe._get_t5_prompt_embeds(prompts, max_sequence_length=length)
    ids = pipe.tokenizer_2(prompts, max_length=length, **options).input_ids
    tensors = {"input_ids": ids.int(), "rows": rows, "prompt_embeds": embeds[:, rows]}
    recipe = {"max_sequence_length": length, "prompts": prompts, "parts": {"t5": t5_file}}
    writer.add(f"t5_{stem(t5_file)}", "t5_encoder", "f32", tensors, **recipe)


@torch.no_grad()
def vae_case(writer, file, vae):
    latents = 1.5 * torch.randn((1, 16, 4, 6), generator=torch.Generator().manual_seed(32))
    image = vae.decode(latents, return_dict=False)[0]
    tensors = {"latents": latents, "image": image}
    writer.add(f"vae_{stem(file)}", "vae_decoder", "f32", tensors, parts={"vae": file})
    image = torch.rand((1, 3, 6, 10), generator=torch.Generator().manual_seed(33)) * 2 - 1
    found = vae.encode(image).latent_dist
    tensors = {
        "image": image,
        "seed": torch.tensor([[33]]),
        "latents": found.mode(),
        "samples": found.sample(torch.Generator().manual_seed(33)),
    }
    writer.add(f"vae_encoder_{stem(file)}", "vae_encoder", "f32", tensors, parts={"vae": file})


def image_case(writer, pipe, parts):
    result = generate(pipe, REQUEST)
    images = result["images"].double()
    clipped = float(((images == 0) | (images == 255)).double().mean())
    print(f"  {parts['transformer']}: pixel std {images.std():.0f}, {100 * clipped:.1f} % clipped")
    name = f"image_{stem(parts['transformer'])}"
    writer.add(name, "bls", "f32", result, request=REQUEST, parts=parts)


def make(folder):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_files(folder)
    path = folder / ALL_IN_ONE
    vae = models.vae("tiny").filled(read(path, VAE))
    clip = models.clip().filled(read(path, CLIP + "transformer."))
    t5 = models.t5().filled(read(path, T5 + "transformer."))
    quantised_t5 = models.t5().filled(read(folder / T5_FILE), "llama")
    writer = FileWriter(folder)
    for file, (name, prefix) in TRANSFORMERS.items():
        model = models.transformer(name)
        module = model.filled(read(folder / file, prefix))
        in_gguf = file == MIXED
        pipe = models.pipeline(module, vae, clip, quantised_t5 if in_gguf else t5)
        text_file = T5_FILE if in_gguf else ALL_IN_ONE
        if file in (ALL_IN_ONE, MIXED):
            text_cases(writer, pipe, ALL_IN_ONE, text_file, only="t5" if in_gguf else None)
        transformer_case(writer, file, pipe)
        others = {"vae": ALL_IN_ONE, "clip": ALL_IN_ONE, "t5": text_file}
        image_case(writer, pipe, {"transformer": file, **others})
        writer.files[file] = {"prefix": prefix, "transformer": model.config}
    vae_case(writer, ALL_IN_ONE, vae)
    writer.files[ALL_IN_ONE].update(
        vae=models.vae("tiny").config, clip=models.clip().config, t5=models.t5().config
    )
    writer.files[T5_FILE] = {"t5": models.t5().config}
    writer.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--all", type=Path, metavar="DIRECTORY", help="write every other form there"
    )
    parser.add_argument("--check", action="store_true", help="compare with diffusers' readers")
    args = parser.parse_args()
    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(True)
    if args.all or args.check:
        import single_file_variants

        if args.all:
            single_file_variants.write(args.all)
        if args.check:
            single_file_variants.check()
        return
    make(FOLDER)
    size = 0
    for path in sorted(FOLDER.iterdir()):
        size += path.stat().st_size
        print(f"{path.stat().st_size:9} {path.name}")
    print(f"{size:9} in all")


if __name__ == "__main__":
    main()
