"""convert --backend python, --stage: the repository, and the programs in it without their packages."""

import ast
import pathlib
import re
import subprocess
import sys
import types
import unittest

import pbtxt
from harness import DEV, ROOT, SCHNELL, add_cases, run
from repositories import MODELS, ConvertTest, expected_files, files_under

TEMPLATES = ROOT / "convert" / "python"
STAGES = tuple(model for model in MODELS if model != "bls")


def programs_of(models) -> list:
    names = [f"{model}/1/model.py" for model in models]
    if "bls" in models:
        names += ["bls/1/bls_request.py", "bls/1/bls_images.py", "bls/1/request_fields.json"]
    return names


class RepositoryTest(ConvertTest):
    def config(self, model: str) -> dict:
        return pbtxt.parse((self.repository / model / "config.pbtxt").read_text())

    def run_case(self, options, in_python):
        result = self.convert(DEV, *options)
        expected = expected_files(DEV, stream="bls" not in in_python) + programs_of(in_python)
        self.assertEqual(files_under(self.repository), sorted(expected))
        for model in MODELS:
            backend = "python" if model in in_python else "flux"
            self.assertEqual(self.config(model)["backend"], backend, model)
        said = f"in Python, with torch and diffusers: {', '.join(sorted(in_python))}\n"
        self.assertEqual(said in result.out, bool(in_python))

    def test_programs_are_the_templates(self):
        self.convert(DEV, "--backend", "python")
        for model in MODELS:
            found = (self.repository / model / "1" / "model.py").read_bytes()
            self.assertEqual(found, (TEMPLATES / f"{model}.py").read_bytes())
        for name in ("bls_request.py", "bls_images.py"):
            found = (self.repository / "bls/1" / name).read_bytes()
            self.assertEqual(found, (TEMPLATES / name).read_bytes())

    def test_the_contract_is_that_of_the_native_models(self):
        """The same inputs, outputs, limits and queues; the instances differ."""
        for checkpoint in (DEV, SCHNELL):
            for options in ([], ["--max-batch-size", "3", "--default-size", "64x32"]):
                native, python = {}, {}
                for configs, backend in ((native, "native"), (python, "python")):
                    self.convert(checkpoint, "--backend", backend, "--force", *options)
                    configs.update({model: self.config(model) for model in MODELS})
                for model in MODELS:
                    ours, theirs = dict(native[model]), dict(python[model])
                    # Models in Python are not quantised.
                    self.assertEqual(ours["parameters"].pop("quantization", "none"), "none")
                    self.assertEqual(ours["parameters"].pop("attention", "bf16"), "bf16")
                    for config in (ours, theirs):
                        config.pop("backend")
                        config.pop("instance_group")
                        config["parameters"].pop("FORCE_CPU_ONLY_INPUT_TENSORS", None)
                    self.assertEqual(ours, theirs, model)

    def test_instances(self):
        self.convert(DEV, "--backend", "python", "--instances", "2")
        for model in MODELS:
            group = [{"count": 8 if model == "bls" else 2, "kind": "KIND_CPU"}]
            self.assertEqual(self.config(model)["instance_group"], group)

    def test_one_backend_is_replaced_by_the_other(self):
        for backend in ("python", "native", "python"):
            self.convert(DEV, "--backend", backend, "--force")
        programs = programs_of(MODELS)
        expected = expected_files(DEV, stream=False) + programs
        self.assertEqual(files_under(self.repository), sorted(expected))

    def test_generates_and_converts_like_a_native_one(self):
        self.convert(DEV, "--backend", "python", "--weights", "copy")
        self.assert_generates_the_same(DEV, self.repository)
        other = self.directory / "other"
        result = run("convert", self.repository, other)
        self.assertEqual(result.code, 0, result.err)
        self.assertEqual(files_under(other), expected_files(DEV))

    def test_f16_is_for_python_alone(self):
        """torch computes in float16 on a CPU; the engine does not."""
        self.convert(DEV, "--backend", "python", "--dtype", "f16")
        self.assertEqual(self.config("vae_decoder")["parameters"]["dtype"], "f16")
        for model in MODELS:
            options = ["--backend", "python", "--stage", f"{model}=native", "--dtype", "f16"]
            result = self.convert(DEV, *options, "--force", code=1)
            self.assert_error(result, 1, "f16 cannot be computed on cpu")


