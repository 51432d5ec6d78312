"""The tiny models of the single files, and pipelines of them with float32 weights taken from a file.

Sizes that no file names are FLUX.1's: attention heads of 64 in CLIP, 32 groups in the VAE's norms, the schedulers. The
transformers' heads have 32 or 128 values, their axes 1/8, 7/16 and 7/16 of those, which is 16, 56, 56 for 128.
"""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

import single_files
from tiny_models import TRANSFORMER_SCALES, randomise, t5_scales

GOLDEN = Path(__file__).resolve().parent.parent / "golden"
TOKENIZERS = GOLDEN / "checkpoints" / "tiny-dev"
CLIP_WIDTH, T5_WIDTH = 64, 64


def flux(heads, head_dim, doubles, singles, guidance=True):
    """Config of a transformer."""
    return dict(
        num_attention_heads=heads,
        attention_head_dim=head_dim,
        num_layers=doubles,
        num_single_layers=singles,
        guidance_embeds=guidance,
        axes_dims_rope=[head_dim // 8, head_dim * 7 // 16, head_dim * 7 // 16],
        in_channels=64,
        joint_attention_dim=T5_WIDTH,
        pooled_projection_dim=CLIP_WIDTH,
    )


TRANSFORMERS = {
    "small": (flux(2, 32, 1, 1), 4001),
    "narrow": (flux(1, 32, 2, 2), 4002),
    "schnell": (flux(1, 32, 1, 1, guidance=False), 4003),
    "wide": (flux(2, 128, 1, 1), 4004),  # rows of 256 values: for GGUF's K types
}
T5_CONFIG = dict(
    d_model=T5_WIDTH, d_kv=16, d_ff=64, num_layers=2, num_heads=2, feed_forward_proj="gated-gelu"
)
CLIP_CONFIG = dict(
    hidden_size=CLIP_WIDTH,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=CLIP_WIDTH // 64,
    hidden_act="quick_gelu",
)
VAES = {
    "tiny": dict(block_out_channels=[64, 32], layers_per_block=1),
    "deep": dict(block_out_channels=[32, 64, 32, 32], layers_per_block=2),
}
SCHEDULERS = {
    True: dict(
        use_dynamic_shifting=True,
        shift=3.0,
        base_shift=0.5,
        max_shift=1.15,
        base_image_seq_len=256,
        max_image_seq_len=4096,
    ),
    False: dict(shift=1.0),
}


@dataclass
class Model:
    """A model, its config as a dictionary and, by the layout's name, the table of its names in a file."""

    module: torch.nn.Module
    config: dict
    tables: dict = field(default_factory=dict)

    def state(self):
        """The float32 tensors, each once, under the names of diffusers and transformers."""
        spare = ("encoder.embed_tokens.weight", "embeddings.position_ids")
        state = self.module.state_dict()
        return {name: tensor for name, tensor in state.items() if name not in spare}

    def named(self, layout="file"):
        return single_files.to_file(self.state(), self.tables[layout])

    def filled(self, tensors, layout="file"):
        """The module with the values that `tensors`, named as in the file, stand for."""
        state = single_files.from_file(tensors, self.tables[layout], self.state())
        if "shared.weight" in state:
            state["encoder.embed_tokens.weight"] = state["shared.weight"]
        self.module.load_state_dict(state, strict=True)
        return self.module


def transformer(name):
    config, seed = TRANSFORMERS[name]
    model = randomise(FluxTransformer2DModel(**config), seed, TRANSFORMER_SCALES)
    return Model(model, config, {"file": single_files.transformer_table(config)})


def vae(name):
    levels = len(VAES[name]["block_out_channels"])
    config = dict(
        **VAES[name],
        latent_channels=16,
        norm_num_groups=32,
        scaling_factor=0.3611,
        shift_factor=0.1159,
        use_quant_conv=False,
        use_post_quant_conv=False,
        down_block_types=["DownEncoderBlock2D"] * levels,
        up_block_types=["UpDecoderBlock2D"] * levels,
    )
    model = randomise(AutoencoderKL(**config), 4010, [("decoder.conv_out", 0.45)])
    return Model(model, config, {"file": single_files.vae_table(config)})


def t5():
    size = len(T5TokenizerFast.from_pretrained(TOKENIZERS / "tokenizer_2"))
    config = T5Config(**T5_CONFIG, vocab_size=size + 5, dropout_rate=0.0)
    model = randomise(T5EncoderModel(config), 4011, t5_scales(config))
    tables = {
        "file": single_files.t5_table(T5_CONFIG),
        "llama": single_files.t5_table(T5_CONFIG, llama=True),
    }
    return Model(model, {**T5_CONFIG, "vocab_size": size + 5}, tables)


def clip():
    size = len(CLIPTokenizer.from_pretrained(TOKENIZERS / "tokenizer"))
    config = CLIPTextConfig(
        **CLIP_CONFIG, vocab_size=size, projection_dim=CLIP_WIDTH, eos_token_id=2, bos_token_id=0
    )
    model = randomise(CLIPTextModel(config), 4012)
    return Model(
        model, {**CLIP_CONFIG, "vocab_size": size}, {"file": single_files.clip_table(CLIP_CONFIG)}
    )


def pipeline(transformer, vae, clip, t5):
    """The float32 pipeline of four modules, with tiny-dev's tokenizers and the scheduler of FLUX.1-dev or -schnell."""
    scheduler = SCHEDULERS[transformer.config.guidance_embeds]
    pipe = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**scheduler),
        vae=vae,
        text_encoder=clip,
        tokenizer=CLIPTokenizer.from_pretrained(TOKENIZERS / "tokenizer"),
        text_encoder_2=t5,
        tokenizer_2=T5TokenizerFast.from_pretrained(TOKENIZERS / "tokenizer_2"),
        transformer=transformer,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe
