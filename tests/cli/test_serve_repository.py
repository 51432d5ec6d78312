"""serve, check, inspect and generate refuse a repository that a server could not serve, with the same
words and before a server is started.
"""

import shutil
import signal
import unittest

import test_serve
from harness import DEV, SMALL, add_cases, run
from test_serve import TIMEOUT


def make_directory_of(path):
    path.unlink()
    path.mkdir()


def append(path, text):
    with open(path, "a") as file:
        file.write(text)


# (name, how the repository is spoiled, what the error says)
MODEL_CASES = [
    ("config_missing", lambda root: (root / "vae_decoder/config.pbtxt").unlink(),
     "vae_decoder/config.pbtxt: is missing; make the repository again with flux-triton convert"),
    ("config_empty", lambda root: (root / "bls/config.pbtxt").write_text(""),
     "bls/config.pbtxt: is empty; make the repository again with flux-triton convert"),
    ("config_no_text", lambda root: (root / "bls/config.pbtxt").write_bytes(b"\xff\xfe"),
     "bls/config.pbtxt: is no text in UTF-8: byte 0 is 0xff"),
    ("config_unfinished", lambda root: append(root / "bls/config.pbtxt", "oops {\n"),
     r"bls/config.pbtxt: line \d+, column 1: the text ends where } is expected; change it, or make"),
    ("config_twice", lambda root: append(root / "vae_decoder/config.pbtxt", "max_batch_size: 3\n"),
     r"vae_decoder/config.pbtxt: line \d+, column 1: max_batch_size is set a second time; change"),
    ("config_of_the_stream", lambda root: append(root / "bls_stream/config.pbtxt", "newer: ,\n"),
     r"bls_stream/config.pbtxt: line \d+, column 8: ',' is there where a value is expected"),
    ("config_directory", lambda root: make_directory_of(root / "vae_decoder/config.pbtxt"),
     "vae_decoder/config.pbtxt: is no file"),
    ("version_policy",
     lambda root: (root / "vae_decoder/config.pbtxt").write_text("version_policy { all { } }\n"),
     "vae_decoder/config.pbtxt: version_policy is set"),
    ("version_text", lambda root: (root / "vae_decoder/2x").mkdir(),
     "vae_decoder/2x: is no version of the model, but a server takes it for one"),
    ("version_sign", lambda root: (root / "vae_decoder/+2").mkdir(), r"vae_decoder/\+2: is no version"),
    ("version_large", lambda root: (root / "vae_decoder" / ("9" * 20)).mkdir(),
     "vae_decoder/9{20}: is no version of the model"),
    ("version_policy_of_the_stream",
     lambda root: (root / "bls_stream/config.pbtxt").write_text("version_policy { all { } }\n"),
     "bls_stream/config.pbtxt: version_policy is set"),
    ("no_version", lambda root: shutil.rmtree(root / "vae_decoder/1"),
     "vae_decoder: has no version: there must be a directory '1' in it"),
]
# The same that only a server looks at.
REPOSITORY_CASES = [
    ("model_missing", lambda root: shutil.rmtree(root / "vae_decoder"),
     "model 'vae_decoder' is missing, and 'bls' cannot answer without it"),
    ("hidden_directory", lambda root: (root / ".ipynb_checkpoints").mkdir(),
     r"repository/.ipynb_checkpoints: is no model .*: remove it, or move it away"),
    ("stray_directory", lambda root: (root / "lost+found").mkdir(), r"lost\+found: is no model"),
    ("version_of_a_users_model", lambda root: (root / "own" / ("9" * 20)).mkdir(parents=True),
     "own/?9*: is no"),
]
# What servers pass over.
FINE_CASES = [
    ("file", lambda root: (root / ".DS_Store").write_text("")),
    ("text_beside_versions", lambda root: (root / "vae_decoder/notes").mkdir()),
    ("leading_zero", lambda root: (root / "vae_decoder/02").mkdir()),
    ("no_stream", lambda root: shutil.rmtree(root / "bls_stream")),  # of an older convert
    ("settings_of_a_newer_server", lambda root: append(
        root / "bls/config.pbtxt", "newer <a: 'x' \"y\\n\"; b: [ -1.5e3, inf ], c [{}]> # }\n")),
    ("users_model", lambda root: (root / "own/1").mkdir(parents=True)),
]


class SpoiledTest(test_serve.ServeTest):
    def assert_not_served(self, pattern):
        self.assert_failed(self.serve(), 1, pattern)
        self.assertFalse((self.directory / "arguments").exists(), "the server was started")


class SpoiledModelTest(SpoiledTest):
    def run_case(self, spoil, pattern):
        spoil(self.repository)
        self.assert_not_served(pattern)
        output = self.directory / "x.png"
        for command in (
            ["check", self.repository],
            ["inspect", self.repository],
            ["generate", self.repository, "--prompt", "x", *SMALL, "-o", output],
        ):
            self.assert_error(run(*command), 1, pattern)


class SpoiledRepositoryTest(SpoiledTest):
    def run_case(self, spoil, pattern):
        spoil(self.repository)
        self.assert_not_served(pattern)


class PartTest(SpoiledTest):
    def test_one_checkpoint_of_a_repository(self):
        made = run("convert", DEV, self.repository, "--weights", "reference", "--name", "dev")
        self.assertEqual(made.code, 0, made.err)
        words = ["serve", self.repository / "dev", *self.arguments()[2:]]
        self.assert_failed(self.serve(arguments=words), 1,
                           f"dev: is one checkpoint of a repository, .*: give {self.repository}$")


class FineTest(test_serve.ServeTest):
    def run_case(self, change):
        change(self.repository)
        process = self.start()
        self.assertTrue(self.read_announcement(process)[0].startswith("serving "))
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(TIMEOUT), 0)


class ExplicitTest(test_serve.ServeTest):
    """The server loads what --load-model names."""

    def said(self, *more):
        process = self.start("--", "--model-control-mode=explicit", *more)
        lines = [process.stdout.readline() for _ in range(4)]
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(TIMEOUT), 0)
        return "".join(lines) + process.stdout.read(), process.stderr.read()

    def test_nothing(self):
        out, err = self.said()
        self.assertNotIn("curl", out)
        self.assertIn("explicit: no pipeline is loaded with all its models", err)

    def test_a_part(self):
        shutil.rmtree(self.repository / "vae_decoder")
        out, err = self.said("--load-model=bls", "--load-model", "t5_encoder")
        self.assertNotIn("curl", out)
        self.assertIn("explicit: no pipeline is loaded with all its models", err)

    def test_all(self):
        out, err = self.said("--load-model=*")
        self.assertIn("models/bls/generate", out)
        self.assertNotIn("no pipeline", err)


add_cases(SpoiledModelTest, "refuses", MODEL_CASES)
add_cases(SpoiledRepositoryTest, "refuses", REPOSITORY_CASES)
add_cases(FineTest, "serves", FINE_CASES)


if __name__ == "__main__":
    unittest.main()
