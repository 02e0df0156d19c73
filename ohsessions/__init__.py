"""Long-lived, shared, resumable agent sessions for Django, over Socket.IO."""

from ohsessions.core.errors import InvalidEvent, OhSessionsError, RuntimeFailure, StaleEpoch
from ohsessions.core.runtime import JSON, Action, Runtime, RuntimeContext, SupervisedProcess
from ohsessions.runtimes.blocking import BlockingRuntime

__all__ = [
    "JSON",
    "Action",
    "BlockingRuntime",
    "InvalidEvent",
    "OhSessionsError",
    "Runtime",
    "RuntimeContext",
    "RuntimeFailure",
    "StaleEpoch",
    "SupervisedProcess",
]
__version__ = "0.1.0"
