"""The forms of single files that are not committed, and a check of our tables against diffusers' readers."""

import shutil
import tempfile
from pathlib import Path

import gguf
import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel, GGUFQuantizationConfig
from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES
from diffusers.quantizers.gguf.utils import dequantize_gguf_tensor
from gguf import GGMLQuantizationType as Type

import fp8_files
import gguf_files
import make_single_files as main
import single_file_models as models
from k_quants import BYTES
from reference import DTYPES
from single_files import CLIP, DIFFUSION, T5, VAE

WIDTH = [3072]  # the one that diffusers' conversion assumes at the moment


def cast(tensors, dtype, prefix=""):
    return {prefix + name: tensor.to(dtype) for name, tensor in tensors.items()}


def file_type(kind):
    """llama.cpp's name for a file that is mostly of a type."""
    names = {"F32": "ALL_F32", "Q2_K": "MOSTLY_Q2_K", "Q6_K": "MOSTLY_Q6_K"}
    plain = f"MOSTLY_{kind.name}" + ("_S" if kind.name.endswith("_K") else "")
    return gguf.LlamaFileType[names.get(kind.name, plain)]


def transformers():
    """Yields (file, model, layout, prefix, write) of every transformer; write(path) makes the file."""
    small = models.transformer("small")
    named = small.named()
    for dtype, torch_dtype in DTYPES.items():
        for form, prefix in {"": "", "-prefixed": DIFFUSION}.items():
            tensors = cast(named, torch_dtype, prefix)
            write = lambda path, tensors=tensors: main.save(tensors, path)
            yield f"flux-{dtype}{form}.safetensors", "small", "file", prefix, write
        tensors = cast(small.state(), torch_dtype)
        write = lambda path, tensors=tensors: main.save(tensors, path)
        yield f"flux-diffusers-{dtype}.safetensors", "small", "diffusers", "", write
    two = torch.empty(2, dtype=fp8_files.FP8).fill_(0)
    forms = {
        "fp8": ("", {}, fp8_files.plain(named)),
        "fp8-older": ("", {}, fp8_files.older(named, torch.float16, shape=(1,))),
        "fp8-older-two": ("", {}, fp8_files.older(named, marker=two)),
        "fp8-older-f32": ("", {}, fp8_files.older(named, marker=torch.empty(0))),
        "fp8-older-prefixed": (DIFFUSION, {}, fp8_files.older(named, prefix=DIFFUSION)),
    }
    tensors, metadata = fp8_files.newer(named)
    forms["fp8-newer-tensors"] = ("", {}, tensors)
    tensors, metadata = fp8_files.newer(named, torch.float32, tensors_too=False)
    forms["fp8-newer-metadata"] = ("", metadata, tensors)
    tensors, metadata = fp8_files.newer(named, prefix=DIFFUSION)
    forms["fp8-newer-prefixed"] = (DIFFUSION, metadata, tensors)
    for form, (prefix, metadata, tensors) in forms.items():
        write = lambda path, tensors=tensors, metadata=metadata: main.save(
            tensors, path, **metadata
        )
        yield f"flux-{form}.safetensors", "small", "file", prefix, write
    wide = models.transformer("wide").named()
    for kind in gguf_files.TYPES:
        write = lambda path, kind=kind: gguf_files.write_transformer(
            path, wide, file_type(kind), lambda name: kind
        )
        yield f"flux-{kind.name}.gguf", "wide", "file", "", write
    write = lambda path: gguf_files.write_transformer(
        path, named, file_type(Type.Q8_0), lambda name: Type.Q8_0, DIFFUSION
    )
    yield "flux-Q8_0-prefixed.gguf", "small", "file", DIFFUSION, write


def encoders():
    """Yields (file, part, layout, prefix, write) of every CLIP, T5 and VAE."""
    t5, clip, vae = models.t5(), models.clip(), models.vae("deep")
    parts = {"t5": (t5, T5 + "transformer."), "clip": (clip, CLIP + "transformer.")}
    parts["vae"] = (vae, VAE)
    forms = {}
    for part, (model, prefix) in parts.items():
        for dtype, torch_dtype in DTYPES.items():
            forms[f"{part}-{dtype}"] = (part, "file", "", cast(model.named(), torch_dtype))
        tensors = cast(model.named(), torch.float16, prefix)
        forms[f"{part}-prefixed"] = (part, "file", prefix, tensors)
        if part != "t5":
            tensors = cast(model.state(), torch.float32)
            forms[f"{part}-diffusers"] = (part, "diffusers", "", tensors)
    tensors = cast(t5.named(), torch.float16)
    twice = {**tensors, "encoder.embed_tokens.weight": tensors["shared.weight"].clone()}
    forms["t5-twice"] = ("t5", "file", "", twice)
    forms["t5-fp8"] = ("t5", "file", "", fp8_files.plain(t5.named()))
    forms["t5-fp8-older"] = ("t5", "file", "", fp8_files.older(t5.named(), torch.float16))
    forms["t5-fp8-newer"] = ("t5", "file", "", fp8_files.newer(t5.named(), torch.float16)[0])
    ids = {"text_model.embeddings.position_ids": torch.arange(77)[None]}
    forms["clip-positions"] = ("clip", "file", "", {**cast(clip.named(), torch.float16), **ids})
    for form, (part, layout, prefix, tensors) in forms.items():
        write = lambda path, tensors=tensors: main.save(tensors, path)
        yield f"{form}.safetensors", part, layout, prefix, write
    tokenizer = models.TOKENIZERS / "tokenizer_2"
    for kind in gguf_files.TYPES:
        if kind in BYTES:
            continue  # the rows are too short
        write = lambda path, kind=kind: gguf_files.write_t5(
            path, t5.named("llama"), t5.module.config, tokenizer, file_type(kind), kind
        )
        yield f"t5-{kind.name}.gguf", "t5", "llama", "", write


