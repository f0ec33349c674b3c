"""Data flows one way, and heavy imports live where they are used."""

import ast
import re
import subprocess
import sys

import pytest

# A subpackage may import those of the rows above it, not those of its row or of the rows below.
ROWS = [
    ["core"],
    ["sources"],
    ["merge", "tuning"],
    ["evaluation", "lint"],
    ["inspector", "report", "minicoco"],
    ["study"],
    ["__main__"],
]
HEAVY = {"torch", "transformers", "ipywidgets", "openai", "ray", "tokenizers", "IPython"}
HEAVY |= {"peft", "bitsandbytes", "accelerate"}
# The modules that use each; some name them for type checkers only.
ALLOWED = {
    "core.parallel": {"ray"},
    "core.images": {"transformers"},
    "core.text": {"tokenizers"},
    "tuning.chat": {"transformers"},
    "tuning.data": {"transformers"},
    "tuning.vicuna": {"tokenizers", "transformers"},
    "tuning.model": {"torch", "transformers", "bitsandbytes"},
    "tuning.memory": {"torch", "transformers"},
    "tuning.recipe": {"transformers"},
    "tuning.checkpoints": {"torch", "transformers", "peft"},
    "tuning.fetch": {"torch", "transformers"},
    "tuning.assembly": {"torch", "transformers"},
    "tuning.loss": {"torch", "transformers"},
    "tuning.batches": {"torch", "transformers"},
    "tuning.train": {"torch", "transformers"},
    "evaluation.alike": {"torch"},
    "evaluation.generation": {"torch", "transformers"},
    "evaluation.candidates": {"transformers"},
    "evaluation.endpoint": {"openai"},
    "evaluation.endpoint_judge": {"openai"},
    "evaluation.server_check": {"openai"},
    "inspector.widget": {"ipywidgets"},
    "inspector.talk_widget": {"ipywidgets"},
    "report.cards": {"transformers"},
    "report.figures": {"IPython"},
    "report.tables": {"IPython"},
    "report.told": {"IPython"},
    "report.training": {"torch", "transformers", "peft"},
    "study.study": {"IPython"},
    "study.steps": {"transformers"},
    "study.bases": {"torch", "transformers"},
    "minicoco.eyes": {"torch", "transformers"},
    "minicoco.llava": {"torch", "tokenizers", "transformers"},
    "minicoco.pretrain": {"torch", "transformers"},
    "minicoco.sight": {"transformers"},
}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def local_name(module):
    """Return a module's name without the package's, `core.files`; minicoco's names stay whole."""
    return module.removeprefix("cocoift.")


def modules(root):
    """Yield the local name of each module of the two packages, and its file."""
    for package in ("cocoift", "minicoco"):
        for path in sorted((root / package).rglob("*.py")):
            name = ".".join(path.relative_to(root).with_suffix("").parts)
            if name != "cocoift.__init__":
                yield local_name(name.removesuffix(".__init__")), path


def test_imports_go_downward_only(root):
    level = {package: number for number, row in enumerate(ROWS) for package in row}
    for name, path in modules(root):
        package = name.split(".")[0]
        assert package in level, f"{path} is in no row"
        for module in imports(path):
            other = local_name(module).split(".")[0]
            if module.startswith(("cocoift.", "minicoco")) and other in level and other != package:
                assert level[other] < level[package], f"{path} imports {module}"


def test_only_the_study_knows_the_synthetic_world(root):
    for name, path in modules(root):
        if not name.startswith(("study.", "minicoco")):
            assert not [m for m in imports(path) if m.split(".")[0] == "minicoco"], path


def test_opening_a_preset_of_real_data_loads_no_synthetic_world():
    code = (
        "import sys; from cocoift.study import read_preset; read_preset('llava-1.5-7b');"
        "print(*(name for name in sys.modules if name.startswith('minicoco')))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(found.stdout.split()) <= {"minicoco"}  # the preset's own structs


@pytest.mark.parametrize("module", ["cocoift.study", "cocoift.study.index"])
def test_what_starts_every_run_loads_neither_torch_nor_the_notebooks_schema(module):
    code = f"import sys, {module}; from cocoift.study import read_preset; read_preset('smoke');"
    code += "print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    slow = {"torch", "transformers", "peft", "openai", "matplotlib", "nbformat", "papermill"}
    assert not slow & set(found.stdout.split())


def test_no_module_imports_itself_in_a_circle(root):
    known = dict(modules(root))
    uses = {
        name: {local_name(m) for m in imports(path)} & (known.keys() - {name})
        for name, path in known.items()
    }
    while free := {name for name, used in uses.items() if not used}:
        uses = {name: used - free for name, used in uses.items() if name not in free}
    assert not uses, f"these import one another: {sorted(uses)}"


def test_heavy_packages_are_imported_only_where_they_are_used(root):
    for name, path in modules(root):
        used = {module.split(".")[0] for module in imports(path)} & HEAVY
        assert used <= ALLOWED.get(name, set()), f"{path} imports {used}"


def test_importing_the_package_loads_nothing_heavy():
    code = "import sys, cocoift.merge.partitioned, cocoift.sources; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "ray", "IPython", "transformers"} & set(found.stdout.split())


def test_every_public_function_says_what_it_is_for_and_what_it_raises(root):
    checked = 0
    for _, path in modules(root):
        for node in ast.parse(path.read_text()).body:
            if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name.startswith("_"):
                continue
            purpose = ast.get_docstring(node)
            assert purpose and len(purpose) > 15, f"{path}: {node.name}"
            raised = [inner.exc for inner in ast.walk(node) if isinstance(inner, ast.Raise)]
            calls = [error.func for error in raised if isinstance(error, ast.Call)]
            errors = {function.id for function in calls if isinstance(function, ast.Name)}
            if isinstance(node, ast.FunctionDef) and errors & {"DataError", "damaged"}:
                assert re.search(r"DataError|[Rr]aises what", purpose), f"{path}: {node.name}"
                checked += 1
    assert checked > 40
