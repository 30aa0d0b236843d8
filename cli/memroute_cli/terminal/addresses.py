"""Addresses of programs, as people type them."""


def base_address(typed: str) -> str:
    """A URL without the API's path: ``localhost:8000``, ``http://localhost:8000/v1`` are one."""
    url = typed if "://" in typed else f"http://{typed}"
    return url.rstrip("/").removesuffix("/v1").rstrip("/")
