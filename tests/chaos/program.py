"""A program that a runtime starts. Ten times a second it writes that it still runs, until it is killed.

An isolated Python runs it as a script. Its arguments are a file to append to, and the fields of its lines as
JSON.
"""

import json
import os
import sys
import time

BEAT_SECONDS = 0.1
LIMIT_SECONDS = 300.0


def main() -> None:
    record = json.loads(sys.argv[2]) | {"pid": os.getpid(), "kind": "beat"}
    end = time.monotonic() + LIMIT_SECONDS
    file = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    while time.monotonic() < end:
        os.write(file, (json.dumps(record | {"at": time.monotonic()}) + "\n").encode())
        time.sleep(BEAT_SECONDS)


if __name__ == "__main__":
    main()
