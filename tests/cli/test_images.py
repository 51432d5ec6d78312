"""Tests images as input: generate --image, --mask, --strength, and the stage vae_encoder."""

import array
import json
import pathlib
import struct
import unittest
import zlib

from harness import DEV, CliTest, floats, read_safetensors, run, write_safetensors, write_tensors

GOLDEN = pathlib.Path(__file__).parent.parent / "golden/image_to_image/tiny-dev"
GREY, RGB = 0, 2  # PNG's colour types


def write_png(path, height, width, pixels: bytes, kind=RGB) -> None:
    def chunk(name, body):
        checksum = zlib.crc32(name + body)
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", checksum)

    row = width * (3 if kind == RGB else 1)
    rows = b"".join(b"\0" + pixels[i : i + row] for i in range(0, height * row, row))
    header = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def tensor(path, name) -> tuple:
    """(dtype, shape, bytes) of a tensor in a safetensors file."""
    header, data = read_safetensors(path)
    entry = header[name]
    begin, end = entry["data_offsets"]
    return entry["dtype"], entry["shape"], data[begin:end]


def values(path, name) -> array.array:
    return array.array("f", tensor(path, name)[2])


def checkpoint_without_encoder(test) -> pathlib.Path:
    """A copy of a checkpoint with a VAE for text to image alone."""
    checkpoint = test.copy_checkpoint()
    weights = checkpoint / "vae/diffusion_pytorch_model.safetensors"
    header, data = read_safetensors(weights)
    kept = {name: entry for name, entry in header.items() if not name.startswith("encoder.")}
    whole = b""
    for entry in kept.values():
        if "data_offsets" in entry:
            begin, end = entry["data_offsets"]
            entry["data_offsets"] = [len(whole), len(whole) + end - begin]
            whole += data[begin:end]
    write_safetensors(weights, kept, whole)
    return checkpoint


