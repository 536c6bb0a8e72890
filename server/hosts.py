"""What the server has beside the pool when instances run on several machines."""

from __future__ import annotations

from pool import Machines
from server.config import Quotas
from server.gateway_files import GatewayFiles
from server.host_gateway import HostGatewayFiles
from server.many_gateways import Greeting, ManyGateways
from server.pool_settings import limits_of

_LOCAL = "local"


def gateways_of(machines: Machines, here: GatewayFiles, quotas: Quotas) -> GatewayFiles:
    """The gateways of all machines; ``here`` where there is no other. Call it before the pool is started:

    from then on each connection to a host begins with what it is told of limits.
    """
    if not machines.clients:
        return here
    others = [HostGatewayFiles(name, client) for name, client in machines.clients.items()]
    greeting = Greeting(others, limits_of(quotas))
    for client in machines.clients.values():
        client.greetings.append(greeting)
    return ManyGateways(here, others, machines.home_of, local=_LOCAL, runs_here=machines.runs_here)
