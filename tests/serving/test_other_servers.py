"""A server that the backend does not fit is refused before anything is served.

The real server, with one of its functions replaced by the loader as another release would have it.
"""

import os
import re
import shutil
import subprocess

import pytest
import server as serving

VERSION = """
#include <stdint.h>
void* {name}(uint32_t* major, uint32_t* minor) {{
  *major = {major};
  *minor = {minor};
  return 0;
}}
"""
# Releases before 24.02 had no DOUBLE, and another number for BYTES.
PARAMETERS = """
const char* TRITONSERVER_ParameterTypeString(int type) {
  const char* names[] = {"STRING", "INT", "BOOL", "BYTES"};
  return type < 4 ? names[type] : "<invalid>";
}
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
@pytest.mark.parametrize(
    "source, says",
    [
        (
            VERSION.format(name="TRITONBACKEND_ApiVersion", major=1, minor=18),
            r"this server has .* version 1\.18, expected 1\.19 or a later 1\.x \(Triton 24\.10 or",
        ),
        (
            VERSION.format(name="TRITONSERVER_ApiVersion", major=2, minor=0),
            r"this server has .* version 2\.0, expected 1\.34 or a later 1\.x",
        ),
        (PARAMETERS, r"another one: parameter type 3 is 'BYTES', expected 'DOUBLE'"),
    ],
)
def test_is_refused(repository, tmp_path, monkeypatch, source, says):
    shim = tmp_path / "shim.so"
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-x", "c", "-", "-o", shim], input=source, text=True, check=True
    )
    monkeypatch.setitem(os.environ, "LD_PRELOAD", str(shim))
    with serving.Server(repository, tmp_path / "log.txt", ready=False) as own:
        assert own.process.wait(30) != 0
    assert re.search(says, own.log()), own.log()[-2000:]
