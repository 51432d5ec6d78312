"""Names of tensors in single-file checkpoints, and the maps to them from diffusers' and transformers' state dicts.

A table maps each name in the file to the names of the tensors that it stacks along the first dimension.
"""

import torch

DIFFUSION = "model.diffusion_model."
CLIP = "text_encoders.clip_l."
T5 = "text_encoders.t5xxl."
VAE = "vae."
# The two halves of this layer are scale and shift in diffusers, shift and scale in the file.
SWAPPED = ("final_layer.adaLN_modulation.1.weight", "final_layer.adaLN_modulation.1.bias")


def with_kinds(layers, kinds=("weight", "bias")):
    return {
        f"{file}.{kind}": [f"{name}.{kind}" for name in names]
        for file, names in layers.items()
        for kind in kinds
    }


def double_block(i):
    """Layers and norms of a double block; `img` is the stream that diffusers gives no name, `txt` the context's."""
    file, block = f"double_blocks.{i}.", f"transformer_blocks.{i}."
    attn = block + "attn."
    layers = {
        "img_mod.lin": ["norm1.linear"],
        "img_attn.qkv": ["attn.to_q", "attn.to_k", "attn.to_v"],
        "img_attn.proj": ["attn.to_out.0"],
        "img_mlp.0": ["ff.net.0.proj"],
        "img_mlp.2": ["ff.net.2"],
        "txt_mod.lin": ["norm1_context.linear"],
        "txt_attn.qkv": ["attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"],
        "txt_attn.proj": ["attn.to_add_out"],
        "txt_mlp.0": ["ff_context.net.0.proj"],
        "txt_mlp.2": ["ff_context.net.2"],
    }
    norms = {
        "img_attn.norm.query_norm.scale": "norm_q.weight",
        "img_attn.norm.key_norm.scale": "norm_k.weight",
        "txt_attn.norm.query_norm.scale": "norm_added_q.weight",
        "txt_attn.norm.key_norm.scale": "norm_added_k.weight",
    }
    table = with_kinds({file + k: [block + name for name in v] for k, v in layers.items()})
    return {**table, **{file + k: [attn + name] for k, name in norms.items()}}


def single_block(i):
    file, block = f"single_blocks.{i}.", f"single_transformer_blocks.{i}."
    stacked = ["attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"]
    layers = {"modulation.lin": ["norm.linear"], "linear1": stacked, "linear2": ["proj_out"]}
    table = with_kinds({file + k: [block + name for name in v] for k, v in layers.items()})
    table[file + "norm.query_norm.scale"] = [block + "attn.norm_q.weight"]
    table[file + "norm.key_norm.scale"] = [block + "attn.norm_k.weight"]
    return table


def transformer_table(config):
    """Black Forest Labs' names of a FluxTransformer2DModel with this config."""
    embedders = ["time_in", "vector_in"] + (["guidance_in"] if config["guidance_embeds"] else [])
    ours = {
        "time_in": "timestep_embedder",
        "vector_in": "text_embedder",
        "guidance_in": "guidance_embedder",
    }
    layers = {"img_in": ["x_embedder"], "txt_in": ["context_embedder"]}
    for name in embedders:
        layers[f"{name}.in_layer"] = [f"time_text_embed.{ours[name]}.linear_1"]
        layers[f"{name}.out_layer"] = [f"time_text_embed.{ours[name]}.linear_2"]
    layers["final_layer.adaLN_modulation.1"] = ["norm_out.linear"]
    layers["final_layer.linear"] = ["proj_out"]
    table = with_kinds(layers)
    for i in range(config["num_layers"]):
        table.update(double_block(i))
    for i in range(config["num_single_layers"]):
        table.update(single_block(i))
    return table


def resnet(file, ours, shortcut):
    layers = {name: [f"{ours}.{name}"] for name in ("norm1", "conv1", "norm2", "conv2")}
    if shortcut:
        layers["nin_shortcut"] = [f"{ours}.conv_shortcut"]
    return {f"{file}.{k}": v for k, v in layers.items()}


def middle(side):
    """The two residual blocks and the attention between them; its linear layers are 1x1 convolutions in the file."""
    layers = {
        **resnet(f"{side}.mid.block_1", f"{side}.mid_block.resnets.0", False),
        **resnet(f"{side}.mid.block_2", f"{side}.mid_block.resnets.1", False),
    }
    names = {
        "norm": "group_norm",
        "q": "to_q",
        "k": "to_k",
        "v": "to_v",
        "proj_out": "to_out.0",
    }
    for file, ours in names.items():
        layers[f"{side}.mid.attn_1.{file}"] = [f"{side}.mid_block.attentions.0.{ours}"]
    return layers


