"""convert: the repository it writes, and what it does when it cannot."""

import filecmp
import json
import os
import pathlib
import shutil
import signal
import subprocess
import time
import unittest

import pbtxt
from harness import (
    CHECKPOINTS,
    DEV,
    SCHNELL,
    SMALL,
    CliTest,
    add_cases,
    command,
    environment,
    read_safetensors,
    run,
    write_safetensors,
)

F16 = CHECKPOINTS / "tiny-f16"
MODELS = ("bls", "clip_encoder", "dit_transformer", "t5_encoder", "vae_decoder")
STAGES = MODELS[1:]
PARTS = {
    "clip_encoder": ("text_encoder", "tokenizer"),
    "t5_encoder": ("text_encoder_2", "tokenizer_2"),
    "dit_transformer": ("transformer",),
    "vae_decoder": ("vae",),
}
CONFIGS = ("text_encoder", "text_encoder_2", "transformer", "vae")
WEIGHTS = "dit_transformer/1/transformer/diffusion_pytorch_model.safetensors"
STAGING = ".flux-triton-convert-"
TYPES = {"f32": "TYPE_FP32", "bf16": "TYPE_BF16"}
QUEUE = {
    "timeout_action": "REJECT",
    "default_timeout_microseconds": 600000000,
    "allow_timeout_override": True,
}


def files_under(directory: pathlib.Path) -> list:
    """Names of all files, links to directories not followed."""
    found = []
    for root, directories, files in os.walk(directory):
        links = [name for name in directories if os.path.islink(os.path.join(root, name))]
        found += [os.path.relpath(os.path.join(root, name), directory) for name in files + links]
    return sorted(found)


def snapshot(directory: pathlib.Path) -> dict:
    return {name: (directory / name).read_bytes() for name in files_under(directory)}


def expected_files(checkpoint: pathlib.Path) -> list:
    names = [f"{model}/config.pbtxt" for model in MODELS]
    names += ["bls/1/model_index.json", "bls/1/scheduler/scheduler_config.json"]
    names += [f"bls/1/{part}/config.json" for part in CONFIGS]
    for model, parts in PARTS.items():
        for part in parts:
            names += [f"{model}/1/{part}/{path.name}" for path in (checkpoint / part).iterdir()]
    return sorted(names)


def config_of(repository: pathlib.Path, model: str) -> dict:
    return pbtxt.parse((repository / model / "config.pbtxt").read_text())


def tensors(fields: list) -> dict:
    """name: (type, dims, optional, ragged)"""
    return {
        field["name"]: (
            field["data_type"],
            field["dims"],
            field.get("optional", False),
            field.get("allow_ragged_batch", False),
        )
        for field in fields
    }


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

    def assert_draws_the_same(self, checkpoint, repository):
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


class LayoutTest(ConvertTest):
    def test_files(self):
        for checkpoint in (DEV, SCHNELL):
            with self.subTest(checkpoint.name):
                self.convert(checkpoint, "--force")
                self.assertEqual(files_under(self.repository), expected_files(checkpoint))
                for part in CONFIGS:
                    self.assertTrue(
                        filecmp.cmp(
                            checkpoint / part / "config.json",
                            self.repository / "bls" / "1" / part / "config.json",
                            shallow=False,
                        )
                    )

    def test_only_what_is_needed_goes_in(self):
        checkpoint = self.copy_checkpoint()
        for name in ("README.md", "transformer/flax_model.msgpack", "tokenizer/notes.txt",
                     "text_encoder/model.fp16.safetensors", "vae/pytorch_model.bin"):
            (checkpoint / name).write_bytes(b"not needed")
        self.convert(checkpoint)
        self.assertEqual(files_under(self.repository), expected_files(DEV))

    def test_report(self):
        result = self.convert(DEV)
        self.assertEqual(result.err, "")
        self.assertIn(f"wrote {self.repository}: five models, ", result.out)
        self.assertIn("computes in f32 on cpu", result.out)
        self.assertIn(f"flux-triton serve {self.repository}", result.out)

    def test_repository_draws_what_the_checkpoint_draws(self):
        for weights in ("link", "copy", "reference"):
            for checkpoint in (DEV, SCHNELL):
                with self.subTest(weights=weights, checkpoint=checkpoint.name):
                    self.convert(checkpoint, "--weights", weights, "--force")
                    self.assert_draws_the_same(checkpoint, self.repository)

    def test_inspect_and_check_take_a_repository(self):
        self.convert(DEV)
        for name in ("inspect", "check"):
            result = run(name, self.repository)
            self.assertEqual(result.code, 0, result.err)
        found = json.loads(run("inspect", self.repository, "--json").out)
        expected = json.loads(run("inspect", DEV, "--json").out)
        for key in ("dtype", "parameters", "bytes", "default_height", "serving_memory"):
            self.assertEqual(found[key], expected[key])

    def test_repository_as_checkpoint(self):
        """Another repository, with other options, made from the first."""
        self.convert(DEV)
        other = self.directory / "other"
        result = run("convert", self.repository, other, "--dtype", "bf16", "--weights", "copy")
        self.assertEqual(result.code, 0, result.err)
        self.assertEqual(files_under(other), expected_files(DEV))
        self.assertEqual(config_of(other, "bls")["parameters"]["dtype"], "bf16")


