"""serve, where models run in Python: what it puts together for the server, and what it refuses.

Scripts stand in for tritonserver, its stub and Python; tests/serving runs the real ones.
"""

import os
import pathlib
import shutil
import signal
import unittest

import test_serve
from harness import DEV, run
from test_serve import TIMEOUT

STUB = "triton_python_backend_stub"


class PythonTest(test_serve.ServeTest):
    def setUp(self):
        super().setUp()
        shutil.rmtree(self.repository)
        self.convert("--stage", "bls=python")
        self.server = self.make_server(self.directory / "server" / "bin")
        self.python_backend = self.directory / "server" / "backends" / "python"
        self.python_backend.mkdir(parents=True)
        (self.python_backend / "libtriton_python.so").write_bytes(b"")
        (self.python_backend / "triton_python_backend_utils.py").write_text("")
        self.stub = self.script(f"server/python_backend_stubs/3.11/{STUB}", "exit 1")
        self.python = self.make_python()

    def script(self, name, *lines) -> pathlib.Path:
        file = self.directory / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join(["#!/bin/sh", *lines, ""]))
        file.chmod(0o755)
        return file

    def make_python(
        self, version="3.11", lacks="", libraries="/opt/a", numpy="1.26.4", sites=("/a/site-packages",)
    ):
        """A Python without the packages in `lacks`, of those that it is asked for."""
        said = [libraries, "/opt/prefix", numpy, *sites]
        return self.script(
            "python3",
            "shift 2; missing=",
            f'for name; do case " {lacks} " in *" $name "*)',
            '  missing="$missing${missing:+, }$name" ;; esac; done',
            f'echo "{version}"; echo "$missing"',
            *(f'echo "{line}"' for line in said),
        )

    def add_model(self, name, program, config='backend: "python"\n', version="1"):
        """A model of a user's own."""
        directory = self.repository / name
        (directory / version).mkdir(parents=True, exist_ok=True)
        (directory / "config.pbtxt").write_text(config)
        (directory / version / "model.py").write_text(program)

    def convert(self, *options):
        options = ["--weights", "reference", "--force", *options]
        made = run("convert", DEV, self.repository, *options)
        self.assertEqual(made.code, 0, made.err)

    def arguments(self, *more):
        return super().arguments("--python", self.python, *more)

    def server_file(self, name) -> pathlib.Path:
        return self.directory / "server" / "bin" / name

    def server_process(self) -> int:
        self.wait_for(self.server_file("process").exists, "the server's start")
        return int(self.server_file("process").read_text())

    def environment_of_server(self) -> dict:
        data = pathlib.Path(f"/proc/{self.server_process()}/environ").read_text()
        return dict(entry.split("=", 1) for entry in data.split("\0") if "=" in entry)

    def started(self, *more, **variables):
        """(process, the directory that was put together)"""
        process = self.start(*more, **variables)
        self.read_announcement(process)
        words = self.server_file("arguments").read_text().splitlines()
        self.assertIn("--disable-auto-complete-config", words)
        given = next(word for word in words if word.startswith("--backend-directory="))
        return process, pathlib.Path(given.split("=", 1)[1]).parent

    def stop(self, process):
        process.send_signal(signal.SIGINT)
        self.assertEqual(process.wait(TIMEOUT), 0)


