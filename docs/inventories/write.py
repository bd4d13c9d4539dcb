"""Write the inventories of this folder, so that pages link to Python, NumPy and PyTorch offline.

The documentation is built without a network, so Sphinx cannot fetch the inventories of these sites.
These hold only the names that our pages use; a new name that does not resolve is a warning of the
build, and needs a line here. Where there is a network the whole inventory can take the place of
one: save `objects.inv` of the site as `python.inv`, `numpy.inv` or `torch.inv`.

    python docs/inventories/write.py
"""

import zlib
from pathlib import Path

# Of each name its role and its page; the anchor is the name.
PYTHON = """
None data library/constants.html
bool class library/functions.html
collections.abc.Callable class library/collections.abc.html
collections.abc.Iterable class library/collections.abc.html
dict class library/stdtypes.html
float class library/functions.html
int class library/functions.html
list class library/stdtypes.html
str class library/stdtypes.html
tuple class library/stdtypes.html
typing.Any data library/typing.html
TypeError exception library/exceptions.html
ValueError exception library/exceptions.html
"""

NUMPY = """
numpy.ndarray class reference/generated/numpy.ndarray.html
"""

TORCH = """
torch.Tensor class tensors.html
torch.autocast class amp.html
torch.compile function generated/torch.compile.html
torch.device class tensor_attributes.html
torch.nn.Module class generated/torch.nn.Module.html
"""


def write(project: str, names: str) -> None:
    """The inventory of a project, as Sphinx reads it."""
    header = (
        "# Sphinx inventory version 2",
        f"# Project: {project}",
        "# Version: ",
        "# The remainder of this file is compressed using zlib.",
    )
    entries = (line.split() for line in names.strip().splitlines())
    lines = (f"{name} py:{role} 1 {page}#$ -" for name, role, page in entries)
    head = "".join(f"{line}\n" for line in header).encode()
    body = zlib.compress("".join(f"{line}\n" for line in lines).encode(), 9)
    Path(__file__).with_name(f"{project.lower()}.inv").write_bytes(head + body)


if __name__ == "__main__":
    for project, names in (("Python", PYTHON), ("NumPy", NUMPY), ("torch", TORCH)):
        write(project, names)
