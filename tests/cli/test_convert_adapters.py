"""convert: the directory of adapters."""

import os
import shutil
import unittest

from harness import DEV, SCHNELL
from repositories import ConvertTest


class ConvertAdaptersTest(ConvertTest):
    def test_adapters_stay(self):
        """What is in loras is not the checkpoint's: --force replaces all but that."""
        self.convert(DEV)
        loras = self.repository / "bls/loras"
        self.assertEqual(os.listdir(loras), ["README.md"])
        (loras / "style.safetensors").write_bytes(b"style")
        (loras / "folder").mkdir()
        for options in (("--force",), ("--name", "other"), ("--force", "--stage", "bls=python")):
            self.convert(SCHNELL, *options)
            self.assertEqual((loras / "style.safetensors").read_bytes(), b"style", options)
            self.assertTrue((loras / "folder").is_dir())
        self.assertEqual(os.listdir(self.repository / "other_bls/loras"), ["README.md"])

    def test_a_link_to_adapters_stays(self):
        self.convert(DEV)
        shutil.rmtree(self.repository / "bls/loras")
        (self.repository / "bls/loras").symlink_to(self.directory)
        self.convert(SCHNELL, "--force")
        self.assertEqual(os.readlink(self.repository / "bls/loras"), str(self.directory))


if __name__ == "__main__":
    unittest.main()