class WeightsTest(ConvertTest):
    def weight_file(self):
        return self.repository / WEIGHTS

    def test_link(self):
        checkpoint = self.copy_checkpoint()
        self.convert(checkpoint)
        source = checkpoint / "transformer" / self.weight_file().name
        self.assertTrue(os.path.samefile(source, self.weight_file()))
        self.assertFalse(self.weight_file().is_symlink())
        config = checkpoint / "transformer" / "config.json"
        copied = self.weight_file().parent / "config.json"
        self.assertFalse(os.path.samefile(config, copied), "small files are copies")
        self.assertFalse(
            os.path.samefile(
                checkpoint / "tokenizer" / "vocab.json",
                self.repository / "clip_encoder/1/tokenizer/vocab.json",
            )
        )

    def test_linked_and_copied_stand_alone(self):
        for weights in ("link", "copy"):
            with self.subTest(weights):
                checkpoint = self.copy_checkpoint()
                self.convert(checkpoint, "--weights", weights, "--force")
                shutil.rmtree(checkpoint)
                moved = self.directory / f"moved-{weights}"
                self.repository.rename(moved)
                self.assert_draws_the_same(DEV, moved)

    def test_link_follows_symbolic_links(self):
        """Checkpoints in a download cache are directories of links."""
        checkpoint = self.copy_checkpoint()
        source = checkpoint / "transformer" / self.weight_file().name
        blob = self.directory / "old"
        source.rename(blob)
        source.symlink_to("../../old")
        self.convert(checkpoint)
        self.assertFalse(self.weight_file().is_symlink())
        self.assertTrue(os.path.samefile(blob, self.weight_file()))

    def test_copy(self):
        checkpoint = self.copy_checkpoint()
        self.convert(checkpoint, "--weights", "copy")
        source = checkpoint / "transformer" / self.weight_file().name
        self.assertFalse(os.path.samefile(source, self.weight_file()))
        self.assertTrue(filecmp.cmp(source, self.weight_file(), shallow=False))

    def test_reference(self):
        checkpoint = self.copy_checkpoint()
        self.convert(checkpoint, "--weights", "reference")
        for model, parts in PARTS.items():
            for part in parts:
                link = self.repository / model / "1" / part
                self.assertTrue(link.is_symlink())
                self.assertEqual(os.readlink(link), str((checkpoint / part).resolve()))

    def test_link_across_file_systems(self):
        shared = pathlib.Path("/dev/shm")
        if not shared.is_dir() or shared.stat().st_dev == self.directory.stat().st_dev:
            self.skipTest("there is no second file system at /dev/shm")
        other = shared / f"flux-cli-{os.getpid()}"
        self.addCleanup(shutil.rmtree, other, ignore_errors=True)
        other.mkdir()
        result = run("convert", DEV, other / "repository")
        self.assert_error(result, 1, "another file system.*--weights copy, or --weights reference")
        self.assert_no_files(other)
        for weights in ("copy", "reference"):
            result = run("convert", DEV, other / weights, "--weights", weights)
            self.assertEqual(result.code, 0, result.err)


