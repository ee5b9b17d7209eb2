"""Make the Debian package graph: interactions.parquet, items.parquet and queries.parquet.

Reads one Packages index (Debian bookworm, main, binary-amd64). A query is a package A. Its items are the packages that
A Pre-Depends on, Depends on, Recommends or Suggests. The same index gives the same bytes.
"""

import argparse
import gzip
import lzma
import math
import re
import shutil
import subprocess
from collections import Counter, defaultdict
from pathlib import Path
from urllib.parse import urlsplit

import polars as pl

Package = dict[str, str]  # the control fields of one package, e.g. {"Package": "libc6", "Section": "libs"}
Row = dict[str, str | int | list[str] | None]

APT_LISTS = Path("/var/lib/apt/lists")
APT_HELPER = Path("/usr/lib/apt/apt-helper")
INDEX_GLOB = "*_bookworm_main_binary-amd64_Packages*"

STRENGTH = {"Pre-Depends": 1.0, "Depends": 1.0, "Recommends": 0.7, "Suggests": 0.4}
LATER_ALTERNATIVE = 0.7  # in "a | b" the maintainer prefers a

# The first pattern that matches the start of a package's name wins.
ECOSYSTEMS = {
    "python": r"(python3?|pypy3?)-",
    "perl": r"(lib.*-perl|perl)$",
    "haskell": r"(lib)?ghc-",
    "go": r"golang-",
    "rust": r"librust-",
    "node": r"(node|libjs)-",
    "java": r"lib.*-(java|jni|clojure)$",
    "ruby": r"ruby-",
    "r": r"r-(cran|bioc|other|base)-",
    "php": r"php[0-9.]*-",
    "ocaml": r"lib.*-ocaml(-dev)?$",
    "emacs": r"elpa-",
    "mono": r"lib.*-cil(-dev)?$",
    "lua": r"lua-",
    "lisp": r"(cl|guile|chicken)-",
    "erlang": r"(erlang|elixir)-",
    "octave": r"octave-",
    "postgresql": r"postgresql-",
    "introspection": r"gir1\.2-",
    "qml": r"qml6?-module-",
    "gcc": r"(gcc|g\+\+|gfortran|gobjc|gobjc\+\+|gccgo|gdc|gnat|gm2|cpp|binutils)-",
    "apache": r"libapache2-mod-|apache2",
    "gnome": r"gnome-",
    "kde": r"(kde|plasma)-",
    "libreoffice": r"libreoffice",
    "mozilla": r"firefox|thunderbird|webext|xul-ext",
    "fonts": r"x?fonts-",
    "dictionary": r"(hunspell|aspell|myspell|hyphen|mythes|dict|tesseract-ocr)-",
    "linux": r"linux-",
    "tex": r"texlive",
    "task": r"task-",
    "lib-dev": r"lib.*-dev$",
    "lib": r"lib",
}
NAME_SUFFIX = re.compile(
    r"-(all|bin|cil|client|common|core|cross|data|dbg|dev|dkms|doc|el|examples|extra|gtk|java|l10n|perl|plugins?|prof|qt"
    r"|runtime|server|tests?|theme|tools|utils)$"
)
FACETS = {"role": "tag_role", "devel": "tag_devel", "implemented-in": "tag_implemented_in"}  # the rest share `tags`

MIN_PACKAGES = 3  # rarer words of the descriptions are dropped
MAX_SUMMARY_TOKENS = 8
STOP_WORDS = (
    "an and any are as at be by can for from has have in into is it its not of on or other over than that the their"
    " this to up used uses using via which with without you your"
)


def find_index() -> Path:
    """Return the only Packages index in apt's lists. Exits, with the command to run, if there is none or several."""
    found = sorted(APT_LISTS.glob(INDEX_GLOB))
    if not found:
        raise SystemExit(f"{APT_LISTS / INDEX_GLOB}: no such file; run: apt-get update, or give --packages PATH")
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise SystemExit(f"{APT_LISTS}: expected one index of bookworm main, found {names}; give --packages PATH")
    return found[0]


def read_index(path: Path) -> str:
    """Read the text of a Packages index, plain or compressed (.gz, .xz, .lz4)."""
    if not path.is_file():
        raise SystemExit(f"{path}: no such file; give --packages PATH")
    match path.suffix:
        case ".gz":
            content = gzip.decompress(path.read_bytes())
        case ".xz":
            content = lzma.decompress(path.read_bytes())
        case ".lz4":  # the standard library cannot read it
            if not APT_HELPER.exists() and shutil.which("lz4") is None:
                raise SystemExit(f"{path}: found neither {APT_HELPER} nor the lz4 command; run: apt-get install lz4")
            command = [str(APT_HELPER), "cat-file"] if APT_HELPER.exists() else ["lz4", "-dc"]
            content = subprocess.run([*command, str(path)], check=True, stdout=subprocess.PIPE).stdout
        case _:
            content = path.read_bytes()
    return content.decode()


def parse_index(text: str) -> dict[str, Package]:
    """Return the packages, sorted by name; of two versions of a package, the later stanza wins."""
    packages: dict[str, Package] = {}
    for stanza in text.strip().split("\n\n"):
        unfolded = re.sub(r"\n[ \t]+", " ", stanza.strip())
        fields = (line.partition(":") for line in unfolded.splitlines())
        package = {name: value.strip() for name, _, value in fields}
        if "Package" not in package:
            raise SystemExit(f"not a Packages index: expected stanzas with a Package field, found {stanza[:60]!r}")
        packages[package["Package"]] = package
    return dict(sorted(packages.items()))


def source_of(package: Package) -> str:
    """Return the name of the source package, without the version in parentheses."""
    return package.get("Source", package["Package"]).split(" ")[0]


