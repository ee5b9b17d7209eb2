"""Check the rules of the code's layout, and print its sizes: `make check`.

Usage: python .ci/house.py [ROOT]

A job is a stage directly in stages/; a wing is a package there. The check fails on: an import circle among all modules
(imports inside functions, under TYPE_CHECKING and by importlib count), a job or a wing that imports a job, a name of a
run-folder file outside layout.py, a parameter `settings` of type dict[str, Any], a file over 300 lines, a function over
60 lines. ROOT may be a tree of version 0.2.0, to compare the sizes.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

PACKAGES = ("ssl_recall", "stages")
LINES, FUNCTION_LINES = 300, 60
HALL = {"cli", "options", "pipeline", "planning"}  # modules directly in stages/ that are no job
COLUMN_NAMES = {"values", "column", "lists", "plain"}  # names of parameters that take a feature column


def modules(root: Path) -> dict[str, Path]:
    """Map each module of the two packages to its file."""
    found = {}
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(name: str, tree: ast.Module, known: dict[str, Path]) -> set[str]:
    """List the modules of the two packages that a module imports, at its top or inside functions."""
    is_package = known[name].name == "__init__.py"
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = name.split(".")
            base = parts[: len(parts) - node.level + is_package] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                found.add(f"{module}.{alias.name}" if f"{module}.{alias.name}" in known else module)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            found |= dynamic(name, known)
    return {module for module in found if module in known and module != name}


def dynamic(name: str, known: dict[str, Path]) -> set[str]:
    """List the modules that importlib loads: the commands of pipeline.py, or all of stages/ if it is missing."""
    pipeline = known.get("stages.pipeline")
    if pipeline is None:
        return {module for module in known if module.count(".") == 1 and module.startswith("stages.")} - {name}
    calls = [node for node in ast.walk(ast.parse(pipeline.read_text())) if isinstance(node, ast.Call)]
    listed = [call.args[1] for call in calls if ast.unparse(call.func) == "Command"]
    return {f"stages.{one.value}" for one in listed if isinstance(one, ast.Constant)}


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Find the strongly connected parts of more than one module (Tarjan, SIAM J. Comput. 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(graph[node]):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            part = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(part) > 1:
                found.append(sorted(part))

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return found


def jobs_of(known: dict[str, Path]) -> set[str]:
    """List the jobs: the modules directly in stages/ that define a function of their own name."""
    found = set()
    for name, path in known.items():
        parts = name.split(".")
        if len(parts) == 2 and parts[0] == "stages" and parts[1] not in HALL:
            functions = {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}
            found |= {name} if parts[1] in functions else set()
    return found


def file_names(known: dict[str, Path]) -> set[str]:
    """Read the names of the run folder's files from the text constants of layout.py."""
    layout = known.get("stages.run_folder.layout") or known["stages.contract"]
    texts = {node.value for node in ast.walk(ast.parse(layout.read_text())) if isinstance(node, ast.Constant)}
    return {text for text in texts if isinstance(text, str) and text.endswith((".parquet", ".json", ".safetensors"))}


def docstrings(tree: ast.Module) -> set[int]:
    """Collect the ids of the docstring nodes."""
    holders = (ast.Module, ast.FunctionDef, ast.ClassDef)
    bodies = [node.body for node in ast.walk(tree) if isinstance(node, holders) and node.body]
    return {id(body[0].value) for body in bodies if isinstance(body[0], ast.Expr)}


def problems(name: str, tree: ast.Module, path: Path, names: set[str]) -> Iterator[str]:
    """List the rules that one module breaks by itself."""
    count = len(path.read_text().splitlines())
    if count > LINES:
        yield f"{path}: {count} lines, at most {LINES}"
    texts = docstrings(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            size = (node.end_lineno or node.lineno) - node.lineno + 1
            if size > FUNCTION_LINES:
                yield f"{path}:{node.lineno}: {node.name} has {size} lines, at most {FUNCTION_LINES}"
            for one in (*node.args.args, *node.args.kwonlyargs):
                if one.arg == "settings" and one.annotation and "dict[str, Any]" in ast.unparse(one.annotation):
                    yield f"{path}:{node.lineno}: {node.name} takes settings as dict[str, Any]"
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in texts:
            named = [file for file in names if file in node.value] or re.findall(r"\w+\.parquet$", node.value)
            if named and not name.endswith((".layout", ".contract")):
                yield f"{path}:{node.lineno}: names {min(named, key=len)}, which only layout.py does"


def rooms(graph: dict[str, set[str]], trees: dict[str, ast.Module], entry: str) -> list[str]:
    """List the modules that a job imports, directly or not, in which a function takes a feature column."""
    reached: set[str] = set()
    waiting = [entry]
    while waiting:
        module = waiting.pop()
        if module not in reached:
            reached.add(module)
            waiting += graph[module]
    functions = {m: [n for n in ast.walk(trees[m]) if isinstance(n, ast.FunctionDef)] for m in reached}
    return sorted(m for m in reached if any(takes_column(function) for function in functions[m]))


def takes_column(node: ast.FunctionDef) -> bool:
    """Tell whether a function takes a feature column, its declaration, or the table that it is read from."""
    for one in node.args.args:
        text = ast.unparse(one.annotation).strip("'\"").rpartition(".")[2] if one.annotation else ""
        if text in {"Column", "Feature", "Table"} or (text == "Series" and one.arg in COLUMN_NAMES):
            return True
    return False


def last(call: ast.Call) -> str:
    """Return the last part of a call's name."""
    return ast.unparse(call.func).rpartition(".")[2]


def handovers(trees: dict[str, ast.Module]) -> int:
    """Count the calls in which `_side` passes a column, or its declaration, to another module."""
    homes = [(name, n) for name, tree in trees.items() for n in tree.body if getattr(n, "name", "") == "_side"]
    if not homes:
        return 0
    home, side = homes[0]
    own = {node.name for node in trees[home].body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    builtins = {"getattr", "range", "len", "isinstance", "replace", "append", "alias", "str", "is_sorted", "arg_sort"}
    return sum(isinstance(n, ast.Call) and last(n) not in own | builtins for n in ast.walk(side))


def main() -> int:
    """Print the sizes and every broken rule; return 1 if there is one."""
    root = Path(sys.argv[1]) if sys.argv[1:] else Path(__file__).parents[1]
    known = modules(root)
    trees = {name: ast.parse(path.read_text()) for name, path in known.items()}
    graph = {name: imported(name, tree, known) for name, tree in trees.items()}
    jobs, names = jobs_of(known), file_names(known)
    broken = [f"import circle: {' - '.join(part)}" for part in circles(graph)]
    for name in sorted(graph):
        wanted = graph[name] & jobs
        if name in jobs:
            broken += [f"{known[name]}: the job imports the job {other}" for other in sorted(wanted)]
        elif name.count(".") > 1:
            broken += [f"{known[name]}: the wing imports the job {other}" for other in sorted(wanted)]
        broken += problems(name, trees[name], known[name], names)
    hall = [
        name for name in known if name.startswith("stages.") and name.count(".") == 1 and known[name].stem != "__init__"
    ]
    print(f"modules directly in stages/: {len(hall)} (jobs: {len(jobs)}); modules in all: {len(known)}")
    for job in ("prepare", "export_embeddings"):
        passed = rooms(graph, trees, f"stages.{job}")
        print(f"modules that {job} needs and that take a feature column: {len(passed)} ({', '.join(passed)})")
    print(f"calls in which _side passes a column to another module: {handovers(trees)}")
    print(f"{len(broken)} rules broken", *broken, sep="\n  ")
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
