"""`python examples/webshop`: serve the shop, or print what a goal asks for and how to earn it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if not __package__:  # run as a folder
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from webshop import Shop, ShopError, from_items, made
from webshop.server import SESSIONS, listening, server_of


def main() -> int:
    """Serve until stopped; 1 if that cannot be done, with one line that says why."""
    parser = argparse.ArgumentParser(prog="webshop", description=__doc__)
    say = parser.add_argument
    say("--port", type=int, default=0, help="the port on 127.0.0.1; 0, the default, is a free one")
    say("--data", help="items_ins_v2_1000.json: make the shop of its instructions")
    say("--items", help="items_shuffle_1000.json: sell WebShop's own products; --data beside it")
    say("--seed", type=int, default=0, help="the random seed of a made shop")
    say("--page", type=int, default=10, help="how many results a page shows [default: 10]")
    say("--sessions", type=int, default=SESSIONS, help=f"how many are kept [default: {SESSIONS}]")
    given = parser.parse_args()
    if not 0 <= given.port < 65536 or given.page < 1 or given.sessions < 1:
        parser.error("--port is 0 to 65535, --page and --sessions are at least 1")
    try:
        own = from_items(given.items, given.data) if given.items else None
        shop = Shop(*(own or made(given.data, given.seed)), page=given.page)
        opened = listening(given.port)
    except (ShopError, OSError) as error:
        print(f"webshop: {error}", file=sys.stderr)
        return 1
    url = f"http://127.0.0.1:{opened.getsockname()[1]}"
    print(f"{url} sells {len(shop.products)} products and has {len(shop.goals)} goals", flush=True)
    try:
        server_of(shop, given.sessions).run(sockets=[opened])
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
