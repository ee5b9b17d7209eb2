"""Remove the files of a run folder that no manifest entry names and no command needs."""

from typing import Annotated

import typer

from stages.learning.checkpoints import NAME, led_to
from stages.options import RunFolder
from stages.run_folder import atomic_files, layout, lock, manifest, previous_files
from stages.terminal import console
from stages.terminal.errors import SettingsError


def clean(
    folder: RunFolder,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the files to remove; remove none.")] = False,
) -> None:
    """Remove half-written files, the previous files of a killed publication, and checkpoints of finished trainings.

    Reads manifest.json. Removes only files with this tool's names in the run folder; follows no link.
    """
    run = folder.run
    if not (run / layout.MANIFEST).is_file():
        raise SettingsError(f"--run {run}: is no run folder, it has no {layout.MANIFEST}", "RUN")
    with lock.acquire(run):
        contents = manifest.read(run)
        going = atomic_files.temporaries(run)
        for part, stage in layout.TRAININGS.items():
            kept, entry = run / part / layout.CHECKPOINTS_FOLDER, contents["stages"].get(stage)
            if (
                entry is None
                or not manifest.is_whole(run, entry)
                or kept.is_symlink()
                or (run / part).is_symlink()
                or not kept.is_dir()
            ):
                continue
            found = [
                path
                for path in kept.iterdir()
                if NAME.fullmatch(path.name) and path.is_file() and not path.is_symlink()
            ]
            going += [path for path in sorted(found) if led_to(path, entry)]
        aside = run / layout.PREVIOUS
        if aside.exists() or aside.is_symlink():
            going.append(aside)
        if not dry_run:
            previous_files.settle(run, contents)
            for path in going:
                path.unlink(missing_ok=True)
        for path in going:
            said = f"{'would remove' if dry_run else 'removed'} {console.printable(str(path))}"
            console.out.print(said, soft_wrap=True)
        console.line(f"{'clean':<26} {len(going):,} {'would be removed' if dry_run else 'removed'}")
