"""Refusals in the exchange's own words (recorded bodies; docs.kalshi.com, errors)."""

from __future__ import annotations

from base.errors import BotError


class Refused(BotError):
    """The exchange says no.

    `is_flat` picks the body without the `error` wrapper, which JSON decoding errors have (recorded
    2026-06-11); `message` alone makes the `{"msg": …}` body of query validation.
    """

    def __init__(
        self, status: int, code: str, message: str = "", details: str = "", *, is_flat: bool = False
    ) -> None:
        super().__init__(f"{status} {code}: {details or message}")
        self.status = status
        self.code = code
        self.message = message or code.replace("_", " ")
        self.details = details
        self.is_flat = is_flat

    def body(self) -> dict[str, object]:
        if not self.code:
            return {"msg": self.message}
        body: dict[str, object] = {"code": self.code, "message": self.message}
        if self.details:
            body["details"] = self.details
        return body if self.is_flat else {"error": body}


def bad_request(details: str) -> Refused:
    return Refused(400, "bad_request", details=details, is_flat=True)


def invalid_order(details: str) -> Refused:
    return Refused(400, "invalid_order", details=details)


def invalid_parameters(details: str) -> Refused:
    return Refused(400, "invalid_parameters", details=details)


def gone() -> Refused:
    """The answer to writes on a retired path (seen in production)."""
    return Refused(
        410,
        "deprecated_v1_order_endpoint",
        "Please switch to the V2 endpoints",
        "https://docs.kalshi.com/api-reference/orders/create-order-v2",
    )


def not_found() -> Refused:
    return Refused(404, "not_found")


def failed_validation(operation: str, field_name: str, tag: str) -> Refused:
    """Query validation, recorded for `limit=1001` on 2026-06-11."""
    text = (
        f"Parameter validation failed for {operation}: Key: '{operation}Params.{field_name}' "
        f"Error:Field validation for '{field_name}' failed on the '{tag}' tag"
    )
    return Refused(400, "", text)
