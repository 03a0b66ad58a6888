"""What clients run to be measured: programs as users write them."""

LOAD = """
import json, sys, time
import kachery_p2p as kc
kc.get_node_id()
last = {}
start = time.perf_counter()
path = kc.load_file(sys.argv[1], progress=last.update)
print(json.dumps({"seconds": time.perf_counter() - start, "path": path, **{"route": last["sources"]}}))
"""

STORE = """
import json, sys, time
import kachery_p2p as kc
kc.get_node_id()
start = time.perf_counter()
uri = kc.store_file(sys.argv[1])
print(json.dumps({"seconds": time.perf_counter() - start, "uri": uri}))
"""

STORE_TEXTS = """
import json, sys, time
import kachery_p2p as kc
kc.get_node_id()
start = time.perf_counter()
for number in range(1000):
    kc.store_text(f"{sys.argv[1]} {number}")
print(json.dumps({"per_second": 1000 / (time.perf_counter() - start)}))
"""

STORE_SMALL = """
import json, os, sys
import kachery_p2p as kc
print(json.dumps([kc.store_bytes(os.urandom(10_000)) for _ in range(int(sys.argv[1]))]))
"""

LOAD_SMALL = """
import asyncio, json, statistics, sys, time
import kachery_p2p as kc
uris = json.load(sys.stdin)
async def main():
    first, *single = uris[:51]
    await kc.aload_bytes(first)
    together = uris[51:]
    start = time.perf_counter()
    loaded = await asyncio.gather(*(kc.aload_bytes(uri) for uri in together))
    rate = len(together) / (time.perf_counter() - start)
    assert all(len(data) == 10_000 for data in loaded)
    async def timed(uri):
        start = time.perf_counter()
        data = await kc.aload_bytes(uri)
        return time.perf_counter() - start, data
    one = [await timed(uri) for uri in single]
    none = [await timed(f"sha1://{number:040x}") for number in range(50)]
    assert all(data is not None for _, data in one) and all(data is None for _, data in none)
    ms = lambda many: [1000 * seconds for seconds, _ in many]
    print(json.dumps({"per_second": rate, "one_ms": ms(one), "none_ms": ms(none)}))
asyncio.run(main())
"""

STORE_DIR = """
import json, sys, time
import kachery_p2p as kc
kc.get_node_id()
start, processor = time.perf_counter(), time.process_time()
uri = kc.store_dir(sys.argv[1])
seconds, processor = time.perf_counter() - start, time.process_time() - processor
print(json.dumps({"seconds": seconds, "processor": processor, "uri": uri}))
"""

LOAD_DIR = """
import json, sys, time
import kachery_p2p as kc
kc.get_node_id()
start, processor = time.perf_counter(), time.process_time()
assert kc.load_dir(sys.argv[1], sys.argv[2]) is not None
seconds, processor = time.perf_counter() - start, time.process_time() - processor
print(json.dumps({"seconds": seconds, "processor": processor}))
"""
