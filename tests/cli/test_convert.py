"""convert: the repository it writes."""

import filecmp
import itertools
import json
import os
import pathlib
import shutil
import unittest

from harness import DEV, SCHNELL, add_cases, run
from repositories import (
    CONFIGS, ENCODER, ENCODER_PARTS, F16, MODELS, PARTS, STREAM, WEIGHTS, ConvertTest, config_of,
    expected_files, files_under, snapshot,
)  # fmt: skip

TYPES = {"f32": "TYPE_FP32", "bf16": "TYPE_BF16"}
QUEUE = {
    "timeout_action": "REJECT",
    "default_timeout_microseconds": 600000000,
    "allow_timeout_override": True,
    "max_queue_size": 256,
}


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


class LayoutTest(ConvertTest):
    def test_files(self):
        for checkpoint in (DEV, SCHNELL):
            with self.subTest(checkpoint.name):
                self.convert(checkpoint, "--force")
                self.assertEqual(files_under(self.repository), expected_files(checkpoint))
                for model, part in itertools.product(("bls", STREAM), CONFIGS):
                    found = self.repository / model / "1" / part / "config.json"
                    self.assertEqual(
                        found.read_bytes(), (checkpoint / part / "config.json").read_bytes()
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
        self.assertIn(f"wrote {self.repository}: 7 models, ", result.out)
        self.assertIn("computes in f32 on cpu", result.out)
        self.assertIn(f"flux-triton serve {self.repository}", result.out)

    def test_repository_generates_what_the_checkpoint_generates(self):
        for weights in ("link", "copy", "reference"):
            for checkpoint in (DEV, SCHNELL):
                with self.subTest(weights=weights, checkpoint=checkpoint.name):
                    self.convert(checkpoint, "--weights", weights, "--force")
                    self.assert_generates_the_same(checkpoint, self.repository)

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
                self.assert_generates_the_same(DEV, moved)

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
        for model, parts in (*PARTS.items(), (ENCODER, ENCODER_PARTS)):
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
        batching = dict(config["dynamic_batching"])
        self.assertEqual(batching.pop("max_queue_delay_microseconds"), 0)
        if model in ("bls", STREAM):
            policy = dict(batching.pop("default_queue_policy"))
            self.assertEqual(policy, QUEUE)
            self.assertEqual(batching.pop("priority_levels"), 10)
            self.assertEqual(batching.pop("default_priority_level"), 5)
        self.assertEqual(batching, {})
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
            "max_sequence_length": "INT32", "quality": "INT32", "seed": "INT64",
            "output_format": "STRING", "lora": "STRING", "encoded_image": "STRING",
            "encoded_mask": "STRING", "strength": "FP32",
        }
        inputs = tensors(config["input"])
        self.assertEqual(inputs.pop("image"), ("TYPE_UINT8", [-1, -1, 3], True, True))
        self.assertEqual(inputs.pop("mask_image"), ("TYPE_UINT8", [-1, -1], True, True))
        self.assertEqual(
            inputs,
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

    def check_stream(self, config, bls):
        """It is bls, with some inputs and outputs more."""
        self.assertEqual(config.pop("model_transaction_policy"), {"decoupled": True})
        own = tensors(config.pop("input"))
        self.assertEqual(own.pop("preview_every"), ("TYPE_INT32", [1], True, False))
        self.assertEqual(own.pop("preview_size"), ("TYPE_INT32", [1], True, False))
        self.assertEqual(own, tensors(bls["input"]))
        own = tensors(config.pop("output"))
        self.assertEqual(own.pop("step"), ("TYPE_INT32", [1], False, False))
        self.assertEqual(own.pop("total_steps"), ("TYPE_INT32", [1], False, False))
        self.assertEqual(own.pop("preview"), ("TYPE_STRING", [-1], False, False))
        self.assertEqual(own, tensors(bls["output"]))
        for field in set(bls) - {"name", "input", "output"}:
            self.assertEqual(config[field], bls[field])

    def run_case(self, checkpoint, options, dtype, batch, count):
        self.convert(checkpoint, *options)
        configs = {model: config_of(self.repository, model) for model in (*MODELS, STREAM, ENCODER)}
        for model, config in configs.items():
            instances = 32 * count if model in ("bls", STREAM) else count
            self.check_common(config, model, dtype, batch, instances)
            extra = {
                "bls": {"default_height", "default_width", "max_side"},
                STREAM: {"default_height", "default_width", "max_side"},
                "t5_encoder": {"default_max_sequence_length", "quantization"},
                "dit_transformer": {"quantization", "attention"},
            }
            parameters = {"dtype", "device"} | extra.get(model, set())
            self.assertEqual(set(config["parameters"]), parameters)
        tokens = configs["t5_encoder"]["parameters"]["default_max_sequence_length"]
        self.assertEqual(tokens, "256" if checkpoint == SCHNELL else "512")
        self.check_stages(configs, checkpoint, TYPES[dtype])
        self.check_bls(configs["bls"])
        self.check_stream(configs[STREAM], configs["bls"])

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

    def test_names(self):
        """Several checkpoints in one repository: each is a SOURCE by its name."""
        self.convert(DEV, "--name", "dev")
        self.convert(SCHNELL, "--name", "fast-1")
        self.convert(DEV)
        prefixes = ("", "dev_", "fast-1_")
        expected = [prefix + model for prefix in prefixes for model in (*MODELS, STREAM, ENCODER)]
        self.assertEqual(sorted(os.listdir(self.repository)), sorted(expected))
        for model in ("fast-1_bls", "fast-1_bls_stream"):
            self.assertEqual(config_of(self.repository, model)["name"], model)
        self.assert_generates_the_same(DEV, self.repository / "dev")
        self.assert_generates_the_same(SCHNELL, self.repository / "fast-1")
        self.assert_generates_the_same(DEV, self.repository / "bls")
        several = run("inspect", self.repository)
        self.assert_error(several, 1, "several checkpoints: give one of them: .*/bls, .*/dev, .*/fast")
        before = snapshot(self.repository)
        refused = self.convert(SCHNELL, "--name", "dev", code=1)
        self.assert_error(refused, 1, "exists already, with a model 'dev_bls'; .* --force")
        self.assertEqual(snapshot(self.repository), before)
        self.convert(SCHNELL, "--name", "dev", "--force")
        self.assert_generates_the_same(SCHNELL, self.repository / "dev")
        self.assert_generates_the_same(SCHNELL, self.repository / "fast-1")
        self.assertEqual(sorted(os.listdir(self.repository)), sorted(expected))

    def test_the_highest_version_is_taken(self):
        self.convert(DEV)
        for model in (*MODELS, STREAM, ENCODER):
            (self.repository / model / "1").rename(self.repository / model / "2")
        self.assert_generates_the_same(DEV, self.repository)
        decoder = self.repository / "vae_decoder"
        shutil.copytree(decoder / "2", decoder / "10")
        shutil.copytree(decoder / "2", decoder / "011")
        weights = "vae/diffusion_pytorch_model.safetensors"
        whole = (decoder / "10" / weights).read_bytes()
        (decoder / "10" / weights).unlink()
        (decoder / "10" / weights).write_bytes(whole[:100])
        result = run("check", self.repository)
        self.assert_error(result, 1, f"vae_decoder/10/{weights}: ")
        with (decoder / "config.pbtxt").open("a") as file:
            file.write("version_policy: { specific: { versions: [ 2 ] } }\n")
        self.assert_error(run("check", self.repository), 1, "version_policy is set")

    def test_a_gpu_of_another_machine(self):
        """A repository for GPUs is text: no GPU is needed to write it."""
        result = self.convert(DEV, "--device", "cuda", "--dtype", "bf16")
        self.assertIn("computes in bf16 on cuda:0", result.out)
        config = config_of(self.repository, "vae_decoder")
        self.assertEqual(config["instance_group"][0]["kind"], "KIND_GPU")
        self.assertEqual(config["parameters"]["device"], "cuda")

    def test_default_size_of_the_checkpoint(self):
        """It is in the checkpoint's index under our own key, and convert writes it there."""
        checkpoint = self.copy_checkpoint()
        index = json.loads((checkpoint / "model_index.json").read_text())
        index["flux_triton"] = {"default_size": "32x48"}
        (checkpoint / "model_index.json").write_text(json.dumps(index))
        self.convert(checkpoint)
        default = config_of(self.repository, "bls")["parameters"]
        self.assertEqual((default["default_height"], default["default_width"]), ("32", "48"))
        self.convert(checkpoint, "--force", "--default-size", "64x16")
        inspected = json.loads(run("inspect", self.repository, "--json").out)
        size = (inspected["default_height"], inspected["default_width"])
        self.assertEqual(size, (64, 16))
        written = json.loads((self.repository / "bls/1/model_index.json").read_text())
        self.assertEqual(written.pop("flux_triton"), {"default_size": "64x16", "format": 1, "name": checkpoint.name})
        del index["flux_triton"]
        self.assertEqual(written, index)

    def test_name_of_the_checkpoint(self):
        """A repository keeps it, whatever the names of directories are."""
        self.convert(DEV, "--name", "other")
        moved = self.repository.rename(self.repository.parent / "moved")
        said = json.loads(run("inspect", moved, "--json").out)
        self.assertEqual(said["checkpoint"], "tiny-dev")
        checkpoint = self.copy_checkpoint()
        for name in ("", 7, "x" * 2000):
            index = json.loads((checkpoint / "model_index.json").read_text())
            index["flux_triton"] = {"name": name}
            (checkpoint / "model_index.json").write_text(json.dumps(index))
            self.assert_error(run("inspect", checkpoint), 1, "'name' of 'flux_triton' is .* a text")

    def test_queue(self):
        for backend in ("native", "python"):
            for size, text, microseconds in [
                (0, "1ms", 1000), (1, "1500us", 1500), (7, "30s", 30_000_000),
                (1_000_000, "2h", 7_200_000_000), (256, "10m", 600_000_000),
            ]:  # fmt: skip
                options = ["--max-queue-size", size, "--queue-timeout", text, "--backend", backend]
                self.convert(DEV, "--force", *options)
                configs = {model: config_of(self.repository, model) for model in MODELS}
                batching = configs.pop("bls")["dynamic_batching"]
                wanted = {"max_queue_size": size, "default_timeout_microseconds": microseconds}
                self.assertEqual(batching["default_queue_policy"], QUEUE | wanted)
                for config in configs.values():
                    self.assertNotIn("default_queue_policy", config["dynamic_batching"])

    def test_every_setting_is_explained(self):
        self.convert(DEV)
        for model in (*MODELS, STREAM, ENCODER):
            lines = (self.repository / model / "config.pbtxt").read_text().splitlines()
            self.assertTrue(lines[0].startswith("# "), "says what the model is")
            for setting in ("max_batch_size", "instance_group", "dynamic_batching",
                            "  max_queue_delay_microseconds"):
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
        ("bfloat16", DEV, ["--dtype", "bfloat16"], "bf16", 8, 1),
        ("scaled", DEV, ["--max-batch-size", "3", "--instances", "2"], "f32", 3, 2),
    ],
)


