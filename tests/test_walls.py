"""Data flows one way, and heavy imports live where they are used."""

import ast
import re
import subprocess
import sys

# Each group may import the groups before it, never those after it.
LAYERS = [
    ["files", "parallel", "prompts", "resample", "safe_text"],
    ["records", "tokens", "images"],
    ["sources"],
    ["merge", "kept", "instances", "raw_annotations", "overlay"],
    ["engine", "curation", "inspection"],
    ["mixtures", "formats"],
    ["export", "lengths"],
    ["analysis", "tables"],
    ["chat", "batches"],
    ["training_set", "model", "vicuna"],
    ["tuning", "memory", "checkpoints", "trainer", "benchmarks", "protocols"],
    ["generation", "endpoint", "judge", "train", "held_out", "ablations", "faithfulness"],
    ["rollout", "judge_api", "training_report", "pool"],
    ["candidates"],
    ["answers", "evaluation", "score", "merge_report"],
    ["effects"],
    ["evaluation_report", "ablation_report", "bias_report", "probe", "figures", "cards", "mini"],
    ["result_figures", "download", "inspect_cards", "inspector_controls"],
    ["inspector"],
    ["pages"],
    ["study"],
    ["__main__"],
]
HEAVY = {"torch", "transformers", "ipywidgets", "openai", "ray", "tokenizers", "IPython"}
HEAVY |= {"peft", "bitsandbytes", "accelerate"}
# The files that use each; `chat`, `images`, `training_set`, `rollout` and `candidates` name
# them for type checkers only.
ALLOWED = {
    "parallel": {"ray"},
    "tokens": {"tokenizers"},
    "figures": {"IPython"},
    "chat": {"transformers"},
    "images": {"transformers"},
    "training_set": {"transformers"},
    "llava": {"torch", "tokenizers", "transformers"},
    "muon": {"torch"},
    "vicuna": {"tokenizers", "transformers"},
    "pretrain": {"torch", "transformers"},
    "sight": {"transformers"},
    "model": {"torch", "transformers", "peft", "bitsandbytes"},
    "memory": {"torch", "transformers"},
    "checkpoints": {"torch", "transformers"},
    "generation": {"torch", "transformers"},
    "rollout": {"transformers"},
    "candidates": {"transformers", "peft"},
    "endpoint": {"openai"},
    "trainer": {"torch", "transformers"},
    "train": {"torch", "transformers"},
    "inspector_controls": {"ipywidgets"},
}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def modules(root):
    for path in sorted((root / "cocoift").rglob("*.py")):
        parts = path.relative_to(root / "cocoift").parts
        if parts != ("__init__.py",):
            yield parts[0].removesuffix(".py"), path


def test_nothing_flows_back(root):
    level = {name: number for number, layer in enumerate(LAYERS) for name in layer}
    for name, path in modules(root):
        assert name in level, f"{path} belongs to no layer"
        for module in imports(path):
            parts = module.split(".")
            if parts[0] == "cocoift" and len(parts) > 1 and parts[1] in level:
                same = parts[1] == name
                assert same or level[parts[1]] < level[name], f"{path} imports {module}"


def test_heavy_packages_are_imported_only_where_they_are_used(root):
    for _, path in modules(root):
        used = {module.split(".")[0] for module in imports(path)} & HEAVY
        assert used <= ALLOWED.get(path.stem, set()), f"{path} imports {used}"


def test_importing_the_package_loads_nothing_heavy():
    code = "import sys, cocoift.merge, cocoift.engine, cocoift.sources; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "ray", "IPython", "transformers"} & set(found.stdout.split())


def test_every_public_function_says_what_it_is_for_and_what_it_raises(root):
    told = 0
    for path in (root / "cocoift").rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name.startswith("_"):
                continue
            purpose = ast.get_docstring(node)
            assert purpose and len(purpose) > 15, f"{path}: {node.name}"
            raised = [one.exc for one in ast.walk(node) if isinstance(one, ast.Raise)]
            calls = [one.func for one in raised if isinstance(one, ast.Call)]
            made = {one.id for one in calls if isinstance(one, ast.Name)}
            if isinstance(node, ast.FunctionDef) and made & {"DataError", "damaged"}:
                assert re.search(r"DataError|[Rr]aises what", purpose), f"{path}: {node.name}"
                told += 1
    assert told > 40
