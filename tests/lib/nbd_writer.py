#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""One writer in a process of its own:  nbd_writer.py URI FIRST_BLOCK BLOCKS [DELAY_SECONDS]

Writes 4 KiB blocks one after the other, round and round; block content is the write's number, repeated. Prints `N`
after write N was acknowledged and `error N TEXT` when write N failed, then goes on: what is told after a failure
matters too.
A line is only printed after the answer came, so the reader never believes in a write that was not acknowledged.
"""
import struct
import sys
import time

import nbd

BLOCK = 4096


def content(number):
    return struct.pack("<Q", number) * (BLOCK // 8)


def main():
    uri, first, blocks = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    delay = float(sys.argv[4]) if len(sys.argv) > 4 else 0.0
    handle = nbd.NBD()
    handle.connect_uri(uri)
    number = 0
    while True:
        number += 1
        try:
            handle.pwrite(content(number), (first + (number - 1) % blocks) * BLOCK)
            print(number, flush=True)
        except nbd.Error as problem:
            print("error", number, problem, flush=True)
            if handle.aio_is_dead() or handle.aio_is_closed():
                return
            time.sleep(0.05)  # a failed volume answers at once: do not spin
        time.sleep(delay)


if __name__ == "__main__":
    main()
