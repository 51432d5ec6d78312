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

# Images as input. name -> (batch, latent height, latent width, seed)
VAE_ENCODER = {"1x1": (1, 1, 1, 51), "3x7": (1, 3, 7, 52), "9x2_batch2": (2, 9, 2, 53)}

START = dict(prompt=[PROMPTS[0]], seed=3, num_inference_steps=5, max_sequence_length=77)
SHORT_CFG = {**CFG, "max_sequence_length": 32}
FIRST_CFG = {key: value[:1] if isinstance(value, list) else value for key, value in SHORT_CFG.items()}
SHORT_ROWS = {**ROWS, "max_sequence_length": 32, "num_inference_steps": 4}


def from_image(request, height, width, given=None, mask=None, **more):
    """A request with an image of the size `given` (height, width), and a mask of the size `mask`, "RGB" or "L"."""
    return {
        **sized(request, height, width, **more),
        "image": given or (height, width),
        **({"mask": mask} if mask else {}),
    }


# checkpoint -> dtype -> name -> request. An absent strength is that of the pipelines.
IMAGE_TO_IMAGE = {
    "tiny-dev": {
        "f32": {
            "start": from_image(START, 48, 80),
            "resized": from_image(
                START, 64, 32, given=(101, 37), strength=0.55, num_inference_steps=20
            ),
            "least": from_image(START, 32, 32, given=(16, 24), strength=0.3, num_inference_steps=4),
            "cfg": from_image(SHORT_CFG, 32, 48, strength=0.75, guidance_scale=1.5),
            "rows": from_image(SHORT_ROWS, 16, 48, given=(40, 40), strength=1.0),
            "masked": from_image(START, 48, 80, mask=(48, 80, "L")),
            "masked_resized": from_image(
                START, 64, 32, given=(50, 90), mask=(33, 70, "RGB"), strength=0.9
            ),
            "masked_cfg": from_image(
                SHORT_CFG, 32, 48, mask=(64, 64, "L"), strength=0.75, num_inference_steps=6
            ),
            "masked_rows": from_image(SHORT_ROWS, 32, 16, mask=(32, 16, "L"), strength=1.0),
        },
        "bf16": {
            "start": from_image(START, 48, 80, strength=0.7),
            "masked": from_image(START, 48, 80, mask=(48, 80, "L"), strength=0.8),
        },
    },
    "tiny-schnell": {
        "f32": {
            "start": from_image(START, 40, 72, strength=0.56, num_inference_steps=25),
            "masked": from_image(START, 24, 56, mask=(24, 56, "L"), num_inference_steps=6),
        },
        "bf16": {
            "start": from_image(START, 40, 72, strength=0.6),
            "masked": from_image(START, 24, 56, mask=(30, 20, "RGB"), strength=0.7),
        },
    },
    # Few steps: the reference has a million pixels whatever is given.
    "tiny-kontext": {
        "f32": {
            "edit": from_image(START, 48, 80, given=(90, 140), num_inference_steps=2),
            "edit_rows": from_image(
                SHORT_ROWS, 512, 512, given=(300, 71), num_inference_steps=2
            ),
            "edit_cfg": from_image(
                FIRST_CFG, 128, 32, given=(64, 64), guidance_scale=2.0, num_inference_steps=2
            ),
            "edit_images": from_image(
                START, 32, 48, given=(500, 99), num_inference_steps=1, num_images_per_prompt=2
            ),
        },
        "bf16": {"edit": from_image(START, 48, 80, given=(90, 140), num_inference_steps=2)},
    },
    "tiny-fill": {
        "f32": {
            "fill": from_image(START, 48, 80, mask=(48, 80, "L"), guidance_scale=30.0),
            "fill_rows": from_image(
                SHORT_ROWS, 32, 64, given=(70, 51), mask=(20, 33, "RGB"), strength=0.7
            ),
            "fill_images": from_image(
                START, 64, 16, given=(65, 17), mask=(64, 16, "L"), num_images_per_prompt=2
            ),
            "fill_least": from_image(
                START, 48, 48, given=(31, 97), mask=(48, 48, "RGB"), strength=0.3,
                guidance_scale=1.0, num_inference_steps=7,
            ),
        },
        "bf16": {"fill": from_image(START, 48, 80, mask=(48, 80, "L"), guidance_scale=30.0)},
    },
    "tiny-control": {
        "f32": {
            "control": from_image(START, 48, 80),
            "control_rows": from_image(SHORT_ROWS, 64, 32, given=(40, 90)),
            "control_images": from_image(START, 16, 80, given=(17, 81), num_images_per_prompt=2),
            "control_strong": from_image(
                START, 48, 32, given=(200, 33), guidance_scale=10.0, num_inference_steps=9
            ),
        },
        "bf16": {"control": from_image(START, 48, 80)},
    },
    # Three latent channels: the pipelines take an image for latents.
    "tiny-f16": {"f32": {}, "bf16": {}},
}
