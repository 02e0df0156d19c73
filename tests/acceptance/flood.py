"""A runtime that says far more than anybody asked for."""

from __future__ import annotations

from ohsessions import Action, Runtime


class FloodRuntime(Runtime):
    """`flood {megabytes}` gives so many megabytes in events of 10 KB, and one at the end."""

    async def handle(self, action: Action) -> None:
        for number in range(int(action.args["megabytes"] * 100)):
            await self.context.emit(observation="flood", content="x" * 9_900, extras={"number": number})
        await self.context.emit(observation="end")
