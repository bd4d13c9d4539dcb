"""How the documentation is built: `sphinx-build -n -W --keep-going docs docs/_build/html`."""

from __future__ import annotations

import doctest
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomllib
from docutils import nodes
from markupsafe import escape
from pytorch_metric_learning.losses import BaseMetricLossFunction
from pytorch_metric_learning.miners import BaseMiner
from sphinx.ext.intersphinx import missing_reference
from sphinx.util import logging

import loopml
from loopml.host import HostMiner
from loopml.losses.mined import MinedLoss, MiningLoss

if TYPE_CHECKING:
    from sphinx.addnodes import pending_xref
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

DOCS = Path(__file__).resolve().parent
EXAMPLES = DOCS.parent / "examples"

# Two scripts of the gallery train on the glyphs.
sys.path.insert(0, str(EXAMPLES))

# Sphinx reads pages below docs/ alone. Copied only if it changed, so that it is not read again.
NOTEBOOK = DOCS / "five_minutes.ipynb"
if not NOTEBOOK.exists() or NOTEBOOK.read_bytes() != (EXAMPLES / NOTEBOOK.name).read_bytes():
    shutil.copyfile(EXAMPLES / NOTEBOOK.name, NOTEBOOK)

project = "loopml"
author = copyright = "The loopml authors"
version = release = loopml.__version__

# Links from each page to its source, once pyproject.toml has the address of the repository.
pyproject = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8"))
repository = pyproject["tool"]["hatch"]["metadata"]["hooks"]["custom"]["repository"]
source_links = {
    "source_repository": repository,
    "source_branch": "main",
    "source_directory": "docs/",
}
html_theme_options = source_links if repository else {}

extensions = [
    "myst_nb",  # pages in Markdown, and the notebook
    "sphinx.ext.autodoc",
    "sphinx.ext.doctest",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
    "sphinx-mathjax-offline",
]
exclude_patterns = ["_build", "gallery", "figures", "auto_gallery/*.ipynb"]
templates_path = ["_templates"]
html_theme = "furo"
html_title = "loopml"
html_favicon = "_static/favicon.svg"
html_static_path = ["_static"]
html_css_files = ["loopml.css"]
html_show_sphinx = False

myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
myst_dmath_double_inline = True
nb_execution_mode = "off"  # the notebook has its outputs; `nox -s notebook` runs it

napoleon_numpy_docstring = False
napoleon_use_rtype = False  # "Returns" are sentences, without a type in front
napoleon_custom_sections = [
    "Gradient",
    "Lone classes",
    "Memory",
    "Precision",
    "Source",
    "Ties",
]
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
python_maximum_signature_line_length = 80

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

sphinx_gallery_conf = {
    "examples_dirs": "gallery",
    "gallery_dirs": "auto_gallery",
    "within_subsection_order": "FileNameSortKey",
    "download_all_examples": False,
    "show_signature": False,
    "remove_config_comments": True,
    "capture_repr": (),
    "write_computation_times": False,
    "min_reported_time": float("inf"),  # a page is the same on every machine
    "image_srcset": ["2x"],
}

# The examples of the docstrings, as `sphinx-build -b doctest` runs them.
doctest_default_flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
doctest_global_setup = """
import torch
from loopml import *
from loopml.geometry import *
"""

# Links to other libraries, from committed inventories: the build looks nothing up on the network.
INVENTORIES = DOCS / "inventories"
intersphinx_mapping = {
    "python": ("https://docs.python.org/3/", str(INVENTORIES / "python.inv")),
    "numpy": ("https://numpy.org/doc/stable/", str(INVENTORIES / "numpy.inv")),
    "torch": ("https://docs.pytorch.org/docs/stable/", str(INVENTORIES / "torch.inv")),
}

# Bases of pytorch-metric-learning, whose site has no inventory, stay plain text.
nitpick_ignore_regex = [(r"py:class", r"pytorch_metric_learning\..*")]

