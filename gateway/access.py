"""Which models a tenant may see: one that it may not use is to it as one that there is not."""

from __future__ import annotations

from backends.errors import ModelNotFound
from gateway.registry import Entry, Registry
from gateway.tenants import Tenant

_NAME_CHARACTERS = 128


def check(registry: Registry, tenant: Tenant, name: str) -> None:
    """Raises `ModelNotFound`, without a word of other models, unless the tenant may use this one, by either name."""
    if not tenant.is_restricted:
        return
    served = registry.served_name(name)
    if not (served in registry.entries() and (tenant.may_use(name) or tenant.may_use(served))):
        raise ModelNotFound(
            f"The model '{name[:_NAME_CHARACTERS]}' does not exist or you do not have access to it.", param="model"
        )


def visible(registry: Registry, tenant: Tenant) -> list[Entry]:
    """The models that the tenant may use."""
    return [entry for name, entry in registry.entries().items() if tenant.may_use(name)]
