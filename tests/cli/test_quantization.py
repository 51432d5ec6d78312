"""--quantization fp8 and --attention fp8 where no products are of fp8: on the CPU."""

import array
import json
import unittest

from harness import DEV, CliTest, read_safetensors, run
from repositories import config_of
from test_single_files import ALL_IN_ONE, PROMPT, TOKENIZERS

SAYS = "quantization fp8: products on cpu are of {}, with the values of the fp8 weights"


class QuantizationTest(CliTest):
    def latents(self, *arguments, says: str = "") -> bytes:
        file = self.directory / "latents.safetensors"
        result = run("generate", *arguments, *PROMPT, "--device", "cpu", "-o",
                     self.directory / "image.png", "--save-latents", file)  # fmt: skip
        self.assertEqual(result.code, 0, result.err)
        if says:
            self.assertIn(says, result.err)
        else:
            self.assertEqual(result.err, "")
        return read_safetensors(file)[1]

    def test_it_says_what_it_computes(self):
        for dtype in ("f32", "bf16"):
            options = [DEV, "--dtype", dtype]
            fp8 = [*options, "--quantization", "fp8"]
            found = self.latents(*fp8, "--threads", "1", says=SAYS.format(dtype))
            self.assertEqual(self.latents(*fp8, "--threads", "2", says=SAYS.format(dtype)), found)
            self.assertNotEqual(self.latents(*options), found)

    def test_attention_is_that_of_the_dtype(self):
        for dtype in ("f32", "bf16"):
            options = [DEV, "--dtype", dtype]
            says = f"attention fp8: attention on cpu is of {dtype}"
            found = self.latents(*options, "--attention", "fp8", says=says)
            self.assertEqual(self.latents(*options), found)

    def test_it_is_close(self):
        options = [DEV, "--dtype", "f32"]
        plain = array.array("f", self.latents(*options))
        found = array.array("f", self.latents(*options, "--quantization", "fp8", says="fp8"))
        error = max(abs(a - b) for a, b in zip(plain, found))
        self.assertLess(error, 0.2 * max(map(abs, plain)))

    def test_the_numbers_of_an_e4m3_checkpoint_are_used_as_stored(self):
        options = [ALL_IN_ONE, *TOKENIZERS, "--dtype", "f32"]
        plain = self.latents(*options)
        found = self.latents(*options, "--quantization", "fp8", says=SAYS.format("f32"))
        self.assertEqual(found, plain)

    def test_json_and_reports(self):
        options = [DEV, "--quantization", "fp8", "--dtype", "f32", "--device", "cpu"]
        image = self.directory / "image.png"
        made = run("generate", *options, *PROMPT, "-o", image, "--json")
        self.assertEqual(json.loads(made.out)["quantization"], "fp8")
        self.assertEqual(json.loads(made.out)["attention"], "bf16")
        self.assertIn("f32 with products of fp8 on cpu", run("check", *options).out)
        options += ["--attention", "fp8"]
        self.assertIn("f32 with products and attention of fp8 on cpu", run("check", *options).out)

    def test_repository(self):
        repository = self.directory / "models"
        result = run("convert", DEV, repository, "--quantization", "fp8", "--attention", "fp8",
                     "--device", "cpu")  # fmt: skip
        self.assertEqual(result.code, 0, result.err)
        self.assertIn("computes in f32 with products and attention of fp8 on cpu", result.out)
        for model in ("t5_encoder", "dit_transformer"):
            self.assertEqual(config_of(repository, model)["parameters"]["quantization"], "fp8")
        for model in ("bls", "clip_encoder", "vae_decoder"):
            self.assertNotIn("quantization", config_of(repository, model)["parameters"])
        self.assertEqual(config_of(repository, "dit_transformer")["parameters"]["attention"], "fp8")
        self.assertNotIn("attention", config_of(repository, "t5_encoder")["parameters"])


if __name__ == "__main__":
    unittest.main()
