"""Wrong command lines: exit code 2, one line that says what is allowed, no file."""

import re
import shlex
import tempfile
import unittest

from harness import DEV, F16, SCHNELL, SMALL, CliTest, add_cases, run

PROMPT = ["--prompt", "a star"]
LONG = "word " * 14000


def generate(*arguments):
    """generate on the tiny checkpoint; the small size comes first, so that cases can replace it."""
    return ["generate", DEV, *arguments]


# (name, arguments, what the error says)
USAGE_CASES = [
    ("no_command", [], "subcommand"),
    ("unknown_command", ["draw", DEV], "draw"),
    ("unknown_option", generate(*PROMPT, "--colour", "red"), "--colour is no option of generate; see"),
    ("near_option", generate(*PROMPT, "--step", "1"),
     "--step is no option of generate: did you mean --steps"),
    ("option_for_a_value", generate("--prompt", "--seed", "1"),
     "--prompt lacks its value: --seed follows, which is an option; .*write --prompt=--seed"),
    ("option_for_the_last_value", generate(*PROMPT, "--steps", "--json"), "--steps lacks its value"),
    ("short_option_with_equals", generate(*PROMPT, "-o=star.png"), "-o=star.png: write -o star.png"),
    ("no_source", ["generate", *PROMPT], "SOURCE is required"),
    ("no_prompt", generate(*SMALL), "--prompt is required"),
    ("no_value", generate("--prompt"), "--prompt"),
    ("empty_prompt", generate("--prompt=", "--json"), "prompt is blank"),
    ("empty_number", generate(*PROMPT, "--steps=", "--json"), "--steps"),
    ("empty_file", generate(*PROMPT, "--save-latents=", "--json"), "save-latents"),
    ("empty_output", generate(*PROMPT, "--output=", "--json"), "output"),
    ("empty_device", ["check", DEV, "--device=", "--dtype"], "device|dtype"),
    ("two_sources", ["inspect", DEV, DEV], "extra|not expected"),
    ("prompt_empty", generate("--prompt", ""), "prompt is blank"),
    ("prompt_blank", generate("--prompt", " \t\n"), "prompt is blank"),
    ("prompt_not_utf8", generate("--prompt", b"caf\xe9"), "prompt is not valid UTF-8: byte 3"),
    ("prompt_too_long", generate("--prompt", LONG), "prompt has 70000 bytes: at most 65536"),
    (
        "prompts_do_not_match",
        generate(*PROMPT * 3, "--prompt-2", "x", "--prompt-2", "y"),
        "--prompt-2 is given 2 times, --prompt 3 times",
    ),
    (
        "negative_prompts_do_not_match",
        generate(*PROMPT, "--negative-prompt", "x", "--negative-prompt", "y"),
        "--negative-prompt is given 2 times, --prompt 1 times",
    ),
    ("steps_zero", generate(*PROMPT, "--steps", "0"), "steps is 0: must be from 1 to 1000"),
    ("steps_negative", generate(*PROMPT, "--steps", "-3"), "steps is -3: must be from 1 to 1000"),
    ("steps_text", generate(*PROMPT, "--steps", "many"), "--steps"),
    ("steps_fraction", generate(*PROMPT, "--steps", "2.5"), "--steps"),
    ("steps_overflow", generate(*PROMPT, "--steps", "9" * 30), "--steps"),
    ("height_odd", generate(*PROMPT, "--height", "30"), "height is 30: must be a multiple of 16"),
    ("height_zero", generate(*PROMPT, "--height", "0"), "height is 0: must be a multiple of 16"),
    ("width_huge", generate(*PROMPT, "--width", "65536"), "width is 65536: .* to 2048"),
    ("guidance_nan", generate(*PROMPT, "--guidance", "nan"), "guidance_scale is nan"),
    ("guidance_infinite", generate(*PROMPT, "--guidance", "inf"), "guidance_scale is inf"),
    ("guidance_large", generate(*PROMPT, "--guidance", "101"), "guidance_scale is 101"),
    ("cfg_small", generate(*PROMPT, "--true-cfg-scale", "0.5"), "true_cfg_scale is 0.5"),
    ("seed_negative", generate(*PROMPT, "--seed", "-1"), "seed is -1: must be 0 or more"),
    ("seed_overflow", generate(*PROMPT, "--seed", str(1 << 64)), "--seed"),
    (
        "seed_counts_too_far",
        generate(*PROMPT, "--seed", str((1 << 63) - 1), "--images", "2"),
        "seed is 9223372036854775807: too large for 2 images",
    ),
    (
        "seed_counts_too_far_over_prompts",
        generate("--prompt", "a", "--prompt", "b", "--seed", str((1 << 63) - 1)),
        "seed is 9223372036854775807: too large for 2 images",
    ),
    ("images_zero", generate(*PROMPT, "--images", "0"), "images_per_prompt is 0: .* 1 to 16"),
    ("images_many", generate(*PROMPT, "--images", "17"), "images_per_prompt is 17: .* 1 to 16"),
    ("tokens_many", generate(*PROMPT, "--max-sequence-length", "513"), "max_sequence_length is 513"),
    ("dtype_unknown", generate(*PROMPT, "--dtype", "int4"), "int4"),
    ("dtype_long", generate(*PROMPT, "--dtype", "x" * 5000), r"'x{200}\.\.\. \(5000 bytes\)' is not known"),
    ("attention_unknown", generate(*PROMPT, "--attention", "flash"),
     "attention 'flash' is not known: use bf16 or fp8"),
    ("quantization_unknown", generate(*PROMPT, "--quantization", "int8"),
     "quantization 'int8' is not known: use none or fp8"),
    ("device_unknown", generate(*PROMPT, "--device", "tpu"), "device 'tpu' is not known"),
    ("gpu_memory_on_cpu", generate(*PROMPT, "--device", "cpu", "--gpu-memory", "8GiB"), "is for a GPU"),
    ("gpu_memory_text", generate(*PROMPT, "--gpu-memory", "much"), "'much' is no size"),
    ("gpu_memory_zero", generate(*PROMPT, "--gpu-memory", "0"), "'0' is no size: give a number above 0"),
    ("gpu_memory_negative", generate(*PROMPT, "--gpu-memory=-5GiB"), "'-5GiB' is no size"),
    ("gpu_memory_unit", generate(*PROMPT, "--gpu-memory", "20XB"), "'20XB' is no size: .* KiB, MiB, GiB or TiB"),
    ("gpu_memory_huge", generate(*PROMPT, "--gpu-memory", "99999999TiB"), "'99999999TiB' is no size"),
    ("gpu_memory_fraction", generate(*PROMPT, "--device", "cpu", "--gpu-memory", "1.5GiB"), "is for a GPU"),
    ("guidance_hexadecimal", generate(*PROMPT, "--guidance", "0x10"), "'0x10' is no decimal number"),
    ("runs_beyond_an_int", ["bench", DEV, "--runs", "1000000000000"],
     "--runs 1000000000000: must be 1 to 10000"),
    ("queue_beyond_an_int", ["convert", DEV, "r", "--max-queue-size", "4294967296"],
     "--max-queue-size 4294967296: must be 0 to 1000000"),
    ("port_beyond_an_int", ["serve", DEV, "--http-port", "4294967296"],
     "--http-port 4294967296: must be 1 to 65535"),
    ("stage_twice", ["convert", DEV, "r", "--stage", "bls=native", "--stage", "bls=python"],
     "--stage bls=python: bls is given twice"),
    ("stage_prompt_not_utf8",
     ["run-stage", DEV, "clip_encoder", "--prompt", b"caf\xe9", "--output", "x.safetensors"],
     "--prompt is not valid UTF-8: byte 3 is 0xe9"),
    ("json_name_not_utf8", generate(*PROMPT, "--json", "-o", b"caf\xe9.png"),
     r"--output caf\\xe9.png: the name is not valid UTF-8, which --json cannot report"),
    ("threads_negative", generate(*PROMPT, "--threads", "-1"), "--threads: -1: must be 0 to 1024"),
    ("threads_many", generate(*PROMPT, "--threads", "100000"), "--threads: 100000: must be 0 to 1024"),
    ("output_no_format", generate(*PROMPT, "-o", "image.gif"),
     "image.gif: the name must end in .png, .jpg, .jpeg or .webp"),
    ("quality", generate(*PROMPT, "--quality", "0"), "quality is 0: must be from 1 to 100"),
    ("output_directory", generate(*PROMPT, "-o", "/tmp"), "/tmp: is a directory"),
    ("latents_no_safetensors", generate(*PROMPT, "--save-latents", "b.png", "-o", "b.png"),
     "--save-latents b.png: the name must end in .safetensors"),
    ("latents_directory", generate(*PROMPT, "--save-latents", "/"), "the name must end in"),
    ("stage_output_no_safetensors", ["run-stage", DEV, "t5_encoder", *PROMPT, "--output", "y.png"],
     "--output y.png: the name must end in .safetensors"),
    ("output_one_for_two", generate(*PROMPT, "--images", "2", "-o", "/dev/null"), "takes one image"),
    ("image_latents", generate(*PROMPT, "--image", "a.png", "--latents", "b.safetensors"), "excludes"),
    ("mask_alone", generate(*PROMPT, "--mask", "a.png"), "--mask requires --image"),
    ("strength_alone", generate(*PROMPT, "--strength", "0.5"), "--strength requires --image"),
    ("stage_unknown", ["run-stage", DEV, "unet", "--output", "x"], "unet"),
    ("stage_no_output", ["run-stage", DEV, "vae_decoder", "--input", "x"], "--output is required"),
    ("stage_no_input", ["run-stage", DEV, "vae_decoder", "--output", "x"], "needs --input"),
    ("stage_no_prompt", ["run-stage", DEV, "t5_encoder", "--output", "x"], "needs --prompt"),
    (
        "stage_input_for_text",
        ["run-stage", DEV, "t5_encoder", *PROMPT, "--input", "x", "--output", "y"],
        "takes --prompt TEXT, not --input",
    ),
    (
        "stage_prompt_for_tensors",
        ["run-stage", DEV, "vae_decoder", *PROMPT, "--input", "x", "--output", "y"],
        "not --prompt",
    ),
    (
        "stage_tokens_for_clip",
        ["run-stage", DEV, "clip_encoder", *PROMPT, "--output", "y", "--max-sequence-length", "9"],
        "takes no --max-sequence-length",
    ),
    ("tokenize_not_utf8", ["tokenize", DEV, "--prompt", b"\xc0\x80"], "UTF-8"),
    ("tokenize_zero", ["tokenize", DEV, *PROMPT, "--max-sequence-length", "0"], "0: must be from 1 to 512"),
    ("bench_runs", ["bench", DEV, "--runs", "0"], "--runs 0: must be 1 to"),
    ("bench_warmup", ["bench", DEV, "--warmup", "-1"], "--warmup -1: must be 0 to"),
]

