from __future__ import annotations

import contextlib
import os
import re

from backends.worker.loaders.python.logger import Logger


def test_lines_say_their_level_and_the_place_that_logs(capfd):
    Logger.log_info('a "quoted"\nline')
    Logger.log_warn("w")
    Logger.log_error("e")
    Logger.log("l", Logger.ERROR)
    Logger.log_verbose("never")
    Logger.log_info(b"bytes")
    lines = capfd.readouterr().err.splitlines()
    assert [line[0] for line in lines] == ["I", "W", "E", "E", "I"]
    assert lines[4].endswith(' "bytes"')
    assert str(Logger.INFO) == "LogLevel.INFO"
    place = r"\d{4} \d\d:\d\d:\d\d\.\d{6} \d+ test_logger\.py:\d+\] "
    assert re.fullmatch(rf"I{place}" + r'"a \\"quoted\\"\\nline"', lines[0])
    assert all(re.match(rf".{place}", line) for line in lines)


def test_lines_are_written_whatever_a_model_does_to_its_standard_error(capfd):
    with contextlib.redirect_stderr(None):
        Logger.log_error("\udcff")
    saved = os.dup(2)
    os.close(2)
    try:
        Logger.log_error("lost")
    finally:
        os.dup2(saved, 2)
        os.close(saved)
    assert capfd.readouterr().err.endswith('] "\\udcff"\n')
