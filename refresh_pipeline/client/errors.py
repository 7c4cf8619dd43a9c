"""What a client says where it has no answer."""


class ClientError(Exception):
    """There is no such series, column or place, or the API refuses; `status` is its HTTP status, if it has one."""

    def __init__(self, message: str, status: int | None = None) -> None:
        """A message that names what was wanted, what was found and what to do."""
        super().__init__(message)
        self.status = status