# The commands whose help has examples.
EXPLAINED = ("generate", "run-stage", "check", "tokenize", "inspect", "bench", "convert", "serve")

# Understood, but not possible: exit code 1.
IMPOSSIBLE_CASES = [
    ("f16", generate(*PROMPT, "--dtype", "f16"), "f16"),
    ("cuda", generate(*PROMPT, "--device", "cuda:0"), "device 'cuda:0'"),
]


class UsageTest(CliTest):
    def run_case(self, arguments, pattern, code=2):
        result = run(*arguments, cwd=self.directory)
        self.assert_error(result, code, pattern)
        self.assertEqual(result.out, "")
        self.assert_no_files(self.directory)

    def test_a_checkpoint_in_f16_asks_for_a_dtype(self):
        output = self.directory / "o.safetensors"
        says = "dtype f16 cannot be computed on cpu: use --dtype f32 or --dtype bf16; a checkpoint "
        for arguments in (
            ["generate", F16, *PROMPT, *SMALL],
            ["check", F16],
            ["bench", F16],
            ["run-stage", F16, "clip_encoder", *PROMPT, "--output", output],
            ["convert", F16, self.directory / "models"],
        ):
            device = ["--device", "cpu"]
            result = run(*arguments, *device, cwd=self.directory)
            self.assert_error(result, 1, says)
            self.assert_no_files(self.directory)
        for dtype in ("f32", "bf16"):
            options = ["--dtype", dtype, "--output", output, "--device", "cpu"]
            result = run("run-stage", F16, "clip_encoder", *PROMPT, *options)
            self.assertEqual(result.code, 0, result.err)

    def test_help_names_every_option_and_default(self):
        for command in ("generate", "run-stage", "check", "tokenize", "inspect", "bench"):
            result = run(command, "--help")
            self.assertEqual(result.code, 0)
            self.assertEqual(result.err, "")
            self.assertIn("SOURCE", result.out)
        result = run("generate", "--help")
        for text in ("--negative-prompt", "28 with guidance", "as stored", "[3.5]", "[out.png]"):
            self.assertIn(text.strip("[]"), result.out)

    def test_help_has_examples(self):
        """Command lines that are understood: in an empty directory only their files are missing."""
        for command in EXPLAINED:
            text, examples = re.split(r"\nExamples?:\n", run(command, "--help").out)
            lines = examples.strip().splitlines()
            self.assertIn(len(lines), (1, 2), command)
            for line in lines:
                program, *arguments = shlex.split(line)
                self.assertEqual((program, arguments[0]), ("flux-triton", command))
                end = arguments.index("--") if "--" in arguments else len(arguments)
                for option in (word for word in arguments[:end] if word.startswith("-")):
                    self.assertRegex(text, rf"(?m)^  (\S+,)?{re.escape(option)}[, ]", line)
                with tempfile.TemporaryDirectory(dir=self.directory) as empty:
                    result = run(*arguments, cwd=empty)
                    self.assert_error(result, 1, "no such (file or )?directory|device 'cuda'")
                    self.assert_no_files(empty)

    def test_help_has_groups_in_order(self):
        """What is asked comes first, then what computes it, then what becomes of the result."""
        compute = ["--dtype", "--quantization", "--attention", "--device", "--gpu-memory", "--threads"]
        parts = ["--transformer", "--vae", "--clip", "--t5", "--tokenizers", "--variant"]
        for command, groups in {
            "check": {"Options": [], "Parts": parts, "Compute": compute},
            "run-stage": {
                "Options": ["--input", "--prompt", "--max-sequence-length"],
                "Parts": parts,
                "Compute": compute,
                "Output": ["--output"],
            },
            "bench": {
                "Options": ["--prompt", "--height", "--width", "--steps", "--max-sequence-length",
                            "--images", "--lora", "--each-its-own", "--image", "--runs", "--warmup"],
                "Parts": parts,
                "Compute": compute,
                "Output": ["--json"],
            },
            "convert": {
                "Options": ["--backend", "--stage", "--name", "--default-size"],
                "Parts": parts,
                "Compute": ["--dtype", "--quantization", "--attention", "--device"],
                "Serving": ["--max-batch-size", "--instances", "--max-queue-size", "--queue-timeout"],
                "Output": ["--weights", "--force"],
            },
            "serve": {
                "Options": ["--http-port", "--grpc-port", "--metrics-port", "--address", "--policy"],
                "Front": ["--front-port", "--api-key-file", "--max-waiting"],
                "Programs": ["--backend-directory", "--tritonserver", "--python"],
            },
        }.items():  # fmt: skip
            found, group = {}, None
            text = run(command, "--help").out
            self.assertNotIn("\n\n\n", text)
            for line in text.splitlines():
                if heading := re.fullmatch(r"(\w+):", line):
                    group = found.setdefault(heading[1], [])
                elif option := re.match(r"  (-\w,)?(--[\w-]+)", line):
                    group.append(option[2])
            found = {name: options for name, options in found.items() if options}
            wanted = groups | {"Options": ["--help", *groups["Options"]]}
            self.assertEqual(list(found.items()), list(wanted.items()), command)

    def test_version(self):
        result = run("--version")
        self.assertEqual(result.code, 0)
        self.assertTrue(re.fullmatch(r"flux-triton \d+\.\d+\.\d+\n", result.out), result.out)

    def test_default_length_depends_on_the_model(self):
        for source, length in ((DEV, 512), (SCHNELL, 256)):
            result = run("tokenize", source, *PROMPT)
            self.assertEqual(result.code, 0, result.err)
            self.assertEqual(result.out.split('"t5":')[1].count(",") + 1, length)


add_cases(UsageTest, "wrong", USAGE_CASES)
add_cases(UsageTest, "impossible", [(*case, 1) for case in IMPOSSIBLE_CASES])


if __name__ == "__main__":
    unittest.main()
