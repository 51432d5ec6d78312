"""The requests of a soak: random ones from a seed, and which answers to them are right."""

import dataclasses
import random
import string

OK = "OK"
INVALID = "INVALID_ARGUMENT"
GONE = "UNAVAILABLE"
MISSING = "NOT_FOUND"
CANCELLED = "CANCELLED"

TYPES = {
    "prompt": "BYTES",
    "negative_prompt": "BYTES",
    "output_format": "BYTES",
    "lora": "BYTES",
    "true_cfg_scale": "FP32",
    "guidance_scale": "FP32",
    "num_inference_steps": "INT32",
    "height": "INT32",
    "width": "INT32",
    "num_images_per_prompt": "INT32",
    "max_sequence_length": "INT32",
    "seed": "INT64",
}
# How many of each kind, of their sum.
WEIGHTS = {"image": 66, "rows": 8, "probe": 8, "invalid": 11, "cancel": 4, "timeout": 3}
KINDS = tuple(WEIGHTS)
# What `fixed` may name: these then have one value in all requests of the kind "image".
VARIED = ("size", "steps", "prompt", "tokens", "images", "cfg", "format", "seed")
WORDS = "red large circle fox lighthouse at dawn über 日本 star of 8k".split()
FORMATS = ("raw", "raw", "png", "png_base64")
PROTOCOLS = ("grpc", "grpc", "infer", "generate")
# Enough work that a request is still computed when it is cancelled or its time is over.
LONG = {"prompt": "a boat", "num_inference_steps": 1000, "height": 128, "width": 128}
TINY = {"num_inference_steps": 1, "height": 16, "width": 16, "max_sequence_length": 8}


@dataclasses.dataclass
class Call:
    """One request, and what is right for it."""

    kind: str
    protocol: str  # grpc, infer (HTTP) or generate (HTTP)
    inputs: list  # (name, type, shape, values)
    parameters: dict = dataclasses.field(default_factory=dict)
    outputs: tuple = ()
    model: str = "bls"
    expected: tuple = (OK,)
    says: str = ""  # a part of the error's text
    probe: str = ""  # what its bytes are known under
    probe_row: int = 0
    images: int = 1  # rows times images of each
    size: int = 0  # bytes of a raw answer; 0 where it is not raw
    leave_after: float = 0.0  # seconds after which it is cancelled
    leave_by: str = ""  # how: "cancel" or "close"
    name: str = ""  # of an invalid request


def columns(rows: int = 1, **values) -> list:
    """Inputs of bls: a list is one value a row, anything else is repeated for the rows."""
    made = []
    for name, value in values.items():
        column = value if isinstance(value, list) else [value] * rows
        made.append((name, TYPES[name], [len(column), 1], column))
    return made


def raw_size(values: dict) -> int:
    return values["num_images_per_prompt"] * values["height"] * values["width"] * 3


def text(numbers: random.Random) -> str:
    """A prompt of 1 to 600 characters; most are short."""
    length = min(600, int(numbers.expovariate(1 / 60)) + 1)
    words = []
    while sum(map(len, words)) + len(words) < length:
        if numbers.random() < 0.7:
            words.append(numbers.choice(WORDS))
        else:
            letters = numbers.choices(string.ascii_letters + ",.!", k=numbers.randint(1, 9))
            words.append("".join(letters))
    return " ".join(words)


def rather_small(numbers: random.Random, least: int, most: int) -> int:
    """Every value happens; small ones, which take less time, more often."""
    return least + int((most + 1 - least) * numbers.random() ** 2)


# The probes: the same request each time, so the same bytes each time.
PROBES = [
    {"prompt": f"probe {i}, a red star", "seed": 11 + i, "num_inference_steps": 1 + i % 3,
     "height": 16 * (1 + i % 3), "width": 16 * (4 - i % 4),
     "max_sequence_length": (16, 77, 40)[i % 3],
     "num_images_per_prompt": 1 + i % 2}
    for i in range(5)
]  # fmt: skip


