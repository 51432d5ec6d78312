"""Makes tests/golden/adapters: small adapters of tiny-dev in the dialects that diffusers, peft and LyCORIS load rightly.

python tests/reference/make_adapters.py   (with requirements-adapters.txt, too)

For each, `NAME.safetensors` is the adapter as its library saves it, or in the names of a trainer, and
`NAME_merged.safetensors` the weights and biases that the library merges it into, in float32. Of what these libraries load
wrongly or not at all, the unit tests compute the weights themselves.
"""

import json
import logging
import tempfile
from importlib.metadata import version
from pathlib import Path

from reference import load  # sets up logging and threads before the libraries are loaded

import lycoris
import torch
from diffusers import FluxPipeline
from peft import LoHaConfig, LoKrConfig, LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

GOLDEN = Path(__file__).resolve().parent.parent / "golden"
CHECKPOINT = GOLDEN / "checkpoints" / "tiny-dev"
FOLDER = GOLDEN / "adapters"
logging.getLogger("LyCORIS").setLevel(logging.ERROR)

# Some of each kind: attention of both streams, MLPs, modulation, the single blocks, and what is in no block.
MODULES = [
    "x_embedder",
    "time_text_embed.guidance_embedder.linear_1",
    "transformer_blocks.0.attn.to_q",
    "transformer_blocks.1.attn.add_v_proj",
    "transformer_blocks.1.attn.to_out.0",
    "transformer_blocks.0.ff_context.net.2",
    "single_transformer_blocks.2.attn.to_k",
    "single_transformer_blocks.0.proj_mlp",
    "proj_out",
]
FEW = MODULES[2:5] + MODULES[6:7]
GENERATOR = torch.Generator()


def noise(*shape, scale=0.3):
    """Values of bfloat16, which every dtype holds exactly."""
    return (torch.randn(*shape, generator=GENERATOR) * scale).bfloat16().float()


def randomise(module):
    for name, parameter in sorted(module.named_parameters()):
        if parameter.requires_grad:
            parameter.data.copy_(noise(*parameter.shape))


def pipeline():
    return load(CHECKPOINT, "f32")


def changed(before, after):
    """The tensors of a state dict that differ from those of another one."""
    return {
        name: tensor.contiguous()
        for name, tensor in after.items()
        if name in before and not torch.equal(tensor, before[name])
    }


def copied(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


class Writer:
    def __init__(self):
        FOLDER.mkdir(parents=True, exist_ok=True)
        for file in FOLDER.iterdir():
            file.unlink()
        self.cases = []

    def add(self, name, dialect, made_by, merged, tensors=None, file=None, metadata=None):
        """tensors: of the adapter, or the `file` that a library saved."""
        target = FOLDER / f"{name}.safetensors"
        if file is None:
            kept = {key: tensor.contiguous() for key, tensor in tensors.items()}
            save_file(kept, target, metadata=metadata)
        else:
            target.write_bytes(Path(file).read_bytes())
        target.chmod(0o644)
        if not merged:
            raise RuntimeError(f"{name}: the library changed nothing")
        save_file(merged, FOLDER / f"{name}_merged.safetensors")
        (FOLDER / f"{name}_merged.safetensors").chmod(0o644)
        self.cases.append({"name": name, "dialect": dialect, "made_by": made_by})
        print(f"{name}: {len(merged)} parameters, {target.stat().st_size} bytes")

    def close(self):
        packages = ("torch", "diffusers", "transformers", "peft", "lycoris-lora")
        index = {
            "checkpoint": "checkpoints/tiny-dev",
            "made_with": {name: version(name) for name in packages},
            "cases": self.cases,
        }
        (FOLDER / "index.json").write_text(json.dumps(index, indent=1) + "\n")


def merged_by_diffusers(file):
    """What `load_lora_weights` and `fuse_lora` make of the transformer's and CLIP's weights."""
    pipe = pipeline()
    parts = {"": pipe.transformer, "text_encoder.": pipe.text_encoder}
    before = {prefix: copied(part) for prefix, part in parts.items()}
    pipe.load_lora_weights(str(file))
    pipe.fuse_lora(components=["transformer", "text_encoder"])
    pipe.unload_lora_weights()
    merged = {}
    for prefix, part in parts.items():
        for name, tensor in changed(before[prefix], part.state_dict()).items():
            merged[prefix + name] = tensor
    return merged


def from_tensors(writer, name, dialect, tensors, **options):
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "adapter.safetensors"
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, file)
        merged = merged_by_diffusers(file)
    writer.add(name, dialect, "diffusers", merged, tensors=tensors, **options)