class ConfigTest(ConvertTest):
    def check_common(self, config, model, dtype, batch, count):
        self.assertEqual(config["name"], model)
        self.assertEqual(config["backend"], "flux")
        self.assertEqual(config["max_batch_size"], batch)
        self.assertEqual(config["instance_group"], [{"count": count, "kind": "KIND_CPU"}])
        self.assertEqual(config["parameters"]["dtype"], dtype)
        self.assertEqual(config["parameters"]["device"], "cpu")
        policy = dict(config["dynamic_batching"]["default_queue_policy"])
        self.assertGreater(policy.pop("max_queue_size"), 0)
        self.assertEqual(policy, QUEUE)
        self.assertNotIn("response_cache", config)
        self.assertNotIn("model_warmup", config)

    def check_stages(self, configs, checkpoint, kind):
        dit = json.loads((checkpoint / "transformer/config.json").read_text())
        vae = json.loads((checkpoint / "vae/config.json").read_text())
        pooled, joint = dit["pooled_projection_dim"], dit["joint_attention_dim"]
        channels = dit["in_channels"]
        self.assertEqual(
            tensors(configs["clip_encoder"]["input"]),
            {"prompt": ("TYPE_STRING", [1], False, False)},
        )
        self.assertEqual(
            tensors(configs["clip_encoder"]["output"]),
            {"pooled_prompt_embeds": (kind, [pooled], False, False)},
        )
        self.assertEqual(
            tensors(configs["t5_encoder"]["input"]),
            {
                "prompt": ("TYPE_STRING", [1], False, False),
                "max_sequence_length": ("TYPE_INT32", [1], True, False),
            },
        )
        self.assertEqual(
            tensors(configs["t5_encoder"]["output"]),
            {"prompt_embeds": (kind, [-1, joint], False, False)},
        )
        self.assertEqual(
            tensors(configs["dit_transformer"]["input"]),
            {
                "hidden_states": (kind, [-1, channels], False, True),
                "timestep": ("TYPE_FP32", [1], False, False),
                "guidance": ("TYPE_FP32", [1], True, False),
                "pooled_projections": (kind, [pooled], False, False),
                "encoder_hidden_states": (kind, [-1, joint], False, True),
                "img_ids": ("TYPE_FP32", [-1, 3], False, True),
                "txt_ids": ("TYPE_FP32", [-1, 3], False, True),
            },
        )
        self.assertEqual(
            tensors(configs["dit_transformer"]["output"]),
            {"noise_pred": (kind, [-1, channels], False, False)},
        )
        self.assertEqual(
            tensors(configs["vae_decoder"]["input"]),
            {"latents": (kind, [vae.get("latent_channels", 4), -1, -1], False, True)},
        )
        self.assertEqual(
            tensors(configs["vae_decoder"]["output"]),
            {"image": ("TYPE_FP32", [3, -1, -1], False, False)},
        )

    def check_bls(self, config):
        kinds = {
            "prompt": "STRING", "prompt_2": "STRING", "negative_prompt": "STRING",
            "true_cfg_scale": "FP32", "guidance_scale": "FP32", "num_inference_steps": "INT32",
            "height": "INT32", "width": "INT32", "num_images_per_prompt": "INT32",
            "max_sequence_length": "INT32", "seed": "INT64", "output_format": "STRING",
        }
        self.assertEqual(
            tensors(config["input"]),
            {name: (f"TYPE_{kind}", [1], name != "prompt", False) for name, kind in kinds.items()},
        )
        self.assertEqual(
            tensors(config["output"]),
            {
                "images": ("TYPE_UINT8", [-1, -1, -1, 3], False, False),
                "encoded_images": ("TYPE_STRING", [-1], False, False),
                "seed": ("TYPE_INT64", [1], False, False),
            },
        )

    def run_case(self, checkpoint, options, dtype, batch, count):
        self.convert(checkpoint, *options)
        configs = {model: config_of(self.repository, model) for model in MODELS}
        for model, config in configs.items():
            instances = 4 * count if model == "bls" else count
            self.check_common(config, model, dtype, batch, instances)
            extra = {"default_height", "default_width", "max_side"} if model == "bls" else set()
            self.assertEqual(set(config["parameters"]), {"dtype", "device"} | extra)
        self.check_stages(configs, checkpoint, TYPES[dtype])
        self.check_bls(configs["bls"])

    def test_sizes(self):
        self.convert(DEV)
        default = config_of(self.repository, "bls")["parameters"]
        inspected = json.loads(run("inspect", DEV, "--json").out)
        self.assertEqual(int(default["default_height"]), inspected["default_height"])
        self.assertEqual(int(default["default_width"]), inspected["default_width"])
        self.assertEqual(default["max_side"], "2048")
        self.convert(DEV, "--force", "--default-size", "64x96")
        chosen = config_of(self.repository, "bls")["parameters"]
        self.assertEqual((chosen["default_height"], chosen["default_width"]), ("64", "96"))

    def test_every_setting_is_explained(self):
        self.convert(DEV)
        for model in MODELS:
            lines = (self.repository / model / "config.pbtxt").read_text().splitlines()
            self.assertTrue(lines[0].startswith("# "), "says what the model is")
            for setting in ("max_batch_size", "instance_group", "dynamic_batching",
                            "  max_queue_delay_microseconds", "    max_queue_size"):
                at = next(i for i, line in enumerate(lines) if line.startswith(setting))
                self.assertTrue(lines[at - 1].lstrip().startswith("# "), f"{model}: {setting}")


