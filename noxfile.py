"""The checks of a commit, one session each: ``nox -l`` lists them, ``nox -s lint`` runs one.

``.ci/run`` runs those of one environment in its own (``nox --no-venv --no-install``). A session
whose Python is not there is skipped, unless the environment sets ``CI``.
"""

from __future__ import annotations

import filecmp
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

import nox

nox.needs_version = ">=2024.4.15"
nox.options.default_venv_backend = "venv"
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["lint", "types", "tests", "docs", "bench-smoke", "notebook", "wheel"]

ROOT = Path(__file__).parent
# Has a small CPU build where these sessions are run most; any supported release will do.
TORCH = "torch==2.13.0"
# The lowest releases that pyproject.toml allows.
LOWEST = ("torch==2.4.0", "pytorch-metric-learning==2.6.0")
# The next major, which pyproject.toml excludes until the session pml3 has passed, and its needs.
NEXT = "pytorch-metric-learning>=3,<4"
NEXT_NEEDS = ("torch>=2.14", "numpy>=2.5.3", "scikit-learn", "faiss-cpu")
# For what the session tests runs already, in another environment: fewer random problems.
FEW = {"HYPOTHESIS_PROFILE": "few"}
# There torch and faiss-cpu may bring an OpenMP each, and the second one to start ends the process.
OPENMP = {"KMP_DUPLICATE_LIB_OK": "TRUE"} if sys.platform in ("darwin", "win32") else {}
# What runs on the double of it: under the likelier guesses all that meets the host, ...
ON_THE_DOUBLE = {
    "a": (
        "tests/pml3",
        "tests/package/test_evaluation.py",
        "tests/package/test_expansion.py",
        "tests/package/test_host.py",
        "tests/package/test_hostile.py",
        "tests/package/test_hphn.py",
        "tests/package/test_miner.py",
        "tests/package/test_n_pair.py",
        "tests/package/test_pairing.py",
        "tests/package/test_right_answers.py",
        "tests/package/test_synthetic_loss.py",
    ),
    # ... and under the others what reads the attributes that they are about.
    "b": (
        "tests/pml3",
        "tests/package/test_host.py",
        "tests/package/test_hphn.py",
        "tests/package/test_miner.py",
        "tests/package/test_n_pair.py",
        "tests/package/test_right_answers.py",
    ),
}


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff: rules and format."""
    session.install("ruff>=0.17")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Strict mypy on the library, and on tests/typing as a user who calls it."""
    session.install(TORCH, "-e", ".[dev]")
    session.run("mypy")
    session.run("mypy", "tests/typing")


@nox.session
def tests(session: nox.Session) -> None:
    """The whole test suite, or what follows ``--``."""
    session.install(TORCH, "-e", ".[dev]")
    session.run("python", "-m", "pytest", "--quiet", "-n", "auto", *session.posargs)


@nox.session
def coverage(session: nox.Session) -> None:
    """The whole test suite, and how much of src it runs; too little is an error."""
    session.install(TORCH, "-e", ".[dev]")
    session.run("python", "-m", "pytest", "--quiet", "-n", "auto", "--cov")


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation site and its examples; a warning is an error."""
    session.install(TORCH, "-e", ".[docs]")
    build = ("sphinx-build", "-nWq", "--keep-going", "docs")
    session.run(*build, "docs/_build/html")
    session.run(*build, "docs/_build/doctest", "-b", "doctest", "-D", "plot_gallery=0")


@nox.session(name="bench-smoke")
def bench_smoke(session: nox.Session) -> None:
    """Each benchmark once, on its smallest batch."""
    session.install(TORCH, "-e", ".[dev]")
    smoke = ("--suite", "smoke", "--budget", "0")
    session.run("python", "-m", "benchmarks.steps.run", *smoke, silent=True)


@nox.session
def notebook(session: nox.Session) -> None:
    """The notebook's cells run, from the first to the last."""
    session.install(TORCH, "-e", ".[dev]")
    session.run("python", "-m", "pytest", "--nbmake", "examples/five_minutes.ipynb")


@nox.session
def reproduce(session: nox.Session) -> None:
    """The tests of what needs torchvision and the torch it wants.

    That is the papers' experiments and open-metric-learning. That torch is a build for CUDA, which
    the tests of what a GPU is waited for need.
    """
    session.install("torchvision")  # alone: it needs its own build of torch
    session.install("-e", ".[test,reproduce]")
    # It asks for an old numpy, which its losses do not need, and does not ask for omegaconf.
    session.install("--no-deps", "open-metric-learning==4.0.0")
    session.install("gdown", "omegaconf", "pandas", "validators")
    session.run("python", "-c", "import oml.losses")  # so that none of its tests is skipped
    tests = (
        "tests/docs/test_recipes.py::test_recipes_run[open-metric-learning]",
        "tests/examples/test_reproduce.py",
        "tests/hosts/test_open_metric_learning.py",
        "tests/package/test_no_wait.py",
    )
    session.run("python", "-m", "pytest", "--quiet", "-n", "auto", *tests)


@nox.session
def gpu(session: nox.Session) -> None:
    """The tests of the package on a GPU, with those of what waits for it.

    It has not been run: there was no GPU. The step benchmarks are not in it, since they run on the
    CPU alone.
    """
    session.install("-e", ".[dev]")
    session.run("python", "-m", "pytest", "--quiet", "tests/package", "--device", "cuda")


