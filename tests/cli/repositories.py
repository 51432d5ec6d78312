"""Common parts of the tests of convert."""

import os
import pathlib

import pbtxt
from harness import CHECKPOINTS, SMALL, CliTest, run

F16 = CHECKPOINTS / "tiny-f16"
STREAM, ENCODER = "bls_stream", "vae_encoder"  # where bls is native
MODELS = ("bls", "clip_encoder", "dit_transformer", "t5_encoder", "vae_decoder")
PARTS = {
    "clip_encoder": ("text_encoder", "tokenizer"),
    "t5_encoder": ("text_encoder_2", "tokenizer_2"),
    "dit_transformer": ("transformer",),
    "vae_decoder": ("vae",),
}
ENCODER_PARTS = ("vae",)
CONFIGS = ("text_encoder", "text_encoder_2", "transformer", "vae")
WEIGHTS = "dit_transformer/1/transformer/diffusion_pytorch_model.safetensors"
STAGING = ".flux-triton-convert-"


def config_of(repository: pathlib.Path, model: str) -> dict:
    return pbtxt.parse((repository / model / "config.pbtxt").read_text())


def files_under(directory: pathlib.Path) -> list:
    """Names of all files, links to directories not followed."""
    found = []
    for root, directories, files in os.walk(directory):
        links = [name for name in directories if os.path.islink(os.path.join(root, name))]
        found += [os.path.relpath(os.path.join(root, name), directory) for name in files + links]
    return sorted(found)


def snapshot(directory: pathlib.Path) -> dict:
    return {name: (directory / name).read_bytes() for name in files_under(directory)}


def expected_files(checkpoint: pathlib.Path, stream: bool = True) -> list:
    pipelines = ("bls", STREAM) if stream else ("bls",)
    names = [f"{model}/config.pbtxt" for model in {*MODELS, *pipelines}]
    stages = dict(PARTS)
    if stream:  # the pipeline is native
        names += ["bls/loras/README.md", f"{ENCODER}/config.pbtxt"]
        stages[ENCODER] = ENCODER_PARTS
    for model in pipelines:
        names += [f"{model}/1/model_index.json", f"{model}/1/scheduler/scheduler_config.json"]
        names += [f"{model}/1/{part}/config.json" for part in CONFIGS]
    for model, parts in stages.items():
        for part in parts:
            names += [f"{model}/1/{part}/{path.name}" for path in (checkpoint / part).iterdir()]
    return sorted(names)


class ConvertTest(CliTest):
    def setUp(self):
        super().setUp()
        self.repository = self.directory / "repository"

    def convert(self, source, *options, code=0, **keywords):
        result = run("convert", source, self.repository, *options, **keywords)
        self.assertEqual(result.code, code, result.err)
        return result

    def assert_nothing_left(self):
        """No repository and no temporary directory."""
        left = [name for name in os.listdir(self.directory) if name not in ("checkpoint", "old")]
        self.assertEqual(left, [])

    def assert_generates_the_same(self, checkpoint, repository):
        images = []
        for name, source in (("a", checkpoint), ("b", repository)):
            latents = self.directory / f"{name}.safetensors"
            result = run(
                "generate", source, "--prompt", "a star", "--seed", "7", *SMALL,
                "-o", self.directory / f"{name}.png", "--save-latents", latents,
            )
            self.assertEqual(result.code, 0, result.err)
            images.append(latents.read_bytes())
        self.assertEqual(images[0], images[1])
