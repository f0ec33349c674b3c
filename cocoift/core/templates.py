"""HTML from templates, with every value escaped by `text.visible`."""

import functools

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from cocoift.core.text import visible


def render(template: str, **values: object) -> Markup:
    """Return a template of `core/jinja` filled in.

    Texts are escaped, with control and direction marks shown as code points; only what another
    template returned, which is `Markup`, goes in as it is.
    """
    return Markup(_environment().get_template(template).render(**values))


@functools.cache
def _environment() -> Environment:
    def escaped(value: object) -> Markup:
        return value if isinstance(value, Markup) else Markup(visible(value))

    return Environment(
        loader=PackageLoader("cocoift.core", "jinja"),
        autoescape=True,
        finalize=escaped,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render_part(template: str, macro: str, *values: object) -> Markup:
    """Return a template's macro applied to these values, escaped as by `render`."""
    module = _environment().get_template(template).module
    return Markup(getattr(module, macro)(*values).strip())
