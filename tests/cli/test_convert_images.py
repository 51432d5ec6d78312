"""Tests what convert writes for images as inputs: the stage vae_encoder."""

import json
import os
import unittest

from harness import DEV, run
from repositories import ENCODER, ConvertTest, config_of
from test_convert import tensors
from test_images import checkpoint_without_encoder


class ConvertImagesTest(ConvertTest):
    def test_the_stage(self):
        self.convert(DEV)
        config = config_of(self.repository, ENCODER)
        channels = json.loads((DEV / "vae/config.json").read_text())["latent_channels"]
        self.assertEqual(
            tensors(config["input"]),
            {
                "image": ("TYPE_FP32", [3, -1, -1], False, True),
                "seed": ("TYPE_INT64", [1], True, False),
            },
        )
        self.assertEqual(
            tensors(config["output"]),
            {
                "latents": ("TYPE_FP32", [channels, -1, -1], False, False),
                "moments": ("TYPE_FP32", [2 * channels, -1, -1], False, False),
            },
        )

    def test_weights_are_those_of_the_decoder(self):
        """A copy holds the file once."""
        self.convert(DEV, "--weights", "copy")
        files = [
            self.repository / model / "1/vae/diffusion_pytorch_model.safetensors"
            for model in ("vae_decoder", ENCODER)
        ]
        self.assertTrue(os.path.samefile(*files))

    def test_without_an_encoder(self):
        checkpoint = checkpoint_without_encoder(self)
        self.assertIn("6 models", self.convert(checkpoint).out)
        self.assertFalse((self.repository / ENCODER).exists())
        self.assertEqual(run("check", self.repository).code, 0)

    def test_a_pipeline_in_python_has_none(self):
        self.convert(DEV, "--stage", "bls=python")
        self.assertFalse((self.repository / ENCODER).exists())


if __name__ == "__main__":
    unittest.main()
