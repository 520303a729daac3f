"""Writes to a file through a mapping that stays open, as ParityDB does: one byte a line "OFFSET VALUE" on stdin."""
import mmap
import sys

with open(sys.argv[1], "r+b") as file:
    view = mmap.mmap(file.fileno(), 0)
    print("ready", flush=True)
    for line in sys.stdin:
        offset, value = map(int, line.split())
        view[offset] = value
        print("done", flush=True)
