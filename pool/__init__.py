"""Claude Pool: one live ``claude`` CLI per session, kept, watched, held to quotas, ended.

The public names are loaded when first used, so that the keeper, which lives
in this package and needs none of them, starts small.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pool.audit.records import AuditRecord as AuditRecord
    from pool.audit.records import Place as AuditPlace
    from pool.audit.verifying import Verdict as AuditVerdict
    from pool.caller import Caller as Caller
    from pool.caller import calling as calling
    from pool.caller import current_caller as current_caller
    from pool.caller import shortened as shortened
    from pool.composition import check_lives_here as check_lives_here
    from pool.composition import export_user_data as export_user_data
    from pool.composition import open_accounts as open_accounts
    from pool.composition import remove_user_files as remove_user_files
    from pool.config import PoolConfig as PoolConfig
    from pool.config import Quota as Quota
    from pool.config import QuotaBook as QuotaBook
    from pool.config import SshHost as SshHost
    from pool.hosts.facts import installed_version as installed_version
    from pool.hosts.machines import Machines as Machines
    from pool.hosts.program import serve_files as serve_files
    from pool.hosts.pump import pump_keeper as pump_keeper
    from pool.keeper.notify import Notifier as Notifier
    from pool.keeper.program import noted_groups as noted_groups
    from pool.launch.cli import find_cli as find_cli
    from pool.launch.process_table import ProcessReport as ProcessReport
    from pool.launch.process_table import find_orphans as find_orphans
    from pool.launch.shown import program_places as program_places
    from pool.model import Accepted as Accepted
    from pool.model import InstanceInfo as InstanceInfo
    from pool.model import InstanceState as InstanceState
    from pool.model import PermissionInfo as PermissionInfo
    from pool.model import SessionInfo as SessionInfo
    from pool.model import SessionState as SessionState
    from pool.model import TurnInfo as TurnInfo
    from pool.model import TurnState as TurnState
    from pool.names import check_name as check_name
    from pool.policy.rules.decision import compile_rules as compile_rules
    from pool.policy.tenure import LeaseRules as LeaseRules
    from pool.policy.tenure import Renewal as Renewal
    from pool.policy.tenure import Tenure as Tenure
    from pool.pool import ClaudeInstancePool as ClaudeInstancePool
    from pool.runtime.counters import Count as Count
    from pool.runtime.counters import Histogram as Histogram
    from pool.runtime.counters import Level as Level
    from pool.runtime.counters import Metric as Metric
    from pool.runtime.counters import Spread as Spread
    from pool.runtime.hub import Subscription as Subscription
    from pool.runtime.hub import Viewer as Viewer
    from pool.runtime.pooled import PooledInstance as PooledInstance
    from pool.steward.client import VARIABLE as STEWARD
    from pool.steward.client import StewardClient as StewardClient
    from pool.steward.data_directory import check_roots as check_roots
    from pool.steward.data_directory import database_file as database_file
    from pool.steward.data_directory import give_data as give_data
    from pool.steward.data_directory import given_to as given_to
    from pool.steward.data_directory import take_data as take_data
    from pool.steward.hosting import Host as Host
    from pool.steward.hosting import open_host as open_host
    from pool.steward.hosting import stewarded_files as stewarded_files
    from pool.steward.hosting import stewarded_host as stewarded_host
    from pool.steward.hosting import stewards_file_verbs as stewards_file_verbs
    from pool.steward.hosting import stewards_verbs as stewards_verbs
    from pool.steward.process import Steward as Steward
    from pool.steward.service_user import obstacle_to_dropping as obstacle_to_dropping
    from pool.steward.service_user import service_uid as server_uid
    from pool.steward.strays import end_strays as end_strays
    from pool.store.accounts import Accounts as Accounts
    from pool.store.audit import AuditLog as AuditLog
    from pool.store.audit import snapshot as audit_snapshot
    from pool.store.audit import verify as verify_audit
    from pool.store.base import SpoiltRow as SpoiltRow
    from pool.store.fence import Fence as Fence
    from pool.store.lease import LeaseRow as LeaseRow
    from pool.store.lease import PoolLease as PoolLease
    from pool.store.spoilt import find_spoilt_rows as find_spoilt_rows
    from pool.store.usage import Usage as Usage
    from pool.store.usage import UsageFigures as UsageFigures
    from pool.store.usage import UsageRecord as UsageRecord
    from pool.workspace.sizes import measure_parts as measure_parts

_HOMES = {
    "find_cli": "pool.launch.cli",
    "installed_version": "pool.hosts.facts",
    "Machines": "pool.hosts.machines",
    "pump_keeper": "pool.hosts.pump",
    "serve_files": "pool.hosts.program",
    "program_places": "pool.launch.shown",
    "Host": "pool.steward.hosting",
    "open_host": "pool.steward.hosting",
    "stewards_file_verbs": "pool.steward.hosting",
    "stewarded_files": "pool.steward.hosting",
    "stewards_verbs": "pool.steward.hosting",
    "stewarded_host": "pool.steward.hosting",
    "Steward": "pool.steward.process",
    "StewardClient": "pool.steward.client",
    "STEWARD": "pool.steward.client:VARIABLE",
    "server_uid": "pool.steward.service_user:service_uid",
    "obstacle_to_dropping": "pool.steward.service_user",
    "check_roots": "pool.steward.data_directory",
    "give_data": "pool.steward.data_directory",
    "given_to": "pool.steward.data_directory",
    "take_data": "pool.steward.data_directory",
    "Accepted": "pool.model",
    "Accounts": "pool.store.accounts",
    "AuditLog": "pool.store.audit",
    "AuditPlace": "pool.audit.records:Place",
    "AuditRecord": "pool.audit.records",
    "AuditVerdict": "pool.audit.verifying:Verdict",
    "Caller": "pool.caller",
    "ClaudeInstancePool": "pool.pool",
    "Count": "pool.runtime.counters",
    "Histogram": "pool.runtime.counters",
    "InstanceInfo": "pool.model",
    "InstanceState": "pool.model",
    "Level": "pool.runtime.counters",
    "Metric": "pool.runtime.counters",
    "Notifier": "pool.keeper.notify",
    "PermissionInfo": "pool.model",
    "Fence": "pool.store.fence",
    "LeaseRow": "pool.store.lease",
    "LeaseRules": "pool.policy.tenure",
    "PoolLease": "pool.store.lease",
    "Renewal": "pool.policy.tenure",
    "Tenure": "pool.policy.tenure",
    "PoolConfig": "pool.config",
    "PooledInstance": "pool.runtime.pooled",
    "ProcessReport": "pool.launch.process_table",
    "Quota": "pool.config",
    "QuotaBook": "pool.config",
    "SshHost": "pool.config",
    "SessionInfo": "pool.model",
    "SessionState": "pool.model",
    "SpoiltRow": "pool.store.base",
    "Spread": "pool.runtime.counters",
    "Subscription": "pool.runtime.hub",
    "TurnInfo": "pool.model",
    "TurnState": "pool.model",
    "Usage": "pool.store.usage",
    "UsageFigures": "pool.store.usage",
    "UsageRecord": "pool.store.usage",
    "Viewer": "pool.runtime.hub",
    "audit_snapshot": "pool.store.audit:snapshot",
    "calling": "pool.caller",
    "check_lives_here": "pool.composition",
    "check_name": "pool.names",
    "compile_rules": "pool.policy.rules.decision",
    "current_caller": "pool.caller",
    "database_file": "pool.steward.data_directory",
    "end_strays": "pool.steward.strays",
    "errors": "pool",
    "export_user_data": "pool.composition",
    "find_orphans": "pool.launch.process_table",
    "find_spoilt_rows": "pool.store.spoilt",
    "measure_parts": "pool.workspace.sizes",
    "noted_groups": "pool.keeper.program",
    "open_accounts": "pool.composition",
    "remove_user_files": "pool.composition",
    "shortened": "pool.caller",
    "verify_audit": "pool.store.audit:verify",
}
__all__ = [
    "STEWARD",
    "Accepted",
    "Accounts",
    "AuditLog",
    "AuditPlace",
    "AuditRecord",
    "AuditVerdict",
    "Caller",
    "ClaudeInstancePool",
    "Count",
    "Fence",
    "Histogram",
    "Host",
    "InstanceInfo",
    "InstanceState",
    "LeaseRow",
    "LeaseRules",
    "Level",
    "Machines",
    "Metric",
    "Notifier",
    "PermissionInfo",
    "PoolConfig",
    "PoolLease",
    "PooledInstance",
    "ProcessReport",
    "Quota",
    "QuotaBook",
    "Renewal",
    "SessionInfo",
    "SessionState",
    "SpoiltRow",
    "Spread",
    "SshHost",
    "Steward",
    "StewardClient",
    "Subscription",
    "Tenure",
    "TurnInfo",
    "TurnState",
    "Usage",
    "UsageFigures",
    "UsageRecord",
    "Viewer",
    "audit_snapshot",
    "calling",
    "check_lives_here",
    "check_name",
    "check_roots",
    "compile_rules",
    "current_caller",
    "database_file",
    "end_strays",
    "export_user_data",
    "find_cli",
    "find_orphans",
    "find_spoilt_rows",
    "give_data",
    "given_to",
    "installed_version",
    "measure_parts",
    "noted_groups",
    "obstacle_to_dropping",
    "open_accounts",
    "open_host",
    "program_places",
    "pump_keeper",
    "remove_user_files",
    "serve_files",
    "server_uid",
    "shortened",
    "stewarded_files",
    "stewarded_host",
    "stewards_file_verbs",
    "stewards_verbs",
    "take_data",
    "verify_audit",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'pool' has no attribute {name!r}")
    if home == "pool":
        return importlib.import_module(f"pool.{name}")
    module, _, own_name = home.partition(":")
    return getattr(importlib.import_module(module), own_name or name)