def vae_table(config):
    """Black Forest Labs' names of an AutoencoderKL without quant_conv and post_quant_conv."""
    channels, blocks = config["block_out_channels"], config["layers_per_block"]
    levels = len(channels)
    layers = {}
    for side in ("encoder", "decoder"):
        layers[f"{side}.conv_in"] = [f"{side}.conv_in"]
        layers[f"{side}.norm_out"] = [f"{side}.conv_norm_out"]
        layers[f"{side}.conv_out"] = [f"{side}.conv_out"]
        layers.update(middle(side))
    for i in range(levels):
        before = channels[max(i - 1, 0)]
        for k in range(blocks):
            shortcut = k == 0 and before != channels[i]
            layers.update(
                resnet(
                    f"encoder.down.{i}.block.{k}", f"encoder.down_blocks.{i}.resnets.{k}", shortcut
                )
            )
        if i < levels - 1:
            ours = f"encoder.down_blocks.{i}.downsamplers.0.conv"
            layers[f"encoder.down.{i}.downsample.conv"] = [ours]
    for i in range(levels):  # i counts from the latents, the file's number from the image
        file, now = levels - 1 - i, channels[levels - 1 - i]
        before = channels[min(levels - i, levels - 1)]
        for k in range(blocks + 1):
            shortcut = k == 0 and before != now
            layers.update(
                resnet(
                    f"decoder.up.{file}.block.{k}", f"decoder.up_blocks.{i}.resnets.{k}", shortcut
                )
            )
        if i < levels - 1:
            ours = f"decoder.up_blocks.{i}.upsamplers.0.conv"
            layers[f"decoder.up.{file}.upsample.conv"] = [ours]
    return with_kinds(layers)


def clip_table(config):
    """The names of clip_l.safetensors, which stand for those of transformers' CLIPTextModel."""
    layers = {}
    for i in range(config["num_hidden_layers"]):
        block = f"encoder.layers.{i}."
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            layers[f"text_model.{block}self_attn.{name}"] = [f"{block}self_attn.{name}"]
        for name in ("layer_norm1", "layer_norm2", "mlp.fc1", "mlp.fc2"):
            layers[f"text_model.{block}{name}"] = [block + name]
    layers["text_model.final_layer_norm"] = ["final_layer_norm"]
    embeddings = {
        f"text_model.embeddings.{name}": [f"embeddings.{name}"]
        for name in ("token_embedding", "position_embedding")
    }
    return {**with_kinds(layers), **with_kinds(embeddings, ("weight",))}


def t5_parts(i):
    """Pairs (llama.cpp's name, transformers' name) inside block i of a gated T5."""
    attention = {f"attn_{k}": f"layer.0.SelfAttention.{k}" for k in ("q", "k", "v", "o")}
    if i == 0:
        attention["attn_rel_b"] = "layer.0.SelfAttention.relative_attention_bias"
    return {
        **attention,
        "attn_norm": "layer.0.layer_norm",
        "ffn_gate": "layer.1.DenseReluDense.wi_0",
        "ffn_up": "layer.1.DenseReluDense.wi_1",
        "ffn_down": "layer.1.DenseReluDense.wo",
        "ffn_norm": "layer.1.layer_norm",
    }


def t5_table(config, llama=False):
    """The names of t5xxl_fp16.safetensors, which are transformers' own, or with `llama` those of llama.cpp."""
    layers = {"token_embd": "shared", "enc.output_norm": "encoder.final_layer_norm"}
    for i in range(config["num_layers"]):
        for file, ours in t5_parts(i).items():
            layers[f"enc.blk.{i}.{file}"] = f"encoder.block.{i}.{ours}"
    return with_kinds({k if llama else v: [v] for k, v in layers.items()}, ("weight",))


def to_file(state, table):
    """A model's state dict under the file's names. Every tensor of the state dict must be in the table."""
    spare = set(state) - {name for names in table.values() for name in names}
    if spare:
        raise KeyError(f"no name in the file for {sorted(spare)}")
    made = {}
    for file, names in table.items():
        tensor = torch.cat([state[name] for name in names]) if len(names) > 1 else state[names[0]]
        if file in SWAPPED:
            tensor = torch.cat(tensor.chunk(2)[::-1])
        if ".mid.attn_1." in file and tensor.ndim == 2:
            tensor = tensor[:, :, None, None]
        made[file] = tensor.contiguous()
    return made


def from_file(tensors, table, like):
    """The state dict that `tensors`, named as in the file, stand for; `like` gives the shapes of its tensors."""
    state = {}
    for file, names in table.items():
        tensor = tensors[file]
        if file in SWAPPED:
            tensor = torch.cat(tensor.chunk(2)[::-1])
        parts = tensor.split([like[name].shape[0] for name in names])
        for name, part in zip(names, parts, strict=True):
            state[name] = part.reshape(like[name].shape).float().contiguous()
    return state