# Names that annotations and bases give, which are not those of the documentation.
PUBLIC_NAMES = {
    "loopml._types.Closest": "loopml.geometry.Closest",
    "loopml._types.SyntheticBatch": "loopml.SyntheticBatch",
}
PUBLIC_NAMES_ELSEWHERE = {
    "Tensor": "torch.Tensor",
    "torch.nn.modules.module.Module": "torch.nn.Module",
}

# As "[79.4, 79.9]".
INTERVAL = re.compile(r"(\[[-+\d.]+,) ([-+\d.]+\])")
# Code that would make a column wider than a telephone is, unless it breaks after a bracket.
LONG_CALL = re.compile(r"\S*\(\S{20,}")

# Private bases of losses and miners, and the public ones that they add to.
HOST_BASES = {
    MinedLoss: BaseMetricLossFunction,
    MiningLoss: BaseMetricLossFunction,
    HostMiner: BaseMiner,
}


def resolve_private_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.TextElement
) -> nodes.Element | None:
    """A link to the public name of what is annotated under another one."""
    target = node.get("reftarget", "")
    if target in PUBLIC_NAMES_ELSEWHERE:
        node["reftarget"] = PUBLIC_NAMES_ELSEWHERE[target]
        return missing_reference(app, env, node, content)
    public = PUBLIC_NAMES.get(target)
    if public is None:
        return None
    domain = env.domains["py"]
    return domain.resolve_xref(env, node["refdoc"], app.builder, "class", public, node, content)


def name_public_bases(
    app: Sphinx, name: str, obj: type, options: dict[str, bool], bases: list[type]
) -> None:
    """Show the base of pytorch-metric-learning in the place of our private one."""
    bases[:] = [HOST_BASES.get(base, base) for base in bases]


def describe(doctree: nodes.document) -> str:
    """The beginning of a page, in whole sentences as far as they fit into a search result."""
    text = next(
        (
            paragraph.astext()
            for paragraph in doctree.findall(nodes.paragraph)
            if paragraph.astext().endswith((".", ":")) and not in_note(paragraph)
        ),
        "",
    )
    description, *rest = re.split(r"(?<=[.!?])\s+(?=[A-Z])", " ".join(text.split()))
    for sentence in rest:
        if len(description) + len(sentence) >= 200:
            break
        description += f" {sentence}"
    return description


def in_note(node: nodes.Element) -> bool:
    """Whether it is a note, as that of the gallery which says where to download a script."""
    return isinstance(node.parent, nodes.Admonition)


def add_description(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Give a page that has no description in its front matter one of its own."""
    if page.startswith("auto_gallery/") or page == NOTEBOOK.stem:
        context["theme_source_repository"] = ""  # the build makes them: nothing to link to there
    if doctree is None or 'name="description"' in context.get("metatags", ""):
        return
    description = describe(doctree)
    if not description:
        logging.getLogger(__name__).warning(
            "no description: begin with a sentence, or add html_meta", location=page
        )
    context["metatags"] += f'\n<meta name="description" content="{escape(description)}" />'


def fit_tables(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Say where lines of a table may break, and mark tables of many columns for the style sheet."""
    for table in doctree.findall(nodes.table):
        if any(group["cols"] > 5 for group in table.findall(nodes.tgroup)):
            table["classes"].append("wide")
        for text in list(table.findall(nodes.Text)):
            parts: list[nodes.Node] = [nodes.Text(INTERVAL.sub("\\1\N{NO-BREAK SPACE}\\2", text))]
            if isinstance(text.parent, nodes.literal) and LONG_CALL.search(text):
                calls = re.split(r"(?<=\()(?!\))", text)
                breaks = (nodes.raw("", "<wbr>", format="html") for _ in calls)
                pairs = zip((nodes.Text(call) for call in calls), breaks, strict=True)
                parts = [node for pair in pairs for node in pair][:-1]
            text.parent.replace(text, parts)


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx, after the extensions."""
    # Pictures of formulas need no fonts, which browsers may refuse to load from a file.
    app.config.mathjax_path = "mathjax/tex-svg.js"
    app.connect("autodoc-process-bases", name_public_bases)
    app.connect("missing-reference", resolve_private_name)
    app.connect("doctree-resolved", fit_tables)
    app.connect("html-page-context", add_description)
    return {"parallel_read_safe": True}
