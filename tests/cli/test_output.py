"""Tests the handling of results: files, standard output, signals, full disks, out of memory."""

import json
import os
import pathlib
import platform
import pty
import resource
import shutil
import signal
import stat
import subprocess
import time
import unittest

from harness import DEV, F16, SMALL, CliTest, command, environment, run, write_tensors

ADAPTER = DEV.parents[1] / "adapters" / "kohya.safetensors"
GENERATE = ["generate", DEV, "--prompt", "a star", *SMALL]
# Long enough to be interrupted on any machine.
LONG = ["generate", DEV, "--prompt", "a star", "--height", "512", "--width", "512"]
LONG += ["--steps", "1000", "--threads", "1"]
WAIT = 60
WRITE = {"x86_64": 1, "aarch64": 64}.get(platform.machine())  # the number of write()


class OutputTest(CliTest):
    def test_directory_missing(self):
        result = run(*GENERATE, "-o", self.directory / "none" / "image.png")
        self.assert_error(result, 1, "--output .*none/image.png: the directory .*none does not exist")

    def test_latents_directory_missing(self):
        output = ["-o", self.directory / "a.png", "--save-latents", "/none/l.safetensors"]
        result = run(*GENERATE, *output)
        self.assert_error(result, 1, "--save-latents /none/l.safetensors: the directory /none")
        self.assert_no_files(self.directory)

    def test_directory_not_writable(self):
        user = {"user": 65534, "group": 65534, "extra_groups": []} if os.getuid() == 0 else {}
        checkpoint = self.copy_checkpoint()
        for path in checkpoint.rglob("*"):
            path.chmod(0o755)
        self.directory.chmod(0o755)
        closed = self.directory / "closed"
        closed.mkdir(0o555)
        try:
            generate = ["generate", checkpoint, *GENERATE[2:]]
            result = run(*generate, "-o", closed / "image.png", **user)
        except PermissionError:
            self.skipTest("the program cannot be run by another user")
        self.assert_error(result, 1, "image.png: cannot be created: Permission denied")
        self.assert_no_files(closed)

    def test_the_longest_name(self):
        """The file is written under another name first, which must not be longer."""
        for name in ("a" * 251 + ".png", "b" * 248 + "é.webp"):
            result = run(*GENERATE, "-o", self.directory / name)
            self.assertEqual((result.code, result.err), (0, ""))
        self.assertEqual(len(list(self.directory.iterdir())), 2)

    def test_output_on_full_device(self):
        result = run(*GENERATE, "-o", "/dev/full")
        self.assert_error(result, 1, "/dev/full: cannot be written: No space left on device")
        self.assertTrue(stat.S_ISCHR(os.stat("/dev/full").st_mode))

    def test_latents_on_full_device(self):
        result = run(*GENERATE, "-o", self.directory / "image.png", "--save-latents", "/dev/full")
        self.assert_error(result, 1, "/dev/full: cannot be written: No space left on device")
        self.assertTrue(stat.S_ISCHR(os.stat("/dev/full").st_mode))
        # The image was written when it was decoded; it is whole.
        self.assertEqual([path.name for path in self.directory.iterdir()], ["image.png"])
        self.assertTrue((self.directory / "image.png").read_bytes().endswith(b"IEND\xaeB`\x82"))

    def test_disk_full_in_the_middle(self):
        """A file that may not grow beyond 500 bytes: nothing of it stays, the old one does."""
        old = self.directory / "image.png"
        old.write_bytes(b"old")

        def limit():
            resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))

        result = run(*GENERATE, "-o", old, preexec_fn=limit)
        self.assert_error(result, 1, "image.png: cannot be written: File too large")
        self.assertEqual(sorted(p.name for p in self.directory.iterdir()), ["image.png"])
        self.assertEqual(old.read_bytes(), b"old")

    def test_stdout_full(self):
        for arguments in (["inspect", DEV], ["tokenize", DEV, "--prompt", "x"], ["--help"]):
            with open("/dev/full", "wb") as full:
                result = run(*arguments, stdout=full)
            self.assert_error(result, 1, "standard output: cannot be written: No space left")

    def test_stdout_closed(self):
        """Nothing that is opened later may take the place of standard output."""
        image = self.directory / "image.png"
        for arguments in ([*GENERATE, "-o", image], ["inspect", DEV, "--json"]):
            result = run(*arguments, stdout=None, preexec_fn=lambda: os.close(1))
            self.assert_error(result, 1, "standard output: cannot be written")
        self.assertEqual((self.directory / "image.png").read_bytes()[:4], b"\x89PNG")

    def test_stdout_reader_gone(self):
        read_end, write_end = os.pipe()
        os.close(read_end)
        result = run("inspect", DEV, stdout=write_end)
        os.close(write_end)
        self.assert_error(result, 1, "standard output: cannot be written: Broken pipe")

    def test_stderr_closed(self):
        output = self.directory / "image.png"
        result = run(*GENERATE, "-o", output, stderr=None, preexec_fn=lambda: os.close(2))
        self.assertEqual(result.code, 0)
        self.assertEqual(output.read_bytes()[:4], b"\x89PNG")

    def test_the_format_is_the_endings(self):
        for name, begin in (("a.jpg", b"\xff\xd8\xff"), ("b.JPEG", b"\xff\xd8\xff"),
                            ("c.webp", b"RIFF"), ("d.png", b"\x89PNG")):  # fmt: skip
            result = run(*GENERATE, "-o", self.directory / name)
            self.assertEqual(result.code, 0, result.err)
            self.assertTrue((self.directory / name).read_bytes().startswith(begin), name)
        result = run(*GENERATE, "--images", "2", "-o", self.directory / "e.webp")
        self.assertEqual(result.code, 0, result.err)
        self.assertTrue((self.directory / "e_1.webp").exists())

    def test_a_link_stays(self):
        """What it leads to is written, whether it exists or not."""
        link, target = self.directory / "link.png", self.directory / "target.png"
        link.symlink_to("target.png")
        for _ in range(2):
            result = run(*GENERATE, "-o", link)
            self.assertEqual(result.code, 0, result.err)
            self.assertTrue(link.is_symlink())
            self.assertEqual(target.read_bytes()[:4], b"\x89PNG")
        target.unlink()
        target.symlink_to("link.png")
        self.assert_error(run(*GENERATE, "-o", link), 1, "too many symbolic links")

    def assert_refused_before_computing(self, arguments, text):
        names = sorted(self.directory.iterdir())
        result = run(*arguments, timeout=WAIT)
        self.assert_error(result, 2, text)
        self.assertEqual(sorted(self.directory.iterdir()), names)

    def test_two_outputs_of_one_name(self):
        image, latents = self.directory / "a.png", self.directory / "a.safetensors"
        image.symlink_to("a.safetensors")
        self.assert_refused_before_computing(
            [*GENERATE, "-o", image, "--save-latents", latents],
            r"--output .*/a.png and --save-latents .*/a.safetensors: are the same file",
        )
        (self.directory / "b_0.png").symlink_to("b_1.png")
        self.assert_refused_before_computing(
            [*GENERATE, "-o", self.directory / "b.png", "--images", "2"],
            r"--output .*/b_0.png and --output .*/b_1.png: are the same file",
        )

    def test_a_numbered_name_is_a_directory(self):
        (self.directory / "a_1.png").mkdir()
        self.assert_refused_before_computing(
            [*GENERATE, "-o", self.directory / "a.png", "--images", "3"],
            r"--output .*/a_1.png: is a directory",
        )

    def test_a_fifo(self):
        """Opening one waits for a reader, and no signal ends that."""
        fifo = self.directory / "fifo.png"
        os.mkfifo(fifo)
        latents = self.directory / "fifo.safetensors"
        latents.symlink_to("fifo.png")
        stage = ["run-stage", DEV, "t5_encoder", "--prompt", "a", "--output", latents]
        for arguments in ([*GENERATE, "-o", fifo], [*GENERATE, "--save-latents", latents], stage):
            self.assert_refused_before_computing(arguments, "fifo.*: is no regular file")

    def test_png_to_stdout_device(self):
        """A special file is written to, not replaced."""
        result = run(*GENERATE, "-o", "/dev/null")
        self.assertEqual(result.code, 0, result.err)
        self.assertTrue(stat.S_ISCHR(os.stat("/dev/null").st_mode))

    def test_out_of_memory(self):
        """An address space that not even the result fits in ends in an error, not in a crash."""
        if "asan" in command()[0]:
            self.skipTest("sanitizers need the address space themselves")
        side = 2048
        latents = ([1, 3, side, side], bytes(3 * side * side * 4))
        write_tensors(self.directory / "in.safetensors", {"latents": latents})

        def limit():
            resource.setrlimit(resource.RLIMIT_AS, (350 << 20, 350 << 20))

        result = run(
            "run-stage", F16, "vae_decoder", "--dtype", "f32", "--threads", "1",
            "--input", self.directory / "in.safetensors",
            "--output", self.directory / "out.safetensors",
            preexec_fn=limit,
        )
        self.assertEqual(result.code, 1, result.err)
        warning, error = result.err.splitlines()
        self.assertIn("4096x4096 pixels are decoded in tiles", warning)
        self.assertRegex(error, "^flux-triton: error: out of memory on cpu: .* bytes")
        self.assertFalse((self.directory / "out.safetensors").exists())


