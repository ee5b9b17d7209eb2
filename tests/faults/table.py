"""Write the last column of the table in README.md from the names of the tests; with --check compare it."""

import ast
import re
import sys
from pathlib import Path

HERE = Path(__file__).parent
TESTS = HERE.parent
PAGE = HERE / "README.md"
FAULT = re.compile(r"^\| (F\d\d) \| (.*?) \| (.*?) \|")


def tests_of() -> dict[str, list[str]]:
    """Return the tests of each fault: `test_f01_f12_...` tests both F01 and F12."""
    found: dict[str, list[str]] = {}
    for path in sorted(TESTS.rglob("test_*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and (named := re.match(r"test((_f\d\d)+)_", node.name)):
                for number in named[1].split("_f")[1:]:
                    found.setdefault(f"F{number}", []).append(
                        f"`{path.relative_to(TESTS)}`: {node.name.removeprefix('test_')}"
                    )
    return found


def page(text: str) -> str:
    """Put the tests into the last column of the table's rows."""
    tests = tests_of()
    lines = []
    for line in text.splitlines():
        if row := FAULT.match(line):
            number, fault, expected = row.groups()
            lines.append(f"| {number} | {fault} | {expected} | {'<br>'.join(tests.get(number, ['none']))} |")
        else:
            lines.append(line)
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write the page, or check that it is up to date; return 1 if it is not or a fault has no test."""
    before = PAGE.read_text()
    after = page(before)
    if "--check" not in sys.argv:
        PAGE.write_text(after)
    missing = [f"F{number:02d}" for number in range(1, 47) if f"F{number:02d}" not in tests_of()]
    if missing:
        print(f"no test: {', '.join(missing)}")
    return int(bool(missing) or ("--check" in sys.argv and before != after))


if __name__ == "__main__":
    sys.exit(main())
