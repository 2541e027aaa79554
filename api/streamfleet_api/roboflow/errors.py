"""Roboflow's errors: their types and details."""

from __future__ import annotations

from streamfleet_api.broker_client import Refused

INFERENCE_PIPELINES = "/inference_pipelines"  # prefix of Roboflow's newer endpoints
UNREACHABLE = "Could not communicate with Process Manager"
NOTHING = "N/A"  # the details of an error that has no more than a type

# Error code of the broker → status and error type of Roboflow.
_ROBOFLOW_ERRORS = {
    "not_found": (404, "not_found"),
    "invalid": (400, "invalid_payload"),
    "conflict": (500, "operation_error"),
    "bad_message": (500, "internal_error"),
}


class Failure(Exception):
    """An error as Roboflow reports it: a type and details."""

    def __init__(self, status: int, error_type: str, details: str, *, error_class: str | None = None) -> None:
        """`error_class` is the name of Roboflow's exception, if it is not ValueError."""
        super().__init__(details)
        self.status = status
        self.error_type = error_type
        self.details = details
        self.error_class = error_class


class Unconfirmed(Exception):
    """The command was not confirmed in time. It may still take effect."""


def as_failure(refused: Refused) -> Failure | None:
    """Map a refusal of the broker to Roboflow's error; None if the broker itself has failed."""
    if refused.code not in _ROBOFLOW_ERRORS:
        return None
    status, error_type = _ROBOFLOW_ERRORS[refused.code]
    return Failure(status, error_type, refused.message or NOTHING)
