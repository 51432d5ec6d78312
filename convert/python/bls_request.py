"""What a request to bls may say: read from its inputs and parameters, checked, gaps filled.

Beside bls/1/model.py, and needs neither torch nor Triton: tensors come as objects with name() and
as_numpy(), errors go out as Refused. The rules are those of the native bls, to the word.
"""

import dataclasses
import json
import math
import random
import re
import time
import typing

TEXTS = ("prompt", "prompt_2", "negative_prompt", "output_format")
NUMBERS = ("true_cfg_scale", "guidance_scale")
FORMATS = ("raw", "png", "png_base64")
MOST_BYTES, MOST_STEPS, MOST_IMAGES, MOST_TOKENS = 65536, 1000, 16, 512
LARGEST_FLOAT = 3.4028234663852886e38
YEAR = 365 * 24 * 3600 * 10**6  # microseconds


class Refused(Exception):
    """What a request is answered with instead of outputs; `code` is one of pb_utils.TritonError."""

    def __init__(self, message, code="INVALID_ARG"):
        super().__init__(message)
        self.code = code


class Sizes:
    """What the checkpoint and the parameters of config.pbtxt say about pictures."""

    def __init__(self, directory, parameters):
        def read(part, file="config.json"):
            return json.loads((directory / part / file).read_text())

        transformer, vae = read("transformer"), read("vae")
        self.scheduler = read("scheduler", "scheduler_config.json")
        self.guided = transformer.get("guidance_embeds", False)  # guidance embeddings
        self.pooled_dim = transformer["pooled_projection_dim"]
        self.joint_dim = transformer["joint_attention_dim"]
        self.channels = transformer["in_channels"] // 4  # of unpacked latents
        factor = 2 ** (len(vae["block_out_channels"]) - 1)
        self.multiple = 2 * factor  # of which sides must be: the pixels of a token
        self.scaling, self.shift = vae["scaling_factor"], vae.get("shift_factor") or 0.0
        self.height = int(parameters["default_height"])
        self.width = int(parameters["default_width"])
        self.max_side = int(parameters["max_side"])


@dataclasses.dataclass
class Row:
    """One prompt, every value present and allowed."""

    prompt: str
    prompt_2: str
    negative_prompt: typing.Optional[str]  # there exactly when true CFG is done
    true_cfg_scale: float
    num_inference_steps: int
    guidance_scale: float
    height: int
    width: int
    seed: int
    num_images_per_prompt: int
    max_sequence_length: int


class Job:
    """One request while it is drawn: its rows, how far it is, and whether it is still wanted."""

    def __init__(self, request, rows):
        self.request, self.rows = request, rows
        self.steps = max(row.num_inference_steps for row in rows)
        self.done, self.truncated = 0, False
        self.laps = [time.monotonic()]
        microseconds = timeout_of(request)
        self.deadline = time.monotonic() + (microseconds or math.inf) * 1e-6

    def lap(self):
        """Encoding is done; then denoising."""
        self.laps.append(time.monotonic())

    def seconds(self):
        encode, denoise, decode = (
            end - begin for begin, end in zip(self.laps, [*self.laps[1:], time.monotonic()])
        )
        return f"seconds: encode {encode:.3f}, denoise {denoise:.3f}, decode {decode:.3f}"

    def remaining_microseconds(self):
        """0: without end."""
        left = self.deadline - time.monotonic()
        return 0 if math.isinf(left) else max(1, int(left * 1e6))

    def check(self):
        """Raises when nobody waits for the pictures any more."""
        where = f"cancelled after step {self.done} of {self.steps}"
        if time.monotonic() >= self.deadline:
            raise Refused(f"the request's timeout passed: {where}", "UNAVAILABLE")
        if self.request.is_cancelled():
            raise Refused(where, "CANCELLED")


def read_request(request, sizes):
    """(rows, output format); raises Refused."""
    inputs = {tensor.name(): tensor.as_numpy().reshape(-1).tolist() for tensor in request.inputs()}
    parameters = parameters_of_request(request)
    count = len(next(iter(inputs.values()), [None]))

    def column(name):
        """The values of all rows; None where nothing is said. An input wins over a parameter."""
        if name in inputs:
            return inputs[name]
        value = parameters.get(name)
        return [None if value is None else converted(name, value)] * count

    names = TEXTS + NUMBERS + tuple(field.name for field in dataclasses.fields(Row))
    columns = {name: column(name) for name in dict.fromkeys(names)}
    formats = columns.pop("output_format")
    if any(value != formats[0] for value in formats):
        raise Refused("output_format differs between rows: send them as two requests")
    output_format = "raw" if formats[0] is None else decoded("output_format", formats[0])
    if output_format not in FORMATS:
        raise Refused(f"output_format is '{output_format}': must be raw, png or png_base64")
    rows = [
        checked_row({name: values[at] for name, values in columns.items()}, sizes)
        for at in range(count)
    ]
    check_rows_agree(rows, output_format)
    return rows, output_format


