from __future__ import annotations

import subprocess
import sys


def test_outside_of_an_instance_there_is_nobody_to_speak_to():
    code = "from backends.worker.loaders.python.control import load_model; load_model('n')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "TritonModelException: this works only within a model that is being served" in done.stderr
