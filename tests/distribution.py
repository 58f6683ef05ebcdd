"""Which tests stay together where several processes run them: those that have the fixtures of one `conftest.py`."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from xdist.scheduler import LoadScopeScheduling

from tests.servers import ROOT

_FOLDERS = {path.parent.relative_to(ROOT).as_posix() for path in Path(__file__).parent.glob("*/**/conftest.py")}


class ByFixtures(LoadScopeScheduling):
    """Tests below a folder with fixtures run in one process, which starts each server once; the others go by file."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        outermost = [str(folder) for folder in PurePosixPath(file).parents if str(folder) in _FOLDERS][-1:]
        return outermost[0] if outermost else file