class ImageTest(CliTest):
    def setUp(self):
        super().setUp()
        self.picture = self.directory / "picture.png"
        write_png(self.picture, 8, 8, bytes(range(192)))

    def generate(self, *arguments):
        return run(
            "generate", DEV, "--prompt", "a cat", "--seed", "3", "--height", "32", "--width", "32",
            "--steps", "4", "--max-sequence-length", "8", *arguments, cwd=self.directory,
        )  # fmt: skip

    def assert_golden(self, name, *options):
        """The latents of diffusers, from files."""
        file = GOLDEN / f"from_image_{name}_f32.safetensors"
        index = json.loads((GOLDEN / "index.json").read_text())
        request = next(c for c in index["cases"] if c["file"] == file.name)["request"]
        arguments = ["--image", self.directory / "image.png", *options]
        _, (height, width, _), pixels = tensor(file, "image")
        write_png(self.directory / "image.png", height, width, pixels)
        if "mask" in read_safetensors(file)[0]:
            _, shape, pixels = tensor(file, "mask")
            kind = RGB if len(shape) == 3 else GREY
            write_png(self.directory / "mask.png", *shape[:2], pixels, kind)
            arguments += ["--mask", self.directory / "mask.png"]
        if "strength" in request:
            arguments += ["--strength", str(request["strength"])]
        result = run(
            "generate", DEV, "--prompt", request["prompt"][0], "--seed", str(request["seed"]),
            "--height", str(request["height"]), "--width", str(request["width"]),
            "--steps", str(request["num_inference_steps"]),
            "--max-sequence-length", str(request["max_sequence_length"]),
            "--save-latents", "latents.safetensors", "--json", *arguments, cwd=self.directory,
        )  # fmt: skip
        self.assertEqual(result.code, 0, result.err)
        found = values(self.directory / "latents.safetensors", "latents")
        expected = values(file, "latents")
        self.assertEqual(len(found), len(expected))
        largest = max(map(abs, expected))
        self.assertLess(max(abs(a - b) for a, b in zip(found, expected)), 2e-4 * largest)
        return json.loads(result.out)

    def test_an_image_is_resized(self):
        report = self.assert_golden("resized")
        self.assertEqual((report["strength"], report["steps"]), (0.55, 20))

    def test_a_mask_is_resized(self):
        self.assert_golden("masked_resized")

    def test_other_pipelines(self):
        write_png(self.picture, 20, 30, bytes(range(225)) * 8)
        for kind, options in (
            ("fill", ["--mask", self.picture]),
            ("control", []),
            ("kontext", ["--transformer", DEV / "transformer"]),
        ):
            source = DEV.parent / f"tiny-{kind}"
            options += ["--vae", DEV / "vae", "--clip", DEV / "text_encoder",
                        "--t5", DEV / "text_encoder_2", "--tokenizers", DEV]  # fmt: skip
            arguments = ["--prompt", "a", "--steps", "1", "--max-sequence-length", "8", *options]
            result = run("generate", source, *arguments, "--json", "--image", self.picture,
                         "--height", "16", "--width", "64", cwd=self.directory)  # fmt: skip
            self.assertEqual(result.code, 0, result.err)
            report = json.loads(result.out)
            size = (32, 128) if kind == "kontext" else (16, 64)
            self.assertEqual((report["height"], report["width"]), size)
            if kind == "kontext":
                self.assertIn("128x32 is drawn in place of 64x16", result.err)
            parts = options[-8:] + (options[:2] if kind == "kontext" else [])
            models = self.directory / f"{kind}_models"
            result = run("convert", source, models, *parts, "--backend", "python")
            self.assert_error(result, 1, "models in Python serve FluxPipeline alone, not Flux")
            result = run("convert", source, models, *parts)
            self.assertEqual(result.code, 0, result.err)
            result = run("generate", models, *arguments[:6], *(options[:2] if kind == "fill" else []),
                         "--image", self.picture, "--height", "16", "--width", "64",
                         "-o", "served.png", cwd=self.directory)  # fmt: skip
            self.assertEqual(result.code, 0, result.err)

    def test_what_other_pipelines_refuse(self):
        parts = ["--vae", DEV / "vae", "--clip", DEV / "text_encoder", "--t5",
                 DEV / "text_encoder_2", "--tokenizers", DEV]  # fmt: skip
        image, mask = ["--image", self.picture], ["--mask", self.picture]
        for kind, options, pattern in (
            ("fill", [], "image is missing: FluxFillPipeline needs it"),
            ("fill", image, "mask is missing: FluxFillPipeline needs it"),
            ("fill", [*image, *mask, "--negative-prompt", "b"],
             "negative_prompt is given: FluxFillPipeline takes none"),
            ("control", [], "image is missing: FluxControlPipeline needs it"),
            ("control", [*image, *mask], "mask is given: FluxControlPipeline takes none"),
            ("control", [*image, "--strength", "0.5"],
             "strength is 0.5: FluxControlPipeline takes none"),
        ):  # fmt: skip
            result = run("generate", DEV.parent / f"tiny-{kind}", *parts, "--prompt", "a", *options,
                         cwd=self.directory)  # fmt: skip
            self.assert_error(result, 2, pattern)

    def test_pipelines_that_are_not_built(self):
        checkpoint = self.copy_checkpoint()
        index = checkpoint / "model_index.json"
        for name in ("FluxPriorReduxPipeline", "FluxControlNetPipeline", "Flux2KleinPipeline"):
            index.write_text(json.dumps({**json.loads(index.read_text()), "_class_name": name}))
            self.assert_error(run("inspect", checkpoint), 1, f"{name} is not supported yet, only")

    def test_the_default_strength(self):
        self.assertEqual(self.assert_golden("masked")["strength"], 0.6)

    def test_the_file_says_the_strength(self):
        result = self.generate("--image", self.picture, "--strength", "0.75", "-o", "out.png")
        self.assertEqual(result.code, 0, result.err)
        written = (self.directory / "out.png").read_bytes()
        self.assertIn(b"strength\x000.75", written)
        self.assertIn(b"Denoising strength: 0.75", written)

    def test_files_that_cannot_be_used(self):
        text = self.directory / "text.png"
        text.write_text("no picture")
        for file, pattern in ((self.directory / "none.png", "none.png.*"), (text, "text.png: ")):
            self.assert_error(self.generate("--image", file), 1, pattern)
            self.assert_error(self.generate("--image", self.picture, "--mask", file), 1, pattern)

    def test_values_that_are_not_allowed(self):
        for strength, pattern in (
            ("0", "strength is 0: must be a number above 0, at most 1"),
            ("1.5", "strength is 1.5: must be a number above 0, at most 1"),
            ("1e-20", "strength is 1e-20: too small for 4 steps, none is left"),
        ):
            result = self.generate("--image", self.picture, "--strength", strength)
            self.assert_error(result, 2, pattern)

    def test_a_checkpoint_without_encoder(self):
        checkpoint = checkpoint_without_encoder(self)
        self.assertIn("takes no images", run("inspect", checkpoint).out)
        report = json.loads(run("inspect", checkpoint, "--json").out)
        self.assertEqual(report["serving_memory"]["f32"]["vae_encoder_bytes"], 0)
        checked = run("check", checkpoint)
        self.assertEqual(checked.code, 0, checked.err)
        self.assertNotIn("vae_encoder", checked.out)
        result = run(
            "generate", checkpoint, "--prompt", "a", "--image", self.picture, "--height", "32",
            "--width", "32", "--steps", "1", "--max-sequence-length", "8", cwd=self.directory,
        )  # fmt: skip
        self.assert_error(result, 1, "tensor 'encoder.conv_in.weight' is missing")

    def test_inspect_counts_the_encoder_apart(self):
        need = json.loads(run("inspect", DEV, "--json").out)["serving_memory"]
        self.assertEqual(need["f32"]["vae_encoder_bytes"], 2 * need["bf16"]["vae_encoder_bytes"])
        self.assertGreater(need["f32"]["vae_encoder_bytes"], 0)
        self.assertIn("with images as input", run("inspect", DEV).out)

    def run_stage(self):
        return run(
            "run-stage", DEV, "vae_encoder", "--input", self.directory / "in.safetensors",
            "--output", self.directory / "out.safetensors",
        )  # fmt: skip

    def test_the_stage(self):
        source = GOLDEN / "vae_encoder_9x2_batch2_f32.safetensors"
        for name, kept in (("latents", ("image",)), ("samples", ("image", "seed"))):
            header, data = {}, b""
            for key in kept:
                dtype, shape, content = tensor(source, key)
                offsets = [len(data), len(data) + len(content)]
                header[key] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
                data += content
            write_safetensors(self.directory / "in.safetensors", header, data)
            result = self.run_stage()
            self.assertEqual(result.code, 0, result.err)
            output = self.directory / "out.safetensors"
            self.assertEqual(tensor(output, "latents")[:2], ("F32", [2, 6, 9, 2]))
            found, expected = values(output, "latents"), values(source, name)
            largest = max(map(abs, expected))
            self.assertLess(max(abs(a - b) for a, b in zip(found, expected)), 2e-4 * largest)

    def test_inputs_of_the_stage_that_are_refused(self):
        given = self.directory / "in.safetensors"
        write_tensors(given, {"image": floats([1, 3, 12, 8])})
        self.assert_error(self.run_stage(), 1, "image' is .*: height and width must be multiples of 8")
        write_tensors(given, {"image": floats([1, 3, 8, 8]), "seed": floats([1, 1])})
        self.assert_error(self.run_stage(), 1, "tensor 'seed' is .*; i64 is expected")
        write_tensors(given, {"image": floats([1, 4, 8, 8])})
        self.assert_error(self.run_stage(), 1, r"tensor 'image' is .*; \[B, 3, H, W\] is expected")
        data = struct.pack("<192f", *[0.0] * 192) + struct.pack("<q", -1)
        header = {
            "image": {"dtype": "F32", "shape": [1, 3, 8, 8], "data_offsets": [0, 768]},
            "seed": {"dtype": "I64", "shape": [1, 1], "data_offsets": [768, 776]},
        }
        write_safetensors(given, header, data)
        self.assert_error(self.run_stage(), 1, "seed -1 of row 0: must be 0 or more")


if __name__ == "__main__":
    unittest.main()