def timeout_of(request):
    """Microseconds that the request may take, or None: its own timeout, or the parameter that
    /generate makes of a key."""
    value = request.timeout() or parameters_of_request(request).get("timeout")
    if value is not None and not (type(value) is int and 1 <= value <= YEAR):
        raise Refused(
            f"parameter timeout is {json.dumps(value)}: must be a whole number of microseconds "
            f"from 1 to {YEAR}"
        )
    return value


def parameters_of_request(request):
    return json.loads(request.parameters() or "{}")


def converted(name, value):
    """A request parameter as what the input of that name would hold."""
    said = f"parameter {name} is {json.dumps(value)}"
    if name in TEXTS:
        if not isinstance(value, str):
            raise Refused(f"{said}: must be a string")
        return value.encode()
    try:
        if isinstance(value, bool):
            raise ValueError
        number = float(value)
    except ValueError:
        raise Refused(f"{said}: must be a number") from None
    if name in NUMBERS:
        return number
    if isinstance(value, str):
        if not re.fullmatch(r"-?\d+", value):
            raise Refused(f"parameter {name} is '{value}': must be an integer")
        return int(value)
    if not (math.isfinite(number) and number == int(number)):
        raise Refused(f"{said}: must be an integer")
    return int(value)


def checked_row(values, sizes):
    def given(name, default):
        return default if values[name] is None else values[name]

    if values["prompt"] is None:
        raise Refused("prompt is missing: say what to draw")
    prompt = checked_text("prompt", values["prompt"])
    prompt_2 = checked_text("prompt_2", given("prompt_2", values["prompt"]))
    scale = checked_number("true_cfg_scale", given("true_cfg_scale", 1.0), 1, LARGEST_FLOAT)
    negative = values["negative_prompt"]
    if negative is not None:
        negative = checked_text("negative_prompt", negative, may_be_blank=True)
    steps, tokens = (28, 512) if sizes.guided else (4, 256)
    steps = given("num_inference_steps", steps)
    images = given("num_images_per_prompt", 1)
    tokens = given("max_sequence_length", tokens)
    seed = given("seed", random.SystemRandom().getrandbits(32))
    if seed < 0:
        raise Refused(f"seed is {seed}: must be 0 or more")
    return Row(
        prompt=prompt,
        prompt_2=prompt_2,
        negative_prompt=negative if scale > 1 else None,
        true_cfg_scale=scale,
        num_inference_steps=checked_integer("num_inference_steps", steps, MOST_STEPS),
        guidance_scale=checked_number("guidance_scale", given("guidance_scale", 3.5), 0, 100),
        height=checked_side("height", given("height", sizes.height), sizes),
        width=checked_side("width", given("width", sizes.width), sizes),
        seed=seed,
        num_images_per_prompt=checked_integer("num_images_per_prompt", images, MOST_IMAGES),
        max_sequence_length=checked_integer("max_sequence_length", tokens, MOST_TOKENS),
    )


def decoded(name, value):
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        at = error.start
        raise Refused(f"{name} is not valid UTF-8: byte {at} is 0x{value[at]:02x}") from None


def checked_text(name, value, may_be_blank=False):
    if len(value) > MOST_BYTES:
        raise Refused(f"{name} has {len(value)} bytes: at most {MOST_BYTES} are allowed")
    if b"\0" in value:
        raise Refused(f"{name} holds a NUL character: not allowed")
    text = decoded(name, value)
    if not may_be_blank and not text.strip(" \t\n\v\f\r"):
        raise Refused(f"{name} is blank: say what to draw")
    return text


def checked_number(name, value, low, high):
    if not low <= value <= high:  # NaN is in no range
        raise Refused(f"{name} is {value:g}: must be a number from {low:g} to {high:g}")
    return value


def checked_integer(name, value, high):
    if not 1 <= value <= high:
        raise Refused(f"{name} is {value}: must be from 1 to {high}")
    return value


def checked_side(name, value, sizes):
    low, high = sizes.multiple, sizes.max_side
    if not low <= value <= high or value % low != 0:
        raise Refused(f"{name} is {value}: must be a multiple of {low} from {low} to {high}")
    return value


def check_rows_agree(rows, output_format):
    first = rows[0]
    for row in rows:
        same_count = row.num_images_per_prompt == first.num_images_per_prompt
        same_size = (row.height, row.width) == (first.height, first.width)
        if same_count and (same_size or output_format != "raw"):
            continue
        what = (
            "raw images of one request need one size; use output_format png"
            if same_count
            else "rows of one request need one num_images_per_prompt"
        )
        raise Refused(
            f"rows disagree: {first.height} x {first.width} with {first.num_images_per_prompt} "
            f"images and {row.height} x {row.width} with {row.num_images_per_prompt}: {what}"
        )
