"""The smallest runtime: repeats each action. Use it to try a site, or as a start for your own runtime."""

from __future__ import annotations

from ohsessions.core.runtime import Action, Runtime


class EchoRuntime(Runtime):
    """A runtime that answers each action with one observation `echo`. It has no state, so retries are
    safe."""

    retries_interrupted = True

    async def handle(self, action: Action) -> None:
        content = action.args.get("content")
        if action.hidden or not isinstance(content, str):
            content = ""
        args = {"hidden": True} if action.hidden else action.args
        await self.context.emit(
            observation="echo", content=content, extras={"action": action.type, "args": args}, cause=action.id
        )
