"""What papermill put into the notebook that runs."""

import ast
from collections.abc import Sequence


def injected_names() -> Sequence[str]:
    """Return the names that papermill's own cell of this session sets, if there is one."""
    try:
        from IPython import get_ipython
    except ImportError:
        return []
    shell = get_ipython()
    for cell in reversed(shell.user_ns.get("In", []) if shell else []):
        if cell.startswith("# Parameters"):
            targets = (
                statement.targets[0]
                for statement in ast.parse(cell).body
                if isinstance(statement, ast.Assign)
            )
            return [target.id for target in targets if isinstance(target, ast.Name)]
    return []
