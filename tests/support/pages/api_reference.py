"""The page of the API's fields, of the CRD: ``python tests/support/pages/api_reference.py``."""

from pathlib import Path

import yaml

REPOSITORY = Path(__file__).parents[3]
CRD = REPOSITORY / "crds" / "modeldeployments.memroute.dev.yaml"
PAGE = REPOSITORY / "docs" / "reference" / "api.md"
HEAD = """# ModelDeployment: every field

`memroute.dev/v1alpha1`, kind `ModelDeployment`, short name `mdep`, category `llm`. Made from the
CRD, which says the same through `kubectl explain mdep.spec --recursive`; a test compares them.
Why it is so: [ADR 29](../adr/0029-the-api.md). How tools read its conditions:
[gitops](../how-to/gitops.md); what each means: [settings](settings.md).
"""


def page():
    """The whole page."""
    document = yaml.load(CRD.read_text(), yaml.CSafeLoader)
    version = document["spec"]["versions"][0]
    properties = version["schema"]["openAPIV3Schema"]["properties"]
    columns = [one for one in version["additionalPrinterColumns"] if not one.get("priority")]
    parts = [HEAD]
    told = ", ".join(f"`{one['name']}`" for one in columns)
    parts.append(f"Columns of `kubectl get mdep`: {told}; more with `-o wide`.\n")
    parts.append("## spec\n\n" + _table(properties["spec"]))
    parts.append("## Rules of one object\n\n" + _rules(version["schema"]["openAPIV3Schema"]))
    parts.append("## status\n\n" + _table(properties["status"], is_status=True))
    return "\n".join(parts)


def _table(schema, *, is_status=False):
    head = "| field | type | meaning |\n| --- | --- | --- |\n"
    if not is_status:
        head = "| field | type | default | meaning |\n| --- | --- | --- | --- |\n"
    return head + "".join(_rows(schema, "", is_status=is_status))


def _rows(schema, path, *, is_status):
    required = set(schema.get("required", ()))
    for name, sub in schema.get("properties", {}).items():
        where = f"{path}.{name}" if path else name
        told = " ".join(sub.get("description", "").split()).replace("|", "\\|")
        cells = [f"`{where}`", _type(sub)]
        if not is_status:
            default = sub.get("default")
            cells.append(_default(default) if name not in required else "required")
        yield "| " + " | ".join([*cells, told]) + " |\n"
        yield from _rows(sub, where, is_status=is_status)
        yield from _rows(sub.get("items", {}), f"{where}[]", is_status=is_status)


def _default(value):
    if value is None or value == {}:
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _type(schema):
    if "enum" in schema:
        return ", ".join(f"`{word}`" for word in schema["enum"])
    kind = "integer or string" if schema.get("x-kubernetes-int-or-string") else schema["type"]
    if kind == "array":
        return f"list of {schema['items']['type']}s"
    if kind == "object" and "additionalProperties" in schema:
        return "map"
    bounds = [schema.get("minimum"), schema.get("maximum")]
    if kind == "integer" and any(one is not None for one in bounds):
        least, most = ("" if one is None else f"{one:,}" for one in bounds)
        return f"integer, {least} to {most}" if most else f"integer from {least}"
    return kind


def _rules(schema):
    return "".join(f"* {message}\n" for message in dict.fromkeys(_messages(schema)))


def _messages(schema):
    for rule in schema.get("x-kubernetes-validations", ()):
        yield rule["message"]
    for sub in schema.get("properties", {}).values():
        yield from _messages(sub)
    if "items" in schema:
        yield from _messages(schema["items"])


if __name__ == "__main__":
    PAGE.write_text(page())
