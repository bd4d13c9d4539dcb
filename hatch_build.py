"""What the metadata of a release says about the public repository.

The address stands once, in pyproject.toml. While it is empty, the README goes into the metadata
as it is, and the project has no addresses. With it, the relative links of the README, which lead
nowhere on a package index, lead to the repository at the tag of the release.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

IMAGES = {".gif", ".jpeg", ".jpg", ".png", ".svg", ".webp"}
# Code, which stays as it is, or a target of Markdown or HTML that is relative.
CODE_OR_TARGET = re.compile(
    r"^ *```.*?^ *```|`[^`]+`"
    r"|(?P<before>\]\(|\b(?:href|src|srcset)=\"|^\[[^\]\n]+\]: *)"
    r"(?P<target>(?![a-z][a-z0-9+.-]*:|[/#])[^\s)\"]+)",
    re.MULTILINE | re.DOTALL,
)


def with_absolute_links(text: str, repository: str, tag: str) -> str:
    """The Markdown, with every relative target as an address of the repository at that tag."""

    def absolute(match: re.Match[str]) -> str:
        target = match["target"]
        if target is None:
            return match[0]
        kind = "raw" if PurePosixPath(target).suffix.lower() in IMAGES else "blob"
        return f"{match['before']}{repository}/{kind}/{tag}/{target.removeprefix('./')}"

    return CODE_OR_TARGET.sub(absolute, text)


class RepositoryHook(MetadataHookInterface):
    """Sets ``readme`` and ``urls``, which pyproject.toml lists as dynamic."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Called by hatchling, which has set ``version`` before."""
        repository = self.config["repository"].rstrip("/")
        readme = Path(self.root, "README.md").read_text(encoding="utf-8")
        urls = {}
        if repository:
            tag = f"v{metadata['version']}"
            readme = with_absolute_links(readme, repository, tag)
            urls = {
                "Source": repository,
                "Documentation": f"{repository}/tree/{tag}/docs",
                "Changelog": f"{repository}/blob/{tag}/CHANGELOG.md",
                "Issues": f"{repository}/issues",
            }
        metadata["readme"] = {"content-type": "text/markdown", "text": readme}
        metadata["urls"] = urls