def diffusers_saved(writer):
    """As diffusers' training scripts save one: alpha is in the metadata alone, and not the rank."""
    pipe = pipeline()
    config = LoraConfig(
        r=4, lora_alpha=6, target_modules=MODULES, alpha_pattern={"transformer_blocks.0.attn.to_q": 2}
    )
    pipe.transformer.add_adapter(config)
    randomise(pipe.transformer)
    with tempfile.TemporaryDirectory() as folder:
        FluxPipeline.save_lora_weights(
            folder,
            transformer_lora_layers=get_peft_model_state_dict(pipe.transformer),
            transformer_lora_adapter_metadata=pipe.transformer.peft_config["default"].to_dict(),
        )
        file = Path(folder) / "pytorch_lora_weights.safetensors"
        writer.add("diffusers_metadata", "diffusers", "diffusers", merged_by_diffusers(file), file=file)


def shapes():
    state = pipeline().transformer.state_dict()
    return {name: tuple(state[f"{name}.weight"].shape) for name in MODULES}


def pair(tensors, module, rows, columns, rank, down, up, alpha=None):
    tensors[f"{module}.{down}.weight"] = noise(rank, columns)
    tensors[f"{module}.{up}.weight"] = noise(rows, rank)
    if alpha is not None:
        tensors[f"{module}.alpha"] = torch.tensor(float(alpha))


def diffusers_alphas(writer):
    """Ranks that differ, and an alpha for every module: with some left out diffusers would be wrong."""
    tensors = {}
    for i, (name, (rows, columns)) in enumerate(shapes().items()):
        pair(tensors, f"transformer.{name}", rows, columns, 2 + i % 3, "lora_A", "lora_B", 1 + i)
    from_tensors(writer, "diffusers_alpha", "diffusers", tensors)


def kohya(writer, name, dialect, module_of, down, up):
    """Fused qkv; the names of single_blocks' linear1 are left out: diffusers knows it in FLUX.1's size alone."""
    width = 36
    layers = {
        ("double_blocks", 0, "img_attn.qkv"): (3 * width, width),
        ("double_blocks", 1, "txt_attn.qkv"): (3 * width, width),
        ("double_blocks", 1, "txt_attn.proj"): (width, width),
        ("double_blocks", 0, "img_mlp.2"): (width, 4 * width),
        ("double_blocks", 0, "txt_mod.lin"): (6 * width, width),
        ("single_blocks", 2, "linear2"): (width, 5 * width),
        ("single_blocks", 1, "modulation.lin"): (3 * width, width),
    }
    tensors = {}
    for i, ((kind, block, layer), (rows, columns)) in enumerate(layers.items()):
        module = module_of(f"{kind}.{block}.{layer}")
        pair(tensors, module, rows, columns, 3, down, up, 1 if i % 2 == 0 else None)
    if dialect == "kohya":
        for layer in ("self_attn_q_proj", "self_attn_out_proj"):
            pair(tensors, f"lora_te1_text_model_encoder_layers_1_{layer}", 24, 24, 2, down, up, 1)
        # Rank 6 is 3 times 2: each part of the fused matrix has its own.
        sparse = torch.zeros(3 * width, 6)
        for part in range(3):
            rows = slice(part * width, (part + 1) * width)
            sparse[rows, 2 * part : 2 * part + 2] = noise(width, 2)
        module = module_of("double_blocks.1.img_attn.qkv")
        tensors[f"{module}.{down}.weight"] = noise(6, width)
        tensors[f"{module}.{up}.weight"] = sparse
        tensors[f"{module}.alpha"] = torch.tensor(6.0)
    from_tensors(writer, name, dialect, tensors)