@nox.session
def wheel(session: nox.Session) -> None:
    """The wheel holds the package alone, and works away from the source tree, without Triton."""
    session.install(TORCH, f"{built_wheel(session)}[test]")
    check_installed(session)
    session.run("python", "-c", "import importlib.util as u; assert not u.find_spec('triton')")


@nox.session(python=["3.10"])
def lowest(session: nox.Session) -> None:
    """The wheel with the lowest releases of Python, torch and pytorch-metric-learning."""
    session.install(*LOWEST)  # large, and there before the wheel: --install-only comes to here
    session.install(*LOWEST, f"{built_wheel(session)}[test]")
    check_installed(session)


@nox.session(python=["3.11", "3.12", "3.13", "3.14"])
def newest(session: nox.Session) -> None:
    """The wheel with the newest releases, as ``pip install loopml`` gives them."""
    session.install("--upgrade", f"{built_wheel(session)}[test]")
    check_installed(session)


@nox.session
def pml3_double(session: nox.Session) -> None:
    """What can be tested of pytorch-metric-learning 3 without it, under both sets of guesses."""
    session.install(TORCH, "-e", ".[dev]")
    double = str(ROOT / "tests" / "doubles" / "pml3")
    for guess, tests in ON_THE_DOUBLE.items():
        env = {"PYTHONPATH": double, "LOOPML_PML3_GUESS": guess, **FEW}
        session.run("python", "-m", "pytest", "--quiet", "-n", "auto", *tests, env=env)


@nox.session(python=["3.12", "3.13", "3.14"])
def pml3(session: nox.Session) -> None:
    """The wheel with pytorch-metric-learning 3, where an index has it: not the double."""
    found = Path(session.create_tmp()) / "found"
    shutil.rmtree(found, ignore_errors=True)
    ask = ("python", "-m", "pip", "download", "--no-deps", "--dest", str(found), NEXT)
    said = str(session.run(*ask, silent=True, success_codes=[0, 1]))
    if not list(found.glob("*")):
        if "from versions: " not in said or "from versions: none" in said:
            session.error(f"the index does not answer: {said}")
        session.skip("no pytorch-metric-learning 3 on this index")
    project = nox.project.load_toml(ROOT / "pyproject.toml")["project"]
    session.install("--upgrade", *NEXT_NEEDS, NEXT, *project["optional-dependencies"]["test"])
    # Without its dependencies, whose upper bound is what this session tests.
    session.install("--no-deps", "--force-reinstall", str(built_wheel(session)))
    is_it = (
        "import pytorch_metric_learning as package; "
        "from pytorch_metric_learning.losses import BaseMetricLossFunction as Loss; "
        "assert hasattr(Loss, 'objective_terms') and not hasattr(package, 'DOUBLE')"
    )
    session.run("python", "-c", is_it)
    check_installed(session, "-rP", "tests/pml3")


def built_wheel(session: nox.Session) -> Path:
    """A wheel that holds the package and nothing else: the one after ``--``, or a new one.

    A new one is what the sdist builds, and the source tree too.
    """
    built = Path(*session.posargs).resolve() if session.posargs else new_wheel(session)
    found = {name for name in zipfile.ZipFile(built).namelist() if ".dist-info/" not in name}
    package = ROOT / "src" / "loopml"
    wanted = {"loopml/py.typed"}
    wanted |= {path.relative_to(package.parent).as_posix() for path in package.rglob("*.py")}
    if found != wanted:
        session.error(f"the wheel and src/ differ in {sorted(found ^ wanted)}")
    return built


def new_wheel(session: nox.Session) -> Path:
    """Build the sdist, and the wheel from it."""
    session.install("build", "twine")
    shutil.rmtree(dist := Path(session.create_tmp()) / "dist", ignore_errors=True)
    session.run("python", "-m", "build", "--outdir", str(dist), str(ROOT), silent=True)
    (built,) = dist.glob("*.whl")
    session.run("twine", "check", "--strict", *map(str, dist.iterdir()))
    session.run("python", "-m", "build", "-w", "-o", str(dist / "direct"), str(ROOT), silent=True)
    if not filecmp.cmp(built, dist / "direct" / built.name, shallow=False):
        session.error("the sdist and the source tree build different wheels")
    return built


def check_installed(session: nox.Session, *more: str) -> None:
    """Run the tests of the package, from a copy of them that has no source tree beside it.

    ``more`` are arguments for pytest: tests to run beside these, and its options.
    """
    with tempfile.TemporaryDirectory() as folder:
        for name in ("tests", "examples"):
            shutil.copytree(ROOT / name, Path(folder, name))
        shutil.copy(ROOT / "pyproject.toml", folder)
        with session.chdir(folder):
            where = session.run(
                "python", "-c", "import loopml; print(loopml.__file__)", silent=True
            )
            if "site-packages" not in str(where):
                session.error(f"loopml is imported from {where}")
            session.run("pip", "list")
            session.run("mypy", "tests/typing")
            tests = ("tests/package", *more)
            session.run("python", "-m", "pytest", "-q", "-n", "auto", *tests, env=FEW | OPENMP)