def filled(model, path, layout, prefix):
    if layout == "diffusers":
        model.tables["diffusers"] = {name: [name] for name in model.state()}
    return model.filled(main.read(path, prefix), layout)


def write(folder):
    folder.mkdir(parents=True, exist_ok=True)
    writer = main.FileWriter(folder)
    parts = {"vae": models.vae("deep"), "clip": models.clip(), "t5": models.t5()}
    whole = [part.module for part in parts.values()]
    for file, name, layout, prefix, write_file in transformers():
        write_file(folder / file)
        model = models.transformer(name)
        pipe = models.pipeline(filled(model, folder / file, layout, prefix), *whole)
        main.transformer_case(writer, file, pipe)
        writer.files[file] = {"prefix": prefix, "transformer": model.config}
    transformer = models.transformer("small").module
    for file, part, layout, prefix, write_file in encoders():
        write_file(folder / file)
        module = filled(parts[part], folder / file, layout, prefix)
        pipe = models.pipeline(transformer, *whole)
        if part == "vae":
            main.vae_case(writer, file, module)
        else:
            main.text_cases(writer, pipe, file, file, only=part)
        writer.files[file] = {"prefix": prefix, part: parts[part].config}
    writer.close()


def set_width(width):
    """diffusers' conversion of a transformer splits linear1 as for FLUX.1's width, a constant of its code."""
    convert = SINGLE_FILE_LOADABLE_CLASSES["FluxTransformer2DModel"]["checkpoint_mapping_fn"]
    constants = tuple(width if value == WIDTH[0] else value for value in convert.__code__.co_consts)
    WIDTH[0] = width
    convert.__code__ = convert.__code__.replace(co_consts=constants)


def same(loaded, expected):
    """How many tensors of two state dicts differ."""
    if set(loaded) != set(expected):
        raise KeyError(sorted(set(loaded) ^ set(expected)))
    return sum(not torch.equal(loaded[name].float(), expected[name]) for name in expected)


def check_gguf(path, config):
    """Compares diffusers' loading of a GGUF, which decodes in the compute dtype, with the gguf package's values."""
    model = models.transformer("wide")
    set_width(model.module.inner_dim)
    expected = model.filled(main.read(path)).state_dict()
    loaded = FluxTransformer2DModel.from_single_file(
        path,
        config=config,
        quantization_config=GGUFQuantizationConfig(compute_dtype=torch.float32),
        torch_dtype=torch.float32,
    )
    worst = 0.0
    for name, parameter in loaded.named_parameters():
        quantised = hasattr(parameter, "quant_type")
        value = dequantize_gguf_tensor(parameter) if quantised else parameter.data
        error = (value.float() - expected[name]).abs().max() / expected[name].abs().max()
        worst = max(worst, float(error))
    print(f"diffusers {path.name}: worst difference {worst:.1e} of a tensor's largest value")


def check():
    """Loads what needs no scales with diffusers' own readers and compares all weights."""
    folder = Path(tempfile.mkdtemp())
    for name in models.TRANSFORMERS:
        model = models.transformer(name)
        config = folder / name
        model.module.save_config(config)
        set_width(model.module.inner_dim)
        for form, prefix in {"": "", "-prefixed": DIFFUSION}.items():
            path = folder / f"{name}{form}.safetensors"
            main.save(cast(model.named(), torch.bfloat16, prefix), path)
            loaded = FluxTransformer2DModel.from_single_file(
                path, config=str(config), torch_dtype=torch.bfloat16
            )
            expected = {k: v.bfloat16().float() for k, v in model.state().items()}
            differ = same(loaded.state_dict(), expected)
            print(f"diffusers {path.name}: {differ} of {len(expected)} tensors differ")
    path = main.FOLDER / main.ALL_IN_ONE
    expected = models.transformer("small").filled(main.read(path, DIFFUSION)).state_dict()
    set_width(models.transformer("small").module.inner_dim)
    loaded = FluxTransformer2DModel.from_single_file(
        path, config=str(folder / "small"), torch_dtype=torch.float32
    )
    print(f"diffusers {path.name}: {same(loaded.state_dict(), expected)} of {len(expected)} differ")
    for name in models.VAES:
        model = models.vae(name)
        model.module.save_config(folder / f"vae-{name}")
        path = folder / f"vae-{name}.safetensors"
        main.save(cast(model.named(), torch.bfloat16), path)
        loaded = AutoencoderKL.from_single_file(
            path, config=str(folder / f"vae-{name}"), torch_dtype=torch.bfloat16
        )
        expected = {k: v.bfloat16().float() for k, v in model.state().items()}
        differ = same(loaded.state_dict(), expected)
        print(f"diffusers {path.name}: {differ} of {len(expected)} tensors differ")
    check_gguf(main.FOLDER / main.MIXED, str(folder / "wide"))
    shutil.rmtree(folder)