def xlabs(writer):
    width = 36
    tensors = {}
    for side in (1, 2):
        block = f"double_blocks.{side - 1}.processor"
        pair(tensors, f"{block}.qkv_lora{side}", 3 * width, width, 4, "down", "up")
        pair(tensors, f"{block}.proj_lora{side}", width, width, 4, "down", "up")
    pair(tensors, "single_blocks.1.processor.qkv_lora", 3 * width, width, 4, "down", "up")
    pair(tensors, "single_blocks.1.processor.proj_lora", width, 5 * width, 4, "down", "up")
    from_tensors(writer, "xlabs", "XLabs", tensors)


def one_trainer(writer):
    tensors = {}
    for name, (rows, columns) in shapes().items():
        if "attn" in name:  # diffusers takes other modules of a block for the block itself
            module = "lora_transformer_" + name.replace(".", "_")
            pair(tensors, module, rows, columns, 3, "lora_down", "lora_up", 2)
    from_tensors(writer, "onetrainer", "OneTrainer", tensors)


def peft_saved(writer, name, config):
    """As peft saves a model, alpha being the rank: peft keeps it in another file."""
    transformer = pipeline().transformer
    before = copied(transformer)
    model = get_peft_model(transformer, config)
    randomise(model)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        file = Path(folder) / "adapter_model.safetensors"
        merged = changed(before, model.merge_and_unload().state_dict())
        writer.add(name, "PEFT", "peft", merged, file=file)


def lycoris_saved(writer, name, algorithm, **options):
    """As LyCORIS saves one. The weights are those that it computes with: its own merging of LoKr and LoHa multiplies
    with alpha / rank twice.
    """
    transformer = pipeline().transformer
    lycoris.LycorisNetwork.apply_preset({"target_module": [], "target_name": FEW})
    network = lycoris.create_lycoris(
        transformer, 1.0, linear_dim=4, linear_alpha=2, algo=algorithm, **options
    )
    network.apply_to()
    randomise(network)
    merged = {}
    with torch.no_grad():
        for layer in FEW:
            module = transformer.get_submodule(layer)
            bias = module(torch.zeros(1, module.in_features))[0]
            merged[f"{layer}.weight"] = (module(torch.eye(module.in_features)) - bias).T.contiguous()
            if algorithm == "full":
                merged[f"{layer}.bias"] = bias
    tensors = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    writer.add(name, "LyCORIS", "LyCORIS", merged, tensors=tensors)


def main():
    writer = Writer()
    GENERATOR.manual_seed(2301)
    diffusers_saved(writer)
    diffusers_alphas(writer)
    underscored = lambda name: "lora_unet_" + name.replace(".", "_")
    kohya(writer, "kohya", "kohya", underscored, "lora_down", "lora_up")
    kohya(writer, "comfyui", "ComfyUI", lambda name: f"diffusion_model.{name}", "lora_down", "lora_up")
    xlabs(writer)
    one_trainer(writer)
    peft_saved(writer, "peft_dora", LoraConfig(r=4, lora_alpha=4, target_modules=FEW, use_dora=True))
    peft_saved(
        writer, "peft_bias", LoraConfig(r=4, lora_alpha=4, target_modules=FEW, lora_bias=True)
    )
    peft_saved(writer, "peft_loha", LoHaConfig(r=4, alpha=4, target_modules=FEW))
    peft_saved(writer, "peft_lokr", LoKrConfig(r=3, alpha=3, target_modules=FEW, decompose_both=True))
    lycoris_saved(writer, "lycoris_lokr", "lokr", factor=4)
    lycoris_saved(writer, "lycoris_lokr_full", "lokr", full_matrix=True)
    lycoris_saved(writer, "lycoris_loha", "loha")
    lycoris_saved(writer, "lycoris_full", "full")
    lycoris_saved(writer, "lycoris_dora", "lora", dora_wd=True)
    lycoris_saved(writer, "lycoris_dora_input", "lora", dora_wd=True, wd_on_output=False)
    lycoris_saved(writer, "lycoris_dora_lokr", "lokr", factor=4, dora_wd=True)
    writer.close()


if __name__ == "__main__":
    main()
