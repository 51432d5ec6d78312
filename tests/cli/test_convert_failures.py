"""convert where it cannot, or is stopped: nothing half-written, and nothing of others harmed."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import time
import unittest

from harness import (
    DEV,
    SCHNELL,
    add_cases,
    command,
    environment,
    read_safetensors,
    run,
    write_safetensors,
)
from repositories import STAGING, WEIGHTS, ConvertTest, expected_files, files_under, snapshot


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
        self.assert_error(result, 1, "holds 'upscaler' besides models made from checkpoints")
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
        self.assert_error(result, 1, "none: no such file or directory")


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
        options = ["mount", "-t", "tmpfs", "-o", "size=3m,nr_inodes=59", "tmpfs", disk]
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


if __name__ == "__main__":
    unittest.main()
