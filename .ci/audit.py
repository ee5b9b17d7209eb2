"""Look for known vulnerabilities of the installed packages, and count the packages looked up: `make audit`.

pip-audit exits with 0 if it could look up nothing, as behind a mirror without advisories; here that is a warning.
"""

import json
import subprocess
import sys
from typing import Any


def verdict(text: str, reason: str) -> tuple[int, list[str]]:
    """Return exit code and lines for pip-audit's output: 1 for a hole, 0 with a warning for packages not looked up."""
    try:
        found: list[dict[str, Any]] = json.loads(text)["dependencies"]
    except (ValueError, KeyError, TypeError):
        return 0, [f"WARNING: nothing was audited: {(reason.strip().splitlines() or ['no answer'])[-1]}"]
    known = [entry for entry in found if "skip_reason" not in entry]
    holes = [
        f"{entry['name']} {entry['version']}: {hole['id']}, mended in {', '.join(hole['fix_versions']) or 'no version'}"
        for entry in known
        for hole in entry["vulns"]
    ]
    blind = [str(entry["name"]) for entry in found if "skip_reason" in entry]
    said = [f"{len(known)} of {len(found)} packages were looked up, {len(holes)} known holes", *holes]
    if blind:
        said.append(f"WARNING: could not be looked up: {', '.join(blind)}")
    return int(bool(holes)), said


def main() -> int:
    """Run pip-audit on the packages of this Python."""
    command = [sys.executable, "-m", "pip_audit", "--skip-editable", "--progress-spinner", "off", "-f", "json"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        code, said = verdict(done.stdout, done.stderr)
    except subprocess.TimeoutExpired:
        code, said = verdict("", "no answer in five minutes")
    print("\n".join(said))
    return code


if __name__ == "__main__":
    sys.exit(main())
