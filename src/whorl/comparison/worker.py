"""A process of the pool: `python -m whorl.comparison.worker`. Orders come in, answers go out, one line of JSON each.

It ends when its orders do, at once: whoever gave them is done, or dead. And after a failed trial, since what that has
left behind (memory, a broken device) is none of the next one's.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from dataclasses import asdict


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what others print is no answer
    orders: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_listen, args=(orders,), daemon=True).start()
    from whorl.comparison.orders import Order  # PyTorch: while it is imported, the end is heard already

    while True:
        ended = Order(**json.loads(orders.get())).carry_out()
        answers.write(json.dumps(asdict(ended)) + "\n")
        answers.flush()
        if ended.how != "finished":
            return


def _listen(orders: queue.Queue[str]) -> None:
    for line in sys.stdin:
        orders.put(line)
    os._exit(1)  # everything is written whole or not at all


if __name__ == "__main__":
    main()
