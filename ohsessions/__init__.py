"""Long-lived, shared, resumable agent sessions for Django, over Socket.IO."""

from ohsessions.core.errors import OhSessionsError
from ohsessions.core.runtime import Action, BlockingRuntime, Runtime, RuntimeContext

__all__ = ["Action", "BlockingRuntime", "OhSessionsError", "Runtime", "RuntimeContext"]
__version__ = "0.1.0"