add_cases(
    RepositoryTest,
    "mix",
    [
        ("python", ["--backend", "python"], MODELS),
        ("native", ["--backend", "native"], ()),
        ("bls", ["--stage", "bls=python"], ("bls",)),
        ("two", ["--stage", "bls=python", "--stage", "vae_decoder=python"], ("bls", "vae_decoder")),
        (
            "all_but_one",
            ["--backend", "python", "--stage", "dit_transformer=native"],
            tuple(model for model in MODELS if model != "dit_transformer"),
        ),
    ],
)


class OptionTest(ConvertTest):
    def run_case(self, stage):
        result = self.convert(DEV, "--stage", stage, code=2)
        self.assert_error(result, 2, f"--stage {stage}: give NAME=python or NAME=native, .*bls")
        self.assert_nothing_left()


add_cases(
    OptionTest,
    "stage",
    [
        ("unknown", "unet=python"),
        ("backend", "bls=torch"),
        ("alone", "bls"),
        ("empty", "=python"),
        ("no_backend", "bls="),
    ],
)


def functions_of(program: str) -> dict:
    """name: source of the functions and classes of a template."""
    text = (TEMPLATES / program).read_text()
    nodes = (ast.FunctionDef, ast.ClassDef)
    return {
        node.name: ast.get_source_segment(text, node)
        for node in ast.parse(text).body
        if isinstance(node, nodes)
    }


class ProgramTest(ConvertTest):
    """Checks the programs as far as that needs no torch."""

    def test_what_they_share_is_the_same(self):
        """Each file stands alone, so some functions are in all of them: a change must reach all."""
        own = {"TritonPythonModel", "try_it"}
        first = functions_of(f"{STAGES[0]}.py")
        for stage in STAGES[1:]:
            found = functions_of(f"{stage}.py")
            shared = (first.keys() & found.keys()) - own
            self.assertIn("answer", shared)
            for name in shared:
                self.assertEqual(found[name], first[name], f"{name} of {stage} and {STAGES[0]}")
        bls = functions_of("bls.py")
        for name in ("dtype_of", "parameters_of", "to_triton", "Counters", "Off"):
            self.assertEqual(bls[name], first[name], name)

    def test_every_line_is_short(self):
        for file in TEMPLATES.glob("*.py"):
            long = [n for n, line in enumerate(file.read_text().splitlines(), 1) if len(line) > 100]
            self.assertEqual(long, [], file.name)

    def test_syntax_of_the_oldest_python(self):
        """The containers of Triton 24.10 have Python 3.10."""
        for file in TEMPLATES.glob("*.py"):
            ast.parse(file.read_text(), feature_version=(3, 10))

    def run_program(self, program: pathlib.Path, *arguments):
        # -S: without the packages of this machine.
        return subprocess.run(
            [sys.executable, "-S", program, *arguments], capture_output=True, text=True, timeout=60
        )

    def test_say_what_is_missing(self):
        self.convert(DEV, "--backend", "python")
        for model in MODELS:
            for arguments in ([], [DEV]):
                done = self.run_program(self.repository / model / "1/model.py", *arguments)
                self.assertEqual(done.returncode, 1, done.stderr)
                self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)
                missing = r"failed: numpy, torch, (transformers|diffusers)(, PIL)? missing"
                self.assertRegex(done.stderr, f"^{model}: {missing}")
                self.assertNotIn("Traceback", done.stderr)

    def test_numpy_2_is_refused_by_old_servers_alone(self):
        """By those that import numpy 1's module by its name."""
        for model in MODELS:
            for program, version, refused in [
                (b"..numpy.core.multiarray..", "2.1.3", True),
                (b"..numpy.core.multiarray..", "1.26.4", False),
                (b"..numpy._core..numpy.core..multiarray..", "2.1.3", False),
            ]:
                stub = types.SimpleNamespace(read_bytes=lambda program=program: program)
                known = {
                    "MISSING": [],
                    "NAME": model,
                    "np": types.SimpleNamespace(__version__=version),
                    "pathlib": types.SimpleNamespace(Path={"/proc/self/exe": stub}.get),
                }
                exec(functions_of(f"{model}.py")["require_packages"], known)
                arguments = ["CPU"] if model != "bls" else []
                if refused:
                    with self.assertRaisesRegex(RuntimeError, "numpy 2.1.3: .* needs numpy 1"):
                        known["require_packages"](*arguments)
                else:
                    known["require_packages"](*arguments)

    def test_say_which_part_is_not_there(self):
        for model in MODELS:
            done = self.run_program(TEMPLATES / f"{model}.py", self.directory)
            self.assertEqual(done.returncode, 1)
            said = f"{model}: failed: {re.escape(str(self.directory))} has no \\w+; name the"
            self.assertRegex(done.stderr, said)


if __name__ == "__main__":
    unittest.main()
