"""The inputs of the golden files: prompts, shapes, seeds and requests. Facts only, make_golden.py does the work."""

LONG = (
    "a photo of a large wooden boat by the sea under the stars, it's painted blue and golden, "
    "with a tall broken tree, a quiet garden, three small robots, und einer schönen Straße, "
) * 9
PROMPTS = [
    "a photo of a red cat in the rain",
    "un café à la crème près de la forêt, it's déjà l'été, THEY'RE happy",
    "猫が机の上に座っています 🐱🚀 ✨ 一只猫坐在桌子上",
    "a bottle<|endoftext|> of </s> green <pad> paint <extra_id_3> x <extra_id_99><|startoftext|> end <unk>",
    "   blank \t\n runs\u00a0of \u3000 space  ",
    LONG,
    "маленький ДОМ у реки ΈΝΑ ΜΙΚΡΌ ΣΠΊΤΙ İstanbul Straße ﬁre ①②③ ｆｕｌｌ e\u0301 한국어",
    "12 apples, 3.14 and 1999 (50%) #tag user@site #1 -- ?!... don't we'll I'd she's I'm you've",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 family \u2764\ufe0f flags \U0001f1e9\U0001f1ea \u200bzero\u200bwidth \ufffd \U00020000",
    "x",
]
# max_sequence_length -> the prompts taken
T5_LENGTHS = {1: [0, 5], 77: list(range(len(PROMPTS))), 256: [1, 5], 512: [2, 5]}

TRANSFORMER = {
    "2x3_batch2": dict(
        batch=2,
        tokens=(2, 3),
        text_tokens=11,
        timesteps=[873.25, 41.6],
        guidance=[3.5, 0.75],
        seed=11,
    ),
    "13x7": dict(
        batch=1, tokens=(13, 7), text_tokens=77, timesteps=[1000.0], guidance=[5.0], seed=12
    ),
    "1x1": dict(
        batch=1, tokens=(1, 1), text_tokens=1, timesteps=[333.333], guidance=[0.0], seed=13
    ),
}
TRACE = dict(batch=1, tokens=(2, 4), text_tokens=5, timesteps=[612.5], guidance=[2.25], seed=14)
# name -> (batch, latent height, latent width, seed)
VAE = {"4x10": (1, 4, 10, 21), "6x2_batch2": (2, 6, 2, 22), "2x2": (1, 2, 2, 23)}

BASIC = dict(prompt=[PROMPTS[1]], seed=42, num_inference_steps=3, max_sequence_length=77)
ROWS = dict(
    prompt=[PROMPTS[0], PROMPTS[2]],
    seed=0,
    num_inference_steps=2,
    num_images_per_prompt=2,
    max_sequence_length=96,
)
CFG = dict(
    prompt=["a drawing of a castle", PROMPTS[7]],
    prompt_2=["a quiet street at night, it's raining", PROMPTS[3]],
    negative_prompt=["dark, broken", PROMPTS[6]],
    true_cfg_scale=2.5,
    seed=7,
    num_inference_steps=3,
    max_sequence_length=128,
)
LONGEST = dict(prompt=[LONG], seed=2**40 + 7, num_inference_steps=2, max_sequence_length=512)
MANY = dict(prompt=[PROMPTS[4]], seed=2**63 - 1, num_inference_steps=8, max_sequence_length=1)


def sized(request, height, width, **more):
    return {**request, "height": height, "width": width, **more}


# checkpoint -> dtype -> name -> request. A size is a multiple of twice the VAE's factor (8, 4 and 2).
IMAGES = {
    "tiny-dev": {
        "f32": {
            "basic": sized(BASIC, 48, 80, guidance_scale=3.5),
            "rows": sized(ROWS, 64, 32, guidance_scale=2.0),
            "cfg": sized(CFG, 32, 48, guidance_scale=1.5),
            "long": sized(LONGEST, 112, 16, guidance_scale=0.0),
            "many": sized(MANY, 16, 32, guidance_scale=7.25),
        },
        "bf16": {
            "basic": sized(BASIC, 48, 80, guidance_scale=3.5),
            "rows": sized(ROWS, 64, 32, guidance_scale=2.0),
            "cfg": sized(CFG, 32, 48, guidance_scale=1.5),
            "long": sized(LONGEST, 80, 96, guidance_scale=4.0),
        },
    },
    "tiny-schnell": {
        "f32": {
            "basic": sized(BASIC, 40, 72, num_inference_steps=4),
            "rows": sized(ROWS, 32, 16),
            "cfg": sized(CFG, 24, 32),
            "long": sized(LONGEST, 56, 16),
            "many": sized(MANY, 16, 24),
        },
        "bf16": {
            "basic": sized(BASIC, 40, 72, num_inference_steps=4),
            "rows": sized(ROWS, 32, 16),
            "cfg": sized(CFG, 48, 32),
            "long": sized(LONGEST, 56, 64),
        },
    },
    "tiny-f16": {
        "f32": {"rows": sized(ROWS, 20, 28), "cfg": sized(CFG, 24, 16)},
        "bf16": {"basic": sized(BASIC, 36, 44)},
    },
}

NOISE_SEEDS = [42, 0, 2**40 + 7, 2**63 - 1]
# The first four for every seed: below 16 values, 16, a tail of 4 and of 15 values past blocks of 16.
NOISE_SHAPES = [
    (1, 1, 3, 5),
    (1, 4, 2, 2),
    (1, 5, 2, 2),
    (1, 3, 7, 3),
    (1, 1, 1, 1),
    (1, 6, 4, 10),
    (1, 16, 10, 14),
]

FLUX_DEV = dict(use_dynamic_shifting=True, shift=3.0)
SCHEDULERS = [
    FLUX_DEV,
    dict(shift=1.0),
    dict(shift=3.0),
    {},
    dict(FLUX_DEV, base_image_seq_len=8, max_image_seq_len=64, base_shift=0.3, max_shift=1.7),
    dict(FLUX_DEV, time_shift_type="linear"),
    dict(shift=2.0, shift_terminal=0.02),
    dict(FLUX_DEV, num_train_timesteps=500),
]
# (image tokens, steps)
SCHEDULES = [(4096, 4), (1024, 28), (15, 3), (8160, 1), (1, 2), (256, 50)]