# (name, options, exit code, what the error says)
OPTION_CASES = [
    ("backend", ["--backend", "torch"], 2, "--backend"),
    ("f16", ["--dtype", "f16"], 1, "f16 cannot be computed on cpu: use --dtype f32 or --dtype bf16"),
    ("dtype", ["--dtype", "int8"], 2, "dtype 'int8' is not known"),
    ("quantization", ["--quantization", "fp4"], 2, "quantization 'fp4' is not known: use none or fp8"),
    ("attention", ["--attention", "fp4"], 2, "attention 'fp4' is not known: use bf16 or fp8"),
    ("attention_python", ["--attention", "fp8", "--stage", "dit_transformer=python"], 2,
     "--attention fp8: model dit_transformer is to run in Python"),
    ("quantized_python", ["--quantization", "fp8", "--stage", "t5_encoder=python"], 2,
     "--quantization fp8: model t5_encoder is to run in Python"),
    ("cuda", ["--device", "cuda:64"], 1, "'cuda:64': a machine has at most 64 GPUs"),
    ("device", ["--device", "tpu"], 2, "device 'tpu' is not known"),
    ("weights", ["--weights", "move"], 2, "--weights"),
    ("batch_zero", ["--max-batch-size", "0"], 2, "--max-batch-size 0: must be 1 to 1024"),
    ("batch_text", ["--max-batch-size", "many"], 2, "'many' is no whole number"),
    ("instances", ["--instances", "65"], 2, "--instances 65: must be 1 to 64"),
    ("queue_negative", ["--max-queue-size", "-1"], 2, "--max-queue-size -1: must be 0 to 1000000"),
    ("queue_large", ["--max-queue-size", "1000001"], 2, "1000001: must be 0 to 1000000"),
    ("queue_text", ["--max-queue-size", "all"], 2, "'all' is no whole number"),
    *(
        (f"queue_timeout_{i}", [f"--queue-timeout={text}"], 2, f"--queue-timeout {text}: give a whole "
         "number with its unit, us, ms, s, m or h: 1ms to 168h")
        for i, text in enumerate(("30", "0s", "999us", "169h", "-1s", "1.5s", "s", "2 m", "1d",
                                  "9223372036854775807h", "9" * 30 + "s"))
    ),
    ("size_text", ["--default-size", "big"], 2, "--default-size big: give height and width"),
    ("size_one", ["--default-size", "512"], 2, "--default-size 512: give height and width"),
    ("size_three", ["--default-size", "16x16x16"], 2, "give height and width"),
    ("size_odd", ["--default-size", "512x500"], 2, "500 is not a multiple of"),
    ("size_zero", ["--default-size", "0x16"], 2, "0 is not a multiple of"),
    ("size_large", ["--default-size", "16x4096"], 2, "4096 is not a multiple of .* to 2048"),
    ("name_path", ["--name", "../x"], 2, "--name ../x: must be letters"),
    ("name_dot", ["--name", ".x"], 2, "--name .x: must be letters"),
    ("name_long", ["--name", "x" * 65], 2, "at most 64"),
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
