"""The one way in which a body is found to be malformed."""


class BadRequestError(Exception):
    """The request cannot be understood, or names what it may not; the message says why.

    The parameter says where; ``reason`` and ``code`` are words for machines, where there are any.
    """

    def __init__(
        self,
        message: str,
        parameter: str | None = None,
        *,
        reason: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.parameter = parameter
        self.reason = reason
        self.code = code
