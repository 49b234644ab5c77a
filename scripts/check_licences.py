"""Check the licences of everything that the default installs bring: no GPL, and nothing that this file does not name.

    python -m scripts.check_licences            # mmenv[all]: what `make test` installs
    python -m scripts.check_licences agents     # what `make demo` installs

Exits with 1 and names the packages whose licence is not in ``ALLOWED``. Packages of requirements-models.txt may be
installed beside them: they belong to no extra and are not looked at.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

# Licences as packages write them; compound expressions are split at AND, OR, WITH, commas and semicolons.
ALLOWED = set(
    """
    0BSD
    3-Clause BSD License
    Apache 2.0
    Apache 2.0 License
    Apache Software License
    Apache-2.0
    BSD
    BSD License
    BSD-2-Clause
    BSD-3-Clause
    BSL-1.0
    CC0-1.0
    CNRI-Python
    DFSG approved
    FreeBSD
    ISC
    ISC License (ISCL)
    LLVM-exception
    MIT
    MIT License
    MIT-0
    MIT-CMU
    MPL-2.0
    Mozilla Public License 2.0 (MPL 2.0)
    PSF-2.0
    Python Software Foundation License
    Unlicense
    University of Illinois/NCSA Open Source License
    Zlib
    """.strip().split("\n    ")
)
# Packages with another licence, or whose metadata is silent, and why each may come.
EXCEPTIONS = {
    "psycopg": "LGPL-3.0: the driver for PostgreSQL, an unmodified library of its own",
    "psycopg-binary": "LGPL-3.0: the driver for PostgreSQL, an unmodified library of its own",
    "pygame": "LGPL: opens the window of render_mode='human', an unmodified library of its own",
    "torchrl": "MIT by its LICENSE file",
    "pycocoevalcap": "BSD-2-Clause by its license.txt",
}


def closure(extras: set[str]) -> set[str]:
    """Canonical names of all installed packages that ``mmenv[extras]`` requires, mmenv itself left out."""
    pending = [("mmenv", frozenset(extras))]
    seen: set[tuple[str, frozenset[str]]] = set()
    while pending:
        name, wanted = pending.pop()
        if (name, wanted) in seen:
            continue
        seen.add((name, wanted))
        try:
            requirements = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue  # of another platform, or of an extra that is not installed
        for line in requirements:
            requirement = Requirement(line)
            environments = [{"extra": extra} for extra in wanted or {""}]
            if requirement.marker is None or any(requirement.marker.evaluate(env) for env in environments):
                pending.append((canonicalize_name(requirement.name), frozenset(requirement.extras)))
    return {name for name, _ in seen} - {"mmenv"}


def licences(packages: set[str]) -> dict[str, str]:
    """Licence of each installed package among ``packages``, as pip-licenses reads it from its metadata."""
    command = [sys.executable, "-m", "piplicenses", "--format=json", "--with-system", "--packages", *sorted(packages)]
    rows = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return {canonicalize_name(row["Name"]): row["License"] for row in rows}


def refused(found: dict[str, str]) -> dict[str, str]:
    """The packages with a licence that is neither in ``ALLOWED`` nor excused, with their licences."""
    return {name: licence for name, licence in found.items() if name not in EXCEPTIONS and not allowed(licence)}


def allowed(licence: str) -> bool:
    """Whether every part of a licence expression is in ``ALLOWED``."""
    if licence in ALLOWED:
        return True
    parts = re.split(r"\s+(?:AND|OR|WITH)\s+|[;,]", licence)
    return all(part.strip(" ()") in ALLOWED for part in parts)


def main() -> None:
    extras = set(sys.argv[1:] or ["all"])
    found = licences(closure(extras))
    bad = refused(found)
    for name, licence in sorted(bad.items()):
        print(f"{name}: {licence}", file=sys.stderr)
    if bad:
        raise SystemExit(f"{len(bad)} packages of mmenv[{','.join(sorted(extras))}] have licences outside ALLOWED")
    excused = ", ".join(sorted(set(found) & set(EXCEPTIONS))) or "none"
    print(f"mmenv[{','.join(sorted(extras))}]: {len(found)} packages, no GPL; excused by name: {excused}")


if __name__ == "__main__":
    main()
