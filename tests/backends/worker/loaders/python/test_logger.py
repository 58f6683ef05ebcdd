from __future__ import annotations

import re

from backends.worker.loaders.python.logger import Logger


def test_lines_say_their_level_and_the_place_that_logs(capsys):
    Logger.log_info('a "quoted"\nline')
    Logger.log_warn("w")
    Logger.log_error("e")
    Logger.log("l", Logger.ERROR)
    Logger.log_verbose("never")
    Logger.log_info(b"bytes")
    lines = capsys.readouterr().err.splitlines()
    assert [line[0] for line in lines] == ["I", "W", "E", "E", "I"]
    assert lines[4].endswith(' "bytes"')
    assert str(Logger.INFO) == "LogLevel.INFO"
    place = r"\d{4} \d\d:\d\d:\d\d\.\d{6} \d+ test_logger\.py:\d+\] "
    assert re.fullmatch(rf"I{place}" + r'"a \\"quoted\\"\\nline"', lines[0])
    assert all(re.match(rf".{place}", line) for line in lines)
