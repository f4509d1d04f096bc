"""The service under load: what it adds to a model, what it holds, and beside other stacks.

python benchmarks/service.py [--model street] [--peers PYTHON] [--only SECTION,...] [--long]

Sections: start, overhead, throughput, below, overload, half_sent, peers. All of it on loopback,
and every one ends by itself. The fake model takes 10 ms for any picture, without a processor. The
load comes from one process over kept connections, which shares the processors with the server.
--peers names a Python that has litserve and fastapi beside atrous; without it they are "not run".
--long sends 10,000 requests at each number of clients and overloads for 60 s.
"""

import argparse
import asyncio
import base64
import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measuring import machine, result_path, save
from service_load import (
    PATH,
    Connection,
    Result,
    Target,
    closed_loop,
    open_loop,
    picture,
    small_picture,
)
from service_stacks import FASTAPI, WORK, WORKERS, litserve, ours, running


def memory(pid: int) -> dict[str, Any]:
    """Returns megabytes (PSS) of a process and its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()

    def proportional(number: str) -> float:
        text = Path(f"/proc/{number}/smaps_rollup").read_text()
        found = re.search(r"^Pss:\s+(\d+)", text, re.MULTILINE)
        assert found is not None
        return round(int(found[1]) / 1024, 1)

    return {"front": proportional(str(pid)), "workers": [proportional(each) for each in children]}


def processor_seconds(pid: int) -> float:
    """Returns what a process and all that came from it have spent so far."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    own = sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
    return own + sum(processor_seconds(int(child)) for child in children)


def alone(model: str, body: bytes, *, processes: int, requests: int) -> float:
    """Returns the median seconds of the work without a server, in processes at the same time."""
    code = f"""{WORK}
body = sys.stdin.buffer.read()
for _ in range(5): work(body)
times = []
for _ in range({requests}):
    start = time.perf_counter()
    work(body)
    times.append(time.perf_counter() - start)
print(sorted(times)[len(times) // 2])
"""
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, model], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for _ in range(processes)
    ]
    for process in started:
        assert process.stdin is not None
        process.stdin.write(body)
        process.stdin.close()
    medians = []
    for process in started:
        assert process.stdout is not None
        medians.append(float(process.stdout.read()))
        process.wait()
    return statistics.mean(medians)


async def start(arguments: argparse.Namespace) -> dict[str, Any]:
    body = picture()
    with running(ours(arguments.model, fake=False)):
        pass  # what it compiles, the next start finds
    seconds = []
    for _ in range(3):
        with running(ours(arguments.model, fake=False)) as target:
            seconds.append(target.start_seconds)
            await closed_loop(target, body, clients=2, requests=20)
            megabytes = memory(target.pid)
    return {"seconds": [round(value, 2) for value in seconds], "megabytes_pss": megabytes}


async def overhead(arguments: argparse.Namespace) -> dict[str, Any]:
    body = small_picture()
    work = alone("fake", body, processes=1, requests=200)
    with running(ours("fake", fake=True)) as target:
        await closed_loop(target, body, clients=1, requests=100)
        result = await closed_loop(target, body, clients=1, requests=500)
        paced = await open_loop(target, body, rate=100, seconds=5)
    p50 = statistics.median(result.times[200])
    return {
        "body_bytes": len(body),
        "work_alone_ms": round(1e3 * work, 2),
        "overhead_p50_ms": round(1e3 * (p50 - work), 2),
        "one_client": result.summary(),
        "100_a_second": paced.summary(),
    }


async def throughput(arguments: argparse.Namespace) -> dict[str, Any]:
    report: dict[str, Any] = {}
    for model in ("fake", arguments.model):
        body = small_picture() if model == "fake" else picture()
        single = alone(model, body, processes=1, requests=40)
        together = alone(model, body, processes=WORKERS, requests=40)
        with running(ours(model, fake=model == "fake")) as target:
            await closed_loop(target, body, clients=8, seconds=2)
            result = await closed_loop(target, body, clients=8, seconds=arguments.seconds)
        rate = result.summary()["per_second"]
        report[model] = {
            "L1_ms": round(1e3 * single, 2),
            f"{WORKERS}_processes_at_once_ms": round(1e3 * together, 2),
            "share_of_W/L1": round(rate * single / WORKERS, 3),
            "share_of_processes_at_once": round(rate * together / WORKERS, 3),
            "8_clients": result.summary(),
        }
    return report


async def below(arguments: argparse.Namespace) -> dict[str, Any]:
    body, report = small_picture(), {}
    requests = 10_000 if arguments.long else 500
    with running(ours("fake", fake=True)) as target:
        expected = (await Connection(target.port).post(body))[1]
        for clients in (1, 8, 32):
            before = memory(target.pid)
            result = await closed_loop(
                target, body, clients=clients, requests=requests, expected=expected
            )
            after = memory(target.pid)
            report[f"{clients}_clients"] = {
                **result.summary(), "megabytes_before": before, "megabytes_after": after,
            }  # fmt: skip
    return report


