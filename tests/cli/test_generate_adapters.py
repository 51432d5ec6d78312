"""`generate --lora`: adapters in several dialects give the latents of the merged weights."""

import array
import json
import math
import pathlib
import shutil
import unittest

from harness import DEV, ROOT, SMALL, CliTest, add_cases, read_safetensors, run, write_safetensors

GOLDEN = ROOT / "tests/golden/adapters"
CASES = json.loads((GOLDEN / "index.json").read_text())["cases"]
FILES = {
    "transformer": "transformer/diffusion_pytorch_model.safetensors",
    "text_encoder": "text_encoder/model.safetensors",
}


def adapter(name: str) -> pathlib.Path:
    return GOLDEN / f"{name}.safetensors"


def values_of(header: dict, data: bytes, name: str) -> array.array:
    begin, end = header[name]["data_offsets"]
    return array.array("f", data[begin:end])


def replace(file: pathlib.Path, merged: dict) -> None:
    """Puts float32 tensors of the same shapes in a file."""
    header, data = read_safetensors(file)
    changed = bytearray(data)
    for name, values in merged.items():
        key = name if name in header else f"text_model.{name}"
        assert header[key]["dtype"] == "F32", key
        begin, end = header[key]["data_offsets"]
        assert end - begin == 4 * len(values), key
        changed[begin:end] = values.tobytes()
    write_safetensors(file, header, bytes(changed))


def merged_checkpoint(directory: pathlib.Path, name: str) -> pathlib.Path:
    """tiny-dev with the weights that another program has merged the adapter into."""
    checkpoint = directory / "merged"
    shutil.copytree(DEV, checkpoint)
    header, data = read_safetensors(adapter(f"{name}_merged"))
    parts = {part: {} for part in FILES}
    for tensor in header:
        if tensor == "__metadata__":
            continue
        part = "text_encoder" if tensor.startswith("text_encoder.") else "transformer"
        plain = tensor.removeprefix("text_encoder.") if part == "text_encoder" else tensor
        parts[part][plain] = values_of(header, data, tensor)
    for part, merged in parts.items():
        replace(checkpoint / FILES[part], merged)
    return checkpoint


class GenerateAdapterTest(CliTest):
    def latents(self, checkpoint, *options) -> array.array:
        file = self.directory / "latents.safetensors"
        result = run(
            "generate", checkpoint, "--prompt", "a", "--seed", "1", *SMALL, "--dtype", "f32",
            "--save-latents", file, "-o", self.directory / "image.png", *options,
        )  # fmt: skip
        self.assertEqual(result.code, 0, result.err)
        self.assertEqual(result.err, "")
        return values_of(*read_safetensors(file), "latents")

    def distance(self, a, b) -> float:
        """The root mean square of a - b over that of b."""
        return math.sqrt(sum((x - y) ** 2 for x, y in zip(a, b)) / sum(y * y for y in b))

    def run_case(self, name: str) -> None:
        base = self.latents(DEV)
        found = self.latents(DEV, "--lora", adapter(name))
        expected = self.latents(merged_checkpoint(self.directory, name))
        self.assertGreater(self.distance(expected, base), 1e-4, "the adapter does nothing")
        self.assertLess(self.distance(found, expected), 2e-5)

    def refused(self, code: int, said: str, *options) -> None:
        image = self.directory / "image.png"
        result = run("generate", DEV, "--prompt", "a", *SMALL, *options, "-o", image)
        self.assert_error(result, code, said)
        self.assertFalse(image.exists())

    def test_scale_zero_is_the_base(self):
        base = self.latents(DEV)
        for name in ("kohya", "lycoris_dora", "peft_bias"):
            self.assertEqual(self.latents(DEV, "--lora", f"{adapter(name)}:0"), base, name)

    def test_scales_and_several_adapters_add_up(self):
        one, other = adapter("kohya"), adapter("lycoris_loha")
        both = self.latents(DEV, "--lora", f"{one}:0.75", "--lora", f"{other}:-0.5")
        swapped = self.latents(DEV, "--lora", f"{other}:-0.5", "--lora", f"{one}:0.75")
        self.assertLess(self.distance(both, swapped), 2e-6)
        halves = self.latents(DEV, "--lora", f"{one}:0.5", "--lora", f"{one}:0.25",
                              "--lora", f"{other}:-0.5")  # fmt: skip
        self.assertLess(self.distance(halves, both), 2e-6)
        self.assertGreater(self.distance(self.latents(DEV, "--lora", f"{one}:0.75"), both), 1e-4)

    def test_the_file_of_an_image_names_them(self):
        self.latents(DEV, "--lora", f"{adapter('kohya')}:0.5")
        self.assertIn(b"kohya:0.5", (self.directory / "image.png").read_bytes())

    def test_refusals(self):
        (self.directory / "text.safetensors").write_text("no adapter")
        for option, code, said in (
            ("missing.safetensors", 1, "missing.safetensors: cannot be opened"),
            (f"{adapter('kohya')}:1000", 2, 'lora "kohya" has the scale 1000: must be a number from -100 to 100'),
            (":2", 2, "--lora has no file: give FILE or FILE:SCALE"),
            *((f"{adapter('kohya')}:{scale}", 2, f"kohya.safetensors:{scale}: the scale '{scale}' is no")
              for scale in ("", "1e400", "0x1", " 1", "0,5")),
            (self.directory / "text.safetensors", 1, "text.safetensors"),
            (DEV / "vae/diffusion_pytorch_model.safetensors", 1, "diffusion_pytorch_model"),
        ):
            with self.subTest(option):
                self.refused(code, said, "--lora", option)
        options = [part for _ in range(17) for part in ("--lora", adapter("kohya"))]
        self.refused(2, "17 adapters: at most 16 are allowed", *options)


add_cases(GenerateAdapterTest, "merged", [(case["name"], case["name"]) for case in CASES])

if __name__ == "__main__":
    unittest.main()