class NameTest(CliTest):
    """Names of files need not be UTF-8; JSON, image files and terminals want that."""

    def checkpoint(self, name: bytes) -> bytes:
        path = os.fsencode(self.directory) + b"/" + name
        shutil.copytree(os.fsencode(DEV), path)
        return path

    def test_json_refuses(self):
        checkpoint = self.checkpoint(b"ck\xe9")
        adapter = b"style\xe9.safetensors"
        shutil.copy(ADAPTER, os.fsencode(self.directory) + b"/" + adapter)
        says = r"ck\\xe9.*: .* not valid UTF-8, which --json cannot report"
        for command_, pattern in (
            (["inspect", checkpoint, "--json"], says),
            (["inspect", DEV, "--vae", checkpoint + b"/vae", "--json"], says),
            (["inspect", adapter, "--json"], r"style\\xe9.safetensors: is not valid UTF-8"),
            (["bench", checkpoint, "--json", "--runs", "10000"], says),
        ):
            result = run(*command_, cwd=self.directory)
            self.assert_error(result, 2, pattern)
            self.assertEqual(result.out, "")

    def test_text_is_readable(self):
        checkpoint = self.checkpoint(b"ck\xe9")
        image = os.fsencode(self.directory) + b"/a\n\xe9.png"
        embeds = os.fsencode(self.directory) + b"/o\xe9.safetensors"
        small = ["--runs", "1", "--warmup", "0", "--height", "32", "--width", "32", "--steps", "1"]
        for command_, pattern in (
            (["inspect", checkpoint], r"/ck\\xe9/vae"),
            (["check", checkpoint], r"^ck\\xe9: "),
            (["bench", checkpoint, *small], r"^ck\\xe9: "),
            (["run-stage", checkpoint, "t5_encoder", "--prompt", "x", "--output", embeds],
             r"written to .*/o\\xe9.safetensors"),
            (["generate", checkpoint, "--prompt", "x", *SMALL, "-o", image], r"/a\\x0a\\xe9.png  seed"),
        ):
            result = run(*command_)
            self.assertEqual((result.code, result.err), (0, ""))
            self.assertRegex(result.out, pattern)
            self.assertNotIn("\ufffd", result.out)  # what the harness makes of other bytes

    def test_an_image_names_its_checkpoint_in_utf8(self):
        for name, ending in ((b"a, b\xe9", "png"), (b"c\xe9", "webp")):
            checkpoint = self.checkpoint(name)
            image = self.directory / f"image.{ending}"
            result = run("generate", checkpoint, "--prompt", "x", *SMALL, "-o", image)
            self.assertEqual((result.code, result.err), (0, ""))
            content = image.read_bytes()
            self.assertNotIn(name, content)
            self.assertTrue(b"\\xe9" in content or b"\\\0x\0e\0" in content)