def relation_names(field: str) -> list[list[str]]:
    """Return the names of a relation field by group of alternatives: "a (>= 1) | b, c:any" gives [[a, b], [c]]."""
    groups = (group.split("|") for group in field.split(",") if group.strip())
    return [[re.split(r"[\s(:\[<]", name.strip(), maxsplit=1)[0] for name in group] for group in groups]


def sole_providers(packages: dict[str, Package]) -> dict[str, str]:
    """Return the provider of each virtual package that has exactly one."""
    providers = defaultdict(set)
    for package in packages.values():
        for group in relation_names(package.get("Provides", "")):
            providers[group[0]].add(package["Package"])
    return {virtual: min(names) for virtual, names in providers.items() if len(names) == 1}


def make_interactions(packages: dict[str, Package]) -> pl.DataFrame:
    """Make the edges (query_id, item_id, weight, kind) between different sources, the heaviest for each pair."""
    providers = sole_providers(packages)
    heaviest: dict[tuple[str, str], tuple[float, str]] = {}
    for query, package in packages.items():
        for field, strength in STRENGTH.items():
            for group in relation_names(package.get(field, "")):
                for position, name in enumerate(group):
                    item = name if name in packages else providers.get(name)
                    if item is None or source_of(packages[item]) == source_of(package):
                        continue
                    weight = strength / math.sqrt(len(group)) * (LATER_ALTERNATIVE if position else 1.0)
                    if weight > heaviest.get((query, item), (0.0, ""))[0]:
                        heaviest[query, item] = (weight, field.lower())
    rows = [(query, item, weight, kind) for (query, item), (weight, kind) in sorted(heaviest.items())]
    schema = {"query_id": pl.String, "item_id": pl.String, "weight": pl.Float32, "kind": pl.String}
    return pl.DataFrame(rows, schema=schema, orient="row")


def summary_tokens(packages: dict[str, Package]) -> list[list[str]]:
    """Return the first words of each one-line description, sorted, without stop words and rare words."""
    words = [re.findall(r"[a-z][a-z+#]+", package["Description"].lower()) for package in packages.values()]
    carried = Counter(word for row in words for word in set(row))
    kept = {word for word, count in carried.items() if count >= MIN_PACKAGES} - set(STOP_WORDS.split())
    return [sorted([word for word in dict.fromkeys(row) if word in kept][:MAX_SUMMARY_TOKENS]) for row in words]


def feature_row(package: Package) -> Row:
    """Return the features of one package; a missing value is None, a missing list is empty."""
    name = package["Package"]
    host = (urlsplit(package.get("Homepage", "")).hostname or "").removeprefix("www.")
    suffix = NAME_SUFFIX.search(name)
    tags = [tag for tag in re.split(r",\s*", package.get("Tag", "")) if tag and not tag.endswith("TODO")]
    by_facet: dict[str, set[str]] = {column: set() for column in (*FACETS.values(), "tags")}
    for tag in tags:
        facet, _, value = tag.partition("::")
        by_facet[FACETS.get(facet, "tags")].add(value if facet in FACETS else tag)
    return {
        "item_id": name,
        "section": package["Section"],
        "maintainer": package["Maintainer"].rpartition(" <")[0].strip(' "'),
        "source": source_of(package),
        "arch": package["Architecture"],
        "multi_arch": package.get("Multi-Arch"),
        "homepage_host": host if "." in host else None,
        "ecosystem": next((label for label, pattern in ECOSYSTEMS.items() if re.match(pattern, name)), None),
        "name_suffix": suffix[1] if suffix else None,
        "installed_size": int(package["Installed-Size"]) if "Installed-Size" in package else None,
        "name_tokens": sorted(set(re.findall(r"[a-z]{2,}", name))),
        **{column: sorted(values) for column, values in by_facet.items()},
    }


def make_items(packages: dict[str, Package]) -> pl.DataFrame:
    """Make the catalogue, a row per package: item_id and its features."""
    single = "item_id section maintainer source arch multi_arch homepage_host ecosystem name_suffix"
    lists = ["name_tokens", *FACETS.values(), "tags", "summary_tokens"]
    schema = dict.fromkeys(single.split(), pl.String()) | {"installed_size": pl.Int32()}
    rows = [
        feature_row(package) | {"summary_tokens": tokens}
        for package, tokens in zip(packages.values(), summary_tokens(packages), strict=True)
    ]
    return pl.DataFrame(rows, schema=schema | dict.fromkeys(lists, pl.List(pl.String)))


def write(frame: pl.DataFrame, path: Path) -> None:
    """Write one row group at the highest zstd level, because readers read the whole file."""
    frame.write_parquet(path, compression_level=22, statistics=False, row_group_size=frame.height)
    print(f"{path}: {frame.height:,} rows, {path.stat().st_size:,} bytes")


def main() -> None:
    """Read the index, and make and write the three tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path, help=f"plain, .gz, .xz or .lz4. [default: {APT_LISTS / INDEX_GLOB}]")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path(__file__).parent,
        help="Folder to write. [default: the folder of this script]",
    )
    arguments = parser.parse_args()

    packages = parse_index(read_index(arguments.packages or find_index()))
    interactions = make_interactions(packages)
    items = make_items(packages)
    queries = items.rename({"item_id": "query_id"}).filter(pl.col("query_id").is_in(interactions["query_id"].implode()))

    arguments.output.mkdir(parents=True, exist_ok=True)
    write(interactions, arguments.output / "interactions.parquet")
    write(items, arguments.output / "items.parquet")
    write(queries, arguments.output / "queries.parquet")


if __name__ == "__main__":
    main()
