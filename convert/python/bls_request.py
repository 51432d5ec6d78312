"""What a request to bls may say: read from its inputs and parameters, checked, gaps filled.

Beside bls/1/model.py and request_fields.json, the table of fields that convert wrote with their
limits and defaults. It needs neither torch nor Triton: tensors come as objects with name() and
as_numpy(), errors go out as Refused. The rules are those of the native bls, to the word.
"""

import json
import math
import pathlib
import random
import re
import time
import types

FIELDS = pathlib.Path(__file__).with_name("request_fields.json")
FORMATS = ("raw", "png", "jpeg", "webp", "png_base64", "jpeg_base64", "webp_base64")
# Request parameters that are not bls's own: the server's, and those of its HTTP endpoints.
OTHERS = {
    "output_format", "lora", "timeout", "priority", "sequence_id", "sequence_start", "sequence_end",
    "binary_data", "binary_data_output", "stream", "id",
}  # fmt: skip
# Inputs of the native bls, most of them parameters, too; refused here.
OF_IMAGES = ("image", "encoded_image", "mask_image", "encoded_mask", "strength")
YEAR = 365 * 24 * 3600 * 10**6  # microseconds


class Refused(Exception):
    """What a request is answered with instead of outputs; `code` is one of pb_utils.TritonError."""

    def __init__(self, message, code="INVALID_ARG"):
        super().__init__(message)
        self.code = code


class Sizes:
    """What the checkpoint and the parameters of config.pbtxt say about images and requests."""

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
        self.fields = read_fields(parameters)


class Job:
    """One request while it is served: its rows, how far it is, and whether it is still wanted."""

    def __init__(self, request, rows):
        self.request, self.rows = request, rows
        self.steps = max(row.num_inference_steps for row in rows)
        self.done, self.truncated_by = 0, set()
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
        """Raises when nobody waits for the images any more."""
        where = f"cancelled after step {self.done} of {self.steps}"
        if time.monotonic() >= self.deadline:
            raise Refused(f"the request's timeout passed: {where}", "UNAVAILABLE")
        if self.request.is_cancelled():
            raise Refused(where, "CANCELLED")


def read_fields(parameters):
    """The table of request fields; sides take their limits from config.pbtxt."""
    if not FIELDS.exists():
        raise RuntimeError(f"{FIELDS} is missing: convert writes it; use bls of a repository")
    fields = json.loads(FIELDS.read_text())
    for field in fields:
        if field["type"] == "side":
            field["default"] = int(parameters[f"default_{field['name']}"])
            field["high"] = int(parameters["max_side"])
    return fields


def read_request(request, sizes):
    """(rows, output format); raises Refused. A row has an attribute for each field."""
    refuse_images([tensor.name() for tensor in request.inputs()], parameters_of_request(request))
    inputs = {tensor.name(): tensor.as_numpy().reshape(-1).tolist() for tensor in request.inputs()}
    parameters = parameters_of_request(request)
    check_parameters(parameters, sizes.fields)
    count = len(next(iter(inputs.values()), [None]))

    def column(name, kind, alias=None):
        """The values of all rows; None where nothing is said. An input wins over a parameter."""
        if alias in parameters:
            if name in inputs or name in parameters:
                raise Refused(f"{name} and {alias} mean the same and are both given: give one")
            name = alias
        if name in inputs:
            return inputs[name]
        value = parameters.get(name)
        return [None if value is None else converted(name, kind, value)] * count

    for value in column("lora", "text"):
        if (value or b"").strip():
            raise Refused(
                f"lora is {quoted(value.decode(errors='replace'))}: bls in Python takes no "
                "adapters; convert again with --stage bls=native, or without --backend python"
            )
    columns = {
        field["name"]: column(field["name"], field["type"], field.get("alias"))
        for field in sizes.fields
    }
    formats = column("output_format", "text")
    if any(value != formats[0] for value in formats):
        raise Refused("output_format differs between rows: send them as two requests")
    output_format = "raw" if formats[0] is None else decoded("output_format", formats[0])
    if output_format not in FORMATS:
        allowed = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
        raise Refused(f"output_format is '{excerpt(output_format)}': must be {allowed}")
    check_outputs(request, output_format)
    rows = [
        checked_row(
            {name: values[at] for name, values in columns.items()}, sizes.fields, sizes.guided
        )
        for at in range(count)
    ]
    check_rows_agree(rows, output_format)
    return rows, output_format


def refuse_images(inputs, parameters):
    """Before they are read: pixels are many."""
    for name in OF_IMAGES:
        if name in inputs or name in parameters:
            raise Refused(
                f"{name} is given: bls in Python takes no images; convert again with "
                "--stage bls=native, or without --backend python"
            )


def check_parameters(parameters, fields):
    """Refuses a parameter that is neither the request's nor the server's own."""
    names = [field[key] for field in fields for key in ("name", "alias") if key in field]
    for name in sorted(parameters):
        if name not in OTHERS.union(names) and not name.startswith("triton_"):
            near, known = near_name(name, fields), ", ".join([*names, "output_format"])
            raise Refused(
                f"parameter {excerpt(name)} is not known: "
                + (f"the nearest that is known is {near}" if near else f"known are {known}")
            )


