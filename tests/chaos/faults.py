"""The injection of faults: carry out the schedule on processes, servers and proxies, and record it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from random import Random

from tests.chaos.history import Injected
from tests.chaos.processes import Managed
from tests.chaos.proxy import Proxy
from tests.chaos.schedule import Fault
from tests.chaos.servers import FallingPostgres, FallingRedis


class Injector:
    """A player of a schedule. When `play` returns, everything that it broke works again."""

    def __init__(
        self,
        processes: Mapping[str, Managed],
        proxies: Mapping[str, Proxy],
        postgres: FallingPostgres,
        redis: FallingRedis,
        seed: int,
        now: Callable[[], float],
        tell: Callable[[str], None],
    ) -> None:
        self.record: list[Injected] = []
        self._processes = processes
        self._proxies = proxies
        self._postgres = postgres
        self._redis = redis
        self._random = Random(f"{seed}/proxies")
        self._now = now
        self._tell = tell
        self._under_way: set[str] = set()

    async def play(self, faults: list[Fault]) -> None:
        async with asyncio.TaskGroup() as group:
            for fault in faults:
                await asyncio.sleep(max(0.0, fault.at - self._now()))
                if fault.target in self._under_way:
                    self._tell(f"{fault}: left out, since the one before lasts on")
                    continue
                self._tell(str(fault))
                self._under_way.add(fault.target)
                group.create_task(self._inject(fault), name=f"fault {fault.kind}")

    async def _inject(self, fault: Fault) -> None:
        begin = self._now()
        process = self._processes.get(fault.target)
        pid = process.pid if process is not None else 0
        if process is not None:
            await self._harm_process(process, fault)
        elif fault.target in self._proxies:
            await self._harm_proxy(self._proxies[fault.target], fault)
        else:
            await self._harm_server(fault)
        self._under_way.discard(fault.target)
        self.record.append(Injected(fault.kind, fault.target, begin, self._now(), pid))

    @staticmethod
    async def _harm_process(process: Managed, fault: Fault) -> None:
        match fault.kind.partition("_")[2]:
            case "kill":
                await process.kill(fault.seconds)
            case "pause":
                await process.pause(fault.seconds)
            case "drain":
                await process.drain(fault.seconds)

    async def _harm_proxy(self, proxy: Proxy, fault: Fault) -> None:
        match fault.kind:
            case "proxy_cut":
                proxy.cut_all(fault.part, self._random)
            case "proxy_half_close":
                proxy.half_close_all(fault.part, self._random)
            case "proxy_delay":
                proxy.delay = 0.1 + fault.part / 2
                await asyncio.sleep(fault.seconds)
                proxy.delay = 0.0
            case "proxy_freeze":
                proxy.freeze()
                await asyncio.sleep(fault.seconds)
                proxy.thaw()

    async def _harm_server(self, fault: Fault) -> None:
        match fault.kind:
            case "redis_flush":
                await self._redis.flush()
            case "redis_pause":
                await self._redis.pause(fault.seconds)
            case "redis_restart":
                await self._redis.restart(fault.seconds)
            case "postgres_terminate":
                await self._postgres.terminate_backends()
            case "postgres_restart":
                await self._postgres.restart(fault.seconds)
                await self._postgres.wait_answers()
