"""The base of every value that is read from a file: frozen, unknown keys refused."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """A value: never changed after it was made, and never with keys that nobody reads."""

    model_config = ConfigDict(frozen=True, extra="forbid")
