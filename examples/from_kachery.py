#!/usr/bin/env python3
"""What people type with kachery_client works here as it stands.

Below each ``def`` are the calls of kachery's own documentation, with ``import kachery_client as kc``
and nothing else changed; on the node that has a feed or a task backend, the other one needs only the
URI or the channel. Each is a command:

    python examples/from_kachery.py store                    # on one computer
    python examples/from_kachery.py load                     # on another
    python examples/from_kachery.py write-primes             # prints a feed:// URI
    python examples/from_kachery.py read-primes feed://...
    python examples/from_kachery.py serve-tasks              # until Ctrl-C
    python examples/from_kachery.py request-task

Both nodes are on a channel called ``my_channel``, with all roles.
"""

import sys

import numpy as np

import kachery_client as kc

# As people wrote it, not as our formatter would.
# fmt: off


def store():
    uri = kc.store_text('some-random-text')
    print(uri)
    # Output: sha1://6af826b3d648ccba6b4bbe58e93e22add640d728/file.txt

    uri_dict = kc.store_json({'a': [1, 2, {'b': 3}]})
    uri_npy = kc.store_npy(np.ones((10, 20)))
    uri_pkl = kc.store_pkl({'x': np.zeros((30, 40))})

    X_dict = kc.load_json(uri_dict)
    X_npy = kc.load_npy(uri_npy)
    X_pkl = kc.load_pkl(uri_pkl)
    print(X_dict, X_npy.shape, X_pkl['x'].shape)


def load():
    txt = kc.load_text('sha1://6af826b3d648ccba6b4bbe58e93e22add640d728/file.txt')
    print(txt)
    # Output: some-random-text


def write_primes():
    feed = kc.create_feed()
    subfeed = feed.load_subfeed('primes')

    N = 100
    primes = [p for p in range(2, N) if all(p % d for d in range(2, p))]
    for i, p in enumerate(primes):
        subfeed.append_message({
            'p': p,
            'n': i + 1
        })

    print(f'Found {len(primes)} prime numbers less than {N}')
    print(subfeed.uri)


def read_primes(uri):
    subfeed = kc.load_subfeed(uri)
    messages = subfeed.get_next_messages()
    for msg in messages:
        print(f'Prime {msg["n"]}: {msg["p"]}')
    # Output: Prime 1: 2, and so on to Prime 25: 97


@kc.taskfunction('echo_immediate.2', type='pure-calculation')
def echo_immediate(*, a: str) -> str:
    return f'a is {a}'


def serve_tasks():
    kc.run_task_backend(
        channels=['my_channel'],
        task_function_ids=['echo_immediate.2']
    )


def request_task():
    req = kc.request_task(
        task_function_id='echo_immediate.2',
        task_kwargs={'a': 'hello world'},
        task_function_type='pure-calculation',
        channel='my_channel'
    )
    req.wait(timeout_sec=60)
    print(req.status, req.result, req.error_message)
    # Output: finished a is hello world None


PARTS = {
    'store': store, 'load': load, 'write-primes': write_primes, 'read-primes': read_primes,
    'serve-tasks': serve_tasks, 'request-task': request_task,
}

if __name__ == '__main__':
    if len(sys.argv) < 2 or sys.argv[1] not in PARTS:
        sys.exit(__doc__)
    PARTS[sys.argv[1]](*sys.argv[2:])
