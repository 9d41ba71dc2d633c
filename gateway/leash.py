"""Run a program that must not outlive its owner: `python leash.py PROGRAM ARG ...`.

The owner holds the other end of our standard input. When it goes away, however brutally, the input ends and so does
the program. Standard library only and run by path, so that the leash costs 10 MB and 20 ms instead of the gateway's.
"""

import os
import signal
import subprocess
import sys
import threading

PATIENCE_S = 4
"""For the program's own farewell (a broker saves its queues); then it is killed."""


def main(command: list[str]) -> int:
    """Returns the program's exit status, 128 + n when signal n ended it."""
    program = subprocess.Popen(command, stdin=subprocess.DEVNULL)  # noqa: S603  # the owner's own command line
    signal.signal(signal.SIGTERM, lambda *_: program.terminate())
    signal.signal(signal.SIGHUP, lambda *_: program.send_signal(signal.SIGHUP))
    threading.Thread(target=_end_with_owner, args=(program,), daemon=True).start()
    status = program.wait()
    return status if status >= 0 else 128 - status


def _end_with_owner(program: subprocess.Popen[bytes]) -> None:
    while os.read(0, 1024):  # not sys.stdin: its lock, held here, would abort the interpreter's own exit
        pass  # the owner says nothing; only the end counts
    program.terminate()
    try:
        program.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        program.kill()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
