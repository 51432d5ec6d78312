"""--variant: the files of a checkpoint that diffusers loads with `variant`."""

import hashlib
import json
import pathlib
import shutil
import unittest

from harness import DEV, SCHNELL, CliTest, run
from repositories import expected_files, files_under

PROMPT = ["--prompt", "a cat", "--seed", "1", "--height", "32", "--width", "48", "--steps", "1"]
STEM = "diffusion_pytorch_model"
PARTS = ("text_encoder", "text_encoder_2", "transformer", "vae")


def variant_name(name: str, variant: str, old: bool = False) -> str:
    """As diffusers' save_pretrained names a file of weights, or an index as older ones do."""
    if old:
        return name.replace(".safetensors", f".{variant}.safetensors")
    if name.endswith(".index.json"):
        return name.replace(".json", f".{variant}.json")
    stem, dash, rest = name.partition("-")
    if dash:
        return f"{stem}.{variant}-{rest}"
    return name.replace(".safetensors", f".{variant}.safetensors")


def rename(checkpoint: pathlib.Path, variant: str, parts=PARTS, old: bool = False) -> None:
    """Makes the files of weights those of a variant."""
    for part in parts:
        for file in (checkpoint / part).iterdir():
            if ".safetensors" not in file.name:
                continue
            if file.name.endswith(".json"):
                index = json.loads(file.read_text())
                index["weight_map"] = {
                    name: variant_name(shard, variant) for name, shard in index["weight_map"].items()
                }
                file.write_text(json.dumps(index))
            name = variant_name(file.name, variant, old and file.name.endswith(".json"))
            file.rename(file.parent / name)


class VariantTest(CliTest):
    def generate(self, *arguments) -> str:
        latents = self.directory / "latents.safetensors"
        result = run("generate", *arguments, *PROMPT, "-o", self.directory / "image.png",
                     "--save-latents", latents)  # fmt: skip
        self.assertEqual((result.code, result.err), (0, ""))
        return hashlib.sha256(latents.read_bytes()).hexdigest()

    def test_it_is_taken_where_it_is_asked_for(self):
        checkpoint = self.copy_checkpoint()
        rename(checkpoint, "fp16")
        same = self.generate(DEV)
        self.assertEqual(self.generate(checkpoint, "--variant", "fp16"), same)
        self.assert_error(
            run("inspect", checkpoint), 1,
            "text_encoder: neither model.safetensors nor model.safetensors.index.json is there, but "
            "model.fp16.safetensors; take that variant with --variant fp16$",
        )  # fmt: skip
        # Whoever asks for it does not meet the plain files, and the other way round.
        for part in PARTS:
            stem = "model" if part.startswith("text") else STEM
            (checkpoint / part / f"{stem}.safetensors").write_bytes(b"<html></html>")
        self.assertEqual(self.generate(checkpoint, "--variant", "fp16"), same)
        self.assert_error(run("inspect", checkpoint), 1, "is a web page")

    def test_a_part_without_it_has_its_plain_files(self):
        checkpoint = self.copy_checkpoint()
        rename(checkpoint, "fp16", ["transformer"])
        self.assertEqual(self.generate(checkpoint, "--variant", "fp16"), self.generate(DEV))
        # So has a part from elsewhere.
        transformer = ["--transformer", checkpoint / "transformer"]
        self.assertEqual(self.generate(DEV, *transformer, "--variant", "fp16"), self.generate(DEV))

    def test_shards(self):
        same = self.generate(SCHNELL)
        for old in (False, True):
            checkpoint = self.directory / f"sharded-{old}"
            shutil.copytree(SCHNELL, checkpoint)
            rename(checkpoint, "fp16", old=old)
            names = [file.name for file in (checkpoint / "transformer").iterdir()]
            index = f"{STEM}.fp16.safetensors.index.json" if old else f"{STEM}.safetensors.index.fp16.json"
            self.assertIn(index, names)
            self.assertIn(f"{STEM}.fp16-00001-of-00003.safetensors", names)
            self.assertEqual(self.generate(checkpoint, "--variant", "fp16"), same)
            self.assert_error(run("inspect", checkpoint), 1, "take that variant with --variant fp16$")

    def test_one_that_is_not_there(self):
        result = run("inspect", DEV, "--variant", "fp16")
        self.assert_error(
            result, 1, f"no part has weights of the variant 'fp16'; there are {DEV}/text_encoder/model.safetensors, .*"
                       f"{DEV}/vae/{STEM}.safetensors; leave --variant out, or give one that is there$")  # fmt: skip
        checkpoint = self.copy_checkpoint()
        rename(checkpoint, "fp16")
        self.assert_error(run("inspect", checkpoint, "--variant", "bf16"), 1,
                          "no part has weights of the variant 'bf16'; .*fp16.safetensors")  # fmt: skip

    def test_names(self):
        for name in ("../x", "fp16.", "a b", ""):
            result = run("inspect", DEV, "--variant", name)
            self.assertEqual(result.code, 2, result.err)
            self.assertRegex(result.err, "--variant.*must be letters, digits and _, such as fp16")

    def test_every_command_takes_it(self):
        checkpoint = self.copy_checkpoint()
        rename(checkpoint, "fp16")
        small = ["--height", "16", "--width", "16", "--steps", "1"]
        for arguments in (
            ["check"],
            ["inspect"],
            ["tokenize", "--prompt", "x"],
            ["run-stage", "clip_encoder", "--prompt", "x", "--output", "out.safetensors"],
            ["bench", *small, "--runs", "1", "--warmup", "0"],
        ):
            command, *rest = arguments
            result = run(command, checkpoint, *rest, "--variant", "fp16", cwd=self.directory)
            self.assertEqual(result.code, 0, result.err)

    def test_a_repository_has_the_plain_names(self):
        """So that every program that reads it finds them: this one, the server, diffusers."""
        for source in (DEV, SCHNELL):
            same = self.generate(source)
            checkpoint = self.directory / source.name
            shutil.copytree(source, checkpoint)
            rename(checkpoint, "fp16")
            # What nobody asks for stays where it is.
            (checkpoint / "vae" / f"{STEM}.safetensors").write_bytes(b"<html></html>")
            for options in ([], ["--weights", "copy"], ["--weights", "reference"],
                            ["--backend", "python"]):  # fmt: skip
                repository = self.directory / f"{source.name}-{'-'.join(options)}"
                result = run("convert", checkpoint, repository, "--variant", "fp16", *options)
                self.assertEqual(result.code, 0, result.err)
                self.assertEqual(self.generate(repository), same)
                transformer = repository / "dit_transformer/1/transformer"
                first = f"{STEM}.safetensors" + (".index.json" if source == SCHNELL else "")
                self.assertTrue((transformer / first).is_file())
                weights = [file for file in files_under(repository) if file.endswith(".safetensors")]
                expected = expected_files(source, stream="python" not in options)
                expected = [name for name in expected if name.endswith(".safetensors")]
                self.assertEqual(len(weights), len(expected))
                if source == DEV and options == []:
                    self.assertEqual(files_under(repository), expected_files(DEV))
            result = run("inspect", repository, "--variant", "fp16")
            self.assert_error(result, 1, "no part has weights of the variant 'fp16'")


if __name__ == "__main__":
    unittest.main()
