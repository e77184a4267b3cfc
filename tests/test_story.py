"""The code reads as a story: a module imports only what stands before it."""

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mavis

PACKAGE = Path(mavis.__file__).parent
ROOT = PACKAGE.parent
# A template is no module; the sandbox's own making is told in the order of its imports.
MODULES = sorted(
    path for path in PACKAGE.rglob("*.py") if "templates" not in path.relative_to(PACKAGE).parts
)
SOURCES = [*MODULES, *sorted((ROOT / "objectives").rglob("*.py"))]
TESTS = ROOT / "tests"
# A module a.b is tested by tests/a/test_b.py, or else by what this says.
NEIGHBOURS = {
    "__main__": "cli/test_main.py",
    "baselines.train.run": "cli/test_tune.py",
    "baselines.train.setup": "cli/test_tune.py",
    "baselines.train.trl_trainers": "cli/test_tune.py",
    "baselines.train.tune": "cli/test_tune.py",
    "cli.fit": "training/test_callbacks.py",
    "cli.parsing": "cli/test_main.py",
    "cli.show": "cli/test_generate.py",
    "decoding.backbone": "decoding/test_value_model.py",
    "comparison.result_format": "report/test_html.py",
    "decoding.decode": "decoding/test_decoder.py",
    "decoding.guides": "decoding/test_guidance.py",
    "decoding.model_card": "test_cards.py",
    "decoding.prompt_format": "decoding/test_reference.py",
    "decoding.prompt_requests": "decoding/test_policy.py",
    "decoding.row_table": "decoding/test_decoder_steps.py",
    "integrations.vllm.asked": "integrations/test_vllm.py",
    "integrations.vllm.command": "integrations/test_vllm.py",
    "integrations.vllm.engine": "integrations/test_vllm.py",
    "integrations.vllm.plugin": "integrations/test_vllm.py",
    "integrations.vllm.shared": "integrations/test_vllm.py",
    "serving.contents": "serving/test_app.py",
    "serving.echo": "serving/test_app.py",
    "serving.errors": "serving/test_app.py",
    "serving.fields": "serving/test_app.py",
    "serving.meters": "serving/test_app.py",
    "serving.pages": "serving/test_playground.py",
    "serving.prepare": "serving/test_app.py",
    "serving.replies": "serving/test_app.py",
    "serving.run": "cli/test_serve.py",
    "serving.session": "serving/test_app.py",
    "serving.settings": "serving/test_app.py",
    "training.batching": "training/test_packing.py",
    "training.decoding_speed": "training/test_plan.py",
    "training.growing": "training/test_joint_fit.py",
    "training.held_out": "training/test_data.py",
    "training.round_entry": "training/test_callbacks.py",
    "training.stored_trees": "training/test_together.py",
    "training.drawn_trees": "training/test_estimate.py",
    "learn": "test_versions.py",
    "report.cells": "report/test_html.py",
    "report.console": "report/test_undefined.py",
    "sandbox.lexicon": "sandbox/test_grammar.py",
    "sandbox.make": "sandbox/test_assets.py",
}


def name_of(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path):
    """Every module of the package that a file imports: at its head, in functions, for types."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import hides where it goes"
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        found |= {n.removeprefix("mavis.") for n in names if n.startswith("mavis.")}
    return found & {name_of(module) for module in MODULES}


def is_bare(path):
    """Whether a file is the head of a package: a docstring and nothing else."""
    return path.name == "__init__.py" and len(ast.parse(path.read_text()).body) <= 1


def told():
    return [path for path in MODULES if name_of(path) and not is_bare(path)]


def test_every_module_is_in_the_story():
    assert sorted(name_of(path) for path in told()) == sorted(mavis.STORY)
    assert len(set(mavis.STORY)) == len(mavis.STORY)


@pytest.mark.parametrize("path", told(), ids=name_of)
def test_a_module_imports_what_stands_before_it(path):
    # So there are no cycles, either.
    mine = mavis.STORY.index(name_of(path))
    for other in imports(path) & set(mavis.STORY):
        assert mavis.STORY.index(other) < mine, f"{name_of(path)} imports {other}"


@pytest.mark.parametrize("name", mavis.STORY)
def test_a_module_has_tests_of_its_own_or_a_neighbour_s(name):
    *folders, module = name.split(".")
    own = TESTS.joinpath(*folders, f"test_{module}.py")
    if name in NEIGHBOURS:
        assert not own.is_file(), f"{name} has tests of its own: leave it out of the table"
        own = TESTS / NEIGHBOURS[name]
    assert own.is_file(), f"{name} has no tests: write {own.relative_to(ROOT)}"


def test_the_table_of_neighbours_knows_no_other_module():
    assert NEIGHBOURS.keys() <= set(mavis.STORY)


def test_the_public_names_are_there():
    for name in mavis._HOME:
        assert getattr(mavis, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = mavis.nonsense


@pytest.mark.parametrize("path", [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))], ids=str)
def test_what_people_read_imports_nothing_deeper_than_the_package(path):
    for block in re.findall(r"^```python\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL):
        assert not re.search(r"^\s*(from|import)\s+mavis\.", block, re.MULTILINE), block
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module == "mavis":
                assert {alias.name for alias in node.names} <= set(mavis.__all__)


def test_the_package_knows_no_plugin():
    """The only road to the shipped objectives is their entry points."""
    for path in MODULES:
        tree = ast.parse(path.read_text())
        texts = [n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
        texts += [a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names]
        assert not any(text.startswith("mavis_objectives") for text in texts), path


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_are_short(path):
    text = path.read_text()
    assert path.stem not in {"utils", "util", "helpers", "common", "misc"}
    assert text.count("\n") <= 300
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = node.end_lineno - body[0].lineno + 1 if body else 0
            assert lines <= 50, f"{node.name} has {lines} lines"
        if isinstance(node, ast.ClassDef):
            assert not re.search("(Manager|Helper|Util|Engine|Base|Mixin)$", node.name), node.name


LIGHT = """
import contextlib, io, sys
from mavis.cli.main import main
with contextlib.redirect_stdout(io.StringIO()) as said:
    status = main(sys.argv[1:])
heavy = [n for n in ("torch", "lightning", "transformers", "mlflow", "datasets", "matplotlib")
         if n in sys.modules]
sys.exit(f"imported {heavy}" if heavy else 0 if status == 0 and said.getvalue() else "said nothing")
"""


@pytest.mark.parametrize(
    "words",
    [["--help"], ["--version"], ["help"], ["objectives"], ["objectives", "list"]]
    + [["help", "objectives", "new"], ["sandbox", "build", "--help"]]
    + [[name, "--help"] for name in ("generate", "tune", "parm", "pareto", "judge")]
    + [["fit", "--help"], ["test", "--objective", "humor", "--help"]],
)
def test_light_commands_import_nothing_heavy(words):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", LIGHT, *words],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_importing_the_package_imports_nothing():
    code = "import sys, mavis; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert importlib.util.find_spec("mavis") is not None
