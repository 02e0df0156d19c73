"""The smallest runtime: says back what it was told. To try a site with, and to start one's own from."""

from __future__ import annotations

from ohsessions.core.runtime import Action, Runtime


class EchoRuntime(Runtime):
    """Answers each action with one observation `echo`. It has no state, so it can be retried freely."""

    retries_interrupted = True

    async def handle(self, action: Action) -> None:
        content = action.args.get("content")
        if action.hidden or not isinstance(content, str):
            content = ""
        args = {"hidden": True} if action.hidden else action.args
        await self.context.emit(
            observation="echo", content=content, extras={"action": action.type, "args": args}, cause=action.id
        )