class InterruptionTest(CliTest):
    def start(self, **streams):
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams
        process = subprocess.Popen(
            command(*LONG, "-o", self.directory / "image.png"),
            stdin=subprocess.DEVNULL, env=environment() | {"TERM": "xterm"}, **streams,
        )
        self.addCleanup(process.kill)
        return process

    def generate_until_a_step(self):
        """A process whose progress bar, on a terminal, shows that it denoises."""
        primary, secondary = pty.openpty()
        self.addCleanup(os.close, primary)
        process = self.start(stderr=secondary)
        os.close(secondary)
        seen = b""
        deadline = time.monotonic() + WAIT
        while b"step " not in seen:
            self.assertLess(time.monotonic(), deadline, f"no step within {WAIT} s: {seen!r}")
            seen += os.read(primary, 4096)
        return process, primary

    def read_rest(self, terminal) -> str:
        text = b""
        try:
            while chunk := os.read(terminal, 4096):
                text += chunk
        except OSError:  # the other side is closed
            pass
        return text.decode()

    def interrupt(self, number) -> None:
        process, terminal = self.generate_until_a_step()
        process.send_signal(number)
        out, _ = process.communicate(timeout=WAIT)
        self.assertEqual(process.returncode, 130)
        self.assertEqual(out, b"")
        self.assertRegex(self.read_rest(terminal), r"flux-triton: error: cancelled")
        self.assert_no_files(self.directory)

    def test_interrupt_while_generating(self):
        self.interrupt(signal.SIGINT)

    def test_terminate_while_generating(self):
        self.interrupt(signal.SIGTERM)

    def test_hangup_while_generating(self):
        self.interrupt(signal.SIGHUP)

    def test_nohup(self):
        def ignore():
            signal.signal(signal.SIGHUP, signal.SIG_IGN)

        process = self.blocked_in_a_write(preexec_fn=ignore)
        for _ in range(2):
            process.send_signal(signal.SIGHUP)
            time.sleep(0.3)
        self.assertIsNone(process.poll(), "it outlives its terminal")

    def blocked_in_a_write(self, **options):
        """A process that writes its result to a pipe that is full: it looks at no signal."""
        reading, writing = os.pipe()
        self.addCleanup(os.close, reading)
        os.set_blocking(writing, False)
        try:
            while True:
                os.write(writing, bytes(4096))
        except BlockingIOError:
            os.set_blocking(writing, True)
        process = subprocess.Popen(
            command("tokenize", DEV, "--prompt", "a star"), stdin=subprocess.DEVNULL,
            stdout=writing, stderr=subprocess.DEVNULL, env=environment(), **options,
        )
        os.close(writing)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        state = f"/proc/{process.pid}/syscall"
        deadline = time.monotonic() + WAIT
        while not pathlib.Path(state).read_text().startswith(f"{WRITE} 0x1 "):
            self.assertLess(time.monotonic(), deadline, "it does not write")
            time.sleep(0.02)
        return process

    def test_second_interrupt_ends_at_once(self):
        process = self.blocked_in_a_write()
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        self.assertIsNone(process.poll())
        process.send_signal(signal.SIGINT)
        self.assertEqual(process.wait(WAIT), -signal.SIGINT)

    def test_signals_of_one_moment_are_one_request(self):
        """`timeout` signals a program, and the program's group."""
        process = self.blocked_in_a_write()
        process.send_signal(signal.SIGTERM)
        time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        self.assertIsNone(process.poll())

    def test_interrupt_at_once(self):
        """Whenever the signal comes, no file is there afterwards."""
        for delay in (0.0, 0.02, 0.1, 0.3):
            process = self.start()
            time.sleep(delay)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=WAIT)
            # Before the program has set its handlers, the signal itself ends it.
            self.assertIn(process.returncode, (130, -signal.SIGINT), err)
            self.assert_no_files(self.directory)

    def test_no_bar_without_terminal(self):
        result = run(*GENERATE, "-o", self.directory / "image.png", "--json")
        self.assertEqual((result.code, result.err), (0, ""))
        json.loads(result.out)


if __name__ == "__main__":
    unittest.main()
