"""Which tests stay together where several processes run them: those that have the fixtures of one `conftest.py`."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from xdist.scheduler import LoadScopeScheduling

from tests.servers import ROOT

_FOLDERS = {path.parent.relative_to(ROOT).as_posix() for path in Path(__file__).parent.glob("*/**/conftest.py")}


class ByFixtures(LoadScopeScheduling):
    """Tests with the same nearest `conftest.py` run in one process, which starts its servers once; others by file."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        folders = (folder.as_posix() for folder in PurePosixPath(file).parents)
        return next((folder for folder in folders if folder in _FOLDERS), file)
