"""What is made of the address of the repository, and what a release must agree in."""

import re
import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hatchling.metadata.core import ProjectMetadata
from hatchling.plugin.manager import PluginManager

ROOT = Path(__file__).parents[2]
ADDRESS = "https://example.org/owner/loopml"
AT_TAG = f"{ADDRESS}/blob/v1.2.3"
CONSTANT = 'repository = ""'
# What hatchling and the notes of a release read.
FILES = (
    "CHANGELOG.md",
    "LICENSE",
    "README.md",
    "hatch_build.py",
    "pyproject.toml",
    "src/loopml/__init__.py",
)
needs_tomllib = pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib is of Python 3.11")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of version 1.2.3, without an address."""
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    replace(tmp_path / "src/loopml/__init__.py", r'^(__version__ = ").*"$', r'\g<1>1.2.3"')
    replace(tmp_path / "pyproject.toml", r'^repository = ".*"$', CONSTANT)
    return tmp_path


def replace(path: Path, pattern: str, replacement: str) -> None:
    """Replace what the pattern matches, which is there once."""
    text, found = re.subn(pattern, replacement, path.read_text("utf-8"), flags=re.MULTILINE)
    assert found == 1
    path.write_text(text, "utf-8")


def publish(project: Path) -> None:
    """Write the address where CONTRIBUTING.md says that it goes."""
    replace(project / "pyproject.toml", f"^{CONSTANT}$", f'repository = "{ADDRESS}"')


def metadata_of(project: Path) -> Any:
    """The core metadata, as hatchling writes them into a wheel."""
    return ProjectMetadata(str(project), PluginManager()).core


def targets_in(text: str) -> list[str]:
    """The targets of links and images, outside of blocks of code."""
    prose, code = [], False
    for line in text.splitlines():
        code ^= line.lstrip().startswith("```")
        prose.append("" if code else line)
    return re.findall(r"\]\(([^)\s]+)|(?:src|href|srcset)=\"([^\"\s]+)", "\n".join(prose))


def test_without_an_address(project: Path) -> None:
    """No addresses of the project, and the README as it is."""
    core = metadata_of(project)
    assert core.urls == {}
    assert core.readme == (ROOT / "README.md").read_text("utf-8")
    assert core.readme_content_type == "text/markdown"


def test_with_an_address(project: Path) -> None:
    """Addresses of the project, and no relative target in the README."""
    publish(project)
    core = metadata_of(project)
    assert core.urls == {
        "Source": ADDRESS,
        "Documentation": f"{ADDRESS}/tree/v1.2.3/docs",
        "Changelog": f"{AT_TAG}/CHANGELOG.md",
        "Issues": f"{ADDRESS}/issues",
    }
    targets = ["".join(target) for target in targets_in(core.readme)]
    assert len(targets) == len(targets_in((ROOT / "README.md").read_text("utf-8")))
    assert [target for target in targets if not target.startswith(("https://", "#"))] == []


def test_nothing_else_is_dynamic(project: Path) -> None:
    """The metadata of the sdist say all that those of the wheel do."""
    assert metadata_of(project).dynamic == []


SAME = (
    "[a](https://x.org/a.md), [b](#use), [c](mailto:a@b.c), [d](//x.org/d.md), [e](/e.md)",
    "`table[key](docs/a.md)` and `lines\n[of](code)`",
    "```python\ntable[key](value)\n```",
    "  ```md\n  [a](docs/a.md)\n  ```",
)
CHANGED = {
    "[a](docs/a.md), [b](b.md#part)": f"[a]({AT_TAG}/docs/a.md), [b]({AT_TAG}/b.md#part)",
    "[`a`](docs/a.md 'title')": f"[`a`]({AT_TAG}/docs/a.md 'title')",
    "![a](./docs/a.PNG)": f"![a]({ADDRESS}/raw/v1.2.3/docs/a.PNG)",
    '<a href="LICENSE"><img src="a.svg"></a>': (
        f'<a href="{AT_TAG}/LICENSE"><img src="{ADDRESS}/raw/v1.2.3/a.svg"></a>'
    ),
    "[![a](a.png)](b.md)": f"[![a]({ADDRESS}/raw/v1.2.3/a.png)]({AT_TAG}/b.md)",
    "[a]: docs/a.md": f"[a]: {AT_TAG}/docs/a.md",
    "```\ncode\n```\n[a](b.md)": f"```\ncode\n```\n[a]({AT_TAG}/b.md)",
}


