"""A whole till: each sale has one effect, whatever the network does. till.py NODE KEY CARD STORE [NODE ...]"""

import http.client
import json
import random
import sys
import time
from datetime import datetime, timezone
from urllib.error import HTTPError
from urllib.request import Request, urlopen

TIMEOUT_S, LEFT_ALONE_S = 3, 30.0  # a node that gives no answer, and one that gave none
left_alone = {}  # node -> until when it is asked last


def post(nodes, key, path, body, idempotency_key, patience_s=60.0):
    """Send until there is an answer that a till can act on; (status, answer). `seen` in it is for queries."""
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json", "Idempotency-Key": idempotency_key}
    until, pause_s = time.monotonic() + patience_s, 0.2
    while True:
        node = min(nodes, key=lambda node: max(left_alone.get(node, 0.0), time.monotonic()))  # the first that is well
        try:
            try:
                with urlopen(Request(node + path, json.dumps(body).encode(), headers), timeout=TIMEOUT_S) as answer:
                    return answer.status, json.load(answer) | {"seen": answer.headers["Consistency-Token"]}
            except HTTPError as refused:
                problem = json.load(refused)
                if refused.code < 500 and refused.code != 429 and problem.get("code") != "in_progress":
                    return refused.code, problem  # final: show `detail`, the cashier decides
        except (OSError, ValueError, http.client.HTTPException):
            pass  # no answer, half of one, or a balancer's page: nobody knows, so the same key again
        left_alone[node] = time.monotonic() + LEFT_ALONE_S
        if time.monotonic() > until:
            raise TimeoutError(f"{idempotency_key} stays in the queue of this till and is sent again later")
        time.sleep(pause_s * random.uniform(0.5, 1.0))  # a whole shop must not come back at once
        pause_s = min(pause_s * 2, 5.0)


if __name__ == "__main__":
    first, key, card, store, *others = sys.argv[1:] if len(sys.argv) > 4 else sys.exit(__doc__)
    now = datetime.now(timezone.utc)
    sale = {"member": {"card": card}, "store": store, "till": "7", "receipt": f"{now:%H%M%S%f}", "currency": "EUR",
            "occurred_at": now.isoformat(), "lines": [{"sku": "1095275", "quantity": 1, "amount": 2499}]}
    status, answer = post([first, *others], key, "/v1/purchases", sale, f"{store}-7-{sale['receipt']}")
    print(status, answer.get("points_earned", answer.get("detail")), "points; for page.html:", answer.get("seen"))
