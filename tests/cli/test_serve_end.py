"""How serve ends: signals, and the exit code of its server."""

import os
import signal
import subprocess
import time
import unittest

import test_serve
from harness import command, environment
from test_serve import TIMEOUT, is_alive


class EndTest(test_serve.ServeTest):
    def test_forwards_signals(self):
        for number, handed_on in (
            (signal.SIGINT, signal.SIGINT),
            (signal.SIGTERM, signal.SIGTERM),
            (signal.SIGHUP, signal.SIGTERM),  # a server does not know it and would lose requests
        ):
            with self.subTest(number):
                process = self.start(CODE="9")
                self.read_announcement(process)
                server = self.server_process()
                process.send_signal(number)
                self.assertEqual(process.wait(TIMEOUT), 9, "its exit code is the server's")
                self.assertEqual((self.directory / "signal").read_text(), str(handed_on.value))
                self.assertFalse(is_alive(server))
                (self.directory / "process").unlink()

    def test_signals_of_one_moment_are_one_request(self):
        """`timeout` signals a program, and the program's group."""
        process = self.start(BEHAVIOUR="stubborn")
        self.read_announcement(process)
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGHUP)
        time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        self.wait_for((self.directory / "signal").exists, "the signal")
        time.sleep(0.5)
        self.assertIsNone(process.poll(), "it waits for the server")
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(TIMEOUT), 130)

    def test_nohup(self):
        process = self.start(preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
        self.read_announcement(process)
        process.send_signal(signal.SIGHUP)
        time.sleep(0.5)
        self.assertIsNone(process.poll(), "it outlives its terminal")
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(TIMEOUT), 0)

    def test_second_signal_kills(self):
        process = self.start(BEHAVIOUR="stubborn")
        self.read_announcement(process)
        server = self.server_process()
        process.send_signal(signal.SIGINT)
        self.wait_for((self.directory / "signal").exists, "the first signal")
        time.sleep(0.3)
        self.assertIsNone(process.poll(), "it waits for the server")
        process.send_signal(signal.SIGINT)
        self.assertEqual(process.wait(TIMEOUT), 130)
        self.assertFalse(is_alive(server))

    def test_interrupted_before_it_is_ready(self):
        process = self.start(BEHAVIOUR="never ready")
        server = self.server_process()
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        self.assertEqual(process.wait(TIMEOUT), 0)
        self.assertFalse(is_alive(server))
        self.assertIn("stopped before the server was ready", process.stderr.read())

    def test_no_server_is_left_when_we_are_killed(self):
        process = self.start()
        self.read_announcement(process)
        server = self.server_process()
        process.kill()
        self.wait_for(lambda: not is_alive(server), "the server's end")

    def test_no_server_is_left_when_nobody_listens(self):
        """The announcement cannot be written: the server ends as well."""
        reading, writing = os.pipe()
        os.close(reading)
        done = subprocess.run(
            command(*self.arguments()), stdout=writing, stderr=subprocess.PIPE, text=True,
            timeout=TIMEOUT, env=environment(), check=False,
        )
        os.close(writing)
        self.assertEqual(done.returncode, 1)
        self.assertRegex(done.stderr, "standard output: cannot be written")
        self.assertFalse(is_alive(self.server_process()))

    def test_exit_code_of_a_server_that_ends(self):
        done = self.serve(BEHAVIOUR="dies later")
        self.assertEqual(done.returncode, 7, done.stderr)

    def test_server_that_crashes(self):
        done = self.serve(BEHAVIOUR="crashes later")
        self.assertEqual(done.returncode, 128 + signal.SIGSEGV, done.stderr)
        self.assertRegex(done.stderr, "tritonserver: was ended by signal 11")


if __name__ == "__main__":
    unittest.main()