def near_name(name, fields):
    """The name of the field that one that is none's may have been meant for; None where no field
    has most of its letters."""
    if len(name) > 64:  # no field's is as long
        return None
    plain, near, least = name.replace("-", "_"), None, 64
    for field in fields:
        for known in (field["name"], field.get("alias", field["name"])):
            distance = edit_distance(plain, known)
            if distance < least and 3 * distance <= min(len(plain), len(known)):
                near, least = field["name"], distance
    return near


def edit_distance(a, b):
    """Levenshtein's distance: the insertions, deletions and replacements that make `a` of `b`."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a):
        diagonal, row[0] = row[0], i + 1
        for j, y in enumerate(b):
            replaced = diagonal + (x != y)
            diagonal = row[j + 1]
            row[j + 1] = min(replaced, diagonal + 1, row[j] + 1)
    return row[-1]


def check_outputs(request, output_format):
    """An answer without the output that was asked for would look like success. The server asks for
    all three where a request names none."""
    raw = output_format == "raw"
    made, other = ("images", "encoded_images") if raw else ("encoded_images", "images")
    wanted = request.requested_output_names()
    if other in wanted and not {made, "seed"} <= set(wanted):
        hint = (
            "use png, jpeg or webp, or ask for images"
            if raw
            else "use raw, or ask for encoded_images"
        )
        raise Refused(f"output {other} is asked for, but output_format is {output_format}: {hint}")


def timeout_of(request):
    """Microseconds that the request may take, or None: its own timeout, or the parameter that
    /generate makes of a key."""
    value = request.timeout() or parameters_of_request(request).get("timeout")
    if value is not None and not (type(value) is int and 1 <= value <= YEAR):
        raise Refused(
            f"parameter timeout is {quoted(value)}: must be a whole number of microseconds "
            f"from 1 to {YEAR}"
        )
    return value


def parameters_of_request(request):
    return json.loads(request.parameters() or "{}")


def log_prefix(request):
    """How lines of the log begin to speak of it."""
    text = request.request_id()
    return f"request '{excerpt(text)}': " if text else ""


def excerpt(text):
    """A text as a message quotes it."""
    return text if len(text) <= 200 else f"{text[:200]}... ({len(text.encode())} bytes)"


def quoted(value):
    return excerpt(json.dumps(value))


def converted(name, kind, value):
    """A request parameter as what the input of that name would hold."""
    said = f"parameter {name} is {quoted(value)}"
    if kind == "text":
        if not isinstance(value, str):
            raise Refused(f"{said}: must be a string")
        return value.encode()
    try:
        if isinstance(value, bool):
            raise ValueError
        number = float(value)
    except ValueError:
        raise Refused(f"{said}: must be a number") from None
    if kind == "number":
        return number
    if isinstance(value, str):
        if not re.fullmatch(r"-?\d+", value):
            raise Refused(f"parameter {name} is '{excerpt(value)}': must be an integer")
        return int(value)
    if not (math.isfinite(number) and number == int(number)):
        raise Refused(f"{said}: must be an integer")
    return int(value)


def checked_row(values, fields, guided):
    """One prompt, every value present and allowed; what has no effect has its default."""
    row = types.SimpleNamespace(
        **{field["name"]: checked(field, values[field["name"]]) for field in fields}
    )
    if row.prompt_2 is None:
        row.prompt_2 = row.prompt
    if row.true_cfg_scale <= 1:
        row.negative_prompt = None  # it is there exactly when true CFG is done
    defaults = {field["name"]: field.get("default") for field in fields}
    if row.negative_prompt is None:
        row.true_cfg_scale = defaults["true_cfg_scale"]
    if not guided:
        row.guidance_scale = defaults["guidance_scale"]
    if row.seed is None:
        row.seed = random.SystemRandom().getrandbits(32)
    if row.seed > 2**63 - row.num_images_per_prompt:
        raise Refused(
            f"seed is {row.seed}: too large for {row.num_images_per_prompt} images, which count up "
            "from it"
        )
    return row


def checked(field, value):
    """A value that the field allows; None where it has no default."""
    check = {
        "text": checked_text,
        "integer": checked_integer,
        "side": checked_side,
        "number": checked_number,
    }[field["type"]]
    name, value = field["name"], field.get("default") if value is None else value
    if value is None:
        if field.get("required"):
            raise Refused(f"{name} is missing: say what to generate")
        return None
    return check(name, value, field)


def decoded(name, value):
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        at = error.start
        raise Refused(f"{name} is not valid UTF-8: byte {at} is 0x{value[at]:02x}") from None


def checked_text(name, value, field):
    most = field["max_bytes"]
    if len(value) > most:
        raise Refused(f"{name} has {len(value)} bytes: at most {most} are allowed")
    if b"\0" in value:
        raise Refused(f"{name} holds a NUL character: not allowed")
    text = decoded(name, value)
    if not field["may_be_blank"] and not text.strip(" \t\n\v\f\r"):
        raise Refused(f"{name} is blank: say what to generate")
    return text


def checked_number(name, value, field):
    low, high = field["low"], field["high"]
    if not low <= value <= high:  # NaN is in no range
        raise Refused(f"{name} is {value:g}: must be a number from {low:g} to {high:.9g}")
    return value


def checked_integer(name, value, field):
    low, high = field["low"], field.get("high", math.inf)
    if not low <= value <= high:
        allowed = f"{low} or more" if math.isinf(high) else f"from {low} to {high}"
        raise Refused(f"{name} is {value}: must be {allowed}")
    return value


def checked_side(name, value, field):
    low, high = field["multiple"], field["high"]
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
