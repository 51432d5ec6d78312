"""Tests what the commands print and write when all is well."""

import json
import math
import pathlib
import struct
import subprocess
import unittest
import zlib

import harness
from harness import (
    DEV,
    SCHNELL,
    SMALL,
    CliTest,
    floats,
    read_safetensors,
    run,
    write_safetensors,
    write_tensors,
)
from test_bad_files import NOT_FINITE, not_finite


def read_png(path):
    """(width, height, raw rows, texts) of a PNG file; checks every checksum."""
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, image, texts, size = 8, b"", {}, None
    while at < len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        body = data[at + 8 : at + 8 + length]
        (checksum,) = struct.unpack(">I", data[at + 8 + length : at + 12 + length])
        assert checksum == zlib.crc32(kind + body)
        at += 12 + length
        if kind == b"IHDR":
            size = struct.unpack(">II", body[:8])
            assert body[8:10] == b"\x08\x02"  # 8 bits, RGB
        elif kind == b"IDAT":
            image += body
        elif kind == b"tEXt":
            key, text = body.split(b"\0", 1)
            texts[key.decode()] = ("tEXt", text.decode("latin-1"))
        elif kind == b"iTXt":
            key, rest = body.split(b"\0", 1)
            texts[key.decode()] = ("iTXt", rest[2:].split(b"\0", 2)[2].decode())
    return *size, zlib.decompress(image), texts