async def overload(arguments: argparse.Namespace) -> dict[str, Any]:
    body = small_picture()
    with running(ours("fake", fake=True)) as target:
        usual = await closed_loop(target, body, clients=8, seconds=3)
        capacity = len(usual.times[200]) / usual.seconds
        normal = await closed_loop(target, body, clients=1, requests=50)
        seconds = 60 if arguments.long else 10
        result = await open_loop(target, body, rate=3 * capacity, seconds=seconds)
        begin = time.perf_counter()
        while time.perf_counter() - begin < 30:
            after = await closed_loop(target, body, clients=1, requests=5)
            if statistics.median(after.times[200]) < 1.5 * statistics.median(normal.times[200]):
                break
        recovered = time.perf_counter() - begin
    return {
        "capacity": round(capacity, 1),
        "seconds": seconds,
        "recovered_after_s": round(recovered, 2),
        **result.summary(),
    }


async def half_sent(arguments: argparse.Namespace) -> dict[str, Any]:
    body, head = (
        small_picture(),
        b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999\r\n\r\n?",
    )
    with running(ours("fake", fake=True)) as target:
        await closed_loop(target, body, clients=1, requests=100)
        usual = await closed_loop(target, body, clients=1, requests=300)
        slow = [await asyncio.open_connection("127.0.0.1", target.port) for _ in range(500)]
        for _, writer in slow:
            writer.write(head % PATH.encode())
        beside = await closed_loop(target, body, clients=1, requests=300)
        answers = await asyncio.gather(*(reader.read() for reader, _ in slow))
        for _, writer in slow:
            writer.close()
    p50 = [statistics.median(result.times[200]) for result in (usual, beside)]
    return {
        "p50_ms_without": round(1e3 * p50[0], 2),
        "p50_ms_beside": round(1e3 * p50[1], 2),
        "ratio": round(p50[1] / p50[0], 3),
        "half_sent_answered_408": sum(b" 408 " in answer[:20] for answer in answers),
        "beside": beside.summary(),
    }


async def peers(arguments: argparse.Namespace) -> dict[str, Any]:
    """Compares stacks in turns, so that other load on the machine hits all alike."""
    if not arguments.peers:
        return {"fastapi": "not run", "litserve": "not run"}
    report: dict[str, Any] = {}
    for model in ("fake", arguments.model):
        body = small_picture() if model == "fake" else picture()
        wrapped = json.dumps({"image": base64.b64encode(body).decode()}).encode()
        commands = {
            "atrous serve": (ours(model, fake=model == "fake"), None, ""),
            "fastapi": ([arguments.peers, "-c", FASTAPI, model, "8901"], 8901, ""),
            "litserve": ([arguments.peers, litserve(), model, "8902"], 8902, "application/json"),
        }
        with contextlib.ExitStack() as stack:
            targets = {name: stack.enter_context(running(*each)) for name, each in commands.items()}
            sent = {n: wrapped if "json" in each.kind else body for n, each in targets.items()}
            for name, target in targets.items():
                await _until_served(target, sent[name])
            turns = [await _turn(target, sent[name]) for name, target in targets.items()]
            for _ in range(arguments.rounds):
                for (name, target), turn in zip(targets.items(), turns, strict=True):
                    turn.merge(await _turn(target, sent[name]))
        for name, turn in zip(commands, turns, strict=True):
            report[f"{name}, {model}"] = turn.summary()
    return report


@dataclass
class Turns:
    """What a stack did with one client and with eight, and the processor time it took."""

    one: Result
    eight: Result
    spent: float

    def merge(self, other: "Turns") -> None:
        self.one.merge(other.one)
        self.eight.merge(other.eight)
        self.spent += other.spent

    def summary(self) -> dict[str, Any]:
        answered = len(self.one.times[200]) + len(self.eight.times[200])
        return {
            "processor_ms_a_request": round(1e3 * self.spent / answered, 2),
            "1_client": self.one.summary(),
            "8_clients": self.eight.summary(),
        }


async def _turn(target: Target, body: bytes) -> Turns:
    before = processor_seconds(target.pid)
    one = await closed_loop(target, body, clients=1, seconds=1)
    eight = await closed_loop(target, body, clients=8, seconds=2)
    return Turns(one, eight, processor_seconds(target.pid) - before)


async def _until_served(target: Target, body: bytes) -> None:
    for _ in range(600):
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            if (await Connection(target.port).post(body, target.kind))[0] == 200:
                return
        await asyncio.sleep(0.1)
    raise SystemExit("a peer does not answer")


SECTIONS = {
    each.__name__: each for each in (start, overhead, throughput, below, overload, half_sent, peers)
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="street")
    parser.add_argument("--peers", metavar="PYTHON")
    parser.add_argument("--only", default=",".join(SECTIONS))
    parser.add_argument("--rounds", type=int, default=4, help="of the peers' turns")
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--long", action="store_true")
    arguments = parser.parse_args()
    result: dict[str, Any] = {}
    path = result_path("service")
    if path.is_file() and arguments.only != parser.get_default("only"):
        result = json.loads(path.read_text())  # sections that were not run again stay
    for name in arguments.only.split(","):
        section = asyncio.run(SECTIONS[name](arguments))
        result[name] = {**section, "machine": machine("starlette", "uvicorn", "openvino")}
        print(name, json.dumps(section), flush=True)
    save("service", result)


if __name__ == "__main__":
    main()