add_cases(
    ConfigTest,
    "config",
    [
        ("dev", DEV, [], "f32", 8, 1),
        ("dev_bf16", DEV, ["--dtype", "bf16"], "bf16", 8, 1),
        ("schnell", SCHNELL, [], "bf16", 8, 1),
        ("schnell_f32", SCHNELL, ["--dtype", "f32", "--device", "cpu"], "f32", 8, 1),
        ("f16", F16, ["--dtype", "f32"], "f32", 8, 1),
        ("scaled", DEV, ["--max-batch-size", "3", "--instances", "2"], "f32", 3, 2),
    ],
)


class AgainTest(ConvertTest):
    def test_twice(self):
        self.convert(DEV)
        before = snapshot(self.repository)
        result = self.convert(DEV, code=1)
        self.assert_error(result, 1, "repository: exists already; .*--force")
        self.assertEqual(snapshot(self.repository), before)
        self.assertEqual(os.listdir(self.directory), ["repository"])

    def test_force_replaces(self):
        self.convert(DEV)
        (self.repository / "dit_transformer" / "1" / "leftover").write_text("of the old one")
        self.convert(SCHNELL, "--force")
        self.assertEqual(files_under(self.repository), expected_files(SCHNELL))
        self.assertEqual(os.listdir(self.directory), ["repository"])

    def test_force_makes_the_same_bytes(self):
        self.convert(DEV)
        before = snapshot(self.repository)
        self.convert(DEV, "--force")
        self.assertEqual(snapshot(self.repository), before)

    def test_force_where_nothing_is(self):
        self.convert(DEV, "--force")
        self.assertEqual(files_under(self.repository), expected_files(DEV))

    def test_force_through_a_symbolic_link(self):
        self.convert(DEV)
        link = self.directory / "current"
        link.symlink_to("repository")
        result = run("convert", SCHNELL, link, "--force")
        self.assertEqual(result.code, 0, result.err)
        self.assertTrue(link.is_symlink())
        self.assertEqual(files_under(self.repository), expected_files(SCHNELL))

    def test_trailing_slash_and_empty_directory(self):
        self.repository.mkdir()
        self.assertEqual(run("convert", DEV, f"{self.repository}/").code, 1)
        result = run("convert", DEV, f"{self.repository}/", "--force")
        self.assertEqual(result.code, 0, result.err)
        self.assertEqual(files_under(self.repository), expected_files(DEV))

    def test_force_spares_other_directories(self):
        self.repository.mkdir()
        (self.repository / "letters.txt").write_text("mine")
        result = self.convert(DEV, "--force", code=1)
        self.assert_error(result, 1, "no model repository .*; it is left alone")
        self.assertEqual(snapshot(self.repository), {"letters.txt": b"mine"})

    def test_force_spares_other_models(self):
        self.convert(DEV)
        (self.repository / "upscaler").mkdir()
        result = self.convert(DEV, "--force", code=1)
        self.assert_error(result, 1, "holds 'upscaler' besides the five models")
        self.assertTrue((self.repository / "upscaler").is_dir())

    def test_file_in_the_way(self):
        self.repository.write_text("mine")
        result = self.convert(DEV, "--force", code=1)
        self.assert_error(result, 1, "repository: is there and no directory")
        self.assertEqual(self.repository.read_text(), "mine")

    def test_failure_keeps_the_old_one(self):
        self.convert(DEV)
        before = snapshot(self.repository)
        checkpoint = self.copy_checkpoint(SCHNELL)
        (checkpoint / "tokenizer_2" / "spiece.model").write_bytes(b"broken")
        result = run("convert", checkpoint, self.repository, "--force")
        self.assert_error(result, 1, "spiece.model")
        self.assertEqual(snapshot(self.repository), before)
        self.assertEqual(sorted(os.listdir(self.directory)), ["checkpoint", "repository"])


