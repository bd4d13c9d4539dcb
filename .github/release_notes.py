"""Prints the section of the changelog for a tag, if all that names the release agrees.

The release workflow runs ``python .github/release_notes.py TAG ADDRESS``, with the address of
the repository.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import tomllib

ROOT = Path(__file__).resolve().parents[1]


def release_notes(root: Path, tag: str, address: str) -> str:
    """The section; exits with what disagrees with the tag or with the address."""
    module = Path(root, "src", "loopml", "__init__.py").read_text(encoding="utf-8")
    (version,) = re.findall(r'^__version__ = "(.+)"$', module, re.MULTILINE)
    if tag != f"v{version}" or not re.fullmatch(r"\d+\.\d+\.\d+", version):
        sys.exit(f"the tag is {tag}, and __version__ is {version}: want vX.Y.Z and X.Y.Z")
    project = tomllib.loads(Path(root, "pyproject.toml").read_text(encoding="utf-8"))
    repository = project["tool"]["hatch"]["metadata"]["hooks"]["custom"]["repository"]
    if repository != address:
        sys.exit(f"repository in pyproject.toml is {repository!r}, and this is {address!r}")
    changelog = Path(root, "CHANGELOG.md").read_text(encoding="utf-8")
    heading = rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d$"
    section = re.search(heading + r"(.*?)(?=^## |\Z)", changelog, re.MULTILINE | re.DOTALL)
    if section is None or not section[1].strip():
        sys.exit(f"CHANGELOG.md has no section '## [{version}] - YYYY-MM-DD'")
    # The page of a release shows each line break, so an entry becomes one line.
    return re.sub(r"(?<=\S)\n *(?=[^\s#-])", " ", section[1].strip())


if __name__ == "__main__":
    print(release_notes(ROOT, *sys.argv[1:]))