def _invalid() -> list:
    """(name, inputs, parameters, part of the error's text, protocols, options of the Call)"""
    every = ("grpc", "infer", "generate")
    values = [
        ("blank prompt", {"prompt": " \t "}, "prompt is blank"),
        ("NUL in prompt", {"prompt": "a\0b"}, "NUL"),
        ("long prompt", {"prompt": "x" * 65537}, "prompt has 65537 bytes"),
        ("height", {"prompt": "a", "height": 100}, "height is 100"),
        ("width", {"prompt": "a", "width": 0}, "width is 0"),
        ("no steps", {"prompt": "a", "num_inference_steps": 0}, "num_inference_steps is 0"),
        ("many steps", {"prompt": "a", "num_inference_steps": 1001}, "num_inference_steps is 1001"),
        ("guidance", {"prompt": "a", "guidance_scale": -1.0}, "guidance_scale is -1"),
        ("true CFG", {"prompt": "a", "true_cfg_scale": 0.5}, "true_cfg_scale is 0.5"),
        ("seed", {"prompt": "a", "seed": -1}, "seed is -1"),
        ("images", {"prompt": "a", "num_images_per_prompt": 17}, "num_images_per_prompt is 17"),
        ("tokens", {"prompt": "a", "max_sequence_length": 513}, "max_sequence_length is 513"),
        ("format", {"prompt": "a", "output_format": "gif"}, "output_format is 'gif'"),
    ]
    made = [(name, columns(**given), {}, says, every, {}) for name, given, says in values]
    tensors = ("grpc", "infer")
    bad = b"ab\xff"
    nine = columns(9, prompt="a")
    several = columns(2, prompt="a", height=[16, 32])
    latents = [("latents", "FP32", [1, 6, 2], [0.0] * 12)]
    made += [
        ("bad UTF-8", columns(prompt=bad), {}, "prompt is not valid UTF-8", ("grpc",), {}),
        ("rows disagree", several, {}, "rows disagree", tensors, {}),
        ("too many rows", nine, {}, "", tensors, {}),
        ("no prompt", columns(seed=1), {}, "", every, {}),
        ("unknown parameter", columns(prompt="a"), {"hight": 16}, "hight is not known", every, {}),
        ("wrong kind", columns(prompt="a"), {"height": "tall"}, "parameter height is", tensors, {}),
        ("other output", columns(prompt="a"), {}, "encoded_images is asked for", tensors,
         {"outputs": ("encoded_images",)}),
        ("no such model", columns(prompt="a"), {}, "no_such_model", tensors,
         {"model": "no_such_model", "expected": (MISSING,)}),
        ("latents", latents, {}, "", tensors, {"model": "vae_decoder"}),
    ]  # fmt: skip
    return made


INVALID_CALLS = _invalid()


