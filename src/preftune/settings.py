"""What every settings record has in common: frozen, closed to unknown keys, and strict about types."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """A record of settings. Each stage owns one; `config.Config` composes them."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())
