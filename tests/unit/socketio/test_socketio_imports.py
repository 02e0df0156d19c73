"""The protocol code without I/O is usable, and fast to import, without Django."""

import subprocess
import sys

PROGRAM = """
import sys
import ohsessions.socketio, ohsessions.socketio.engine, ohsessions.socketio.codec
print(*{name.partition(".")[0] for name in sys.modules} & {"django", "channels", "daphne", "twisted"})
"""


def test_the_engine_and_the_codecs_import_neither_django_nor_channels() -> None:
    result = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""
