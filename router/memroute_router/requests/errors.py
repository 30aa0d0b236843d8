"""The one way in which a body is found to be malformed."""


class BadRequestError(Exception):
    """The request cannot be understood; the message says why, the parameter says where."""

    def __init__(self, message: str, parameter: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.parameter = parameter
