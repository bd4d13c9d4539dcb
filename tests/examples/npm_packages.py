"""Packages as npm packs them, made small by tests."""

import io
import json
import re
import tarfile
from pathlib import Path
from typing import Any


def pack(folder: Path, spec: str, members: dict[str, Any]) -> None:
    """Write the archive of a package: text as it is, anything else as JSON."""
    name = re.sub("[@/]+", "-", spec).lstrip("-")
    with tarfile.open(folder / f"{name}.tgz", "w:gz") as archive:
        for member, content in members.items():
            data = (content if isinstance(content, str) else json.dumps(content)).encode()
            info = tarfile.TarInfo(f"package/{member}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