class PlaceTest(ConvertTest):
    def refused(self, checkpoint, target, pattern):
        before = snapshot(checkpoint)
        for force in ([], ["--force"]):
            self.assert_error(run("convert", checkpoint, target, *force), 1, pattern)
        self.assertEqual(snapshot(checkpoint), before)

    def test_in_the_checkpoint(self):
        checkpoint = self.copy_checkpoint()
        self.refused(checkpoint, checkpoint / "triton", "lies in the checkpoint")
        self.refused(checkpoint, checkpoint / "vae" / ".." / "triton", "lies in the checkpoint")

    def test_the_checkpoint_itself(self):
        checkpoint = self.copy_checkpoint()
        self.refused(checkpoint, checkpoint, "lies in the checkpoint")
        link = self.directory / "link"
        link.symlink_to("checkpoint")
        self.refused(checkpoint, link, "lies in the checkpoint")

    def test_around_the_checkpoint(self):
        checkpoint = self.copy_checkpoint()
        self.refused(checkpoint, self.directory, "lies in it")

    def test_where_the_checkpoint_points_to(self):
        """The weights of the checkpoint are those of the repository that would go."""
        checkpoint = self.copy_checkpoint()
        self.convert(checkpoint, "--weights", "copy")
        source = checkpoint / "transformer" / pathlib.Path(WEIGHTS).name
        source.unlink()
        source.symlink_to(self.repository / WEIGHTS)
        result = self.convert(checkpoint, "--force", "--weights", "reference", code=1)
        self.assert_error(result, 1, "lies in it; choose another place")
        self.assertTrue(source.exists())

    def test_root(self):
        self.assert_error(run("convert", DEV, "/"), 1, "a repository cannot be made there")

    def test_no_parent(self):
        result = run("convert", DEV, self.directory / "none" / "repository")
        self.assert_error(result, 1, "none does not exist; make it first")

    def test_dangling_link(self):
        self.repository.symlink_to("gone")
        result = self.convert(DEV, "--force", code=1)
        self.assert_error(result, 1, "symbolic link that leads nowhere")

    def test_unwritable_parent(self):
        if os.getuid() == 0:
            self.skipTest("root may write everywhere")
        self.directory.chmod(0o500)
        self.addCleanup(self.directory.chmod, 0o700)
        self.assert_error(self.convert(DEV, code=1), 1, "no directory can be made in it")


def edit_header(checkpoint, name, change):
    header, data = read_safetensors(checkpoint / name)
    change(header)
    write_safetensors(checkpoint / name, header, data)


def rename_tensor(name, tensor):
    return lambda root: edit_header(
        root, name, lambda header: header.update({f"{tensor}_": header.pop(tensor)})
    )


def reshape_tensor(name, tensor):
    return lambda root: edit_header(root, name, lambda header: header[tensor]["shape"].reverse())


class BadCheckpointTest(ConvertTest):
    """A checkpoint that no server could load is found out before anything is written."""

    def run_case(self, spoil, pattern):
        checkpoint = self.copy_checkpoint()
        spoil(checkpoint)
        result = self.convert(checkpoint, code=1)
        self.assert_error(result, 1, pattern)
        self.assert_nothing_left()

    def test_no_checkpoint(self):
        result = run("convert", self.directory / "none", self.repository)
        self.assert_error(result, 1, "none: no such directory")


TRANSFORMER = "transformer/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
add_cases(
    BadCheckpointTest,
    "bad",
    [
        ("no_index", lambda root: (root / "model_index.json").unlink(), "model_index.json"),
        ("no_config", lambda root: (root / "vae/config.json").unlink(), "vae/config.json"),
        ("no_weights", lambda root: (root / TRANSFORMER).unlink(), "transformer: neither"),
        ("no_tokenizer", lambda root: shutil.rmtree(root / "tokenizer"), "tokenizer: .*missing"),
        (
            "tokenizer_empty",
            lambda root: [path.unlink() for path in (root / "tokenizer_2").iterdir()],
            "tokenizer_2: neither tokenizer.json nor spiece.model",
        ),
        (
            "cut",
            lambda root: (root / TRANSFORMER).write_bytes((root / TRANSFORMER).read_bytes()[:-8]),
            "data offsets",
        ),
        (
            "tensor_missing",
            rename_tensor(TRANSFORMER, "single_transformer_blocks.2.attn.to_q.bias"),
            "single_transformer_blocks.2.attn.to_q.bias.* missing",
        ),
        (
            "decoder_tensor_missing",
            rename_tensor(VAE, "decoder.conv_out.weight"),
            "decoder.conv_out.weight.* missing",
        ),
        (
            "tensor_shape",
            reshape_tensor(TRANSFORMER, "x_embedder.weight"),
            "x_embedder.weight.*\\[24, 36\\].*\\[36, 24\\]",
        ),
    ],
)


