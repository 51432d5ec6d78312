"""The fp8 forms of ComfyUI's safetensors files, and their reader in float32."""

import json

import torch
from safetensors import safe_open

FP8 = torch.float8_e4m3fn
FORMAT = {"format": "float8_e4m3fn"}
SCALES = ("scale_weight", "weight_scale")
UNUSED = ("scale_input", "input_scale", "comfy_quant", "scaled_fp8")
EMBEDDINGS = ("shared.weight", "relative_attention_bias.weight")


def plain(tensors):
    """Every tensor cast, biases and norms included, as in the all-in-one files of FLUX.1."""
    return {name: tensor.to(FP8) for name, tensor in tensors.items()}


def is_linear(name, tensor):
    return name.endswith(".weight") and tensor.ndim == 2 and not name.endswith(EMBEDDINGS)


def scaled(tensors, chosen, rest, weight_key, input_key, shape=()):
    """The chosen linears with one scale each, so that the largest value is 448; all else in the dtype `rest`.

    shape: that of a scale, () or (1,). Every second linear also has a scale for its input.
    """
    made = {}
    layers = [name.removesuffix(".weight") for name in tensors if chosen(name, tensors[name])]
    for name, tensor in tensors.items():
        layer = name.removesuffix(".weight")
        if not name.endswith(".weight") or layer not in layers:
            made[name] = tensor.to(rest)
            continue
        scale = tensor.abs().max() / torch.finfo(FP8).max
        made[name] = (tensor / scale).to(FP8)
        made[f"{layer}.{weight_key}"] = scale.reshape(shape)
        if layers.index(layer) % 2 == 0:
            made[f"{layer}.{input_key}"] = torch.full(shape, 0.03125 * (1 + len(made) % 7))
    return made, layers


def older(tensors, rest=torch.bfloat16, marker=None, shape=(), prefix=""):
    """The form with `scaled_fp8`, every linear scaled. `marker`: that tensor; an empty fp8 one if not given.

    A marker of two values says that products are not to be computed in fp8.
    """
    made, _ = scaled(tensors, is_linear, rest, "scale_weight", "scale_input", shape)
    made = {prefix + name: tensor for name, tensor in made.items()}
    made[prefix + "scaled_fp8"] = torch.empty(0, dtype=FP8) if marker is None else marker
    return made


def newer(tensors, rest=torch.bfloat16, tensors_too=True, prefix=""):
    """(tensors, metadata) of the form with `comfy_quant` and `_quantization_metadata`; only the blocks' linears scaled.

    tensors_too: whether the layers have their `comfy_quant` tensor beside the entry in the metadata.
    """
    in_block = lambda name, tensor: is_linear(name, tensor) and "block" in name
    made, layers = scaled(tensors, in_block, rest, "weight_scale", "input_scale")
    formats = {}
    for i, layer in enumerate(layers):
        formats[prefix + layer] = (
            {**FORMAT, "full_precision_matrix_mult": True} if i % 3 else FORMAT
        )
        if tensors_too:
            text = json.dumps(formats[prefix + layer]).encode()
            made[f"{layer}.comfy_quant"] = torch.tensor(list(text), dtype=torch.uint8)
    metadata = {"format_version": "1.0", "layers": formats}
    made = {prefix + name: tensor for name, tensor in made.items()}
    return made, {"_quantization_metadata": json.dumps(metadata)}


def read(path, prefix=""):
    """The float32 values of a file's tensors below `prefix`, scales applied, without the prefix."""
    with safe_open(path, "pt") as file:
        stored = {
            name.removeprefix(prefix): file.get_tensor(name)
            for name in file.keys()
            if name.startswith(prefix)
        }
    values = {}
    for name, tensor in stored.items():
        layer, _, kind = name.rpartition(".")
        if kind in (*SCALES, *UNUSED):
            continue
        values[name] = tensor.float()
        for scale in SCALES if kind == "weight" else ():
            if f"{layer}.{scale}" in stored:
                values[name] = values[name] * stored[f"{layer}.{scale}"]
    return values