@pytest.mark.parametrize(("text", "expected"), [*((text, text) for text in SAME), *CHANGED.items()])
def test_links_of_a_readme(project: Path, text: str, expected: str) -> None:
    """What is relative becomes an address of the tag; code and addresses stay."""
    publish(project)
    (project / "README.md").write_text(text, "utf-8")
    assert metadata_of(project).readme == expected


def dated(project: Path) -> None:
    """Give the changelog a section of the release, before an older one."""
    new = "## [1.2.3] - 2030-01-31\n\n### Added\n\n- One\n  thing.\n- More.\n"
    old = "## [1.2.2] - 2030-01-30\n\n- Old.\n"
    (project / "CHANGELOG.md").write_text(
        f"# Changelog\n\n## [Unreleased]\n\n{new}\n{old}", "utf-8"
    )


def undated(project: Path) -> None:
    """The section as it stands before the release."""
    replace(project / "CHANGELOG.md", "2030-01-31", "unreleased")


def empty(project: Path) -> None:
    """A section in which nothing stands."""
    replace(project / "CHANGELOG.md", r"^### Added\n\n- One\n  thing\.\n- More\.\n", "")


def before_the_release(project: Path) -> None:
    """The version of a commit between two releases."""
    replace(project / "src/loopml/__init__.py", "1.2.3", "1.2.3.dev0")


@pytest.fixture
def release_notes() -> Callable[..., str]:
    """What prints the notes, as the workflow runs it."""
    return runpy.run_path(str(ROOT / ".github" / "release_notes.py"))["release_notes"]


@needs_tomllib
def test_notes_of_a_release(project: Path, release_notes: Callable[..., str]) -> None:
    """The section without its heading and without the next section, and a line for each entry."""
    publish(project)
    dated(project)
    assert release_notes(project, "v1.2.3", ADDRESS) == "### Added\n\n- One thing.\n- More."


@needs_tomllib
@pytest.mark.parametrize(
    ("spoil", "tag", "address", "message"),
    [
        (None, "v1.2.4", ADDRESS, "the tag is v1.2.4, and __version__ is 1.2.3"),
        (None, "1.2.3", ADDRESS, "the tag is 1.2.3"),
        (before_the_release, "v1.2.3.dev0", ADDRESS, "__version__ is 1.2.3.dev0"),
        (None, "v1.2.3", f"{ADDRESS}-fork", "repository in pyproject.toml is 'https://example"),
        (undated, "v1.2.3", ADDRESS, r"no section '## \[1.2.3\] - YYYY-MM-DD'"),
        (empty, "v1.2.3", ADDRESS, "no section"),
    ],
)
def test_no_release_of_what_disagrees(
    project: Path,
    release_notes: Callable[..., str],
    spoil: Callable[[Path], None] | None,
    tag: str,
    address: str,
    message: str,
) -> None:
    """The tag, the version, the address and the changelog are of one release."""
    publish(project)
    dated(project)
    if spoil is not None:
        spoil(project)
    with pytest.raises(SystemExit, match=message):
        release_notes(project, tag, address)


USES = re.compile(r"^\s*-?\s*uses: (\S+)(.*)$", re.MULTILINE)


@pytest.mark.parametrize("path", sorted(ROOT.glob(".github/workflows/*.yml")), ids=lambda p: p.name)
def test_actions_are_pinned(path: Path) -> None:
    """By the hash of a commit, which nobody can move, with its version beside it for readers."""
    uses = USES.findall(path.read_text("utf-8"))
    assert uses
    for action, comment in uses:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action), action
        assert re.fullmatch(r" # v\d+\.\d+\.\d+", comment), f"{action} has no version beside it"


def test_headings_of_the_changelog() -> None:
    """Unreleased, then releases with the newest first; a date may be missing from that alone."""
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    first, *releases = re.findall(r"^## (.*)$", changelog, re.MULTILINE)
    assert first == "[Unreleased]"
    found = [re.fullmatch(r"\[(\d+)\.(\d+)\.(\d+)\] - (.+)", release) for release in releases]
    assert None not in found
    versions = [tuple(map(int, match.groups()[:3])) for match in found if match]
    assert versions == sorted(versions, reverse=True)
    for place, match in enumerate(match for match in found if match):
        assert re.fullmatch(r"\d{4}-\d\d-\d\d" + "|unreleased" * (place == 0), match[4])