class Requests:
    """Call number i of a soak is the same for the same seed, whoever sends it. The first
    `largest_first` are the largest images: what is kept for later has then its full size early."""

    def __init__(
        self, seed: int, only=(), fixed=(), protocols=(), largest=128, largest_first=0, adapters=()
    ):
        self._seed = seed
        self._adapters = adapters  # names, of which images and probes have some
        self._probes = PROBES + [
            PROBES[i % len(PROBES)] | {"lora": f"{name}:{1 + i}"} for i, name in enumerate(adapters)
        ]
        self._largest_first = largest_first if not only and not fixed else 0
        self._sides = largest // 16
        self._kinds = [kind for kind in KINDS if not only or kind in only]
        self._weights = [WEIGHTS[kind] for kind in self._kinds]
        self._fixed = frozenset(fixed)
        self._protocols = [name for name in PROTOCOLS if not protocols or name in protocols]

    def call(self, number: int) -> Call:
        numbers = random.Random(self._seed * 1_000_003 + number)
        if number < self._largest_first:
            return self._largest(numbers)
        kind = numbers.choices(self._kinds, self._weights)[0]
        return getattr(self, f"_{kind}")(numbers)

    def probes(self) -> list:
        """Each probe once, to be asked before the load."""
        return [self._probe_call(i, "grpc") for i in range(len(self._probes))]

    def _largest(self, numbers) -> Call:
        """Every value that takes memory is the largest that a soak asks for."""
        values = {
            "prompt": text(numbers),
            "negative_prompt": text(numbers),
            "true_cfg_scale": 2.5,
            "seed": numbers.randrange(1 << 40),
            "height": 16 * self._sides,
            "width": 16 * self._sides,
            "num_inference_steps": 4,
            "max_sequence_length": 128,
            "num_images_per_prompt": 3,
        }
        return Call("image", "grpc", columns(**values), images=3, size=raw_size(values))

    def _image(self, numbers) -> Call:
        values = {
            "prompt": text(numbers),
            "seed": numbers.randrange(1 << 40),
            "height": 16 * rather_small(numbers, 1, self._sides),
            "width": 16 * rather_small(numbers, 1, self._sides),
            "num_inference_steps": rather_small(numbers, 1, 4),
            "max_sequence_length": rather_small(numbers, 8, 128),
            "num_images_per_prompt": numbers.choice((1,) * 10 + (2, 3)),
            "guidance_scale": numbers.choice((0.0, 1.0, 3.5, 7.25)),
            "output_format": numbers.choice(FORMATS),
        }
        cfg = numbers.random() < 0.15
        cfg_values = {"true_cfg_scale": 2.5, "negative_prompt": text(numbers)}
        protocol = numbers.choice(self._protocols)
        self._fix(values)
        if cfg and "cfg" not in self._fixed:
            values |= cfg_values
        if self._adapters and numbers.random() < 0.8:
            names = numbers.sample(self._adapters, numbers.choice((1, 1, 2)))
            values["lora"] = ",".join(f"{name}:{numbers.uniform(-2, 2):.3g}" for name in names)
        if protocol == "generate":
            values["output_format"] = "png_base64"  # its answer is JSON, which takes text
        images = values["num_images_per_prompt"]
        size = raw_size(values) if values["output_format"] == "raw" else 0
        return Call("image", protocol, columns(**values), images=images, size=size)

    def _fix(self, values: dict) -> None:
        """Sets what the soak does not vary."""
        one = {
            "size": {"height": 64, "width": 48},
            "steps": {"num_inference_steps": 2},
            "prompt": {"prompt": "a large red circle"},
            "tokens": {"max_sequence_length": 64},
            "images": {"num_images_per_prompt": 1},
            "format": {"output_format": "raw"},
            "seed": {"seed": 7},
        }
        for name in self._fixed & one.keys():
            values.update(one[name])

    def _rows(self, numbers) -> Call:
        """Several rows, one of which is a probe: its part of the bytes is known."""
        at = numbers.randrange(len(PROBES))
        probe = PROBES[at]
        count = rather_small(numbers, 2, 4)
        row = numbers.randrange(count)
        values = {name: [value] * count for name, value in probe.items()}
        for i in range(count):
            if i == row:
                continue
            values["prompt"][i] = text(numbers)
            values["seed"][i] = numbers.randrange(1 << 40)
            values["num_inference_steps"][i] = rather_small(numbers, 1, 4)
            values["max_sequence_length"][i] = rather_small(numbers, 8, 128)
        protocol = "grpc" if "grpc" in self._protocols else "infer"
        call = Call("rows", protocol, columns(count, **values), probe=f"probe {at}", probe_row=row)
        call.images = count * probe["num_images_per_prompt"]
        call.size = count * raw_size(probe)
        return call

    def _probe(self, numbers) -> Call:
        protocols = [name for name in self._protocols if name != "generate"]
        return self._probe_call(
            numbers.randrange(len(self._probes)), numbers.choice(protocols or ["grpc"])
        )

    def _probe_call(self, at: int, protocol: str) -> Call:
        probe = self._probes[at]
        return Call("probe", protocol, columns(**probe), probe=f"probe {at}",
                    images=probe["num_images_per_prompt"], size=raw_size(probe))  # fmt: skip

    def _invalid(self, numbers) -> Call:
        name, inputs, parameters, says, protocols, options = numbers.choice(INVALID_CALLS)
        known = [each for each in protocols if each in self._protocols] or protocols
        options = {"expected": (INVALID,)} | options
        return Call("invalid", numbers.choice(known), inputs, parameters, says=says, name=name,
                    **options)  # fmt: skip

    def _cancel(self, numbers) -> Call:
        """The client goes: it cancels a call, or closes the connection. Server 2.51 does not notice
        a closed HTTP connection while it computes, so such a request has a timeout besides."""
        after = numbers.uniform(0.002, 0.02)
        values = LONG | {"seed": numbers.randrange(1 << 40)}
        protocol = numbers.choice(self._protocols)
        if protocol == "grpc":
            how = numbers.choice(("cancel", "cancel", "close"))
            return Call("cancel", protocol, columns(**values), expected=(CANCELLED,),
                        leave_after=after, leave_by=how)  # fmt: skip
        return Call("cancel", protocol, columns(**values | {"output_format": "png_base64"}),
                    {"timeout": 25_000}, expected=(CANCELLED,), leave_after=after,
                    leave_by="close")  # fmt: skip

    def _timeout(self, numbers) -> Call:
        values = LONG | {"seed": numbers.randrange(1 << 40), "output_format": "png_base64"}
        microseconds = numbers.randint(1_000, 25_000)
        return Call("timeout", numbers.choice(self._protocols), columns(**values),
                    {"timeout": microseconds}, expected=(GONE,), says="timeout")  # fmt: skip
