"""`inspect` of adapters: what it says of files in several dialects, and the line that refuses others."""

import json
import pathlib
import unittest

from harness import DEV, ROOT, CliTest, add_cases, floats, read_safetensors, run, write_safetensors, write_tensors

GOLDEN = ROOT / "tests/golden/adapters"
QKV = "lora_unet_double_blocks_0_img_attn_qkv"
PROJ = "lora_unet_double_blocks_18_img_attn_proj"


def pair(module: str, rows: int, columns: int, rank: int, down="lora_down", up="lora_up") -> dict:
    return {
        f"{module}.{down}.weight": floats([rank, columns]),
        f"{module}.{up}.weight": floats([rows, rank]),
    }


def with_notes(path: pathlib.Path, notes: dict) -> None:
    header, data = read_safetensors(path)
    write_safetensors(path, header | {"__metadata__": notes}, data)


class InspectAdapterTest(CliTest):
    def inspect(self, file, *options) -> str:
        result = run("inspect", file, *options)
        self.assertEqual(result.code, 0, result.err)
        self.assertEqual(result.err, "")
        return result.out

    def test_every_golden_adapter(self):
        index = json.loads((GOLDEN / "index.json").read_text())
        for case in index["cases"]:
            with self.subTest(case["name"]):
                file = GOLDEN / f"{case['name']}.safetensors"
                report = json.loads(self.inspect(file, "--json"))
                self.assertEqual(report["file"], str(file))
                self.assertEqual(report["dialects"], [case["dialect"]])
                self.assertEqual(report["base"]["hidden_size"], 36)
                self.assertIsNone(report["base"]["model"])
                self.assertEqual(report["unused"], [])
                self.assertGreater(report["modules"]["transformer"]["count"], 3)
                self.assertIn(f"names           {case['dialect']}\n", self.inspect(file))

    def test_text(self):
        file = self.directory / "style.safetensors"
        modulation = pair("lora_unet_single_blocks_37_modulation_lin", 9216, 3072, 2)
        tensors = pair(QKV, 9216, 3072, 4) | pair(PROJ, 3072, 3072, 2) | modulation | {
            f"{QKV}.alpha": floats([], [1]),
            f"{PROJ}.diff_b": floats([3072]),
            "lora_unet_final_layer_linear.diff": floats([64, 3072]),
            "lora_te1_text_model_encoder_layers_11_mlp_fc1.lora_down.weight": floats([8, 768]),
            "lora_te1_text_model_encoder_layers_11_mlp_fc1.lora_up.weight": floats([3072, 8]),
            **{f"x{i}\x1b[2J": floats([1]) for i in range(7)},
        }
        write_tensors(file, tensors)
        notes = {
            "ss_base_model_version": "flux1",
            "modelspec.title": "a\nb" + "x" * 1000,
            "ss_tag_frequency": json.dumps({"10_ohwx": {"ohwx dog": 12, "sitting": 3}}),
            "secret": "not shown",
        }
        with_notes(file, notes)
        out = self.inspect(file)
        for line in (
            f"adapter         {file}",
            "names           kohya",
            "base            FLUX.1, hidden size 3072, blocks 19+38",
            "transformer     6 modules: 5 LoRA, 2 difference",
            "clip            1 module: 1 LoRA",
            "t5              nothing",
            "rank            2 to 8, alpha 1 to 8, scale 0.25 to 1",
            r"unused          7 tensors: 'x0\x1b[2J', 'x1\x1b[2J', 'x2\x1b[2J', 'x3\x1b[2J', 'x4\x1b[2J', ...",
            "ss_base_model_version    flux1",
            "trigger_words            ohwx dog, sitting",
            r"modelspec.title          a\x0ab" + "x" * 197,
        ):
            self.assertIn(line, out.splitlines())
        self.assertNotIn("secret", out)
        self.assertNotIn("\x1b", out)
        report = json.loads(self.inspect(file, "--json"))
        self.assertEqual(report["rank"], [2, 8])
        self.assertEqual(report["scale"], [0.25, 1])
        self.assertEqual(len(report["unused"]), 7)
        self.assertEqual(report["modules"]["clip"], {"count": 1, "kinds": {"LoRA": 1}})
        self.assertEqual(report["modules"]["t5"], {"count": 0, "kinds": {}})
        self.assertEqual(report["notes"]["trigger_words"], "ohwx dog, sitting")

    def test_a_checkpoint_is_no_adapter(self):
        """What was said of checkpoints is said of them still."""
        file = DEV / "transformer/diffusion_pytorch_model.safetensors"
        self.assert_error(run("inspect", file), 1, "holds no 'vae', and none of ae.safetensors")
        adapter = GOLDEN / "kohya.safetensors"
        self.assert_error(
            run("inspect", adapter, "--vae", DEV / "vae"), 1, "it seems to hold a LoRA, not a model"
        )