class StoppedTest(ConvertTest):
    """Conversions that end in the middle leave nothing, and an old repository as it was."""

    BIG = 6 << 30

    def setUp(self):
        super().setUp()
        # An unused tensor makes the checkpoint large; the file is sparse.
        if shutil.disk_usage(self.directory).free < 2 * self.BIG:
            self.skipTest(f"needs {2 * self.BIG >> 30} GiB of free disk, most of it unused")
        self.checkpoint = self.copy_checkpoint()
        path = self.checkpoint / TRANSFORMER
        header, data = read_safetensors(path)
        header["unused"] = {
            "dtype": "U8", "shape": [self.BIG], "data_offsets": [len(data), len(data) + self.BIG]
        }
        write_safetensors(path, header, data)
        os.truncate(path, path.stat().st_size + self.BIG)

    def stop_while_copying(self, number, *options):
        process = subprocess.Popen(
            command("convert", self.checkpoint, self.repository, "--weights", "copy", *options),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(),
        )
        self.addCleanup(process.kill)
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            staged = list(self.directory.glob(f"{STAGING}*/new/{WEIGHTS}"))
            if staged and staged[0].stat().st_size > 2 << 20:
                process.send_signal(number)
                break
            time.sleep(0.005)
        out, err = process.communicate(timeout=60)
        self.assertEqual(out, b"")
        return process.returncode, err.decode()

    def test_interrupted(self):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            with self.subTest(number):
                code, err = self.stop_while_copying(number)
                self.assertEqual(code, 130, err)
                self.assertRegex(err.splitlines()[-1], "error: cancelled by signal")
                self.assert_nothing_left()

    def test_interrupted_over_an_old_one(self):
        self.convert(DEV, "--weights", "copy")
        before = snapshot(self.repository)
        code, err = self.stop_while_copying(signal.SIGINT, "--force")
        self.assertEqual(code, 130, err)
        self.assertEqual(snapshot(self.repository), before)
        self.assertEqual(sorted(os.listdir(self.directory)), ["checkpoint", "repository"])

    def test_no_room(self):
        """It is known before a byte is copied."""
        path = self.checkpoint / TRANSFORMER
        header, data = read_header_only(path)
        huge = shutil.disk_usage(self.directory).free * 2
        header["unused"]["shape"] = [huge]
        begin = header["unused"]["data_offsets"][0]
        header["unused"]["data_offsets"] = [begin, begin + huge]
        write_safetensors(path, header, data)
        try:
            os.truncate(path, path.stat().st_size + huge)
        except OSError as error:
            self.skipTest(f"the file system has no such large files: {error}")
        result = self.convert(self.checkpoint, "--weights", "copy", code=1)
        self.assertRegex(result.err.splitlines()[-1], "to be copied there and .* free; make room")
        self.assert_nothing_left()


