"""After edits, runs, kills, touches and damage in any order, the next nightly run repairs the run folder."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import polars as pl
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from stages.run_folder import layout

from .commands import call, content

STAGES = ("prepare", "compute-popularity", "compute-mi", "build-views")
KILLABLE = """
import os, signal, sys, threading
threading.Timer(float(sys.argv.pop()), os.kill, (os.getpid(), signal.SIGKILL)).start()
from stages.cli import main
main()
"""


@pytest.fixture
def of_the_shop(prepared_shop: Path) -> type[RuleBasedStateMachine]:
    """Return the state machine on copies of the shop."""

    class Nights(RuleBasedStateMachine):
        """The events that a run folder may meet between two nights."""

        def __init__(self) -> None:
            super().__init__()
            self.before = Path.cwd()
            self.folder = Path(tempfile.mkdtemp()) / "shop"
            shutil.copytree(prepared_shop, self.folder)
            os.chdir(self.folder)

        def teardown(self) -> None:
            os.chdir(self.before)
            shutil.rmtree(self.folder.parent)

        @rule(rows=st.integers(150, 240))
        def edit(self, rows: int) -> None:
            pl.read_parquet("log.parquet").head(rows).write_parquet("log.parquet")

        @rule(stage=st.sampled_from(STAGES), flags=st.sampled_from([(), ("--force",)]))
        def run_one(self, stage: str, flags: tuple[str, ...]) -> None:
            ended = call(stage, *flags)
            assert ended.returncode in (0, 4), ended.said
            assert ended.returncode == 0 or "run: ssl-recall " in ended.said

        @rule(stage=st.sampled_from(STAGES), moment=st.floats(0.2, 1.2))
        def kill(self, stage: str, moment: float) -> None:
            program = [sys.executable, "-c", KILLABLE, stage, "--force", str(moment)]
            subprocess.run(program, check=False, capture_output=True)

        @rule(data=st.data())
        def damage(self, data: st.DataObject) -> None:
            paths = sorted(path for path in Path("run").glob("*.parquet") if path.stat().st_size)
            path = data.draw(st.sampled_from(paths))
            text = bytearray(path.read_bytes())
            text[data.draw(st.integers(0, len(text) - 1))] ^= 1 << data.draw(st.integers(0, 7))
            path.write_bytes(text)

        @rule(data=st.data())
        def touch_or_lose(self, data: st.DataObject) -> None:
            path = data.draw(st.sampled_from(sorted(Path("run").glob("*.parquet"))))
            os.utime(path) if data.draw(st.booleans()) else path.unlink()

        @rule()
        def night(self) -> None:
            for stage in STAGES:
                ended = call(stage)
                assert ended.returncode == 0, ended.said
            for stage in STAGES:
                ended = call(stage, "--run", "fresh")
                assert ended.returncode == 0, ended.said
            own, fresh = content(Path("run")), content(Path("fresh"))
            del own[layout.MANIFEST], fresh[layout.MANIFEST]
            assert own == fresh
            shutil.rmtree("fresh")

        @invariant()
        def nothing_is_half_there(self) -> None:
            assert call("status").returncode == 0

    return Nights


def test_whatever_befell_it_the_next_night_gives_what_a_fresh_folder_gives(
    of_the_shop: type[RuleBasedStateMachine],
) -> None:
    few = settings(max_examples=12, stateful_step_count=10, deadline=None)
    run_state_machine_as_test(of_the_shop, settings=few)
