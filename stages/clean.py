"""Remove from a run folder what no manifest entry names and no command needs any more."""

from typing import Annotated

import typer

from . import console, contract, generations, manifest, options, publish
from .checkpoints import FOLDER, NAME, led_to
from .errors import SettingsError


def clean(
    run: options.RunOption = options.DEFAULT_RUN,
    config: options.ConfigOption = None,  # noqa: ARG001 (gives the defaults of the others)
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, and leave it.")] = False,
) -> None:
    """Remove half-written files, what a killed publication set aside, and the checkpoints of a training that is done.

    Only files that this tool wrote, by their names, in the run folder's own folders; it follows no link.
    """
    if not (run / manifest.NAME).is_file():
        raise SettingsError(f"--run {run}: is no run folder, for it has no {manifest.NAME}", "RUN")
    with publish.lock(run):
        told = manifest.read(run)
        going = publish.temporaries(run)
        for part, stage in contract.TRAININGS.items():
            folder, entry = run / part / FOLDER, told["stages"].get(stage)
            if (
                entry is None
                or not manifest.is_whole(run, entry)
                or folder.is_symlink()
                or (run / part).is_symlink()
                or not folder.is_dir()
            ):
                continue
            found = [
                path
                for path in folder.iterdir()
                if NAME.fullmatch(path.name) and path.is_file() and not path.is_symlink()
            ]
            going += [path for path in sorted(found) if led_to(path, entry)]
        aside = run / generations.FOLDER
        if aside.exists() or aside.is_symlink():
            going.append(aside)
        if not dry_run:
            generations.settle(run, told)
            for path in going:
                path.unlink(missing_ok=True)
        for path in going:
            said = f"{'would remove' if dry_run else 'removed'} {console.printable(str(path))}"
            console.out.print(said, soft_wrap=True)
        console.line(f"{'clean':<26} {len(going):,} {'would go' if dry_run else 'removed'}")
