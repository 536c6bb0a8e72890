"""The model gateway: the one process that holds model credentials, and its configuration file.

The process is started by the keeper (``python -I -m server.gateway``); the
server only writes its configuration (``write_gateway_config``) and asks what
is configured (``describe``).
"""

from server.gateway.settings import (
    DEMO_PROVIDER,
    GatewayConfigError,
    GatewaySettings,
    Provider,
    describe,
    write_gateway_config,
)

__all__ = [
    "DEMO_PROVIDER",
    "GatewayConfigError",
    "GatewaySettings",
    "Provider",
    "describe",
    "write_gateway_config",
]