class BadAdapterTest(CliTest):
    def run_case(self, tensors: dict, pattern: str):
        file = self.directory / "bad.safetensors"
        write_tensors(file, tensors)
        for options in ([], ["--json"]):
            self.assert_error(run("inspect", file, *options), 1, pattern)

    def test_a_truncated_file(self):
        data = (GOLDEN / "kohya.safetensors").read_bytes()
        file = self.directory / "bad.safetensors"
        for length in (0, 7, 100, len(data) - 1):
            file.write_bytes(data[:length])
            self.assert_error(run("inspect", file), 1, f"{file}: ")

    def test_very_many_tensors(self):
        file = self.directory / "bad.safetensors"
        empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
        write_safetensors(file, {f"{i}.lora_A.weight": empty for i in range(100_000)}, b"")
        self.assert_error(run("inspect", file), 1, "has 100000 tensors, and an adapter at most 32768")

    def test_a_very_long_header(self):
        file = self.directory / "bad.safetensors"
        write_tensors(file, pair(QKV, 24, 8, 2))
        with_notes(file, {"a": "x" * (17 << 20)})
        self.assert_error(run("inspect", file), 1, "has a header of [0-9]+ bytes, and an adapter at most 16777216")


NAN = float("nan")
add_cases(BadAdapterTest, "bad", [
    ("ranks", {f"{QKV}.lora_down.weight": floats([2, 8]), f"{QKV}.lora_up.weight": floats([24, 3])},
     r"lora_up.weight' has shape \[24, 3\], and '.*lora_down.weight' \[2, 8\]: the ranks disagree"),
    ("half", {f"{QKV}.lora_down.weight": floats([2, 8])}, "has no lora_B or lora_up beside"),
    ("alpha_nan", pair(QKV, 24, 8, 2) | {f"{QKV}.alpha": floats([], [NAN])}, "alpha' is nan, expected a finite number"),
    ("alpha_shape", pair(QKV, 24, 8, 2) | {f"{QKV}.alpha": floats([2])}, r"alpha' has shape \[2\], expected one number"),
    ("rank_high", pair(QKV, 900, 300, 257), "has rank 257, and at most 256 is applied; resize"),
    ("parts", pair(QKV, 25, 8, 2), "changes 25 rows, expected 3 equal parts"),
    ("widths", pair(QKV, 24, 8, 2) | pair(PROJ, 9, 9, 2), "is for a model with hidden size"),
    ("tucker", pair(QKV, 24, 8, 2) | {f"{QKV}.lora_mid.weight": floats([2, 2, 1, 1])}, "is of the tucker form"),
    ("twice", pair(QKV, 24, 8, 2) | pair("transformer.transformer_blocks.0.attn.to_k", 8, 8, 2, "lora_A", "lora_B"),
     "both change 'transformer_blocks.0.attn.to_k'; use a file that has one of them"),
    ("sdxl", pair("lora_unet_input_blocks_4_1_proj_in", 8, 8, 2) |
     pair("lora_te1_text_model_encoder_layers_0_mlp_fc1", 32, 8, 2),
     "no adapter of FLUX.1: it seems to be an adapter of Stable Diffusion XL; give one"),
    ("wan", pair("diffusion_model.blocks.0.cross_attn.k", 8, 8, 2, "lora_A", "lora_B"), "an adapter of Wan"),
    ("qwen", pair("transformer.transformer_blocks.0.attn.to_q", 8, 8, 2, "lora_A", "lora_B") |
     pair("transformer.transformer_blocks.0.img_mlp.net.2", 8, 8, 2, "lora_A", "lora_B"), "an adapter of Qwen-Image"),
    ("unknown", pair("some.thing", 8, 8, 2), "none of its 2 tensors is known, such as 'some.thing.lora_down.weight'"),
])  # fmt: skip


if __name__ == "__main__":
    unittest.main()