class GenerateTest(CliTest):
    def generate(self, *arguments, source=DEV, size=SMALL):
        """Result of generate with --json, in this test's directory."""
        result = run("generate", source, *size, *arguments, "--json", cwd=self.directory)
        self.assertEqual(result.code, 0, result.err)
        return json.loads(result.out)

    def test_one_image(self):
        report = self.generate("--prompt", "a star", "--seed", "7", "-o", "one.png")
        self.assertEqual(report["files"], ["one.png"])
        self.assertEqual(report["seeds"], [7])
        for stage in ("encode", "denoise", "decode", "total"):
            self.assertGreater(report["seconds"][stage], 0)
        width, height, rows, texts = read_png(self.directory / "one.png")
        self.assertEqual((width, height, len(rows)), (48, 32, 32 * (1 + 3 * 48)))
        self.assertEqual(
            {key: texts[key] for key in ("prompt", "seed", "steps", "guidance", "size", "dtype")},
            {
                "prompt": ("tEXt", "a star"),
                "seed": ("tEXt", "7"),
                "steps": ("tEXt", "2"),
                "guidance": ("tEXt", "3.5"),
                "size": ("tEXt", "48x32"),
                "dtype": ("tEXt", "f32"),
            },
        )
        self.assertEqual(texts["checkpoint"], ("tEXt", "tiny-dev"))

    def test_what_has_no_effect_is_named(self):
        for source, options, says in (
            (DEV, ["--true-cfg-scale", "2.5"], "true_cfg_scale 2.5 has no effect: there is no neg"),
            (DEV, ["--negative-prompt", "x"], "negative_prompt has no effect: true_cfg_scale is 1"),
            (SCHNELL, ["--guidance", "5"], "guidance_scale 5 has no effect: the model has no guid"),
            (DEV, ["--quality", "50"], "--quality has no effect: a.png is PNG"),
            (DEV, ["--guidance", "5"], ""),
        ):
            with self.subTest(options):
                arguments = ["generate", source, "--prompt", "x", *SMALL, *options, "-o", "a.png"]
                result = run(*arguments, cwd=self.directory)
                self.assertEqual(result.code, 0, result.err)
                self.assertEqual(result.err.count("warning"), 1 if says else 0, result.err)
                self.assertIn(says, result.err)

    def test_prompt_metadata(self):
        """Brackets, commas and dashes arrive unchanged; what Latin-1 cannot encode goes to iTXt."""
        for prompt, kind in (
            ("[a, b]", "tEXt"),
            ("-5 café", "tEXt"),
            ("雪 ❄ 😀", "iTXt"),
            ("two\nlines", "tEXt"),
            ("a\ttab", "iTXt"),
        ):
            self.generate("--prompt", prompt, "-o", "text.png")
            texts = read_png(self.directory / "text.png")[3]
            self.assertEqual(texts["prompt"], (kind, prompt))

    def test_rows_and_images_are_numbered(self):
        report = self.generate(
            "--prompt", "a star", "--prompt", "a ring", "--images", "2", "--seed", "10",
            "-o", "many.png",
        )
        self.assertEqual(report["files"], [f"many_{i}.png" for i in range(4)])
        self.assertEqual(report["seeds"], [10, 11, 12, 13])
        self.assertEqual([image["row"] for image in report["images"]], [0, 0, 1, 1])
        prompts = [read_png(self.directory / name)[3]["prompt"][1] for name in report["files"]]
        self.assertEqual(prompts, ["a star", "a star", "a ring", "a ring"])

    def test_rows_do_not_influence_one_another(self):
        """Image 2 of a call is what a call of its own generates, whatever the number of threads."""
        self.generate("--prompt", "a star", "--prompt", "a ring", "--seed", "4", "-o", "many.png")
        self.generate("--prompt", "a ring", "--seed", "5", "--threads", "1", "-o", "one.png")
        self.assertEqual(
            read_png(self.directory / "many_1.png")[2], read_png(self.directory / "one.png")[2]
        )

    def test_same_bytes_whatever_the_threads(self):
        files = []
        for source in (DEV, SCHNELL):
            for threads in ("1", "2", "3"):
                name = f"{source.name}-{threads}.png"
                self.generate("--prompt", "x", "--seed", "1", "--threads", threads, "-o", name,
                          source=source)
                files.append((self.directory / name).read_bytes())
            self.assertEqual(len(set(files)), 1)
            files.clear()

    def test_options_change_the_image(self):
        """No option is ignored."""
        base = ["--prompt", "a star", "--seed", "1"]
        variants = {
            "base": base,
            "seed": ["--prompt", "a star", "--seed", "2"],
            "prompt": ["--prompt", "a ring", "--seed", "1"],
            "prompt-2": [*base, "--prompt-2", "a ring"],
            "guidance": [*base, "--guidance", "1"],
            "negative": [*base, "--negative-prompt", "a ring", "--true-cfg-scale", "4"],
            "dtype": [*base, "--dtype", "bf16"],
        }
        images = {}
        for name, arguments in variants.items():
            self.generate(*arguments, "-o", "image.png")
            images[name] = read_png(self.directory / "image.png")[2]
        self.assertEqual(len(set(images.values())), len(images))

    def test_random_seed_is_printed(self):
        seeds = {self.generate("--prompt", "a", "-o", "a.png")["seeds"][0] for _ in range(3)}
        self.assertGreater(len(seeds), 1)
        result = run("generate", DEV, *SMALL, "--prompt", "a", "-o", self.directory / "a.png")
        self.assertRegex(result.out, r"(?m)^prompt: a\nfile: .*a\.png  seed \d+, 48x32, 2 steps$")
        self.assertRegex(result.out, r"(?m)^seconds: load .* encode .* denoise .* decode ")
        self.assertRegex(result.out, r"(?m)^peak memory: \d")

    def test_latents(self):
        self.generate(
            "--prompt", "a", "--images", "2", "-o", "a.png", "--save-latents", "l.safetensors"
        )
        header, data = read_safetensors(self.directory / "l.safetensors")
        self.assertEqual(header["latents"]["shape"], [2, 6, 24])
        self.assertEqual(header["latents"]["dtype"], "F32")
        self.assertEqual(len(data), 2 * 6 * 24 * 4)

    def test_given_latents(self):
        """A loop starts where it is told to, with each image's own latents."""
        noise = [float((7 * i) % 11 - 5) / 3 for i in range(3 * 6 * 24)]
        header, data = {}, floats([3, 6, 24], noise)[1]
        for name, shape, part in (
            ("all", [3, 6, 24], data),
            ("second", [1, 6, 24], data[len(data) // 3 : 2 * len(data) // 3]),
        ):
            header = {"latents": {"dtype": "F32", "shape": shape, "data_offsets": [0, len(part)]}}
            write_safetensors(self.directory / f"{name}.safetensors", header, part)
        prompts = ["--prompt", "a star", "--prompt", "a ring", "--prompt", "a star"]
        report = self.generate(*prompts, "--latents", "all.safetensors", "-o", "many.png")
        self.assertEqual(report["seeds"], [])
        self.generate("--prompt", "a ring", "--latents", "second.safetensors", "-o", "one.png")
        many = [read_png(self.directory / f"many_{i}.png") for i in range(3)]
        self.assertEqual(many[1][2], read_png(self.directory / "one.png")[2])
        self.assertNotEqual(many[0][2], many[2][2])
        self.assertNotIn("seed", many[0][3])

    def test_wrong_latents(self):
        nan = struct.pack("<f", float("nan")) * 144
        for name, dtype, shape, data, says in (
            ("noise", "F32", [1, 6, 24], bytes(576), r"l.safetensors: tensor 'latents' is missing"),
            ("latents", "F32", [1, 24, 6], bytes(576), r"image 0 are \[24, 6\]: \[6, 24\] is expected"),
            ("latents", "F32", [2, 6, 24], bytes(1152), "2 latents are given for 1 images"),
            ("latents", "I32", [1, 6, 24], bytes(576), r"l.safetensors: .* i32\[1, 6, 24\]; a floating point dtype"),
            ("latents", "F32", [1, 6, 24], nan, "l.safetensors: .* values that are not finite"),
        ):
            header = {name: {"dtype": dtype, "shape": shape, "data_offsets": [0, len(data)]}}
            write_safetensors(self.directory / "l.safetensors", header, data)
            generate = ["generate", DEV, *SMALL, "--prompt", "a", "-o", self.directory / "a.png"]
            result = run(*generate, "--latents", self.directory / "l.safetensors")
            self.assert_error(result, 1, says)
            self.assertFalse((self.directory / "a.png").exists())
        result = run(*generate, "--latents", self.directory / "l.safetensors", "--seed", "1")
        self.assert_error(result, 2, "--seed excludes --latents")

    def test_long_prompt_is_cut_with_a_warning(self):
        """One for a prompt, which names who cut it."""
        for tokens, by, more in ((8, "clip,t5", ""), (512, "clip", ": T5 has all of it")):
            result = run("generate", DEV, *SMALL[:-1], str(tokens), "--prompt", "star " * 200,
                         "--images", "2", "--json", "-o", self.directory / "a.png")
            self.assertEqual(result.code, 0, result.err)
            said = f"prompt 0, or its negative prompt, is longer than {by} takes and was cut{more}"
            self.assertEqual(result.err.splitlines(), [f"flux-triton: warning: {said}"])
            for image in json.loads(result.out)["images"]:
                self.assertEqual((image["truncated"], image["truncated_by"]), (True, by))

    def test_preview(self):
        """A picture of the first image at half its size, whole at any time, and the images as they
        are without it."""
        options = ["--prompt", "a", "--seed", "3", "--images", "2", "--steps", "300"]
        size = ["--height", "64", "--width", "96", "--max-sequence-length", "8"]
        self.generate(*options, "-o", "without.png", size=size)
        preview = self.directory / "now.png"
        command = harness.command("generate", DEV, *size, *options, "-o", "with.png")
        process = subprocess.Popen([*command, "--preview", preview], cwd=self.directory,
                                   env=harness.environment(), stdout=subprocess.DEVNULL)  # fmt: skip
        seen = set()
        while process.poll() is None:
            if preview.exists():
                width, height, rows, _ = read_png(preview)
                self.assertEqual((width, height), (48, 32))
                seen.add(rows)
        self.assertEqual(process.returncode, 0)
        self.assertGreater(len(seen), 2, "it changes while the image is made")
        for number in range(2):
            found = (self.directory / f"with_{number}.png").read_bytes()
            self.assertEqual(found, (self.directory / f"without_{number}.png").read_bytes())
        names = sorted(path.name for path in self.directory.iterdir())
        self.assertEqual(names, ["now.png", "with_0.png", "with_1.png", "without_0.png", "without_1.png"])

    def test_formats_of_a_preview(self):
        for name, begin in (("p.jpg", b"\xff\xd8"), ("p.webp", b"RIFF"), ("p.PNG", b"\x89PNG")):
            self.generate("--prompt", "a", "-o", "a.png", "--preview", name)
            self.assertTrue((self.directory / name).read_bytes().startswith(begin), name)
        self.generate("--prompt", "a", "-o", "a.png", "--preview", "/dev/null")

    def test_one_step_has_no_preview(self):
        self.generate("--prompt", "a", "--steps", "1", "-o", "a.png", "--preview", "p.png", size=SMALL[:4])
        self.assertFalse((self.directory / "p.png").exists())

    def test_a_preview_that_cannot_be_written_is_refused_at_once(self):
        (self.directory / "d.png").mkdir()
        for name, code, says in (
            ("p.gif", 2, "--preview p.gif: the name must end in .png, .jpg, .jpeg or .webp"),
            ("no/p.png", 1, "--preview no/p.png: the directory no does not exist"),
            ("a.png", 2, "--output a.png and --preview a.png: are the same file"),
            ("d.png", 2, "--preview d.png: is a directory"),
        ):
            result = run("generate", DEV, *SMALL, "--prompt", "a", "-o", "a.png", "--preview", name,
                         cwd=self.directory)  # fmt: skip
            self.assert_error(result, code, says)
            self.assertFalse((self.directory / "a.png").exists())

    def test_old_image_is_replaced(self):
        output = self.directory / "a.png"
        output.write_bytes(b"old")
        self.generate("--prompt", "a", "-o", "a.png")
        self.assertEqual(read_png(output)[:2], (48, 32))


class StageTest(CliTest):
    def transformer_inputs(self, batch=2) -> dict:
        """Inputs of dit_transformer for tiny-dev: 6 image tokens, 5 text tokens."""
        ids = [float(x) for _ in range(batch) for i in range(6) for x in (0, i // 3, i % 3)]
        return {
            "hidden_states": floats([batch, 6, 24]),
            "timestep": floats([batch, 1], [0.5] * batch),
            "guidance": floats([batch, 1], [3.5] * batch),
            "pooled_projections": floats([batch, 24]),
            "encoder_hidden_states": floats([batch, 5, 40]),
            "img_ids": floats([batch, 6, 3], ids),
            "txt_ids": floats([batch, 5, 3], [0.0] * (batch * 15)),
        }

    def run_stage(self, stage, tensors):
        write_tensors(self.directory / "in.safetensors", tensors)
        return run("run-stage", DEV, stage, "--input", self.directory / "in.safetensors",
                   "--output", self.directory / "out.safetensors")

    def output(self) -> tuple:
        header, _ = read_safetensors(self.directory / "out.safetensors")
        ((name, entry),) = header.items()
        return name, entry["dtype"], entry["shape"]

    def test_transformer(self):
        result = self.run_stage("dit_transformer", self.transformer_inputs())
        self.assertEqual(result.code, 0, result.err)
        self.assertEqual(self.output(), ("noise_pred", "F32", [2, 6, 24]))

    def test_decoder(self):
        result = self.run_stage("vae_decoder", {"latents": floats([2, 6, 4, 6])})
        self.assertEqual(result.code, 0, result.err)
        self.assertEqual(self.output(), ("image", "F32", [2, 3, 32, 48]))

    def test_text_encoders(self):
        for stage, name, shape in (
            ("clip_encoder", "pooled_prompt_embeds", [2, 24]),
            ("t5_encoder", "prompt_embeds", [2, 512, 40]),
        ):
            result = run("run-stage", DEV, stage, "--prompt", "a", "--prompt", "b", "--output",
                         self.directory / "out.safetensors", "--dtype", "bf16")
            self.assertEqual(result.code, 0, result.err)
            self.assertEqual(self.output(), (name, "BF16", shape))

    def assert_refused(self, change: dict, pattern: str, code=1) -> None:
        tensors = self.transformer_inputs() | change
        tensors = {name: tensor for name, tensor in tensors.items() if tensor is not None}
        self.assert_error(self.run_stage("dit_transformer", tensors), code, pattern)
        self.assertFalse((self.directory / "out.safetensors").exists())

    def test_missing_tensor(self):
        self.assert_refused({"timestep": None}, r"tensor 'timestep' is missing.*shape \[B, 1\]")

    def test_missing_guidance(self):
        self.assert_refused({"guidance": None}, "tensor 'guidance' is missing")

    def test_unknown_tensor(self):
        self.assert_refused({"mask": floats([2, 1])}, "tensor 'mask' is no input of dit_transformer")

    def test_wrong_channels(self):
        self.assert_refused({"hidden_states": floats([2, 6, 25])}, r"hidden_states.*\[B, S, 24\]")

    def test_wrong_rank(self):
        self.assert_refused({"img_ids": floats([6, 3])}, r"img_ids.* is f32\[6, 3\]; \[B, S, 3\]")

    def test_rows_disagree(self):
        self.assert_refused({"txt_ids": floats([1, 5, 3])}, r"txt_ids.*B = 2")

    def test_tokens_disagree(self):
        self.assert_refused({"img_ids": floats([2, 7, 3])}, r"img_ids.*S = 6")

    def test_no_rows(self):
        self.assert_refused({"hidden_states": floats([0, 6, 24])}, "hidden_states")

    def test_timestep_out_of_range(self):
        self.assert_refused({"timestep": floats([2, 1], [0.5, 500.0])}, "timestep 500 of row 1")

    def test_timestep_not_finite(self):
        self.assert_refused({"timestep": floats([2, 1], [float("nan")] * 2)}, "not finite")

    def test_tensors_not_finite(self):
        for name, (shape, _) in self.transformer_inputs().items():
            values = [float("inf")] * math.prod(shape)
            pattern = f"tensor '{name}' holds values that are not finite in f32"
            self.assert_refused({name: floats(shape, values)}, pattern)

    def test_a_result_that_is_not_finite(self):
        result = self.run_stage("vae_decoder", {"latents": floats([1, 6, 2, 2], [3e38] * 24)})
        pattern = "output image of vae_decoder holds values that are not finite: .* for f32$"
        self.assert_error(result, 1, pattern)
        self.assertFalse((self.directory / "out.safetensors").exists())

    def test_weights_that_are_not_finite(self):
        checkpoint, output = self.copy_checkpoint(DEV), self.directory / "out.safetensors"
        not_finite(checkpoint)
        result = run("run-stage", checkpoint, "clip_encoder", "--prompt", "a", "--output", output)
        self.assert_error(result, 1, NOT_FINITE)
        self.assertFalse(output.exists())

    def test_integers(self):
        header = {"latents": {"dtype": "I32", "shape": [1, 6, 2, 2], "data_offsets": [0, 96]}}
        write_safetensors(self.directory / "in.safetensors", header, bytes(96))
        result = run("run-stage", DEV, "vae_decoder", "--input", self.directory / "in.safetensors",
                     "--output", self.directory / "out.safetensors")
        self.assert_error(result, 1, "latents.*i32.*a floating point dtype is expected")

    def test_input_missing(self):
        result = run("run-stage", DEV, "vae_decoder", "--input", "/none",
                     "--output", self.directory / "x.safetensors")
        self.assert_error(result, 1, "/none: cannot be opened")


class ReportTest(CliTest):
    def test_check(self):
        for source in (DEV, SCHNELL):
            result = run("check", source)
            self.assertEqual(result.code, 0, result.err)
            lines = result.out.splitlines()
            self.assertEqual(len(lines), 6)
            for line, stage in zip(
                lines[1:],
                ("clip_encoder", "t5_encoder", "vae_encoder", "dit_transformer", "vae_decoder"),
            ):
                self.assertRegex(line, rf"^{stage} +ok .*load .* run .* weights .* peak")

    def test_tokenize(self):
        result = run("tokenize", DEV, "--prompt", "a star", "--max-sequence-length", "20")
        ids = json.loads(result.out)
        self.assertEqual((len(ids["clip"]), len(ids["t5"])), (77, 20))

    def test_inspect(self):
        result = run("inspect", SCHNELL, "--json")
        self.assertEqual(result.code, 0, result.err)
        report = json.loads(result.out)
        self.assertEqual(report["dtype"], "bf16")
        parts = report["components"]
        self.assertEqual(parts["transformer"]["class"], "FluxTransformer2DModel")
        self.assertEqual(parts["transformer"]["bytes"], 2 * parts["transformer"]["parameters"])
        self.assertIn("scheduler", parts)
        self.assertEqual(parts["vae"]["config"]["_class_name"], "AutoencoderKL")
        need = report["serving_memory"]
        self.assertEqual(need["f32"]["weight_bytes"], 2 * need["bf16"]["weight_bytes"])
        self.assertIn("FlowMatchEulerDiscreteScheduler", run("inspect", SCHNELL).out)

    def test_inspect_shows_the_configs_of_a_repository(self):
        repository = self.directory / "models"
        self.assertEqual(run("convert", DEV, repository).code, 0)
        shown = [json.loads(run("inspect", path, "--json").out) for path in (DEV, repository)]
        for report in shown:
            for component in report["components"].values():
                self.assertTrue(pathlib.Path(component.pop("place")).is_dir())
        self.assertEqual(shown[0]["components"], shown[1]["components"])

    def test_bench(self):
        arguments = ["bench", DEV, *SMALL, "--runs", "2", "--warmup", "0"]
        report = json.loads(run(*arguments, "--json").out)
        self.assertEqual(len(report["stages"]), 4)
        self.assertAlmostEqual(sum(s["share"] for s in report["stages"].values()), 1, places=6)
        for times in [*report["stages"].values(), report["image"]]:
            self.assertTrue(0 < times["min"] <= times["median"] <= times["max"])
        self.assertRegex(run(*arguments).out, r"(?m)^dit_transformer +2 ")

    def test_bench_says_how_long_a_step_takes_to_launch_on_a_gpu(self):
        arguments = ["bench", DEV, *SMALL, "--runs", "1", "--warmup", "0", "--device"]
        self.assertNotIn("launching_a_step", json.loads(run(*arguments, "cpu", "--json").out))
        text = run(*arguments, "cpu", "--threads", "1").out
        self.assertNotIn("launching a step", text)
        self.assertRegex(text, r"1 thread, .* 2 steps, .* 1 run after 0 warm-up")
        found = run(*arguments, "auto", "--json")
        report = json.loads(found.out)
        self.assertEqual("launching_a_step" in report, report["device"] != "cpu")
        if "launching_a_step" in report:
            times = report["launching_a_step"]
            self.assertTrue(0 < times["min"] <= times["median"] <= times["max"])
            self.assertEqual(times["calls"], 2)
            self.assertRegex(run(*arguments, "cuda").out, r"(?m)^launching a step +2 ")


if __name__ == "__main__":
    unittest.main()
