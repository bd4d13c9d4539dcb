"""How the documentation is built: `sphinx-build -n -W --keep-going docs docs/_build/html`."""

from __future__ import annotations

import doctest
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytorch_metric_learning.losses import BaseMetricLossFunction
from pytorch_metric_learning.miners import BaseMiner

import loopml
from loopml.host import HostMiner
from loopml.losses.mined import MinedLoss, MiningLoss

if TYPE_CHECKING:
    from docutils import nodes
    from sphinx.addnodes import pending_xref
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

# Two scripts of the gallery train on the glyphs.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

project = "loopml"
author = copyright = "The loopml authors"
version = release = loopml.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.doctest",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
    "sphinx-mathjax-offline",
]
exclude_patterns = ["_build", "gallery", "figures"]
html_theme = "furo"
html_title = "loopml"
html_static_path = ["_static"]
html_css_files = ["loopml.css"]
html_show_sphinx = False

myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
myst_dmath_double_inline = True

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

# Names of other libraries in signatures. The build looks nothing up on the network, so they stay
# plain text; names of our own have to resolve.
nitpick_ignore_regex = [
    (r"py:.*", r"(torch|nn)\..*"),  # base classes and annotations
    (r"py:.*", r"Tensor"),
    (r"py:.*", r"pytorch_metric_learning\..*"),  # base classes
    (r"py:.*", r"(Base|Accuracy|Lp|Mean)[A-Za-z]+"),
    (r"py:.*", r"np(\.[a-z]+)*|numpy\..*"),
    (r"py:.*", r"Any|Iterable|collections\.abc\..*"),  # of the standard library
]

# Where annotations find a class under the name of its private module.
PUBLIC_NAMES = {
    "loopml._types.Closest": "loopml.geometry.Closest",
    "loopml._types.SyntheticBatch": "loopml.SyntheticBatch",
}


# Private bases of losses and miners, and the public ones that they add to.
HOST_BASES = {
    MinedLoss: BaseMetricLossFunction,
    MiningLoss: BaseMetricLossFunction,
    HostMiner: BaseMiner,
}


def resolve_private_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.Element
) -> nodes.Element | None:
    """A link to the public name of a class that is annotated under a private one."""
    public = PUBLIC_NAMES.get(node.get("reftarget", ""))
    if public is None:
        return None
    domain = env.domains["py"]
    return domain.resolve_xref(env, node["refdoc"], app.builder, "class", public, node, content)


def name_public_bases(
    app: Sphinx, name: str, obj: type, options: dict[str, bool], bases: list[type]
) -> None:
    """Show the base of pytorch-metric-learning in the place of our private one."""
    bases[:] = [HOST_BASES.get(base, base) for base in bases]


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx, after the extensions."""
    # Pictures of formulas need no fonts, which browsers may refuse to load from a file.
    app.config.mathjax_path = "mathjax/tex-svg.js"
    app.connect("autodoc-process-bases", name_public_bases)
    app.connect("missing-reference", resolve_private_name)
    return {"parallel_read_safe": True}