def read_header_only(path):
    """(header, data) of a sparse file, without the data of the tensor 'unused'."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        return header, file.read(header["unused"]["data_offsets"][0])


class FullDiskTest(ConvertTest):
    def limited(self, *options):
        """convert with files of at most 100 kB: writing fails in the middle, as on a full disk."""
        script = 'ulimit -f 100; exec "$@"'
        return subprocess.run(
            ["bash", "-c", script, "-", *command("convert", DEV, self.repository, *options)],
            capture_output=True, text=True, timeout=60, env=environment(), check=False,
        )

    def test_file_may_not_grow(self):
        for options in (["--weights", "copy"], ["--weights", "link"]):
            done = self.limited(*options)
            self.assertEqual(done.returncode, 1, done.stderr)
            self.assertRegex(done.stderr, "cannot be written: File too large; make room")
            self.assert_nothing_left()

    def test_file_may_not_grow_over_an_old_one(self):
        self.convert(SCHNELL)
        before = snapshot(self.repository)
        done = self.limited("--weights", "copy", "--force")
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertEqual(snapshot(self.repository), before)
        self.assertEqual(os.listdir(self.directory), ["repository"])

    def test_full_disk(self):
        disk = self.directory / "disk"
        disk.mkdir()
        if os.getuid() != 0:
            self.skipTest("only root can mount a small disk")
        options = ["mount", "-t", "tmpfs", "-o", "size=3m,nr_inodes=45", "tmpfs", disk]
        mounted = subprocess.run(options, capture_output=True, check=False)
        if mounted.returncode != 0:
            self.skipTest(f"a small disk cannot be mounted: {mounted.stderr.decode().strip()}")
        self.addCleanup(subprocess.run, ["umount", disk], check=False)
        first = run("convert", DEV, disk / "repository", "--weights", "reference")
        self.assertEqual(first.code, 0, first.err)
        before = snapshot_of_links(disk / "repository")
        # Small enough for the room, too many files for the disk.
        result = run("convert", DEV, disk / "repository", "--weights", "copy", "--force")
        self.assert_error(result, 1, "No space left on device")
        self.assertEqual(os.listdir(disk), ["repository"])
        self.assertEqual(snapshot_of_links(disk / "repository"), before)
        result = run("convert", DEV, disk / "other", "--weights", "copy")
        self.assert_error(result, 1, "No space left on device")
        self.assertEqual(os.listdir(disk), ["repository"])


def snapshot_of_links(directory):
    return [
        (name, os.readlink(path) if (path := directory / name).is_symlink() else path.read_bytes())
        for name in files_under(directory)
    ]


# (name, options, exit code, what the error says)
OPTION_CASES = [
    ("python", ["--backend", "python"], 1, "--backend python: not available yet"),
    ("backend", ["--backend", "torch"], 2, "--backend"),
    ("f16", ["--dtype", "f16"], 1, "f16 cannot be computed on cpu: use --dtype f32 or bf16"),
    ("dtype", ["--dtype", "int8"], 2, "dtype 'int8' is not known"),
    ("cuda", ["--device", "cuda"], 1, "device 'cuda'"),
    ("device", ["--device", "tpu"], 2, "device 'tpu' is not known"),
    ("weights", ["--weights", "move"], 2, "--weights"),
    ("batch_zero", ["--max-batch-size", "0"], 2, "--max-batch-size 0: must be 1 to 1024"),
    ("batch_text", ["--max-batch-size", "many"], 2, "'many' is no whole number"),
    ("instances", ["--instances", "65"], 2, "--instances 65: must be 1 to 64"),
    ("size_text", ["--default-size", "big"], 2, "--default-size big: give height and width"),
    ("size_one", ["--default-size", "512"], 2, "--default-size 512: give height and width"),
    ("size_three", ["--default-size", "16x16x16"], 2, "give height and width"),
    ("size_odd", ["--default-size", "512x500"], 2, "500 is not a multiple of"),
    ("size_zero", ["--default-size", "0x16"], 2, "0 is not a multiple of"),
    ("size_large", ["--default-size", "16x4096"], 2, "4096 is not a multiple of .* to 2048"),
    ("one_place", ["more"], 2, "more"),
]


class OptionTest(ConvertTest):
    def run_case(self, options, code, pattern):
        result = self.convert(DEV, *options, code=code)
        self.assert_error(result, code, pattern)
        self.assertEqual(result.out, "")
        self.assert_nothing_left()

    def test_f16_as_stored(self):
        result = self.convert(F16, code=1)
        self.assert_error(result, 1, "dtype f16 cannot be computed on cpu")
        self.assert_nothing_left()

    def test_no_repository(self):
        self.assert_error(run("convert", DEV), 2, "REPOSITORY is required")
        self.assert_error(run("convert", DEV, ""), 2, "REPOSITORY")

    def test_help(self):
        result = run("convert", "--help")
        self.assertEqual(result.code, 0)
        for text in ("CHECKPOINT", "REPOSITORY", "--backend", "--weights", "--force", "1024x1024"):
            self.assertIn(text, result.out)


add_cases(OptionTest, "wrong", OPTION_CASES)


if __name__ == "__main__":
    unittest.main()
