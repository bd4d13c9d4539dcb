"""Write the picture of nearest neighbours as the gallery draws it, for pages outside the site.

Run ``PYTHONPATH=examples python docs/figures/neighbours.py`` from the root of the repository; it
writes ``neighbours.png`` beside itself. Needs matplotlib (extra ``examples``). The net that it
trains differs a little from machine to machine, and so do the neighbours.
"""

from __future__ import annotations

import runpy
from pathlib import Path

import matplotlib as mpl

mpl.use("template")  # opens no window; savefig still draws a PNG

HERE = Path(__file__).resolve().parent
SCRIPT = HERE.parent / "gallery" / "plot_0_neighbours.py"

if __name__ == "__main__":
    drawn = runpy.run_path(str(SCRIPT))
    drawn["figure"].savefig(HERE / "neighbours.png", dpi=200)
