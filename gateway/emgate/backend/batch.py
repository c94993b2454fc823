"""The uplink batch as JSON brings it; a batch that does not have this shape is refused whole."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

UNIX_MS = Field(ge=0, le=253402300799999)  # 9999-12-31, the last that datetime can show
# A datagram has at most 1024 B; twice that leaves room for a later link without letting one record fill the disk.
MAXIMUM_PAYLOAD_BYTES = 2048


class BatchError(ValueError):
    """A batch is not of the agreed shape; nothing of it was stored."""


def _bytes(value: object) -> bytes:
    if not isinstance(value, str):
        raise ValueError("payload must be a hexadecimal string")
    try:
        return bytes.fromhex(value)
    except ValueError:
        raise ValueError("payload is not hexadecimal") from None


class BatchRecord(BaseModel):
    """One record: identity, lane, how it came, and its plaintext."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)
    deviceId: Annotated[int, Field(ge=0, le=0xFFFFFFFF)]
    epoch: Annotated[int, Field(ge=0, le=0xFFFF)]
    sequence: Annotated[int, Field(ge=0, le=0xFFFFFF)]
    alarm: bool
    receivedTimeMs: Annotated[int, UNIX_MS]
    link: str
    payload: Annotated[bytes, BeforeValidator(_bytes), Field(max_length=MAXIMUM_PAYLOAD_BYTES)]


class Batch(BaseModel):
    """What one uplink delivery carries. Unknown keys are ignored: a newer gateway may add some."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)
    batchId: str
    gatewayId: str
    uploadedDateMs: Annotated[int, UNIX_MS]
    records: list[BatchRecord]


def parse(batch: dict[str, Any]) -> Batch:
    """The batch, or BatchError naming the field."""
    try:
        return Batch.model_validate(batch)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise BatchError(f"batch refused: {place}: {first['msg']}") from None