class PutTogetherTest(PythonTest):
    def test_backends(self):
        process, made = self.started()
        backends = made / "backends"
        self.assertTrue((backends / "flux").samefile(self.backends / "flux"))
        for file in self.python_backend.iterdir():
            self.assertTrue((backends / "python" / file.name).samefile(file))
        self.assertTrue((backends / "python" / STUB).samefile(self.stub))
        self.stop(process)
        self.assertFalse(made.exists())

    def test_environment(self):
        sites = ("/a/site-packages", "/it's/dist-packages")
        self.python = self.make_python(sites=sites)
        process, made = self.started(LD_LIBRARY_PATH="/before")
        found = self.environment_of_server()
        self.assertTrue(found["PATH"].startswith(f"{made}/python/bin:"), found["PATH"])
        self.assertEqual(found["LD_LIBRARY_PATH"], "/opt/a:/before")
        self.assertTrue((made / "python/bin/python3").samefile(self.python))
        self.assertIn("home = /opt/prefix/bin\n", (made / "python/pyvenv.cfg").read_text())
        lines = (made / "python/lib/python3.11/site-packages/flux-triton.pth").read_text()
        called = []
        for line in lines.splitlines():
            exec(line.replace("import site; site.", ""), {"addsitedir": called.append})
        self.assertEqual(called, list(sites))
        self.stop(process)

    def test_a_python_without_shared_library(self):
        """The stub then loads the system's, whose standard library fits."""
        self.python = self.make_python(libraries="")
        process, made = self.started()
        system = pathlib.Path("/usr/lib/python3.11/os.py").exists()
        home = "/usr/bin" if system else "/opt/prefix/bin"
        self.assertIn(f"home = {home}\n", (made / "python/pyvenv.cfg").read_text())
        self.stop(process)

    def test_stub_and_backend_of_a_container(self):
        """One directory has everything."""
        shutil.copytree(self.python_backend, self.backends / "python")
        own = self.script(f"backends/python/{STUB}", "exit 1")
        shutil.rmtree(self.directory / "server" / "backends")
        process, made = self.started()
        self.assertTrue((made / "backends/python" / STUB).samefile(own))
        self.stop(process)

    def test_which_python(self):
        venv = self.script("venv/bin/python3", f'exec {self.python} "$@"')
        named = self.script("named", f'exec {self.python} "$@"')
        base = test_serve.ServeTest.arguments(self)
        for variables, wanted in [
            ({"VIRTUAL_ENV": str(self.directory / "venv")}, venv),
            ({"VIRTUAL_ENV": str(self.directory / "venv"), "FLUX_PYTHON": str(named)}, named),
            ({"VIRTUAL_ENV": "", "PATH": f"{self.directory}:{os.environ['PATH']}"}, self.python),
        ]:
            self.arguments = lambda *more: base + list(more)
            process, made = self.started(**({"FLUX_PYTHON": ""} | variables))
            self.assertTrue((made / "python/bin/python3").samefile(wanted))
            self.stop(process)
            self.server_file("process").unlink()

    def test_nothing_of_it_for_native_models(self):
        self.convert()
        self.python = self.directory / "none"
        process = self.start()
        self.read_announcement(process)
        words = self.server_file("arguments").read_text().splitlines()
        self.assertIn(f"--backend-directory={self.backends}", words)
        self.assertNotIn("--disable-auto-complete-config", words)
        self.stop(process)


class OwnModelTest(PythonTest):
    """Of models that convert did not write only the need of the backend itself is known."""

    def setUp(self):
        super().setUp()
        self.convert()
        self.python = self.make_python(lacks="torch diffusers transformers PIL")

    def assert_starts(self):
        process, _ = self.started()
        self.stop(process)
        self.server_file("process").unlink()

    def test_numpy_is_enough(self):
        self.add_model("own", "import numpy as np\nimport what_only_its_author_knows\n")
        self.assert_starts()

    def test_names_that_convert_uses_too(self):
        self.add_model("own", 'import numpy\nPACKAGES = ("torch", "boxes", "bottles")\n')
        self.assert_starts()

    def test_a_version_that_replaces_one_of_convert(self):
        self.convert("--stage", "vae_decoder=python")
        config = (self.repository / "vae_decoder/config.pbtxt").read_text()
        self.add_model("vae_decoder", "import numpy\n", config, version="12")
        self.assert_starts()

    def test_an_environment_of_its_own(self):
        self.python = self.make_python(lacks="numpy", numpy="")
        packed = 'parameters { key: "EXECUTION_ENV_PATH" value: { string_value: "env.tar.gz" } }\n'
        self.add_model("own", "import numpy\n", f"backend : 'python'\n{packed}")
        self.assert_starts()

    def test_numpy_2_for_a_server_that_knows_it(self):
        self.add_model("own", "import numpy\n")
        self.python = self.make_python(numpy="2.1.3")
        self.assert_starts()

    def test_a_comment_is_no_backend(self):
        self.add_model("own", "import numpy\n", '# backend: "python"\nbackend: "other"\n')
        self.python = self.directory / "none"
        process = self.start()
        self.read_announcement(process)
        self.stop(process)


