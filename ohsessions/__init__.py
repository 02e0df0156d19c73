"""Long-lived, shared, resumable agent sessions for Django, over Socket.IO."""

from ohsessions.core.errors import OhSessionsError
from ohsessions.core.runtime import Action, Runtime, RuntimeContext
from ohsessions.runtimes.blocking import BlockingRuntime

__all__ = ["Action", "BlockingRuntime", "OhSessionsError", "Runtime", "RuntimeContext"]
__version__ = "0.1.0"
