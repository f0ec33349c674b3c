"""Mutants of a whole input, drawn by hypothesis: one to three things are wrong with each."""

import copy
import json

from hypothesis import strategies as st

JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([0, -1, 2**31, 2**63, 2**70, -(2**70), 10**30]),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(
        ["", " ", "<image>", "</s>", "../../etc/passwd", "/etc/passwd", "\x00", "\ud800", "<b>",
         "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "{question}", "9" * 40]
    ),
    st.sampled_from(["[]", "{}", "[[]]", "[{}]", '{"": null}', "[null]"]).map(json.loads),
)  # fmt: skip


@st.composite
def mutants(draw, whole):
    """Draw a mutant of `whole`: of its JSON where it is JSON, else of its bytes."""
    content = whole
    if draw(st.booleans()):
        try:
            tree = json.loads(whole)
        except ValueError:
            tree = None
        if isinstance(tree, list | dict) and tree:
            tree = copy.deepcopy(tree)
            for _ in range(draw(st.integers(1, 3))):
                damage_tree(draw, tree)
            return json.dumps(tree, ensure_ascii=draw(st.booleans())).encode(errors="surrogatepass")
    for _ in range(draw(st.integers(1, 3))):
        content = damage_bytes(draw, content)
    return content


def damage_tree(draw, tree):
    """Replace, drop, double or nest one value somewhere in a tree."""
    node = tree
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        if not keys:
            return
        key = keys[draw(st.integers(0, len(keys) - 1))]
        below = node[key]
        if isinstance(below, list | dict) and below and draw(st.integers(0, 5)):
            node = below
            continue
        how = draw(st.sampled_from(["replace", "drop", "double", "nest", "add"]))
        if how == "replace":
            node[key] = draw(JUNK)
        elif how == "drop":
            del node[key]
        elif how == "double" and isinstance(node, list):
            node.insert(key, copy.deepcopy(below))
        elif how == "nest":
            node[key] = [copy.deepcopy(below)]
        elif isinstance(node, dict):
            node[draw(st.text(max_size=5))] = draw(JUNK)
        return


def damage_bytes(draw, content):
    """Cut, flip or insert bytes."""
    at = draw(st.integers(0, len(content)))
    how = draw(st.sampled_from(["cut", "flip", "insert", "remove"]))
    if how == "cut":
        return content[:at]
    if how == "flip":
        return content[:at] + draw(st.binary(min_size=1, max_size=1)) + content[at + 1 :]
    if how == "insert":
        return content[:at] + draw(st.binary(min_size=1, max_size=12)) + content[at:]
    return content[:at] + content[at + draw(st.integers(1, 12)) :]
