"""A runtime that emits far more than its clients need."""

from __future__ import annotations

from ohsessions import Action, Runtime


class FloodRuntime(Runtime):
    """A runtime whose action `flood {megabytes}` emits so many megabytes, in events of 10 KB."""

    async def handle(self, action: Action) -> None:
        for number in range(int(action.args["megabytes"] * 100)):
            await self.context.emit(observation="flood", content="x" * 9_900, extras={"number": number})
        await self.context.emit(observation="end")
