"""Files that change while they are loaded."""

import os
import subprocess
import time
import unittest

from harness import CliTest, command, environment


class ChangedWhileLoadedTest(CliTest):
    def test_weights_are_emptied(self):
        """At whatever moment: the program says so or is done, and never crashes."""
        checkpoint = self.copy_checkpoint()
        whole = {path: path.read_bytes() for path in checkpoint.rglob("*.safetensors")}
        arguments = ["run-stage", checkpoint, "t5_encoder", "--prompt", "a"]
        arguments += ["--output", self.directory / "out.safetensors"]
        for delay in range(20):
            process = subprocess.Popen(
                command(*arguments), stdin=subprocess.DEVNULL, env=environment(),
                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            )  # fmt: skip
            time.sleep(delay / 1000)
            for path in whole:
                os.truncate(path, 0)
            error = process.communicate(timeout=60)[1].decode()
            for path, data in whole.items():
                path.write_bytes(data)
            if process.returncode != 0:
                self.assertEqual(process.returncode, 1, error)
                self.assertRegex(error, "^flux-triton: error: .*safetensors: .*\n$")


if __name__ == "__main__":
    unittest.main()