class RefusalTest(PythonTest):
    def refused(self, pattern, **variables):
        left = set(pathlib.Path("/tmp").glob("flux-triton-serve-*"))
        self.assert_failed(self.serve(**variables), 1, pattern)
        self.assertFalse(self.server_file("process").exists(), "the server was started")
        self.assertEqual(set(pathlib.Path("/tmp").glob("flux-triton-serve-*")) - left, set())

    def test_missing_packages(self):
        self.python = self.make_python(lacks="torch diffusers transformers PIL")
        self.refused(
            r"python3 \(version 3.11\) has no torch, diffusers, PIL; install .*requirements.txt.*--python"
        )

    def test_each_model_needs_its_own(self):
        self.python = self.make_python(lacks="torch diffusers transformers PIL")
        for name, needs in [
            ("clip_encoder", "torch, transformers"),
            ("t5_encoder", "torch, transformers"),
            ("dit_transformer", "torch, diffusers"),
            ("vae_decoder", "torch, diffusers"),
        ]:
            self.convert("--stage", f"{name}=python")
            self.refused(f"has no {needs}; install")
            # Also when it was changed, and under a name of its own.
            program = self.repository / name / "1/model.py"
            program.write_text(program.read_text().replace("import time", "import ast, time"))
            self.refused(f"has no {needs}; install")
        self.convert("--backend", "python", "--name", "mine")
        self.python = self.make_python(lacks="diffusers PIL")
        self.refused("has no diffusers, PIL; install")

    def test_numpy_2_for_an_old_server(self):
        self.stub.write_text(f"{self.stub.read_text()}# numpy.core.multiarray\n")
        self.python = self.make_python(numpy="2.1.3")
        self.refused(
            r"/python3 \(version 3.11\) has numpy 2.1.3; .*24.10 or older, needs numpy 1 .*"
            "install 'numpy<2' there, name another Python with --python, or use a newer server$"
        )

    def test_no_numpy(self):
        self.convert()
        self.add_model("own", "import numpy\n")
        self.python = self.make_python(lacks="numpy torch", numpy="")
        self.refused(r"has no numpy, which Triton's Python backend needs; install numpy there, or")
        self.stub.write_text(f"{self.stub.read_text()}# numpy.core.multiarray\n")
        self.refused(r"has no numpy, .* needs; install 'numpy<2' there")

    def test_no_python_backend(self):
        shutil.rmtree(self.python_backend)
        self.refused(r"Python backend \(python/libtriton_python.so\) is neither in .* nor in ")

    def test_no_stub_for_the_version(self):
        self.python = self.make_python(version="3.7")
        self.refused(f"the server has no {STUB} for Python 3.7")

    def test_a_stub_that_cannot_be_run(self):
        """A stub that cannot run is refused; the server would change its permissions."""
        self.stub.write_text("#!/bin/sh\nexit 127\n")
        before = self.stub.stat().st_mode
        self.refused(r"stub: cannot be run; it needs libpython3.11.so.1.0, .*libpython3.11\)")
        self.assertEqual(self.stub.stat().st_mode, before)

    def test_no_python(self):
        self.python = self.directory / "none"
        self.refused(r"--python .*none: is no program that can be run")
        self.python = self.script("other", "echo hello")
        self.refused(r"other: is no Python 3 that can be asked")
        self.python = self.script("failing", "exit 3")
        self.refused(r"failing: is no Python 3 that can be asked")

    def test_the_variable(self):
        base = test_serve.ServeTest.arguments(self)
        self.arguments = lambda *more: base + list(more)
        self.refused(r"\$FLUX_PYTHON /none: is no program", FLUX_PYTHON="/none")

    def test_the_reason_of_a_model_ends_before_its_traceback(self):
        text = self.server.read_text()
        said = "is missing\"')"
        self.assertIn(said, text)
        self.server.write_text(text.replace(said, r"""is missing\\n\\nAt:\\n  model.py(1)"')"""))
        self.assert_failed(self.serve(BEHAVIOUR="bad model"), 1, r"x.safetensors is missing$")


if __name__ == "__main__":
    unittest.main()
